"""The emitted C++ on the processor: built by the C++ compiler for the machine that it runs on, and cached by content.

Before: a `training` program. After: `model.Model`. Matrix products come from the OpenBLAS of the wheel
scipy-openblas32; the threads are OpenMP's, where the compiler has it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knetc.codegen.cpu.emit import emit_cpp
from knetc.errors import KnetEnvironmentError
from knetc.ir.program import LOSSES, Program
from knetc.options import Options
from knetc.runtime import build
from knetc.runtime.cfunctions import KINDS, SIGNATURES
from knetc.runtime.cmodel import place_of
from knetc.runtime.executable import Given, Tensor, TrainingOptions
from knetc.runtime.library import Library

# Loops become vectors only where no errno is set and nothing traps; otherwise arithmetic is IEEE 754's.
FLAGS = (
    "-std=c++17",
    "-O2",
    "-ftree-vectorize",
    "-fvect-cost-model=dynamic",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fPIC",
    "-shared",
    # C's <math.h> as it is: what libstdc++ puts around it takes as long to read as all of a small model.
    "-D_GLIBCXX_INCLUDE_NEXT_C_HEADERS=",
)
OPENMP = ("-fopenmp",)
_NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native", "aarch64": "-mcpu=native", "arm64": "-mcpu=native"}
_ADDRESS, _PLACES = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_SIZES = (ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_double)
# Functions of the interface that are about devices.
ON_A_DEVICE = ("configure", "graphs", "wait_for", "make_wait")

Columns: TypeAlias = "NDArray[np.floating[Any]] | NDArray[np.int32]"
"""An array, or the rows of the 1s of a one-hot matrix."""


@cache
def available() -> str | None:
    """None where emitted C++ can be built and run here; otherwise what is missing and how to get it."""
    try:
        build.cxx()
        blas_options()
    except KnetEnvironmentError as error:
        return error.diagnostics[0].message
    return None


@cache
def blas_options() -> tuple[str, ...]:
    """What the compiler is told of the BLAS. KnetEnvironmentError where there is none."""
    if importlib.util.find_spec("scipy_openblas32") is None:
        raise KnetEnvironmentError("scipy-openblas32 is not installed: pip install scipy-openblas32")
    import scipy_openblas32

    folder, name = scipy_openblas32.get_lib_dir(), scipy_openblas32.get_library()
    return ("-DKNET_BLAS(name)=scipy_##name", f"-L{folder}", f"-l{name}", f"-Wl,-rpath,{folder}")


@cache
def openmp(compiler: str) -> tuple[str, ...]:
    """The options for threads, without them where the compiler has no OpenMP; tried once, and then in the cache."""

    def attempt(output: Path) -> None:
        source = output.with_suffix(".cpp")
        source.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
        words = [compiler, *OPENMP, str(source), "-o", str(output)]
        try:
            done = subprocess.run(words, capture_output=True, check=False)
        finally:
            source.unlink()
        output.write_text("yes" if done.returncode == 0 else "no")

    found = build.content(build.cached(("openmp", compiler, build.version(compiler)), ".txt", attempt))
    return OPENMP if found == b"yes" else ("-fopenmp-simd", "-DKNET_VECTORS")


def command(source: str, output: str, text: str, sanitize: str | None = None) -> list[str]:
    """The command that builds an emitted file, whose text that is, as a shared library."""
    compiler = build.cxx()
    native = _NATIVE.get(platform.machine())
    words = [compiler, *FLAGS, *((native,) if native else ()), *openmp(compiler)]
    if sanitize:
        words += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1"]
    blas = blas_options() if "KNET_BLAS" in text else ()
    return [*words, source, "-o", output, *blas]


def build_file(source: str, output: str) -> None:
    """Builds the shared library of an emitted file, or copies it from the cache.

    Raises KnetEnvironmentError, KnetInternalError.
    """
    build.copy_out(build_cpu(Path(source).read_text(encoding="utf-8")), output)


def build_cpu(source: str, sanitize: str | None = None) -> Path:
    """The shared library of an emitted source, from the cache or made now. `sanitize` as the compiler's -fsanitize=.

    Raises KnetEnvironmentError where there is no C++ compiler or no BLAS.
    """
    words = command("source", "output", source, sanitize)
    key = (source, build.version(build.cxx()), shlex.join(words), build.processor())

    def make(output: Path) -> None:
        text = output.with_suffix(".cpp")
        text.write_text(source, encoding="utf-8")
        try:
            build.run(command(str(text), str(output), source, sanitize))
        finally:
            text.unlink()

    return build.cached(key, ".so", make, "library for the processor")


def _places(arrays: Sequence[Columns], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Where arrays stand, and where the others, which are the rows of a one-hot matrix, stand; NULL for the rest."""
    kinds = [a.dtype == dtype for a in arrays]
    room = ctypes.c_void_p * max(1, len(arrays))
    return (
        room(*(place_of(a) if dense else None for a, dense in zip(arrays, kinds, strict=True))),
        room(*(None if dense else place_of(a) for a, dense in zip(arrays, kinds, strict=True))),
    )


