"""Memory: where each buffer stands in one arena, so that values that are not needed at the same time share memory.

Before: the plan, every buffer of which could have memory of its own. After: `codegen`, which writes the places as
tables, and `ir.replay`, which proves them. A place is so many elements, plus so many for each column, so that it is
known for every batch size before anything runs; in a list over a whole sequence, plus so many for each column of the
further steps. What lives as long as the model (parameters, state) stands elsewhere.

`ir.lifetimes` says when each buffer is needed, `ir.placing` finds places; here they become those of a whole program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from knetc.ir.lifetimes import Timeline, sequence_timelines, timelines
from knetc.ir.placing import Place, place, size
from knetc.ir.plan import Buffer, PhasePlan, Plan
from knetc.record import Record


class Layout(Record):
    """The places of the buffers of one list of units."""

    places: tuple[tuple[Buffer, Place], ...]


class Layouts(Record):
    """The layouts of a variant: of its forward list, and of each backward list, forward values included; and those of
    the lists over a whole sequence, None where that goes step by step.
    """

    forward: Layout
    backward: tuple[Layout, ...]
    sequence: Layout | None = None
    backward_sequence: tuple[Layout | None, ...] = ()


class Arena(Record):
    """The layouts of every variant, and how far they reach: each end of which no other is above.

    `ends`: of the lists for single steps; `sequence_ends`: of those over whole sequences. `apart`: what stands in
    frames that have memory of their own; if it is empty, all values stand here that are not on the stack.
    """

    variants: tuple[Layouts, ...]
    ends: tuple[Place, ...]
    sequence_ends: tuple[Place, ...] = ()
    apart: frozenset[Buffer] = frozenset()

    def elements(self, batch: int, steps: int = 1) -> int:
        """The size for `batch` columns, or for so many steps of them at once."""
        ends = self.ends if steps == 1 else (*self.ends, *self.sequence_ends)
        return max((end.elements(batch, steps) for end in ends), default=0)


def make_arena(plan: Plan, apart: frozenset[Buffer] = frozenset()) -> Arena:
    """Where the values of every variant stand while it runs forward and then back, but for those that stand apart."""
    variants = []
    ends: set[Place] = set()
    sequence_ends: set[Place] = set()
    for variant in plan.variants:
        times = timelines(plan, variant, apart)
        found = place(times)
        for places in found:
            ends.update(at + size(s) for s, at in places.items())
        forward, *backward = (_layout(*pair) for pair in zip(times, found, strict=True))
        sequences = _sequence_layouts(sequence_timelines(plan, variant, apart), sequence_ends)
        variants.append(Layouts(forward, tuple(backward), sequences[0], tuple(sequences[1:])))
    return Arena(tuple(variants), outermost(ends), outermost(sequence_ends), apart)


def _sequence_layouts(times: Sequence[tuple[PhasePlan, Timeline] | None], ends: set[Place]) -> list[Layout | None]:
    """The layouts of a variant's lists over whole sequences, None for what goes step by step; adds to `ends`.

    An array that has the columns of all steps in one of the lists has room for them in all.
    """
    there = [t for t in times if t is not None]
    whole = frozenset(b for phases, time in there for b in phases.having_all_steps(time.spans))
    found = iter(place([time for _, time in there], whole) if there else ())
    layouts: list[Layout | None] = []
    for t in times:
        places = {} if t is None else next(found)
        layouts.append(None if t is None else _layout(t[1], places))
        ends.update(places[s] + size(s, s in whole) for s in (t[1].spans if t else ()))
    return layouts


def outermost(ends: Iterable[Place]) -> tuple[Place, ...]:
    """The places that are below no other."""
    found: list[Place] = []
    for end in sorted(ends, key=lambda p: (-p.fixed, -p.column, -p.later)):
        if not any(end.below(other) for other in found):
            found.append(end)
    return tuple(found)


def _layout(timeline: Timeline, places: dict[Buffer, Place]) -> Layout:
    return Layout(tuple((b, places[slot]) for b, slot in timeline.slots.items()))
