"""Pooling against the manual's worked figures and against plain loops."""

import numpy as np
import pytest

from knetc.ops.base import ShapeMismatch
from knetc.values import Symbol

from .support import evaluate, gradients, infer, sample

MAX = Symbol("CUDNN_POOLING_MAX")
INCLUDE = Symbol("CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING")
EXCLUDE = Symbol("CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING")


def column(*values):
    return np.reshape(np.array(values, float), (len(values), 1, 1, 1))


X = column(1, 2, 3, 4, 5, 6)


# --- the manual, "Pooling" ---


def test_manual_example_1():
    np.testing.assert_array_equal(evaluate("pool", X), column(2, 4, 6))


def test_manual_example_2_window():
    np.testing.assert_array_equal(evaluate("pool", X, window=3), column(3, 6))


def test_manual_example_3_padding():
    np.testing.assert_array_equal(evaluate("pool", X, padding=(1, 0)), column(1, 3, 5, 6))


@pytest.mark.parametrize(
    "mode,wanted", [(MAX, (1, 3, 5, 6)), (INCLUDE, (0.5, 2.5, 4.5, 3.0)), (EXCLUDE, (1.0, 2.5, 4.5, 6.0))]
)
def test_manual_three_modes(mode, wanted):
    """The manual's example is one-dimensional: a window of (2,1) on the 4-D array."""
    y = evaluate("pool", X, window=(2, 1), padding=(1, 0), mode=mode)
    np.testing.assert_array_equal(y, column(*wanted))


def test_manual_two_dimensions():
    x = np.arange(1.0, 17.0).reshape(4, 4, 1, 1, order="F")
    np.testing.assert_array_equal(evaluate("pool", x)[:, :, 0, 0], [[6, 14], [8, 16]])


CHANNELS = np.stack(
    [
        [
            [0.0235776, 0.470246, 0.829754, 0.164617],
            [0.375611, 0.884792, 0.561758, 0.955467],
            [0.00740115, 0.76617, 0.674633, 0.480402],
            [0.979588, 0.949825, 0.449385, 0.956657],
        ],
        [
            [0.254501, 0.0930295, 0.640946, 0.270479],
            [0.422195, 0.0399775, 0.387326, 0.234855],
            [0.102558, 0.589408, 0.69867, 0.498438],
            [0.823076, 0.797679, 0.695289, 0.888321],
        ],
    ],
    axis=2,
)
INSTANCES = np.stack(
    [
        [
            [0.664524, 0.581233, 0.949937, 0.563411],
            [0.760211, 0.714199, 0.985956, 0.478583],
            [0.190559, 0.682141, 0.43941, 0.682127],
            [0.701371, 0.0159724, 0.28857, 0.166187],
        ],
        [
            [0.637187, 0.279795, 0.0336316, 0.233479],
            [0.979812, 0.910836, 0.410312, 0.94062],
            [0.171724, 0.388222, 0.597548, 0.817148],
            [0.41193, 0.864101, 0.178535, 0.4956],
        ],
    ],
    axis=2,
)


def test_manual_channels():
    y = evaluate("pool", CHANNELS.reshape(4, 4, 2, 1))
    np.testing.assert_array_equal(y[:, :, 0, 0], [[0.884792, 0.955467], [0.979588, 0.956657]])
    np.testing.assert_array_equal(y[:, :, 1, 0], [[0.422195, 0.640946], [0.823076, 0.888321]])


def test_manual_instances():
    y = evaluate("pool", INSTANCES.reshape(4, 4, 1, 2))
    np.testing.assert_array_equal(y[:, :, 0, 0], [[0.760211, 0.985956], [0.701371, 0.682127]])
    np.testing.assert_array_equal(y[:, :, 0, 1], [[0.979812, 0.94062], [0.864101, 0.817148]])


# --- against loops ---


