"""The link between processes that MPI started. Nothing else imports mpi4py.

Before: `links.py`. After: MPI, through mpi4py. No collective call of MPI is used: those name nobody.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NoReturn

from knetc.errors import KnetEnvironmentError
from knetc.runtime.links import Bytes

MISSING = "training on several processes started by mpirun needs mpi4py and an MPI: pip install 'knetc[dist]'"


class _Pending:
    def __init__(self, request: Any) -> None:
        self._request = request

    def done(self) -> bool:
        return bool(self._request.Test())


class _Incoming:
    def __init__(self, message: Any, size: int) -> None:
        self._message, self.size = message, size

    def receive(self, room: Bytes) -> _Pending:
        return _Pending(self._message.Irecv(room))


class MpiLink:
    """All processes of MPI's run (see `links.Link`)."""

    place: int | None = None

    def __init__(self) -> None:
        """Raises KnetEnvironmentError where there is no mpi4py or no MPI."""
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError, OSError) as error:
            raise KnetEnvironmentError(f"{MISSING} ({error})") from None
        self._mpi, self._comm = MPI, MPI.COMM_WORLD  # as it is: making another one would wait for all, however long
        self.rank, self.size = int(self._comm.Get_rank()), int(self._comm.Get_size())
        self.errors: tuple[type[Exception], ...] = (MPI.Exception,)

    def send(self, to: int, tag: int, data: Bytes) -> _Pending:
        """Begins to send."""
        return _Pending(self._comm.Isend(data, dest=to, tag=tag))

    def look(self, source: int, tag: int) -> _Incoming | None:
        """A message that has begun to come."""
        status = self._mpi.Status()
        message = self._comm.Improbe(source, tag, status)
        return None if message is None else _Incoming(message, int(status.Get_count(self._mpi.BYTE)))

    def lost(self) -> Mapping[int, str]:
        """None: mpirun sees a process that is killed, and ends the others."""
        return {}

    def move(self, wait: float | None) -> None:
        """Messages move by the calls that ask for them."""
        if wait is not None:
            time.sleep(wait)

    def open(self) -> bool:
        """Until MPI has ended."""
        return not self._mpi.Is_finalized()

    def abort(self) -> NoReturn:
        """Ends all processes."""
        self._comm.Abort(1)
        raise SystemExit(1)
