"""Whose columns are whose among several processes, and where each gradient stands in the vector that they sum.

Part of `splitting.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from knetc.ir.program import Program
from knetc.runtime.executable import Tensor

LINE = 64
"""Where a share begins in memory, its last bits may depend on; so all begin at a multiple of this."""


@dataclass(frozen=True, slots=True)
class Share:
    """The columns `first` to `stop` of `whole`, and what they weigh. `idle`: they are another process's. `split`:
    whether the value has columns at all; where not, all processes have the same, and rank 0's counts.
    """

    first: int
    stop: int
    whole: int
    weight: float
    idle: bool = False
    split: bool = True

    @classmethod
    def of(cls, rank: int, size: int, whole: int, split: bool = True) -> Share:
        """The share of a rank: as even as may be, the first ranks one more. With no column, the first at weight 0."""
        least, more = divmod(whole, size)
        first = rank * least + min(rank, more)
        stop = first + least + (rank < more)
        weight = (stop - first) / whole if split else float(rank == 0)
        return cls(0, 1, whole, 0.0, True, split) if first == stop else cls(first, stop, whole, weight, False, split)

    def own(self, array: Tensor, steps: int = 1) -> Tensor:
        """These columns of an array, or those of each of its steps side by side, where it begins at a full line."""
        if steps > 1:
            apart = array.reshape((*array.shape[:-1], self.whole, steps), order="F")[..., self.first : self.stop, :]
            part = apart.reshape((*array.shape[:-1], -1), order="F")
        else:
            part = array[..., self.first : self.stop]
        return aligned(part)


def aligned(array: Tensor) -> Tensor:
    """The array in Fortran order and at a full line of memory; itself where it is that already."""
    if array.flags.f_contiguous and array.ctypes.data % LINE == 0:
        return array
    room = np.empty(array.nbytes + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    copy: Tensor = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape, order="F")
    copy[...] = array
    return copy


class Place(NamedTuple):
    """Where a parameter's gradient stands in the vector of all."""

    name: str
    dims: tuple[int, ...]
    first: int
    stop: int


def places(program: Program) -> Iterator[Place]:
    """Where the gradient of each parameter that is trained stands in one vector."""
    params, at = program.params(), 0
    for instr in program.update:
        name = str(instr.attr("param"))
        type_ = params[name].type
        assert type_ is not None
        dims = type_.concrete(0)
        size = int(np.prod(dims, dtype=np.int64))
        yield Place(name, dims, at, at + size)
        at += size
