"""The back end cuda on the emulation."""

from __future__ import annotations

import pytest

from knetc.errors import KnetEnvironmentError
from knetc.runtime import build, cuda

from . import support


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend="cuda"` is the emulated back end, with device arrays of `support`."""
    try:
        build.cxx()
    except KnetEnvironmentError as missing:
        pytest.skip(str(missing))
    monkeypatch.setattr(cuda, "CudaExecutable", support.OnDevice)
    monkeypatch.setattr(cuda, "empty", support.empty)
    monkeypatch.setattr(cuda, "fetch", support.fetch)
