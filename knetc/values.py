"""Compile-time values of Knet: what a keyword argument can hold.

Made by the front end's evaluator and by the Python interface (`knetc.Gaussian(0, 0.1)`), read by the operators. A value
is one of: int, float, bool, str, None, a tuple of values, `Symbol`, `Array`, `Range`, or a `Filler`. All are immutable
and hashable, and none needs NumPy.
"""

from __future__ import annotations

import math
from array import array
from typing import TypeAlias

from knetc.record import Record


class Symbol(str):
    """`:relu` in Knet: the name of an operator; also the constants CUDNN_…."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f":{str(self)}"


class Array(Record):
    """A literal array: dims in Knet's order, elements in column-major order as the bytes of float64."""

    dims: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, dims: tuple[int, ...], elements: list[float]) -> Array:
        """An array of `elements`, given in column-major order."""
        return cls(tuple(dims), array("d", elements).tobytes())

    def elements(self) -> list[float]:
        """The elements in column-major order."""
        a = array("d")
        a.frombytes(self.data)
        return a.tolist()


class Range(Record):
    """`start:stop` of Knet, both ends included."""

    start: float
    stop: float


class Filler(Record):
    """How an array is filled; subclasses are the distributions of the manual's table 3."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(getattr(self, f)) for f in self.field_names)})"


class Bernoulli(Filler):
    """`scale` with probability `p`, else 0."""

    p: float = 0.5
    scale: float = 1.0


class Constant(Filler):
    """Every element `val`."""

    val: float = 0.0


class Gaussian(Filler):
    """Normal with `mean` and standard deviation `std`."""

    mean: float = 0.0
    std: float = 1.0


class Identity(Filler):
    """`scale` on the diagonal, else 0."""

    scale: float = 1.0


class Uniform(Filler):
    """Uniform in [min, max)."""

    min: float = 0.0
    max: float = 1.0


class Xavier(Filler):
    """Uniform in ±sqrt(3/n), n = length/last dimension (the manual's table 3)."""


class GlorotUniform(Filler):
    """Uniform in ±sqrt(6/(fanin+fanout)) (Glorot and Bengio 2010)."""


class GlorotNormal(Filler):
    """Normal with standard deviation sqrt(2/(fanin+fanout)) (Glorot and Bengio 2010)."""


Glorot = GlorotUniform

FILLERS: dict[str, type[Filler]] = {
    "Bernoulli": Bernoulli,
    "Constant": Constant,
    "Gaussian": Gaussian,
    "Identity": Identity,
    "Uniform": Uniform,
    "Xavier": Xavier,
    "Glorot": GlorotUniform,
    "GlorotUniform": GlorotUniform,
    "GlorotNormal": GlorotNormal,
}

CUDNN_CONSTANTS: tuple[str, ...] = (
    "CUDNN_CONVOLUTION",
    "CUDNN_CROSS_CORRELATION",
    "CUDNN_POOLING_MAX",
    "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING",
    "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING",
)

# The same as values of the Python interface.
CUDNN_CONVOLUTION, CUDNN_CROSS_CORRELATION = map(Symbol, CUDNN_CONSTANTS[:2])
CUDNN_POOLING_MAX = Symbol(CUDNN_CONSTANTS[2])
CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING = Symbol(CUDNN_CONSTANTS[3])
CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING = Symbol(CUDNN_CONSTANTS[4])

Value: TypeAlias = "int | float | bool | str | None | Symbol | Array | Range | Filler | tuple[Value, ...]"

_LONGEST = 60  # of a value's text
_MOST_ENTRIES = 8  # of a tuple


def show(value: Value) -> str:
    """A value as Knet writes it, cut where it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol):
        text = str(value) if value in CUDNN_CONSTANTS else f":{value}"
    elif isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, tuple):
        return _show_tuple(value)
    elif isinstance(value, Range):
        text = f"{show(value.start)}:{show(value.stop)}"
    elif isinstance(value, Array):
        text = f"an array of dims {show(value.dims)}"
    elif isinstance(value, Filler):
        text = f"{type(value).__name__}({','.join(show(getattr(value, f)) for f in value.field_names)})"
    elif isinstance(value, int) and value.bit_length() > 1000:  # Python writes no number of thousands of digits
        text = "a number of over 300 digits"
    elif isinstance(value, float) and not math.isfinite(value):
        text = "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
    else:
        text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _show_tuple(value: tuple[Value, ...]) -> str:
    inside = ",".join(map(show, value[:_MOST_ENTRIES])) + (",…" if len(value) > _MOST_ENTRIES else "")
    return f"({inside},)" if len(value) == 1 else f"({inside})"
