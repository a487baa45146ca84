"""For which target a test emits code: CUDA on the emulated device, or C++ for the processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import support


@pytest.fixture(params=list(support.TARGETS), scope="module")
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every target in turn."""
    before = support.target[0]
    support.target[0] = request.param
    yield request.param
    support.target[0] = before
