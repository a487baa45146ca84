"""Pinned host memory through which NumPy arrays go to the device and come back, so that copies run beside the host.

Used by `cuda.py` alone, with pycuda's driver handed in. The caller has the device's context current.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from knetc.runtime.executable import Tensor


class _Buffer:
    """Some pinned memory, and the event after which the device has read it."""

    def __init__(self, driver: Any, size: int) -> None:
        self.memory = driver.pagelocked_empty(size, np.uint8)
        self.read = driver.Event(driver.event_flags.DISABLE_TIMING)


class Staging:
    """Buffers by slot, two each, taken in turns: the host fills one while the device reads the other."""

    def __init__(self, driver: Any, stream: Any) -> None:
        self._driver, self._stream = driver, stream
        self._slots: dict[str, list[_Buffer]] = {}
        self._filled: list[_Buffer] = []

    def fill(self, slot: str, array: Tensor) -> int:
        """Copies `array` into the slot's next buffer; its address. Waits where the device still reads that buffer."""
        buffer = self._next(slot, array.nbytes)
        self._filled.append(buffer)
        _view(buffer, array.shape, array.dtype)[...] = array
        return int(buffer.memory.ctypes.data)

    def taken(self) -> None:
        """What has been filled so far is read by the work that the stream has been given by now."""
        for buffer in self._filled:
            buffer.read.record(self._stream)
        self._filled.clear()

    def room(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """A view of pinned memory for a result, to be copied from before the next result."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return _view(self._next("result", size), shape, dtype)

    def _next(self, slot: str, size: int) -> _Buffer:
        buffers = self._slots.setdefault(slot, [])
        if len(buffers) == 2:
            buffer = buffers.pop(0)
            buffer.read.synchronize()
            if buffer.memory.nbytes < size:
                buffer = _Buffer(self._driver, size)
        else:
            buffer = _Buffer(self._driver, max(size, 1))
        buffers.append(buffer)
        return buffer


def _view(buffer: _Buffer, shape: tuple[int, ...], dtype: Any) -> Tensor:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    view: Tensor = buffer.memory[:size].view(dtype).reshape(shape, order="F")
    return view
