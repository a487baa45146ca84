"""How a model shows itself: `repr(net)`, a line per operation as in the manual's lesson 1, and the table `summary()`.

Before it: a model's program and the norms of its values. After it: the user's screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from knetc.ir.program import Instr, Program, Variant
from knetc.ir.types import Type, show_dims
from knetc.runtime.check import DTYPES

_HEAD = ("#", "operation", "arguments", "name", "shape", "parameters", "memory", "norm")
_TO_THE_RIGHT = frozenset({"#", "parameters", "memory", "norm"})


class Table(str):
    """Text that an interactive session shows as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class View(NamedTuple):
    """What is to be shown: the variant of the last call, the parameters that `update` changes, and the norm of a value
    (None: not computed).
    """

    program: Program
    variant: Variant
    backend: str
    dtype: str
    trained: Sequence[str]
    norm: Callable[[str], float | None]


class _Row(NamedTuple):
    value: str
    operation: str
    arguments: str
    name: str
    shape: str
    type: Type | None


def listing(view: View) -> str:
    """A heading, then number, operator, arguments, name, dims and norm of each operation."""
    lines = [_heading(view)]
    cells = [(str(n), *row[1:5], _norm(view, row, "norm ")) for n, row in enumerate(_rows(view), 1)]
    widths = [4, *(max((len(row[c]) for row in cells), default=0) for c in range(1, 5)), 0]
    for row in cells:
        padded = [row[0].rjust(4), *(cell.ljust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def summary(view: View) -> Table:
    """The same as a table, with the parameters and the memory of each value, and what they come to.

    The memory of a value with a column for each instance is that of one column.
    """
    table = [_HEAD]
    for number, row in enumerate(_rows(view), 1):
        count = f"{row.type.column:,}" if row.type and row.operation == "par" else ""
        table.append((str(number), *row[1:5], count, _memory(row.type), _norm(view, row)))
    return Table("\n".join([_heading(view), "", *_aligned(table), "", *_totals(view)]))


def _heading(view: View) -> str:
    program = view.program
    conditions = f", conditions {', '.join(program.conditions)}" if program.conditions else ""
    unknown = ", sizes not known before the first forw" if program.stage == "ssa" else ""
    return f"{program.name}: back end {view.backend}, {view.dtype}{conditions}{unknown}"


def _rows(view: View) -> Iterator[_Row]:
    names = view.variant.variables()
    for given in view.program.inputs:
        whole = given.dims is not None and None not in given.dims
        type_ = Type(view.program.dtype, given.dims) if whole else None  # type: ignore[arg-type]
        yield _Row(given.name, "input", "", given.name, show_dims(given.dims), type_)
    for i in view.variant.forward:
        if i.out:
            args = ", ".join(names.get(a, a) for a in i.args)
            yield _Row(i.out, i.op, f"({args})" if args else "", names.get(i.out, i.out), _shape(i), i.type)


def _shape(i: Instr) -> str:
    """The dims of a value; before the sizes are known, what the source says of them."""
    if i.type:
        return show_dims(i.type.dims)
    declared = dict(i.attrs).get("dims")
    return show_dims(tuple(d or None for d in declared)) if isinstance(declared, tuple) else ""  # type: ignore[misc]


def _norm(view: View, row: _Row, before: str = "") -> str:
    size = view.norm(row.value)
    return "" if size is None else f"{before}{size:.6g}"


def _memory(type_: Type | None) -> str:
    if type_ is None:
        return ""
    return _size(type_.column * DTYPES[type_.dtype].itemsize) + (" × N" if type_.batched else "    ")


def _size(count: int) -> str:
    from knetc.codegen.describe import size_text

    return size_text(count)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    right = [head in _TO_THE_RIGHT for head in table[0]]
    lines = []
    for row in table:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(c.rjust(w) if to_right else c.ljust(w) for c, w, to_right in cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _totals(view: View) -> list[str]:
    """Parameters and memory of the whole model; of values, those of this variant, each kept in a place of its own."""
    program = view.program
    params = {name: i.type for name, i in program.params().items()}
    known = [type_ for type_ in params.values() if type_]
    if len(known) < len(params) or program.stage == "ssa":
        return [f"parameters: {len(params)}, of sizes not known before the first forw"]
    learned = sum(type_.column for name, type_ in params.items() if type_ and name in view.trained)
    total = sum(type_.column for type_ in known)
    per_element = DTYPES[view.dtype].itemsize
    columns = sum(row.type.column for row in _rows(view) if row.type and row.type.batched)
    return [
        f"trained parameters: {learned:,}" + (f" of {total:,}" if learned != total else ""),
        f"memory of parameters: {_size(total * per_element)}",
        f"memory of values: {_size(columns * per_element)} a column, if each is kept",
    ]
