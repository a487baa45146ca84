"""What a launcher such as torchrun has told a process: its number, of how many, and where rank 0 is.

Before: `links.py`. After: `meeting.py`, which finds the others by it. All of it comes from variables: RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT, LOCAL_RANK where it is set, and KNETC_PORT of ours.
"""

from __future__ import annotations

import hashlib
import os

from knetc.errors import KnetEnvironmentError
from knetc.record import Record

RUN = "TORCHELASTIC_RUN_ID"
"""The variable with which torchrun names a run."""
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # "True" where torchrun itself listens at MASTER_PORT
_PORTS = 5  # that are tried, so far apart that none is what the next run on this machine is likely to be given
_APART = 1000


class Launch(Record):
    """Process `rank` of `size`, and the one of number `place` on its machine, if that was said.

    Rank 0 is at `host`, at the first of the `ports` that it finds free. `token`: what processes of one run share.
    """

    rank: int
    size: int
    place: int | None
    host: str
    ports: tuple[int, ...]
    token: bytes


def complete() -> bool:
    """Whether a launcher has said all that it takes."""
    return all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def told() -> Launch | None:
    """What the variables say; None where WORLD_SIZE is not set.

    Raises KnetEnvironmentError where they are incomplete or no numbers, or do not fit together.
    """
    if not os.environ.get("WORLD_SIZE"):
        return None
    size = _number("WORLD_SIZE", 1)
    place = _number("LOCAL_RANK") if os.environ.get("LOCAL_RANK") else None
    if size == 1:
        return Launch(0, 1, place, "", (), b"")
    rank = _number("RANK")
    if rank >= size:
        raise KnetEnvironmentError(f"RANK is {rank}, and WORLD_SIZE {size}: ranks go from 0 to {size - 1}")
    host, port = _text("MASTER_ADDR"), _number("MASTER_PORT", 1, 65535)
    run = f"{os.environ.get(RUN, '')} {port}"
    return Launch(rank, size, place, host, _ports(port), hashlib.blake2b(run.encode(), digest_size=16).digest())


def _ports(port: int) -> tuple[int, ...]:
    """Where rank 0 may listen, in this order: all processes come to the same ones without a word."""
    if os.environ.get("KNETC_PORT"):
        return (_number("KNETC_PORT", 1, 65535),)
    step = _APART if port + _PORTS * _APART <= 65535 else -_APART
    first = 1 if os.environ.get(_AGENT) == "True" else 0
    return tuple(port + step * k for k in range(first, first + _PORTS))


def _text(name: str) -> str:
    """Raises KnetEnvironmentError where a variable is not set."""
    value = os.environ.get(name, "")
    if not value:
        raise KnetEnvironmentError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {name} is not set: start the processes by mpirun, as in "
            f"'mpirun -n {os.environ['WORLD_SIZE']} python train.py', or by a launcher that sets RANK, WORLD_SIZE, "
            "MASTER_ADDR and MASTER_PORT, as torchrun does"
        )
    return value


def _number(name: str, least: int = 0, most: int = 1 << 20) -> int:
    text = _text(name)
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise KnetEnvironmentError(
            f"{name} is {text!r}, and should be a number from {least} to {most}: see the launcher"
        )
    return int(text)
