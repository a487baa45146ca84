"""The commands that bring what a machine lacks, for the system that it runs: what `knetc doctor` says.

Packages are named as each system's own and NVIDIA's repositories name them (the installation guides of CUDA and of the
driver); a system that is not known here gets NVIDIA's installer, which runs on every Linux.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from pathlib import Path

from knetc.record import Record

TOOLKIT = "cuda-toolkit-13-0"
_LATER = {"debian13": "cuda-toolkit-13-1"}  # repositories that begin with another
DRIVER = "nvidia-open"
"""NVIDIA's driver, for CUDA 13 and every GPU that it supports."""
_REPOSITORIES = "https://developer.download.nvidia.com/compute/cuda/repos"
_KEYRING = "cuda-keyring_1.1-1_all.deb"
_INSTALLER = "cuda_13.0.0_580.65.06_linux"
_INSTALLERS = "https://developer.download.nvidia.com/compute/cuda/13.0.0/local_installers"
_FAMILIES = {
    "debian": "apt",
    "ubuntu": "apt",
    "fedora": "dnf",
    "rhel": "dnf",
    "centos": "dnf",
    "amzn": "dnf",
    "suse": "zypper",
    "sles": "zypper",
    "arch": "pacman",
}
# NVIDIA's repositories that have CUDA 13, and whether for ARM too.
_KNOWN = {
    "debian12": False,
    "debian13": False,
    "ubuntu2204": True,
    "ubuntu2404": True,
    "wsl-ubuntu": False,
    "fedora42": False,
    "rhel8": True,
    "rhel9": True,
    "rhel10": True,
    "amzn2023": True,
    "opensuse15": False,
    "sles15": True,
}
_UBUNTU = {"jammy": "ubuntu2204", "noble": "ubuntu2404"}  # for what is made from it
_COMPILERS = {
    "apt": "sudo apt install g++",
    "dnf": "sudo dnf install gcc-c++",
    "zypper": "sudo zypper install gcc-c++",
    "pacman": "sudo pacman -S gcc",
}
_HEADERS = {
    "apt": "sudo apt install python3-dev",
    "dnf": "sudo dnf install python3-devel",
    "zypper": "sudo zypper install python3-devel",
}


class System(Record):
    """A machine: its `kind` (`linux`, `wsl`, `darwin`, `win32`), the `manager` of its packages (`apt`, `dnf`, `zypper`,
    `pacman`, or empty), the name of NVIDIA's `repository` for it (or empty), and its `processor`.
    """

    kind: str
    manager: str = ""
    repository: str = ""
    processor: str = "x86_64"


def system(release: Path = Path("/etc/os-release")) -> System:
    """This machine; of a Linux as its `release` file names it."""
    if not sys.platform.startswith("linux"):
        return System(sys.platform)
    kind = "wsl" if "microsoft" in platform.release().lower() else "linux"
    try:
        text = release.read_text(encoding="utf-8")
    except OSError:
        text = ""
    return of_release(text, kind, platform.machine())


def of_release(text: str, kind: str = "linux", processor: str = "x86_64") -> System:
    """The system of an os-release file's text."""
    fields = dict(re.findall(r'^(ID|ID_LIKE|VERSION_ID|UBUNTU_CODENAME)="?([^"\n]*)', text, re.MULTILINE))
    own = fields.get("ID", "").replace("opensuse-leap", "opensuse")
    names = [own, *fields.get("ID_LIKE", "").split()]
    manager = next((_FAMILIES[n] for n in names if n in _FAMILIES), "")
    version = fields.get("VERSION_ID", "")
    if "ubuntu" in names:
        repository = _UBUNTU.get(fields.get("UBUNTU_CODENAME", ""), own + version.replace(".", ""))
        repository = "wsl-ubuntu" if kind == "wsl" else repository
    elif "rhel" in names or own in ("ol", "centos"):
        repository = "rhel" + version.partition(".")[0]
    else:
        repository = own + version.partition(".")[0]
    there = repository in _KNOWN and (processor == "x86_64" or (_KNOWN[repository] and processor == "aarch64"))
    return System(kind, manager, repository if there else "", processor)


