"""The user's cache folder for what has been compiled: where it is, and how processes share it.

A file appears in it whole or not at all, under a name that contains a hash of everything it depends on; so entries are
never changed, only added, and any of them may be deleted while no process uses it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from knetc.errors import KnetEnvironmentError

if sys.platform == "linux":
    import fcntl


def cache_folder() -> Path:
    """$KNETC_CACHE, else knetc under $XDG_CACHE_HOME, else under ~/.cache; made if it is not there.

    KnetEnvironmentError where it can't be written.
    """
    chosen = os.environ.get("KNETC_CACHE")
    root = os.environ.get("XDG_CACHE_HOME")
    folder = Path(chosen) if chosen else (Path(root) if root else Path.home() / ".cache") / "knetc"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise KnetEnvironmentError(f"cannot write to the cache folder {folder}; set KNETC_CACHE to one that can be")
    return folder.resolve()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock on `path` among processes, so that the same thing is not compiled twice at once.

    Where the file system has no locks the work is done twice, which `publish` makes harmless.
    """
    with open(f"{path}.lock", "w") as file:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; when the block ends without an error, the file is renamed to `path`."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        beside.chmod(0o755)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
