"""The runner: order and stages, observers, where it stops, what it refuses; and programs of many layers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import pytest

from knetc.errors import KnetInternalError, Source, Span
from knetc.ir.passes.shapes import batch_inputs
from knetc.ir.pipeline import PIPELINE, Pass, run, run_pass
from knetc.ir.program import STAGES, Backward, Input, Instr, Program, Variant, make_attrs
from knetc.ir.reader import read_program
from knetc.ir.types import N
from knetc.ir.uses import without_inputs
from knetc.options import Options
from knetc.record import replace
from knetc.values import Constant, Xavier

PLAIN = 'program "plain"\nstage lowered\ndtype f32\ninput %x\n\nvariant\n  %t = relu(%x)\n  %return = soft(%t)\n'
TWO = """
program "two"
stage lowered
dtype f32
input %x
input %y

variant
  %w = par(dims=(3,4), init=Xavier(), stream=0)
  %a = dot(%w, %x; ta=False, tb=False)
  %v = par(dims=(3,5), init=Xavier(), stream=1)
  %b = dot(%v, %y; ta=False, tb=False)
  %c = add(%a, %b)
  %return = tanh(%c)
"""


def given(*inputs: tuple[object, ...], **more: object) -> Options:
    return Options(inputs=inputs, **more)  # type: ignore[arg-type]


def test_each_pass_takes_what_the_one_before_gives() -> None:
    stages = [PIPELINE[0].takes] + [p.gives for p in PIPELINE]
    assert [p.takes for p in PIPELINE] == stages[:-1]
    assert sorted(set(stages), key=stages.index) == list(STAGES)
    assert all(p.doc for p in PIPELINE)


@dataclass
class Recorder:
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def before(self, name: str, program: Program) -> None:
        self.events.append(("before", name, program.stage))

    def after(self, name: str, program: Program, seconds: float) -> None:
        assert seconds >= 0
        self.events.append(("after", name, program.stage))


def test_observers_see_every_pass() -> None:
    one, two = Recorder(), Recorder()
    run(read_program(PLAIN), given((3, N), observers=(one, two)))
    assert one.events == two.events
    assert one.events == [e for p in PIPELINE for e in (("before", p.name, p.takes), ("after", p.name, p.gives))]


@pytest.mark.parametrize("step", PIPELINE, ids=lambda p: p.name)
def test_it_stops_after_a_pass(step: Pass) -> None:
    seen = Recorder()
    program = run(read_program(PLAIN), given((3, N), observers=(seen,)), stop_after=step.name)
    assert program.stage == step.gives
    assert seen.events[-1] == ("after", step.name, step.gives)


def test_an_unknown_pass_is_refused() -> None:
    with pytest.raises(ValueError, match="no pass 'shape'"):
        run(read_program(PLAIN), Options(), stop_after="shape")


def test_faults_of_passes_are_named() -> None:
    """A program of the wrong stage; a pass that leaves the stage; a pass that breaks a rule."""
    program = read_program(PLAIN)
    with pytest.raises(KnetInternalError, match="pass 'state' takes a program of stage variants, not lowered"):
        run_pass(PIPELINE[1], program, Options())
    idle = Pass("idle", "lowered", "variants", lambda p, o: p, "")
    with pytest.raises(KnetInternalError, match="pass 'idle' gave a program of stage lowered, not variants"):
        run_pass(idle, program, Options())
    wild = Pass("wild", "lowered", "lowered", lambda p, o: replace(p, dtype="f16"), "")
    with pytest.raises(KnetInternalError, match="after 'wild' the program breaks the rule 'program'"):
        run_pass(wild, program, Options())


def test_a_pass_does_not_change_its_argument() -> None:
    program, copy = read_program(TWO), read_program(TWO)
    for step in PIPELINE:
        after = run_pass(step, program, given((4, N), (5, N)))
        again = run_pass(step, copy, given((4, N), (5, N)))
        assert program == copy and after == again
        program, copy = after, again


def test_losses_come_in_one_order_and_once() -> None:
    program = run(read_program(PLAIN), given((3, N), losses=("softloss", "zero", "softloss", "none")))
    assert [b.loss for b in program.variants[0].backward] == ["zero", "none", "softloss"]


# --- helpers of the runtime -------------------------------------------------------------------------------------------


def effects(backward: Backward) -> list[tuple[str, object]]:
    return [(i.op, i.attrs[0][1]) for i in backward.body if not i.out]


def test_unwanted_input_gradients_go_with_what_they_alone_need() -> None:
    program = run(read_program(TWO), given((4, N), (5, N), losses=("quadloss",)))
    (whole,) = program.variants[0].backward
    parameters = [("dpar", "v"), ("dpar", "w")]
    assert sorted(effects(whole)) == sorted([("dinput", 0), ("dinput", 1), *parameters])
    none = without_inputs(whole, set())
    assert sorted(effects(none)) == parameters
    assert {i.out for i in whole.body} - {i.out for i in none.body} == {"d:x", "d:y"}
    assert "@loss" in {i.out for i in none.body}
    second = without_inputs(whole, {1})
    assert ("dinput", 1) in effects(second) and ("dinput", 0) not in effects(second)
    assert without_inputs(whole, {0, 1}) == whole


@pytest.mark.parametrize("stop", [None, "conditions", "state", "shapes"])
def test_which_inputs_have_a_batch(stop: str | None) -> None:
    """A weight has none where the other operand carries an input's batch, through other operators too."""
    text = """
program "m"
stage lowered
dtype f32
input %w
input %x
input %v

variant
  %t1 = relu(%w)
  %t2 = let(%t1)
  %t3 = tanh(%x)
  %t4 = dot(%t2, %t3; ta=False, tb=False)
  %return = add(%t4, %v)
"""
    program = read_program(text)
    if stop:
        program = run(program, given((3, 4), (4, N), (3, N)), stop_after=stop)
    assert batch_inputs(program) == (False, True, True)


