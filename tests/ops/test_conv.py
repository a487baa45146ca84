"""Convolution against the manual's worked figures and against plain loops."""

import itertools

import numpy as np
import pytest

from knetc.ops.base import ShapeMismatch
from knetc.values import Symbol

from .support import evaluate, infer, sample

FLIP, CROSS = Symbol("CUDNN_CONVOLUTION"), Symbol("CUDNN_CROSS_CORRELATION")


def column(*values):
    return np.reshape(np.array(values, float), (len(values), 1, 1, 1))


X, W = column(1, 2, 3, 4, 5, 6, 7), column(1, 2, 3)


# --- the manual, "Convolution" ---


def test_manual_convtest1():
    np.testing.assert_array_equal(evaluate("conv", W, X), column(10, 16, 22, 28, 34))


def test_manual_convtest2_padding():
    np.testing.assert_array_equal(evaluate("conv", W, X, padding=(1, 0)), column(4, 10, 16, 22, 28, 34, 32))


def test_manual_convtest3_stride():
    np.testing.assert_array_equal(evaluate("conv", W, X, padding=(1, 0), stride=3), column(4, 22, 32))


def test_manual_mode():
    """The two modes of the manual's section "Mode": third element 22 = [3,2,1]·[3,4,5], or 26 = [1,2,3]·[3,4,5]."""
    assert evaluate("conv", W, X)[2, 0, 0, 0] == 22
    y = evaluate("conv", W, X, mode=CROSS)
    np.testing.assert_array_equal(y, column(*np.correlate(X.ravel(), W.ravel())))
    assert y[2, 0, 0, 0] == 26


def test_manual_convtest4_two_dimensions():
    w = np.arange(1.0, 5.0).reshape(2, 2, 1, 1, order="F")
    x = np.arange(1.0, 10.0).reshape(3, 3, 1, 1, order="F")
    np.testing.assert_array_equal(evaluate("conv", w, x)[:, :, 0, 0], [[23, 53], [33, 63]])


def test_manual_sizes_of_three_layers():
    """256×256 RGB through 25 filters 5×5 padding 2, 50 filters 3×3 padding 1, 75 filters 3×3 padding 1, batch 128."""
    dims = (256, 256, 3, 128)
    for w, padding in (((5, 5, 3, 25), 2), ((3, 3, 25, 50), 1), ((3, 3, 50, 75), 1)):
        dims = infer("conv", w, dims, padding=padding)[1]
        assert dims == (256, 256, w[-1], 128)


def test_manual_convolution_as_matrix_product():
    """w∗x = [10,16,22,28,34] as a Y×X matrix of repeated filters, and as the windows of x as columns."""
    toeplitz = np.zeros((5, 7))
    for k in range(5):
        toeplitz[k, k : k + 3] = [3, 2, 1]
    windows = np.stack([X.ravel()[k : k + 3] for k in range(5)], axis=1)
    y = evaluate("conv", W, X).ravel()
    np.testing.assert_array_equal(y, toeplitz @ X.ravel())
    np.testing.assert_array_equal(y, [3, 2, 1] @ windows)


def test_manual_matrix_product_as_convolution():
    x = np.arange(1.0, 4.0).reshape(3, 1)
    w = np.arange(1.0, 7.0).reshape(2, 3, order="F")
    y = evaluate("dot", w, x)
    np.testing.assert_array_equal(y, [[22], [28]])
    w2 = w.T.reshape(3, 1, 1, 2, order="F")
    y2 = evaluate("conv", w2, x.reshape(3, 1, 1, 1), mode=CROSS)
    assert y2.shape == (1, 1, 2, 1)
    np.testing.assert_array_equal(y2.ravel(), [22, 28])


# --- against loops ---


