"""Arrays in a device's memory, whoever made them: pycuda, PyTorch, CuPy, JAX, Numba.

Before: what a user hands to a model. After: `check.py`, which holds them against what the model expects, and `cuda.py`,
which hands their address to the emitted code: they are never copied to the host. An array tells where it stands by
`__cuda_array_interface__` or by DLPack, so nothing here imports any of those packages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from knetc.errors import KnetTypeError

LEGACY_STREAM = 1
"""CUDA's default stream, on which libraries work unless they say otherwise."""


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """An array in device memory with elements one after the other, first dimension fastest (Fortran order).

    `streams`: whatever is put on them before must be done before the array is read. `owner` keeps the memory.
    `read_only`: whether it must not be written to.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    streams: tuple[int, ...] = (LEGACY_STREAM,)
    owner: Any = field(default=None, compare=False, repr=False)
    read_only: bool = False

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """How many bytes the elements take."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What other libraries take the array by, without a copy."""
        return {
            "shape": self.shape,
            "strides": tuple(step * self.dtype.itemsize for step in _steps(self.shape)),
            "typestr": self.dtype.str,
            "data": (self.pointer, self.read_only),
            "stream": self.streams[0],
            "version": 3,
        }

    def columns(self, start: int, stop: int) -> DeviceArray:
        """The columns from `start` to before `stop` along the last dimension: the same memory."""
        each = self.nbytes // max(1, self.shape[-1])
        shape = (*self.shape[:-1], stop - start)
        return replace(self, pointer=self.pointer + start * each, shape=shape)

    def entry(self, index: int) -> DeviceArray:
        """The array of one dimension less at `index` of the last one: the same memory."""
        return replace(self.columns(index, index + 1), shape=self.shape[:-1])


def joined(arrays: Sequence[DeviceArray]) -> DeviceArray | None:
    """Arrays of one shape as one, their columns side by side; None where they do not follow each other in memory."""
    first = arrays[0]
    for k, a in enumerate(arrays):
        if (a.shape, a.dtype, a.pointer) != (first.shape, first.dtype, first.pointer + k * first.nbytes):
            return None
    shape = (*first.shape[:-1], first.shape[-1] * len(arrays))
    streams = tuple(dict.fromkeys(s for a in arrays for s in a.streams))
    owners, read_only = tuple(a.owner for a in arrays), any(a.read_only for a in arrays)
    return DeviceArray(first.pointer, shape, first.dtype, streams, owners, read_only)


@dataclass(frozen=True, slots=True)
class Found:
    """A device array as its library describes it; `strides` in elements."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    streams: tuple[int, ...]
    owner: Any

    @property
    def fortran(self) -> bool:
        """Whether the elements lie one after the other, first dimension fastest."""
        return _dense(self.shape, self.strides)


def is_device(value: Any) -> bool:
    """Whether `value` is an array in device memory."""
    if isinstance(value, np.ndarray | list | tuple | int | float):
        return False
    if isinstance(value, DeviceArray):
        return True
    kind = getattr(value, "__dlpack_device__", None)
    if kind is not None:
        return int(kind()[0]) in _CUDA
    try:
        return hasattr(value, "__cuda_array_interface__")
    except Exception:  # a property that explains itself when it is read again
        return True


def read_only(value: Any) -> bool:
    """Whether a device array must not be written to, as far as it says so; JAX's never may be."""
    if type(value).__module__.partition(".")[0] in ("jax", "jaxlib"):
        return True
    try:
        return bool(value.__cuda_array_interface__["data"][1])
    except Exception:  # it has no such interface, or explains itself when `find` reads it
        return False


def find(value: Any, what: str, stream: int | None = None) -> Found:
    """What a device array says of itself. `stream`: where it will be read, for libraries that can wait on their own.

    KnetTypeError where it cannot be taken: its library's own reason, or an element type that knetc does not have.
    """
    try:
        described = getattr(value, "__cuda_array_interface__", None)
        if described is not None and ("stream" in described or not hasattr(value, "__dlpack__")):
            return _from_interface(described, value)
        return _from_dlpack(value.__dlpack__(stream=stream), value)
    except KnetTypeError:
        raise
    except Exception as error:  # whatever the other library raises: a gradient that it tracks, a device it cannot reach
        raise KnetTypeError(f"{what}: the device array cannot be read: {error}") from None


def _from_interface(described: dict[str, Any], owner: Any) -> Found:
    """From the CUDA Array Interface, version 2 or 3."""
    dtype, shape = np.dtype(described["typestr"]), tuple(map(int, described["shape"]))
    strides = described.get("strides")
    steps = tuple(int(s) // dtype.itemsize for s in strides) if strides is not None else _steps(shape[::-1])[::-1]
    stream = described.get("stream")
    streams = (LEGACY_STREAM,) if stream is None else tuple(dict.fromkeys((int(stream), LEGACY_STREAM)))
    return Found(int(described["data"][0]), shape, dtype, steps, streams, owner)


# --- DLPack -----------------------------------------------------------------------------------------------------------

_CUDA = (2, 13)  # device memory, managed memory
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def _from_dlpack(capsule: Any, owner: Any) -> Found:
    """From a DLPack capsule, which is left unconsumed: its own destructor gives the tensor back."""
    tensor = ctypes.cast(_capsule_pointer()(capsule, b"dltensor"), ctypes.POINTER(_Tensor)).contents
    if int(tensor.device_type) not in _CUDA:
        raise KnetTypeError(f"an array on device type {tensor.device_type} of DLPack is not on a CUDA device")
    if tensor.lanes != 1 or tensor.code not in _KINDS:
        raise KnetTypeError("the elements are neither integers nor floating-point numbers that NumPy has")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _steps(shape[::-1])[::-1]
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    pointer = (tensor.data or 0) + tensor.byte_offset
    return Found(pointer, shape, dtype, strides, (LEGACY_STREAM,), (owner, capsule))


def _capsule_pointer() -> Callable[[Any, bytes], int]:
    function = ctypes.pythonapi.PyCapsule_GetPointer
    function.restype, function.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return function


# --- the order of elements --------------------------------------------------------------------------------------------


def _steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a dense array whose first dimension is the fastest."""
    steps, step = [], 1
    for size in shape:
        steps.append(step)
        step *= size
    return tuple(steps)


def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the strides are those of a dense array, first dimension fastest; a single element's do not count."""
    return 0 in shape or all(n == 1 or s == d for n, s, d in zip(shape, strides, _steps(shape), strict=True))


def readings(found: Found) -> list[tuple[int, ...]]:
    """The dims in Knet's order that the memory can be read as, without a copy.

    A Fortran-ordered array has its own shape. A C-ordered one is the same memory as one of the reversed shape: so an
    array of PyTorch or JAX with the batch first is one of Knet with the batch last.
    """
    shapes = []
    if found.fortran:
        shapes.append(found.shape)
    reverse = found.shape[::-1]
    if _dense(reverse, found.strides[::-1]) and reverse not in shapes:
        shapes.append(reverse)
    return shapes
