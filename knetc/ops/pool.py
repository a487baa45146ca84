"""Pooling: the maximum or the average of every window of an image, in 2 and 3 dimensions.

Y = 1 + ceil((X + 2·padding − window) / stride), so a last partial window counts. Padding never wins over a real element
in a maximum; CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING divides by the full window, …EXCLUDE_PADDING by the real
elements in it. A window without any real element gives 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from knetc.ir.types import Dim, Partial
from knetc.lazy import np
from knetc.ops import checks
from knetc.ops.base import (
    AttrMap,
    EvalContext,
    GradientBuilder,
    Keyword,
    Library,
    OpDef,
    Piece,
    ShapeMismatch,
    register,
)
from knetc.ops.shapes import join
from knetc.ops.window import Window, image_rank, image_size, inside, offset, pool_window
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


def _unpool_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """dy and the winners have the shape of the result of `pool`, the result that of its argument."""
    dy, winner = args
    (x,), known = _pool_shape((out,), dy if dy.dims is not None else winner, attrs, assume)
    return (known, known), x


def _pool_back_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """dy and y have the shape of the result of `pool`, the result that of its argument x."""
    dy, x, y = args
    known = y if y.dims is not None else dy
    (x,), known = _pool_shape((x if x.dims is not None else out,), known, attrs, assume)
    return (known, x, known), x


# --- NumPy ------------------------------------------------------------------------------------------------------------
#
# Inside, images lie (N·C, Xd, …, X1, 1): the transposed array as it stands, each channel of each image by itself.


def _planes(x: Tensor) -> Tensor:
    """A Fortran-ordered image (X1,…,Xd,C,N) as a view (N·C, Xd, …, X1, 1)."""
    return x.T.reshape(-1, *x.shape[:-2][::-1], 1)


def _full(window: Window, out: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the image that holds every window in full."""
    return tuple((y - 1) * s + w for y, s, w in zip(out, window.stride, window.size, strict=True))


def _pad(x: Tensor, size: tuple[int, ...], window: Window, out: tuple[int, ...], value: float) -> Tensor:
    """Planes of spatial `size` inside ones that hold every window in full, filled up with `value`; x itself where it
    does already."""
    full = _full(window, out)
    if full == size:
        return x
    padded = np.full((x.shape[0], *reversed(full), 1), value, x.dtype)
    padded[inside(size, window.padding)] = x
    return padded


def _reduce(x: Tensor, window: Window, out: tuple[int, ...], combine: np.ufunc) -> Tensor:
    """Every window of padded planes combined into one element, one spatial dimension after the other."""
    sizes = zip(reversed(window.size), reversed(window.stride), reversed(out), strict=True)
    for axis, (size, stride, count) in enumerate(sizes, 1):
        at = [(slice(None),) * axis + (slice(w, w + stride * (count - 1) + 1, stride),) for w in range(size)]
        y = x[at[0]]
        for position in at[1:]:
            y = combine(y, x[position])
        x = y
    return x