def naive(w, x, padding, stride, upscale, flip):
    """The sum of LANGUAGE.md §7 and §8 written as loops."""
    d = x.ndim - 2
    y_size = [1 + (x.shape[i] + 2 * padding[i] - ((w.shape[i] - 1) * upscale[i] + 1)) // stride[i] for i in range(d)]
    y = np.zeros((*y_size, w.shape[-1], x.shape[-1]))
    for at in np.ndindex(*y_size):
        for k in np.ndindex(*w.shape[:d]):
            source = tuple(at[i] * stride[i] - padding[i] + k[i] * upscale[i] for i in range(d))
            if all(0 <= s < n for s, n in zip(source, x.shape, strict=False)):
                tap = tuple(w.shape[i] - 1 - k[i] for i in range(d)) if flip else k
                y[at] += w[tap].T @ x[source]
    return y


SETTINGS_2D = [
    (w, x, p, s, u)
    for (w, x), p, s, u in itertools.product(
        [((3, 2, 2, 3), (7, 6, 2, 2)), ((1, 1, 3, 2), (4, 5, 3, 1)), ((4, 5, 1, 1), (4, 5, 1, 3))],
        [(0, 0), (1, 2)],
        [(1, 1), (3, 2)],
        [(1, 1)],
    )
] + [((3, 2, 2, 3), (9, 7, 2, 2), (2, 1), (2, 1), (2, 3))]
SETTINGS_3D = [
    ((2, 3, 2, 2, 3), (4, 5, 3, 2, 2), (0, 0, 0), (1, 1, 1), (1, 1, 1)),
    ((2, 3, 2, 2, 3), (4, 5, 3, 2, 2), (1, 0, 2), (2, 1, 3), (1, 1, 1)),
    ((2, 2, 2, 1, 2), (5, 6, 4, 1, 2), (0, 1, 1), (1, 2, 1), (2, 1, 3)),
]


@pytest.mark.parametrize("mode", [FLIP, CROSS])
@pytest.mark.parametrize("w,x,padding,stride,upscale", SETTINGS_2D + SETTINGS_3D)
def test_value_is_the_sum_written_as_loops(w, x, padding, stride, upscale, mode):
    rng = np.random.default_rng(1)
    w, x = sample(rng, *w), sample(rng, *x)
    got = evaluate("conv", w, x, padding=padding, stride=stride, upscale=upscale, mode=mode)
    np.testing.assert_allclose(got, naive(w, x, padding, stride, upscale, mode == FLIP), rtol=1e-12, atol=1e-13)


def test_a_number_stands_for_every_dimension():
    rng = np.random.default_rng(2)
    w, x = sample(rng, 2, 2, 2, 1, 2), sample(rng, 5, 6, 5, 1, 2)
    one = evaluate("conv", w, x, padding=1, stride=2, upscale=2)
    np.testing.assert_array_equal(one, evaluate("conv", w, x, padding=(1,) * 3, stride=(2,) * 3, upscale=(2,) * 3))


def test_float32_stays_float32():
    rng = np.random.default_rng(3)
    w, x = sample(rng, 3, 3, 2, 4), sample(rng, 8, 8, 2, 5)
    y = evaluate("conv", w, x, dtype=np.float32)
    np.testing.assert_allclose(y, evaluate("conv", w, x), rtol=1e-4, atol=1e-5)
    dw = evaluate("conv_back_w", x, y, dims=w.shape, dtype=np.float32)
    dx = evaluate("conv_back_x", w, y, dims=x.shape, dtype=np.float32)
    np.testing.assert_allclose(dw, evaluate("conv_back_w", x, y, dims=w.shape), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dx, evaluate("conv_back_x", w, y, dims=x.shape), rtol=1e-4, atol=1e-4)


def test_a_filter_larger_than_its_input_is_an_error():
    with pytest.raises(ShapeMismatch, match="filter 5 larger than padded input 4") as error:
        infer("conv", (5, 1, 1, 1), (2, 1, 1, 1), padding=(1, 0))
    assert error.value.operands == (0, 1)
    with pytest.raises(ShapeMismatch, match="filter 7 larger than padded input 6"):
        infer("conv", (3, 3, 1, 1), (6, 6, 1, 1), upscale=3)
