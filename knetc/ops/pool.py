"""Pooling: the maximum or the average of every window of an image, in 2 and 3 dimensions.

Y = 1 + ceil((X + 2·padding − window) / stride), so a last partial window counts. Padding never wins over a real element
in a maximum; CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING divides by the full window, …EXCLUDE_PADDING by the real
elements in it. A window without any real element gives 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knetc.ir.types import Dim, Partial
from knetc.lazy import np
from knetc.ops import checks
from knetc.ops.base import AttrMap, EvalContext, GradientBuilder, Keyword, Library, OpDef, ShapeMismatch, register
from knetc.ops.shapes import join
from knetc.ops.window import Window, image_rank, image_size, inside, offset, pad, pool_window
from knetc.values import Symbol

if TYPE_CHECKING:
    from knetc.ir.program import Instr
    from knetc.ops.base import Tensor

MAX = "CUDNN_POOLING_MAX"
INCLUDE = "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING"
EXCLUDE = "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING"

# --- shapes -----------------------------------------------------------------------------------------------------------


def _join_spatial(x: int | None, y: int | None, size: int, padding: int, stride: int) -> tuple[int | None, int | None]:
    if x is None:
        return x, y
    pooled = 1 - (size - x - 2 * padding) // stride
    if pooled < 1:
        raise ShapeMismatch(f"window {size} larger than padded input {x + 2 * padding}", [0])
    return x, image_size(join(y, pooled, f"pooling gives size {pooled}, its use needs {y}", [0, -1]), -1)


def _pool_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """(X…,C,N) → (Y…,C,N)."""
    rank = image_rank((*args, out), attrs, ("window", "padding", "stride"))
    if rank is None:
        return args, out
    d = rank - 2
    window = pool_window(attrs, d)
    x, y = ((None,) * rank if p.dims is None else p.dims for p in (*args, out))
    steps = zip(window.size, window.padding, window.stride, strict=True)
    spatial = [
        _join_spatial(image_size(a, 0), image_size(b, -1), *step)
        for a, b, step in zip(x[:d], y[:d], steps, strict=True)
    ]
    channels = join(image_size(x[-2], 0), image_size(y[-2], -1), f"{x[-2]} channels, its use needs {y[-2]}", [0, -1])
    batch: Dim | None = join(x[-1], y[-1], f"a batch of {x[-1]!r}, its use needs {y[-1]!r}", [0, -1])
    xs, ys = (tuple(s[i] for s in spatial) for i in range(2))
    return (Partial((*xs, channels, batch)),), Partial((*ys, channels, batch))


def _pool_back_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """dy and y have the shape of the result of `pool`, the result that of its argument x."""
    dy, x, y = args
    known = y if y.dims is not None else dy
    (x,), known = _pool_shape((x if x.dims is not None else out,), known, attrs, assume)
    return (known, x, known), x


# --- NumPy ------------------------------------------------------------------------------------------------------------


def _full(window: Window, out: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the image that holds every window in full."""
    return tuple((y - 1) * s + w for y, s, w in zip(out, window.stride, window.size, strict=True))


def _reduce(x: Tensor, window: Window, out: tuple[int, ...], combine: np.ufunc) -> Tensor:
    """Every window of a padded image combined into one element, one spatial dimension after the other."""
    d = len(out)
    for axis in range(2, 2 + d):
        size, stride, count = window.size[d + 1 - axis], window.stride[d + 1 - axis], out[d + 1 - axis]
        lead = (slice(None),) * axis
        y = x[(*lead, slice(0, stride * (count - 1) + 1, stride))]
        for w in range(1, size):
            y = combine(y, x[(*lead, slice(w, w + stride * (count - 1) + 1, stride))])
        x = y
    return x


def _count(size: tuple[int, ...], window: Window, out: tuple[int, ...], dtype: np.dtype[np.floating]) -> Tensor:
    """How many real elements each window over an image of `size` holds, shaped (1, 1, Yd, …, Y1)."""
    ones = np.ones((1, 1, *reversed(size)), dtype)
    return _reduce(pad(ones, window.padding, _full(window, out), 0), window, out, np.add)


