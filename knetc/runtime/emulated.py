"""The emitted CUDA on the processor: built by the C++ compiler, its kernels run by the emulation of the device.

Before: a `training` program. After: `model.Model`, which drives it like the interpreter. This is slow, and
true to what runs on a device: the same file, the same launches, the same buffers. It is there for the tests.
"""

from __future__ import annotations

from pathlib import Path

from knetc.codegen.emit import emit_cuda
from knetc.ir.program import Program
from knetc.options import Options
from knetc.runtime import build, emulation
from knetc.runtime.library import Library
from knetc.runtime.nccl import Communicator, communicator


def build_emulated(source: str, sanitize: str | None = None, nccl: bool = False) -> Path:
    """The shared library of an emitted source, from the cache or made now. `sanitize` as the compiler's -fsanitize=,
    `nccl`: with the function that gives a model a communicator.

    Raises KnetEnvironmentError where there is no C++ compiler.
    """
    key = (source, build.version(build.cxx()), str(sanitize), str(nccl), emulation.fingerprint())

    def make(output: Path) -> None:
        text = output.with_suffix(".cu")
        text.write_text(source, encoding="utf-8")
        try:
            emulation.compile_shared(text, output, sanitize=sanitize, extra=(build.WITH_NCCL,) if nccl else ())
        finally:
            text.unlink()

    return build.cached(key, ".so", make, "library for the emulation")


class EmulatedExecutable(Library):
    """A program's emitted CUDA on the processor (see `executable.Executable`)."""

    def __init__(
        self, program: Program, options: Options, seed: int = 0, sanitize: str | None = None, nccl: bool = False
    ) -> None:
        """Builds the library, or takes it from the cache, and makes a model."""
        super().__init__(program, str(build_emulated(emit_cuda(program, options), sanitize, nccl)), seed)

    def communicator(self) -> Communicator:
        """That of the look-alike, among processes of this machine."""
        return communicator(emulation.build_library())
