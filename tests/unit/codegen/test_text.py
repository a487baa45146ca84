"""Identifiers, index arithmetic, the plan, and what the emitted text may hold."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from knetc.codegen.describe import comment_text, size_text
from knetc.codegen.emit import emit_cuda, emit_header
from knetc.codegen.index import collapse, count, operand_index, part_index
from knetc.codegen.names import Names, condition_labels, interface_prefix, spell
from knetc.codegen.report import report, show_plan
from knetc.codegen.spec import number, spell_type
from knetc.errors import KnetLimitation
from knetc.ir.footprint import bound_bytes, unshared_bytes
from knetc.ir.plan import flat
from knetc.ir.planner import make_plan
from knetc.ir.types import N
from knetc.options import Options
from knetc.record import replace
from knetc.runtime.interp import Interpreter
from knetc.values import Symbol

from .driver import SEQUENTIAL
from .support import NONE, ROOT, TARGETS, both, close, compiled
from .test_models import data


@pytest.mark.parametrize(
    "name,identifier",
    [
        ("c1/w", "c1_w"),
        ("d:c1/w#2", "d_c1_w_2"),
        ("θ", "theta"),
        ("Ω/x", "Omega_x"),
        ("ñ", "u00f1"),
        ("return", "return_"),
        ("x!", "x"),
        ("2x", "v2x"),
        ("EOF", "EOF_"),
        ("linux", "linux_"),
        ("W1", "W1"),
        ("a__b", "a_b"),
        ("//", "v"),
    ],
)
def test_spelling(name, identifier):
    assert spell(name) == identifier


def test_identifiers_are_unique_whatever_the_names():
    names = Names(("taken",))
    given = [names.fresh(n) for n in ("a/b", "a_b", "a:b", "a_b_2", "taken", "return", "return_", "θ", "theta")]
    assert len(set(given)) == len(given)
    assert given[0] == "a_b" and "taken" not in given


def test_literals():
    assert number(0.1, "f32") == "0.1f" and number(3, "f64") == "3.0"
    assert number(-2, "f32") == "(-2.0f)" and number(float("inf"), "f32") == "INFINITY"
    assert spell_type("T(0.5) * x + (T)y", "f32") == "0.5f * x + (float)y"
    assert spell_type("x < T(-1e-05) ? T(0) : x", "f64") == "x < (-1e-05) ? 0.0 : x"


@pytest.mark.parametrize("shapes", list(itertools.product([1, 3], [1, 4], [1, 2], repeat=2)))
def test_broadcast_index_against_numpy(shapes):
    # Every pattern of kept and expanded dimensions: the C text, run as Python, finds NumPy's element.
    a, b = shapes[:3], shapes[3:]
    full = tuple(map(max, a, b))
    values = [np.arange(np.prod(s)).reshape(s, order="F") for s in (a, b)]
    groups = collapse(full, [a, b])
    for k, v in enumerate(values):
        text = operand_index(groups, k, "i").replace("/", "//")
        want = np.broadcast_to(v, full).ravel(order="F")
        assert [eval(text, {"i": i}) for i in range(want.size)] == list(want)


@pytest.mark.parametrize("small", list(itertools.product([1, 3], [1, 4], [1, 2])))
def test_sum_index_covers_every_element_once(small):
    full = (3, 4, 2)
    groups = collapse(full, [small])
    kept = int(np.prod(small))
    summed = 24 // kept
    array = np.arange(24).reshape(full, order="F")
    axes = tuple(k for k, (f, s) in enumerate(zip(full, small, strict=True)) if f != s)
    want = array.sum(axis=axes, keepdims=True).ravel(order="F")
    base, offset = (part_index(groups, k, "i").replace("/", "//") for k in (True, False))
    for o in range(kept):
        assert sum(eval(base, {"i": o}) + eval(offset, {"i": r}) for r in range(summed)) == want[o]


def test_counts():
    assert [count(d) for d in [(), (3, 4), (3, N), (N,)]] == ["1", "12", "3 * N", "N"]


def test_comments_cannot_leave_their_line():
    assert "\n" not in comment_text("a\nb\rc\x0cd") and not comment_text("a\\").endswith("\\")
    assert size_text(999) == "999 B" and size_text(1500000) == "1.5 MB"


def test_plan_of_a_model_by_hand():
    program, _ = compiled("@knet function f(x)\n return wb(x; out=3)\nend", losses=("quadloss",), inputs=((4, N),))
    plan = make_plan(program, Options())
    (variant,) = plan.variants
    (backward,) = variant.backward
    assert [s.instr.op for s in flat(variant.forward)] == ["dot", "add"]
    # The gradients are written where they belong, and the input's only where it is wanted.
    steps = list(flat(backward.steps))
    assert {s.out.name for s in steps if s.out.kind == "grad"} == {"d:wb/w", "d:wb/b"} or len(plan.params) == 2
    assert [s.wanted for s in steps if s.out.name == "d:x"] == [frozenset({0})]
    # x 4, value 3, gold 3, mask 1, its gradient 3, d:x 4 elements a column; w, b and gradients 30; the loss 1.
    assert unshared_bytes(plan, 10) == 4 * (10 * (4 + 3 + 3 + 1 + 3 + 4) + 30 + 1)
    assert bound_bytes(plan, 10) < unshared_bytes(plan, 10)


def test_memory_bound_falls_short_of_no_step():
    program, _ = compiled(ROOT / "examples" / "lenet.knet", losses=("softloss",), inputs=((28, 28, 1, N),))
    plan = make_plan(program, Options())
    (variant,) = plan.variants
    for step in flat((*variant.forward, *variant.backward[0].steps)):
        assert sum(b.bytes(64) for b in {step.out, *step.args}) <= bound_bytes(plan, 64)


def test_source_text_stays_in_comments():
    # Text of the source that looks like C must not become C.
    source = '# */ #endif " \\\n@knet function f(x)\n return relu(x) # */ } \\\nend\n'
    program, options = compiled(source, losses=("quadloss",), inputs=((4, N),))
    lines = emit_cuda(program, options).splitlines()
    held = [line for line in lines if "*/ }" in line or '#endif "' in line]
    assert held and all(line.lstrip().startswith("//") and not line.endswith("\\") for line in held)


def test_header_and_file_declare_the_same_interface():
    program, options = compiled(ROOT / "examples" / "lenet_dropout.knet", inputs=((28, 28, 1, N),))
    header, text = emit_header(program, options), emit_cuda(program, options)
    declared = header.split('extern "C" {\n#endif\n')[1].split("#ifdef __cplusplus")[0].strip()
    assert declared.count("int lenet_dropout_") >= 18 and declared in text
    assert "LENET_DROPOUT_DROPOUT = 1" in declared


@pytest.mark.parametrize(
    "model,prefix",
    [("lenet", "lenet"), ("θ", "theta"), ("CNN", "CNN"), ("double", "double"), ("knet", "knet_2"), ("run", "run_2")],
)
def test_the_interface_is_spelled_with_the_models_name(model, prefix):
    assert interface_prefix(model) == prefix


def test_the_labels_of_conditions():
    assert condition_labels("m", ["dropout", "θ", "pi"]) == [
        ("dropout", "M_DROPOUT"),
        ("θ", "M_THETA"),
        ("pi", "M_PI_3"),  # M_PI and M_PI_2 are macros of <math.h>
    ]


def test_keywords_stand_at_the_head():
    # Those that were given from outside, in the order of their names whatever the order of giving.
    source = "@knet function m(x; n=2, f=:relu)\n return wbf(x; out=n, f=f)\nend"
    program, options = compiled(source, inputs=((3, N),))
    assert "Keywords:" not in emit_cuda(program, options)
    for given in ({"n": 4, "f": Symbol("tanh")}, {"f": Symbol("tanh"), "n": 4}):
        program, options = compiled(source, inputs=((3, N),), **given)
        assert program.keywords == (("f", Symbol("tanh")), ("n", 4))
        assert "// Keywords: f=:tanh, n=4\n" in emit_cuda(program, options)


def test_report_and_plan():
    program, options = compiled(ROOT / "examples" / "lenet.knet", losses=("softloss",), inputs=((28, 28, 1, N),))
    table, plan = report(program, options), show_plan(program, options)
    assert "soft_kernel" in table and "live at once" in table and "cuDNN shapes" in table
    assert "backward from softloss" in plan and "= conv_back_x(" in plan


def test_ten_thousand_steps():
    """Layers of one kind share their kernels, as launches of their own and as long chains in few kernels."""
    source = "@knet function f(x)\n return repeat(x; frepeat=:relu, nrepeat=3000)\nend"
    program, options = compiled(source, losses=("quadloss",), inputs=((4, N),), level=0)
    text = emit_cuda(program, options)
    assert text.count("kernels.relu, 4 * N") == 3000 and text.count("relu_kernel(") == 1
    program, options = compiled(source, losses=("quadloss",), inputs=((4, N),))
    text = emit_cuda(program, options)
    launches = text.count("knet_launch_each(kernels.relu") - text.count("knet_launch_each(kernels.relu_back")
    assert launches < 200 and text.count("_kernel(float* ") < 12


def test_arrays_too_large_for_32_bits_are_a_limitation():
    program, _ = compiled("@knet function f(x)\n return wdot(x; out=100000)\nend", losses=(), inputs=((100000, N),))
    with pytest.raises(KnetLimitation, match="10000000000 elements"):
        make_plan(program, Options())


def test_a_model_without_parameters_or_losses_builds(tmp_path):
    for body in ("tanh(x)", "x", "soft(x .* 2)", "x .* rnd(init=Gaussian(0,1))"):
        program, options = compiled(f"@knet function f(x)\n return {body}\nend", losses=(), inputs=((4, N),))
        emitted, meaning = both(program, options)
        x = np.asfortranarray(np.arange(8).reshape(4, 2), np.float32)
        close(*(e.forward(NONE, [x], push=False) for e in (emitted, meaning)), "f32")


@pytest.mark.parametrize("target", TARGETS)
def test_variables_may_be_called_like_what_the_model_counts(target):
    """Members of the emitted struct that sequences, a share of a minibatch and the arena need."""
    source = """
@knet function f(x; out=3)
    steps = irnn(x; out=4)
    whole_capacity = 2 * steps
    columns_before = whole_capacity .+ steps
    arena = relu(columns_before)
    return wbf(arena; out=out, f=:soft)
end
"""
    program, options = compiled(source, inputs=((3, N),), dtype="f64")
    emitted, meaning = TARGETS[target](program, options, 7), Interpreter(program, 7)
    x = data(((3, N),), 4, "f64")
    close(emitted.forward(NONE, x, push=False), meaning.forward(NONE, x, push=False), "f64")


@pytest.mark.parametrize("name", ["charlm", "unwritten", "convolved"])
def test_without_an_arena_the_same_functions_are_emitted(name: str) -> None:
    """What the sanitizers look at is what users run: whole sequences too."""
    source, dims, _ = SEQUENTIAL[name]
    found = []
    for arena in (True, False):
        program, options = compiled(source, inputs=dims)
        text = emit_cuda(program, replace(options, arena=arena))
        assert ("m->arena" in text) == arena
        found.append(re.findall(r"^int ((?:forw|back)\w+)\(", text, re.MULTILINE))
    assert found[0] == found[1] and {"forwseq", "backseq_softloss"} <= set(found[0])
