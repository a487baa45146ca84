"""The emitted code on an NVIDIA device, through pycuda: the only place that imports it.

Before: a `training` program. After: `model.Model`. pycuda gives the device's primary context (the one that the CUDA
runtime, cuBLAS, cuDNN, PyTorch, CuPy and JAX use too, so that arrays can be shared), the stream, pinned memory, arrays
for results, and the kernels' cubin for the device found; the host half is built by the C++ compiler against NVIDIA's
headers and takes its kernels from that cubin. Both are cached by content.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import platform
import shlex
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetEnvironmentError, KnetInternalError
from knetc.ir.program import Program
from knetc.options import Options
from knetc.runtime import build, process
from knetc.runtime.device import LEGACY_STREAM, DeviceArray
from knetc.runtime.executable import Given, Tensor, into
from knetc.runtime.library import Library
from knetc.runtime.nccl import Communicator, communicator
from knetc.runtime.pinned import Staging

CUBIN_OPTIONS = ["-std=c++17", "-O3", "-DKNET_DEVICE_ONLY"]


def driver() -> Any:
    """pycuda's driver module, ready. Raises whatever pycuda raises where it cannot be imported or has no driver."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exception says the same
        import pycuda.driver
    pycuda.driver.init()
    return pycuda.driver


@cache
def available() -> str | None:
    """None where emitted code can run on a device here; otherwise what is missing and how to get it."""
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: pip install 'knetc[cuda]'"
    try:
        devices = driver().Device.count()
    except Exception as error:  # pycuda's own errors, or its libraries missing: all mean that there is no device to use
        return f"pycuda finds no CUDA device ({error}): it needs an NVIDIA GPU and its driver"
    if devices == 0:
        return "there is no CUDA device"
    try:
        build.nvcc()
        build.cxx()
        for name in ("cudart", "cublas", "cublasLt", "cudnn"):
            build.library(name)
        for name in ("cuda_runtime.h", "cublas_v2.h", "cublasLt.h", "cudnn.h"):
            _require_header(name)
    except KnetEnvironmentError as error:
        return error.diagnostics[0].message
    return None


def _require_header(name: str) -> None:
    if not any((folder / name).is_file() for folder in build.nvidia_folders("include")):
        raise KnetEnvironmentError(f"{name} was not found: install the CUDA toolkit and pip install 'knetc[cuda]'")


# --- building ---------------------------------------------------------------------------------------------------------


def build_cubin(source: str, arch: str) -> bytes:
    """The kernels of an emitted source for `arch`, by pycuda's compiler, from the cache or made now."""
    key = (source, "cubin", arch, *CUBIN_OPTIONS, build.version(build.nvcc()))

    def make(output: Path) -> None:
        import pycuda.compiler
        import pycuda.driver

        try:
            cubin = pycuda.compiler.compile(
                source, nvcc=build.nvcc(), options=list(CUBIN_OPTIONS), no_extern_c=True, arch=arch, cache_dir=False
            )
        except pycuda.driver.CompileError as error:
            raise KnetInternalError(f"nvcc refused emitted code: {error}") from None
        output.write_bytes(cubin)

    return build.content(build.cached(key, ".cubin", make, f"kernels for {arch}")) or b""


def host_command(source: str, output: str, text: str, nccl: bool = False) -> list[str]:
    """The command that builds the host half of an emitted source as a shared library, with `nccl` linked with that."""
    command = [build.cxx(), "-std=c++17", "-O2", "-fPIC", "-shared", "-DKNET_HOST_ONLY"]
    command += [build.WITH_NCCL] if nccl else []
    command += [f"-I{folder}" for folder in build.nvidia_folders("include")]
    command += ["-x", "c++", source, "-x", "none", "-o", output]
    for name, header in (*build.LIBRARIES, ("cudart", ""), *([("nccl", "")] if nccl else [])):
        if header in text:
            found = build.library(name)
            command += [str(found), f"-Wl,-rpath,{found.parent}"]
    return [*command, "-Wl,--no-undefined"]


def build_host(source: str, nccl: bool = False) -> Path:
    """The host half of an emitted source, from the cache or made now."""
    key = (source, "host", build.version(build.cxx()), shlex.join(host_command("source", "output", source, nccl)))

    def make(output: Path) -> None:
        text = output.with_suffix(".cu")
        text.write_text(source, encoding="utf-8")
        try:
            build.run(host_command(str(text), str(output), source, nccl))
        finally:
            text.unlink()

    return build.cached(key, ".so", make, "host half")


