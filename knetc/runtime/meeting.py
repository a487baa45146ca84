"""How the processes that a launcher started find each other: a connection between any two of them.

Before: `sockets.py`. After: TCP. Rank 0 listens where `launch.py` says; the others call there, say who they are and
where they listen themselves, and are told where all do once all have come. Then each calls those of lower rank. Who
cannot say the run's token, or the secret that rank 0 makes for the second round, is not let in. What is read here is
fixed fields and JSON, never code; nothing is encrypted.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from knetc.errors import KnetEnvironmentError, KnetError
from knetc.runtime.launch import Launch
from knetc.runtime.links import not_come, numbered

_HELLO = struct.Struct("!8s16sIIH")  # magic and version, token or secret, size, rank, the port of the one that calls
_CALL = b"knetc>\0\1"
_ANSWER = struct.Struct("!8s16sI")  # magic and version, token, bytes of JSON that follow
_REPLY = b"knetc<\0\1"
_LONGEST = 1 << 24  # bytes of an answer
_PATIENCE = 3.0  # seconds in which who listens at a port says whether it is rank 0
_AGAIN = 0.05  # seconds between two tries
_TAKEN = 5.0  # seconds in which a port becomes free, of a run before this one
_WHAT = "distribute a model"
_LATE = 5.0  # seconds that rank 0 has to say who is missing, before the others say that it does not


def meet(told: Launch, start: float) -> dict[int, socket.socket]:
    """The connections to all other processes, by rank; this takes up to `start` seconds.

    Raises KnetEnvironmentError where rank 0 finds no free port, or the others do not find rank 0 or one another, or two
    processes say that they are the same one; KnetError that names those that have not come.
    """
    with contextlib.ExitStack() as stack:
        calls: dict[int, socket.socket] = {}
        stack.callback(_close_all, calls.values())  # where this ends in an error
        if told.rank == 0:
            with contextlib.closing(_listen_as_first(told, start)) as listener:
                _receive_all(told, listener, start, calls)
        else:
            with contextlib.closing(_listen(told.host, 0, told.size)) as listener:
                _call_all(told, listener, start, calls)
        for call in calls.values():
            call.setblocking(False)
            call.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stack.pop_all()
    return calls


# --- rank 0 -----------------------------------------------------------------------------------------------------------


def _listen(host: str, port: int, size: int) -> socket.socket:
    """Listens for calls, from this machine alone where that is where rank 0 is told to be."""
    if host == "localhost" or host.startswith("127."):
        return socket.create_server(("127.0.0.1", port), backlog=size)
    if host == "::1":
        return socket.create_server((host, port), family=socket.AF_INET6, backlog=size)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=size)


def _listen_as_first(told: Launch, start: float) -> socket.socket:
    """Listens at the first of the run's ports that is free."""
    until = time.monotonic() + min(start, _TAKEN)
    while True:
        for port in told.ports:
            try:
                return _listen(told.host, port, told.size)
            except OSError as error:
                reason = error
        if time.monotonic() > until:
            raise KnetEnvironmentError(
                f"rank 0 can listen at none of the ports {_these(told.ports)} ({reason}): give the run another "
                "MASTER_PORT, or set KNETC_PORT to a free port, the same for all processes"
            )
        time.sleep(_AGAIN)


def _receive_all(told: Launch, listener: socket.socket, start: float, calls: dict[int, socket.socket]) -> None:
    """Waits until all have called, and tells each where the others listen."""
    ports: dict[int, int] = {}
    for call, size, rank, port in _visitors(listener, told.token, time.monotonic() + start):
        wrong = _what_is_wrong(told, size, rank, calls)
        with contextlib.suppress(OSError):
            _say(call, told.token, {"refused": wrong} if wrong else {"welcome": rank})
        if wrong:
            call.close()
            continue
        calls[rank], ports[rank] = call, port
        if len(calls) == told.size - 1 and not _drop_those_that_left(calls):
            break
    missing = [r for r in range(1, told.size) if r not in calls]
    if missing:
        text = not_come(numbered(missing), len(missing) > 1, _WHAT, start, 0)
        _tell_all(told, calls, {"missing": text})
        raise KnetError(text)
    places = {str(r): (_address(calls[r]), ports[r]) for r in calls}
    _tell_all(told, calls, {"secret": secrets.token_hex(16), "places": places})


def _what_is_wrong(told: Launch, size: int, rank: int, calls: Mapping[int, socket.socket]) -> str:
    """Why a process of this run is not let in; empty where it is."""
    if size != told.size:
        return f"WORLD_SIZE is {size} here, and {told.size} on rank 0"
    if rank == 0 or (rank in calls and not _has_left(calls[rank])):
        return f"RANK is {rank} here, and another process of this run has that too"
    if rank in calls:
        calls[rank].close()
    return ""


def _drop_those_that_left(calls: dict[int, socket.socket]) -> bool:
    """Whether some have; they may call again."""
    gone = [r for r, call in calls.items() if _has_left(call)]
    for rank in gone:
        calls.pop(rank).close()
    return bool(gone)


def _has_left(call: socket.socket) -> bool:
    """Whether who has called, and has nothing to say now, has gone."""
    call.setblocking(False)
    try:
        return call.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        call.settimeout(_PATIENCE)


def _address(call: socket.socket) -> str:
    """Where a process can be called by all; empty for one on the machine of rank 0, which is where rank 0 is."""
    theirs, mine = (name[0].removeprefix("::ffff:") for name in (call.getpeername(), call.getsockname()))
    return "" if theirs in (mine, "::1") or theirs.startswith("127.") else theirs


def _tell_all(told: Launch, calls: Mapping[int, socket.socket], answer: Mapping[str, Any]) -> None:
    for call in calls.values():
        with contextlib.suppress(OSError):  # whoever is gone now, the link finds lost
            _say(call, told.token, answer)


