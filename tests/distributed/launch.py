"""Starts programs on several processes as a user does: by mpirun, or by a launcher that only sets variables."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BOTH = ("mpirun", "variables")
"""The ways to start processes."""


def mpirun() -> str:
    """The command beside this Python, or the system's; skips where there is none, or no mpi4py."""
    found = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py or an MPI is not installed: pip install 'knetc[dist]'")
    return found


def command(ranks: int, script: Path | str, *arguments: str, by: str = "mpirun") -> list[str]:
    """The command that starts a program on so many processes, however few processors there are, and as any user."""
    if by == "variables":
        return [sys.executable, str(HERE / "variables.py"), str(ranks), str(script), *arguments]
    return [
        mpirun(),
        "--allow-run-as-root",
        "--oversubscribe",
        "-n",
        str(ranks),
        sys.executable,
        str(script),
        *arguments,
    ]


def environment(by: str = "mpirun") -> dict[str, str]:
    """One thread for each process; the tests' folder can be imported from, and what can be here, but mpi4py only where
    MPI is the way.
    """
    without = str(HERE / "without_mpi") if by == "variables" else ""
    folders = os.pathsep.join(filter(None, [without, str(HERE.parent), os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": folders}


def launch(
    ranks: int, script: Path | str, *arguments: str, by: str = "mpirun", timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Runs a program on so many processes until they all have ended."""
    words = command(ranks, script, *arguments, by=by)
    return subprocess.run(words, capture_output=True, text=True, env=environment(by), timeout=timeout, check=False)
