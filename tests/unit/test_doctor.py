"""`knetc doctor`: what is there and where; for each thing missing the command that brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from knetc import cli, doctor
from knetc.errors import KnetEnvironmentError
from knetc.runtime import build, cpu, cuda


def report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[str]]]:
    """The exit code, and the lines of each finding by its name."""
    code = cli.main(["doctor"])
    found: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines()[1:]:
        name = line.split("  ")[0]
        if name:
            found[name] = []
        found[list(found)[-1]].append(line.strip())
    return code, found


def test_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = report(capsys)
    assert {"C++ compiler", "NVIDIA driver", "nvcc", "CUDA runtime", "cuBLAS", "cuDNN", "pycuda"} <= found.keys()
    assert code == (3 if any("  missing  " in lines[0] for lines in found.values()) else 0)
    cuda.available.cache_clear()
    assert ("missing" in found["back end cuda"][0]) == (cuda.available() is not None)
    assert found["back end numpy"][0].split()[3] == "ok"
    assert "Traceback" not in str(found)


@pytest.mark.parametrize("system,compiler", [("debian", "sudo apt install g++"), ("", "install g++ or clang++")])
def test_where_nothing_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], system: str, compiler: str
) -> None:
    """Every thing is missing, and each but the device and the back ends has its command."""

    def missing(*_: object) -> None:
        raise KnetEnvironmentError("it was not found: get it")

    for name in ("cxx", "nvcc", "library"):
        monkeypatch.setattr(build, name, missing)
    monkeypatch.setattr(doctor, "_system", lambda: system)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: missing_library())
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    for back_end in (cuda, cpu):
        back_end.available.cache_clear()
    code, found = report(capsys)
    for back_end in (cuda, cpu):
        back_end.available.cache_clear()
    assert code == 3
    commands = {name: lines[1] for name, lines in found.items() if len(lines) > 1}
    assert compiler in commands["C++ compiler"]
    assert "pip install 'knetc[cuda]'" in commands["pycuda"]
    assert "cuda-toolkit-13-0" in commands["nvcc"] and "pip install 'nvidia-cudnn-cu13" in commands["cuDNN"]
    assert {"NVIDIA driver", "cuBLAS", "CUDA runtime"} <= commands.keys()
    assert "missing" in found["back end cpu"][0] and "pycuda is not installed" in found["back end cuda"][0]


def missing_library() -> None:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "knetc.cli", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3) and done.stdout.startswith("knetc 0.") and done.stderr == ""
