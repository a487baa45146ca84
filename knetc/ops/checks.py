"""Checks of keyword values: each returns what is wrong in words that complete "padding must be …", or None.

Used in the `Keyword` entries of the operators; the front end puts the keyword's name and place before the text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from knetc.values import Value, show


def is_int(value: Value) -> bool:
    """Whether the value is an integer (a boolean is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Value) -> bool:
    """Whether the value is a number within the range of float64 (a boolean is not)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def number(value: Value) -> str | None:
    """A finite number."""
    return None if is_number(value) else f"must be a finite number, not {show(value)}"


def boolean(value: Value) -> str | None:
    """`true` or `false`."""
    return None if isinstance(value, bool) else f"must be true or false, not {show(value)}"


def dims(value: Value) -> str | None:
    """`nothing`, or a tuple of sizes in which 0 stands for a size to be inferred."""
    if value is None:
        return None
    if not isinstance(value, tuple) or not value:
        return f"must be a tuple of sizes such as (10,0), not {show(value)}"
    bad = [d for d in value if not is_int(d) or (isinstance(d, int) and d < 0)]
    return f"must hold integers of at least 0, not {show(bad[0])}" if bad else None


def sizes(least: int, optional: bool = False) -> Callable[[Value], str | None]:
    """The check of a number or tuple of integers of at least `least`; `optional` lets `nothing` pass."""

    def check(value: Value) -> str | None:
        if value is None and optional:
            return None
        entries = value if isinstance(value, tuple) else (value,)
        if not entries or not all(is_int(v) for v in entries):
            return f"must be an integer or a tuple of integers, not {show(value)}"
        if any(isinstance(v, int) and v < least for v in entries):
            return f"must be at least {least}, not {show(value)}"
        return None

    return check


def one_of(names: Sequence[str]) -> Callable[[Value], str | None]:
    """The check of a constant that must be among `names`."""

    def check(value: Value) -> str | None:
        if isinstance(value, str) and value in names:
            return None
        return f"must be {', '.join(names[:-1])} or {names[-1]}, not {show(value)}"

    return check
