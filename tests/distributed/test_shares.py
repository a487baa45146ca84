"""Whose columns are whose, and that what is drawn for a column does not depend on who computes it."""

from __future__ import annotations

import numpy as np
import pytest

import knetc
from knetc.runtime.ranks import apart, digest, numbered
from knetc.runtime.shares import LINE, Share, aligned

NOISE = """
@knet function noise(x)
    n = rnd(init=Gaussian(0, 1))
    b = rnd(init=Bernoulli(0.5, 2))
    g = rnd(dims=(3,1), init=Uniform(0, 1))
    return (x .+ n) .* b .+ g
end
"""


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("whole", [1, 2, 3, 37, 100])
def test_shares_cover_all_columns_once(size: int, whole: int) -> None:
    shares = [Share.of(rank, size, whole) for rank in range(size)]
    mine = [c for s in shares if not s.idle for c in range(s.first, s.stop)]
    assert mine == list(range(whole))
    widths = [s.stop - s.first for s in shares if not s.idle]
    assert max(widths) - min(widths) <= 1
    assert sum(s.weight for s in shares) == pytest.approx(1)
    assert all((s.first, s.stop, s.weight) == (0, 1, 0) for s in shares if s.idle)
    assert [Share.of(rank, size, whole, split=False).weight for rank in range(size)] == [1] + [0] * (size - 1)


def test_a_share_of_several_steps_has_its_columns_of_each() -> None:
    x = np.asfortranarray(np.arange(2 * 5 * 3).reshape(2, 15))
    own = Share.of(1, 2, 5).own(x, 3)
    np.testing.assert_array_equal(own, x[:, [3, 4, 8, 9, 13, 14]])
    np.testing.assert_array_equal(Share.of(1, 2, 5).own(x[0], 3), x[0, [3, 4, 8, 9, 13, 14]])


def test_every_share_begins_at_a_full_line() -> None:
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32))
    for first in range(5):
        part = aligned(x[:, first:])
        assert part.ctypes.data % LINE == 0 and part.flags.f_contiguous
        np.testing.assert_array_equal(part, x[:, first:])
        assert aligned(part) is part


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_a_column_has_the_noise_of_its_place_in_the_minibatch(backend: str) -> None:
    x = np.zeros((3, 8))
    whole = knetc.compile(NOISE, backend=backend, seed=5)
    part = knetc.compile(NOISE, backend=backend, seed=5)
    wanted = whole.forw(x)
    part._engine.confirm(part._engine.fitting([np.asfortranarray(x, np.float32)]))
    part._engine.device().take_columns(3, 8)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(part.forw(x[:, 3:6]), wanted[:, 3:6])


def test_ranks_are_told_in_few_words() -> None:
    assert numbered([2]) == "rank 2" and numbered([0, 1]) == "ranks 0, 1"
    assert apart(["a", "b", "a"]) == "ranks 0, 2: a; rank 1: b"
    assert len(digest("x")) == 16
