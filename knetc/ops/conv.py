"""Convolution in 2 and 3 dimensions and its two gradients.

The filter is w (W1,…,Wd,I,O), the image x (X1,…,Xd,I,N), the result (Y1,…,Yd,O,N). Mode CUDNN_CONVOLUTION flips the
filter, CUDNN_CROSS_CORRELATION does not; `upscale` is cuDNN's dilation. The NumPy meaning turns every window into a
column of a matrix (im2col) and takes one matrix product.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from knetc.ir.types import Dim, N, Partial, PartialDims, show_dims
from knetc.lazy import np
from knetc.ops import checks
from knetc.ops.base import AttrMap, EvalContext, GradientBuilder, Keyword, Library, OpDef, ShapeMismatch, register
from knetc.ops.shapes import join
from knetc.ops.window import Window, conv_window, image_rank, image_size, inside, offset, slide
from knetc.values import Symbol, Value

if TYPE_CHECKING:
    from knetc.ir.program import Instr
    from knetc.ops.base import Tensor

MODES = ("CUDNN_CONVOLUTION", "CUDNN_CROSS_CORRELATION")

# --- shapes -----------------------------------------------------------------------------------------------------------


def _join_spatial(
    sizes: tuple[Dim | None, Dim | None, Dim | None], padding: int, stride: int, dilation: int
) -> tuple[int | None, int | None, int | None]:
    """One spatial dimension of filter, image and result: Y = 1 + floor((X + 2P − ((W−1)U + 1)) / S).

    Backwards it is solved only for S = 1, where the answer is the only one.
    """
    w, x, y = (image_size(d, i) for d, i in zip(sizes, (0, 1, -1), strict=True))
    if w is not None and x is not None:
        extent, padded = (w - 1) * dilation + 1, x + 2 * padding
        if extent > padded:
            raise ShapeMismatch(f"filter {extent} larger than padded input {padded}", [0, 1])
        size = 1 + (padded - extent) // stride
        return w, x, image_size(join(y, size, f"the convolution gives size {size}, its use needs {y}", [0, 1, -1]), -1)
    if y is None or stride != 1 or (w is None and x is None):
        return w, x, y
    if w is not None:
        return w, _positive(y + (w - 1) * dilation - 2 * padding, 1), y
    assert x is not None
    span = x + 2 * padding - y
    if span % dilation:
        raise ShapeMismatch(f"no filter gives size {y} from {x}", [0, 1, -1])
    return _positive(span // dilation + 1, 0), x, y


def _positive(size: int, operand: int) -> int:
    if size < 1:
        raise ShapeMismatch(f"its use would need a size of {size}", [operand])
    return size


def _conv_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """(W…,I,O), (X…,I,N) → (Y…,O,N); each side gives the channels to the other."""
    rank = image_rank((*args, out), attrs, ("padding", "stride", "upscale"))
    if rank is None:
        return args, out
    d = rank - 2
    window = conv_window(attrs, d)
    w, x, y = ((None,) * rank if p.dims is None else p.dims for p in (*args, out))
    if N in w:
        raise ShapeMismatch(f"the filter's size would depend on the batch: {show_dims(w)}", [0])
    steps = zip(window.padding, window.stride, window.dilation, strict=True)
    spatial = [_join_spatial(s, *step) for s, step in zip(zip(w[:d], x[:d], y[:d], strict=True), steps, strict=True)]
    inputs = _channels(w, x)
    message = f"the filter {show_dims(w)} has {w[-1]} output channels, its use needs {show_dims(y)}"
    outputs = join(w[-1], image_size(y[-2], -1), message, [0, -1])
    batch = join(x[-1], y[-1], f"the batch of the image {show_dims(x)} and of its use {show_dims(y)} differ", [1, -1])
    ws, xs, ys = (tuple(s[i] for s in spatial) for i in range(3))
    return (Partial((*ws, inputs, outputs)), Partial((*xs, inputs, batch))), Partial((*ys, outputs, batch))


def _channels(w: PartialDims, x: PartialDims) -> Dim | None:
    """The input channels, on which filter and image must agree."""
    message = f"the filter {show_dims(w)} takes {w[-2]} input channels, the image {show_dims(x)} has {x[-2]}"
    return join(image_size(w[-2], 0), image_size(x[-2], 1), message, [0, 1])


def _back_w_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    x, dy = args
    (w, x), dy = _conv_shape((out, x), dy, attrs, assume)
    return (x, dy), w


def _back_x_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    w, dy = args
    (w, x), dy = _conv_shape((w, out), dy, attrs, assume)
    return (w, dy), x


# --- NumPy ------------------------------------------------------------------------------------------------------------
#
# Inside, images lie (channels, Xd, …, X1, batch): with the batch innermost, moving windows copies and adds long runs of
# memory, which NumPy does several times faster than the short rows of small images.


def _batch_last(x: Tensor) -> Tensor:
    """A Fortran-ordered image (X1,…,Xd,C,N) as a view (C,Xd,…,X1,N)."""
    return np.moveaxis(x.T, 0, -1)


def _batch_first(x: Tensor) -> Tensor:
    """The way back: (C,Xd,…,X1,N) as a Fortran-ordered array (X1,…,Xd,C,N)."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 0)).T


