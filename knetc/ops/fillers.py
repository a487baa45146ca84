"""Filling an array: the distributions of the manual's table 3 over the random words of random.py.

`filler_spec` is the one place for the distributions' formulas: the interpreter fills from it through `fill`, and the
generator takes its kind and two numbers for the emitted kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from knetc.lazy import np
from knetc.ops import checks, random
from knetc.values import (
    Array,
    Bernoulli,
    Constant,
    Filler,
    Gaussian,
    GlorotNormal,
    GlorotUniform,
    Identity,
    Uniform,
    Value,
    Xavier,
)

if TYPE_CHECKING:
    from knetc.ops.base import Tensor

KINDS = ("constant", "uniform", "normal", "bernoulli", "identity", "array")


@dataclass(frozen=True, slots=True)
class FillerSpec:
    """A distribution with its numbers for one shape; `kind` is one of KINDS.

    constant: a. uniform: a + (b−a)·u. normal: a + b·z. bernoulli: b with probability a, else 0. identity: a on the
    diagonal, else 0. array: the elements of the array.
    """

    kind: str
    a: float = 0.0
    b: float = 0.0


def check_filler(value: Value) -> str | None:
    """The check of `init`: a filler with fitting numbers, or an array."""
    if isinstance(value, Array):
        return None if value.dims and all(d > 0 for d in value.dims) else "must be an array that is not empty"
    if not isinstance(value, Filler):
        return f"must be a filler such as Xavier() or an array, not {checks.show(value)}"
    for f in fields(value):
        wrong = checks.number(getattr(value, f.name))
        if wrong:
            return f"is {value!r}, whose {f.name} {wrong}"
    if isinstance(value, Bernoulli) and not 0 <= value.p <= 1:
        return f"is {value!r}, whose p must be between 0 and 1"
    if isinstance(value, Gaussian) and value.std < 0:
        return f"is {value!r}, whose std must be at least 0"
    return None


def _fans(dims: Sequence[int]) -> tuple[float, float]:
    """Inputs and outputs of one unit: of a matrix (out,in), of filters (W…,I,O); of a vector its length for both."""
    length = math.prod(dims)
    if len(dims) < 2:
        return length, length
    if len(dims) == 2:
        return dims[1], dims[0]
    return length / dims[-1], length / dims[-2]


def filler_spec(filler: Filler | Array, dims: Sequence[int]) -> FillerSpec:
    """The distribution for an array of `dims` (batch filled in). Xavier: ±sqrt(3/n), n = length/last dimension."""
    match filler:
        case Array():
            return FillerSpec("array")
        case Constant(val):
            return FillerSpec("constant", float(val))
        case Uniform(low, high):
            return FillerSpec("uniform", float(low), float(high))
        case Gaussian(mean, std):
            return FillerSpec("normal", float(mean), float(std))
        case Bernoulli(p, scale):
            return FillerSpec("bernoulli", float(p), float(scale))
        case Identity(scale):
            return FillerSpec("identity", float(scale))
        case Xavier():
            bound = math.sqrt(3 * dims[-1] / math.prod(dims))
            return FillerSpec("uniform", -bound, bound)
        case GlorotUniform():
            bound = math.sqrt(6 / sum(_fans(dims)))
            return FillerSpec("uniform", -bound, bound)
        case GlorotNormal():
            return FillerSpec("normal", 0.0, math.sqrt(2 / sum(_fans(dims))))
    raise TypeError(f"unknown filler {filler!r}")


def fill(
    filler: Filler | Array,
    dims: Sequence[int],
    dtype: np.dtype[np.floating],
    seed: int,
    stream: int,
    call: int,
    first_column: int = 0,
) -> Tensor:
    """A Fortran-ordered array of `dims`, as `filler` says.

    Element i, in column-major order, comes from word i of the random stream (seed, stream, call). `first_column`: the
    array is the part of a larger one that begins there; its distribution is that of `dims`.
    """
    spec, count = filler_spec(filler, dims), math.prod(dims)
    start = first_column * (count // dims[-1] if count else 0)
    flat: Tensor
    if isinstance(filler, Array):
        flat = np.frombuffer(filler.data)[start : start + count]
    elif spec.kind == "constant":
        flat = np.full(count, spec.a)
    elif spec.kind == "identity":
        index = np.arange(start, start + count)
        flat = np.where(index % dims[0] == index // dims[0], spec.a, 0.0)
    else:
        flat = _distribute(spec, random.words(seed, stream, call, start, count))
    return flat.astype(dtype).reshape(dims, order="F")


def _distribute(spec: FillerSpec, words: np.ndarray) -> Tensor:
    """Random words as elements of a distribution, in float64; each product and sum is rounded by itself."""
    if spec.kind == "normal":
        return np.add(np.multiply(random.normal(words), spec.b), spec.a)
    u = random.uniform(words)
    if spec.kind == "bernoulli":
        return np.where(u < spec.a, spec.b, 0.0)
    return np.add(np.multiply(u, spec.b - spec.a), spec.a)