# --- commands ---------------------------------------------------------------------------------------------------------


def compiler(on: System) -> str:
    """The command that brings a C++ compiler."""
    if on.kind == "darwin":
        return "xcode-select --install"
    if on.kind == "win32":
        return "wsl --install    (and knetc within it: emitted code is built under Linux)"
    return _COMPILERS.get(on.manager, "install g++ or clang++, or set CXX")


def toolkit(on: System) -> str:
    """The command that brings the CUDA toolkit: nvcc, the runtime and its header."""
    return _elsewhere(on) or _package(on, _LATER.get(on.repository, TOOLKIT), "cuda") or _installer(on, "--toolkit")


def driver(on: System) -> str:
    """The command that brings NVIDIA's driver."""
    if on.kind == "wsl":
        return "install NVIDIA's driver in Windows, https://www.nvidia.com/drivers; WSL takes it from there"
    return _elsewhere(on) or _package(on, DRIVER, DRIVER) or _installer(on, "--driver")


def pycuda(nvcc: str | None) -> str:
    """The command that installs pycuda and what else a GPU needs; pycuda is built from source, by way of `nvcc`."""
    return f"{_path(nvcc)}pip install 'knetc[cuda]'"


def pycuda_again(on: System, nvcc: str | None) -> str:
    """The command that builds pycuda anew for the CUDA toolkit and the Python that are here, past pip's cache."""
    headers = f"{_HEADERS[on.manager]} && " if on.manager in _HEADERS else ""
    return f"{headers}{_path(nvcc)}pip install --force-reinstall --no-deps --no-cache-dir --no-binary pycuda pycuda"


def _path(nvcc: str | None) -> str:
    """pycuda's build looks for nvcc on the path."""
    folder = os.path.dirname(nvcc) if nvcc else ""
    on_path = not folder or folder in os.environ.get("PATH", "").split(os.pathsep)
    return "" if on_path else f"PATH={shlex.quote(folder)}:$PATH "


def _elsewhere(on: System) -> str:
    """What to do where there is no CUDA of NVIDIA's for the system."""
    if on.kind == "darwin":
        return "there is no CUDA for macOS: backend='cpu' runs here, a GPU needs a machine with Linux"
    if on.kind == "win32":
        return "wsl --install    (and knetc within it: the GPU is used under Linux)"
    return ""


def _package(on: System, package: str, of_arch: str) -> str:
    """The command that installs a package of NVIDIA's repository, which it adds first; empty where there is none."""
    if on.manager == "pacman" and on.processor == "x86_64":
        return f"sudo pacman -S {of_arch}"  # from the system's own repository
    if not on.repository:
        return ""
    at = f"{_REPOSITORIES}/{on.repository}/{'sbsa' if on.processor == 'aarch64' else 'x86_64'}"
    file = f"{at}/cuda-{on.repository}.repo"
    if on.manager == "apt":
        add = f"wget {at}/{_KEYRING} && sudo dpkg -i {_KEYRING} && sudo apt update"
        return f"{add} && sudo apt install {package}"
    if on.manager == "zypper":
        return f"sudo zypper addrepo {file}; sudo zypper refresh && sudo zypper install {package}"
    add = f"addrepo --overwrite --from-repofile={file}" if on.repository.startswith("fedora") else f"--add-repo {file}"
    streams = package == DRIVER and on.repository in ("rhel8", "rhel9", "amzn2023")
    module = "sudo dnf module enable nvidia-driver:open-dkms && " if streams else ""
    return f"sudo dnf config-manager {add} && {module}sudo dnf install {package}"


def _installer(on: System, part: str) -> str:
    """NVIDIA's installer for every Linux."""
    name = f"{_INSTALLER}{'_sbsa' if on.processor == 'aarch64' else ''}.run"
    return f"wget {_INSTALLERS}/{name} && sudo sh {name} --silent {part}"
