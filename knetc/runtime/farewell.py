"""How a process of a distributed run tells the others that it ends, so that none waits for it.

Before: `distribute.py`, which says when. After: `ranks.py`, which asks who has ended while it waits for somebody. A
process that is killed says nothing: mpirun sees that one. At its end a process stays until the others have ended too,
as MPI makes it do anyway, so every farewell is received.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping
from typing import Any

TAG = 27183  # apart from what `ranks.py` sends
LEFT = "has left the script"
_MOST = 400  # bytes of a farewell
_NAP = 2e-3  # seconds between two looks for farewells, at the end


class Farewell:
    """What the processes of `comm` have said at their end. `met`: whether all of them are known to have come."""

    def __init__(self, comm: Any) -> None:
        self._comm, self._process, self._told, self.met = comm, os.getpid(), False, False
        self._others = [r for r in range(comm.Get_size()) if r != comm.Get_rank()]
        self._heard: dict[int, str] = {}
        atexit.register(self._leave)

    def tell(self, how: str) -> None:
        """Tells the others, once, that this process ends, and how."""
        if self._told:
            return
        self._told = True
        text = how.encode()[:_MOST]
        for request in [self._comm.Isend(text, dest=r, tag=TAG) for r in self._others]:
            request.Test()  # so small a message is on its way without a wait

    def heard(self) -> Mapping[int, str]:
        """The processes that have ended, and how."""
        from mpi4py import MPI

        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, TAG, status):
            room = bytearray(status.Get_count(MPI.BYTE))
            self._comm.Recv(room, source=status.Get_source(), tag=TAG)
            self._heard[status.Get_source()] = room.decode("utf-8", "replace")
        return self._heard

    def _leave(self) -> None:
        """At the end of the interpreter; not that of a copy of this process."""
        from mpi4py import MPI

        if os.getpid() != self._process or MPI.Is_finalized():
            return
        self.tell(LEFT)
        while self.met and len(self.heard()) < len(self._others):
            time.sleep(_NAP)


_farewell: Farewell | None = None


def farewell(comm: Any) -> Farewell:
    """That of this process, made when it is first asked for."""
    global _farewell
    if _farewell is None:
        _farewell = Farewell(comm)
    return _farewell
