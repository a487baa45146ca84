"""A file of named texts and arrays: HDF5 behind a block that holds a version and a checksum of everything after it.

Before: `saving.py` has put a model into texts and arrays. The layout is described in docs/files.md. Nothing of a file
reaches the HDF5 library before its checksum has been compared, and no array is made before the file is seen to hold
its elements: what a file says of its own sizes is not believed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from knetc.errors import KnetError, KnetMemoryError
from knetc.files import reading, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1
BLOCK = 512
"""The size of the block before the HDF5 data: a user block, which HDF5 passes over."""

_TITLE = b"knetc file, format "
_PART = 1 << 20
_TYPES = frozenset({"<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8"})


@dataclass(slots=True)
class Contents:
    """What a file holds: texts by name, and groups of arrays by name. Arrays are real numbers of up to 8 bytes."""

    texts: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], contents: Contents) -> None:
    """Writes a file, which takes the place of the one at `path` in one step. Raises KnetError where it cannot."""
    with writing(path) as file:
        _write_hdf(file, contents)
        block = _block(*_measure(file))
        file.seek(0)
        file.write(block)


def _write_hdf(file: IO[bytes], contents: Contents) -> None:
    import h5py

    # The oldest format whose metadata carry checksums; every HDF5 since 2008 reads it.
    with h5py.File(file, "w", userblock_size=BLOCK, libver=("v108", "v108")) as hdf:
        for name, text in contents.texts.items():
            raw = text.encode("utf-8", "surrogatepass")
            hdf.create_dataset(name, data=np.bytes_(raw), dtype=h5py.string_dtype("utf-8", len(raw)))
        for name, arrays in contents.arrays.items():
            group = hdf.create_group(name)
            for each, array in arrays.items():
                group.create_dataset(each, data=array, dtype=array.dtype.newbyteorder("<"))


def _block(size: int, digest: str) -> bytes:
    text = b"%s%d\n%d bytes follow this block\nSHA-256 of them %s\n" % (_TITLE, VERSION, size, digest.encode())
    return text.ljust(BLOCK, b"\0")


def _measure(file: IO[bytes]) -> tuple[int, str]:
    """The number of bytes behind the block, and their checksum."""
    file.seek(BLOCK)
    size, digest = 0, hashlib.sha256()
    while part := file.read(_PART):
        size += len(part)
        digest.update(part)
    return size, digest.hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> Contents:
    """The contents of a file that `write` wrote. Raises KnetError for any other: altered, truncated, of a newer format,
    or made to look like one.
    """
    import h5py

    name = os.fspath(path)
    with reading(path) as file:
        size = _verified(file, name)
        try:
            with h5py.File(file, "r") as hdf:
                return _Reader(size).contents(hdf)
        except _Refused as reason:
            raise KnetError(f"{name} is refused: {reason}") from None
        except MemoryError:
            raise KnetMemoryError(f"{name} does not fit into memory") from None
        except Exception:  # HDF5 raises errors of nearly every kind for what makes no sense to it
            raise KnetError(f"{name} is refused: what it holds is no HDF5 data that knetc.save wrote") from None


def _verified(file: IO[bytes], name: str) -> int:
    """The number of bytes behind the block of a file that is as it was written. Raises KnetError."""
    block = file.read(BLOCK)
    if not block.startswith(_TITLE):
        raise KnetError(f"{name} is not a file that knetc.save wrote")
    version = block[len(_TITLE) :].partition(b"\n")[0]
    if version.isdigit() and int(version) > VERSION:
        raise KnetError(
            f"{name} is of format {int(version)}, and this version of knetc reads format {VERSION}: update knetc"
        )
    size, digest = _measure(file)
    if block != _block(size, digest):
        raise KnetError(f"{name} is damaged: it was truncated or altered after it was written (its SHA-256 differs)")
    file.seek(0)
    return size


class _Refused(Exception):
    """Something that `write` does not write."""


class _Reader:
    """Takes the contents out of a file with `size` bytes behind its block, and never more bytes than those."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._end = BLOCK + size

    def contents(self, hdf: Any) -> Contents:
        """Everything that the file holds."""
        import h5py

        contents = Contents()
        for name, item in self._members(hdf):
            if isinstance(item, h5py.Group):
                contents.arrays[name] = {each: self._array(f"{name}/{each}", d) for each, d in self._members(item)}
            else:
                contents.texts[name] = self._text(name, item)
        return contents

    def _members(self, group: Any) -> Iterator[tuple[str, Any]]:
        import h5py

        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refused(f"{name} is a link to another place or file")
            yield name, group[name]

    def _text(self, name: str, item: Any) -> str:
        import h5py

        self._check(name, item)
        kind = h5py.check_string_dtype(item.dtype)
        if kind is None or kind.length is None or item.shape != ():
            raise _Refused(f"{name} is no text of a fixed length")
        return bytes(self._elements(name, item)[()]).decode("utf-8", "surrogatepass")

    def _array(self, name: str, item: Any) -> NDArray[Any]:
        self._check(name, item)
        if item.dtype.str not in _TYPES:
            raise _Refused(f"{name} is an array of {item.dtype}")
        return self._elements(name, item)

    def _check(self, name: str, item: Any) -> None:
        """That the elements stand in this file, one behind the other: not in chunks, compressed, in another file, or
        made up from a fill value or other data sets. Before anything else is asked of the data set.
        """
        import h5py

        if not isinstance(item, h5py.Dataset):
            raise _Refused(f"{name} is no array")
        form = item.id.get_create_plist()
        if form.get_layout() != h5py.h5d.CONTIGUOUS or form.get_nfilters() or form.get_external_count():
            raise _Refused(f"the elements of {name} do not stand in the file as they are")

    def _elements(self, name: str, item: Any) -> NDArray[Any]:
        if item.shape is None:
            raise _Refused(f"{name} has no shape")
        size = math.prod(item.shape) * item.dtype.itemsize
        if not size:
            return np.empty(item.shape, item.dtype)
        stored, offset = item.id.get_storage_size(), item.id.get_offset()
        if size != stored or offset is None or offset + size > self._end or size > self._left:
            raise _Refused(f"{name} claims {size} bytes, which the file does not hold")
        self._left -= size
        return np.asarray(item[()])