def _rows(x: Tensor, size: tuple[int, ...], window: Window, out: tuple[int, ...]) -> Tensor:
    """im2col: every window of the images as a column of a matrix (I·Wd·…·W1, Yd·…·Y1·N)."""
    d = len(size)
    total = tuple(n + 2 * p for n, p in zip(x.shape, window.padding, strict=False))
    padded = np.zeros((x.shape[d], *reversed(total), x.shape[-1]), x.dtype)
    padded[inside(x.shape[:d], window.padding)] = _batch_last(x)
    windows = slide(padded, size, window, out)
    return windows.reshape(x.shape[d] * math.prod(size), -1)


def _filter(w: Tensor, mode: Value) -> Tensor:
    """The filter as the matrix (O, I·Wd·…·W1), flipped where the mode says so."""
    t = w.T
    if mode == MODES[0]:
        # A flip can stay a view with negative strides, which BLAS does not take.
        t = np.ascontiguousarray(np.flip(t, tuple(range(2, t.ndim))))
    return t.reshape(t.shape[0], -1)


def _conv(ctx: EvalContext, w: Tensor, x: Tensor) -> Tensor:
    d = x.ndim - 2
    rows = _rows(x, w.shape[:d], conv_window(ctx.attrs, d), ctx.dims[:d])
    y: Tensor = np.matmul(_filter(w, ctx.attrs["mode"]), rows)
    return _batch_first(y.reshape(ctx.dims[-2], *ctx.dims[:d][::-1], ctx.dims[-1]))


def _conv_back_w(ctx: EvalContext, x: Tensor, dy: Tensor) -> Tensor:
    d = x.ndim - 2
    rows = _rows(x, ctx.dims[:d], conv_window(ctx.attrs, d), dy.shape[:d])
    dys = _batch_last(dy).reshape(dy.shape[-2], -1)
    dw: Tensor = np.matmul(dys, rows.T).reshape(ctx.dims[::-1])
    if ctx.attrs["mode"] == MODES[0]:
        dw = np.flip(dw, tuple(range(2, 2 + d)))
    return np.asfortranarray(dw.T)


def _conv_back_x(ctx: EvalContext, w: Tensor, dy: Tensor) -> Tensor:
    """col2im: the gradient of every window, added up where windows overlap, one window position at a time."""
    d = w.ndim - 2
    window, size, out = conv_window(ctx.attrs, d), w.shape[:d], dy.shape[:d]
    rows: Tensor = np.matmul(_filter(w, ctx.attrs["mode"]).T, _batch_last(dy).reshape(dy.shape[-2], -1))
    rows = rows.reshape(ctx.dims[d], *reversed(size), *reversed(out), ctx.dims[-1])
    total = tuple(n + 2 * p for n, p in zip(ctx.dims, window.padding, strict=False))
    dx = np.zeros((ctx.dims[d], *reversed(total), ctx.dims[-1]), ctx.dtype)
    for position in np.ndindex(*reversed(size)):
        dx[offset(position, window, out)] += rows[(slice(None), *position)]
    return _batch_first(dx[inside(ctx.dims[:d], window.padding)])


# --- gradient ---------------------------------------------------------------------------------------------------------


def _conv_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    w, x = instr.args
    attrs = dict(instr.attrs)
    dw = g.emit("conv_back_w", x, dy, like=w, **attrs) if g.wanted(0) else None
    dx = g.emit("conv_back_x", w, dy, like=x, **attrs) if g.wanted(1) else None
    return [dw, dx]


# --- operators --------------------------------------------------------------------------------------------------------

KEYWORDS = {
    "padding": Keyword(0, checks.sizes(0)),
    "stride": Keyword(1, checks.sizes(1)),
    "upscale": Keyword(1, checks.sizes(1)),
    "mode": Keyword(Symbol(MODES[0]), checks.one_of(MODES)),
}

CONV = register(
    OpDef(
        name="conv",
        doc="Convolution of the images x with the filters w.",
        args=("w", "x"),
        keywords=KEYWORDS,
        shape=_conv_shape,
        numpy=_conv,
        cuda=Library("conv"),
        gradient=_conv_gradient,
        reads=("w", "x"),
        user=True,
        weights=(0,),
    )
)

CONV_BACK_W = register(
    OpDef(
        name="conv_back_w",
        doc="Gradient of `conv` by its filters. Second derivatives are not computed, so it has no gradient itself.",
        args=("x", "dy"),
        keywords=KEYWORDS,
        shape=_back_w_shape,
        numpy=_conv_back_w,
        cuda=Library("conv_back_w"),
    )
)

CONV_BACK_X = register(
    OpDef(
        name="conv_back_x",
        doc="Gradient of `conv` by its images. Second derivatives are not computed, so it has no gradient itself.",
        args=("w", "dy"),
        keywords=KEYWORDS,
        shape=_back_x_shape,
        numpy=_conv_back_x,
        cuda=Library("conv_back_x"),
        weights=(0,),
    )
)
