"""The link over TCP: several in one process, each over connections of the system's, moved by turns."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from knetc.runtime.links import Bytes, Link
from knetc.runtime.sockets import SocketLink

BIG = 5_000_001  # more bytes than the system holds for a connection
Links = list[SocketLink]


@pytest.fixture
def three() -> Iterator[Links]:
    """Links of three processes."""
    calls: list[dict[int, socket.socket]] = [{}, {}, {}]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            calls[a][b] = socket.create_connection(server.getsockname())
            calls[b][a] = server.accept()[0]
        for call in (calls[a][b], calls[b][a]):
            call.setblocking(False)
    links = [SocketLink(rank, 3, None, own) for rank, own in enumerate(calls)]
    yield links
    for link in links:
        link._close()


def until(links: Links, so: Callable[[], bool]) -> None:
    """All move until it is so."""
    end = time.monotonic() + 20
    while not so():
        assert time.monotonic() < end, "it does not come to an end"
        for link in links:
            if link.open():
                link.move(None)


def taken(links: Links, to: int, source: int, tag: int = 1) -> bytes:
    """The next message."""
    found = []
    until(links, lambda: bool(found.append(links[to].look(source, tag)) or found[-1]))
    room: Bytes = np.empty(found[-1].size, np.uint8)
    coming = found[-1].receive(room)
    until(links, coming.done)
    return bytes(room)


def drawn(seed: int, size: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def test_all_may_send_more_at_once_than_the_system_holds(three: Links) -> None:
    """And nothing is done before it has been taken."""
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    sending = {(a, b): three[a].send(b, 1, drawn(3 * a + b, BIG)) for a, b in pairs}
    for _ in range(50):
        for link in three:
            link.move(None)
    assert not any(s.done() for s in sending.values())
    for a, b in pairs:
        assert taken(three, b, a) == drawn(3 * a + b, BIG).tobytes()
    until(three, lambda: all(s.done() for s in sending.values()))


@pytest.mark.parametrize("size", [0, 1, 15, 70_000, BIG])
def test_messages_come_in_their_order_whole_and_once(three: Links, size: int) -> None:
    for k in range(3):
        three[0].send(1, 1, drawn(k, size))
    assert [taken(three, 1, 0) for _ in range(3)] == [drawn(k, size).tobytes() for k in range(3)]
    three[1].move(0.01)
    assert three[1].look(0, 1) is None and not three[1].lost()


@pytest.mark.parametrize("size", [0, 20, BIG])
def test_a_message_of_another_tag_does_not_stand_in_the_way(three: Links, size: int) -> None:
    """Two do, in whatever order they are wanted then."""
    for k in range(2):
        three[0].send(1, 1, drawn(k, size))
    three[0].send(1, 2, drawn(7, 30))
    assert taken(three, 1, 0, 2) == drawn(7, 30).tobytes()
    assert [taken(three, 1, 0) for _ in range(2)] == [drawn(k, size).tobytes() for k in range(2)]


def test_a_message_is_taken_while_it_comes_though_it_was_passed_over(three: Links) -> None:
    three[0].send(1, 1, drawn(1, BIG))
    until(three, lambda: three[1].look(0, 2) is not None or bool(three[1]._peers[0]._kept))
    message = three[1].look(0, 1)
    assert message is not None and not message.done()
    room: Bytes = np.zeros(BIG, np.uint8)
    coming = message.receive(room)
    until(three, coming.done)
    assert room.tobytes() == drawn(1, BIG).tobytes()


def test_one_that_ends_is_lost_when_all_that_it_sent_has_been_taken(three: Links) -> None:
    """And what is sent to it later goes nowhere, while the others go on."""
    sent = [three[1].send(0, 1, drawn(k, 200_000)) for k in range(2)]
    until([three[1]], lambda: all(s.done() for s in sent))
    three[1]._close()
    assert [taken(three, 0, 1) for _ in range(2)] == [drawn(k, 200_000).tobytes() for k in range(2)]
    until(three, lambda: bool(three[0].lost()) and bool(three[2].lost()))
    assert three[0].lost() == three[2].lost() == {1: "is gone, as if it was killed (its connection has ended)"}
    assert not three[0].send(1, 1, drawn(5, 10)).done()
    three[0].send(2, 1, drawn(6, 10))
    assert taken(three, 2, 0) == drawn(6, 10).tobytes()


def test_one_that_ends_in_the_midst_of_a_message_has_not_sent_it(three: Links) -> None:
    three[1].send(0, 1, drawn(1, BIG))
    sending = three[0].send(1, 1, drawn(2, BIG))
    until(three, lambda: three[1]._peers[0]._coming is not None)
    message = None
    while message is None:
        three[0].move(None)
        message = three[0].look(1, 1)
    coming = message.receive(np.empty(BIG, np.uint8))
    three[1]._close()
    until(three, lambda: bool(three[0].lost()))
    assert not coming.done() and not sending.done() and three[0].lost().keys() == {1}
    before = time.monotonic()
    three[0].move(0.3)  # what cannot be sent any more wakes nobody
    assert time.monotonic() - before > 0.2


def test_a_wait_ends_when_something_comes_and_takes_no_time_before(three: Links) -> None:
    before, used = time.monotonic(), time.process_time()
    three[1].move(0.3)
    assert time.monotonic() - before > 0.2 and time.process_time() - used < 0.15
    three[0].send(1, 1, drawn(1, 10))
    three[1].move(60)
    assert three[1].look(0, 1) is not None


def test_a_copy_of_the_process_does_not_keep_connections_open(three: Links) -> None:
    """A worker that the script has forked outlives it, and the others hear that it has ended."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    three[0]._close()
    until(three[1:], lambda: 0 in three[1].lost() and 0 in three[2].lost())
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0


def test_it_is_a_link(three: Links) -> None:
    link: Link = three[0]
    assert (link.rank, link.size, link.place) == (0, 3, None)
