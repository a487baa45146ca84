"""NCCL's communicators, which emitted CUDA sums gradients over, by ctypes.

Before: `sums.DeviceSums`, which hands the id of one round. After: NVIDIA's library, or the emulation's look-alike.
A process has one communicator for all its models: each takes memory of the device, and NCCL brings the sums of one into
the order in which they were asked for, where those of several might wait for one another.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from knetc.errors import KnetEnvironmentError

_ID_BYTES = 128  # NCCL_UNIQUE_ID_BYTES


class _Id(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_char * _ID_BYTES),)


class Communicator:
    """This process's part of a communicator (an ncclComm_t) as long as it runs, once it has joined it."""

    def __init__(self, library: Path) -> None:
        """Loads NCCL. Raises KnetEnvironmentError where that cannot be loaded."""
        try:
            self._nccl = ctypes.CDLL(str(library))
        except OSError as error:
            raise KnetEnvironmentError(f"NCCL cannot be loaded: {error}") from None
        self._nccl.ncclGetErrorString.restype = ctypes.c_char_p
        self._nccl.ncclCommInitRank.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, _Id, ctypes.c_int)
        self.handle = ctypes.c_void_p(None)

    def fresh_id(self) -> bytes:
        """What all processes of a new communicator join it by; one of them makes it."""
        made = _Id()
        self._check("ncclGetUniqueId", self._nccl.ncclGetUniqueId(ctypes.byref(made)))
        return bytes(made)

    def join(self, identity: bytes, rank: int, size: int) -> None:
        """Waits until `size` processes have joined. Needs the process's device to be the current one."""
        told = _Id.from_buffer_copy(identity)
        self._check("ncclCommInitRank", self._nccl.ncclCommInitRank(ctypes.byref(self.handle), size, told, rank))

    def _check(self, call: str, result: int) -> None:
        if result:
            text = self._nccl.ncclGetErrorString(result).decode("utf-8", "replace")
            raise KnetEnvironmentError(f"NCCL: {call}: {text}")


communicator = cache(Communicator)
"""The one of this process, by the library's file."""
