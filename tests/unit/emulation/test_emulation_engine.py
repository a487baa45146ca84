"""The engine runs correct kernels correctly, and finds no fault in them, in every way of running."""

from __future__ import annotations

import ctypes

import pytest

from emulation import suite
from emulation.conftest import HERE, Build, run_python


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_values(build_file: Build, check) -> None:
    """Each kernel's result is NumPy's."""
    check(ctypes.CDLL(str(build_file("suite.cu", ""))))


WAYS = {
    "descending": ("", {"KNETEMU_ORDER": "desc"}),
    "random": ("", {"KNETEMU_ORDER": "rand:7"}),
    "lazy": ("", {"KNETEMU_ASYNC": "lazy", "KNETEMU_ORDER": "rand:8"}),
    "other-garbage": ("", {"KNETEMU_FILL": "0x7e"}),
    "ucontext": ("", {"KNETEMU_UCONTEXT": "1"}),
    "address": ("address,undefined", {}),
    "address-ucontext": ("address,undefined", {"KNETEMU_UCONTEXT": "1", "KNETEMU_ASYNC": "lazy"}),
    "thread": ("thread", {}),
    "thread-random": ("thread", {"KNETEMU_ORDER": "rand:3"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_clean(build_file: Build, way: str) -> None:
    """The same, with no report, whatever the order, the garbage, the stacks and the sanitizer."""
    sanitize, variables = WAYS[way]
    done = run_python([str(HERE / "suite.py"), str(build_file("suite.cu", sanitize))], sanitize, **variables)
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr
    # The sanitizer says this whenever <ucontext.h> is used.
    reports = [line for line in done.stderr.splitlines() if "doesn't fully support makecontext" not in line]
    assert reports == []
