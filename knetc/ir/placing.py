"""Placing: where each slot of memory begins, so that slots that are needed at the same time do not overlap.

Before: `ir.lifetimes`. After: `ir.memory`. A place is so many elements, plus so many for each column of the batch, plus
so many for each column of the further steps of a sequence; one is below another where all three numbers are at most the
other's, and so it is for every batch and every length. Few slots are placed one by one, the largest or the longest
needed first, each as low as those placed before allow: that comes near the least that is possible. Many are placed in
the order of time, which takes hardly more than proportional time: what has a fixed size in one part, what goes with the
batch in another, what goes with the steps above them; what outlives the forward list at the bottom, the rest in the
smallest gap that is free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate
from typing import TypeAlias

from knetc.errors import KnetInternalError
from knetc.ir.lifetimes import Timeline
from knetc.ir.plan import REPORT_BATCH, REPORT_STEPS, Buffer
from knetc.record import Record

Spans: TypeAlias = "Sequence[tuple[int, int] | None]"
"""The first and the last unit at which a slot is needed, in each timeline; None where it is not."""

MOST_BY_SIZE = 60
TRIES = 4

# A large buffer begins at a multiple of 16 bytes, whatever the batch: vector loads and BLAS want that. Between small
# ones the gaps would take more than they are worth.
ALIGNMENT = {"f32": 4, "f64": 2}
SMALL = 128


class Place(Record):
    """Where a buffer begins or how large it is, in elements: `fixed`, plus `column` for each column of the batch, plus
    `later` for each column of every step of a sequence but the first.
    """

    fixed: int
    column: int
    later: int = 0

    def elements(self, batch: int, steps: int = 1) -> int:
        """The number for so many steps of `batch` columns."""
        return self.fixed + batch * (self.column + self.later * (steps - 1))

    @property
    def reported(self) -> int:
        """The number for the batch and the steps for which memory is reported."""
        return self.elements(REPORT_BATCH, REPORT_STEPS)

    def __add__(self, other: Place) -> Place:
        return Place(self.fixed + other.fixed, self.column + other.column, self.later + other.later)

    def below(self, other: Place) -> bool:
        """Whether it is at most the other for every batch and any number of steps."""
        return self.fixed <= other.fixed and self.column <= other.column and self.later <= other.later


def highest(places: Iterable[Place]) -> Place:
    """The lowest place that none of the places is above."""
    found = Place(0, 0)
    for p in places:
        found = Place(max(found.fixed, p.fixed), max(found.column, p.column), max(found.later, p.later))
    return found


def size(buffer: Buffer, whole: bool = False) -> Place:
    """The elements of a buffer; `whole`: of one that has the columns of all steps."""
    elements = buffer.type.column
    return Place(0, elements, elements if whole else 0) if buffer.type.batched else Place(elements, 0)


def alignment(buffer: Buffer) -> int:
    """What all numbers of a buffer's place are multiples of."""
    return 1 if buffer.type.column < SMALL else ALIGNMENT[buffer.type.dtype]


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def place(times: Sequence[Timeline], whole: AbstractSet[Buffer] = frozenset()) -> list[dict[Buffer, Place]]:
    """The place of each slot in each timeline. The timelines begin alike: what is in the first has one place in all.

    `whole`: the slots that have the columns of all steps of a sequence.
    """
    slots = {s: size(s, s in whole) for t in times for s in t.spans}
    if 0 < len(slots) <= MOST_BY_SIZE:
        return [_by_size(times, slots)] * len(times)
    unit = max(ALIGNMENT.values())
    parts: list[dict[Buffer, int]] = [
        {s: _up(n.fixed, unit) for s, n in slots.items() if n.fixed},
        {s: _up(n.column, unit) for s, n in slots.items() if n.column >= SMALL and not n.later},
        {s: n.column for s, n in slots.items() if 0 < n.column < SMALL and not n.later},
        {s: n.column for s, n in slots.items() if n.later},
    ]
    (fixed, end), (column, top), (small, above), (wide, _) = (_in_order(times, part) for part in parts)
    return [
        {s: Place(at, 0) for s, at in fixed[k].items()}
        | {s: Place(end, at) for s, at in column[k].items()}
        | {s: Place(end, top + at) for s, at in small[k].items()}
        | {s: Place(end, top + above + at, at) for s, at in wide[k].items()}
        for k in range(len(times))
    ]


# --- by size ----------------------------------------------------------------------------------------------------------


def _by_size(times: Sequence[Timeline], slots: Mapping[Buffer, Place]) -> dict[Buffer, Place]:
    """The best of several orders: the largest first, what is needed longest first, and from each of them on the same
    with the one first that reached furthest.
    """
    spans = {s: [t.spans.get(s) for t in times] for s in slots}
    sizes = {s: n.reported for s, n in slots.items()}
    large = sorted(slots, key=lambda s: (-sizes[s], -_length(spans[s]), s.name))
    long = sorted(slots, key=lambda s: (-_length(spans[s]), -sizes[s], s.name))
    least = max(_most_live(t, sizes) for t in times)
    best, top = dict[Buffer, Place](), 1 << 62
    for order in (large, long):
        for _ in range(TRIES):
            places = _one_by_one(order, slots, spans)
            reach = {s: at.reported + sizes[s] for s, at in places.items()}
            last = max(order, key=reach.__getitem__)
            if reach[last] < top:
                best, top = places, reach[last]
            if top <= least:
                return best
            order = [last, *(s for s in order if s is not last)]
    return best


