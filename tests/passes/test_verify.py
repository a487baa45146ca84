"""The verifier: every rule of `RULES` has planted faults that it names; correct programs of every stage pass."""

from __future__ import annotations

import re

import pytest

from knetc.errors import KnetInternalError
from knetc.ir.pipeline import PIPELINE, run
from knetc.ir.printer import print_program
from knetc.ir.program import Program
from knetc.ir.reader import read_program
from knetc.ir.types import N
from knetc.ir.verify import RULES, verify
from knetc.options import Options

RNN = """
program "rnn"
stage lowered
dtype f32
conditions dropout
input %x
temps %tmp1 %tmp2 %tmp3 %tmp4 %f

variant
  %a = par(dims=(8,0), init=Xavier(), stream=0)
  %b = par(dims=(8,0), init=Xavier(), stream=1)
  %tmp1 = dot(%a, %x; ta=False, tb=False)
  %tmp2 = dot(%b, %h; ta=False, tb=False)
  %tmp3 = add(%tmp1, %tmp2)
  %h = relu(%tmp3)
  %m = rnd(dims=None, init=Bernoulli(0.5,2.0), stream=2) if dropout
  %f = mul(%h, %m) if dropout
  %f = let(%h) if !dropout
  %v = par(dims=(3,8), init=Xavier(), stream=3)
  %tmp4 = dot(%v, %f; ta=False, tb=False)
  %return = soft(%tmp4) if !dropout
"""
PASS = {"lowered": None, "variants": "conditions", "ssa": "state", "typed": "shapes", "training": "epilogue"}
STATE = '  %h@prev = state(var="h") : f32[8,N]\n'
KEEP = '  keep(%h; var="h")\n'


def at(stage: str) -> Program:
    program = read_program(RNN)
    last = PASS[stage]
    return program if last is None else run(program, Options(inputs=((5, N),), losses=("quadloss", "none")), last)


@pytest.mark.parametrize("stage", PASS)
def test_a_correct_program_passes(stage: str) -> None:
    program = at(stage)
    assert program.stage == stage
    verify(program)


def test_every_pass_is_exercised_here() -> None:
    between = {"reassociate", "gradient", "simplify", "winners", "merge", "timebatch", "fuse"}
    assert {p.name for p in PIPELINE} - between == set(PASS.values()) - {None}


