"""Parameters in files for other tools: `knetc.export_parameters` and `knetc.import_parameters`.

Two formats, told apart by the file's ending: `.safetensors`, which other frameworks read, and `.par`, the plain binary
of the emitted C interface (its `save` and `load`; templates/include/knet_files.h). docs/files.md describes both.
"""

from __future__ import annotations

import importlib
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from knetc.errors import KnetEnvironmentError, KnetError, KnetNameError, KnetShapeError, KnetTypeError
from knetc.files import reading, writing
from knetc.runtime import check
from knetc.runtime.executable import Tensor
from knetc.runtime.model import Model

SAFETENSORS, PLAIN = ".safetensors", ".par"
MARK = b"knetpar1"
_TYPES: dict[int, np.dtype[Any]] = {dtype.itemsize: dtype for dtype in check.DTYPES.values()}
_NUMBER = struct.Struct("=Q")


def export_parameters(net: Model, path: str | os.PathLike[str]) -> None:
    """Writes every parameter under its Knet name to a file, `.safetensors` or `.par`, which it replaces in one step.

    Raises KnetStateError where the sizes are not known yet, KnetTypeError for another ending, KnetError where the file
    cannot be written, KnetEnvironmentError where safetensors is not installed.
    """
    pack = {SAFETENSORS: _pack_safetensors, PLAIN: _pack_plain}[_ending(path)]
    data = pack(net.parameter_values(), check.DTYPES[net.dtype])
    with writing(path) as file:
        file.write(data)


def import_parameters(net: Model, path: str | os.PathLike[str]) -> None:
    """Overwrites every parameter from a file that `export_parameters`, the C interface or another tool wrote.

    The file holds the model's parameters and nothing else, in their shapes; floating-point numbers of another size are
    converted. All is checked before the first is overwritten. Raises KnetError for a file that cannot be read or is
    damaged, KnetNameError, KnetShapeError or KnetTypeError for one of another model, and as `export_parameters`.
    """
    unpack = {SAFETENSORS: _unpack_safetensors, PLAIN: _unpack_plain}[_ending(path)]
    before = net.parameter_values()
    with reading(path) as file:
        data = file.read()
    try:
        arrays = unpack(data)
    except _Unreadable as reason:
        raise KnetError(f"{os.fspath(path)} cannot be read: {reason}") from None
    _check_names(path, arrays, before)
    checked = {name: _fitting(name, arrays[name], before[name]) for name in before}
    for name, array in checked.items():
        net.set(name, array)


class _Unreadable(Exception):
    """What is no file of the format, with the reason."""


def _ending(path: str | os.PathLike[str]) -> str:
    ending = os.path.splitext(path)[1]
    if ending not in (SAFETENSORS, PLAIN):
        raise KnetTypeError(f"a file of parameters ends in {SAFETENSORS} or {PLAIN}, got {os.fspath(path)!r}")
    return ending


def _check_names(path: str | os.PathLike[str], given: Iterable[str], known: Iterable[str]) -> None:
    unknown, missing = sorted(set(given) - set(known)), sorted(set(known) - set(given))
    if unknown or missing:
        raise KnetNameError(
            f"{os.fspath(path)} is of another model: it has {check.listing(unknown)} beside the model's parameters, "
            f"and lacks {check.listing(missing)}"
        )


def _fitting(name: str, array: Tensor, before: Tensor) -> Tensor:
    if array.shape != before.shape:
        raise KnetShapeError(f"parameter {name}: shape {before.shape} is expected, and the file has {array.shape}")
    if array.dtype.kind != "f":
        raise KnetTypeError(f"parameter {name}: floating-point numbers are expected, and the file has {array.dtype}")
    return check.array(array, f"parameter {name}", before.dtype)


# --- safetensors ------------------------------------------------------------------------------------------------------


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.numpy")
    except ImportError:
        raise KnetEnvironmentError("safetensors is not installed: pip install 'knetc[safetensors]'") from None


def _pack_safetensors(arrays: Mapping[str, Tensor], dtype: np.dtype[Any]) -> bytes:
    # The library writes memory as it lies, and the format means the last dimension to be the fastest.
    data: bytes = _safetensors().save({name: np.array(a, dtype, order="C") for name, a in arrays.items()})
    return data


def _unpack_safetensors(data: bytes) -> Mapping[str, Tensor]:
    library = _safetensors()
    try:
        arrays: dict[str, Tensor] = library.load(data)
    except Exception as error:  # the library's own class, or a KeyError for an element type that NumPy lacks
        raise _Unreadable(f"it is no safetensors file of a type that NumPy has ({error})") from None
    return arrays


# --- the plain binary -------------------------------------------------------------------------------------------------


def _pack_plain(arrays: Mapping[str, Tensor], dtype: np.dtype[Any]) -> bytes:
    parts = [MARK, _NUMBER.pack(dtype.itemsize), _NUMBER.pack(len(arrays))]
    for name, array in arrays.items():
        text = name.encode()
        parts += [_NUMBER.pack(len(text)), text, *map(_NUMBER.pack, (array.ndim, *array.shape)), array.tobytes("F")]
    body = b"".join(parts)
    return body + _NUMBER.pack(zlib.crc32(body))


def _unpack_plain(data: bytes) -> Mapping[str, Tensor]:
    body = memoryview(data)[: -_NUMBER.size]
    if not data.startswith(MARK) or len(data) < len(MARK) + _NUMBER.size:
        raise _Unreadable("it is no file that the C interface or knetc.export_parameters wrote")
    if zlib.crc32(body) != _NUMBER.unpack(data[-_NUMBER.size :])[0]:
        raise _Unreadable("it is damaged (its checksum differs)")
    cursor = _Cursor(body[len(MARK) :])
    dtype = _TYPES.get(cursor.number())
    if dtype is None:
        raise _Unreadable("its elements are not of 4 or 8 bytes")
    arrays: dict[str, Tensor] = {}
    for _ in range(cursor.number()):
        name = bytes(cursor.take(cursor.number())).decode("utf-8", "replace")
        shape = [cursor.number() for _ in range(cursor.number())]
        elements = np.frombuffer(cursor.take(math.prod(shape) * dtype.itemsize), dtype)
        try:
            arrays[name] = elements.reshape(shape, order="F")
        except ValueError:
            raise _Unreadable(f"parameter {name} has {len(shape)} dimensions that no array can have") from None
    if cursor.left():
        raise _Unreadable("there is more in it than its parameters")
    return arrays


class _Cursor:
    """Goes through bytes and never past their end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def left(self) -> int:
        """How many bytes there are still."""
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if size > self.left():
            raise _Unreadable("it ends before its parameters do")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self) -> int:
        """The next number."""
        number: int = _NUMBER.unpack(self.take(_NUMBER.size))[0]
        return number
