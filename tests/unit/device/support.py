"""Device arrays without a device: memory of the emulation, and a back end cuda that is the emulated one reading it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from knetc.ir.program import Program
from knetc.options import Options
from knetc.runtime import emulation
from knetc.runtime.device import DeviceArray
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.executable import Given

_TO_DEVICE, _TO_HOST = 1, 2


@cache
def library() -> ctypes.CDLL:
    """The emulation, which the emitted code is linked with too."""
    return ctypes.CDLL(str(emulation.build_library()))


def _copy(to: int, source: int, size: int, kind: int) -> None:
    pointers = ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size)
    assert library().cudaMemcpy(*pointers, kind) == 0


class Array:
    """An array in device memory as its library shows it; a result of pycuda's looks the same to knetc."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...], owner: Any) -> None:
        self.shape, self.dtype, self.strides, self.owner = shape, np.dtype(dtype), strides, owner
        self.gpudata, self.read_only = pointer, False

    @classmethod
    def of(cls, host: np.ndarray) -> Array:
        """A copy of a dense array of NumPy, in its order."""
        memory = ctypes.c_void_p()
        assert library().cudaMalloc(ctypes.byref(memory), ctypes.c_size_t(max(1, host.nbytes))) == 0
        assert memory.value is not None
        _copy(memory.value, host.ctypes.data, host.nbytes, _TO_DEVICE)
        return cls(memory.value, host.shape, host.dtype, host.strides, memory)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "data": (self.gpudata, self.read_only),
            "stream": 1,
            "version": 3,
        }

    def __getitem__(self, index: tuple[Any, int]) -> Array:
        at = index[1] * self.strides[-1]
        return Array(self.gpudata + at, self.shape[:-1], self.dtype, self.strides[:-1], self)

    def host(self) -> np.ndarray:
        """The elements, which must be dense in Fortran order."""
        return fetch(self)


def fetch(array: Any) -> np.ndarray:
    """The elements of a Fortran-ordered device array, also of one of knetc's."""
    described = array.__cuda_array_interface__
    found = np.empty(described["shape"], described["typestr"], order="F")
    if described["strides"] is not None and found.size:
        steps = zip(found.shape, described["strides"], found.strides, strict=True)
        assert all(n == 1 or given == own for n, given, own in steps)
    assert library().cudaDeviceSynchronize() == 0
    _copy(found.ctypes.data, described["data"][0], found.nbytes, _TO_HOST)
    return found


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """What `knetc.runtime.cuda.empty` stands for."""
    return Array.of(np.full(shape, np.nan, dtype, order="F"))


class OnDevice(EmulatedExecutable):
    """The emulated back end, which takes device arrays where they stand. `calls`: what it was asked to compute;
    `places`: where what it was given stood.
    """

    def __init__(self, program: Program, options: Options, seed: int = 0, nccl: bool = False) -> None:
        self.calls: list[str] = []
        self.places: list[int] = []
        super().__init__(program, options, seed, nccl=nccl)

    def _call(self, name: str, *arguments: Any) -> None:
        self.calls.append(name)
        super()._call(name, *arguments)

    def _give(self, slot: str, array: Given | None) -> int | None:
        place = array.pointer if isinstance(array, DeviceArray) else super()._give(slot, array)
        self.places.append(place or 0)
        return place

    def _room(self, dims: tuple[int, ...], out: Given | None = None) -> Any:
        return empty(dims, self._dtype) if out is None and self._on_device else super()._room(dims, out)


def forms(array: np.ndarray) -> Sequence[Array]:
    """An array with the batch last, on the device: as it is, and as libraries have it that put the batch first."""
    return Array.of(np.asfortranarray(array)), Array.of(np.ascontiguousarray(array.T))
