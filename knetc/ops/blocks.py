"""Blocks: several matrices of the same columns one above the other, and the rows that are one of them.

Written by `ir.passes.merge`, so that one matrix product serves several. In memory both are views, wherever the plan can
place them so: the parts of a block stand in it from the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knetc.ir.types import BatchDim, Partial, show_dims
from knetc.lazy import np
from knetc.ops.base import AttrMap, EvalContext, Keyword, OpDef, ShapeMismatch, View, register

if TYPE_CHECKING:
    from knetc.ops.base import Tensor


def _heights(shapes: tuple[Partial, ...]) -> list[int] | None:
    """The rows of each shape; None while some are not known."""
    rows = [s.dims[0] for s in shapes if s.dims]
    return [r for r in rows if isinstance(r, int)] if len(rows) == len(shapes) and None not in rows else None


def _stack_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """(m1,…), (m2,…), … → (m1+m2+…,…); the rest of the dims alike."""
    heights = _heights(args)
    if heights is None:
        return args, out
    first = args[0].dims
    assert first is not None
    if any(isinstance(a.dims and a.dims[0], BatchDim) or (a.dims or ())[1:] != first[1:] for a in args):
        raise ShapeMismatch(f"{', '.join(show_dims(a.dims) for a in args)} cannot be one block", range(len(args)))
    return args, Partial((sum(heights), *first[1:]))


def _rows_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """(m,…) → (count,…)."""
    (x,) = args
    if x.dims is None:
        return args, out
    first, count = attrs["first"], attrs["count"]
    assert isinstance(first, int) and isinstance(count, int)
    if not isinstance(x.dims[0], int) or first < 0 or count < 1 or first + count > x.dims[0]:
        raise ShapeMismatch(f"there are no rows {first} to {first + count} in {show_dims(x.dims)}", [0])
    return args, Partial((count, *x.dims[1:]))


def _stack(ctx: EvalContext, *parts: Tensor) -> Tensor:
    """A block whose parts are views of it, one after the other, is there already."""
    base = parts[0].base
    if base is not None and base.shape == ctx.dims and all(p.base is base for p in parts):
        starts = [p.ctypes.data - base.ctypes.data for p in parts]
        heights = [0, *np.cumsum([p.shape[0] for p in parts])[:-1]]
        if starts == [h * base.itemsize for h in heights]:
            return base
    y = np.empty(ctx.dims, ctx.dtype, order="F")
    np.concatenate(parts, axis=0, out=y)
    return y


def _rows(ctx: EvalContext, x: Tensor) -> Tensor:
    first, count = ctx.attrs["first"], ctx.attrs["count"]
    assert isinstance(first, int) and isinstance(count, int)
    return x[first : first + count]


STACK = register(
    OpDef(
        name="stack",
        doc="The arguments one above the other as a block. Passes write it after the gradients, so it has no gradient.",
        args=("part",),
        variadic=True,
        shape=_stack_shape,
        numpy=_stack,
        cuda=View(),
        shares=True,
    )
)

ROWS = register(
    OpDef(
        name="rows",
        doc="Rows `first` to `first + count` of x. Passes write it after the gradients, so it has no gradient.",
        args=("x",),
        keywords={"first": Keyword(0, internal=True), "count": Keyword(1, internal=True)},
        shape=_rows_shape,
        numpy=_rows,
        cuda=View(),
        shares=True,
    )
)