# (stage, rule, text, what it becomes): the first occurrence, or a pattern where the text begins with "*".
FAULTS = [
    (
        "lowered",
        "program",
        "dtype f32\nconditions dropout\ninput %x",
        "dtype f32\nconditions dropout\ninput %x\ninput %x",
    ),
    ("lowered", "settings", "conditions dropout", "conditions dropout dropout"),
    ("lowered", "settings", "conditions dropout", "conditions dropout a"),
    ("lowered", "settings", "  %return = soft(%tmp4) if !dropout", "\nvariant"),
    ("variants", "settings", "variant {dropout}", "variant {}"),
    ("variants", "settings", "variant {dropout}", "variant {other}"),
    ("variants", "settings", "variant {}", "variant"),
    ("variants", "guards", "%tmp3 = add(%tmp1, %tmp2)", "%tmp3 = add(%tmp1, %tmp2) if dropout"),
    ("lowered", "parts", "  %return = soft(%tmp4) if !dropout", "  result %x"),
    ("lowered", "parts", "  %return = soft(%tmp4) if !dropout", "  name %x = %x"),
    ("typed", "parts", "\n\nvariant {dropout}", "\nbackward zero\n\nvariant {dropout}"),
    ("typed", "parts", "\n\nvariant {dropout}", "\nbefore\nloop\nafter\n\nvariant {dropout}"),
    ("typed", "parts", r"*\Z", '\nupdate\n  update(; param="a")\n'),
    ("ssa", "names", "  name %a = %a\n", "  name %a = %nowhere\n"),
    ("ssa", "names", "  name %a = %a\n", "  name %b = %a\n"),
    ("ssa", "names", "  name %a = %a\n", '  name %"a a" = %a\n'),
    ("ssa", "names", "result %return", "result %nowhere"),
    ("lowered", "names", "%tmp3 = add", '%"tmp 3" = add'),
    ("lowered", "operators", "relu(%tmp3)", "rleu(%tmp3)"),
    ("lowered", "operators", "relu(%tmp3)", "sumto(%tmp3)"),
    ("variants", "operators", "%h = relu(%tmp3)", '%h = state(var="h")'),
    ("ssa", "operators", "%h = relu(%tmp3)", "%h = let(%tmp3)"),
    ("ssa", "operators", "relu(%tmp3)", "relu_back(%tmp3, %tmp3)"),
    ("training", "operators", "%d:h@next = dstate", "%d:h@next = state"),
    ("training", "operators", 'update(; param="a")', "zeros()"),
    ("lowered", "arity", "relu(%tmp3)", "relu(%tmp3, %x)"),
    ("lowered", "arity", "let(%h)", "let(%h, %x)"),
    ("lowered", "attributes", "let(%h)", "let(%h; a=1)"),
    ("lowered", "attributes", "relu(%tmp3)", "relu(%tmp3; slope=1)"),
    ("lowered", "attributes", "ta=False, ", ""),
    ("lowered", "attributes", "ta=False, tb=False", "tb=False, ta=False"),
    ("ssa", "effects", '  keep(%h; var="h")', '  %k = keep(%h; var="h")'),
    ("lowered", "effects", "%h = relu(%tmp3)", "relu(%tmp3)"),
    ("training", "effects", '  keep(%h; var="h")', '  keep(%h; var="h") : f32[8,N]'),
    ("ssa", "definition", "%h = relu(%tmp3)", "%h = relu(%tmp4)"),
    ("ssa", "definition", "%h = relu(%tmp3)", "%tmp3 = relu(%tmp3)"),
    ("ssa", "definition", "%h = relu(%tmp3)", "%x = relu(%tmp3)"),
    ("training", "definition", "%return, %@gold, %@mask", "%return, %@mask, %@gold"),
    ("training", "definition", "%@mask", "%@gold2"),
    ("training", "definition", "%@loss = ", "%h = "),
    ("ssa", "shared", '  keep(%h; var="h")\n', '  keep(%h; var="h")\n  keep(%h; var="h")\n'),
    ("ssa", "shared", '  keep(%h; var="h")', '  keep(%h; var="g")'),
    ("ssa", "shared", "init=Xavier(), stream=0", "init=Constant(1), stream=0"),
    ("typed", "shared", '  keep(%h; var="h")', '  keep(%x; var="h")'),
    ("variants", "types", "%h = relu(%tmp3)", "%h = relu(%tmp3) : f32[8,N]"),
    ("typed", "types", "%h = relu(%tmp3) : f32[8,N]", "%h = relu(%tmp3)"),
    ("typed", "types", "%h = relu(%tmp3) : f32[8,N]", "%h = relu(%tmp3) : f64[8,N]"),
    ("typed", "types", "%h = relu(%tmp3) : f32[8,N]", "%h = relu(%tmp3) : f32[N,8]"),
    ("typed", "types", "%h = relu(%tmp3) : f32[8,N]", "%h = relu(%tmp3) : f32[0,N]"),
    ("typed", "types", "input %x : (5,N)", "input %x : (?,N)"),
    ("typed", "types", "input %x : (5,N)", "input %x"),
    ("typed", "types", "dims=(8,5)", "dims=(8,0)"),
    ("typed", "shape rule", "%h = relu(%tmp3) : f32[8,N]", "%h = relu(%tmp3) : f32[9,N]"),
    ("typed", "shape rule", "input %x : (5,N)", "input %x : (6,N)"),
    ("training", "shape rule", "ta=True", "ta=False"),
    ("training", "gradients", 'dpar(%d:a; param="a")', 'dpar(%d:a; param="b")'),
    ("training", "gradients", 'dpar(%d:a; param="a")', 'dpar(%d:a; param="c")'),
    ("training", "gradients", 'dpar(%d:a; param="a")', 'dpar(%d:a; param="a")\n  dpar(%d:a; param="a")'),
    ("training", "gradients", "index=0", "index=1"),
    ("training", "gradients", 'dkeep(%d:h@prev; var="h")', 'dkeep(%d:h@prev; var="g")'),
    ("training", "kernels", "kernel {", "kernel {\n  }\n  kernel {"),
    ("training", "kernels", "kernel {", "kernel {\n    %z = dot(%a, %x; ta=False, tb=False) : f32[8,N]"),
    ("training", "kernels", "kernel {", "kernel {\n    %z = relu(%x) : f32[5,N]"),
    ("training", "kernels", "kernel {", "kernel {\n    %z = relu(%x) : f32[5,N]\n  }\n  kernel {"),
    ("training", "phases", f"loop\n{STATE}", f"{STATE}loop\n"),
    ("training", "phases", f"{KEEP}after\n", f"after\n{KEEP}"),
    ("training", "phases", "after\n", "after\n  %z = relu(%h) : f32[8,N]\n"),
    ("training", "losses", "backward quadloss", "backward none"),
    ("training", "losses", "backward zero", "backward none"),
    ("training", "update", '  update(; param="a")\n', ""),
    ("training", "update", '  update(; param="a")\n', '  update(; param="a")\n  update(; param="a")\n'),
    ("training", "update", '  update(; param="a")\n', '  update(; param="a")\n  update(; param="c")\n'),
]


@pytest.mark.parametrize("stage, rule, old, new", FAULTS)
def test_a_planted_fault_is_named(stage: str, rule: str, old: str, new: str) -> None:
    text = print_program(at(stage))
    pattern = old[1:] if old.startswith("*") else re.escape(old)
    changed, count = re.subn(pattern, lambda _: new, text, count=1)
    assert count == 1, f"nothing to change in\n{text}"
    with pytest.raises(KnetInternalError) as caught:
        verify(read_program(changed), "planting")
    assert f"after 'planting' the program breaks the rule '{rule}'" in str(caught.value)


def test_every_rule_has_a_fault() -> None:
    assert {rule for _, rule, _, _ in FAULTS} == set(RULES)


def test_the_error_shows_the_instruction() -> None:
    text = print_program(at("ssa")).replace("relu(%tmp3)", "relu(%gone)  @ m.knet:7:9-7:20", 1)
    with pytest.raises(KnetInternalError) as caught:
        verify(read_program(text), "state")
    assert "m.knet:7:9: error: " in str(caught.value)
    assert "'gone' is not defined here\n  %h = relu(%gone)" in str(caught.value)
    assert "fault of knetc" in str(caught.value)
