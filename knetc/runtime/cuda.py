"""The emitted code on an NVIDIA device, through pycuda: the only place that imports it.

Before: a `training` program. After: `model.Model`. pycuda gives the device's primary context (the one that the CUDA
runtime, cuBLAS and cuDNN use too), the stream, and the kernels' cubin for the device found; the host half is built by
the C++ compiler against NVIDIA's headers and takes its kernels from that cubin. Both are cached by content.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetEnvironmentError, KnetInternalError
from knetc.ir.program import Program
from knetc.options import Options
from knetc.runtime import build
from knetc.runtime.library import Library

CUBIN_OPTIONS = ["-std=c++17", "-O3", "-DKNET_DEVICE_ONLY"]


@cache
def available() -> str | None:
    """None where emitted code can run on a device here; otherwise what is missing and how to get it."""
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed: pip install 'knetc[cuda]'"
    try:
        import pycuda.driver as driver

        driver.init()
        devices = driver.Device.count()
    except Exception as error:  # pycuda's own errors, or its libraries missing: all mean that there is no device to use
        return f"pycuda finds no CUDA device ({error}): it needs an NVIDIA GPU and its driver"
    if devices == 0:
        return "there is no CUDA device"
    try:
        build.nvcc()
        build.cxx()
        for name in ("cudart", "cublas", "cudnn"):
            build.library(name)
        for name in ("cuda_runtime.h", "cublas_v2.h", "cudnn.h"):
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

    return build.content(build.cached(key, ".cubin", make)) or b""


def host_command(source: str, output: str, text: str) -> list[str]:
    """The command that builds the host half of an emitted source as a shared library."""
    command = [build.cxx(), "-std=c++17", "-O2", "-fPIC", "-shared", "-DKNET_HOST_ONLY"]
    command += [f"-I{folder}" for folder in build.nvidia_folders("include")]
    command += ["-x", "c++", source, "-x", "none", "-o", output]
    for name, header in (("cublas", "<cublas_v2.h>"), ("cudnn", "<cudnn.h>"), ("cudart", "")):
        if header in text:
            found = build.library(name)
            command += [str(found), f"-Wl,-rpath,{found.parent}"]
    return [*command, "-Wl,--no-undefined"]


def build_host(source: str) -> Path:
    """The host half of an emitted source, from the cache or made now."""
    key = (source, "host", build.version(build.cxx()), shlex.join(host_command("source", "output", source)))

    def make(output: Path) -> None:
        text = output.with_suffix(".cu")
        text.write_text(source, encoding="utf-8")
        try:
            build.run(host_command(str(text), str(output), source))
        finally:
            text.unlink()

    return build.cached(key, ".so", make)


# --- the executable ---------------------------------------------------------------------------------------------------


class CudaExecutable(Library):
    """A program's emitted code on the first device (see `executable.Executable`)."""

    def __init__(self, program: Program, options: Options, seed: int = 0) -> None:
        """Builds for the device found and makes a model. KnetEnvironmentError where no device can be used."""
        missing = available()
        if missing is not None:
            raise KnetEnvironmentError(f"the cuda back end cannot run here: {missing}")
        import pycuda.driver as driver

        device = driver.Device(0)
        self._driver = driver
        self._context = device.retain_primary_context()
        major, minor = device.compute_capability()
        source = emit_cuda(program, options)
        with self._current():
            self._stream = driver.Stream()
            self._cubin = build_cubin(source, f"sm_{major}{minor}")
        super().__init__(program, str(build_host(source)), seed, self._stream.handle)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Makes the device's primary context the thread's current one."""
        self._context.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    def _prepare(self, library: ctypes.CDLL) -> None:
        library.knet_use_cubin.argtypes = (ctypes.c_char_p,)
        self._call("knet_use_cubin", self._cubin)

    def _call(self, name: str, *arguments: Any) -> None:
        with self._current():
            super()._call(name, *arguments)

    def __del__(self) -> None:
        # Before the stream and the context go.
        if getattr(self, "_model", None):
            with self._current():
                super().__del__()
