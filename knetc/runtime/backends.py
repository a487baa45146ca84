"""The back ends by name: which there are on this machine, and the executable of each.

Between `model.py` and `interp.py`, `cpu.py`, `cuda.py`; the latter two are imported only where they are asked for.
"""

from __future__ import annotations

from knetc import log
from knetc.errors import KnetNameError
from knetc.ir.program import Program
from knetc.options import Options
from knetc.runtime.check import listing, suggestion
from knetc.runtime.executable import Executable

BACKENDS = ("auto", "numpy", "cpu", "cuda")


def choose(backend: str) -> tuple[str, str]:
    """The back end that `auto` stands for here, or the one named; and the same with the reason for a choice of ours.

    Raises KnetNameError for an unknown name.
    """
    if backend not in BACKENDS:
        raise KnetNameError(
            f"there is no back end {backend!r} (there are {listing(BACKENDS)}){suggestion(str(backend), BACKENDS)}"
        )
    if backend != "auto":
        return backend, backend
    from knetc.runtime.cuda import available

    # Without a GPU the interpreter is faster than the emitted code on the emulated device.
    missing = available()
    chosen, reason = ("cuda", "a device is there") if missing is None else ("numpy", f"cuda cannot run: {missing}")
    log.info(f"backend auto: {chosen}, since {reason}")
    return chosen, f"{chosen} (auto; {reason})"


def make(backend: str, program: Program, options: Options, seed: int) -> Executable:
    """The executable of a `training` program. Raises KnetEnvironmentError where the back end cannot run here."""
    if backend == "cuda":
        from knetc.runtime.cuda import CudaExecutable

        return CudaExecutable(program, options, seed)
    if backend == "cpu":
        from knetc.runtime.cpu import CpuExecutable

        return CpuExecutable(program, options, seed)
    from knetc.runtime.interp import Interpreter

    return Interpreter(program, seed)