# --- the device -------------------------------------------------------------------------------------------------------


class _Device:
    """A device as one thread sees it: pycuda's driver, the primary context, and memory for results.

    pycuda ties what it makes to the thread, and wants a context to be let go by name before the process ends.
    """

    def __init__(self, number: int) -> None:
        self.driver = driver()
        device = self.driver.Device(number)
        self.context = device.retain_primary_context()
        major, minor = device.compute_capability()
        self.arch = f"sm_{major}{minor}"
        self._device = device
        self.open = True
        self._depth = 0
        self._free: dict[int, list[Any]] = {}
        self._block = _block_class(self.driver)
        atexit.register(self._close)

    @property
    def bus_id(self) -> str:
        """Where the device is in its machine, which is the same for all processes, whichever devices they see."""
        return str(self._device.pci_bus_id())

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes the primary context the thread's current one; within another `current` it is already."""
        if self._depth == 0:
            self.context.push()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.driver.Context.pop()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A GPUArray in Fortran order, its memory taken from results that nobody holds any more.

        It is written on the model's stream, which has waited for all readers on the default stream. pycuda's own pool
        would need a current context whenever a result goes.
        """
        from pycuda.gpuarray import GPUArray

        size = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        free = self._free.setdefault(size, [])
        block = self._block(free.pop() if free else self.driver.mem_alloc(size), free)
        return GPUArray(shape, dtype, gpudata=block, order="F")

    def _close(self) -> None:
        self.open = False
        self._free.clear()
        self.context.push()
        self.context.detach()


_MOST_FREE = 4  # results of one size whose memory is kept for the next


def _block_class(driver: Any) -> type:
    """pycuda's base for what points to device memory, with memory that goes back to a list."""

    class Block(driver.PointerHolderBase):  # type: ignore[misc]
        """Device memory of one result."""

        def __init__(self, memory: Any, free: list[Any]) -> None:
            super().__init__()
            self._memory, self._free = memory, free

        def get_pointer(self) -> int:
            """The address."""
            return int(self._memory)

        def __int__(self) -> int:
            return int(self._memory)

        __index__ = __int__

        def __del__(self) -> None:
            if len(self._free) < _MOST_FREE:
                self._free.append(self._memory)

    return Block


_of_thread = threading.local()


def _device() -> _Device:
    """The device for the calling thread: the first, or that of this process among those of its machine."""
    number = process.place() % driver().Device.count()
    if not hasattr(_of_thread, "devices"):
        _of_thread.devices = {}
    devices: dict[int, _Device] = _of_thread.devices
    if number not in devices:
        devices[number] = _Device(number)
    return devices[number]


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """A new array on the device, pycuda's GPUArray in Fortran order; what is in it is not said."""
    device = _device()
    with device.current():
        return device.empty(shape, dtype)


def fetch(array: DeviceArray) -> Tensor:
    """A device array's elements in host memory. Waits for the default stream."""
    found: Tensor = np.empty(array.shape, array.dtype, order="F")
    device = _device()
    with device.current():
        device.driver.memcpy_dtoh(found, array.pointer)
    return found


# --- the executable ---------------------------------------------------------------------------------------------------


