"""Plain values as JSON with the arrays beside it, and back: what is saved along with a model, and its keywords.

Part of `saving.py`. None, booleans, strings, finite numbers and lists are JSON's own; everything else is an object with
one entry, its kind and what it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.errors import KnetTypeError
from knetc.ops.fillers import check_filler
from knetc.values import FILLERS, Array, Filler, Range, Symbol

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_LEVELS = 64
_MOST_BITS = 10_000  # of an integer: Python writes and reads no more than 4,300 digits
_EXPECTED = "dictionaries, lists, tuples, arrays, strings, numbers, booleans and None are saved"


class Encoder:
    """Puts values into JSON; `arrays` are those met so far, by the names that stand for them in the JSON."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}

    def encode(self, value: Any, what: str, level: int = 0) -> Any:
        """`value` as JSON. Raises KnetTypeError, which calls it `what`, for a value of another kind."""
        if level > MOST_LEVELS:
            raise KnetTypeError(f"save: {what} is nested deeper than {MOST_LEVELS} levels")
        if value is None or type(value) in (bool, str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value, what)
        if isinstance(value, np.generic):
            self._check_type(value.dtype, what)
            little = value.dtype.newbyteorder("<")
            return {"number": [little.str, value.astype(little).tobytes().hex()]}
        if type(value) in (int, float):
            return self._number(value, what)
        if isinstance(value, Symbol):
            return {"symbol": str(value)}
        return self._compound(value, what, level + 1)

    def _compound(self, value: Any, what: str, level: int) -> Any:
        def each(items: Iterable[Any]) -> list[Any]:
            return [self.encode(v, f"{what}[{i}]", level) for i, v in enumerate(items)]

        if type(value) is list:
            return each(value)
        if type(value) is tuple:
            return {"tuple": each(value)}
        if type(value) is dict:
            pairs = []
            for k, v in value.items():
                pairs.append([self.encode(k, f"a key of {what}", level), self.encode(v, f"{what}[{k!r}]", level)])
            return {"dictionary": pairs}
        if isinstance(value, Range):
            return {"range": each((value.start, value.stop))}
        if isinstance(value, Filler):
            return {"filler": [type(value).__name__, *each(getattr(value, f) for f in value.field_names)]}
        if isinstance(value, Array):
            elements = np.frombuffer(value.data, np.float64).reshape(value.dims, order="F")
            return {"literal": self._keep(elements)}
        raise KnetTypeError(f"save: {what} is of type {type(value).__name__}; {_EXPECTED}")

    def _number(self, value: int | float, what: str) -> Any:
        if isinstance(value, int):
            if value.bit_length() > _MOST_BITS:
                raise KnetTypeError(f"save: {what} is an integer of more than {_MOST_BITS} bits")
            return value
        return value if math.isfinite(value) else {"float": repr(value)}

    def _array(self, value: NDArray[Any], what: str) -> Any:
        if type(value) not in (np.ndarray, np.memmap):
            raise KnetTypeError(f"save: {what} is of type {type(value).__name__}; {_EXPECTED}")
        self._check_type(value.dtype, what)
        if value.dtype.kind == "b":
            return {"booleans": self._keep(value.view(np.uint8))}
        return {"array": self._keep(value)}

    def _check_type(self, dtype: np.dtype[Any], what: str) -> None:
        if dtype.kind not in "fiub" or dtype.itemsize > 8:
            raise KnetTypeError(f"save: {what} holds elements of {dtype}; real numbers of up to 8 bytes are saved")

    def _keep(self, value: NDArray[Any]) -> str:
        name = str(len(self.arrays))
        self.arrays[name] = value
        return name


class Decoder:
    """Takes values out of JSON; `unused` are the arrays that no value has asked for.

    Raises ValueError, TypeError or LookupError for what `Encoder` does not make.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self.unused = set(arrays)

    def decode(self, json: Any, level: int = 0) -> Any:
        """The value that `json` stands for."""
        if level > MOST_LEVELS:
            raise ValueError("a value is nested too deeply")
        if json is None or type(json) in (bool, str, int, float):
            return json
        if isinstance(json, list):
            return [self.decode(v, level + 1) for v in json]
        ((kind, body),) = json.items()
        if kind in ("array", "booleans", "literal"):
            return self._of_array(kind, body)
        if kind == "number":
            dtype, digits = body
            return _number(dtype, digits)
        if kind == "float":
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[body]
        if kind == "symbol" and isinstance(body, str):
            return Symbol(body)
        return self._compound(kind, body, level + 1)

    def _compound(self, kind: str, body: Any, level: int) -> Any:
        if not isinstance(body, list):
            raise TypeError(f"a {kind} is made of no list")
        if kind == "tuple":
            return tuple(self.decode(v, level) for v in body)
        if kind == "dictionary":
            return {self.decode(k, level): self.decode(v, level) for k, v in body}
        if kind == "range":
            start, stop = body
            if type(start) not in (int, float) or type(stop) not in (int, float):
                raise TypeError("a range goes from a number to a number")
            return Range(start, stop)
        if kind == "filler":
            filler = FILLERS[body[0]](*(self.decode(v, level) for v in body[1:]))
            if wrong := check_filler(filler):
                raise ValueError(wrong)
            return filler
        raise ValueError(f"there is no kind {kind} of values")

    def _of_array(self, kind: str, name: str) -> Any:
        array = self._arrays[name]
        self.unused.discard(name)
        if kind == "booleans":
            return array.view(np.bool_) if array.dtype == np.uint8 and array.max(initial=0) <= 1 else _no("booleans")
        if kind == "literal":
            return Array(array.shape, array.tobytes(order="F")) if array.dtype == np.float64 else _no("a literal")
        return array


def _number(dtype: str, digits: str) -> np.generic:
    if np.dtype(dtype).kind not in "fiub" or np.dtype(dtype).itemsize > 8:
        _no("a number")
    (number,) = np.frombuffer(bytes.fromhex(digits), dtype)
    return number  # type: ignore[no-any-return]


def _no(what: str) -> Any:
    raise TypeError(f"an array is not {what}")
