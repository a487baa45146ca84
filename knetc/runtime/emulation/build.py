"""Compiles the emulation library, and emitted files against it, with the C++ compiler that the machine has.

Before: `codegen.emit` wrote a `.cu`. After: `runtime.emulated` loads the shared library. Everything is compiled without
fused multiply-add, so that the numbers are the same on every machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from knetc import log
from knetc.errors import KnetEnvironmentError, KnetInternalError
from knetc.runtime import build

_HERE = Path(__file__).resolve().parent

# Each sanitizer, with the runtimes that a process which was not built with it (Python) must load first.
SANITIZERS = {"": (), "address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}

_whole: set[Path] = set()  # the libraries that this process has seen to be whole

_LANGUAGE = ("-std=c++17", "-ffp-contract=off", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
_EXPORTS = (
    "{ global: cuda*; __cuda*; cublas*; cudnn*; nccl*; knetemu_*; threadIdx; blockIdx; blockDim; gridDim; local: *; };"
)


def find_compiler() -> str:
    """The C++ compiler. KnetEnvironmentError where there is none, or where this is not Linux."""
    if not sys.platform.startswith("linux"):
        raise KnetEnvironmentError(f"emitted code can run on the processor under Linux only, this is {sys.platform}")
    return build.cxx()


def include_dirs() -> list[Path]:
    """The folders for `-I`: the device half, and our declarations of CUDA, cuBLAS and cuDNN."""
    return [_HERE / "include", _HERE / "include" / "cuda"]


def build_library(sanitize: str | None = None) -> Path:
    """The emulation library, compiled on first use and then taken from the cache, whose name tells its contents.

    `sanitize` is a key of SANITIZERS and instruments the library itself, to find its own faults. Emitted code under a
    sanitizer needs only the plain one; the engine can't be instrumented for threads, so `thread` is the plain one too.
    KnetEnvironmentError without a compiler, KnetInternalError where the library does not compile.
    """
    if sanitize == "thread":
        sanitize = None
    # A function that no header declares would not be CUDA's: an error.
    options = ["-O3", *_native(), "-Wmissing-declarations", "-Werror=missing-declarations"]
    command = [find_compiler(), *_LANGUAGE, *options, *_includes(), *_sanitizing(sanitize)]
    path = build.cache_folder().resolve() / f"libknetemu-{_key(command)}.so"
    if path not in _whole:
        if build.content(path) is None:
            with _locked(path):
                if build.content(path) is None:
                    log.info(f"emulation library: to be compiled, {path}")
                    build.put(path, lambda fresh: _build(command, fresh))
        _whole.add(path)
    return path


def fingerprint() -> str:
    """What a library made by `compile_shared` depends on besides its source: part of its key in a cache.

    It names the emulation library's file, which is there when this returns (see `build_library` for the errors).
    """
    return str(build_library())


def compile_shared(
    source: Path, out: Path, *, sanitize: str | None = None, optimize: str = "-O2", extra: Sequence[str] = ()
) -> list[str]:
    """Compiles an emitted file into a shared library that runs on the emulation library; returns the command.

    `sanitize` is a key of SANITIZERS; `extra` are further options, such as `-DNAME=value`. The result refers to the
    emulation library by its path. KnetEnvironmentError without a compiler, KnetInternalError with the compiler's output
    where it fails.
    """
    command = [find_compiler(), *_LANGUAGE, optimize, "-shared", *_includes(), *_sanitizing(sanitize), *extra]
    # Without a soname the library given here is later loaded from this very path.
    command += ["-o", str(out), "-x", "c++", str(source), "-x", "none", str(build_library())]
    _run(command)
    return command


def sanitizer_environment(sanitize: str | None) -> dict[str, str]:
    """What to add to a process's environment before it loads a library that was compiled under `sanitize`.

    KnetEnvironmentError where the compiler has no runtimes that can be loaded first.
    """
    if not sanitize:
        return {}
    compiler = find_compiler()
    found = []
    for name in SANITIZERS[sanitize]:
        done = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        found.append(done.stdout.strip())
    if not all(os.path.isabs(path) and os.path.exists(path) for path in found):
        raise KnetEnvironmentError(
            f"{compiler} has no libraries for -fsanitize={sanitize}: use g++ with its sanitizers"
        )
    return {
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python never frees all that it allocates
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "exitcode=66 halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",  # NumPy's own threads look like races
    }


def _includes() -> list[str]:
    return [f"-I{folder}" for folder in include_dirs()]


def _sanitizing(sanitize: str | None) -> list[str]:
    if (sanitize or "") not in SANITIZERS:
        raise KnetInternalError(f"no sanitizer {sanitize!r}")
    if not sanitize:
        return []
    return [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]


def _native() -> list[str]:
    """The option that lets the compiler use all of this processor."""
    return {"x86_64": ["-march=native"], "aarch64": ["-mcpu=native"]}.get(platform.machine(), [])


def _key(command: Sequence[str]) -> str:
    """A hash of all that the library depends on: sources, headers, command, compiler and processor."""
    digest = hashlib.sha256(_EXPORTS.encode())
    # The include folders' paths are left out: a copy of the package elsewhere makes the same library.
    options = [word for word in command if not word.startswith("-I")]
    for text in (*options, build.version(command[0]), build.processor()):
        digest.update(text.encode() + b"\0")
    for path in sorted([*_HERE.glob("src/*"), *_HERE.glob("include/**/*.h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock among processes, so that the library is not compiled twice at once.

    Where the file system has no locks it may be, which is harmless: it is put in place by renaming.
    """
    with open(f"{path}.lock", "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(command: list[str], path: Path) -> None:
    """Compiles each source, several at a time, and links them beside `path`."""
    sources = sorted(_HERE.glob("src/*.cpp"))
    with tempfile.TemporaryDirectory(prefix=".knetemu-", dir=path.parent) as name:
        folder = Path(name)
        objects = [folder / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            jobs = [
                pool.submit(_run, [*command, "-c", str(source), "-o", str(result)])
                for source, result in zip(sources, objects, strict=True)
            ]
            for job in jobs:
                job.result()
        exports = folder / "exports"
        exports.write_text(_EXPORTS)
        # -Bsymbolic-functions: calls inside the library stay inside, whatever else the process has loaded.
        linking = ["-shared", f"-Wl,--version-script={exports}", "-Wl,-Bsymbolic-functions"]
        made = folder / path.name
        _run([*command, *linking, *map(str, objects), "-o", str(made), "-ldl", "-lpthread"])
        made.replace(path)


def _run(command: Sequence[str]) -> None:
    """Runs the compiler; KnetInternalError with its output where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KnetInternalError(f"the C++ compiler failed: {shlex.join(command)}\n{done.stderr or done.stdout}")
