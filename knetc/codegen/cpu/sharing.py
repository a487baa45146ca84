"""Memory that values over whole sequences share in an emitted C++ file: what no call needs at once.

Before: `codegen.cpu.functions`, whose functions say what each call touches. After: `codegen.cpu.emit`, which writes
where each value begins, and `codegen.cpu.report`. The way forward and the way back are calls of their own, and what the
one leaves for the other stands in frames: so a value of the one may stand where one of the other does. The functions of
a step and the parts of a sequence touch the same values, so all of them count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, TypeAlias

from knetc.errors import KnetInternalError
from knetc.ir.plan import Buffer
from knetc.record import Record

if TYPE_CHECKING:
    from knetc.codegen.cpu.lines import Function

Call: TypeAlias = "tuple[str, int, int]"
"""Forward or back, the variant, and the loss: a call of a step, or of a sequence, which touches the same values."""

# Elements of which every value's beginning is a multiple, whatever the columns: a line of the cache of float32.
_ALIGNMENT = 16


class Sharing(Record):
    """Where in the shared memory each value begins, in elements a column, and how many elements a column it has."""

    places: dict[Buffer, int]
    column: int


def share_memory(found: Iterable[Function], values: Collection[Buffer]) -> Sharing:
    """Places for values, none of which overlaps one that a call needs too.

    Values that the same calls need stand one after the other. Of such groups the largest is placed first, each as low
    as those before it allow: there are few, whatever the size of the model. Raises KnetInternalError where two values
    that a call needs overlap after all.
    """
    groups: dict[frozenset[Call], list[Buffer]] = {}
    for b, needed in _calls(found, frozenset(values)).items():
        groups.setdefault(frozenset(needed), []).append(b)
    sizes = {calls: sum(map(_size, members)) for calls, members in groups.items()}
    starts: dict[frozenset[Call], int] = {}
    for calls in sorted(groups, key=lambda calls: -sizes[calls]):
        starts[calls] = _lowest(sizes[calls], [(at, at + sizes[o]) for o, at in starts.items() if o & calls])
    places: dict[Buffer, int] = {}
    for calls, members in groups.items():
        ends = accumulate(map(_size, members), initial=starts[calls])
        places |= dict(zip(members, ends, strict=False))
    column = max((places[b] + _size(b) for b in places), default=0)
    _check(groups, places)
    return Sharing(places, column)


def _lowest(size: int, taken: Iterable[tuple[int, int]]) -> int:
    """The lowest place for so many elements between stretches that are taken."""
    at = 0
    for first, end in sorted(taken):
        if first - at >= size:
            break
        at = max(at, end)
    return at


def _size(b: Buffer) -> int:
    return -(-b.type.column // _ALIGNMENT) * _ALIGNMENT


def _calls(found: Iterable[Function], values: frozenset[Buffer]) -> dict[Buffer, set[Call]]:
    """The calls that touch each of the values."""
    calls: dict[Buffer, set[Call]] = {}
    for f in found:
        roots = dict.fromkeys(access.root for a in f.actions() for access in (*a.wide, *a.narrow))
        for b in roots:
            if isinstance(b, Buffer) and b in values:
                calls.setdefault(b, set()).add((f.kind, f.variant, f.loss))
    return calls


def _check(groups: Mapping[frozenset[Call], Sequence[Buffer]], places: Mapping[Buffer, int]) -> None:
    """Goes through the values of each call from the lowest place up."""
    by_call: dict[Call, list[Buffer]] = {}
    for calls, members in groups.items():
        for call in calls:
            by_call.setdefault(call, []).extend(members)
    for members in by_call.values():
        for b, above in pairwise(sorted(members, key=lambda b: places[b])):
            if places[b] + b.type.column > places[above]:
                raise KnetInternalError(f"{b.name} and {above.name} share memory, and a call needs both")
