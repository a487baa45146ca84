"""How processes find each other over TCP: here they are threads, which do what each process does."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from distributed.variables import free_port
from knetc.errors import KnetEnvironmentError, KnetError
from knetc.runtime import meeting
from knetc.runtime.launch import Launch

TOKEN = b"sixteen bytes...".ljust(16)
Calls = dict[int, socket.socket]


def told(rank: int, size: int, *ports: int, token: bytes = TOKEN, host: str = "127.0.0.1") -> Launch:
    return Launch(rank, size, None, host, ports, token)


@contextlib.contextmanager
def meeting_of(*launches: Launch, start: float = 20) -> Iterator[list[Future[Calls]]]:
    """All begin to meet; what they find is closed in the end."""
    with ThreadPoolExecutor(len(launches)) as pool:
        found = [pool.submit(meeting.meet, launch, start) for launch in launches]
        yield found
        for future in found:
            if future.exception() is None:
                for call in future.result().values():
                    call.close()


def all_connected(found: list[Calls]) -> None:
    """What one writes to another comes there: every connection joins the two that it says."""
    for rank, calls in enumerate(found):
        assert calls.keys() == set(range(len(found))) - {rank}
        for other, call in calls.items():
            call.setblocking(True)
            call.settimeout(5)
            call.sendall(bytes([rank, other]))
    for rank, calls in enumerate(found):
        for other, call in calls.items():
            assert call.recv(2) == bytes([other, rank])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", socket.gethostname(), "::1"])
@pytest.mark.parametrize("size", [2, 5])
def test_any_two_are_connected(size: int, host: str) -> None:
    with contextlib.suppress(OSError), meeting._listen(host, 0, 1) as trial:
        socket.create_connection((host, trial.getsockname()[1]), 1).close()
        port = free_port()
        with meeting_of(*(told(r, size, port, host=host) for r in range(size))) as found:
            all_connected([f.result() for f in found])
        return
    pytest.skip(f"{host} cannot be called here")


def test_a_port_that_is_taken_is_passed_over() -> None:
    """By one who lets everybody in and says nothing, as well as by one who talks."""
    first = free_port()
    with socket.create_server(("127.0.0.1", first)), _talker() as second:
        third = free_port()
        with meeting_of(*(told(r, 3, first, second, third) for r in range(3))) as found:
            all_connected([f.result() for f in found])


@contextlib.contextmanager
def _talker() -> Iterator[int]:
    """The port of who speaks first, and of something else."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(0.1)
        over: list[bool] = []

        def serve() -> None:
            while not over:
                with contextlib.suppress(OSError), server.accept()[0] as call:
                    call.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 9)

        pool.submit(serve)
        yield server.getsockname()[1]
        over.append(True)


def test_no_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_TAKEN", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(KnetEnvironmentError, match=f"rank 0 can listen at none of the ports {port} .*KNETC_PORT"):
            meeting.meet(told(0, 2, port), 5)


def test_strangers_are_not_let_in() -> None:
    """Those who say nothing, too little, something else, or what another run or one of another version says."""
    port = free_port()
    hello = meeting._HELLO.pack(meeting._CALL, b"another run".ljust(16), 3, 1, 1)
    newer = meeting._HELLO.pack(b"knetc>\0\2", TOKEN, 3, 1, 1)
    with meeting_of(told(0, 3, port)) as first, contextlib.ExitStack() as stack:
        calls = []
        for said in (b"", b"kn", b"GET / HTTP/1.1\r\nHost: knetc.example\r\n\r\n", hello, newer, b"\x80\x05" * 200):
            call = _call(port)
            stack.enter_context(call)
            call.sendall(said)
            calls.append(call)
        for call in calls[2:]:
            call.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert call.recv(1) == b""
        with meeting_of(told(1, 3, port), told(2, 3, port)) as others:
            all_connected([f.result() for f in (*first, *others)])


