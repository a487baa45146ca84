"""Minibatches, time steps and one-hot matrices: values, no copies, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import knetc


def test_minibatches_are_consecutive_columns_and_the_last_is_smaller() -> None:
    x = np.asfortranarray(np.arange(2 * 3 * 7, dtype=np.float32).reshape(2, 3, 7))
    y = np.arange(7.0).reshape(1, 7)
    data = knetc.minibatch(x, y, 3)
    assert len(data) == 3
    assert [b.shape for _, b in data] == [(1, 3), (1, 3), (1, 1)]
    for i, (xb, yb) in enumerate(data):
        np.testing.assert_array_equal(xb, x[:, :, 3 * i : 3 * i + 3])
        np.testing.assert_array_equal(yb, y[:, 3 * i : 3 * i + 3])
    np.testing.assert_array_equal(data[-1][0], x[:, :, 6:])
    assert [xb.shape[-1] for xb, _ in data[1:]] == [3, 1]
    with pytest.raises(IndexError):
        data[3]


def test_minibatches_are_views() -> None:
    x = np.zeros((2, 6), np.float32, order="F")
    data = knetc.minibatch(x, np.zeros(6, int), 2)
    assert all(np.shares_memory(xb, x) and xb.flags.f_contiguous for xb, _ in data)
    x[:, 2] = 5
    assert data[1][0][0, 0] == 5


def test_minibatches_of_one_hot_indices() -> None:
    labels = np.array([0, 2, 1, 2, 0])
    data = knetc.minibatch(np.ones((2, 5)), knetc.onehot(labels, 3), 2)
    np.testing.assert_array_equal(np.asarray(data[1][1]), [[0, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(knetc.minibatch(np.ones((2, 5)), labels, 2)[2][1], [0])


def test_minibatches_of_several_inputs_have_a_tuple() -> None:
    x, z, y = np.arange(14.0).reshape(2, 7), knetc.onehot([0, 2, 1, 2, 0, 1, 1], 3), np.arange(7.0).reshape(1, 7)
    data = knetc.minibatch((x, z), y, 3)
    assert len(data) == 3 and [yb.shape for _, yb in data] == [(1, 3), (1, 3), (1, 1)]
    for i, (given, _) in enumerate(data):
        assert isinstance(given, tuple)
        np.testing.assert_array_equal(given[0], x[:, 3 * i : 3 * i + 3])
        np.testing.assert_array_equal(np.asarray(given[1]), np.asarray(z)[:, 3 * i : 3 * i + 3])
    assert np.shares_memory(data[0][0][0], x)


def test_seqbatch_is_the_manuals_table() -> None:
    """Column b of step t is symbol t + b·T of the text (lesson 10)."""
    text, size = "abcacbabca", 3
    rows = {"a": 0, "b": 1, "c": 2}
    data = knetc.seqbatch(text, rows, size)
    steps = len(text) // size
    assert len(data) == steps == 3
    for t in range(steps):
        dense = np.zeros((3, size), np.float32)
        for b in range(size):
            dense[rows[text[t + b * steps]], b] = 1
        np.testing.assert_array_equal(np.asarray(data[t]), dense)
    np.testing.assert_array_equal(np.asarray(data[-1]), np.asarray(data[2]))


def test_one_hot_equals_the_dense_matrix() -> None:
    hot = knetc.onehot([2, 0, 1, 2], 4)
    assert hot.shape == (4, 4)
    np.testing.assert_array_equal(np.asarray(hot), np.eye(4)[:, [2, 0, 1, 2]])
    assert hot.dense(np.float64).flags.f_contiguous


ERRORS: list[tuple[Any, type[knetc.KnetError], str]] = [
    (
        lambda: knetc.onehot([0, 3], 3),
        knetc.KnetShapeError,
        "onehot: row index 3 is outside of 0 to 2 (indices count from 0)",
    ),
    (
        lambda: knetc.onehot([-1, 0], 3),
        knetc.KnetShapeError,
        "onehot: row index -1 is outside of 0 to 2 (indices count from 0)",
    ),
    (lambda: knetc.onehot([0.5], 3), knetc.KnetTypeError, "onehot: row indices are integers, got an array of float64"),
    (
        lambda: knetc.onehot([[0]], 3),
        knetc.KnetShapeError,
        "onehot: row indices are a vector, one a column, got shape (1, 1)",
    ),
    (lambda: knetc.onehot([0], 0), knetc.KnetTypeError, "onehot: the number of rows is a positive integer, got 0"),
    (
        lambda: knetc.minibatch(np.ones((2, 3)), np.ones((1, 4)), 2),
        knetc.KnetShapeError,
        "minibatch: x has 3 columns and y has 4",
    ),
    (
        lambda: knetc.minibatch((np.ones((2, 4)), np.ones((2, 3))), np.ones((1, 4)), 2),
        knetc.KnetShapeError,
        "minibatch: x[1] has 3 columns and y has 4",
    ),
    (
        lambda: knetc.minibatch((), np.ones((1, 4)), 2),
        knetc.KnetShapeError,
        "minibatch: x is a tuple without an input",
    ),
    (
        lambda: knetc.minibatch(np.ones((2, 3)), np.ones((1, 3)), 0),
        knetc.KnetTypeError,
        "the batch size is a positive integer, got 0",
    ),
    (
        lambda: knetc.minibatch(np.ones((2, 3)), np.ones((1, 3)), 1.5),
        knetc.KnetTypeError,
        "the batch size is a positive integer, got 1.5",
    ),
    (
        lambda: knetc.minibatch(3.0, np.ones(3), 1),
        knetc.KnetShapeError,
        "minibatch: x and y are arrays with the columns along the last dimension",
    ),
    (
        lambda: knetc.seqbatch("abx", {"a": 0, "b": 1}, 1),
        knetc.KnetNameError,
        "seqbatch: the dictionary has no entry for 'x'",
    ),
    (
        lambda: knetc.seqbatch("ab", {"a": 1, "b": 2}, 1),
        knetc.KnetShapeError,
        "seqbatch: row index 2 is outside of 0 to 1 (indices count from 0)",
    ),
    (
        lambda: knetc.seqbatch("ab", {"a": 0, "b": 1}, 3),
        knetc.KnetShapeError,
        "seqbatch: 2 symbols do not fill 3 columns",
    ),
    (
        lambda: knetc.seqbatch("ab", {"a": 0, "b": 1.5}, 1),
        knetc.KnetTypeError,
        "seqbatch: the dictionary gives each symbol an integer",
    ),
    (
        lambda: knetc.seqbatch("ab", {"a": 0, "b": "x"}, 1),
        knetc.KnetTypeError,
        "seqbatch: the dictionary gives each symbol an integer",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors(call: Any, kind: type[knetc.KnetError], text: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == f"error: {text}"
