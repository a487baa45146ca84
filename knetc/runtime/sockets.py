"""The link between processes that a launcher started which only sets variables: TCP, and nothing but Python's library.

Before: `links.py`. After: the system's sockets, which `meeting.py` has connected. A message is a header, its tag and
size, and its bytes. Bytes are read straight into the memory that the taker gives, so a process that does not take
holds up the one that sends; only a message that stands before one of another tag is kept here. Everything moves in one
thread, by `move` and by the calls that begin something, and no call waits to send: processes may all send at once.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
from collections import deque
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from knetc.runtime.launch import Launch
from knetc.runtime.links import Bytes
from knetc.runtime.meeting import meet

_HEADER = struct.Struct("!IQ")
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LEAST = 1e-3  # seconds of a wait, which ends as soon as something comes


class _Sending:
    """A message that goes out: what is left of it."""

    def __init__(self, tag: int, data: Bytes) -> None:
        body = data.data
        self.left = [memoryview(_HEADER.pack(tag, len(body))), body]

    def went(self, count: int) -> None:
        """So many bytes have been sent."""
        while self.left and count >= len(self.left[0]):
            count -= len(self.left.pop(0))
        if self.left and count:
            self.left[0] = self.left[0][count:]

    def done(self) -> bool:
        return not self.left


class _Message:
    """A message that comes in, from when its header has."""

    def __init__(self, peer: _Peer, tag: int, size: int) -> None:
        self._peer, self.tag, self.size = peer, tag, size
        self.room: memoryview | None = None  # where it is read to, once that is known
        self.got = 0
        self._to: memoryview | None = None  # where it is copied to, if it was kept before it was taken

    def receive(self, room: Bytes) -> _Message:
        if self.room is None:
            self.read_to(room)
        else:
            self._to = room.data
        return self

    def read_to(self, room: Bytes) -> None:
        """Goes on with reading."""
        self.room = room.data
        self._peer.read()

    def done(self) -> bool:
        if self.room is None or self.got < self.size:
            return False
        if self._to is not None:
            self._to[:], self._to = self.room, None
        return True


class _Peer:
    """The connection to one process. `lost`: what shows that nothing more comes from it."""

    def __init__(self, call: socket.socket, selector: selectors.BaseSelector) -> None:
        self._call, self._selector = call, selector
        self.lost = ""
        self._out: deque[_Sending] = deque()
        self._deaf = False  # whether it takes nothing more; what it sent before that is still to be read
        self._header = bytearray()
        self._coming: _Message | None = None
        self._given = False  # whether that has been given out
        self._kept: list[_Message] = []  # those that another tag was looked for behind
        self._watched = 0
        self._watch()

    def send(self, sending: _Sending) -> None:
        if not self._deaf:
            self._out.append(sending)
            if len(self._out) == 1:
                self.write()

    def write(self) -> None:
        """Sends what the system takes."""
        while self._out and not self._deaf:
            try:
                self._out[0].went(self._call.sendmsg(self._out[0].left))
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._deaf = True
                self._out.clear()
            else:
                if not self._out[0].done():
                    break
                self._out.popleft()
        self._watch()

    def look(self, tag: int) -> _Message | None:
        for k, kept in enumerate(self._kept):
            if kept.tag == tag:
                return self._kept.pop(k)
        coming = self._coming
        if coming is None or self._given:
            return None
        self._given = True
        if coming.tag == tag:
            return coming
        self._kept.append(coming)
        coming.read_to(np.empty(coming.size, np.uint8))
        return None

    def read(self) -> None:
        """Reads what has come, up to the end of a message."""
        try:
            while not self.lost and (self._coming is None or self._coming.room is not None):
                if not (self._read_header() if self._coming is None else self._read_body(self._coming)):
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._lose(str(error))
        self._watch()

    def _read_header(self) -> bool:
        """Whether it is whole."""
        more = self._call.recv(_HEADER.size - len(self._header))
        if not more:
            self._lose("its connection has ended")
        self._header += more
        if len(self._header) < _HEADER.size:
            return False
        self._coming, self._given = _Message(self, *_HEADER.unpack(self._header)), False
        self._header.clear()
        return True

    def _read_body(self, message: _Message) -> bool:
        """Whether to read on: not after the end of a message, as others have something to say too."""
        assert message.room is not None
        if message.got < message.size:
            count = self._call.recv_into(message.room[message.got :])
            if not count:
                self._lose("its connection has ended")
            message.got += count
        if message.got == message.size:
            self._coming = None
        return False

    def _lose(self, shown: str) -> None:
        self.lost, self._deaf = shown, True
        self._out.clear()

    def _watch(self) -> None:
        """Asks to be told of what can be done: nothing is read where a message waits for its taker."""
        reads = not self.lost and (self._coming is None or self._coming.room is not None)
        wanted = (_READ if reads else 0) | (_WRITE if self._out else 0)
        if wanted == self._watched:
            return
        if not wanted:
            self._selector.unregister(self._call)
        elif not self._watched:
            self._selector.register(self._call, wanted, self)
        else:
            self._selector.modify(self._call, wanted, self)
        self._watched = wanted


class SocketLink:
    """Connections to all other processes (see `links.Link`)."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, rank: int, size: int, place: int | None, calls: Mapping[int, socket.socket]) -> None:
        """`calls`: the connections by rank, none of which waits."""
        self.rank, self.size, self.place = rank, size, place
        self._selector = selectors.DefaultSelector()
        self._calls = dict(calls)
        self._peers = {rank: _Peer(call, self._selector) for rank, call in calls.items()}
        os.register_at_fork(after_in_child=self._close)  # a copy would hold connections open that end with this process

    @classmethod
    def of(cls, told: Launch, start: float) -> SocketLink:
        """To those that the launcher speaks of. Raises as `meeting.meet` does."""
        return cls(told.rank, told.size, told.place, meet(told, start) if told.size > 1 else {})

    def send(self, to: int, tag: int, data: Bytes) -> _Sending:
        """Begins to send, and sends what the system takes."""
        sending = _Sending(tag, data)
        self._peers[to].send(sending)
        return sending

    def look(self, source: int, tag: int) -> _Message | None:
        """A message that has begun to come."""
        return self._peers[source].look(tag)

    def lost(self) -> Mapping[int, str]:
        """Those whose connection has ended, once all that they sent has been read."""
        return {rank: f"is gone, as if it was killed ({p.lost})" for rank, p in self._peers.items() if p.lost}

    def move(self, wait: float | None) -> None:
        """Sends and reads what can be; a wait ends as soon as something can."""
        for key, events in self._selector.select(0 if wait is None else max(wait, _LEAST)):
            if events & _WRITE:
                key.data.write()
            if events & _READ:
                key.data.read()

    def open(self) -> bool:
        """As long as the process has it."""
        return bool(self._calls)

    def abort(self) -> NoReturn:
        """Ends this process: the others see that, and the launcher does."""
        sys.stdout.flush()
        os._exit(1)

    def _close(self) -> None:
        self._selector.close()
        for call in self._calls.values():
            call.close()
        self._calls, self._peers = {}, {}
