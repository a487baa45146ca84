"""The cuda back end where there is no device: an error that says what is missing, never another back end in silence."""

from __future__ import annotations

import pytest

from knetc.errors import KnetEnvironmentError
from knetc.ir.types import N
from knetc.runtime import cuda

from .support import compiled


def test_asked_for_by_name():
    missing = cuda.available()
    if missing is None:
        pytest.skip("this machine has a device")
    program, options = compiled("@knet function f(x)\n return relu(x)\nend", inputs=((4, N),))
    with pytest.raises(KnetEnvironmentError, match="the cuda back end cannot run here: "):
        cuda.CudaExecutable(program, options)


def test_without_pycuda(monkeypatch):
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    cuda.available.cache_clear()
    assert cuda.available() == "pycuda is not installed: pip install 'knetc[cuda]'"
    monkeypatch.undo()
    cuda.available.cache_clear()
