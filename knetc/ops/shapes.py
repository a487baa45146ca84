"""What the shape rules share: joining sizes, the rule of equal shapes, the place of the batch.

Every rule of the operators builds on these; `ir.passes.shapes` calls the rules.
"""

from __future__ import annotations

from collections.abc import Sequence

from knetc.ir.types import BatchDim, Dim, Partial, PartialDims, show_dims
from knetc.ops.base import AttrMap, ShapeMismatch


def join(a: Dim | None, b: Dim | None, message: str, operands: Sequence[int]) -> Dim | None:
    """The size that both stand for, None where neither is known.

    Raises ShapeMismatch with `message` where both are known and differ. N equals N alone.
    """
    if a is None or b is None:
        return b if a is None else a
    if a != b:
        raise ShapeMismatch(message, operands)
    return a


def join_dims(
    a: PartialDims | None, b: PartialDims | None, message: str, operands: Sequence[int]
) -> PartialDims | None:
    """Two views of one shape put together; ShapeMismatch with `message` where they contradict each other."""
    if a is None or b is None:
        return b if a is None else a
    if len(a) != len(b):
        raise ShapeMismatch(message, operands)
    return tuple(join(x, y, message, operands) for x, y in zip(a, b, strict=True))


def join_shapes(a: Partial, b: Partial, message: str, operands: Sequence[int]) -> Partial:
    """As `join_dims`; a vector whose axis is open takes the other's dims."""
    dims = join_dims(a.dims, b.dims, message, operands)
    return Partial(dims, vector=dims is None and (a.vector or b.vector))


def batch_last(dims: PartialDims | None, *operands: int) -> None:
    """Raises ShapeMismatch where the batch is a dimension other than the last."""
    if dims is not None and any(isinstance(d, BatchDim) for d in dims[:-1]):
        raise ShapeMismatch(
            f"the batch N must be the last dimension, here the shape would be {show_dims(dims)}", operands
        )


def same_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """The shape rule of an operator whose arguments and result all have one shape."""
    shape = out
    for index, arg in enumerate(args):
        message = f"shapes {show_dims(shape.dims)} and {show_dims(arg.dims)} must be equal"
        shape = join_shapes(shape, arg, message, [index, -1] if index == 0 else [index - 1, index])
    batch_last(shape.dims, -1)
    return (shape,) * len(args), shape


def no_inference(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """The shape rule of an operator from whose shapes nothing follows (effects, values typed by a pass)."""
    return args, out


def product(dims: Sequence[Dim | None]) -> Dim | None:
    """The number of elements; None where a size is unknown, N where the batch alone remains.

    N times anything but 1 has no name among the sizes: it counts as unknown.
    """
    size = 1
    batch: BatchDim | None = None
    for d in dims:
        if d is None:
            return None
        if isinstance(d, BatchDim):
            if batch is not None:
                return None
            batch = d
        else:
            size *= d
    if batch is None:
        return size
    return batch if size == 1 else None
