"""`knetc doctor`: what of a machine knetc found, where, and which back ends can run; for each thing missing the command
that brings it.

Called by `cli.py`. It looks with the functions that the back ends look with (`runtime.build`, `runtime.cuda`), so what
it finds is what they find.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from knetc import __version__, installing
from knetc.errors import KnetEnvironmentError
from knetc.record import Record
from knetc.runtime import build

LEAST_DRIVER = 13000
"""What the driver must say of itself, as CUDA counts versions: the libraries are those of CUDA 13."""


class Finding(Record):
    """One thing that was looked for: what it is (`text`: version and place, or why it is not there) and, where it is
    missing, the command that brings it.
    """

    name: str
    found: bool
    text: str
    command: str = ""


def run() -> int:
    """Prints the report; 0 where every back end can run, 3 where something is missing."""
    findings = [finding for look in _LOOKS for finding in look()]
    width = max(len(f.name) for f in findings)
    print(f"knetc {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for f in findings:
        print(f"{f.name:<{width}}  {'ok     ' if f.found else 'missing'}  {f.text}")
        if f.command:
            print(f"{'':<{width}}           what to do: {f.command}")
    return 0 if all(f.found for f in findings) else 3


# --- what to look for -------------------------------------------------------------------------------------------------


def _cxx() -> Iterator[Finding]:
    try:
        path = build.cxx()
    except KnetEnvironmentError:
        command = installing.compiler(installing.system())
        yield Finding("C++ compiler", False, "neither $CXX, g++ nor clang++ is on the path", command)
        return
    yield Finding("C++ compiler", True, f"{build.version(path).splitlines()[0]}, {path}")


def _driver() -> Iterator[Finding]:
    command = installing.driver(installing.system())
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        version, count = ctypes.c_int(), ctypes.c_int()
        cuda.cuDriverGetVersion(ctypes.byref(version))
        code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError) as error:
        yield Finding("NVIDIA driver", False, f"{error}", command)
        yield Finding("device", False, "none without a driver")
        return
    if version.value < LEAST_DRIVER:
        yield Finding("NVIDIA driver", False, f"for CUDA up to {_dotted(version.value)}, 13.0 is needed", command)
    else:
        yield Finding("NVIDIA driver", True, f"for CUDA up to {_dotted(version.value)}")
    if code or not count.value:
        reason = f"the driver answers with error {code}" if code else "the driver sees none"
        hidden = "unset CUDA_VISIBLE_DEVICES" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        yield Finding("device", False, f"{reason}; CUDA_VISIBLE_DEVICES is {_visible()}", hidden)
        return
    for number in range(count.value):
        yield Finding(f"device {number}", True, _device(cuda, number))


def _visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "not set")


def _device(cuda: ctypes.CDLL, number: int) -> str:
    handle, major, minor, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(handle), number)
    cuda.cuDeviceGetName(name, 256, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    return f"{name.value.decode()}, sm_{major.value}{minor.value}, {size.value / 2**30:.0f} GiB"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _nvcc() -> Iterator[Finding]:
    try:
        path = build.nvcc()
        yield Finding("nvcc", True, f"{_release(build.version(path))}, {path}")
    except (KnetEnvironmentError, OSError):
        command = installing.toolkit(installing.system())
        yield Finding("nvcc", False, "neither on the path nor under $CUDA_HOME or a usual place", command)


def _release(text: str) -> str:
    found = re.search(r"release ([\d.]+)", text)
    return found[1] if found else "version unknown"


def _libraries() -> Iterator[Finding]:
    toolkit = installing.toolkit(installing.system())
    for label, name, header, command, version in (
        ("CUDA runtime", "cudart", "cuda_runtime.h", toolkit, _cudart_version),
        ("cuBLAS", "cublas", "cublas_v2.h", "pip install 'nvidia-cublas>=13,<14'", _cublas_version),
        ("cuBLASLt", "cublasLt", "cublasLt.h", "pip install 'nvidia-cublas>=13,<14'", _cublaslt_version),
        ("cuDNN", "cudnn", "cudnn.h", "pip install 'nvidia-cudnn-cu13>=9.10'", _cudnn_version),
    ):
        try:
            path = build.library(name)
        except KnetEnvironmentError as error:
            yield Finding(label, False, error.diagnostics[0].message.split(":")[0], command)
            continue
        if not any((folder / header).is_file() for folder in build.nvidia_folders("include")):
            yield Finding(label, False, f"{path} is there, its header {header} is not", command)
            continue
        yield Finding(label, True, f"{version(path)}, {path}")


def _cudart_version(path: Path) -> str:
    number = ctypes.c_int()
    return _version(path, lambda library: library.cudaRuntimeGetVersion(ctypes.byref(number)), lambda: number.value)


def _cublas_version(path: Path) -> str:
    return _blas_version(path, "cublasGetProperty")


def _cublaslt_version(path: Path) -> str:
    return _blas_version(path, "cublasLtGetProperty")


def _blas_version(path: Path, function: str) -> str:
    parts = [ctypes.c_int(), ctypes.c_int(), ctypes.c_int()]

    def ask(library: ctypes.CDLL) -> int:
        return sum(getattr(library, function)(kind, ctypes.byref(part)) for kind, part in enumerate(parts))

    return _version(path, ask, lambda: ".".join(str(part.value) for part in parts))


def _cudnn_version(path: Path) -> str:
    found: list[int] = []

    def ask(library: ctypes.CDLL) -> int:
        library.cudnnGetVersion.restype = ctypes.c_size_t
        found.append(library.cudnnGetVersion())
        return 0

    return _version(path, ask, lambda: f"{found[0] // 10000}.{found[0] % 10000 // 100}.{found[0] % 100}")


def _version(path: Path, ask: Callable[[ctypes.CDLL], int], text: Callable[[], object]) -> str:
    """A library's own word; that it cannot be loaded is part of the report."""
    try:
        code = ask(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        return f"cannot be asked ({error})"
    found = text()
    return _dotted(found) if isinstance(found, int) and not code else "version unknown" if code else str(found)


def _pycuda() -> Iterator[Finding]:
    try:
        nvcc: str | None = build.nvcc()
    except KnetEnvironmentError:
        nvcc = None
    if importlib.util.find_spec("pycuda") is None:
        yield Finding("pycuda", False, "not installed", installing.pycuda(nvcc))
        return
    version = importlib.metadata.version("pycuda")
    from knetc.runtime.cuda import driver

    try:
        driver()
    except Exception as error:  # whatever its extension module says: mostly a driver that is not there
        text = f"{version} is installed and cannot be used: {error}"
        yield Finding("pycuda", False, text, _mend_pycuda(error, nvcc))
        return
    yield Finding("pycuda", True, f"{version}, {Path(sys.modules['pycuda'].__file__ or '').parent}")


def _mend_pycuda(error: Exception, nvcc: str | None) -> str:
    """What mends a pycuda that cannot be used: the driver where that is lacking or does not answer; nothing where there
    is no device; else a build of its own, since it was built for another toolkit or Python.
    """
    system = installing.system()
    if isinstance(error, ImportError) and "libcuda.so" not in str(error):
        return installing.pycuda_again(system, nvcc)
    return "" if "no CUDA-capable device" in str(error) else installing.driver(system)


def _back_ends() -> Iterator[Finding]:
    from knetc.runtime import cpu
    from knetc.runtime.cuda import available
    from knetc.runtime.emulation import find_compiler

    yield Finding("back end numpy", True, "the reference interpreter")
    missing = cpu.available()
    yield Finding("back end cpu", missing is None, missing or "emitted C++, built by the C++ compiler")
    try:
        find_compiler()
        yield Finding("back end emulated", True, "emitted CUDA on the processor, for tests")
    except KnetEnvironmentError as error:
        yield Finding("back end emulated", False, error.diagnostics[0].message)
    missing = available()
    yield Finding("back end cuda", missing is None, missing or "emitted code on the device, through pycuda")


_LOOKS = (_cxx, _driver, _nvcc, _libraries, _pycuda, _back_ends)
