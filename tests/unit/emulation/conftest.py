"""Builds that the tests of the emulation share: made once a session, or taken from knetc's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from knetc.runtime import build, emulation

HERE = Path(__file__).parent

Build = Callable[[str, str], Path]


@pytest.fixture(scope="session", autouse=True)
def _compiler() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the emulation runs under Linux")
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("no C++ compiler is installed")


@pytest.fixture(scope="session")
def build_file() -> Build:
    """Compiles a CUDA file of this folder under a sanitizer; `build_file(name, sanitize)`."""

    def build_one(name: str, sanitize: str) -> Path:
        source = HERE / name
        texts = source.read_text(), (HERE / "launch.h").read_text()
        options = {"sanitize": sanitize, "optimize": "-O1", "extra": ["-g"]}

        def make(output: Path) -> None:
            emulation.compile_shared(source, output, **options)  # type: ignore[arg-type]

        return build.cached((*texts, str(options), emulation.fingerprint()), ".so", make)

    return build_one


def run_python(arguments: list[str], sanitize: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with the sanitizer's runtime loaded and `variables` set."""
    environment: Mapping[str, str] = {
        **{k: v for k, v in os.environ.items() if not k.startswith("KNETEMU_")},
        "OPENBLAS_NUM_THREADS": "1",
        **emulation.sanitizer_environment(sanitize),
        **variables,
    }
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
