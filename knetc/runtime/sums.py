"""The gradients of a minibatch that several processes share: how they become the sum over all.

Before: `splitting.Split`, which says what has been computed and when the sum is wanted. After: the executable of this
process, and `ranks.py`. Where the executable hands its gradients out, `ranks.py` adds them; emitted CUDA adds them
itself, by NCCL, and here the processes only agree that they are about to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeGuard, cast

import numpy as np

from knetc.errors import KnetError
from knetc.runtime.check import DTYPES
from knetc.runtime.executable import Executable, Tensor
from knetc.runtime.library import Library
from knetc.runtime.links import numbered
from knetc.runtime.ranks import Ranks
from knetc.runtime.shares import Place, Share, places

_NOTHING = np.empty(0, np.uint8)


class Splittable(Executable, Protocol):
    """An executable that may be given part of the columns of a minibatch."""

    def take_columns(self, first: int, whole: int) -> None:
        """The next calls are given columns from `first` on of a minibatch of `whole`, and draw what these would."""


class GivesGradients(Splittable, Protocol):
    """One that hands its gradients out."""

    def read_gradient(self, name: str, to: Tensor) -> None:
        """Copies the gradient of a parameter to an array of its shape."""

    def write_gradient(self, name: str, array: Tensor) -> None:
        """Overwrites the gradient of a parameter that `update` changes; keeps the array."""


class Sums(Protocol):
    """Gradients as the sum over all processes."""

    at_once: bool
    """Whether the executable can train on many minibatches in one call, and sum by itself."""

    def begin(self, what: str, share: Share, adds: bool, word: bytes = b"") -> list[bytes]:
        """Before a backward call over a share, which perhaps adds to the gradients that there are. Where the processes
        exchange anything here, every process's word. Raises KnetError for a share of which no sum can be made.
        """

    def end(self, complete: bool) -> None:
        """After it: whether no step of a sequence is left."""

    def total(self, what: str, word: bytes = b"", loss: float = 0.0) -> tuple[float, list[bytes]]:
        """Before an update: sums what is not summed yet; the sum of the losses, and every process's word."""

    def gradient(self, what: str, name: str) -> Tensor:
        """A parameter's gradient, summed."""

    def forget(self) -> None:
        """There are no gradients any more."""


def adds_itself(inner: Executable) -> TypeGuard[Library]:
    """Whether an executable sums its gradients over processes by itself."""
    return isinstance(inner, Library) and inner.sums


class HostSums:
    """Sums by `Ranks`, one of one vector, when they are wanted."""

    at_once = False

    def __init__(self, inner: Executable, ranks: Ranks, so_far: Callable[[], str]) -> None:
        """`so_far`: what every exchange says beside what is being done."""
        self._inner, self._ranks, self._so_far = cast("GivesGradients", inner), ranks, so_far
        dtype = DTYPES[inner.program.dtype]
        self._places = list(places(inner.program))
        self._count = self._places[-1].stop if self._places else 0
        self._flat = np.zeros(self._count + 1, dtype)  # and the loss
        self._summed = False  # whether the gradients are the sum over all processes
        self._empty = True  # whether no column of this process is in the gradients
        self._doing = ""  # what has computed the gradients

    def begin(self, what: str, share: Share, adds: bool, word: bytes = b"") -> list[bytes]:
        """Gradients that are summed already stay on one process, so that they are counted once."""
        self._doing = what
        if adds and self._summed and self._ranks.rank:
            for place in self._places:  # which are kept, and added to
                self._inner.write_gradient(place.name, np.zeros(place.dims, self._flat.dtype, order="F"))
        self._empty = not share.weight and (self._empty or not adds or self._summed)
        self._summed = False
        return []

    def end(self, complete: bool) -> None:
        """Nothing: the sum waits until it is wanted."""

    def total(self, what: str, word: bytes = b"", loss: float = 0.0) -> tuple[float, list[bytes]]:
        """Makes the gradients the sum over all processes (see `Sums.total`)."""
        what = f"{what} after {self._doing} ({self._count} gradients) {self._so_far()}"
        if self._summed:
            return _sum_of_losses(self._ranks, what, word, loss, self._flat.dtype)
        if self._empty:
            self._flat[:] = 0
        else:
            for place, array in self._views(self._flat):
                self._inner.read_gradient(place.name, array)
        self._flat[-1] = loss
        total, words = self._ranks.sum(what, self._flat, word)
        for place, array in self._views(total):
            self._inner.write_gradient(place.name, array)
        self._summed = True
        return float(total[-1]), words

    def gradient(self, what: str, name: str) -> Tensor:
        """A parameter's gradient, of which all are summed (see `Sums.gradient`)."""
        self.total(what)
        return self._inner.read("grad", name)

    def forget(self) -> None:
        """There are no gradients any more."""
        self._summed, self._empty = False, True

    def _views(self, flat: Tensor) -> Iterator[tuple[Place, Tensor]]:
        for place in self._places:
            yield place, flat[place.first : place.stop].reshape(place.dims, order="F")


