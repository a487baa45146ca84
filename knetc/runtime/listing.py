"""The listing that `repr(net)` and `net.summary()` show: a line per operation, as in the manual's lesson 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from knetc.ir.program import Instr, Program, Variant
from knetc.ir.types import show_dims

Row: TypeAlias = tuple[str, str, str, str]


def listing(program: Program, variant: Variant, backend: str, dtype: str, norm: Callable[[str], float | None]) -> str:
    """A heading, then number, operator, arguments, name, dims and norm of each operation of `variant`.

    `norm` gives the norm of a value, None where it has not been computed.
    """
    names = {value: name for name, value in reversed(variant.names)}
    rows: list[tuple[str, Row]] = [(i.name, ("input", "", i.name, show_dims(i.dims))) for i in program.inputs]
    rows += [(i.out, _operation(i, names)) for i in variant.forward if i.out]
    widths = [max((len(row[c]) for _, row in rows), default=0) for c in range(4)]
    lines = [_heading(program, backend, dtype)]
    for number, (value, row) in enumerate(rows, 1):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        size = norm(value)
        lines.append(f"{number:4}  {cells}  {'' if size is None else f'norm {size:.6g}'}".rstrip())
    return "\n".join(lines)


def _heading(program: Program, backend: str, dtype: str) -> str:
    conditions = f", conditions {', '.join(program.conditions)}" if program.conditions else ""
    unknown = ", sizes not known before the first forw" if program.stage == "ssa" else ""
    return f"{program.name}: back end {backend}, {dtype}{conditions}{unknown}"


def _operation(i: Instr, names: dict[str, str]) -> Row:
    args = ", ".join(names.get(a, a) for a in i.args)
    return i.op, f"({args})" if args else "", names.get(i.out, i.out), show_dims(i.type.dims) if i.type else ""