class CpuLibrary(Library):
    """A model of one library of emitted C++ (see `executable.Executable`).

    What `forward` is given is read where it stands, and must stay as it is until the way back, unless it is pushed.
    """

    functions: Mapping[str, tuple[Any, ...]] = {
        **{name: arguments for name, arguments in SIGNATURES.items() if name not in ON_A_DEVICE},
        "set_threads": (ctypes.c_void_p, ctypes.c_int),
        "set_gradient": (_ADDRESS, ctypes.c_char_p, _ADDRESS),
    }
    training: Mapping[str, tuple[Any, ...]] = {
        "train": (_ADDRESS, ctypes.c_uint, ctypes.c_int, _PLACES, _PLACES, _ADDRESS, _ADDRESS, *_SIZES, _ADDRESS),
    }
    takes_rows = True

    def __init__(self, program: Program, path: str, seed: int) -> None:
        """Loads the library at `path` and makes a model."""
        self._recorded: list[Any] = []  # the inputs that `back` reads
        super().__init__(program, path, seed)

    def _configure(self) -> None:
        """Nothing: what can be set is about devices."""

    def forward(self, setting: frozenset[str], inputs: Sequence[Given], push: bool, out: Given | None = None) -> Any:
        """One call of the model (see `Executable.forward`)."""
        value = super().forward(setting, inputs, push, out)
        if not push:
            self._recorded = list(self._held.values())
        self._held.clear()
        return value

    def forward_sequence(
        self, setting: frozenset[str], inputs: Sequence[Given], steps: int, out: Given | None = None
    ) -> Any:
        """Several calls with `push` (see `Executable.forward_sequence`), at once where the library can."""
        value = super().forward_sequence(setting, inputs, steps, out)
        self._held.clear()  # the library has copies
        return value

    def backward_sequence(self, loss: str, gold: Given | None, mask: Given | None, steps: int) -> None:
        """Several calls with `pop` (see `Executable.backward_sequence`), at once where the library can."""
        super().backward_sequence(loss, gold, mask, steps)
        self._held.clear()

    def train_over_time(self, *given: Any) -> list[float]:
        """Several segments of a sequence in one call (see `Library.train_over_time`)."""
        losses = super().train_over_time(*given)
        self._held.clear()
        return losses

    def _given(self, waited: bool) -> None:
        """Nothing to wait for: a call has done its work when it returns."""

    def train(
        self,
        setting: frozenset[str],
        inputs: Sequence[Columns],
        gold: Columns,
        batch: int,
        loss: str,
        options: Mapping[str, TrainingOptions],
        gclip: float,
    ) -> list[float]:
        """Several steps of training in one call (see `Library.train`)."""
        self._set_options(options)
        self._recorded = [*inputs, gold]
        columns = int(gold.shape[-1])
        losses = np.empty(-(-columns // batch))
        bits = sum(self._bits[c] for c in setting)
        arrays, rows = _places(inputs, self._dtype)
        golds, gold_rows = _places([gold], self._dtype)
        given = (arrays, rows, golds[0], gold_rows[0], columns, batch, gclip, 1.0, place_of(losses))
        self._call("train", self._model, bits, LOSSES.index(loss), *given)
        return [float(value) for value in losses]

    def read_gradient(self, name: str, to: Tensor) -> None:
        """Copies a parameter's gradient (see `sums.GivesGradients`)."""
        self._call("get", self._model, KINDS["grad"], name.encode(), place_of(to))

    def write_gradient(self, name: str, array: Tensor) -> None:
        """Overwrites a parameter's gradient (see `sums.GivesGradients`)."""
        self._call("set_gradient", self._model, name.encode(), place_of(array))

    def set_threads(self, threads: int) -> None:
        """At most so many threads run a call; 0: as many as OpenMP has."""
        self._call("set_threads", self._model, threads)


class CpuExecutable(CpuLibrary):
    """A program's emitted C++, built for this processor."""

    def __init__(self, program: Program, options: Options, seed: int = 0, sanitize: str | None = None) -> None:
        """Builds the library, or takes it from the cache, and makes a model."""
        super().__init__(program, str(build_cpu(emit_cpp(program, options), sanitize)), seed)
