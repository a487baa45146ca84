"""`knetc doctor`: what is there and where; for each thing missing the command that brings it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knetc import cli, doctor, installing
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


DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n'
UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nUBUNTU_CODENAME=noble\n'
AT = "https://developer.download.nvidia.com/compute/cuda"
KEYRING = "cuda-keyring_1.1-1_all.deb"
RUN = "cuda_13.0.0_580.65.06_linux"
# A system's os-release, kind and processor; the commands that bring its compiler, the toolkit and the driver.
SYSTEMS = [
    (
        *(DEBIAN, "linux", "x86_64"),
        "sudo apt install g++",
        f"wget {AT}/repos/debian12/x86_64/{KEYRING} && sudo dpkg -i {KEYRING} && sudo apt update && "
        "sudo apt install cuda-toolkit-13-0",
        "sudo apt update && sudo apt install nvidia-open",
    ),
    (
        *('ID=debian\nVERSION_ID="13"\n', "linux", "x86_64"),
        "sudo apt install g++",
        "sudo apt install cuda-toolkit-13-1",
        "sudo apt install nvidia-open",
    ),
    (
        *(UBUNTU, "linux", "aarch64"),
        "sudo apt install g++",
        f"wget {AT}/repos/ubuntu2404/sbsa/{KEYRING} && ",
        "sudo apt install nvidia-open",
    ),
    (
        *('ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="21.3"\nUBUNTU_CODENAME=jammy\n', "linux", "x86_64"),
        "sudo apt install g++",
        f"wget {AT}/repos/ubuntu2204/x86_64/{KEYRING} && ",
        "sudo apt install nvidia-open",
    ),
    (
        *(UBUNTU, "wsl", "x86_64"),
        "sudo apt install g++",
        f"wget {AT}/repos/wsl-ubuntu/x86_64/{KEYRING} && ",
        "install NVIDIA's driver in Windows",
    ),
    (
        *("ID=fedora\nVERSION_ID=42\n", "linux", "x86_64"),
        "sudo dnf install gcc-c++",
        f"sudo dnf config-manager addrepo --overwrite --from-repofile={AT}/repos/fedora42/x86_64/cuda-fedora42.repo && "
        "sudo dnf install cuda-toolkit-13-0",
        " && sudo dnf install nvidia-open",
    ),
    (
        *('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n', "linux", "x86_64"),
        "sudo dnf install gcc-c++",
        f"sudo dnf config-manager --add-repo {AT}/repos/rhel9/x86_64/cuda-rhel9.repo && "
        "sudo dnf install cuda-toolkit-13-0",
        " && sudo dnf module enable nvidia-driver:open-dkms && sudo dnf install nvidia-open",
    ),
    (
        *('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="10.0"\n', "linux", "aarch64"),
        "sudo dnf install gcc-c++",
        f"sudo dnf config-manager --add-repo {AT}/repos/rhel10/sbsa/cuda-rhel10.repo && ",
        "cuda-rhel10.repo && sudo dnf install nvidia-open",
    ),
    (
        *('ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"\n', "linux", "x86_64"),
        "sudo dnf install gcc-c++",
        f"--add-repo {AT}/repos/amzn2023/x86_64/cuda-amzn2023.repo && ",
        "nvidia-driver:open-dkms && sudo dnf install nvidia-open",
    ),
    (
        *('ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\n', "linux", "x86_64"),
        "sudo zypper install gcc-c++",
        f"sudo zypper addrepo {AT}/repos/opensuse15/x86_64/cuda-opensuse15.repo; sudo zypper refresh && "
        "sudo zypper install cuda-toolkit-13-0",
        "sudo zypper install nvidia-open",
    ),
    (
        *('ID="sles"\nID_LIKE="suse"\nVERSION_ID="15.7"\n', "linux", "x86_64"),
        "sudo zypper install gcc-c++",
        f"sudo zypper addrepo {AT}/repos/sles15/x86_64/cuda-sles15.repo; ",
        "sudo zypper install nvidia-open",
    ),
    (
        *("ID=manjaro\nID_LIKE=arch\n", "linux", "x86_64"),
        "sudo pacman -S gcc",
        "sudo pacman -S cuda",
        "sudo pacman -S nvidia-open",
    ),
    (
        *('ID=opensuse-tumbleweed\nID_LIKE="opensuse suse"\nVERSION_ID="20260101"\n', "linux", "x86_64"),
        "sudo zypper install gcc-c++",
        f"wget {AT}/13.0.0/local_installers/{RUN}.run && sudo sh {RUN}.run --silent --toolkit",
        f"sudo sh {RUN}.run --silent --driver",
    ),
    (
        *("", "linux", "aarch64"),
        "install g++ or clang++, or set CXX",
        f"wget {AT}/13.0.0/local_installers/{RUN}_sbsa.run && sudo sh {RUN}_sbsa.run --silent --toolkit",
        f"sudo sh {RUN}_sbsa.run --silent --driver",
    ),
    (
        *(None, "darwin", ""),
        "xcode-select --install",
        "there is no CUDA for macOS: backend='cpu' runs here",
        "there is no CUDA for macOS",
    ),
    (*(None, "win32", ""), "wsl --install", "wsl --install", "wsl --install"),
]


@pytest.mark.parametrize("release,kind,processor,compiler,toolkit,driver", SYSTEMS)
def test_where_nothing_is_there(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    release: str | None,
    kind: str,
    processor: str,
    compiler: str,
    toolkit: str,
    driver: str,
) -> None:
    """Every thing is missing, and each but the device and the back ends has its command."""

    def missing(*_: object) -> None:
        raise KnetEnvironmentError("it was not found: get it")

    there = installing.System(kind) if release is None else installing.of_release(release, kind, processor)
    for name in ("cxx", "nvcc", "library"):
        monkeypatch.setattr(build, name, missing)
    monkeypatch.setattr(installing, "system", lambda: there)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: missing_library())
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    for back_end in (cuda, cpu):
        back_end.available.cache_clear()
    code, found = report(capsys)
    for back_end in (cuda, cpu):
        back_end.available.cache_clear()
    assert code == 3
    commands = {name: lines[1].removeprefix("what to do: ") for name, lines in found.items() if len(lines) > 1}
    assert commands["C++ compiler"].startswith(compiler)
    assert toolkit in commands["nvcc"] and commands["CUDA runtime"] == commands["nvcc"]
    assert driver in commands["NVIDIA driver"]
    assert commands["pycuda"] == "pip install 'knetc[cuda]'"
    assert "pip install 'nvidia-cublas>=13,<14'" == commands["cuBLAS"] == commands["cuBLASLt"]
    assert commands["cuDNN"] == "pip install 'nvidia-cudnn-cu13>=9.10'"
    assert "missing" in found["back end cpu"][0] and "pycuda is not installed" in found["back end cuda"][0]


@pytest.mark.parametrize(
    "error,command",
    [
        (ImportError("libcuda.so.1: cannot open shared object file"), "sudo apt install nvidia-open"),
        (
            ImportError("libcurand.so.10: cannot open shared object file: No such file or directory"),
            "sudo apt install python3-dev && PATH=/opt/toolkit/bin:$PATH pip install --force-reinstall --no-deps "
            "--no-cache-dir --no-binary pycuda pycuda",
        ),
        (RuntimeError("cuInit failed: no CUDA-capable device is detected"), ""),
        (RuntimeError("cuInit failed: system has unsupported driver combination"), "sudo apt install nvidia-open"),
    ],
)
def test_pycuda_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, error: Exception, command: str) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(installing, "system", lambda: installing.of_release(DEBIAN))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "2026.1")
    monkeypatch.setattr(build, "nvcc", lambda: "/opt/toolkit/bin/nvcc")
    monkeypatch.setattr(cuda, "driver", broken)
    (found,) = doctor._pycuda()
    assert found.text == f"2026.1 is installed and cannot be used: {error}"
    assert found.command.endswith(command) if command else not found.command
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (found,) = doctor._pycuda()
    assert found.command == "PATH=/opt/toolkit/bin:$PATH pip install 'knetc[cuda]'"


@pytest.mark.parametrize(
    "version,count,visible,lacks",
    [(12020, 1, None, "NVIDIA driver"), (13000, 0, "7", "device"), (13010, 0, None, "device"), (13000, 1, None, "")],
)
def test_a_driver_that_is_there(
    monkeypatch: pytest.MonkeyPatch, version: int, count: int, visible: str | None, lacks: str
) -> None:
    """One that is too old for CUDA 13, and devices that it sees or not."""

    class Driver:
        def __getattr__(self, name: str) -> Callable[..., int]:
            values = {"cuDriverGetVersion": version, "cuDeviceGetCount": count, "cuDeviceGetAttribute": 9}

            def call(place: Any, *_: object) -> int:
                if name in values:
                    place._obj.value = values[name]
                return 0

            return call

    monkeypatch.setattr(installing, "system", lambda: installing.of_release(DEBIAN))
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda name: Driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = {f.name: f for f in doctor._driver()}
    assert [f.name for f in found.values() if not f.found] == ([lacks] if lacks else [])
    if lacks == "NVIDIA driver":
        assert found[lacks].text == "for CUDA up to 12.2, 13.0 is needed" and "nvidia-open" in found[lacks].command
    if lacks == "device":
        assert found[lacks].command == ("unset CUDA_VISIBLE_DEVICES" if visible else "")


def test_this_system(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text(DEBIAN)
    found = installing.system(path)
    if sys.platform.startswith("linux"):
        assert found.manager == "apt" and found.kind in ("linux", "wsl")
        assert installing.system(tmp_path / "none").manager == ""


def missing_library() -> None:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "knetc.cli", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3) and done.stdout.startswith("knetc 0.") and done.stderr == ""
