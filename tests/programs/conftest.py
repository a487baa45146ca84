"""The back ends on which every program test runs."""

from __future__ import annotations

import os

import pytest

import knetc

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(params=["numpy", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every back end that runs without a GPU."""
    if request.param == "cpu":
        from knetc.runtime.build import cxx

        try:
            cxx()
        except knetc.KnetEnvironmentError as missing:
            pytest.skip(f"back end cpu: {missing}")
    return str(request.param)