def _call(port: int) -> socket.socket:
    """As soon as somebody listens there."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port), 5)
        time.sleep(0.02)
    raise AssertionError("nobody listens")


def test_who_has_not_come_is_named_on_all() -> None:
    port = free_port()
    with meeting_of(told(0, 4, port), told(2, 4, port), start=1) as found:
        for future in found:
            with pytest.raises(KnetError, match="ranks 1, 3 have not come to distribute a model within 1 seconds"):
                future.result()


def test_rank_0_that_does_not_come_is_named_with_where_it_is_looked_for() -> None:
    port, other = free_port(), 1
    with pytest.raises(KnetEnvironmentError) as raised:
        meeting.meet(told(1, 2, port, other), 0.3)
    said = f"rank 0 has not come to distribute a model within 0.3 seconds; rank 1 gives up: it is looked for at \
MASTER_ADDR 127.0.0.1, ports {port}, {other} ([Errno "
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("late", "text"),
    [
        (told(1, 3, 0), "RANK is 1 here, and another process of this run has that too"),
        (told(1, 4, 0), "WORLD_SIZE is 4 here, and 3 on rank 0"),
    ],
)
def test_who_does_not_belong_to_the_run_is_told_so(late: Launch, text: str) -> None:
    """And the others go on waiting for the one that does."""
    port = free_port()
    with meeting_of(told(0, 3, port), told(1, 3, port)) as found:
        time.sleep(0.3)
        with pytest.raises(KnetEnvironmentError) as raised:
            meeting.meet(told(late.rank, late.size, port), 5)
        assert text in str(raised.value)
        with meeting_of(told(2, 3, port)) as last:
            all_connected([f.result() for f in (*found, *last)])


def test_one_that_has_gone_again_may_come_back() -> None:
    """Whoever waited too long for an answer calls again."""
    port = free_port()
    with meeting_of(told(0, 3, port)) as first:
        with _call(port) as gone:
            gone.sendall(meeting._HELLO.pack(meeting._CALL, TOKEN, 3, 2, 1))
            assert meeting._hear(gone, TOKEN, time.monotonic() + 5) == {"welcome": 2}
        with meeting_of(told(1, 3, port), told(2, 3, port)) as others:
            all_connected([f.result() for f in (*first, *others)])


@pytest.mark.parametrize("magic", [meeting._REPLY, meeting._CALL])
@pytest.mark.parametrize("token", [TOKEN, b"another run".ljust(16)])
def test_only_rank_0_of_this_run_is_believed(magic: bytes, token: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(meeting._ANSWER.pack(magic, token, 14) + b'{"welcome": 1}')
        right = magic == meeting._REPLY and token == TOKEN
        assert meeting._hear(here, TOKEN, time.monotonic() + 5) == ({"welcome": 1} if right else None)


@pytest.mark.parametrize(
    ("theirs", "mine", "place"),
    [
        ("10.0.0.2", "10.0.0.1", "10.0.0.2"),
        ("10.0.0.1", "10.0.0.1", ""),
        ("127.0.0.1", "127.0.1.1", ""),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.1", "10.0.0.2"),
        ("::1", "::1", ""),
        ("fd00::2", "fd00::1", "fd00::2"),
    ],
)
def test_a_process_beside_rank_0_is_called_where_rank_0_is(theirs: str, mine: str, place: str) -> None:
    """Its own name for that machine may be another machine's name for itself."""
    call = SimpleNamespace(getpeername=lambda: (theirs, 5), getsockname=lambda: (mine, 6))
    assert meeting._address(call) == place  # type: ignore[arg-type]


def test_rank_0_that_ends_before_all_have_come() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server, meeting_of(told(1, 2, port)) as found:
        call = server.accept()[0]
        call.recv(100)
        meeting._say(call, TOKEN, {"welcome": 1})
        call.close()
        with pytest.raises(KnetError, match="rank 1 has found rank 0, and has not heard .* rank 0 has ended, or hangs"):
            found[0].result()
