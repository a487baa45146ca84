"""The arena of whole sequences: a simulation that knows who owns each element finds every value intact when it is read.

As `test_memory.py`, for lists whose arrays have the columns of one step or of all. The simulation counts elements, for
so many columns and steps; it knows nothing of lifetimes or of `ir.replay`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from fuzz.programs import random_model

from knetc import driver
from knetc.errors import KnetError, KnetInternalError, Source
from knetc.ir import placing
from knetc.ir.footprint import bound_bytes, peak_bytes, unshared_bytes, whole_bound_bytes, whole_bytes
from knetc.ir.lifetimes import Timeline
from knetc.ir.memory import Arena, Layout
from knetc.ir.plan import REPORT_BATCH, Buffer, PhasePlan, Plan, Unit, flat
from knetc.ir.replay import replay
from knetc.ir.sequence_plan import device_plan
from knetc.ir.types import N
from knetc.options import Options
from knetc.record import replace

from .test_memory import EXAMPLES, LOSSES, MODELS

SEQUENCES = {
    **{name: MODELS[name] for name in ("charlm", "gru", "adding")},
    "pixels": ((EXAMPLES / "pixels.knet").read_text(), (28, N)),
    "copyseq": ((EXAMPLES / "copyseq.knet").read_text(), (12, N)),
}


def planned(source: str, *dims: tuple) -> Plan:
    options = Options(inputs=dims, losses=LOSSES)
    return device_plan(driver.optimise(driver.lower(Source("model.knet", source), None, {}), options), options)


@cache
def plan_of(name: str) -> Plan:
    return planned(*SEQUENCES[name])


class Owners:
    """For so many columns and steps, the buffer and the step that each element of the arena belongs to."""

    def __init__(self, arena: Arena, layout: Layout, phases: PhasePlan, batch: int, steps: int) -> None:
        self.names = np.full(arena.elements(batch, steps), "", object)
        self.places = {b: place.elements(batch, steps) for b, place in layout.places}
        self.phases = phases
        self.all = phases.of_all_steps
        self.batch = batch
        self.steps = steps

    def run(self) -> None:
        """The three lists, the loop forward or back."""
        self.write_all(b for b in self.places if b.kind in ("input", "gold", "mask"))
        for unit in self.phases.before:
            self.unit(unit, range(self.steps))
        back = any(s.instr.op in ("dstate", "dkeep") for s in flat(self.phases.loop))
        for step in reversed(range(self.steps)) if back else range(self.steps):
            for unit in self.phases.loop:
                self.unit(unit, [step])
        for unit in self.phases.after:
            self.unit(unit, range(self.steps))

    def unit(self, unit: Unit, steps: Sequence[int]) -> None:
        """A unit for one step, or for all: it may write over no array that it reads but at the element's own place."""
        parts = list(flat([unit]))
        own = {s.out for s in parts}
        args = [(j, a) for j, s in enumerate(parts) for a in s.args if a not in own and a.root in self.places]
        outs = [(k, s.out) for k, s in enumerate(parts) if s.out.root in self.places]
        for _, a in args:
            for at, owner in self.cells(a, steps):
                assert set(self.names[at]) == {owner}, f"{a.name} was overwritten"
        for k, out in outs:
            for j, a in args:
                if out.root is not a.root:
                    for (mine, _), (other, _) in zip(self.cells(out, steps), self.cells(a, steps), strict=False):
                        beside = mine.stop <= other.start or other.stop <= mine.start
                        assert beside or (mine == other and a.type == out.type and j <= k), (out.name, a.name)
        for _, out in outs:
            for at, owner in self.cells(out, steps):
                self.names[at] = owner

    def cells(self, b: Buffer, steps: Sequence[int]) -> list[tuple[slice, str]]:
        """The elements of a buffer for these steps, and whose they are."""
        at, size = self.places[b.root], b.root.elements(self.batch)
        assert at >= 0
        if not b.root.type.batched:
            return [(slice(at, at + size), b.root.name)]
        wide = b.kind in ("input", "gold", "mask") or b.root in self.all
        found = [(slice(at + wide * s * size, at + wide * s * size + size), f"{b.root.name} of {s}") for s in steps]
        assert found[-1][0].stop <= len(self.names), f"{b.name} is not in the arena"
        return found

    def write_all(self, buffers: Iterable[Buffer]) -> None:
        """What is given has the columns of all steps."""
        for b in buffers:
            for at, owner in self.cells(b, range(self.steps)):
                self.names[at] = owner


def simulate(plan: Plan, arena: Arena, batch: int, steps: int) -> int:
    """All lists over whole sequences, and how many there are; AssertionError where a value is lost."""
    lists = 0
    for v, found in zip(plan.variants, arena.variants, strict=True):
        phases = [(v.phases, found.sequence)]
        phases += zip((b.phases for b in v.backward), found.backward_sequence, strict=True)
        for x, layout in phases:
            assert (x is None) == (layout is None)
            if x is not None and layout is not None:
                Owners(arena, layout, x, batch, steps).run()
                lists += 1
    return lists


