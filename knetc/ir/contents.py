"""Who holds what: the memory of a plan, with the names of values in it in place of numbers.

Part of `ir.replay`, which writes and reads it. A `Cell` is the memory of one buffer for the columns of one step, in one
frame or outside of frames. Cells have memory of their own, but for those that stand in the arena: there a write leaves
nothing of what it overlaps, for whatever batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from knetc.ir.placing import Place
from knetc.record import Record

Cell: TypeAlias = "tuple[int, int, int]"
"""The number of the frame, 0 outside of frames; that of the buffer; and the step whose columns they are."""


class Held(NamedTuple):
    """Rows of a buffer that hold the rows of a value from row `offset` on.

    `stamp` tells the call and the step that computed the value; `wanted` the input gradients for which alone it did.
    """

    first: int
    height: int
    value: str
    offset: int
    stamp: int
    wanted: frozenset[int] | None


class Span(Record):
    """Where a buffer stands in the arena; `at`: its beginning for one step with a batch of 1."""

    at: int
    begin: Place
    end: Place


class Memory:
    """What every cell holds. `_spans`: those in the arena of which nothing has been overwritten, `_row` in order."""

    def __init__(self) -> None:
        self._held: dict[Cell, tuple[Held, ...]] = {}
        self._spans: dict[Cell, Span] = {}
        self._row: list[tuple[Span, Cell]] = []
        self._starts: list[int] = []

    def read(self, cell: Cell, first: int, height: int, span: Span | None) -> Sequence[Held]:
        """What these rows hold, in order, as few pieces as can be; nothing where the cell does not stand at `span`."""
        held = self._held.get(cell, ())
        there = self._spans.get(cell)
        if not held or (there is not span and there != span):
            return ()
        if len(held) == 1 and held[0].first == first and held[0].height == height:
            return held
        found: list[Held] = []
        for piece in held:
            start, end = max(piece.first, first), min(piece.first + piece.height, first + height)
            if start >= end:
                continue
            piece = piece._replace(first=start, height=end - start, offset=piece.offset + start - piece.first)
            if found and _go_on(found[-1], piece):
                piece = piece._replace(
                    first=found[-1].first, height=found[-1].height + piece.height, offset=found[-1].offset
                )
                found.pop()
            found.append(piece)
        return found

    def claim(self, cell: Cell, span: Span) -> list[Cell]:
        """Gives a cell its place in the arena; returns the cells that lose what they held by that.

        Cells that do not overlap, whatever the batch, stand in a row, in which one that overlaps with the new one has
        no other between them that does not. The steps of one buffer have one place, in which each has its columns.
        """
        there = self._spans.get(cell)
        if there is span or there == span:
            return []
        if there is not None:
            self._leave(cell)
        low = high = bisect_left(self._starts, span.at)
        while low and not self._row[low - 1][0].end.below(span.begin):
            low -= 1
        while high < len(self._row) and not span.end.below(self._row[high][0].begin):
            high += 1
        beside = [(at, other) for at, other in self._row[low:high] if other[:2] == cell[:2] and at == span]
        lost = [other for at, other in self._row[low:high] if (at, other) not in beside]
        for other in lost:
            del self._spans[other]
            self._held.pop(other, None)
        self._row[low:high] = [*beside, (span, cell)]
        self._starts[low:high] = [span.at] * (len(beside) + 1)
        self._spans[cell] = span
        return lost

    def write(self, cell: Cell, pieces: Sequence[Held]) -> None:
        """Lets a cell hold these rows, which are in order, beside those of its rows that they leave alone."""
        first, end = pieces[0].first, pieces[-1].first + pieces[-1].height
        old = self._held.get(cell, ())
        if old and (old[0].first < first or old[-1].first + old[-1].height > end):
            below = [p._replace(height=min(p.height, first - p.first)) for p in old if p.first < first]
            above = [_from_row(p, max(p.first, end)) for p in old if p.first + p.height > end]
            pieces = (*below, *pieces, *above)
        self._held[cell] = tuple(pieces)

    def _leave(self, cell: Cell) -> None:
        at = self._row.index((self._spans.pop(cell), cell))
        del self._row[at], self._starts[at]
        self._held.pop(cell, None)


def _go_on(one: Held, other: Held) -> bool:
    """Whether two pieces are one: rows of one value that follow each other, in memory and in the value."""
    beside = one.first + one.height == other.first and one.offset + one.height == other.offset
    return beside and (one.value, one.stamp, one.wanted) == (other.value, other.stamp, other.wanted)


def _from_row(piece: Held, row: int) -> Held:
    """What is left of a piece from a row on."""
    return piece._replace(first=row, height=piece.first + piece.height - row, offset=piece.offset + row - piece.first)
