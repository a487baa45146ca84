"""The processes of a distributed run, and what they hand each other: every call here is made by all of them.

Before: `splitting.py`, which says what is to be summed or gathered. After: a link (`links.py`). Every exchange carries
the text of what its process is doing, so processes that are not doing the same are told apart, and nothing waits
longer than a set time, so a process that is gone is named. Numbers are added in the order of the ranks and nowhere but
here: the sums are the same to the bit at every run and on every rank.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from knetc.errors import KnetError
from knetc.runtime.farewell import farewell
from knetc.runtime.links import Bytes, Link, Pending, not_come, numbered
from knetc.runtime.watch import Watch, Watched

if TYPE_CHECKING:
    from knetc.runtime.executable import Tensor

DIGEST = 16
HEAD = 64  # bytes before what a message carries, so that this is aligned: two digests and room
TAG = 27182  # apart from what a script itself may send
FOLLOWS = "has ended by KnetError"
"""How the farewell of a process begins that may have ended because of another."""
SMALL = 1 << 14
"""Bytes up to which all ranks are sent all terms of a sum at once, and each adds them."""

# Seconds without anything new after which the processor is given to others: while a process is still to come, and while
# messages are on their way, which move by the calls of both sides; and after which it is given away for a while.
_SPIN, _MOVING, _YIELD, _NAP = 2e-5, 2e-3, 1e-2, 2e-4


def digest(text: str | bytes) -> bytes:
    """A short name of a text."""
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=DIGEST).digest()


class Ranks:
    """The processes of a link, of which this one has number `rank` of `size`; none is waited for over `timeout` s.

    `start`: the same for as long as a process may still be importing or building (see `built`), by default as long.
    `neighbours`: how many of them share this machine, as soon as that is known.
    """

    def __init__(self, link: Link, timeout: float, start: float | None = None) -> None:
        self._link, self.rank, self.size = link, link.rank, link.size
        self._timeout, self._start = timeout, timeout if start is None else start
        self._limit = self._next = self._start  # seconds, of the next exchange and of those after it
        self._farewell = farewell(link)
        self._all = set(range(self.size))
        self.neighbours = 1
        self._kept: dict[tuple[str, int, int], Bytes] = {}  # memory of messages, which the next ones of a size reuse
        self._others = [r for r in range(self.size) if r != self.rank]
        self._watch: Watch | None = None

    def watched(self, executable: Any) -> Any:
        """An executable that waits for the other processes by itself, in calls that are looked at."""
        if self._watch is None:
            self._watch = Watch(self._link, self._timeout)
        return Watched(executable, self._watch)

    def built(self) -> None:
        """This process has built what it needs; that the others have, the next exchange shows."""
        self._limit, self._next = self._start, self._timeout

    # --- what is exchanged --------------------------------------------------------------------------------------------

    def gather(self, what: str, mine: Bytes, word: bytes = b"") -> tuple[list[Bytes], list[bytes]]:
        """What every rank has, and its word of up to 16 bytes, in the order of the ranks; `what` is being done.

        The arrays hold until the next exchange.

        Raises KnetError on every rank where they are not doing the same.
        """
        message = self._message(what, word, mine, self.rank)
        found = self._swap(what, [message] * self.size)
        self._agree(what, [bytes(m[:DIGEST]) for m in found])
        return [m[HEAD:] for m in found], [bytes(m[DIGEST : DIGEST + len(word)]) for m in found]

    def texts(self, what: str, mine: Any) -> list[Any]:
        """What every rank has, plain values that JSON can hold, in the order of the ranks."""
        parts, _ = self.gather(what, np.frombuffer(json.dumps(mine).encode(), np.uint8))
        return [json.loads(bytes(part)) for part in parts]

    def first(self, what: str, mine: bytes | None) -> bytes:
        """What rank 0 has."""
        own = mine if self.rank == 0 and mine is not None else b""
        return bytes(self.gather(what, np.frombuffer(own, np.uint8))[0][0])

    def any(self, what: str, mine: bool) -> bool:
        """Whether it is so on some rank."""
        return any(word == b"1" for word in self.gather(what, np.empty(0, np.uint8), b"1" if mine else b"0")[1])

    def sum(self, what: str, mine: Tensor, word: bytes) -> tuple[Tensor, list[bytes]]:
        """The sum of a vector over the ranks, in their order; and their words."""
        if mine.nbytes <= SMALL:
            parts, words = self.gather(what, mine.view(np.uint8), word)
            return _added(part.view(mine.dtype) for part in parts), words
        # Each rank adds its own stretch of the vector, and then all have all stretches.
        ends = [len(mine) * r // self.size for r in range(self.size + 1)]
        stretches = [mine[a:b].view(np.uint8) for a, b in zip(ends, ends[1:], strict=False)]
        found = self._swap(what, [self._message(what, word, s, r) for r, s in enumerate(stretches)])
        self._agree(what, [bytes(m[:DIGEST]) for m in found])
        words = [bytes(m[DIGEST : DIGEST + len(word)]) for m in found]
        own = _added(m[HEAD:].view(mine.dtype) for m in found)
        total = np.concatenate([m.view(mine.dtype) for m in self._swap(what, [own.view(np.uint8)] * self.size)])
        return total, words

    # --- inside -------------------------------------------------------------------------------------------------------

    def _agree(self, what: str, signs: Sequence[bytes]) -> None:
        """Raises KnetError on every rank where some rank is doing something else, with what each is doing."""
        if len(set(signs)) == 1:
            return
        mine = np.frombuffer(what.encode(), np.uint8).copy()
        doing = [bytes(m).decode("utf-8", "replace") for m in self._swap(what, [mine] * self.size)]
        raise KnetError("the processes are not doing the same: " + apart(doing))

    def _swap(self, what: str, sends: Sequence[Bytes]) -> list[Bytes]:
        """Gives rank r the r-th message; the message of each rank for this one. All messages may differ in size.

        Raises KnetError that names the ranks that did not come within the set time, or says what the link says.
        """
        try:
            found = self._swapped(what, sends)
        except self._link.errors as error:
            raise KnetError(f"{what}: rank {self.rank} lost another process: {error}") from None
        self._limit, self._farewell.met = self._next, True
        return found

    def _swapped(self, what: str, sends: Sequence[Bytes]) -> list[Bytes]:
        found: dict[int, Bytes] = {self.rank: sends[self.rank]}
        sent = {r: self._link.send(r, TAG, sends[r]) for r in self._others}
        receiving: dict[int, tuple[Pending, Bytes]] = {}
        start = last = time.monotonic()
        wait: float | None = None
        while sent or len(found) < self.size:
            self._link.move(wait)
            wait, before = None, len(sent)
            sent = {r: sending for r, sending in sent.items() if not sending.done()}
            now = time.monotonic()
            if self._receive(receiving, found) or len(sent) < before:
                last = now
            elif now - start > self._limit and now - last > self._limit:
                self._missing(what, found)
            elif now - last > _YIELD:
                self._ended(what, receiving, found, sent)
                wait = _NAP
            elif now - last > (_SPIN if found.keys() | receiving.keys() != self._all else _MOVING):
                wait = 0.0
        return [found[r] for r in range(self.size)]

    def _receive(self, receiving: dict[int, tuple[Pending, Bytes]], found: dict[int, Bytes]) -> bool:
        """Takes what has come; whether something has."""
        moved = False
        for r in self._others:
            if r in found:
                continue
            if r not in receiving:
                message = self._link.look(r, TAG)
                if message is None:
                    continue
                room = self._room("from", r, message.size)
                receiving[r] = (message.receive(room), room)
                moved = True
            coming, room = receiving[r]
            if coming.done():
                found[r], moved = room, True
        return moved

    def _message(self, what: str, word: bytes, body: Bytes, to: int) -> Bytes:
        """A message for a rank, in memory that stays as it is until the next one of its size."""
        head = digest(what) + word
        message = self._room("to", to, HEAD + len(body))
        message[: len(head)] = np.frombuffer(head, np.uint8)
        message[HEAD:] = body
        return message

    def _room(self, way: str, rank: int, size: int) -> Bytes:
        """Memory for a message: fresh pages at every step would cost more than the copy."""
        if len(self._kept) > 8 * self.size:
            self._kept.clear()
        return self._kept.setdefault((way, rank, size), np.empty(size, np.uint8))

    def _missing(self, what: str, found: Iterable[int]) -> NoReturn:
        gone = [r for r in range(self.size) if r not in set(found)]
        names = numbered(gone) if gone else "a rank that did not take what it was sent"
        raise KnetError(not_come(names, len(gone) > 1, what, self._limit, self.rank))

    def _ended(
        self, what: str, receiving: dict[int, tuple[Pending, Bytes]], found: dict[int, Bytes], sent: Iterable[int]
    ) -> None:
        """Raises KnetError where a rank that is waited for has said that it ends, with those that began it."""
        heard = self._farewell.heard()
        if not heard or self._receive(receiving, found):  # what it sent before it ended has come before that
            return
        gone = {r: how for r, how in heard.items() if r not in found or r in sent}
        first = {r: how for r, how in gone.items() if not how.startswith(FOLLOWS)} or gone
        if first:
            said = "; ".join(f"rank {r} {how}" for r, how in sorted(first.items()))
            raise KnetError(f"{what}: {said}; rank {self.rank} gives up")


def _added(parts: Iterable[Tensor]) -> Tensor:
    """The sum of vectors, one after the other."""
    total: Tensor | None = None
    for part in parts:
        if total is None:
            total = part.copy()
        else:
            total += part
    assert total is not None
    return total


def apart(said: Sequence[str]) -> str:
    """What each rank says, those that say the same together."""
    ranks: dict[str, list[int]] = {}
    for rank, text in enumerate(said):
        ranks.setdefault(text, []).append(rank)
    return "; ".join(f"{numbered(r)}: {text}" for text, r in ranks.items())