def _divisor(ctx: EvalContext, x: Tensor, window: Window, out: tuple[int, ...]) -> Tensor:
    """What the sum over each window is divided by in the two average modes."""
    if ctx.attrs["mode"] == INCLUDE:
        return np.asarray(np.prod(window.size), ctx.dtype)
    return np.maximum(_count(x.shape[: len(out)], window, out, ctx.dtype), ctx.dtype.type(1))


def _pool(ctx: EvalContext, x: Tensor) -> Tensor:
    d = x.ndim - 2
    window, out = pool_window(ctx.attrs, d), ctx.dims[:d]
    full = _full(window, out)
    if ctx.attrs["mode"] == MAX:
        y = _reduce(pad(x.T, window.padding, full, -np.inf), window, out, np.maximum)
        if full != x.shape[:d]:
            y = np.where(_count(x.shape[:d], window, out, ctx.dtype) > 0, y, ctx.dtype.type(0))
    else:
        y = _reduce(pad(x.T, window.padding, full, 0), window, out, np.add)
        y = np.divide(y, _divisor(ctx, x, window, out))
    # A window of one element leaves a view of x, which the result must not be.
    return np.array(y, order="C", copy=y.base is not None).T


def _pool_back(ctx: EvalContext, dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    d = x.ndim - 2
    window, out = pool_window(ctx.attrs, d), dy.shape[:d]
    full = _full(window, out)
    dx = np.zeros((*x.shape[:-3:-1], *reversed(full)), ctx.dtype)
    if ctx.attrs["mode"] == MAX:
        _spread_maximum(dx, dy.T, pad(x.T, window.padding, full, -np.inf), y.T, window, out)
    else:
        share = np.divide(dy.T, _divisor(ctx, x, window, out))
        for position in np.ndindex(*reversed(window.size)):
            dx[(..., *offset(position, window, out))] += share
    return np.ascontiguousarray(dx[inside(x.shape[:d][::-1], window.padding, 2)]).T


def _spread_maximum(dx: Tensor, dy: Tensor, x: Tensor, y: Tensor, window: Window, out: tuple[int, ...]) -> None:
    """Adds each window's gradient to its first maximum, in column-major order: dimension 0 of the window runs first."""
    left = np.ones(y.shape, bool)
    for position in np.ndindex(*reversed(window.size)):
        at = (..., *offset(position, window, out))
        hit = np.equal(x[at], y)
        hit &= left
        left ^= hit
        dx[at] += dy * hit


# --- gradient ---------------------------------------------------------------------------------------------------------


def _pool_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    (x,) = instr.args
    return [g.emit("pool_back", dy, x, instr.out, like=x, **dict(instr.attrs)) if g.wanted(0) else None]


# --- operators --------------------------------------------------------------------------------------------------------

KEYWORDS = {
    "window": Keyword(2, checks.sizes(1)),
    "padding": Keyword(0, checks.sizes(0)),
    "stride": Keyword(None, checks.sizes(1, optional=True)),
    "mode": Keyword(Symbol(MAX), checks.one_of((MAX, INCLUDE, EXCLUDE))),
}

POOL = register(
    OpDef(
        name="pool",
        doc="Maximum or average of every window of the images x.",
        args=("x",),
        keywords=KEYWORDS,
        shape=_pool_shape,
        numpy=_pool,
        cuda=Library("pool"),
        gradient=_pool_gradient,
        reads=("x", "out"),
        user=True,
    )
)

POOL_BACK = register(
    OpDef(
        name="pool_back",
        doc="Gradient of `pool`. Second derivatives are not computed, so it has no gradient itself.",
        args=("dy", "x", "y"),
        keywords=KEYWORDS,
        shape=_pool_back_shape,
        numpy=_pool_back,
        cuda=Library("pool_back"),
    )
)
