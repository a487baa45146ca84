"""Which part of each array a thread reads and writes, and what follows: where threads must wait for one another.

All threads run the same statements, each on its part. Before: `codegen.cpu.steps`, which states the accesses of each
statement. After: `codegen.cpu.functions`, which orders the statements and writes barriers where they are needed, and
nowhere else.

A call runs in one of two ways. *Wide*: a thread has columns of its own. *Narrow*, with fewer columns than threads: it
has all columns, and a part of the rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from knetc.ir.plan import Buffer, Unit
from knetc.record import Record

Mode: TypeAlias = Literal["wide", "narrow"]
MODES: Final[tuple[Mode, ...]] = ("wide", "narrow")


class Part(Record):
    """What one thread touches of an array.

    `columns`: its own columns. `share`: of `units` equal stretches its share, those of every column where the array has
    columns. `strips`: its share of the `units` rows of a matrix. `all`: everything. `own`: an array of the thread's
    own.
    """

    kind: str
    units: int = 0


COLUMNS = Part("columns")
ALL = Part("all")
OWN = Part("own")


def share(units: int) -> Part:
    """A share of so many equal stretches; of one stretch, all that one thread has."""
    return Part("share", units)


def strips(units: int) -> Part:
    """A share of the rows of a matrix."""
    return Part("strips", units)


class Access(Record):
    """How a statement touches an array: a buffer, or by its name an array that each thread has."""

    what: Buffer | str
    part: Part
    writes: bool = False

    @property
    def root(self) -> Buffer | str:
        """What has the memory: the block that a view is rows of."""
        return self.what.root if isinstance(self.what, Buffer) else self.what

    @property
    def place(self) -> Place:
        """Where in the memory of the root."""
        b = self.what
        if not isinstance(b, Buffer) or b.base is None:
            return Place(self.part, 0, _ALL_ROWS)
        height = b.type.dims[0]
        return Place(self.part, b.first, b.first + (height if isinstance(height, int) else 1))


_ALL_ROWS = 1 << 31


class Place(NamedTuple):
    """A part of the rows from `first` to before `end` of an array."""

    part: Part
    first: int
    end: int

    def meets(self, other: Place) -> bool:
        """Whether one thread's share of this may hold elements of another thread's share of the other."""
        if self.end <= other.first or other.end <= self.first or self.part == other.part == COLUMNS:
            return False
        return self != other or self.part == ALL


class Columns(NamedTuple):
    """How a statement names the columns that it is about: the first, and how many.

    `part`: of a function over a whole sequence, whether it is about the columns of `all` steps, or of one `step`; then
    `whole` are the arrays that have the columns of all steps, where those of the step begin at `at`.
    """

    first: str
    number: str
    part: str = ""
    whole: frozenset[Buffer] = frozenset()

    def of(self, buffer: Buffer) -> str:
        """The first of the columns in that array."""
        if buffer.root not in self.whole:
            return self.first
        return "at" if self.first == "0" else f"at + {self.first}"

    @property
    def every(self) -> Columns:
        """All columns that the function is about."""
        return self._replace(first="0", number="N")

    @property
    def batch(self) -> str:
        """How many columns a step has."""
        return "m->batch" if self.part == "all" else "N"


@dataclass(frozen=True, eq=False)
class Action:
    """One statement, which every thread runs on its part.

    `text` writes it for some columns; `value` says what it computes. `by_columns`: in a wide call it needs the thread's
    own columns only. `image`: it works on images, so it runs block by block. `dense`: it reads inputs as arrays, even
    where they are given as the rows of a one-hot matrix.
    """

    unit: Unit | None
    text: Callable[[Columns], str]
    value: str
    wide: tuple[Access, ...]
    narrow: tuple[Access, ...]
    by_columns: bool = False
    image: bool = False
    dense: bool = True

    def accesses(self, mode: Mode) -> tuple[Access, ...]:
        """What the statement touches in a wide or a narrow call."""
        return self.wide if mode == "wide" else self.narrow


class Epoch:
    """What has been touched since the last barrier."""

    def __init__(self) -> None:
        self._read: dict[Buffer | str, set[Place]] = {}
        self._written: dict[Buffer | str, set[Place]] = {}

    def conflicts(self, accesses: Iterable[Access]) -> bool:
        """Whether a thread would touch what another one writes, or write what another one touches."""
        for a in accesses:
            against = self._written.get(a.root, set()) | (self._read.get(a.root, set()) if a.writes else set())
            if any(a.place.meets(p) for p in against):
                return True
        return False

    def add(self, accesses: Iterable[Access]) -> None:
        """Takes note of a statement."""
        for a in accesses:
            (self._written if a.writes else self._read).setdefault(a.root, set()).add(a.place)


def barriers(actions: Sequence[Action], mode: Mode) -> list[bool]:
    """For each statement in order, whether the threads wait for one another before it."""
    epoch, found = Epoch(), []
    for action in actions:
        accesses = action.accesses(mode)
        found.append(epoch.conflicts(accesses))
        if found[-1]:
            epoch = Epoch()
        epoch.add(accesses)
    return found


# --- order ------------------------------------------------------------------------------------------------------------


def ordered(actions: Sequence[Action]) -> list[Action]:
    """The statements in an order that needs few barriers in a wide call: what needs none goes first.

    Each still comes after those that compute what it reads, and all else that touches the same arrays keeps its order
    too. In time linear in their number, but for the logarithm of a queue.
    """
    followers, waits = _dependencies(actions)
    ready: dict[bool, list[int]] = {True: [], False: []}
    for k, action in enumerate(actions):
        if not waits[k]:
            heapq.heappush(ready[action.by_columns], k)
    done: list[Action] = []
    epoch = Epoch()
    later: list[int] = []
    while len(done) < len(actions):
        queue = ready[True] or ready[False]
        if not queue:  # all that is left waits for a barrier
            epoch = Epoch()
            for k in later:
                heapq.heappush(ready[actions[k].by_columns], k)
            later = []
            continue
        k = heapq.heappop(queue)
        accesses = actions[k].accesses("wide")
        if epoch.conflicts(accesses):
            later.append(k)
            continue
        epoch.add(accesses)
        done.append(actions[k])
        for f in followers[k]:
            waits[f] -= 1
            if not waits[f]:
                heapq.heappush(ready[actions[f].by_columns], f)
    return done


def _dependencies(actions: Sequence[Action]) -> tuple[list[list[int]], list[int]]:
    """For each statement, those that must come after it; and for each, how many must come before."""
    followers: list[list[int]] = [[] for _ in actions]
    waits = [0] * len(actions)
    writer: dict[Buffer | str, int] = {}
    readers: dict[Buffer | str, list[int]] = {}
    for k, action in enumerate(actions):
        before: set[int] = set()
        for a in _whole(action):
            if a.root in writer:
                before.add(writer[a.root])
            if a.writes:
                before.update(readers.pop(a.root, ()))
                writer[a.root] = k
            else:
                readers.setdefault(a.root, []).append(k)
        before.discard(k)
        for b in before:
            followers[b].append(k)
        waits[k] = len(before)
    return followers, waits


def _whole(action: Action) -> Iterator[Access]:
    """Every array that the statement touches, those that it reads first."""
    accesses = [*action.wide, *action.narrow]
    yield from (a for a in accesses if not a.writes)
    yield from (a for a in accesses if a.writes)


# --- blocks -----------------------------------------------------------------------------------------------------------


def blocks(actions: Sequence[Action]) -> list[tuple[bool, list[Action]]]:
    """The statements in groups; those of a group that is marked run together, one block of columns after another.

    Such a group is a stretch of statements by columns, from the first to the last that works on images.
    """
    waits = barriers(actions, "wide")
    groups: list[tuple[bool, list[Action]]] = []
    for k, action in enumerate(actions):
        together = action.by_columns and action.image
        if groups and groups[-1][0] and together and not waits[k] or groups and not groups[-1][0] and not together:
            groups[-1][1].append(action)
        else:
            groups.append((together, [action]))
    return [(together and len(group) > 1, group) for together, group in groups]
