"""The arena: a simulation that knows who owns each element finds every value intact when it is read.

The simulation knows nothing of lifetimes or of `ir.replay`: it runs the lists unit by unit and writes who owns what.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from knetc import driver
from knetc.errors import KnetInternalError, Source
from knetc.ir import placing
from knetc.ir.footprint import bound_bytes, peak_bytes, unshared_bytes
from knetc.ir.memory import Arena, Layout, Layouts
from knetc.ir.pipeline import run
from knetc.ir.plan import REPORT_BATCH, SHARING, Buffer, Kernel, Plan, Unit, VariantPlan, flat
from knetc.ir.planner import make_plan
from knetc.ir.replay import replay
from knetc.ir.types import N
from knetc.options import Options
from knetc.record import replace

from .random_programs import random_program

LOSSES = ("zero", "none", "quadloss", "softloss")
EXAMPLES = Path(__file__).parents[2] / "examples"
CHARLM = """
@knet function charlm(x; embedding=64, hidden=128, nchar=65)
    e = wdot(x; out=embedding)
    h = lstm(e; out=hidden)
    return wbf(h; out=nchar, f=:soft)
end
"""
GRU = "@knet function model(x)\n h = gru(x; out=20)\n return wbf(h; out=3, f=:soft)\nend"
MODELS = {
    **{
        name: ((EXAMPLES / f"{name}.knet").read_text(), dims)
        for name, dims in {
            "lenet": (28, 28, 1, N),
            "lenet_dropout": (28, 28, 1, N),
            "mlp": (784, N),
            "softmax": (28, 28, 1, N),
            "housing": (13, N),
            "adding": (2, N),
        }.items()
    },
    "charlm": (CHARLM, (65, N)),
    "gru": (GRU, (5, N)),
}


def plan_of(source: str, dims: tuple, level: int = 2) -> Plan:
    options = Options(inputs=(dims,), losses=LOSSES, level=level)
    return make_plan(driver.optimise(driver.lower(Source("model.knet", source), None, {}), options), options)


class Owners:
    """For so many columns, the buffer that each element of the arena belongs to."""

    def __init__(self, arena: Arena, batch: int) -> None:
        self.batch = batch
        self.names = np.full(arena.elements(batch), "", object)

    def where(self, b: Buffer, layout: Layout) -> slice:
        at = dict(layout.places)[b.root].elements(self.batch)
        return slice(at, at + b.root.elements(self.batch))

    def write(self, b: Buffer, layout: Layout) -> None:
        if b.kind in SHARING:
            at = self.where(b, layout)
            assert at.start >= 0 and at.stop <= len(self.names), f"{b.name} is not in the arena"
            self.names[at] = b.root.name

    def read(self, b: Buffer, layout: Layout) -> None:
        if b.kind in SHARING:
            assert set(self.names[self.where(b, layout)]) == {b.root.name}, f"{b.name} was overwritten"

    def run(self, unit: Unit, layout: Layout) -> None:
        steps = unit.steps if isinstance(unit, Kernel) else (unit,)
        own = {s.out for s in steps}
        for k, step in enumerate(steps):
            for a in step.args:
                if a not in own:
                    self.read(a, layout)
            for j, later in enumerate(steps):  # all elements at once: another may be read after this one is written
                for a in later.args:
                    if a not in own and a.kind in SHARING and step.out.kind in SHARING and step.out.root is not a.root:
                        mine, other = self.where(step.out, layout), self.where(a, layout)
                        apart = mine.stop <= other.start or other.stop <= mine.start
                        assert apart or (mine == other and a.type == step.out.type and j <= k), (step.out.name, a.name)
        for step in steps:
            self.write(step.out, layout)


def simulate(plan: Plan, variant: VariantPlan, found: Layouts, arena: Arena, batch: int, wanted: set[int]) -> None:
    """A forward call and the pass back from each loss; raises AssertionError where a value is lost."""
    owners = Owners(arena, batch)
    for b in plan.inputs:
        owners.write(b, found.forward)
    for unit in variant.forward:
        owners.run(unit, found.forward)
    stays = [*plan.inputs, *(b for _, b in variant.names)]
    after = [*stays, *variant.frame, *([variant.result] if variant.result else [])]
    for b in after:
        owners.read(b, found.forward)
    forward = owners.names.copy()
    for backward, layout in zip(variant.backward, found.backward, strict=True):
        owners.names = forward.copy()
        for b, _ in layout.places:
            if b.kind in ("gold", "mask"):
                owners.write(b, layout)
        for unit in backward.steps:
            if unit.wanted is None or unit.wanted & wanted:
                owners.run(unit, layout)
        for b in [*(after if plan.states else stays), *(b for k, b in backward.inputs if k in wanted)]:
            owners.read(b, layout)


def simulate_all(plan: Plan, arena: Arena, batch: int) -> None:
    for variant, found in zip(plan.variants, arena.variants, strict=True):
        for wanted in (set(), set(range(len(plan.inputs)))):
            simulate(plan, variant, found, arena, batch, wanted)


@pytest.mark.parametrize("most", [0, placing.MOST_BY_SIZE], ids=["in order", "by size"])
@pytest.mark.parametrize("seed", range(40))
def test_no_value_of_a_random_program_is_lost(seed: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MOST_BY_SIZE", most)
    program, rows = random_program(seed)
    options = Options(inputs=tuple((r, N) for r in rows), losses=LOSSES, dtype="f64")
    plan = make_plan(run(program, options), options)
    assert plan.arena
    for batch in (1, 2, 7, 1000):
        simulate_all(plan, plan.arena, batch)


@pytest.mark.parametrize("name", MODELS)
def test_no_value_of_an_example_is_lost(name: str) -> None:
    plan = plan_of(*MODELS[name])
    assert plan.arena
    for batch in (1, 3, 100):
        simulate_all(plan, plan.arena, batch)


def moved(arena: Arena, rng: random.Random) -> Arena:
    """The arena with one buffer at another's place in all layouts of its variant."""
    k = rng.randrange(len(arena.variants))
    places = {b: p for layout in arena.variants[k].backward for b, p in layout.places}
    one, other = rng.sample(sorted(places, key=lambda b: b.name), 2)

    def change(layout: Layout) -> Layout:
        return Layout(tuple((b, places[other] if b is one else p) for b, p in layout.places))

    changed = Layouts(change(arena.variants[k].forward), tuple(map(change, arena.variants[k].backward)))
    return replace(arena, variants=(*arena.variants[:k], changed, *arena.variants[k + 1 :]))


