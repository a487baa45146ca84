"""The user's cache: files by content, made once, safe with several processes at work.

Used for compiled templates (`codegen.emit`) and for what compilers make (`runtime.build`, also by the command's
`--build`). An entry is one file that
ends in the digest of what stands before: readers see it whole or not at all, and a damaged one is made again. What was
made and what was there already is told to the logger `knetc`.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from knetc import log
from knetc.errors import KnetEnvironmentError
from knetc.files import replacing

_DIGEST = 32


@cache
def cache_folder() -> Path:
    """The user's cache folder: $KNETC_CACHE, else knetc under $XDG_CACHE_HOME or ~/.cache.

    Where that belongs to another user or cannot be written, a temporary one that goes with the process.
    """
    named = os.environ.get("KNETC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(named) if named else Path(base) / "knetc"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="knetc-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return Path(temporary)


def entry(key: Iterable[str], suffix: str) -> Path:
    """Where the file of this key stands, if it is there."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:_DIGEST]
    return cache_folder() / f"{digest}{suffix}"


def cached(key: Iterable[str], suffix: str, make: Callable[[Path], None], what: str = "") -> Path:
    """The file that `make` writes for this key, made once; several processes may ask at the same time.

    `what` names it in the log; without it nothing is said.
    """
    path = entry(key, suffix)
    damaged = path.exists()
    if content(path) is not None:
        _tell(what, f"from the cache, {path}")
        return path
    start = time.perf_counter()
    put(path, make)
    again = ", again, since the file in the cache was damaged" if damaged else ""
    _tell(what, f"made in {time.perf_counter() - start:.1f} s{again}, {path}")
    return path


def put(path: Path, make: Callable[[Path], None]) -> None:
    """Puts the file that `make` writes at `path`, with its digest, in one step."""
    handle, name = tempfile.mkstemp(suffix=path.suffix, prefix=f"{path.stem}.", dir=path.parent)
    os.close(handle)
    fresh = Path(name)
    try:
        make(fresh)
        made = fresh.read_bytes()
        fresh.write_bytes(made + hashlib.sha256(made).digest())
        fresh.chmod(0o700)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def copy_out(path: Path, output: str) -> None:
    """Writes what `make` wrote to a file of the cache to the user's file `output`, in one step.

    A copy: the cache may be deleted at any time, and the user's file changed. KnetEnvironmentError where it cannot be
    written.
    """
    made = content(path)
    if made is None:
        raise KnetEnvironmentError(f"{path} has gone from the cache while it was copied; try again")
    try:
        with replacing(output) as beside:
            file = Path(beside)
            file.write_bytes(made)
            mode = file.stat().st_mode
            file.chmod(mode | (mode & 0o444) >> 2)  # who may read a library may load it
    except OSError as error:
        raise KnetEnvironmentError(f"cannot write {output}: {error.strerror or error}") from None
    log.info(f"{output}: copied from there")


def _tell(what: str, text: str) -> None:
    if what:
        log.info(f"{what}: {text}")


def content(path: Path) -> bytes | None:
    """What `make` wrote to a file of the cache; None where it is missing or damaged.

    Loaders of ELF files pass over the digest at the end.
    """
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    made = whole[:-_DIGEST]
    return made if made and hashlib.sha256(made).digest() == whole[-_DIGEST:] else None