@pytest.mark.parametrize("most", [0, placing.MOST_BY_SIZE], ids=["in order", "by size"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_no_value_of_an_example_is_lost(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MOST_BY_SIZE", most)
    plan = planned(*SEQUENCES[name])
    assert plan.arena
    for batch, steps in ((1, 2), (3, 5), (100, 7)):
        assert simulate(plan, plan.arena, batch, steps) >= 3


def test_no_value_of_many_layers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many that they are placed in the order of time."""
    in_order, wide = placing._in_order, list[int]()

    def seen(times: Sequence[Timeline], slots: Mapping[Buffer, int]) -> tuple[list[dict[Buffer, int]], int]:
        wide.append(len(slots))
        return in_order(times, slots)

    monkeypatch.setattr(placing, "_in_order", seen)
    layers = "\n".join(f"h{k} = gru(h{k - 1}; out=8)" for k in range(1, 13))
    plan = planned(f"@knet function f(h0)\n{layers}\nreturn wbf(h12; out=3, f=:soft)\nend", (5, N))
    assert plan.arena and wide
    assert simulate(plan, plan.arena, 2, 3) == 1 + len(LOSSES)


@pytest.mark.parametrize("most", [0, placing.MOST_BY_SIZE], ids=["in order", "by size"])
@pytest.mark.parametrize("first", range(0, 120, 20))
def test_no_value_of_a_random_model_is_lost(first: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MOST_BY_SIZE", most)
    lists = 0
    for seed in range(first, first + 20):
        made = random_model(random.Random(seed))
        dims = tuple(d if whole else (*d, N) for d, whole in zip(made.inputs, made.whole, strict=True))
        options = Options(inputs=dims, losses=LOSSES)
        try:
            program = driver.optimise(driver.lower(Source("m.knet", made.source), None, {}), options)
        except KnetInternalError:
            raise
        except KnetError:
            continue
        plan = device_plan(program, options)
        if plan.arena and plan.arena.sequence_ends:
            lists += simulate(plan, plan.arena, 1, 3) + simulate(plan, plan.arena, 5, 2)
            assert whole_bound_bytes(plan, 10) <= whole_bytes(plan, 10)
    assert lists >= 4


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("batch", [REPORT_BATCH, 32, 256])
def test_within_5_percent_of_what_must_be_live_at_once(name: str, batch: int) -> None:
    plan = plan_of(name)
    assert bound_bytes(plan, batch) <= peak_bytes(plan, batch) <= 1.05 * bound_bytes(plan, batch)
    assert peak_bytes(plan, batch) < unshared_bytes(plan, batch)
    assert whole_bound_bytes(plan, batch) <= whole_bytes(plan, batch) <= 1.05 * whole_bound_bytes(plan, batch)


def test_the_least_of_a_step_is_the_hand_calculation() -> None:
    # The way back reads x, h and the h before, for w and r alike: a frame of 2 + 2 * 3 a column. Beside it are live at
    # once, for each step, the projection w·x into the loop; on the way back the desired output, turned in its place to
    # the gradient of h, which is turned to that of the sum in the loop: no more than twice 3 either way.
    source = "@knet function f(x)\n w = par(dims=(3,0))\n r = par(dims=(3,0))\n h = tanh(w*x .+ r*h)\n return h\nend"
    options = Options(inputs=((2, N),), losses=("none",))
    plan = device_plan(driver.optimise(driver.lower(Source("m.knet", source), None, {}), options), options)
    frame = sum(b.type.column for b in plan.variants[0].frame)
    assert frame == 2 + 2 * 3
    assert whole_bound_bytes(plan, 10) == 4 * 10 * (frame + 2 * 3)


def moved(arena: Arena, rng: random.Random) -> Arena:
    """The arena with one buffer at another's place in one list over a whole sequence."""
    k = rng.randrange(len(arena.variants))
    found = arena.variants[k]
    j = rng.randrange(len(found.backward_sequence))
    layout = found.backward_sequence[j]
    assert layout is not None
    one, other = rng.sample(range(len(layout.places)), 2)
    places = list(layout.places)
    places[one] = (places[one][0], places[other][1])
    changed = (*found.backward_sequence[:j], Layout(tuple(places)), *found.backward_sequence[j + 1 :])
    variants = (*arena.variants[:k], replace(found, backward_sequence=changed), *arena.variants[k + 1 :])
    return replace(arena, variants=variants)


@pytest.mark.parametrize("name", ["charlm", "gru", "pixels"])
def test_the_replay_finds_what_the_simulation_finds(name: str) -> None:
    plan = plan_of(name)
    assert plan.arena
    rng, lost = random.Random(1), 0
    for _ in range(60):
        arena = moved(plan.arena, rng)
        try:
            simulate(plan, arena, 3, 4)
        except AssertionError:
            lost += 1
            with pytest.raises(KnetInternalError):
                replay(replace(plan, arena=arena))
    assert lost >= 15


def test_the_bound_counts_no_place_that_a_result_in_the_frame_gives_free() -> None:
    # y is left in the frame and overwrites no part of the arena, so the sum that it is made of is beside it.
    source = "@knet function f(x)\n h = tanh(x .+ par(dims=(30,30)) * h)\n return tanh(par(dims=(30,30)) * h .+ x)\nend"
    plan = planned(source, (30, N))
    assert whole_bound_bytes(plan, 10) <= whole_bytes(plan, 10) <= 1.05 * whole_bound_bytes(plan, 10)
