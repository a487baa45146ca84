"""Which of the processes of a run this one is: 0, until `knetc.distribute` has found others.

Asked by what one process does for all: writing files, showing progress.
"""

from __future__ import annotations

_rank = _place = 0


def take_rank(rank: int) -> None:
    """From here on this is the process of that number."""
    global _rank
    _rank = rank


def take_place(place: int) -> None:
    """Which of the processes of its machine this is, from 0."""
    global _place
    _place = place


def place() -> int:
    """Which of the processes of its machine this is: it takes the device of that number."""
    return _place


def speaks() -> bool:
    """Whether this process writes files and shows progress."""
    return _rank == 0
