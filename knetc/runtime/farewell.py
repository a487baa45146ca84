"""How a process of a distributed run tells the others that it ends, so that none waits for it.

Before: `distribute.py`, which says when. After: `ranks.py`, which asks who has ended while it waits for somebody. A
process that is killed says nothing: mpirun sees that one, or the link does. At its end a process stays until the others
have ended too, as MPI makes it do anyway, so every farewell is received.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping

import numpy as np

from knetc.runtime.links import Bytes, Link, Pending

TAG = 27183  # apart from what `ranks.py` sends
LEFT = "has left the script"
_MOST = 400  # bytes of a farewell
_NAP = 2e-3  # seconds between two looks for farewells, at the end


class Farewell:
    """What the processes of a link have said at their end. `met`: whether all of them are known to have come."""

    def __init__(self, link: Link) -> None:
        self._link, self._process, self._told, self.met = link, os.getpid(), False, False
        self._others = [r for r in range(link.size) if r != link.rank]
        self._coming: dict[int, tuple[Pending, Bytes]] = {}
        self._heard: dict[int, str] = {}
        atexit.register(self._leave)

    def tell(self, how: str) -> None:
        """Tells the others, once, that this process ends, and how."""
        if self._told:
            return
        self._told = True
        text = np.frombuffer(how.encode()[:_MOST], np.uint8)
        for sending in [self._link.send(r, TAG, text) for r in self._others]:
            sending.done()  # so small a message is on its way without a wait

    def heard(self) -> Mapping[int, str]:
        """The processes that have ended, and how; those too that have said nothing, and that nothing comes from."""
        for rank in self._others:
            if rank not in self._coming and (message := self._link.look(rank, TAG)):
                room = np.empty(message.size, np.uint8)
                self._coming[rank] = message.receive(room), room
            if rank in self._coming and rank not in self._heard and self._coming[rank][0].done():
                self._heard[rank] = bytes(self._coming[rank][1]).decode("utf-8", "replace")
        return {**self._link.lost(), **self._heard}

    def stay(self, seconds: float) -> None:
        """Hears the others for so long. What they have sent is taken: a connection that ends before it loses more."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.heard()
            self._link.move(_NAP)

    def _leave(self) -> None:
        """At the end of the interpreter; not that of a copy of this process."""
        if os.getpid() != self._process or not self._link.open():
            return
        self.tell(LEFT)
        while self.met and len(self.heard()) < len(self._others):
            self._link.move(_NAP)


_farewell: Farewell | None = None


def farewell(link: Link) -> Farewell:
    """That of this process, made when it is first asked for."""
    global _farewell
    if _farewell is None:
        _farewell = Farewell(link)
    return _farewell
