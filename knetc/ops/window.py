"""What `conv` and `pool` share: the geometry of a window that slides over an image of 2 or 3 dimensions.

Sizes are given per spatial dimension in Knet's order, dimension 0 first; the NumPy code of conv.py and pool.py works on
transposed, C-contiguous arrays (batch, channels, dimension d-1, …, dimension 0) and takes them reversed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from knetc.ir.types import BatchDim, Dim, Partial, show_dims
from knetc.lazy import np
from knetc.ops.base import AttrMap, ShapeMismatch
from knetc.values import Value

if TYPE_CHECKING:
    from knetc.ops.base import Tensor


@dataclass(frozen=True, slots=True)
class Window:
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
            raise ShapeMismatch(f"{name}={value!r} has {len(value)} entries, the image has {d} dimensions", [-1])
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


def slide(x: Tensor, size: Sequence[int], window: Window, out: Sequence[int]) -> Tensor:
    """A view of a padded image (…, Xd, …, X1) as (…, Yd, …, Y1, Wd, …, W1): every window, nothing copied.

    `size` and `out` in Knet's order; the image must hold every window in full.
    """
    lead, strides = x.ndim - len(size), x.strides[x.ndim - len(size) :]
    rows = tuple(reversed(size))
    steps = tuple(s * t for s, t in zip(strides, reversed(window.stride), strict=True))
    inner = tuple(s * t for s, t in zip(strides, reversed(window.dilation), strict=True))
    return np.lib.stride_tricks.as_strided(
        x, x.shape[:lead] + tuple(reversed(out)) + rows, x.strides[:lead] + steps + inner, writeable=False
    )


def pad(x: Tensor, before: Sequence[int], total: Sequence[int], value: float) -> Tensor:
    """An image (…, Xd, …, X1) inside one of spatial size `total` (Knet's order) filled with `value`; x itself where it
    fills it."""
    lead = x.ndim - len(total)
    shape = x.shape[:lead] + tuple(reversed(total))
    if shape == x.shape:
        return x
    padded = np.full(shape, value, x.dtype)
    padded[inside(x.shape[lead:], before, lead)] = x
    return padded


def inside(size: Sequence[int], before: Sequence[int], lead: int) -> tuple[slice, ...]:
    """Where the image of spatial `size` (Xd, …, X1) lies in its padded form, after `lead` other dimensions."""
    spatial = (slice(p, p + n) for p, n in zip(reversed(before), size, strict=True))
    return (slice(None),) * lead + tuple(spatial)


def offset(position: Sequence[int], window: Window, out: Sequence[int]) -> tuple[slice, ...]:
    """The elements of a padded image that lie at one position of every window: an index over (Xd, …, X1).

    `position` is (wd, …, w1), `out` in Knet's order.
    """
    parts = zip(position, reversed(window.dilation), reversed(window.stride), reversed(out), strict=True)
    return tuple(slice(w * u, w * u + s * (n - 1) + 1, s) for w, u, s, n in parts)
