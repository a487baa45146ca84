"""Compilers: finding them, running them, and keeping what they made by content.

Used by `cpu.py` and `cuda.py`, which load what is built here, by the emulation, and by the command's `--build`. The
cache itself is `knetc.cache`.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from knetc import log
from knetc.cache import cache_folder, cached, content, copy_out, put
from knetc.errors import KnetEnvironmentError, KnetError, KnetInternalError

__all__ = [
    "build_with_nvcc",
    "cache_folder",
    "cached",
    "content",
    "copy_out",
    "cuda_home",
    "cxx",
    "library",
    "nvcc",
    "nvcc_command",
    "nvidia_folders",
    "processor",
    "put",
    "run",
    "version",
]

# NVIDIA's libraries that an emitted file may need, each with the header that the file includes then.
LIBRARIES = (("cublas", "<cublas_v2.h>"), ("cublasLt", "<cublasLt.h>"), ("cudnn", "<cudnn.h>"))
WITH_NCCL = "-DKNET_NCCL"
"""What lets an emitted file sum gradients over a communicator."""
CUDA_HOMES = ("/usr/local/cuda", "/opt/cuda")
NVCC_VARIABLES = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN")
"""What nvcc takes options from, besides its command."""


# --- compilers --------------------------------------------------------------------------------------------------------


@cache
def cxx() -> str:
    """The C++ compiler: $CXX, g++ or clang++. KnetEnvironmentError where there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise KnetEnvironmentError(
        "no C++ compiler was found: install g++ or clang++ (on Debian or Ubuntu: apt install g++), or set CXX"
    )


def cuda_home() -> Path | None:
    """The CUDA toolkit's folder: $CUDA_HOME, the one above nvcc on the path, or a usual place; else None."""
    nvcc_path = shutil.which("nvcc")
    named = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    above = str(Path(nvcc_path).resolve().parent.parent) if nvcc_path else None
    for folder in (*named, above, *CUDA_HOMES):
        # Both: the nvcc on the path may be a wrapper that stands outside the toolkit.
        if folder and all(os.path.isfile(os.path.join(folder, f)) for f in ("bin/nvcc", "include/cuda_runtime.h")):
            return Path(folder)
    return None


def nvcc() -> str:
    """The CUDA compiler. KnetEnvironmentError where there is none."""
    home = cuda_home()
    found = shutil.which("nvcc") or (str(home / "bin" / "nvcc") if home else None)
    if found is None:
        raise KnetEnvironmentError(
            "nvcc was not found: install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads), "
            "or set CUDA_HOME"
        )
    return found


def nvidia_folders(kind: str) -> list[Path]:
    """The `include` or `lib` folders of the toolkit and of NVIDIA's cuBLAS and cuDNN wheels, as far as they exist."""
    home = cuda_home()
    folders = [home / kind, home / f"{kind}64"] if home else []
    spec = importlib.util.find_spec("nvidia")
    for site in spec.submodule_search_locations or () if spec else ():
        folders += [Path(site) / part / kind for part in ("cu13", "cublas", "cudnn", "nccl")]
    return [f for f in folders if f.is_dir()]


def library(name: str) -> Path:
    """The file of NVIDIA's library `name` (`cublas`, `cudnn`). KnetEnvironmentError where it is missing."""
    for folder in nvidia_folders("lib"):
        files = sorted(folder.glob(f"lib{name}.so*"), key=lambda f: len(f.name))
        if files:
            return files[0]
    wheels = {"cublas": "nvidia-cublas", "cublasLt": "nvidia-cublas", "cudnn": "nvidia-cudnn-cu13"}
    wheel = (wheels | {"nccl": "nvidia-nccl-cu13"}).get(name, name)
    raise KnetEnvironmentError(f"lib{name}.so was not found: pip install {wheel}, or set CUDA_HOME")


def nvcc_command(source: str, output: str, arch: str, text: str = "") -> list[str]:
    """The command that builds an emitted file as a shared library, linked with the libraries that it uses.

    `text`: what is in the file, read from there if it is not given.
    """
    text = text or Path(source).read_text(encoding="utf-8")
    command = [nvcc(), "-std=c++17", "-O2", "-shared", "-Xcompiler", "-fPIC", f"-arch={arch}"]
    command += [f"-I{folder}" for folder in nvidia_folders("include")]
    command += [source, "-o", output]
    for name, header in LIBRARIES:
        if header in text:
            found = library(name)
            command += [f"-L{found.parent}", f"-l:{found.name}", "-Xlinker", f"-rpath={found.parent}"]
    return [*command, "-Xlinker", "--no-undefined"]


def build_with_nvcc(source: str, output: str, arch: str) -> None:
    """Builds the shared library of an emitted file, or copies it from the cache.

    Raises KnetEnvironmentError, KnetInternalError.
    """
    text = Path(source).read_text(encoding="utf-8")
    host = shutil.which("g++")  # which nvcc calls
    flags = (f"{name}={os.environ.get(name, '')}" for name in NVCC_VARIABLES)
    command = shlex.join(nvcc_command("source", "output", arch, text))
    key = (text, version(nvcc()), version(host) if host else "", *flags, command)

    def make(fresh: Path) -> None:
        file = fresh.with_suffix(".cu")
        file.write_text(text, encoding="utf-8")
        try:
            run(nvcc_command(str(file), str(fresh), arch, text))
        finally:
            file.unlink()

    copy_out(cached(key, ".so", make, f"library for {arch}"), output)


def run(command: Sequence[str]) -> None:
    """Runs a compiler on emitted code. What it refuses is a fault of knetc: KnetInternalError with its words."""
    log.info(shlex.join(command))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise KnetEnvironmentError(f"cannot run {command[0]}: {error.strerror}") from None
    if "Unsupported gpu architecture" in done.stderr:
        raise KnetError(f"{done.stderr.strip()}: this nvcc does not know the architecture that --arch names")
    if done.returncode:
        raise KnetInternalError(f"the compiler refused emitted code: {shlex.join(command)}\n{done.stderr[-4000:]}")


@cache
def version(compiler: str) -> str:
    """What a compiler says of itself, as part of a cache key."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


@cache
def processor() -> str:
    """What tells processors apart for the compiler's `-march=native`: a cache may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("flags", "features", "model name", "cpu part")
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.lower().startswith(wanted)})])
