"""Operators without arguments: parameters, constant and random arrays, state, and zeros.

`par` and `arr` are filled once and live as long as the model; `rnd` is filled at every call. Their shape rule puts
together the declared dims, the dims of an array given as `init`, and what the use of the value says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knetc.ir.types import N, Partial, show_dims
from knetc.lazy import np
from knetc.ops import checks
from knetc.ops.base import (
    AttrMap,
    EvalContext,
    Kernel,
    Keyword,
    NoCode,
    OpDef,
    ShapeMismatch,
    ShapeRule,
    register,
)
from knetc.ops.fillers import check_filler
from knetc.ops.shapes import batch_last, join_dims, no_inference
from knetc.values import Array, Constant, Filler, Identity, Uniform, Value, Xavier

if TYPE_CHECKING:
    from knetc.ops.base import Tensor

# --- shapes -----------------------------------------------------------------------------------------------------------


def _vector_shape(out: Partial, init: Value, assume: bool) -> Partial:
    """The shape under `dims=(0,)`: the use decides along which axis the one unknown length lies."""
    length = len(init.elements()) if isinstance(init, Array) else None
    if isinstance(init, Array) and len(init.dims) != 1:
        raise ShapeMismatch(
            f"dims=(0,) is a vector, and the array given as init has shape {show_dims(init.dims)}", [-1]
        )
    if out.dims is None:
        return Partial((length,)) if assume and length is not None else Partial(None, vector=True)
    if sum(d != 1 for d in out.dims) > 1:
        raise ShapeMismatch(f"dims=(0,) is a vector, and its use needs the shape {show_dims(out.dims)}", [-1])
    if length is None:
        return Partial(out.dims)
    # The one axis that is not 1; where all are 1, the array must have one element.
    axis = next((i for i, d in enumerate(out.dims) if d != 1), None)
    if out.dims[axis] not in (None, length) if axis is not None else length != 1:
        raise ShapeMismatch(
            f"the array given as init has {length} elements, and its use needs the shape {show_dims(out.dims)}", [-1]
        )
    return Partial(tuple(length if i == axis else d for i, d in enumerate(out.dims)))


def _declared_shape(out: Partial, declared: Value, init: Value) -> Partial:
    dims = out.dims
    if isinstance(declared, tuple):
        wanted = tuple(d if isinstance(d, int) and d > 0 else None for d in declared)
        message = f"dims={declared!r} was declared, and its use needs the shape {show_dims(dims)}"
        dims = join_dims(dims, wanted, message, [-1])
    if isinstance(init, Array):
        message = f"the array given as init has shape {show_dims(init.dims)}, which does not fit {show_dims(dims)}"
        dims = join_dims(dims, init.dims, message, [-1])
    return Partial(dims, out.vector and dims is None)


def _source_shape(batched: bool) -> ShapeRule:
    """The rule of par and arr, and of rnd, which alone may hold the batch dimension."""

    def rule(
        args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
    ) -> tuple[tuple[Partial, ...], Partial]:
        init, declared = attrs["init"], attrs["dims"]
        vector = declared == (0,)
        shape = _vector_shape(out, init, assume) if vector else _declared_shape(out, declared, init)
        if shape.dims is not None:
            if N in shape.dims and not batched:
                raise ShapeMismatch(f"a parameter's size would depend on the batch: {show_dims(shape.dims)}", [-1])
            if isinstance(init, Identity) and len(shape.dims) != 2:
                raise ShapeMismatch(f"Identity fills a matrix, and the shape is {show_dims(shape.dims)}", [-1])
            batch_last(shape.dims, -1)
        return (), shape

    return rule


# --- NumPy ------------------------------------------------------------------------------------------------------------


def _draw(ctx: EvalContext) -> Tensor:
    """The array filled by `init`; for par and arr what they hold at the start."""
    init, stream = ctx.attrs["init"], ctx.attrs["stream"]
    assert isinstance(init, Filler | Array) and isinstance(stream, int)
    return ctx.draw(init, stream)


def _zeros(ctx: EvalContext) -> Tensor:
    return np.zeros(ctx.dims, ctx.dtype, order="F")


# --- operators --------------------------------------------------------------------------------------------------------


def _keywords(init: Filler) -> dict[str, Keyword]:
    return {
        "dims": Keyword(None, checks.dims),
        "init": Keyword(init, check_filler),
        "stream": Keyword(0, internal=True),
    }


PAR = register(
    OpDef(
        name="par",
        doc="A trained parameter. No argument, so no gradient flows on; its own gradient ends in `dpar`.",
        args=(),
        keywords=_keywords(Xavier()),
        shape=_source_shape(batched=False),
        numpy=_draw,
        cuda=NoCode(),
        user=True,
        pure=False,
    )
)

ARR = register(
    OpDef(
        name="arr",
        doc="A constant array, filled once. No argument, so no gradient flows on.",
        args=(),
        keywords=_keywords(Constant(0.0)),
        shape=_source_shape(batched=False),
        numpy=_draw,
        cuda=NoCode(),
        user=True,
    )
)

RND = register(
    OpDef(
        name="rnd",
        doc="A random array, filled anew at every call. No argument, so no gradient flows on.",
        args=(),
        keywords=_keywords(Uniform(0.0, 1.0)),
        shape=_source_shape(batched=True),
        numpy=_draw,
        cuda=Kernel("rnd"),
        user=True,
        pure=False,
    )
)

STATE = register(
    OpDef(
        name="state",
        doc="A static variable's value of the call before, zero at the start. Its gradient leaves through `dkeep`.",
        args=(),
        keywords={"var": Keyword("", internal=True)},
        shape=no_inference,
        numpy=_zeros,
        cuda=Kernel("state"),
    )
)

DSTATE = register(
    OpDef(
        name="dstate",
        doc="The gradient of a static variable that comes from the step after, zero at the last step.",
        args=(),
        keywords={"var": Keyword("", internal=True)},
        shape=no_inference,
        numpy=_zeros,
        cuda=Kernel("dstate"),
    )
)

ZEROS = register(
    OpDef(
        name="zeros",
        doc="Zeros of the result's type: a gradient that nothing reaches. No argument, so no gradient flows on.",
        args=(),
        shape=no_inference,
        numpy=_zeros,
        cuda=Kernel("zeros"),
    )
)
