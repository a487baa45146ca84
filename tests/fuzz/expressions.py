"""Random expressions of Knet: the source text of an array of wanted dims, over the variables that there are.

Used by `programs.py`. Dims are those of one column, so a matrix of 3 rows is (3,), an image (width, height, channels).
Values stay moderate: what is multiplied, squared or divided by is squashed first, so that no model overflows.
"""

from __future__ import annotations

import math
import random
from typing import TypeAlias

Dims: TypeAlias = tuple[int, ...]

SQUASHING = ("sigm", "tanh", "soft")
FILLERS = (
    "Gaussian(0,0.5)",
    "Gaussian(0.1,0.3)",
    "Xavier()",
    "Glorot()",
    "GlorotNormal()",
    "Uniform(-1,1)",
    "Constant(0.3)",
    "Bernoulli(0.5,0.8)",
)
LARGEST = 6
"""No image is wider than this."""


class Scope:
    """The variables that an expression may read: values with the batch, and matrices without it, by their dims."""

    def __init__(self, pick: random.Random, values: dict[str, Dims]) -> None:
        self.pick = pick
        self.values = values
        self.matrices: dict[str, Dims] = {}
        self.functions: list[tuple[str, tuple[Dims, ...], Dims]] = []  # name, dims of the arguments, of the result

    # --- leaves -------------------------------------------------------------------------------------------------------

    def filler(self) -> str:
        return self.pick.choice(FILLERS)

    def any(self) -> str:
        return self.pick.choice(list(self.values))

    def any_wide(self) -> str:
        """A variable that has rows."""
        return self.pick.choice([name for name, d in self.values.items() if d] or [self.product(2, 0)])

    def of(self, dims: Dims) -> list[str]:
        return [name for name, d in self.values.items() if d == dims]

    def leaf(self, dims: Dims) -> str:
        """A variable, or for a vector what a matrix makes of one."""
        found = self.of(dims)
        if found and (len(dims) != 1 or self.pick.random() < 0.75):
            return self.pick.choice(found)
        return self.product(dims[0], 0)

    def rows(self) -> int:
        """How many rows a new vector has: often as many as another."""
        known = [d[0] for d in self.values.values() if len(d) == 1]
        return self.pick.choice(known) if known and self.pick.random() < 0.7 else self.pick.randint(1, 5)

    # --- any dims -----------------------------------------------------------------------------------------------------

    def value(self, dims: Dims, depth: int) -> str:
        """An expression of these dims; of an image's only if a variable has them."""
        if depth <= 0:
            return self.leaf(dims)
        ways = [self.unary, self.unary, self.number, self.binary, self.binary, self.spread, self.call]
        if len(dims) == 1:
            ways += [self.linear, self.linear, self.linear]
        return self.pick.choice(ways)(dims, depth - 1)

    def squashed(self, dims: Dims, depth: int) -> str:
        return f"{self.pick.choice(SQUASHING[: 3 if dims else 2])}({self.value(dims, depth)})"

    def unary(self, dims: Dims, depth: int) -> str:
        op = self.pick.choice(["relu", "sigm", "tanh", "copy", "drop", "bias", *(["soft"] if dims else [])])
        inner = self.value(dims, depth)
        if op == "drop":
            return f"drop({inner}; pdrop=0.4)"
        if op == "bias" and dims and len(dims) < 5:
            return f"bias({inner}; binit={self.filler()})"
        return f"{'relu' if op == 'bias' else op}({inner})"

    def number(self, dims: Dims, depth: int) -> str:
        """Arithmetic with a compile-time number; a power takes what is positive."""
        inner, squashed = f"({self.value(dims, depth)})", f"sigm({self.value(dims, depth)})"
        return self.pick.choice(
            [
                f"-{inner}",
                f"2 * {inner}",
                f"{inner} / 3",
                f"({inner} .- 0.5)",
                f"(1 - {inner})",
                f"(tanh{inner} .^ 2)",
                f"(tanh{inner} .^ 3)",
                f"axpb({squashed}; a=-1.5, p=0.5, b=1)",
                f"(1 ./ ({squashed} + 0.5))",
                f"(({squashed} + 0.2) .^ 1.5)",
                f"axpb({inner}; a=0.5)",
                f"axpb({inner}; a=1, p=1, b=0)",
                f"axpb({squashed}; a=2, p=0, b=-1)",
            ]
        )

    def binary(self, dims: Dims, depth: int) -> str:
        a, b = self.value(dims, depth), self.value(dims, depth)
        op = self.pick.choice([" + ", " .+ ", " - ", " .- ", ".*", ".*", "./", "add", "mul", "same"])
        if op == "same":
            return f"({a} + {a})"
        if op == "./":
            return f"(({a}) ./ (sigm({b}) + 0.5))"
        if op in (".*", "mul"):
            squashed = self.squashed(dims, depth)
            return f"(({squashed}) .* ({b}))" if op == ".*" else f"mul({b}, {squashed})"
        return f"add({a}, {b})" if op == "add" else f"(({a}){op}({b}))"

    def spread(self, dims: Dims, depth: int) -> str:
        """A sum or product with an operand that is expanded."""
        a = self.squashed(dims, depth)
        small = self.small(dims)
        pair = (a, small) if self.pick.random() < 0.7 else (small, a)
        return f"({pair[0]} .{self.pick.choice('+*')} {pair[1]})"

    def small(self, dims: Dims) -> str:
        fitting = [n for n, d in self.values.items() if len(d) == len(dims) and d != dims and _expands(d, dims)]
        if fitting and self.pick.random() < 0.4:
            return f"tanh({self.pick.choice(fitting)})"
        if not dims:
            return "rnd(init=Uniform(0,1))"
        full = (*dims, 1)
        some = tuple(1 if self.pick.random() < 0.4 else d for d in full)
        ways = [f"par(dims={show(full)}, init={self.filler()})", f"par(dims={show(some)}, init={self.filler()})"]
        ways += ["rnd(init=Bernoulli(0.6,1.5))", "rnd(init=Gaussian(1,0.2))", f"arr(init={self.array(some)})"]
        if self.pick.random() < 0.2:
            ways.append(f"rnd(dims={show(some)}, init=Uniform(0.5,1))")
        if len(dims) in (1, 3):
            ways += [f"par(dims=(0,), init={self.filler()})"] * 2
        return self.pick.choice(ways)

    def array(self, dims: Dims) -> str:
        numbers = ",".join(f"{self.pick.randint(-9, 9) / 10}" for _ in range(math.prod(dims)))
        return f"reshape([{numbers}], {show(dims)})"

    def call(self, dims: Dims, depth: int) -> str:
        """A call of one of the source's functions."""
        fitting = [f for f in self.functions if f[2] == dims and all(len(d) == 1 or self.of(d) for d in f[1])]
        if not fitting:
            return self.binary(dims, depth)
        name, arguments, _ = self.pick.choice(fitting)
        return f"{name}({', '.join(self.value(d, min(depth, 1)) for d in arguments)})"

    # --- vectors ------------------------------------------------------------------------------------------------------

    def product(self, rows: int, depth: int) -> str:
        """A matrix times some value."""
        name = self.any()
        dims = self.values[name]
        size = math.prod(dims)
        fitting = [m for m, d in self.matrices.items() if d == (rows, size)]
        if fitting and self.pick.random() < 0.8:
            left = self.pick.choice(fitting)
        else:
            inner = 1 if not dims else self.pick.choice([0, size])
            left = f"par(dims=({rows},{inner}), init={self.filler()})"
        if not dims or self.pick.random() < 0.4:
            return f"({left} * {name})"
        return f"({left} * ({self.value(dims, depth)}))"

    def linear(self, dims: Dims, depth: int) -> str:
        """One of the compound operators that end in a vector."""
        rows = dims[0]
        wide = [d for d in self.values.values() if d] or [(2,)]
        first, second = (self.value(self.pick.choice(wide), depth) for _ in range(2))
        kind = self.pick.randrange(12)
        out = f"out={rows}, winit={self.filler()}"
        f = self.pick.choice(["relu", "sigm", "tanh", "soft", "copy"])
        if kind < 3:
            return self.product(rows, depth)
        layer = {3: "wdot", 4: "wb", 5: "lstm", 6: "gru", 7: "irnn"}.get(kind)
        if layer:
            return f"{layer}({first}; {out})"
        if kind == 8:
            return f"wbf2({first}, {second}; {out}, f=:{f})"
        if kind == 9:
            return f"repeat({first}; frepeat=:{self.pick.choice(['wbf', 'wf', 'irnn', 'gru'])}, nrepeat=2, {out})"
        if kind == 10:
            middle = self.pick.randint(1, 40)
            return f"wdot(wdot({first}; out={middle}); {out})"
        return f"wbf({first}; {out}, f=:{f}, binit={self.filler()})"

    # --- images -------------------------------------------------------------------------------------------------------

    def image(self, name: str) -> tuple[str, Dims]:
        """A convolution or pooling of an image, and the dims of what it gives."""
        return self.pick.choice([self.convolution, self.pooling, self.layer])(name)

    def convolution(self, name: str) -> tuple[str, Dims]:
        *sizes, channels = self.values[name]
        padding, stride, upscale = ([self.pick.choice(c) for _ in sizes] for c in ((0, 0, 1, 2), (1, 1, 2), (1, 1, 2)))
        window = [self.pick.randint(1, 3) for _ in sizes]
        for k, x in enumerate(sizes):
            if (window[k] - 1) * upscale[k] + 1 > x + 2 * padding[k]:
                window[k] = 1
        out = [
            1 + (x + 2 * p - ((w - 1) * u + 1)) // s
            for x, w, p, s, u in zip(sizes, window, padding, stride, upscale, strict=True)
        ]
        if max(out) > LARGEST:
            return self.pooling(name)
        count = self.pick.randint(1, 3)
        mode = self.pick.choice(["CUDNN_CONVOLUTION", "CUDNN_CROSS_CORRELATION"])
        keywords = f"padding={show(padding)}, stride={show(stride)}, upscale={show(upscale)}, mode={mode}"
        if self.pick.random() < 0.5:
            w = f"par(dims={show((*window, self.pick.choice([0, channels]), count))}, init={self.filler()})"
            return f"conv({w}, {name}; {keywords})", (*out, count)
        return f"wconv({name}; out={count}, window={show(window)}, {keywords})", (*out, count)

    def window(self, sizes: list[int]) -> tuple[str, list[int]]:
        """Keywords of a pooling, without their prefix, and the sizes that it gives."""
        padding = [self.pick.choice([0, 0, 0, 1, 2]) for _ in sizes]
        window = [self.pick.randint(1, min(3, x + 2 * p)) for x, p in zip(sizes, padding, strict=True)]
        stride = window if self.pick.random() < 0.4 else [self.pick.randint(1, 3) for _ in sizes]
        out = [1 - (w - x - 2 * p) // s for x, w, p, s in zip(sizes, window, padding, stride, strict=True)]
        if max(out) > LARGEST:
            return self.window(sizes)
        return f"?window={show(window)}, ?padding={show(padding)}, ?stride={show(stride)}", out

    def pooling(self, name: str) -> tuple[str, Dims]:
        *sizes, channels = self.values[name]
        keywords, out = self.window(sizes)
        inner = self.value(self.values[name], self.pick.randint(0, 2))
        return f"pool({inner}; {keywords.replace('?', '')}, mode={self.mode()})", (*out, channels)

    def mode(self) -> str:
        average = "CUDNN_POOLING_AVERAGE_COUNT_"
        return self.pick.choice(["CUDNN_POOLING_MAX"] * 3 + [f"{average}INCLUDE_PADDING", f"{average}EXCLUDE_PADDING"])

    def layer(self, name: str) -> tuple[str, Dims]:
        *sizes, _ = self.values[name]
        window = [self.pick.randint(1, min(2, x)) for x in sizes]
        middle = [x - w + 1 for x, w in zip(sizes, window, strict=True)]
        keywords, out = self.window(middle)
        count, f = self.pick.randint(1, 3), self.pick.choice(["relu", "relu", "tanh", "sigm"])
        pooling = f"{keywords.replace('?', 'p')}, pmode={self.mode()}"
        return f"cbfp({name}; out={count}, cwindow={show(window)}, f=:{f}, {pooling})", (*out, count)

    # --- matrices without the batch -----------------------------------------------------------------------------------

    def matrix(self) -> tuple[str, Dims]:
        """A parameter, a constant, or what is computed from others."""
        if self.matrices and self.pick.random() < 0.6:
            name, dims = self.pick.choice(list(self.matrices.items()))
            same = self.pick.choice([n for n, d in self.matrices.items() if d == dims])
            inner = [n for n, d in self.matrices.items() if d[0] == dims[1]]
            if inner and self.pick.random() < 0.4:
                right = self.pick.choice(inner)
                return f"{name} * {right}", (dims[0], self.matrices[right][1])
            text = [f"relu({name})", f"tanh({name})", f"{name} + {same}", f"{name} .* tanh({same})", f"2 * {name}"]
            return self.pick.choice(text), dims
        dims = (self.rows(), math.prod(self.values[self.any()]))
        if self.pick.random() < 0.25:
            return f"arr(init={self.array(dims)})", dims
        return f"par(dims={show(dims)}, init={self.filler()})", dims


def _expands(small: Dims, big: Dims) -> bool:
    return all(s in (1, b) for s, b in zip(small, big, strict=True))


def show(dims: tuple[int, ...] | list[int]) -> str:
    """Dims as Knet writes them."""
    return f"({','.join(map(str, dims))}{',' * (len(dims) == 1)})"
