"""The geometry of pooling, as C text with the sizes written in.

Before: a step of the plan. After: `codegen.pooling`, which tells cuDNN or makes kernels of it, and `codegen.chain`, for
which a window is a piece of a larger kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

from knetc.codegen.library import each
from knetc.codegen.spec import FieldValue
from knetc.ir.program import Instr
from knetc.ir.types import BatchDim, Dims
from knetc.record import Record


class PoolAxis(Record):
    """One spatial dimension of a pooling, mostly as C text.

    `start_i`: where the window of output i begins, `start_y` that of output y; it may lie in the padding. `first` and
    `stop` bound its real elements. `x_digit`: the position along this axis of element `at` of an image. `y_low`,
    `y_high`: the outputs whose windows hold position x. `rank`: the place of x in the window of y.
    """

    k: int
    x: int
    y: int
    window: int
    start_i: str
    start_y: str
    first: str
    stop: str
    x_digit: str
    y_low: str
    y_high: str
    rank: str


class Pooling:
    """The sizes of a pooling, in Knet's order."""

    def __init__(self, instr: Instr, x: Dims, y: Dims) -> None:
        spatial = len(x) - 2
        self.dims = x
        self.out_dims = y
        self.x: list[int] = [d for d in x[:spatial] if not isinstance(d, BatchDim)]
        self.y: list[int] = [d for d in y[:spatial] if not isinstance(d, BatchDim)]
        self.window = each(instr.attr("window"), spatial)
        stride = instr.attr("stride")
        self.stride = self.window if stride is None else each(stride, spatial)
        self.padding = each(instr.attr("padding"), spatial)
        self.mode = str(instr.attr("mode"))

    def axes(self) -> tuple[PoolAxis, ...]:
        """Every spatial dimension, the fastest first."""
        return tuple(self._axis(k) for k in range(len(self.x)))

    def _axis(self, k: int) -> PoolAxis:
        x, y, w, s, pad = self.x[k], self.y[k], self.window[k], self.stride[k], self.padding[k]
        before, reach = math.prod(self.x[:k]), w - pad
        start_y = _start(f"y{k}", s, pad)
        partial = (y - 1) * s - pad + w > x
        return PoolAxis(
            k=k,
            x=x,
            y=y,
            window=w,
            start_i=_start(_digit("i", math.prod(self.y[:k]), y, False), s, pad),
            start_y=start_y,
            first=f"max(start{k}, 0)" if pad else f"start{k}",
            stop=f"min(start{k} + {w}, {x})" if partial else f"start{k} + {w}",
            x_digit=_digit("at", before, x, k == len(self.x) - 1),
            y_low=f"max(x{k} - {reach - 1}, 0)" if s == 1 else f"x{k} < {reach} ? 0 : (x{k} - {reach}) / {s} + 1",
            y_high=f"min((x{k} + {pad}) / {s}, {y - 1})" if pad else f"min(x{k} / {s}, {y - 1})",
            rank=f"x{k} - {start_y}" if start_y == f"y{k}" else f"x{k} - ({start_y})",
        )

    def fields(self) -> tuple[tuple[str, FieldValue], ...]:
        """What the templates paste: the axes, positions in an image, the divisor of an average, `rank` of a winner."""
        axes = self.axes()
        spread = " * ".join(f"(stop{a.k} - {a.first})" for a in axes)
        empty = [f"{a.first} >= stop{a.k}" for a in axes if self._may_be_empty(a.k)]
        include = "INCLUDE" in self.mode
        return (
            ("axes", axes),
            ("x_at", _position("x", self.x)),
            ("y_at", _position("y", self.y)),
            ("z_at", _position("z", self.x)),
            ("x_size", math.prod(self.x)),
            ("y_size", math.prod(self.y)),
            ("divisor", str(math.prod(self.window)) if include else f"max({spread}, 1)" if empty else f"({spread})"),
            ("empty", " || ".join(empty)),
            ("shares", "" if include else "yes"),
            ("rank_i", self._rank([f"x{a.k} - start{a.k}" for a in axes])),
            ("rank_y", self._rank([a.rank for a in axes])),
        )

    def _may_be_empty(self, k: int) -> bool:
        """Whether some window has no real element along axis k."""
        return self.padding[k] >= self.window[k] or (self.y[k] - 1) * self.stride[k] - self.padding[k] >= self.x[k]

    def _rank(self, places: Sequence[str]) -> str:
        """The place of an element in its window, dimension 0 running fastest, from its places along the axes."""
        terms = []
        for k, place in enumerate(places):
            before = math.prod(self.window[:k])
            terms.append(f"({place})" if before == 1 else f"({place}) * {before}")
        return " + ".join(terms)

    def names(self) -> str:
        """The spatial sizes of argument and result, as part of a name: `24x24_to_12x12`."""
        return "_to_".join("x".join(map(str, v)) for v in (self.x, self.y))

    def __str__(self) -> str:
        return f"window={self.window}, stride={self.stride}, padding={self.padding}, mode={self.mode}"

    def inside(self) -> bool:
        """Whether every window lies inside the image: no padding, no last partial window."""
        return not any(self.padding) and all(
            (y - 1) * s + w <= x for x, y, w, s in zip(self.x, self.y, self.window, self.stride, strict=True)
        )

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """The places in a window, in the order of their ranks: dimension 0 runs fastest."""
        for place in product(*(range(w) for w in reversed(self.window))):
            yield place[::-1]

    def in_cudnn(self) -> bool:
        """Whether cuDNN's geometry is Knet's: no last partial window, and no window of padding alone."""
        return 2 <= len(self.x) <= 3 and all(
            (x + 2 * p - w) % s == 0 and p < w
            for x, w, s, p in zip(self.x, self.window, self.stride, self.padding, strict=True)
        )


def _digit(index: str, step: int, size: int, last: bool) -> str:
    text = index if step == 1 else f"{index} / {step}"
    return text if last else f"{text} % {size}"


def _start(y: str, stride: int, padding: int) -> str:
    """Where the window of output `y` begins."""
    return f"{y}{f' * {stride}' if stride != 1 else ''}{f' - {padding}' if padding else ''}"


def _position(name: str, sizes: Sequence[int]) -> str:
    """The position of element (name0, name1, …) in an image of `sizes`."""
    terms = []
    step = 1
    for k, size in enumerate(sizes):
        terms.append(f"{name}{k}" if step == 1 else f"{name}{k} * {step}")
        step *= size
    return " + ".join(terms)
