"""Proves a layout: no two buffers whose values are needed at the same time share an element, for any batch size.

After `ir.memory`, whose mistakes it is meant to find: it works out for itself when each value is needed, from the last
unit to the first, and looks at the neighbours in the arena of everything that becomes live. The largest set that is
live at once is the least that any layout could do with.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from knetc.errors import KnetInternalError
from knetc.ir.lifetimes import SHARING, may_share, one_each
from knetc.ir.memory import Arena, Layout
from knetc.ir.placing import Place
from knetc.ir.plan import BackwardPlan, Buffer, Plan, Unit, VariantPlan, flat

Shared: TypeAlias = "Callable[[list[tuple[Buffer, Buffer]]], list[tuple[Buffer, Buffer]]]"


def prove(plan: Plan, arena: Arena) -> None:
    """Raises KnetInternalError where a layout lets live buffers overlap, or moves one between forward and backward."""
    for variant, found in zip(plan.variants, arena.variants, strict=True):
        _prove(variant.forward, _after_forward(plan, variant), found.forward, arena)
        forward = dict(found.forward.places)
        for b, layout in zip(variant.backward, found.backward, strict=True):
            moved = [x.name for x, place in layout.places if forward.get(x, place) != place]
            if moved:
                raise KnetInternalError(f"{', '.join(moved)} would have to move before the backward pass")
            _prove(variant.forward, _after_forward(plan, variant) | _gold(b), layout, arena)
            _prove(b.steps, _after_backward(plan, variant, b), layout, arena)


def least(plan: Plan, variant: VariantPlan, batch: int) -> int:
    """The bytes of the largest set of buffers in the arena that are live at once."""
    lists = [(variant.forward, _after_forward(plan, variant))]
    lists += [(variant.forward, lists[0][1] | _gold(b)) for b in variant.backward]
    lists += [(b.steps, _after_backward(plan, variant, b)) for b in variant.backward]
    most = 0
    for units, after in lists:
        now = 0
        for born, buffer in _changes(units, after, one_each):
            now += buffer.bytes(batch) if born else -buffer.bytes(batch)
            most = max(most, now)
    return most


def _after_forward(plan: Plan, variant: VariantPlan) -> set[Buffer]:
    """What must be there after the forward list: named values, the result, and what a backward list reads."""
    found = {b.root for _, b in variant.names} | set(variant.frame) | set(plan.inputs)
    return found | ({variant.result.root} if variant.result is not None else set())


def _gold(backward: BackwardPlan) -> set[Buffer]:
    """The desired output of a backward list, which a training step is given before its forward list runs."""
    read = (a for s in flat(backward.steps) for a in s.args)
    return {b.root for b in (*read, *(at for _, at in backward.inputs)) if b.root.kind == "gold"}


def _after_backward(plan: Plan, variant: VariantPlan, backward: BackwardPlan) -> set[Buffer]:
    """What must be there after a backward list: named values and inputs' gradients; without state the inputs, so that
    the forward call can be repeated, and with state all that another backward list might read.
    """
    found = {b.root for _, b in variant.names} | {b.root for _, b in backward.inputs} | set(plan.inputs)
    return found | _after_forward(plan, variant) if plan.states else found


def _changes(units: Sequence[Unit], after: AbstractSet[Buffer], shared: Shared) -> Iterator[tuple[bool, Buffer]]:
    """From the last unit to the first, what becomes live (True) and what ceases to be (False).

    While a unit runs, what it reads, what it writes and what it leaves alone are live at once. But a result may stand
    where an argument stood that is read for the last time, if both are gone through element by element: of such a pair
    the one is live before the unit, the other after it. `shared` says which of the pairs that may do so do.
    """
    live = {b for b in after if b.kind in SHARING}
    yield from ((True, b) for b in sorted(live, key=lambda b: b.name))
    first = {s.out.root: k for k in range(len(units) - 1, -1, -1) for s in flat([units[k]])}
    for k in range(len(units) - 1, -1, -1):
        steps = list(flat([units[k]]))
        outs = [b for b in dict.fromkeys(s.out.root for s in steps) if b.kind in SHARING]
        outside = dict.fromkeys(a.root for s in steps for a in s.args if first.get(a.root) != k)
        reads = [b for b in outside if b.kind in SHARING]
        dying = {b for b in reads if b not in live and b.kind != "input"}
        late = {a for _, a in shared([(out, a) for out, a in may_share(units[k]) if a in dying and first[out] == k])}
        for b in (*outs, *(r for r in reads if r not in late)):
            if b not in live:
                live.add(b)
                yield True, b
        for b in outs:
            if first[b] == k:
                live.discard(b)
                yield False, b
        for b in sorted(late, key=lambda b: b.name):
            live.add(b)
            yield True, b


def _prove(units: Sequence[Unit], after: AbstractSet[Buffer], layout: Layout, arena: Arena) -> None:
    """Goes through the changes and looks at the neighbours of everything that becomes live.

    Of buffers that do not overlap, whatever the batch, one ends below the beginning of the other; so those that are
    live at once stand in a row, in which each need only be compared with those beside it.
    """
    places = dict(layout.places)
    row: list[tuple[int, Place, Place, str]] = []
    for born, b in _changes(units, after, lambda pairs: [(o, a) for o, a in pairs if places.get(o) == places.get(a)]):
        if b not in places:
            raise KnetInternalError(f"{b.name} has no place in the arena")
        span = _span(b, places[b], arena)
        at = bisect_left(row, span[0], key=lambda s: s[0])
        if not born:
            del row[at]
            continue
        for other in row[max(at - 1, 0) : at + 1]:
            if not (other[2].below(span[1]) or span[2].below(other[1])):
                raise KnetInternalError(f"the arena lets {b.name} and {other[3]} overlap")
        row.insert(at, span)


def _span(buffer: Buffer, place: Place, arena: Arena) -> tuple[int, Place, Place, str]:
    """Where a buffer begins and ends, by the place of its beginning for a batch of 1."""
    end = place + Place(*((0, buffer.type.column) if buffer.type.batched else (buffer.type.column, 0)))
    if not Place(0, 0).below(place) or not any(end.below(e) for e in arena.ends):
        raise KnetInternalError(f"{buffer.name} does not stand in the arena")
    return place.elements(1), place, end, buffer.name
