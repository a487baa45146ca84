"""Types of IR values: element type and dimensions, the batch dimension a symbol.

Dimensions stand in Knet's order (column-major, batch last). A dimension is a positive int or `N`, the batch. During
inference a `Partial` holds what is known so far.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from knetc.record import Record


class BatchDim:
    """The symbol for the number of columns; there is one instance, `N`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "N"

    def __reduce__(self) -> str:
        return "N"


N: Final = BatchDim()

Dim: TypeAlias = int | BatchDim
Dims: TypeAlias = tuple[Dim, ...]
PartialDims: TypeAlias = tuple["Dim | None", ...]


class Type(Record):
    """The type of a value. `dtype` is `f32` or `f64`; () are the dims of a scalar."""

    dtype: str
    dims: Dims

    @property
    def batched(self) -> bool:
        """Whether the size depends on the batch."""
        return N in self.dims

    @property
    def column(self) -> int:
        """Elements per column: the product of the dimensions other than N (the whole size where there is no N)."""
        size = 1
        for d in self.dims:
            if not isinstance(d, BatchDim):
                size *= d
        return size

    def concrete(self, batch: int) -> tuple[int, ...]:
        """The dimensions with `batch` for N."""
        return tuple(batch if isinstance(d, BatchDim) else d for d in self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(repr, self.dims))}]"


class Partial(Record):
    """What is known of a shape: `dims` None while the number of dimensions is unknown, None entries unknown sizes.

    `vector` marks `dims=(0,)`: one unknown length along the axis that its use decides (rows of a matrix, channels of
    a 4-D or 5-D array).
    """

    dims: PartialDims | None = None
    vector: bool = False

    @property
    def known(self) -> bool:
        """Whether every dimension is known."""
        return self.dims is not None and None not in self.dims


UNKNOWN: Final = Partial()


def show_dims(dims: PartialDims | None) -> str:
    """Dimensions as messages show them: `(10,784)`, `?` for an unknown one, `(10,)` for one dimension."""
    if dims is None:
        return "(?)"
    inside = ",".join("?" if d is None else repr(d) for d in dims)
    return f"({inside},)" if len(dims) == 1 else f"({inside})"
