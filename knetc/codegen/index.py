"""Index arithmetic of broadcasting and of sums over dimensions, as C text with the sizes written in.

Before: the dims of a step's buffers. After: `codegen.kernels`, whose templates paste the text. Neighbouring dimensions
that every operand treats alike are one dimension here, so the common cases need no division at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from knetc.errors import KnetInternalError, KnetLimitation
from knetc.ir.plan import Buffer
from knetc.ir.types import BatchDim, Dims
from knetc.record import Record


class Group(Record):
    """Neighbouring dimensions taken as one: elements without the batch, whether the batch is in it, who has it.

    `kept`: for each operand, whether it has these dimensions (or 1 in their place).
    """

    size: int
    batched: bool
    kept: tuple[bool, ...]

    def __str__(self) -> str:
        return f"{'' if self.batched and self.size == 1 else self.size}{'N' if self.batched else ''}"


def collapse(full: Dims, operands: Sequence[Dims], apart: bool = False) -> list[Group]:
    """The groups of `full`, fastest first, as the operands (each of `full`'s dims, missing ones, or ones) divide it.

    `apart`: the first dimension stays by itself, for an operand whose columns lie apart.
    """
    groups: list[Group] = []
    start = 0  # the first dimension of the last group
    for axis, d in enumerate(full):
        if d == 1:
            continue
        batched = isinstance(d, BatchDim)
        size = 1 if isinstance(d, BatchDim) else d
        kept = tuple(axis < len(o) and o[axis] == d for o in operands)
        joins = groups and groups[-1].kept == kept and not groups[-1].batched
        if joins and not (apart and start == 0):
            groups[-1] = Group(groups[-1].size * size, batched, kept)
        else:
            groups.append(Group(size, batched, kept))
            start = axis
    if any(g.batched for g in groups[:-1]):
        raise KnetLimitation("emitted code for an array whose batch dimension is not the last one")
    return groups


def count(dims: Dims) -> str:
    """The number of elements as C text: `7840`, `784 * N`, `N`."""
    size = 1
    for d in dims:
        if not isinstance(d, BatchDim):
            size *= d
    if not any(isinstance(d, BatchDim) for d in dims):
        return str(size)
    return "N" if size == 1 else f"{size} * N"


def extent(buffer: Buffer) -> tuple[int, int, int]:
    """Rows, columns and pitch of a buffer of a fixed size, as a matrix in memory."""
    first = buffer.type.dims[0] if buffer.type.dims else 1
    if isinstance(first, BatchDim) or buffer.type.batched:
        raise KnetInternalError(f"{buffer.name} has no fixed size")
    return first, buffer.type.column // first, buffer.pitch or first


def column_stride(buffer: Buffer) -> int:
    """The elements from one column of the batch to the next."""
    rows = buffer.type.dims[0] if buffer.pitch else 1
    return buffer.type.column // (rows if isinstance(rows, int) else 1) * (buffer.pitch or 1)


def rows_and_columns(dims: Dims) -> tuple[int, str]:
    """Elements in a column, and the number of columns as C text: the last dimension's."""
    rows = 1
    for d in dims[:-1]:
        if isinstance(d, BatchDim):
            raise KnetInternalError(f"the batch is not the last dimension of {dims}")
        rows *= d
    last = dims[-1] if dims else 1
    return rows, "N" if isinstance(last, BatchDim) else str(last)


def _digit(index: str, step: int, size: int, last: bool) -> str:
    """The digit of `index` that counts from 0 to size-1 in steps of `step`."""
    text = index if step == 1 else f"{index} / {step}"
    return text if last else f"{text} % {size}"


def _scaled(digit: str, stride: int) -> str:
    if stride == 1:
        return digit
    return f"{digit} * {stride}" if digit.isidentifier() else f"({digit}) * {stride}"


def operand_index(groups: Sequence[Group], operand: int, index: str) -> str:
    """Where operand `operand` has the element that meets element `index` of the full array."""
    if all(g.kept[operand] for g in groups):
        return index
    strides, stride = [], 1
    for g in groups:
        strides.append(stride)
        stride *= g.size if g.kept[operand] else 1
    return _sum_of_digits(groups, operand, index, strides)


def buffer_index(full: Dims, buffer: Buffer, index: str) -> str:
    """Where a buffer has the element that meets element `index` of an array of dims `full`, to which it expands."""
    groups = collapse(full, [buffer.type.dims], buffer.pitch is not None)
    if buffer.pitch is None:
        return operand_index(groups, 0, index)
    # A view has two dimensions: its rows, of which there may be one alone, and its columns, a pitch apart.
    rows = buffer.type.dims[0] != 1
    kept = [g for g in groups if g.kept[0]]
    strides = [1 if rows and g is kept[0] else buffer.pitch for g in groups]
    return _sum_of_digits(groups, 0, index, strides)


def _sum_of_digits(groups: Sequence[Group], operand: int, index: str, strides: Sequence[int]) -> str:
    """The kept digits of `index`, each times the stride of its group."""
    terms = []
    step = 1
    for g, stride in zip(groups, strides, strict=True):
        if g.kept[operand]:
            terms.append(_scaled(_digit(index, step, g.size, g is groups[-1]), stride))
        step *= g.size
    return " + ".join(terms) or "0"


def part_index(groups: Sequence[Group], kept: bool, index: str, pitch: int | None = None, rows: bool = True) -> str:
    """Offset in the full array of element `index` of its kept (or its other) groups, as operand 0 divides them.

    The sum of the two offsets, for a kept and for a summed index, is the position of one element. `pitch`: how far
    apart the full array's columns lie, where they do not follow each other; `rows`: whether it has several rows then.
    """
    mine = [g for g in groups if g.kept[0] == kept]
    terms = []
    step, stride = 1, 1 if rows or pitch is None else pitch
    for k, g in enumerate(groups):
        if g.kept[0] == kept:
            terms.append(_scaled(_digit(index, step, g.size, g is mine[-1]), stride))
            step *= g.size
        stride = pitch if pitch is not None and k == 0 and rows else stride * g.size
    return " + ".join(terms) or "0"


def part_count(groups: Sequence[Group], kept: bool) -> str:
    """The number of elements of the kept (or the other) groups, as C text."""
    size = 1
    batched = False
    for g in groups:
        if g.kept[0] == kept:
            size *= g.size
            batched |= g.batched
    return count((size,)) if not batched else "N" if size == 1 else f"{size} * N"
