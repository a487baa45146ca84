"""What the tests of the operators share: evaluating one operator, and its gradient, without a program around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from knetc.ir.program import Instr, make_attrs
from knetc.ir.types import Partial, Type
from knetc.ops import registry
from knetc.ops.fillers import fill


@dataclass
class Context:
    attrs: dict[str, Any]
    dims: tuple[int, ...]
    dtype: np.dtype
    seed: int = 7
    call: int = 0
    steps: int = 1
    out: Any = None

    def draw(self, filler, stream):
        return fill(filler, self.dims, self.dtype, self.seed, stream, self.call)


def attributes(op: str, **given) -> dict[str, Any]:
    """All keywords of an operator, defaults filled in."""
    keywords = registry()[op].keywords
    assert set(given) <= set(keywords), f"{op} has no keyword {set(given) - set(keywords)}"
    return {name: given.get(name, keyword.default) for name, keyword in keywords.items()}


def infer(op: str, *dims, out=None, assume=False, **attrs):
    """The shape rule on dims (None for unknown, or a Partial): the arguments' dims and the result's."""
    partials = tuple(d if isinstance(d, Partial) else Partial(d) for d in dims)
    args, result = registry()[op].shape(
        partials, out if isinstance(out, Partial) else Partial(out), attributes(op, **attrs), assume
    )
    return [a.dims for a in args], result.dims


def evaluate(op: str, *args, dims=None, dtype=np.float64, **attrs):
    """An operator's NumPy value; `dims` where they do not follow from the arguments."""
    arrays = [a if a is None else np.asfortranarray(a, dtype) for a in args]
    if dims is None:
        dims = infer(op, *(None if a is None else a.shape for a in arrays), **attrs)[1]
    value = registry()[op].numpy(Context(attributes(op, **attrs), dims, np.dtype(dtype)), *arrays)
    assert value.shape == tuple(dims)
    assert value.dtype == dtype
    assert value.flags.f_contiguous
    return value


class Builder:
    """A GradientBuilder that computes every instruction as it is emitted, in float64."""

    def __init__(self, values, wanted):
        self.values = dict(values)
        self._wanted = wanted
        self.emitted = []

    def emit(self, op, *args, like, **attrs):
        assert set(attrs) == set(registry()[op].keywords), f"{op} is emitted without all of its keywords"
        name = f"v{len(self.values)}"
        self.values[name] = evaluate(op, *(self.values[a] for a in args), dims=self.values[like].shape, **attrs)
        self.emitted.append((op, args))
        return name

    def type(self, name):
        return Type("f64", self.values[name].shape)

    def wanted(self, index):
        return index in self._wanted


def gradients(op: str, args, dy, wanted=None, **attrs):
    """The gradients of an operator by its rule, and the builder that ran it."""
    names = [f"x{i}" for i in range(len(args))]
    attrs = attributes(op, **attrs)
    values = dict(zip(names, (np.asfortranarray(a, float) for a in args), strict=True))
    values["y"] = evaluate(op, *args, **attrs)
    values["dy"] = np.asfortranarray(dy, float)
    builder = Builder(values, range(len(args)) if wanted is None else wanted)
    result = registry()[op].gradient(builder, Instr("y", op, tuple(names), make_attrs(**attrs)), "dy")
    return [None if r is None else builder.values[r] for r in result], builder


def differences(f, args, index, h=1e-6):
    """The gradient of scalar `f(*args)` by argument `index`, by central differences."""
    x = np.array(args[index], float, order="F")
    slope = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        high, low = x.copy(order="F"), x.copy(order="F")
        high[at] += h
        low[at] -= h
        rest = list(args)
        rest[index] = high
        up = f(*rest)
        rest[index] = low
        slope[at] = (up - f(*rest)) / (2 * h)
    return slope


def sample(rng, *dims, low=-1.0, high=1.0):
    """Uniform numbers in Fortran order."""
    return np.asfortranarray(rng.uniform(low, high, dims))


def distinct(rng, *dims):
    """Numbers all at least 0.1 apart and away from 0, so that no maximum or kink changes under small differences."""
    count = int(np.prod(dims))
    values = (rng.permutation(count) - count / 2 + 0.5) * 0.1
    return values.reshape(dims, order="F")
