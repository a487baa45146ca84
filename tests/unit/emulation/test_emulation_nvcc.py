"""The same source built by nvcc: its host code runs here, with the kernels of a twin that the C++ compiler built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emulation.conftest import HERE, Build, run_python
from knetc.runtime import emulation

pytestmark = pytest.mark.nvcc


@pytest.fixture(scope="module")
def nvcc() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not installed")
    return found


def test_host_code_of_nvcc(nvcc: str, build_file: Build, tmp_path: Path) -> None:
    """Every value of the suite, through nvcc's own registration and launches."""
    twin, made = build_file("suite.cu", ""), tmp_path / "suite_nvcc.so"
    # Linked with the emulation in place of the CUDA runtime.
    command = [nvcc, "-std=c++17", "-arch=sm_80", "-cudart", "none", "-shared", "-Xcompiler", "-fPIC", "-o", str(made),
               str(HERE / "suite.cu"), "-Xlinker", str(emulation.build_library())]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    done = run_python([str(HERE / "suite.py"), str(made)], KNETEMU_KERNELS=str(twin))
    assert (done.returncode, done.stdout, done.stderr) == (0, "clean\n", ""), done.stderr


def test_without_a_twin(nvcc: str, tmp_path: Path) -> None:
    """A library of nvcc's that is loaded without one is stopped with the reason."""
    source, made = tmp_path / "one.cu", tmp_path / "one.so"
    source.write_text('extern "C" __global__ void nothing() {}\n')
    command = [nvcc, "-arch=sm_80", "-cudart", "none", "-shared", "-Xcompiler", "-fPIC", "-o", str(made), str(source),
               "-Xlinker", str(emulation.build_library())]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    done = run_python(["-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(made)])
    assert done.returncode != 0
    assert "KNETEMU_KERNELS must name a library with the kernels" in done.stderr