def naive(x, window, padding, stride, mode):
    """LANGUAGE.md §8 written as loops: the real elements of every window, one by one."""
    d = x.ndim - 2
    size = [1 + -((window[i] - x.shape[i] - 2 * padding[i]) // stride[i]) for i in range(d)]
    y = np.zeros((*size, *x.shape[d:]))
    for at in np.ndindex(*size):
        places = [tuple(at[i] * stride[i] - padding[i] + k[i] for i in range(d)) for k in np.ndindex(*window)]
        real = [x[s] for s in places if all(0 <= v < n for v, n in zip(s, x.shape, strict=False))]
        if real:
            total = np.sum(real, axis=0)
            y[at] = {MAX: np.max(real, axis=0), INCLUDE: total / np.prod(window), EXCLUDE: total / len(real)}[mode]
    return y


SETTINGS = [
    ((4, 6, 2, 3), (2, 2), (0, 0), (2, 2)),
    ((5, 7, 2, 3), (2, 2), (0, 0), (2, 2)),
    ((5, 7, 1, 2), (3, 2), (1, 1), (2, 3)),
    ((5, 4, 2, 1), (3, 3), (2, 0), (1, 1)),
    ((3, 3, 1, 2), (1, 1), (0, 0), (3, 2)),
    ((2, 3, 1, 1), (2, 2), (2, 3), (1, 2)),
    ((1, 1, 1, 1), (2, 2), (1, 1), (2, 2)),
    ((4, 3, 5, 2, 2), (2, 2, 2), (0, 1, 0), (2, 1, 3)),
    ((3, 4, 2, 1, 2), (3, 1, 2), (1, 0, 0), (1, 2, 2)),
]


@pytest.mark.parametrize("mode", [MAX, INCLUDE, EXCLUDE])
@pytest.mark.parametrize("x,window,padding,stride", SETTINGS)
def test_value_is_that_of_the_loops(x, window, padding, stride, mode):
    x = sample(np.random.default_rng(1), *x, low=-2, high=-1)  # so that a padding of 0 would win, were it to count
    got = evaluate("pool", x, window=window, padding=padding, stride=stride, mode=mode)
    np.testing.assert_allclose(got, naive(x, window, padding, stride, mode), rtol=1e-14)


def test_a_window_of_padding_alone_gives_0_and_no_gradient():
    y = evaluate("pool", column(-1), window=(1, 1), padding=(1, 0))
    np.testing.assert_array_equal(y, column(0, -1, 0))
    (dx,), _ = gradients("pool", [column(-1)], column(5, 7, 9), window=(1, 1), padding=(1, 0))
    np.testing.assert_array_equal(dx, column(7))


def test_the_first_maximum_in_column_major_order_takes_the_gradient():
    x = np.ones((2, 2, 1, 1))
    (dx,), _ = gradients("pool", [x], [[[[3.0]]]])
    np.testing.assert_array_equal(dx[:, :, 0, 0], [[3, 0], [0, 0]])
    x[0, 0] = 0
    (dx,), _ = gradients("pool", [x], [[[[3.0]]]])
    np.testing.assert_array_equal(dx[:, :, 0, 0], [[0, 0], [3, 0]])


def test_float32_stays_float32():
    x = sample(np.random.default_rng(4), 5, 5, 2, 3)
    for mode in (MAX, INCLUDE, EXCLUDE):
        y = evaluate("pool", x, padding=1, mode=mode, dtype=np.float32)
        evaluate("pool_back", y, x, y, dims=x.shape, padding=1, mode=mode, dtype=np.float32)


def test_sizes():
    assert infer("pool", (28, 27, 3, 100))[1] == (14, 14, 3, 100)
    assert infer("pool", (6, 5, 1, 1), window=3, stride=1, padding=(1, 0))[1] == (6, 3, 1, 1)
    assert infer("pool", (1, 1, 1, 1), window=5)[1] == (1, 1, 1, 1)
    with pytest.raises(ShapeMismatch, match="window 5 larger than padded input 3"):
        infer("pool", (1, 9, 1, 1), window=5, stride=1, padding=1)
