"""The proof of plans (`ir.replay`): it passes right ones, and tells every planted fault, and those of a wrong rule."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest
from fuzz.programs import random_model

from knetc import driver
from knetc.errors import KnetError, KnetInternalError, Source
from knetc.ir import lifetimes
from knetc.ir.accesses import Read, accesses, may_replace
from knetc.ir.epilogues import without_epilogues
from knetc.ir.plan import SHARING, Buffer, Kernel, Plan, Step, Unit
from knetc.ir.planner import make_plan
from knetc.ir.program import Instr, Program
from knetc.ir.replay import replay
from knetc.ir.sequence_plan import device_plan, make_sequence_plan
from knetc.ir.types import N, Type
from knetc.ops import registry
from knetc.ops.base import Elementwise
from knetc.options import Options
from knetc.record import replace

from .faults import FAULTS, Fault
from .test_memory import LOSSES, MODELS

PLANS = ["lenet", "lenet_dropout", "mlp", "housing", "charlm", "gru"]
PLANS += [f"{name} in sequences{apart}" for name in ("gru", "charlm") for apart in ("", ", apart")]
MOST = 12  # copies of a plan with a fault of one kind


def program_of(source: str, dims: tuple, **more: object) -> tuple[Program, Options]:
    options = Options(**{"inputs": (dims,), "losses": LOSSES, **more})  # type: ignore[arg-type]
    return driver.optimise(driver.lower(Source("model.knet", source), None, {}), options), options


@cache
def plan_of(name: str) -> Plan:
    model, _, sequences = name.partition(" ")
    program, options = program_of(*MODELS[model])
    if not sequences:
        return make_plan(program, options)
    return make_sequence_plan(program, replace(options, arena=not sequences.endswith("apart")))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_every_planted_fault_is_told(fault: Fault) -> None:
    planted = 0
    for name in PLANS:
        plan = plan_of(name)
        for k, wrong in enumerate(itertools.islice(fault(plan), MOST)):
            planted += 1
            try:
                replay(wrong)
            except KnetInternalError:
                continue
            pytest.fail(f"{fault.__name__}, number {k} of {name}, is not told")
    assert planted >= 5


# --- random programs --------------------------------------------------------------------------------------------------


def random_plans(seed: int) -> list[Plan]:
    """The plans of a random model: in an arena, each buffer by itself, and for whole sequences as emitted CUDA has them
    and as emitted C++; none of a wrong model.
    """
    made = random_model(random.Random(seed))
    dims = tuple(d if whole else (*d, N) for d, whole in zip(made.inputs, made.whole, strict=True))
    options = Options(inputs=dims, losses=LOSSES, level=seed % 3)
    try:
        program = driver.optimise(driver.lower(Source("m.knet", made.source), None, {}), options)
    except KnetInternalError:
        raise
    except KnetError:
        return []
    apart = replace(options, arena=False)
    plans = [make_plan(program, o) for o in (options, apart)]
    return [*plans, device_plan(program, options), make_sequence_plan(without_epilogues(program), apart)]


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_plans_of_random_models_are_right(first: int) -> None:
    assert sum(map(bool, map(random_plans, range(first, first + 10)))) >= 8


@pytest.mark.deep
@pytest.mark.parametrize("first", range(1000, 3000, 50))
def test_plans_of_random_models_are_right_deep(first: int) -> None:
    assert sum(map(bool, map(random_plans, range(first, first + 50)))) >= 40


# --- a wrong rule for what may share memory ---------------------------------------------------------------------------

# Forward alone and without names, so that values end: for each condition a model that it is needed for.
ENDING = {
    "types": "return w * (x .* (u * x))",
    "operators": "return w * (w * (w * x))",
    "order": "a = w * x \n b = tanh(a) \n c = a .* b \n return (w * b) .+ (w * c)",
    "reach": "return conv(k, pool(conv(k, x; padding=1); window=3, stride=1, padding=1))",
}
PARAMETERS = "u = par(dims=(1,4)) \n w = par(dims=(4,4))"


def _without(rule: str, unit: Unit) -> list[tuple[Buffer, Buffer]]:
    """`may_share` with one of its conditions given up."""
    steps = unit.steps if isinstance(unit, Kernel) else (unit,)
    chain = all(isinstance(registry()[s.instr.op].cuda, Elementwise) or registry()[s.instr.op].reach for s in steps)
    if not chain and rule != "operators":
        return []
    far = {a for s in steps if registry()[s.instr.op].reach and rule != "reach" for a in s.args}
    read = {a: k for k, s in enumerate(steps) for a in s.args if a.base is None and a not in far}
    outs = [(k, s.out) for k, s in enumerate(steps) if s.out.kind in SHARING and s.out.base is None]
    return [
        (out, a)
        for k, out in outs
        for a, last in read.items()
        if (a.type == out.type or rule == "types") and (last <= k or rule == "order")
    ]


@pytest.mark.parametrize("rule", ENDING)
def test_a_rule_that_shares_too_much_is_told(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pars, dims = ("k = par(dims=(3,3,1,1))", (8, 8, 1, N)) if rule == "reach" else (PARAMETERS, (4, N))
    source = f"@knet function g(x)\n{pars}\n{ENDING[rule]}\nend\n@knet function f(x)\nreturn soft(g(x))\nend"
    program, options = program_of(source, dims, losses=(), level=1)
    make_plan(program, options)
    monkeypatch.setattr(lifetimes, "may_share", lambda unit: _without("", unit))
    make_plan(program, options)  # the rule as it is written here, with all its conditions
    monkeypatch.setattr(lifetimes, "may_share", lambda unit: _without(rule, unit))
    with pytest.raises(KnetInternalError, match="while it is read|another result of its kernel"):
        make_plan(program, options)


def test_what_a_softmax_computes_anew_is_read_with_the_softmax() -> None:
    """Of soft(a .+ b) with c = a .* b before it, which no pass makes yet, c must not stand in place of a."""
    type = Type("f32", (4, N))
    a, b, c, p, y = (Buffer(n, "register" if n == "p" else "value", type) for n in "abcpy")
    made = [(p, "add", (a, b)), (c, "mul", (a, b)), (y, "soft", (p,))]
    steps = [Step(Instr(out.name, op, tuple(x.name for x in args), type=type), out, args) for out, op, args in made]
    unit = Kernel(tuple(steps))
    reads, writes = accesses(unit)
    assert reads == {a: Read(True, 2), b: Read(True, 2)}
    assert [(w.out, may_replace(reads[a], w, a)) for w in writes] == [(c, False), (y, True)]