# --- the others -------------------------------------------------------------------------------------------------------


def _call_all(told: Launch, listener: socket.socket, start: float, calls: dict[int, socket.socket]) -> None:
    """Calls rank 0, and when it says where, those of lower rank; and waits for the calls of the others."""
    port = listener.getsockname()[1]
    calls[0] = _call_first(told, port, start)
    answer = _hear(calls[0], told.token, time.monotonic() + start + _LATE)
    if answer is None:
        raise KnetError(
            f"rank {told.rank} has found rank 0, and has not heard within {start:g} seconds that all have come: "
            "rank 0 has ended, or hangs"
        )
    if "missing" in answer:
        raise KnetError(str(answer["missing"]))
    secret, until = bytes.fromhex(answer["secret"]), time.monotonic() + start
    first = calls[0].getpeername()[0]
    for rank in range(1, told.rank):
        host, theirs = answer["places"][str(rank)]
        try:
            calls[rank] = socket.create_connection((host or first, theirs), max(_AGAIN, until - time.monotonic()))
            calls[rank].sendall(_HELLO.pack(_CALL, secret, told.size, told.rank, 0))
        except OSError as error:
            raise KnetEnvironmentError(
                f"rank {told.rank} cannot reach rank {rank} at {host or first}, port {theirs} ({error}): any two "
                "processes of a run talk to each other, at ports that the system chooses"
            ) from None
    higher = set(range(told.rank + 1, told.size))
    if not higher:
        return
    for call, _, rank, _ in _visitors(listener, secret, until):
        if rank not in higher:
            call.close()
            continue
        calls[rank] = call
        higher.remove(rank)
        if not higher:
            return
    raise KnetError(not_come(numbered(sorted(higher)), len(higher) > 1, _WHAT, start, told.rank))


def _call_first(told: Launch, port: int, start: float) -> socket.socket:
    """Rank 0, at the first of the run's ports where it answers."""
    until, reason = time.monotonic() + start, "nobody answers as rank 0 does"
    while time.monotonic() < until:
        for there in told.ports:
            patience = min(_PATIENCE, max(_AGAIN, until - time.monotonic()))
            try:
                call = socket.create_connection((told.host, there), patience)
                call.sendall(_HELLO.pack(_CALL, told.token, told.size, told.rank, port))
            except OSError as error:
                reason = str(error)
                continue
            answer = _hear(call, told.token, time.monotonic() + patience)
            if answer is not None and "refused" not in answer:
                return call
            call.close()
            if answer is not None:
                raise KnetEnvironmentError(f"rank 0 does not let this process in: {answer['refused']}")
        time.sleep(_AGAIN)
    raise KnetEnvironmentError(
        f"{not_come('rank 0', False, _WHAT, start, told.rank)}: it is looked for at MASTER_ADDR {told.host}, port"
        f"{'' if len(told.ports) == 1 else 's'} {_these(told.ports)} ({reason}). Does it run there, and can it be "
        "reached from here? KNETC_PORT, the same for all processes, sets another port"
    )


# --- what is said -----------------------------------------------------------------------------------------------------


def _visitors(listener: socket.socket, token: bytes, until: float) -> Iterator[tuple[socket.socket, int, int, int]]:
    """Those who call and know the token, with the size, rank and port that they say; ends when the time is over.

    Who says anything else is sent away, and who says nothing holds nobody up.
    """
    listener.setblocking(False)
    said: dict[socket.socket, bytearray] = {}
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        stack.callback(_close_all, said.keys())
        selector.register(listener, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                call = key.fileobj
                assert isinstance(call, socket.socket)
                if call is listener:
                    with contextlib.suppress(OSError):
                        call, _ = listener.accept()
                        call.setblocking(False)
                        said[call] = bytearray()
                        selector.register(call, selectors.EVENT_READ)
                elif _has_said(call, said[call]):
                    selector.unregister(call)
                    call.settimeout(_PATIENCE)
                    hello = said.pop(call)
                    if secrets.compare_digest(hello[: len(_CALL + token)], _CALL + token) and len(hello) == _HELLO.size:
                        yield call, *_HELLO.unpack(hello)[2:]
                    else:
                        call.close()


def _has_said(call: socket.socket, hello: bytearray) -> bool:
    """Reads on in a hello; whether it is whole, or no more of it will come."""
    try:
        more = call.recv(_HELLO.size - len(hello))
    except BlockingIOError:
        return False
    except OSError:
        return True
    hello += more
    return not more or len(hello) == _HELLO.size


def _say(call: socket.socket, token: bytes, answer: Mapping[str, Any]) -> None:
    text = json.dumps(answer).encode()
    call.sendall(_ANSWER.pack(_REPLY, token, len(text)) + text)


def _hear(call: socket.socket, token: bytes, until: float) -> dict[str, Any] | None:
    """An answer of rank 0; None where none comes in time, or something else does."""
    try:
        magic, theirs, size = _ANSWER.unpack(_read(call, _ANSWER.size, until))
        if magic != _REPLY or theirs != token or size > _LONGEST:
            return None
        answer = json.loads(_read(call, size, until))
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _read(call: socket.socket, size: int, until: float) -> bytes:
    """So many bytes. Raises OSError where they do not come in time."""
    found = b""
    while len(found) < size:
        call.settimeout(max(_AGAIN, until - time.monotonic()))
        more = call.recv(size - len(found))
        if not more or time.monotonic() > until:
            raise ConnectionError("nothing more comes")
        found += more
    return found


def _close_all(calls: Collection[socket.socket]) -> None:
    for call in calls:
        call.close()


def _these(ports: tuple[int, ...]) -> str:
    return ", ".join(map(str, ports))
