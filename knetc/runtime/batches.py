"""Minibatches and time steps of a data set, as list-like objects of views: nothing is copied, on the device neither.

Before it: the user's arrays. After it: `train.py`, or the user's own loop over `forw` and `back`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from knetc.errors import KnetNameError, KnetShapeError, KnetTypeError
from knetc.runtime import check
from knetc.runtime.device import LEGACY_STREAM, DeviceArray, find, is_device, read_only, readings
from knetc.runtime.onehot import OneHot, onehot


@dataclass(frozen=True, slots=True)
class DeviceColumns:
    """A data set in the device's memory; `shape` as Knet reads it, the columns along the last dimension.

    Its library describes it anew for every minibatch, since work that has been given to the device by then counts.
    """

    value: Any
    shape: tuple[int, ...]

    def columns(self, start: int, stop: int) -> DeviceArray:
        """The columns from `start` to before `stop`, in the same memory."""
        found = find(self.value, "minibatch", LEGACY_STREAM)
        if self.shape not in readings(found):
            raise KnetShapeError(f"minibatch: the device array had the shape {self.shape} and has {found.shape} now")
        kept = read_only(self.value)
        whole = DeviceArray(found.pointer, self.shape, found.dtype, found.streams, found.owner, kept)
        return whole.columns(start, stop)


class Minibatches(Sequence[tuple[Any, Any]]):
    """The pairs (x, y) of `size` consecutive columns each; the last may be smaller. x is a tuple of several inputs."""

    def __init__(self, x: Any, y: Any, batchsize: int) -> None:
        self.x, self.y, self.size = x, y, batchsize
        self.columns = _columns(y)

    def __len__(self) -> int:
        return -(-self.columns // self.size)

    @overload
    def __getitem__(self, index: int) -> tuple[Any, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Any, Any]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = range(len(self))[index] * self.size
        stop = min(start + self.size, self.columns)
        return _view(self.x, start, stop), _view(self.y, start, stop)

    def __repr__(self) -> str:
        return f"<{len(self)} minibatches of {self.size} columns>"


class TimeSteps(Sequence[OneHot]):
    """The steps of `batchsize` parallel sequences of symbols: step t is one-hot over the symbols t, t+T, t+2T, …"""

    def __init__(self, indices: np.ndarray, rows: int, batchsize: int) -> None:
        steps = len(indices) // batchsize
        # Row t of the transposed table holds the symbols of step t.
        self._table = indices[: steps * batchsize].reshape(batchsize, steps).T
        self._rows = rows

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> OneHot: ...
    @overload
    def __getitem__(self, index: slice) -> list[OneHot]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return OneHot(self._table[index], self._rows)

    def __repr__(self) -> str:
        steps, size = self._table.shape
        return f"<{steps} time steps of {size} columns, {self._rows} rows>"


def minibatch(x: Any, y: Any, batchsize: int) -> Minibatches:
    """`x` and `y` cut along the last dimension into pairs of `batchsize` columns; views, no copy.

    The last pair holds what is left. `x` is a tuple of arrays where the model has several inputs, and so it is in each
    pair. A vector of integers or `onehot` stands for a one-hot matrix. A device array has its columns last in Fortran
    order, or first in C order; its parts are views too, which other libraries take by `__cuda_array_interface__`.
    Raises KnetShapeError where x and y differ in columns, KnetTypeError for a batch size that is no positive integer
    and a device array whose elements do not lie one after the other.
    """
    _check_size(batchsize)
    inputs = {f"x[{k}]": _array(a) for k, a in enumerate(x)} if isinstance(x, tuple) else {"x": _array(x)}
    if not inputs:
        raise KnetShapeError("minibatch: x is a tuple without an input")
    y = _array(y)
    xs, ys = {name: _shapes(a, f"minibatch: {name}") for name, a in inputs.items()}, _shapes(y, "minibatch: y")
    if not all(shape for shapes in (*xs.values(), ys) for shape in shapes):
        raise KnetShapeError("minibatch: x and y are arrays with the columns along the last dimension")
    for name, shapes in xs.items():
        if {s[-1] for s in shapes}.isdisjoint(s[-1] for s in ys):
            raise KnetShapeError(f"minibatch: {name} has {shapes[0][-1]} columns and y has {ys[0][-1]}")
    # An array of one row or of one column can be read both ways: as the others have it, and rather as many columns.
    common = set.intersection(*({s[-1] for s in shapes} for shapes in (*xs.values(), ys)))
    if not common:
        raise KnetShapeError("minibatch: the inputs and y have no number of columns in common")
    columns = max(common)
    found = tuple(_cut(a, xs[name], columns) for name, a in inputs.items())
    return Minibatches(found if isinstance(x, tuple) else found[0], _cut(y, ys, columns), int(batchsize))


def _array(a: Any) -> Any:
    """What is cut as an array of NumPy, or as it is: one on the device, and what stands for a one-hot matrix."""
    return a if isinstance(a, OneHot) or is_device(a) else np.asarray(a)


def _cut(a: Any, shapes: Sequence[tuple[int, ...]], columns: int) -> Any:
    """What is cut, of the one of its shapes that has so many columns."""
    return DeviceColumns(a, next(s for s in shapes if s[-1] == columns)) if is_device(a) else a


def _shapes(a: Any, what: str) -> list[tuple[int, ...]]:
    """The shapes that an array can be read as, on the host one."""
    return check.readings(find(a, what, LEGACY_STREAM), what) if is_device(a) else [tuple(a.shape)]


def seqbatch(seq: Iterable[Any], dict: Mapping[Any, int], batchsize: int) -> TimeSteps:
    """`seq` cut into `batchsize` parallel sequences of T = len(seq) // batchsize steps (the manual's lesson 10).

    `dict` gives each symbol's row, from 0. Step t is the one-hot matrix (len(dict), batchsize) of the symbols t, t+T,
    t+2T, …, made when it is asked for. Raises KnetNameError for a symbol that `dict` lacks, KnetShapeError for a row
    outside of 0 to len(dict)-1 and where there are fewer symbols than columns.
    """
    _check_size(batchsize)
    rows = len(dict)
    try:
        indices = np.fromiter((operator.index(dict[symbol]) for symbol in seq), np.int32)
    except KeyError as error:
        raise KnetNameError(f"seqbatch: the dictionary has no entry for {error.args[0]!r}") from None
    except (TypeError, ValueError, OverflowError):
        raise KnetTypeError("seqbatch: the dictionary gives each symbol an integer") from None
    if len(indices) < batchsize:
        raise KnetShapeError(f"seqbatch: {len(indices)} symbols do not fill {batchsize} columns")
    onehot(indices, rows, "seqbatch")
    return TimeSteps(indices, rows, int(batchsize))


def _check_size(batchsize: int) -> None:
    if isinstance(batchsize, bool) or not isinstance(batchsize, int | np.integer) or batchsize < 1:
        raise KnetTypeError(f"the batch size is a positive integer, got {batchsize!r}")


def _columns(a: Any) -> int:
    return int(a.shape[-1])


def _view(a: Any, start: int, stop: int) -> Any:
    if isinstance(a, tuple):
        return tuple(_view(one, start, stop) for one in a)
    return a[..., start:stop] if isinstance(a, np.ndarray) else a.columns(start, stop)
