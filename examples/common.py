"""What several of the examples share: option values that are checked, tables of curves, errors without a traceback."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import knetc

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C has ended, as shells have it."""


def run(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with the status that it returns, or with an error's message."""
    try:
        sys.exit(main())
    except (knetc.KnetError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def record(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a table, as .csv."""
    with path.open("w", newline="") as f:
        table = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def show(row: Mapping[str, Any]) -> None:
    """Prints one row of a table."""
    print("  ".join(f"{k} {v:.5g}" for k, v in row.items()), flush=True)


# --- types of options -------------------------------------------------------------------------------------------------


def natural(text: str) -> int:
    """An integer of at least 1."""
    return _checked(text, int, lambda n: n >= 1, "an integer of at least 1")


def count(text: str) -> int:
    """An integer of at least 0."""
    return _checked(text, int, lambda n: n >= 0, "an integer of at least 0")


def positive(text: str) -> float:
    """A number over 0."""
    return _checked(text, float, lambda x: 0 < x < math.inf, "a number over 0")


def share(text: str) -> float:
    """A number from 0 to below 1."""
    return _checked(text, float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def output(text: str) -> Path:
    """A file to write, in a folder that is there."""
    return _checked(text, Path, lambda path: path.parent.is_dir(), "a file in a folder that is there")


def _checked(text: str, kind: Callable[[str], Any], good: Callable[[Any], bool], what: str) -> Any:
    """The value of an option. Raises what argparse turns into a message."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value
