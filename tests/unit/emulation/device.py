"""The emulation library called from Python: its functions through ctypes, arrays on its device, and their values back.

Used by the tests that compare the look-alikes of cuBLAS and cuDNN with loops written out in NumPy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from knetc.runtime import emulation

Array = np.ndarray[Any, Any]
SCALAR = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double}
CUDNN_TYPE = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
NCHW = 0


def ints(values: Sequence[int]) -> Any:
    """A C array of ints."""
    return (ctypes.c_int * len(values))(*values)


class Device:
    """The emulated device. Calls that return a status are checked where they are made through `call`."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(str(emulation.build_library()))
        for name in ("calls", "allocations", "live_objects", "live_bytes", "peak_bytes"):
            getattr(self.lib, f"knetemu_{name}").restype = ctypes.c_longlong
        for name in ("cudaGetErrorName", "cudaGetErrorString", "cublasGetStatusName", "cublasGetStatusString"):
            getattr(self.lib, name).restype = ctypes.c_char_p
        self.lib.cudnnGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function whose status must be success."""
        status = getattr(self.lib, name)(*arguments)
        assert status == 0, f"{name} returned {status}"

    def new(self, name: str) -> ctypes.c_void_p:
        """A handle or descriptor, from a function that makes one."""
        handle = ctypes.c_void_p()
        self.call(name, ctypes.byref(handle))
        return handle

    def empty(self, size: int) -> ctypes.c_void_p:
        """Device memory of some bytes, full of garbage."""
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer

    def upload(self, array: Array) -> ctypes.c_void_p:
        """A copy of an array on the device, in the order of its memory (C order if it is not contiguous)."""
        if not (array.flags.c_contiguous or array.flags.f_contiguous):
            array = np.ascontiguousarray(array)
        pointer = self.empty(array.nbytes)
        self.call("cudaMemcpy", pointer, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), 1)
        return pointer

    def download(self, pointer: ctypes.c_void_p, like: Array) -> Array:
        """The values on the device, in an array laid out as `like`."""
        array = np.empty_like(like)
        self.call("cudaMemcpy", ctypes.c_void_p(array.ctypes.data), pointer, ctypes.c_size_t(array.nbytes), 2)
        return array

    def free(self, *pointers: ctypes.c_void_p) -> None:
        """Frees device memory."""
        for pointer in pointers:
            self.call("cudaFree", pointer)

    # --- cuDNN --------------------------------------------------------------------------------------------------------

    def tensor(self, size: Sequence[int], dtype: Any) -> ctypes.c_void_p:
        """A descriptor of a packed tensor, sizes slowest first."""
        tensor = self.new("cudnnCreateTensorDescriptor")
        strides = [int(np.prod(size[i + 1 :])) for i in range(len(size))]
        kind = CUDNN_TYPE[np.dtype(dtype)]
        self.call("cudnnSetTensorNdDescriptor", tensor, kind, len(size), ints(size), ints(strides))
        return tensor

    def filter(self, size: Sequence[int], dtype: Any) -> ctypes.c_void_p:
        """A descriptor of a filter."""
        descriptor = self.new("cudnnCreateFilterDescriptor")
        kind = CUDNN_TYPE[np.dtype(dtype)]
        self.call("cudnnSetFilterNdDescriptor", descriptor, kind, NCHW, len(size), ints(size))
        return descriptor


def relative_error(got: Array, wanted: Array) -> float:
    """The largest difference, in units of the largest wanted value."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())
