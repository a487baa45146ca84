"""Filling an array: the distributions of the manual's table 3 over the random words of random.py.

`resolve` gives a distribution its numbers: for the interpreter, which fills through `fill`, and for the generator,
whose kernels draw the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from knetc.errors import KnetInternalError
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
    show,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from knetc.ops.base import Tensor


def check_filler(value: Value) -> str | None:
    """The check of `init`: a filler with fitting numbers, or an array."""
    if isinstance(value, Array):
        return None if value.dims and all(d > 0 for d in value.dims) else "must be an array that is not empty"
    if not isinstance(value, Filler):
        return f"must be a filler such as Xavier() or an array, not {show(value)}"
    for name in value.field_names:
        wrong = checks.number(getattr(value, name))
        if wrong:
            return f"is {show(value)}, whose {name} {wrong}"
    if isinstance(value, Bernoulli) and not 0 <= value.p <= 1:
        return f"is {show(value)}, whose p must be between 0 and 1"
    if isinstance(value, Gaussian) and value.std < 0:
        return f"is {show(value)}, whose std must be at least 0"
    return None


def _fans(dims: Sequence[int]) -> tuple[float, float]:
    """Inputs and outputs of one unit: of a matrix (out,in), of filters (W…,I,O); of a vector its length for both."""
    length = math.prod(dims)
    if len(dims) < 2:
        return length, length
    if len(dims) == 2:
        return dims[1], dims[0]
    return length / dims[-1], length / dims[-2]


def resolve(filler: Filler, dims: Sequence[int]) -> Filler:
    """The filler with its numbers for an array of `dims`, batch filled in: Xavier and the Glorots become Uniform or
    Gaussian, the others stay.

    Xavier (the manual's table 3): uniform in ±sqrt(3/n), n = length/last dimension. Glorot and Bengio 2010: variance
    2/(fanin+fanout).
    """
    match filler:
        case Xavier():
            bound = math.sqrt(3 * dims[-1] / math.prod(dims))
            return Uniform(-bound, bound)
        case GlorotUniform():
            bound = math.sqrt(6 / sum(_fans(dims)))
            return Uniform(-bound, bound)
        case GlorotNormal():
            return Gaussian(0.0, math.sqrt(2 / sum(_fans(dims))))
    return filler


def fill(
    filler: Filler | Array,
    dims: Sequence[int],
    dtype: np.dtype[np.floating[Any]],
    seed: int,
    stream: int,
    call: int,
    first_column: int = 0,
) -> Tensor:
    """A Fortran-ordered array of `dims`, as `filler` says.

    Element i, in column-major order, comes from word i of the random stream (seed, stream, call). `first_column`: the
    array is the part of a larger one that begins there; its distribution is that of `dims`.
    """
    count = math.prod(dims)
    start = first_column * (count // dims[-1]) if count else 0
    if isinstance(filler, Array):
        flat = np.frombuffer(filler.data)[start : start + count]
    else:
        flat = _elements(resolve(filler, dims), dims, seed, stream, call, start, count)
    return flat.astype(dtype).reshape(dims, order="F")


def _elements(
    filler: Filler, dims: Sequence[int], seed: int, stream: int, call: int, start: int, count: int
) -> NDArray[np.float64]:
    """Elements `start` to `start + count` of the array in float64; each product and sum is rounded by itself."""
    if isinstance(filler, Constant):
        return np.full(count, float(filler.val))
    if isinstance(filler, Identity):
        index = np.arange(start, start + count)
        return np.where(index % dims[0] == index // dims[0], float(filler.scale), 0.0)
    words = random.words(seed, stream, call, start, count)
    if isinstance(filler, Gaussian):
        return np.add(np.multiply(random.normal(words), float(filler.std)), float(filler.mean))
    if isinstance(filler, Bernoulli):
        return np.where(random.uniform(words) < filler.p, float(filler.scale), 0.0)
    if isinstance(filler, Uniform):
        return np.add(np.multiply(random.uniform(words), float(filler.max - filler.min)), float(filler.min))
    raise KnetInternalError(f"no meaning for the filler {filler!r}")