class DeviceSums:
    """Sums that the executable makes itself, by NCCL, while it goes back, and for an update those that are left.

    NCCL waits for ever for a process that does not come, so the processes agree before each call that sums.
    """

    def __init__(self, inner: Library, ranks: Ranks, so_far: Callable[[], str]) -> None:
        """Joins a communicator of all processes; `so_far` as of `HostSums`. Raises KnetError where some share a GPU."""
        self._inner, self._ranks, self._so_far = inner, ranks, so_far
        self._dtype = DTYPES[inner.program.dtype]
        self.at_once = inner.trains
        self._captures = os.environ.get("KNETC_GRAPH_SUMS") == "1"
        self._summed = False
        self._doing = ""
        _apart(ranks.texts("compare the GPUs", inner.device_name()))
        comm = inner.communicator()
        made = None if ranks.rank or comm.handle else comm.fresh_id()
        inner.join(comm, ranks.first("join a communicator of NCCL", made), ranks.rank, ranks.size)

    def begin(self, what: str, share: Share, adds: bool, word: bytes = b"") -> list[bytes]:
        """All are about to make the same call."""
        if self._captures and share.whole % self._ranks.size:
            count = self._ranks.size
            raise KnetError(f"{what}: with KNETC_GRAPH_SUMS=1 they must be shared evenly by the {count} processes")
        self._doing = what
        return self._ranks.gather(f"{what} {self._so_far()}", _NOTHING, word)[1]

    def end(self, complete: bool) -> None:
        """The call that empties the stack has summed all."""
        self._summed = complete

    def total(self, what: str, word: bytes = b"", loss: float = 0.0) -> tuple[float, list[bytes]]:
        """All are about to update; only their losses are summed here (see `Sums.total`)."""
        what = f"{what} after {self._doing} {self._so_far()}"
        found = _sum_of_losses(self._ranks, what, word, loss, self._dtype)
        self._summed = True
        return found

    def gradient(self, what: str, name: str) -> Tensor:
        """A parameter's gradient; in the midst of a sequence the sum of it, while each process keeps its own."""
        what = f"{what} {self._so_far()}"
        array = self._inner.read("grad", name)
        flat = array.reshape(-1, order="F")
        if self._summed:
            self._ranks.gather(what, _NOTHING)
            return array
        return self._ranks.sum(what, flat, b"")[0].reshape(array.shape, order="F")

    def forget(self) -> None:
        """There are no gradients any more."""
        self._summed = False


def _apart(devices: Sequence[str | None]) -> None:
    """Raises KnetError where processes have the same device: NCCL would refuse some, and let the others wait."""
    for device in devices:
        same = [rank for rank, other in enumerate(devices) if other == device]
        if device is not None and len(same) > 1:
            raise KnetError(
                f"each process needs a GPU of its own, and {numbered(same)} have the same ({device}): start as many "
                "processes on a machine as it has GPUs"
            )


def _sum_of_losses(
    ranks: Ranks, what: str, word: bytes, loss: float, dtype: np.dtype[Any]
) -> tuple[float, list[bytes]]:
    total, words = ranks.sum(what, np.array([loss], dtype), word)
    return float(total[0]), words