def _count(size: tuple[int, ...], window: Window, out: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """How many real elements each window over an image of `size` holds, as one plane."""
    ones = np.ones((1, *reversed(size), 1), dtype)
    return _reduce(_pad(ones, size, window, out, 0), window, out, np.add)


def _divisor(ctx: EvalContext, size: tuple[int, ...], window: Window, out: tuple[int, ...]) -> Tensor:
    """What the sum over each window is divided by in the two average modes."""
    if ctx.attrs["mode"] == INCLUDE:
        return np.array(math.prod(window.size), ctx.dtype)
    count: Tensor = np.maximum(_count(size, window, out, ctx.dtype), ctx.dtype.type(1))
    return count


def _pool(ctx: EvalContext, x: Tensor) -> Tensor:
    d = x.ndim - 2
    window, size, out = pool_window(ctx.attrs, d), x.shape[:d], ctx.dims[:d]
    y: Tensor
    if ctx.attrs["mode"] == MAX:
        y = _reduce(_pad(_planes(x), size, window, out, -np.inf), window, out, np.maximum)
        if _full(window, out) != size:
            y = np.where(_count(size, window, out, ctx.dtype) > 0, y, ctx.dtype.type(0))
    else:
        y = _reduce(_pad(_planes(x), size, window, out, 0), window, out, np.add)
        y = y / _divisor(ctx, size, window, out)
    return np.ascontiguousarray(y).reshape(ctx.dims[::-1]).T


def _pool_back(ctx: EvalContext, dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
    d = x.ndim - 2
    window, size, out = pool_window(ctx.attrs, d), x.shape[:d], dy.shape[:d]
    padded = _pad(_planes(x), size, window, out, -np.inf)
    dx = np.zeros(padded.shape, ctx.dtype)
    if ctx.attrs["mode"] == MAX:
        _spread_maximum(dx, _planes(dy), padded, _planes(y), window, out)
    else:
        share = _planes(dy) / _divisor(ctx, size, window, out)
        for position in np.ndindex(*reversed(window.size)):
            dx[offset(position, window, out)] += share
    return np.ascontiguousarray(dx[inside(size, window.padding)]).reshape(ctx.dims[::-1]).T


def _spread_maximum(dx: Tensor, dy: Tensor, x: Tensor, y: Tensor, window: Window, out: tuple[int, ...]) -> None:
    """Adds each window's gradient to its first maximum, in column-major order: dimension 0 of the window runs first."""
    left = np.ones(y.shape, bool)
    disjoint = all(s >= w for s, w in zip(window.stride, window.size, strict=True))
    for position in np.ndindex(*reversed(window.size)):
        at = offset(position, window, out)
        hit = x[at] == y
        hit &= left
        left ^= hit
        if disjoint:
            np.multiply(dy, hit, out=dx[at])
        else:
            dx[at] += dy * hit


def _winner(ctx: EvalContext, x: Tensor) -> Tensor:
    d = x.ndim - 2
    window, size, out = pool_window(ctx.attrs, d), x.shape[:d], ctx.dims[:d]
    padded = _pad(_planes(x), size, window, out, -np.inf)
    y = _reduce(padded, window, out, np.maximum)
    winner = np.full(y.shape, -1, ctx.dtype)
    for rank, position in enumerate(np.ndindex(*reversed(window.size))):
        winner[(padded[offset(position, window, out)] == y) & (winner < 0)] = rank
    if _full(window, out) != size:
        winner[np.broadcast_to(_count(size, window, out, ctx.dtype), winner.shape) == 0] = -1
    return winner.reshape(ctx.dims[::-1]).T


def _unpool(ctx: EvalContext, dy: Tensor, winner: Tensor) -> Tensor:
    d = dy.ndim - 2
    window, size, out = pool_window(ctx.attrs, d), ctx.dims[:d], dy.shape[:d]
    planes, won = _planes(dy), _planes(winner)
    dx = np.zeros((planes.shape[0], *reversed(_full(window, out)), 1), ctx.dtype)
    for rank, position in enumerate(np.ndindex(*reversed(window.size))):
        dx[offset(position, window, out)] += planes * (won == rank)
    return np.ascontiguousarray(dx[inside(size, window.padding)]).reshape(ctx.dims[::-1]).T


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
        cuda=Piece("pool", "window", "top"),
        gradient=_pool_gradient,
        reads=("x", "out"),
        user=True,
    )
)

# Maximum pooling again, for programs that keep the winners for the way back (`ir.passes.winners`), not argument and
# result. Their keywords are the pooling's, which can only be of one mode.
_MAXIMUM = KEYWORDS | {"mode": Keyword(Symbol(MAX), checks.one_of((MAX,)))}

WINNER = register(
    OpDef(
        name="winner",
        doc="The place of the first largest element in each window, dimension 0 running fastest; -1 where there is "
        "none. It is constant almost everywhere, so it has no gradient.",
        args=("x",),
        keywords=_MAXIMUM,
        shape=_pool_shape,
        numpy=_winner,
        cuda=Piece("pool", "window", "first"),
    )
)

UNPOOL = register(
    OpDef(
        name="unpool",
        doc="Gradient of maximum pooling: each window's goes to its winner. It has no gradient itself.",
        args=("dy", "winner"),
        keywords=_MAXIMUM,
        shape=_unpool_shape,
        numpy=_unpool,
        cuda=Piece("unpool", "window", "sum"),
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
