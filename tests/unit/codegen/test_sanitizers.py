"""The emitted code under the sanitizers, in a process that loads their libraries first; and with streams run lazily,
threads and blocks in other orders, fresh memory of other contents: the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from knetc.errors import KnetEnvironmentError
from knetc.runtime import emulation

from .support import TARGETS

SCRIPT = Path(__file__).with_name("sanitized.py")


def run(sanitize: str, target: str, *what: str, **environment: str) -> subprocess.CompletedProcess[str]:
    try:
        needed = emulation.sanitizer_environment(sanitize or None)
    except KnetEnvironmentError as error:
        pytest.skip(str(error))
    env = {**os.environ, **needed, **environment}
    return subprocess.run(
        [sys.executable, str(SCRIPT), sanitize, target, *what], env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("target", [pytest.param(t, marks=pytest.mark.deep) if t == "cpu" else t for t in TARGETS])
def test_no_access_out_of_bounds_and_no_undefined_behaviour(target):
    done = run("address,undefined", target)
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-3000:]


@pytest.mark.parametrize(
    "environment",
    [
        {"KNETEMU_ORDER": "desc", "KNETEMU_ASYNC": "lazy"},
        {"KNETEMU_ORDER": "rand:3", "KNETEMU_FILL": "0x7e"},
    ],
)
def test_any_order_of_threads_and_streams_that_run_late(environment):
    done = run("", "emulated", **environment)
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-3000:]


@pytest.mark.deep
def test_no_access_out_of_bounds_whatever_fails_in_a_whole_sequence():
    done = run("address,undefined", "emulated", "failing")
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-3000:]


@pytest.mark.deep
def test_no_races():
    done = run("thread", "emulated")
    assert done.returncode == 0 and done.stdout == "clean\n", done.stderr[-3000:]
