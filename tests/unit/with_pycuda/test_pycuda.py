"""`runtime/cuda.py` with the true pycuda, on an emulated driver: contexts, streams, pinned memory, device arrays.

Needs pycuda (built with any driver's library, or a stub of one) and NVIDIA's headers, no device.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from knetc.errors import KnetEnvironmentError
from knetc.runtime import build, emulation

HERE = Path(__file__).parent
CASES = ["host_arrays", "sequences", "device_arrays", "outputs", "whole_sequences", "minibatches", "wrong_arrays"]
CASES += ["several"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The emulated driver, built; skips where something is missing."""
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed; tools/pack_wheels.sh builds it without a driver")
    try:
        build.cxx()
    except KnetEnvironmentError as error:
        pytest.skip(error.diagnostics[0].message)
    folders = build.nvidia_folders("include")
    for header in ("cuda.h", "cuda_runtime.h", "cudnn.h", "cublas_v2.h"):
        if not any((folder / header).is_file() for folder in folders):
            pytest.skip(f"NVIDIA's {header} is not installed")
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    # By this name it takes the place of the driver that pycuda may have been linked with.
    command = [build.cxx(), "-std=c++17", "-O1", "-fPIC", "-shared", "-Wl,-soname,libcuda.so.1", "-Wall", "-Wextra"]
    command += [f"-isystem{folder}" for folder in folders] + [str(HERE / "driver.cpp"), "-o", str(path)]
    subprocess.run([*command, str(emulation.build_library()), "-ldl"], check=True)
    return path


@pytest.mark.parametrize("asynchronous", ["eager", "lazy"])
@pytest.mark.parametrize("case", CASES)
def test_case(driver, case, asynchronous):
    env = {**os.environ, "KNETEMU_ASYNC": asynchronous, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(HERE / "emulated.py"), str(driver), case]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "done\n", done.stdout[-2000:] + done.stderr[-4000:]
