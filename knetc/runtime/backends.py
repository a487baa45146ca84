"""The back ends by name: which there are on this machine, and the executable of each.

Between `model.py` and `interp.py`, `cpu.py`, `emulated.py`, `cuda.py`; the latter three are imported only where
they are asked for.
"""

from __future__ import annotations

from knetc import log
from knetc.errors import KnetNameError
from knetc.ir.program import Program
from knetc.options import Options
from knetc.runtime.check import listing, suggestion
from knetc.runtime.executable import Executable

BACKENDS = ("auto", "numpy", "cpu", "emulated", "cuda")


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

    missing = available()
    if missing is None:
        chosen, reason = "cuda", "a device is there"
    else:
        from knetc.runtime import cpu

        lacking = cpu.available()
        chosen = "cpu" if lacking is None else "numpy"
        reason = f"cuda cannot run: {missing}" + (f"; cpu cannot run: {lacking}" if lacking else "")
    log.info(f"backend auto: {chosen}, since {reason}")
    return chosen, f"{chosen} (auto; {reason})"


def make(backend: str, program: Program, options: Options, seed: int, nccl: bool = False) -> Executable:
    """The executable of a `training` program, of emitted CUDA with `nccl` one that can join other processes.

    Raises KnetEnvironmentError where the back end cannot run here.
    """
    if backend == "cuda":
        from knetc.runtime.cuda import CudaExecutable

        return CudaExecutable(program, options, seed, nccl)
    if backend == "cpu":
        from knetc.runtime.cpu import CpuExecutable

        return CpuExecutable(program, options, seed)
    if backend == "emulated":
        from knetc.runtime.emulated import EmulatedExecutable

        return EmulatedExecutable(program, options, seed, nccl=nccl)
    from knetc.runtime.interp import Interpreter

    return Interpreter(program, seed)
