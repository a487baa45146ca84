"""What `conv` and `pool` share: the geometry of a window that slides over an image of 2 or 3 dimensions.

Sizes are given per spatial dimension in Knet's order, dimension 0 first. The NumPy code of conv.py and pool.py works on
C-ordered arrays with the spatial dimensions reversed, the last first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from knetc.ir.types import BatchDim, Dim, Partial, show_dims
from knetc.lazy import np
from knetc.ops.base import AttrMap, ShapeMismatch
from knetc.record import Record
from knetc.values import Value, show

if TYPE_CHECKING:
    from knetc.ops.base import Tensor


class Window(Record):
    """How a window moves: for each spatial dimension its padding, stride and dilation (1 = dense).

    `size` is the window itself for `pool`, () for `conv`, whose window is its filter.
    """

    padding: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...] = ()


def per_dimension(name: str, value: Value, d: int) -> tuple[int, ...]:
    """A keyword's number or tuple as one number for each of `d` dimensions; ShapeMismatch for a tuple of others."""
    if isinstance(value, tuple):
        if len(value) != d:
            raise ShapeMismatch(f"{name}={show(value)} has {len(value)} entries, the image has {d} dimensions", [-1])
        return tuple(v for v in value if isinstance(v, int))
    assert isinstance(value, int)
    return (value,) * d


def conv_window(attrs: AttrMap, d: int) -> Window:
    """The keywords of `conv` for `d` spatial dimensions."""
    padding, stride, dilation = (per_dimension(k, attrs[k], d) for k in ("padding", "stride", "upscale"))
    return Window(padding, stride, dilation)


def pool_window(attrs: AttrMap, d: int) -> Window:
    """The keywords of `pool` for `d` spatial dimensions; the stride is the window where it is not given."""
    size = per_dimension("window", attrs["window"], d)
    stride = size if attrs["stride"] is None else per_dimension("stride", attrs["stride"], d)
    return Window(per_dimension("padding", attrs["padding"], d), stride, (1,) * d, size)


def image_rank(shapes: Sequence[Partial], attrs: AttrMap, names: Sequence[str]) -> int | None:
    """The number of dimensions of the arrays, 4 or 5, from whichever of them or of the keywords `names` tells it."""
    rank = None
    for index, shape in enumerate(shapes):
        if shape.dims is None:
            continue
        operand = -1 if index == len(shapes) - 1 else index
        if len(shape.dims) not in (4, 5):
            text = f"{show_dims(shape.dims)} is no image: that has 2 or 3 dimensions, then channels and batch"
            raise ShapeMismatch(text, [operand])
        if rank not in (None, len(shape.dims)):
            text = " and ".join(show_dims(s.dims) for s in shapes if s.dims is not None)
            raise ShapeMismatch(f"{text} differ in their number of dimensions", list(range(len(shapes) - 1)))
        rank = len(shape.dims)
    if rank is None:
        lengths = [len(v) for v in (attrs[k] for k in names) if isinstance(v, tuple)]
        rank = lengths[0] + 2 if lengths and lengths[0] in (2, 3) else None
    return rank


def image_size(d: Dim | None, operand: int) -> int | None:
    """A spatial size or number of channels, which is never the batch."""
    if isinstance(d, BatchDim):
        raise ShapeMismatch("the batch N must be the last dimension of an image", [operand])
    return d


# The functions below work on images (channels, Xd, …, X1, batch). Sizes are given in Knet's order, the axes reversed.


def slide(x: Tensor, size: Sequence[int], window: Window, out: Sequence[int]) -> Tensor:
    """A view of a padded image as (channels, Wd, …, W1, Yd, …, Y1, batch): every window, nothing copied."""
    strides = x.strides[1:-1]
    moves = tuple(s * t for s, t in zip(strides, reversed(window.stride), strict=True))
    inner = tuple(s * t for s, t in zip(strides, reversed(window.dilation), strict=True))
    shape = (x.shape[0], *reversed(size), *reversed(out), x.shape[-1])
    return np.lib.stride_tricks.as_strided(x, shape, (x.strides[0], *inner, *moves, x.strides[-1]), writeable=False)


def inside(size: Sequence[int], padding: Sequence[int]) -> tuple[slice, ...]:
    """Where the image of spatial `size` lies in its padded form: an index."""
    return (slice(None), *(slice(p, p + n) for p, n in zip(reversed(padding), reversed(size), strict=True)))


def offset(position: Sequence[int], window: Window, out: Sequence[int]) -> tuple[slice, ...]:
    """The elements of a padded image that lie at one position (wd, …, w1) of every window: an index."""
    parts = zip(position, reversed(window.dilation), reversed(window.stride), reversed(out), strict=True)
    return (slice(None), *(slice(w * u, w * u + s * (n - 1) + 1, s) for w, u, s, n in parts))
