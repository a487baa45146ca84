"""What carries messages between the processes of a distributed run: the interface, and which of its kinds this run has.

Before: `distribute.py`, which asks for it; `ranks.py` and `farewell.py`, which speak over it. After: `mpi.py` where MPI
started the processes, `sockets.py` where a launcher did that only sets variables (read in `launch.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from knetc.runtime import launch

Bytes = NDArray[np.uint8]


class Pending(Protocol):
    """A message on its way."""

    def done(self) -> bool:
        """Whether it has been sent, so that its memory may be used again; or has come, whole."""


class Incoming(Protocol):
    """A message that has begun to come, of `size` bytes."""

    size: int

    def receive(self, room: Bytes) -> Pending:
        """Takes it into memory of its size, which is whole once it is done."""


class Link(Protocol):
    """The way to the other processes of a run, of which this one has number `rank` of `size`.

    No call waits, but for `move`. Messages of one process and tag come in the order in which they were sent. `errors`:
    what the calls may raise, other than KnetError. `place`: which of the processes of its machine this one is, if the
    launcher has said so.
    """

    rank: int
    size: int
    place: int | None
    errors: tuple[type[Exception], ...]

    def send(self, to: int, tag: int, data: Bytes) -> Pending:
        """Begins to send; the memory stays as it is until it is done."""

    def look(self, source: int, tag: int) -> Incoming | None:
        """The next message of a process under a tag, if it has begun to come; each is given out once."""

    def lost(self) -> Mapping[int, str]:
        """The processes that nothing more can come from, and what shows it."""

    def move(self, wait: float | None) -> None:
        """Lets messages move. `wait`: None asks for no time, 0 gives the processor away, more is for about so long."""

    def open(self) -> bool:
        """Whether anything can still be sent."""

    def abort(self) -> NoReturn:
        """Ends this process, and the others as far as that can be done from here."""


_link: Link | None = None


def find(start: float) -> Link:
    """That of this process, made when it is first asked for: all processes are waited for up to `start` seconds then.

    Raises KnetEnvironmentError where the launcher's variables are wrong, where there is none and mpi4py or MPI is
    missing, and where rank 0 cannot be found; KnetError where a process does not come.
    """
    global _link
    if _link is None:
        found = _mpi() if _mpi_started_it() else None
        if found is None or found.size == 1:
            told = launch.told()
            found = _sockets(told, start) if told else found or _mpi()
        _link = found
    return _link


def _mpi_started_it() -> bool:
    """Whether an MPI has started this process: not if it started only a torchrun, whose processes inherit that."""
    if launch.RUN in os.environ:
        return False
    sizes = [os.environ[name] for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") if name in os.environ]
    return any(s != "1" for s in sizes) or ("PMIX_RANK" in os.environ and not launch.complete())


def _mpi() -> Link:
    from knetc.runtime.mpi import MpiLink

    return MpiLink()


def _sockets(told: launch.Launch, start: float) -> Link:
    from knetc.runtime.sockets import SocketLink

    return SocketLink.of(told, start)


def numbered(ranks: Sequence[int]) -> str:
    """`rank 2`, `ranks 1, 2`."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def not_come(names: str, several: bool, what: str, seconds: float, rank: int) -> str:
    """What is said of processes that did not come in time."""
    did = "have" if several else "has"
    return f"{names} {did} not come to {what} within {seconds:g} seconds; rank {rank} gives up"