class CudaExecutable(Library):
    """A program's emitted code on a device (see `executable.Executable`).

    Host arrays go through pinned memory; device arrays are read where they stand, by the model's own stream, which
    waits for the streams that they come from, and these for it. The host waits where a call returns a host array.
    """

    def __init__(self, program: Program, options: Options, seed: int = 0, nccl: bool = False) -> None:
        """Builds for the device found and makes a model, with `nccl` one that can join a communicator.

        Raises KnetEnvironmentError where no device can be used.
        """
        missing = available()
        if missing is not None:
            raise KnetEnvironmentError(f"the cuda back end cannot run here: {missing}")
        self._device = _device()
        source = emit_cuda(program, options)
        self._streams: dict[int, None] = {}  # that the call at hand reads from
        with self._device.current():
            # Non-blocking, so that work of other libraries on the default stream cannot disturb a capture.
            self._stream = self._device.driver.Stream(_NON_BLOCKING)
            self._cubin = build_cubin(source, self._device.arch)
            self._staging = Staging(self._device.driver, self._stream)
        super().__init__(program, str(build_host(source, nccl)), seed, self._stream.handle)

    def _prepare(self) -> None:
        self._function("use_cubin").argtypes = (ctypes.c_char_p,)
        self._call("use_cubin", self._cubin)

    def _call(self, name: str, *arguments: Any) -> None:
        with self._device.current():
            super()._call(name, *arguments)

    def device_name(self) -> str | None:
        """The machine, and where the device is in it."""
        return f"{platform.node()} {self._device.bus_id}"

    def communicator(self) -> Communicator:
        """That of NVIDIA's NCCL."""
        return communicator(build.library("nccl"))

    def join(self, comm: Communicator, identity: bytes, rank: int, size: int) -> None:
        """Joins a communicator (see `Library.join`), as this device."""
        with self._device.current():
            super().join(comm, identity, rank, size)

    def forward(self, setting: frozenset[str], inputs: Sequence[Given], push: bool, out: Given | None = None) -> Any:
        """One call of the model (see `Executable.forward`)."""
        self._streams.clear()  # of a call that failed
        with self._device.current():
            return super().forward(setting, inputs, push, out)

    def backward(
        self,
        loss: str,
        gold: Given | None,
        mask: Given | None,
        dinputs: Sequence[int],
        pop: bool,
        out: Mapping[int, Given] | None = None,
    ) -> dict[int, Any]:
        """Gradients of the last call or of the newest on the stack (see `Executable.backward`)."""
        self._streams.clear()
        with self._device.current():
            return super().backward(loss, gold, mask, dinputs, pop, out)

    def forward_sequence(
        self, setting: frozenset[str], inputs: Sequence[Given], steps: int, out: Given | None = None
    ) -> Any:
        """Several calls with `push` (see `Executable.forward_sequence`)."""
        self._streams.clear()
        with self._device.current():
            return super().forward_sequence(setting, inputs, steps, out)

    def backward_sequence(self, loss: str, gold: Given | None, mask: Given | None, steps: int) -> None:
        """Several calls with `pop` (see `Executable.backward_sequence`)."""
        self._streams.clear()
        with self._device.current():
            super().backward_sequence(loss, gold, mask, steps)

    def train(self, *given: Any) -> list[float]:
        """Several steps of training in one call (see `Library.train`)."""
        self._streams.clear()
        with self._device.current():
            return super().train(*given)

    def train_over_time(self, *given: Any) -> list[float]:
        """Several segments of a sequence in one call (see `Library.train_over_time`)."""
        self._streams.clear()
        with self._device.current():
            return super().train_over_time(*given)

    def _give(self, slot: str, array: Given | None) -> int | None:
        if isinstance(array, DeviceArray):
            return self._place(array)
        return None if array is None else self._staging.fill(slot, np.asfortranarray(array, self._dtype))

    def _place(self, array: DeviceArray) -> int:
        """Where a device array stands, once the model's stream waits for those that it is worked with on."""
        for stream in array.streams:
            self._wait_for(stream)
        return array.pointer

    def _wait_for(self, stream: int) -> None:
        if stream not in self._streams:
            self._call("wait_for", self._model, stream)
            self._streams[stream] = None

    def _given(self, waited: bool) -> None:
        self._staging.taken()
        for stream in self._streams:
            self._call("make_wait", self._model, stream)
        self._streams.clear()

    def _room(self, dims: tuple[int, ...], out: Given | None = None) -> Any:
        if isinstance(out, DeviceArray):
            self._place(out)
            return out
        if out is not None or not self._on_device:
            return self._staging.room(dims, self._dtype)
        self._wait_for(LEGACY_STREAM)  # on which results are read, also that whose memory this one takes
        return self._device.empty(dims, self._dtype)

    def _out_of(self, value: Any, out: Given | None) -> Any:
        pinned = isinstance(value, np.ndarray) and out is None
        return value.copy(order="F") if pinned else into(value, out)

    def __del__(self) -> None:
        # Before the stream and the context go; at the end of the process they are gone, and all memory with them.
        if getattr(self, "_model", None) and self._device.open:
            with self._device.current():
                super().__del__()


_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
