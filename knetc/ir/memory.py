"""Memory: where each buffer stands in one arena, so that values that are not needed at the same time share memory.

Before: the plan, every buffer of which could have memory of its own. After: `codegen`, which writes the places as
tables, and `ir.replay`, which proves them. A place is so many elements, plus so many for each column, so that it is
known for every batch size before anything runs. What lives as long as the model (parameters, state) stands elsewhere.

`ir.lifetimes` says when each buffer is needed, `ir.placing` finds places; here they become those of a whole program.
"""

from __future__ import annotations

from collections.abc import Iterable

from knetc.ir.lifetimes import Timeline, timelines
from knetc.ir.placing import Place, place, size
from knetc.ir.plan import Buffer, Plan
from knetc.record import Record


class Layout(Record):
    """The places of the buffers of one list of units."""

    places: tuple[tuple[Buffer, Place], ...]


class Layouts(Record):
    """The layouts of a variant: of its forward list, and of each backward list, forward values included."""

    forward: Layout
    backward: tuple[Layout, ...]


class Arena(Record):
    """The layouts of every variant, and how far they reach: each end of which no other is above."""

    variants: tuple[Layouts, ...]
    ends: tuple[Place, ...]

    def elements(self, batch: int) -> int:
        """The size for `batch` columns."""
        return max((end.elements(batch) for end in self.ends), default=0)


def make_arena(plan: Plan) -> Arena:
    """Where the values of every variant stand while it runs forward and then back."""
    variants = []
    ends: set[Place] = set()
    for variant in plan.variants:
        times = timelines(plan, variant)
        found = place(times)
        for places in found:
            ends.update(at + size(s) for s, at in places.items())
        forward, *backward = (_layout(*pair) for pair in zip(times, found, strict=True))
        variants.append(Layouts(forward, tuple(backward)))
    return Arena(tuple(variants), outermost(ends))


def outermost(ends: Iterable[Place]) -> tuple[Place, ...]:
    """The places that are below no other."""
    found: list[Place] = []
    for end in sorted(ends, key=lambda p: (-p.fixed, -p.column)):
        if not found or end.column > found[-1].column:
            found.append(end)
    return tuple(found)


def _layout(timeline: Timeline, places: dict[Buffer, Place]) -> Layout:
    return Layout(tuple((b, places[slot]) for b, slot in timeline.slots.items()))
