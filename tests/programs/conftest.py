"""The back ends on which every program test runs."""

from __future__ import annotations

import os

import pytest

import knetc

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(params=["numpy", "cpu", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every back end; skips those that cannot run here, with the reason."""
    if request.param in ("cpu", "emulated"):
        from knetc.runtime.build import cxx

        try:
            cxx()
        except knetc.KnetEnvironmentError as missing:
            pytest.skip(f"back end {request.param}: {missing}")
    if request.param == "cuda":
        from knetc.runtime.cuda import available

        if available() is not None:
            pytest.skip(f"back end cuda: {available()}")
        # As users have it: cuBLAS and cuDNN load what they need in a first call, which is not captured.
        monkeypatch.setenv("KNETC_GRAPHS", "1")
    return str(request.param)
