"""Python values as compile-time values of Knet: the keyword arguments of `knetc.compile`.

Before it: the user's call. After it: `frontend.lower`, which evaluates the model's own expressions over these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knetc.errors import KnetTypeError
from knetc.ops.fillers import check_filler
from knetc.values import Array, Filler, Range, Symbol, Value

_EXPECTED = "a number, boolean, string, None, tuple, array or filler is expected"


def values(keywords: Mapping[str, Any]) -> dict[str, Value]:
    """Every keyword's value. Raises KnetTypeError for what Knet has no value for."""
    return {name: value(given, f"keyword {name}") for name, given in keywords.items()}


def value(given: Any, what: str) -> Value:
    """One value: a string is a symbol, a list or a NumPy array an array, a filler itself. Raises KnetTypeError."""
    if given is None or isinstance(given, bool | Symbol | Array | Range):
        return given
    if isinstance(given, str):
        return Symbol(given)
    if isinstance(given, np.generic):
        return value(given.item(), what)
    if isinstance(given, int | float):
        return given
    if isinstance(given, tuple):
        return tuple(value(g, what) for g in given)
    if isinstance(given, list | np.ndarray):
        return _array(given, what)
    if isinstance(given, Filler):
        return _filler(given, what)
    raise KnetTypeError(f"{what}: {_EXPECTED}, got {type(given).__name__}")


def _array(given: Any, what: str) -> Array:
    try:
        array = np.asarray(given)
    except ValueError:
        raise KnetTypeError(f"{what}: the rows of the array differ in length") from None
    if array.dtype.kind not in "fiub":
        raise KnetTypeError(f"{what}: an array of real numbers is expected, got one of {array.dtype}")
    if array.ndim == 0:
        raise KnetTypeError(f"{what}: {_EXPECTED}, got an array without dimensions")
    if not np.isfinite(array).all():
        raise KnetTypeError(f"{what}: every element of the array must be finite")
    return Array(tuple(array.shape), np.asarray(array, np.float64).tobytes(order="F"))


def _filler(given: Filler, what: str) -> Filler:
    plain = type(given)(**{name: value(getattr(given, name), what) for name in given.field_names})
    wrong = check_filler(plain)
    if wrong:
        raise KnetTypeError(f"{what} {wrong}")
    return plain