def test_an_input_times_a_parameter_has_a_batch() -> None:
    text = PLAIN.replace(
        "%t = relu(%x)", "%w = par(dims=(3,3), init=Xavier(), stream=0)\n  %t = dot(%x, %w; ta=False, tb=False)"
    )
    assert batch_inputs(read_program(text)) == (True,)


# --- many layers ------------------------------------------------------------------------------------------------------


def layers(count: int) -> Program:
    """relu(w·x .+ b) again and again, each with a temporary and two calls around its place, as `repeat` lowers."""
    call = Span(Source("deep.knet"), 2, 9, 2, 50)
    span = Span(Source("prelude.knet"), 1, 2, 1, 9, call)
    body: list[Instr] = []
    last = "x"
    for k in range(count):
        scope = f"h/{k}"
        body += [
            Instr(f"{scope}/w", "par", (), make_attrs(dims=(4, 0), init=Xavier(), stream=2 * k), span=span),
            Instr(f"{scope}/tmp1", "dot", (f"{scope}/w", last), make_attrs(ta=False, tb=False), span=span),
            Instr(f"{scope}/b", "par", (), make_attrs(dims=(0,), init=Constant(0), stream=2 * k + 1), span=span),
            Instr(f"{scope}/tmp2", "add", (f"{scope}/tmp1", f"{scope}/b"), span=span),
            Instr(f"{scope}/tmp3", "relu", (f"{scope}/tmp2",), span=span),
            Instr(f"{scope}/y", "let", (f"{scope}/tmp3",), span=span),
        ]
        last = f"{scope}/y"
    body.append(Instr("return", "soft", (last,), span=call))
    temps = {i.out for i in body if "tmp" in i.out}
    return Program("deep", "lowered", (Input("x"),), (), (Variant((), tuple(body)),), "f32", frozenset(temps))


@pytest.mark.parametrize("inputs", [((4, N),), (None,)], ids=["forwards", "backwards"])
def test_layers_beyond_the_recursion_limit(inputs: tuple[object, ...]) -> None:
    """Sizes flow through all layers from the input, and from the last layer to an input whose rows are open."""
    count = sys.getrecursionlimit() + 500
    program = layers(count)
    if inputs == (None,):
        first = program.variants[0].forward[0]
        first = replace(first, attrs=make_attrs(dims=(4, 7), init=Xavier(), stream=0))
        program = replace(program, variants=(Variant((), (first, *program.variants[0].forward[1:])),))
    done = run(program, given(*inputs, losses=("softloss", "zero")))
    assert len(done.params()) == len(done.update) == 2 * count
    assert done.inputs[0].dims == ((7, N) if inputs == (None,) else (4, N))
    (_, backward) = done.variants[0].backward
    assert len([i for i in backward.body if i.op == "dpar"]) == 2 * count


@pytest.mark.deep
def test_ten_thousand_layers() -> None:
    assert len(run(layers(10_000), given((4, N))).update) == 20_000


def test_one_value_used_many_times() -> None:
    """What a value of many uses costs is linear too; its gradient is one sum."""
    count = 2000
    body = [Instr("t0", "tanh", ("x",))]
    body += [Instr(f"t{k}", "add", (f"t{k - 1}", "x")) for k in range(1, count)]
    body += [Instr("return", "let", (f"t{count - 1}",))]
    program = Program("wide", "lowered", (Input("x"),), (), (Variant((), tuple(body)),))
    done = run(program, given((4, N), losses=("quadloss",)))
    (backward,) = done.variants[0].backward
    assert sum(i.op == "add" for i in backward.body) == count - 1
