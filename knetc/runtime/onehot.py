"""One-hot matrices given by the row index of each column: what stands for an input or a `ygold` without a dense matrix.

Made by users (`knetc.onehot`) and by `batches.seqbatch`; `check.py` turns them into arrays for the executables.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knetc.errors import KnetShapeError, KnetTypeError


class OneHot:
    """A (rows, n) matrix whose column i is 1 in row `indices[i]` and 0 elsewhere."""

    __slots__ = ("indices", "rows")

    def __init__(self, indices: NDArray[np.integer[Any]], rows: int) -> None:
        self.indices = indices
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """The dims of the matrix."""
        return self.rows, len(self.indices)

    def columns(self, start: int, stop: int) -> OneHot:
        """Columns `start` to `stop` (exclusive), without a copy."""
        return OneHot(self.indices[start:stop], self.rows)

    def dense(self, dtype: Any) -> NDArray[Any]:
        """The matrix itself, Fortran-ordered."""
        matrix = np.zeros(self.shape, dtype, order="F")
        matrix[self.indices, np.arange(len(self.indices))] = 1
        return matrix

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.dense(np.float32 if dtype is None else dtype)

    def __repr__(self) -> str:
        return f"onehot({self.indices!r}, {self.rows})"


def onehot(indices: ArrayLike, rows: int, what: str = "onehot") -> OneHot:
    """The one-hot matrix (rows, len(indices)) by the row index of each column, counted from 0.

    `what` names the array in messages. Raises KnetTypeError for indices that are not integers, KnetShapeError where
    they are not a vector or lie outside the rows.
    """
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise KnetTypeError(f"{what}: the number of rows is a positive integer, got {rows!r}")
    array = np.asarray(indices)
    if array.dtype.kind not in "iu" and array.size:
        raise KnetTypeError(f"{what}: row indices are integers, got an array of {array.dtype}")
    if array.ndim != 1:
        raise KnetShapeError(f"{what}: row indices are a vector, one a column, got shape {array.shape}")
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= rows:
            bad = low if low < 0 else high
            raise KnetShapeError(f"{what}: row index {bad} is outside of 0 to {rows - 1} (indices count from 0)")
    return OneHot(array.astype(np.intp, copy=False), int(rows))
