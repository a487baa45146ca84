"""Compilers and what they made: finding them, running them, and a cache of their results by content.

Used by `cpu.py` and `cuda.py`, which load what is built here, and by the command's `--build`. An entry of the cache is
one file that ends in the digest of its content, put in place by renaming: readers see it whole or not at all, and a
damaged one is made again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

from knetc.errors import KnetEnvironmentError, KnetInternalError

_DIGEST = 32
CUDA_HOMES = ("/usr/local/cuda", "/opt/cuda")


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
        if folder and os.path.isfile(os.path.join(folder, "bin", "nvcc")):
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
        folders += [Path(site) / part / kind for part in ("cu13", "cublas", "cudnn")]
    return [f for f in folders if f.is_dir()]


def library(name: str) -> Path:
    """The file of NVIDIA's library `name` (`cublas`, `cudnn`). KnetEnvironmentError where it is missing."""
    for folder in nvidia_folders("lib"):
        files = sorted(folder.glob(f"lib{name}.so*"), key=lambda f: len(f.name))
        if files:
            return files[0]
    wheel = {"cublas": "nvidia-cublas", "cudnn": "nvidia-cudnn-cu13"}.get(name, name)
    raise KnetEnvironmentError(f"lib{name}.so was not found: pip install {wheel}, or set CUDA_HOME")


def nvcc_command(source: str, output: str, arch: str) -> list[str]:
    """The command that builds an emitted file as a shared library, linked with cuBLAS and cuDNN where it uses them."""
    text = Path(source).read_text(encoding="utf-8")
    command = [nvcc(), "-std=c++17", "-O2", "-shared", "-Xcompiler", "-fPIC", f"-arch={arch}"]
    command += [f"-I{folder}" for folder in nvidia_folders("include")]
    command += [source, "-o", output]
    for name, header in (("cublas", "<cublas_v2.h>"), ("cudnn", "<cudnn.h>")):
        if header in text:
            found = library(name)
            command += [f"-L{found.parent}", f"-l:{found.name}", "-Xlinker", f"-rpath={found.parent}"]
    return [*command, "-Xlinker", "--no-undefined"]


def build_with_nvcc(source: str, output: str, arch: str) -> list[str]:
    """Builds the shared library; returns the commands that ran. Raises KnetEnvironmentError, KnetInternalError."""
    command = nvcc_command(source, output, arch)
    run(command)
    return [shlex.join(command)]


def run(command: Sequence[str]) -> None:
    """Runs a compiler on emitted code. What it refuses is a fault of knetc: KnetInternalError with its words."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise KnetEnvironmentError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        raise KnetInternalError(f"the compiler refused emitted code: {shlex.join(command)}\n{done.stderr[-4000:]}")


@cache
def version(compiler: str) -> str:
    """What a compiler says of itself, as part of a cache key."""
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


# --- the cache --------------------------------------------------------------------------------------------------------


@cache
def cache_folder() -> Path:
    """The user's cache folder: $KNETC_CACHE, else knetc under $XDG_CACHE_HOME or ~/.cache, else a temporary one."""
    named = os.environ.get("KNETC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(named) if named else Path(base) / "knetc"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="knetc-"))


def cached(key: Iterable[str], suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes for this key, made once; several processes may ask at the same time."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:_DIGEST]
    path = cache_folder() / f"{digest}{suffix}"
    if not _whole(path):
        handle, name = tempfile.mkstemp(suffix=suffix, prefix=f"{digest}.", dir=path.parent)
        os.close(handle)
        fresh = Path(name)
        try:
            make(fresh)
            content = fresh.read_bytes()
            fresh.write_bytes(content + hashlib.sha256(content).digest())
            fresh.chmod(0o700)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    return path


def content(path: Path) -> bytes:
    """What `make` wrote to a file of the cache."""
    return path.read_bytes()[:-_DIGEST]


def _whole(path: Path) -> bool:
    """Whether a file ends in the digest of what stands before; loaders pass over bytes after an ELF file's end."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > _DIGEST and hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]