@pytest.mark.parametrize("name", ["lenet_dropout", "gru", "mlp"])
def test_the_replay_finds_what_the_simulation_finds(name: str) -> None:
    source, dims = MODELS[name]
    plan = plan_of(source, dims)
    assert plan.arena
    rng, lost = random.Random(1), 0
    for _ in range(60):
        arena = moved(plan.arena, rng)
        try:
            for batch in (1, 3):
                simulate_all(plan, arena, batch)
        except AssertionError:
            lost += 1
            with pytest.raises(KnetInternalError):
                replay(replace(plan, arena=arena))
    assert lost >= 20


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [REPORT_BATCH, 32, 256])
def test_within_5_percent_of_what_must_be_live_at_once(name: str, batch: int) -> None:
    plan = plan_of(*MODELS[name])
    assert bound_bytes(plan, batch) <= peak_bytes(plan, batch) <= 1.05 * bound_bytes(plan, batch)


def test_the_least_of_a_chain_is_the_hand_calculation() -> None:
    # y = relu(a·x), z = b·y, back from the gradient of z: dy = b'·dz is written over by the gradient of the product,
    # and a's gradient reads that and x. Live at once: x, y, z (named: return), dz (gold) and the mask not, dy.
    plan = plan_of("@knet function f(x)\n return par(dims=(4,0)) * relu(par(dims=(32,0)) * x)\nend", (16, N))
    params = 2 * 4 * (4 * 32 + 32 * 16) + 4  # with their gradients, and the loss
    columns = 16 + 32 + 32 + 4 + 4
    none = replace(plan, variants=(replace(plan.variants[0], backward=plan.variants[0].backward[1:2]),))
    assert none.variants[0].backward[0].loss == "none"
    assert bound_bytes(none, 10) == params + 4 * 10 * columns
    assert peak_bytes(plan, 10) < unshared_bytes(plan, 10)


def test_without_an_arena_nothing_is_shared() -> None:
    source, dims = MODELS["mlp"]
    for options in (Options(inputs=(dims,), level=0), Options(inputs=(dims,), arena=False)):
        plan = make_plan(driver.optimise(driver.lower(Source("m.knet", source), None, {}), options), options)
        assert plan.arena is None and peak_bytes(plan, 10) == unshared_bytes(plan, 10)


def test_the_same_memory_each_time() -> None:
    source, dims = MODELS["gru"]
    first, second = plan_of(source, dims), plan_of(source, dims)
    assert first.arena and second.arena and first.arena.ends == second.arena.ends
    assert [len(list(flat(v.forward))) for v in first.variants] == [len(list(flat(v.forward))) for v in second.variants]
    for one, other in zip(first.arena.variants, second.arena.variants, strict=True):
        assert [(b.name, p) for b, p in one.forward.places] == [(b.name, p) for b, p in other.forward.places]