def _most_live(t: Timeline, sizes: Mapping[Buffer, int]) -> int:
    """The size of the largest set of slots that are needed at the same time."""
    changes = [(first, 0, sizes[s]) for s, (first, _) in t.spans.items()]
    changes += [(last, 1, -sizes[s]) for s, (_, last) in t.spans.items()]
    return max(accumulate(change for _, _, change in sorted(changes)), default=0)


def _one_by_one(
    order: Sequence[Buffer], slots: Mapping[Buffer, Place], spans: Mapping[Buffer, Spans]
) -> dict[Buffer, Place]:
    placed: dict[Buffer, Place] = {}
    for s in order:
        taken = [(at, at + slots[o]) for o, at in placed.items() if _meet(spans[s], spans[o])]
        placed[s] = _lowest(slots[s], taken, alignment(s))
    return placed


def _lowest(wanted: Place, taken: Sequence[tuple[Place, Place]], unit: int) -> Place:
    """The lowest place beside what is taken, of the ends of those and of the highest ends of the lowest ones."""
    found, top = {Place(0, 0): None}, Place(0, 0)
    for end in sorted((end for _, end in taken), key=lambda p: p.reported):
        top = highest((top, end))
        found.update({Place(*(_up(n, unit) for n in (p.fixed, p.column, p.later))): None for p in (end, top)})
    for at in sorted(found, key=lambda p: p.reported):
        if all(end.below(at) or (at + wanted).below(start) for start, end in taken):
            return at
    raise KnetInternalError("a slot has no place above all others")


def _length(spans: Spans) -> int:
    return max(last - first for first, last in [s for s in spans if s])


def _meet(ones: Spans, others: Spans) -> bool:
    """Whether two slots are needed at the same time in some timeline."""
    return any(a and b and a[0] <= b[1] and b[0] <= a[1] for a, b in zip(ones, others, strict=True))


# --- in the order of time ---------------------------------------------------------------------------------------------


def _in_order(times: Sequence[Timeline], slots: Mapping[Buffer, int]) -> tuple[list[dict[Buffer, int]], int]:
    """The offset of each slot in each timeline, and how far they reach."""
    forward = times[0]
    lasting = [s for s in forward.spans if s in slots and forward.spans[s][1] >= forward.turn]
    # What is there before the forward list where a backward list follows it, and not where none does.
    given = (s for t in times for s, (first, _) in t.spans.items() if first < t.turn and s not in forward.spans)
    start = _Gaps()
    places = {s: start.take(slots[s]) for s in dict.fromkeys((*lasting, *given)) if s in slots}
    _sweep(forward, slots, start.copy(), dict(places), forward=True)
    found, top = [], 0
    for t in times:
        gaps, mine = start.copy(), dict(places)
        _sweep(t, slots, gaps, mine, forward=True)
        if t is not forward:
            _sweep(t, slots, gaps, mine, forward=False)
        found.append(mine)
        top = max(top, gaps.top)
    return found, top


def _sweep(t: Timeline, slots: Mapping[Buffer, int], gaps: _Gaps, places: dict[Buffer, int], forward: bool) -> None:
    """Goes through the births and deaths of one list in order, and adds to `places`."""
    events = []
    for s, (first, last) in t.spans.items():
        if s in slots:
            if (first < t.turn) == forward and s not in places:
                events.append((first, 0, s.name, s))
            if (last < t.turn) == forward:
                events.append((last, 1, s.name, s))
    for _, dies, _, s in sorted(events, key=lambda e: e[:3]):
        if dies:
            gaps.give(places[s], slots[s])
        else:
            places[s] = gaps.take(slots[s])


class _Gaps:
    """What is free below the top, in order."""

    def __init__(self) -> None:
        self.free: list[tuple[int, int]] = []  # where each gap begins and ends
        self.top = 0

    def copy(self) -> _Gaps:
        """The same again, to go on in another way."""
        other = _Gaps()
        other.free, other.top = list(self.free), self.top
        return other

    def take(self, wanted: int) -> int:
        """A place: in the smallest gap that is large enough, else at the top, from a gap below it on."""
        fits = [(end - start, start) for start, end in self.free if end - start >= wanted]
        if fits:
            length, start = min(fits)
            self.free.remove((start, start + length))
            if length > wanted:
                self._add(start + wanted, start + length)
            return start
        start = self.free.pop()[0] if self.free and self.free[-1][1] == self.top else self.top
        self.top = start + wanted
        return start

    def give(self, start: int, length: int) -> None:
        """Makes a place a gap, one with those beside it."""
        end = start + length
        for gap in [g for g in self.free if g[1] == start or g[0] == end]:
            self.free.remove(gap)
            start, end = min(start, gap[0]), max(end, gap[1])
        self._add(start, end)

    def _add(self, start: int, end: int) -> None:
        self.free.append((start, end))
        self.free.sort()
