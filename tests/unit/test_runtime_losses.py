"""The losses as functions of arrays, against sums written out in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import knetc

P = np.array([[0.7, 0.2, 0.1, 0.25], [0.2, 0.5, 0.1, 0.25], [0.1, 0.3, 0.8, 0.5]])
GOLD = [0, 1, 0, 2]
DENSE = np.eye(3)[:, GOLD]


def test_quadloss_is_half_the_squared_error_of_a_column_averaged() -> None:
    expected = sum(0.5 * sum((P[i, j] - DENSE[i, j]) ** 2 for i in range(3)) for j in range(4)) / 4
    assert knetc.quadloss(P, DENSE) == pytest.approx(expected, rel=1e-14)


def test_softloss_is_the_cross_entropy() -> None:
    expected = -(math.log(0.7) + math.log(0.5) + math.log(0.1) + math.log(0.5)) / 4
    assert knetc.softloss(P, DENSE) == pytest.approx(expected, rel=1e-14)
    assert knetc.softloss(P, GOLD) == pytest.approx(expected, rel=1e-14)
    assert knetc.softloss(P, knetc.onehot(GOLD, 3)) == pytest.approx(expected, rel=1e-14)


def test_softloss_of_a_zero_probability_is_bounded_by_the_types_epsilon() -> None:
    assert knetc.softloss([[0.0], [1.0]], [[1.0], [0.0]]) == pytest.approx(-math.log(np.finfo(np.float64).eps))
    single = np.array([[0.0], [1.0]], np.float32)
    assert knetc.softloss(single, single[::-1]) == pytest.approx(-math.log(np.finfo(np.float32).eps), rel=1e-6)


def test_zeroone_is_the_share_of_wrong_columns() -> None:
    assert knetc.zeroone(P, GOLD) == 0.25
    assert knetc.zeroone(P.argmax(axis=0)[None].repeat(3, 0) * 0 + P, P) == 0


def test_masked_columns_add_nothing_and_the_average_stays_over_all() -> None:
    mask = [1, 0, 0, 1]
    assert knetc.softloss(P, GOLD, mask) == pytest.approx(-(math.log(0.7) + math.log(0.5)) / 4, rel=1e-14)
    assert knetc.zeroone(P, GOLD, mask) == 0
    assert knetc.quadloss(P, DENSE, [0] * 4) == 0
    halves = knetc.quadloss(P, DENSE, [0.5] * 4)
    assert halves == pytest.approx(knetc.quadloss(P, DENSE) / 2)


def test_arrays_of_more_dimensions_are_columns_too() -> None:
    rng = np.random.default_rng(0)
    p, y = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    assert knetc.quadloss(p, y) == pytest.approx(0.5 * np.square(p - y).sum() / 5)


ERRORS: list[tuple[Any, type[knetc.KnetError], str]] = [
    (
        lambda: knetc.quadloss(P, P[:2]),
        knetc.KnetShapeError,
        "ygold: shape (3, 4), the output's, is expected, got (2, 4)",
    ),
    (
        lambda: knetc.quadloss(P, P, [1, 1]),
        knetc.KnetShapeError,
        "mask: one number a column is expected, so shape (4,), got (2,)",
    ),
    (
        lambda: knetc.softloss(P, [0, 1, 2, 3]),
        knetc.KnetShapeError,
        "ygold: row index 3 is outside of 0 to 2 (indices count from 0)",
    ),
    (
        lambda: knetc.quadloss(P, P * np.nan),
        knetc.KnetTypeError,
        "ygold: every element must be finite, got nan at index (0, 0) (12 such elements)",
    ),
    (lambda: knetc.quadloss(P, "x"), knetc.KnetTypeError, "ygold: real numbers are expected, got an array of strings"),
    (
        lambda: knetc.quadloss(None, P),
        knetc.KnetTypeError,
        "ypred: real numbers are expected, got an array of Python objects",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors(call: Any, kind: type[knetc.KnetError], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == f"error: {text}"
