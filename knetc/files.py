"""Reading and writing users' files: a file takes the place of another in one step, and errors say what went wrong.

Whatever stops a process that writes, the old file is there or the new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from knetc.errors import KnetError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path beside `path`, for the block to write a file to, which then takes the place of `path`.

    Its contents are on the disk before its name changes. Where the block raises, `path` stays as it was and what was
    written goes. A link is followed: what it points to is replaced. Raises OSError.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise OSError(None, "it is there and not a regular file")
    beside = f"{target}.{os.urandom(4).hex()}.tmp"
    try:
        yield beside
        _to_disk(beside)
        os.replace(beside, target)
        _to_disk(os.path.dirname(target))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to (and read what was written), which takes the place of `path` as in `replacing`.

    Raises KnetError where it cannot be written.
    """
    try:
        with replacing(path) as beside, open(beside, "w+b") as file:
            yield file
    except OSError as error:
        raise KnetError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A regular file to read from. Raises KnetError where it cannot be read."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(None, "it is not a regular file")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise KnetError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from None


def _to_disk(path: str) -> None:
    """Waits until what was written to a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
