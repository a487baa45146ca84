"""Ends a run in which a sum over GPUs does not end: NCCL waits for ever for a process that has stopped in it.

Before: `splitting.py`, whose executable sums by itself. After: `farewell.py`. While a call of the executable runs, this
process asks nobody; a thread does then, and a call that takes too long can only be ended with its process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

from knetc.runtime.farewell import farewell
from knetc.runtime.links import Link, numbered

_TICK = 0.25  # seconds between two looks
_GRACE = 2.0  # seconds in which those that wait too say so
_WAITS = "has waited "
_FOLLOWS = "has ended the run: "  # how the farewell of a process begins that has seen another one end


class Watch:
    """Looks at the calls of an executable, none of which may take over `limit` seconds."""

    def __init__(self, link: Link, limit: float) -> None:
        self._link, self._limit = link, limit
        self._lock = threading.Lock()  # who has it may speak over the link
        self._doing, self._since = "", 0.0
        threading.Thread(target=self._look, name="knetc watch", daemon=True).start()

    def call(self, name: str, method: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """A call of the executable, looked at."""
        self._doing, self._since = name, time.monotonic()
        try:
            return method(*given, **named)
        finally:
            with self._lock:
                self._doing = ""

    def _look(self) -> None:
        while self._link.open():
            time.sleep(_TICK)
            with self._lock:
                if self._doing and time.monotonic() - self._since > _TICK:
                    self._ask()

    def _ask(self) -> None:
        """Ends the run where somebody has ended, or the time is over: who does not say then that he waits is named."""
        self._link.move(None)
        heard = farewell(self._link).heard()
        gone = {r: how for r, how in heard.items() if not how.startswith(_WAITS)}
        if gone:
            first = {r: how for r, how in gone.items() if not how.startswith(_FOLLOWS)} or gone
            why = "; ".join(f"rank {r} {how}" for r, how in sorted(first.items()))
            self._say(f"{_FOLLOWS}{why}")
            self._end(why)
        if heard or time.monotonic() - self._since > self._limit:
            self._say(f"{_WAITS}{self._limit:g} seconds for a sum")
            self._end(self._silent(farewell(self._link).heard()))

    def _say(self, how: str) -> None:
        """Tells the others how this process ends, and hears them until they have heard it."""
        farewell(self._link).tell(how)
        farewell(self._link).stay(_GRACE)

    def _silent(self, heard: Mapping[int, str]) -> str:
        """Who has not been heard of."""
        silent = [r for r in range(self._link.size) if r != self._link.rank and r not in heard]
        if not silent:
            return f"all have waited for {self._limit:g} seconds"
        return f"{numbered(silent)} {'have' if len(silent) > 1 else 'has'} stopped, for {self._limit:g} seconds"

    def _end(self, why: str) -> NoReturn:
        rank, size = self._link.rank, self._link.size
        print(
            f"knetc: {why}; rank {rank} of {size} ends all processes, as '{self._doing}' would wait for ever "
            "for a sum over the GPUs",
            file=sys.stderr,
        )
        sys.stderr.flush()
        self._link.abort()


class Watched:
    """An executable all calls of which are looked at."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return partial(self._watch.call, name, found) if callable(found) else found
