"""The manual's feed-forward models on every back end: values and gradients against plain NumPy."""

from __future__ import annotations

import warnings

import manual
import numpy as np
import pytest

import knetc

from . import reference

# Float64 leaves only rounding; a back end computes in another order than NumPy.
EXACT = {"rtol": 1e-10, "atol": 1e-12}
SINGLE = {"rtol": 2e-4, "atol": 2e-6}


def _data(rows: int, columns: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)), rng.standard_normal((outputs, columns))


def test_linreg_forward_gradients_and_update(backend: str) -> None:
    net = knetc.compile(manual.LINREG, "linreg", backend=backend, dtype="f64", seed=1)
    x, y = _data(13, 6, 1)
    w, b = net.get("w"), net.get("b")
    assert w.shape == (1, 13) and np.ptp(w) > 0 and b == 0
    net.set("b", [[0.5]])
    predicted = net.forw(x)
    np.testing.assert_allclose(predicted, w @ x + 0.5, **EXACT)
    np.testing.assert_array_equal(net.get("return"), predicted)
    np.testing.assert_array_equal(net.get("x"), x)
    dx = net.back(y, knetc.quadloss, getdx=True)
    d = (predicted - y) / 6
    np.testing.assert_allclose(net.grad("w"), d @ x.T, **EXACT)
    np.testing.assert_allclose(net.grad("b"), d.sum(axis=1, keepdims=True), **EXACT)
    np.testing.assert_allclose(dx, w.T @ d, **EXACT)
    net.setp(lr=0.1)
    net.update()
    np.testing.assert_allclose(net.get("w"), w - 0.1 * (d @ x.T), **EXACT)
    np.testing.assert_allclose(net.get("b"), 0.5 - 0.1 * d.sum(axis=1, keepdims=True), **EXACT)


def test_linreg2_takes_keywords(backend: str) -> None:
    net = knetc.compile(manual.LINREG2, "linreg2", backend=backend, dtype="f64", inputs=7, outputs=3)
    assert net.params() == {"w": (3, 7), "b": (3, 1)}
    x, _ = _data(7, 4, 3)
    np.testing.assert_allclose(net.forw(x), net.get("w") @ x, **EXACT)


def test_softmax_on_images_infers_its_sizes(backend: str) -> None:
    net = knetc.compile(manual.SOFTMAX, "softmax", backend=backend, dtype="f64", seed=3)
    assert net.params() == {"z/w": (10, 0), "z/b": (10, 1)}
    x = np.random.default_rng(1).random((4, 3, 1, 5))
    gold = np.array([3, 1, 9, 0, 3])
    p = net.forw(x)
    assert net.params() == {"z/w": (10, 12), "z/b": (10, 1)}
    flat = x.reshape(12, 5, order="F")
    w, b = net.get("z/w"), net.get("z/b")
    np.testing.assert_allclose(p, reference.soft(w @ flat + b), **EXACT)
    dx = net.back(gold, knetc.softloss, getdx=0)
    d = (p - np.eye(10)[:, gold]) / 5
    np.testing.assert_allclose(net.grad("z/w"), d @ flat.T, **EXACT)
    np.testing.assert_allclose(net.grad("z/b"), d.sum(axis=1, keepdims=True), **EXACT)
    np.testing.assert_allclose(dx, (w.T @ d).reshape(x.shape, order="F"), **EXACT)


@pytest.mark.parametrize("f", ["relu", "tanh", "sigm"])
def test_mlp(backend: str, f: str) -> None:
    source = """
    @knet function mlp(x; f=:relu)
        h = wbf(x; out=5, f=f)
        g = wbf(h; out=4, f=f)
        return wbf(g; out=3, f=:soft)
    end
    """
    net = knetc.compile(source, backend=backend, dtype="f64", seed=5, f=f)
    x, _ = _data(6, 8, 3)
    gold = np.arange(8) % 3
    apply = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "sigm": reference.sigm}[f]
    slope = {"relu": lambda y: y > 0, "tanh": lambda y: 1 - y**2, "sigm": lambda y: y * (1 - y)}[f]
    p = net.forw(x)
    for name in ("h/b", "g/b", "wbf/b"):  # biases other than the zeros that they start from
        net.set(name, np.linspace(-0.3, 0.4, net.params()[name][0]).reshape(net.params()[name]))
    p = net.forw(x)
    w1, w2, w3 = net.get("h/w"), net.get("g/w"), net.get("wbf/w")
    b1, b2, b3 = (net.get(n).reshape(-1, 1) for n in ("h/b", "g/b", "wbf/b"))
    h = apply(w1 @ x + b1)
    g = apply(w2 @ h + b2)
    np.testing.assert_allclose(p, reference.soft(w3 @ g + b3), **EXACT)
    net.back(gold, knetc.softloss)
    d3 = (p - np.eye(3)[:, gold]) / 8
    d2 = (w3.T @ d3) * slope(g)
    d1 = (w2.T @ d2) * slope(h)
    for name, d, below in (("wbf", d3, g), ("g", d2, h), ("h", d1, x)):
        np.testing.assert_allclose(net.grad(f"{name}/w"), d @ below.T, **EXACT)
        np.testing.assert_allclose(net.grad(f"{name}/b").ravel(), d.sum(axis=1), **EXACT)


SMALL = {"cwin2": 3, "cout1": 3, "cout2": 4, "hidden": 6, "nclass": 5}


def _check_lenet(net: knetc.Model, x: np.ndarray, gold: np.ndarray, classes: int, tolerance: dict[str, float]) -> None:
    net.forw(x)
    rng = np.random.default_rng(9)
    for name, dims in net.params().items():
        if np.ptp(net.get(name)) == 0:
            net.set(name, rng.uniform(-0.1, 0.2, dims))
    p = net.forw(x)
    net.back(gold, knetc.softloss)
    params = [net.get(name).astype(np.float64) for name in net.params()]
    expected, grads = reference.lenet(params, x, np.eye(classes)[:, gold])
    np.testing.assert_allclose(p, expected, **tolerance)
    for name, grad in zip(net.params(), grads, strict=True):
        np.testing.assert_allclose(net.grad(name), grad, **tolerance, err_msg=name)


@pytest.mark.parametrize("model", ["lenet4", "lenet5"])
def test_small_lenet(backend: str, model: str) -> None:
    net = knetc.compile(manual.LENET_LAYERS, model, backend=backend, dtype="f64", seed=2, **SMALL)
    x = np.random.default_rng(0).random((12, 12, 1, 4))
    _check_lenet(net, x, np.array([0, 4, 2, 2]), 5, EXACT)


@pytest.mark.parametrize(("source", "model"), [(manual.LENET1, "lenet1"), (manual.LENET_LAYERS, "lenet3")])
def test_full_lenet_in_single_precision(backend: str, source: str, model: str) -> None:
    net = knetc.compile(source, model, backend=backend, seed=2)
    sizes = [(5, 5, 1, 20), (1, 1, 20, 1), (5, 5, 20, 50), (1, 1, 50, 1), (500, 800), (500, 1), (10, 500), (10, 1)]
    assert list(net.params().values()) == sizes
    x = np.random.default_rng(0).random((28, 28, 1, 2))
    _check_lenet(net, x, np.array([7, 1]), 10, SINGLE)


def test_lenet5_with_dropout_gives_the_gradient_of_what_it_computed(backend: str) -> None:
    net = knetc.compile(manual.LENET_LAYERS, "lenet5", backend=backend, dtype="f64", seed=4, **SMALL)
    x = np.random.default_rng(3).random((12, 12, 1, 6))
    gold = np.array([0, 1, 2, 3, 4, 0])
    p = net.forw(x, dropout=True)
    before, after = net.get("b"), net.get("bdrop")
    mask = np.where(before > 0, after / np.where(before > 0, before, 1), 0)
    assert set(np.unique(mask)) == {0.0, 2.0}
    net.back(gold, knetc.softloss)
    expected, grads = reference.lenet([net.get(n) for n in net.params()], x, np.eye(5)[:, gold], mask)
    np.testing.assert_allclose(p, expected, **EXACT)
    for name, grad in zip(net.params(), grads, strict=True):
        np.testing.assert_allclose(net.grad(name), grad, **EXACT, err_msg=name)


def test_a_mask_leaves_columns_out(backend: str) -> None:
    net = knetc.compile(manual.SOFTMAX, "softmax", backend=backend, dtype="f64", out=3)
    x, _ = _data(4, 5, 3)
    gold = np.array([0, 1, 2, 0, 1])
    p = net.forw(x)
    dx = net.back(gold, knetc.softloss, getdx=True, mask=[1, 0, 1, 1, 0])
    d = (p - np.eye(3)[:, gold]) / 5 * [1, 0, 1, 1, 0]
    np.testing.assert_allclose(net.grad("z/w"), d @ x.T, **EXACT)
    assert dx is not None and not dx[:, [1, 4]].any() and dx[:, [0, 2, 3]].all()


def test_back_without_a_loss_takes_the_gradient_itself(backend: str) -> None:
    net = knetc.compile(manual.LINREG2, "linreg2", backend=backend, dtype="f64", inputs=4, outputs=2)
    x, dy = _data(4, 3, 2)
    net.forw(x)
    dx = net.back(dy, getdx=[0])
    np.testing.assert_allclose(net.grad("w"), dy @ x.T, **EXACT)
    np.testing.assert_allclose(dx[0], net.get("w").T @ dy, **EXACT)
    net.back()
    assert not net.grad("w").any()


def test_softloss_of_an_output_that_is_no_soft(backend: str) -> None:
    source = "@knet function f(x)\n return sigm(wdot(x; out=3))\nend\n"
    net = knetc.compile(source, backend=backend, dtype="f64")
    x, _ = _data(4, 5, 3)
    gold = np.eye(3)[:, [0, 1, 2, 0, 1]]
    p = net.forw(x)
    net.back(gold, knetc.softloss)
    d = -gold / p / 5 * p * (1 - p)
    np.testing.assert_allclose(net.grad("wdot/w"), d @ x.T, **EXACT)


def test_one_hot_inputs_by_index_equal_the_dense_matrix(backend: str) -> None:
    source = "@knet function f(x)\n w = par(dims=(3,7))\n return w * x\nend\n"
    net = knetc.compile(source, backend=backend, dtype="f64")
    indices = np.array([6, 0, 3, 3])
    dense = net.forw(np.eye(7)[:, indices])
    np.testing.assert_array_equal(dense, net.get("w")[:, indices])
    np.testing.assert_array_equal(net.forw(indices), dense)
    np.testing.assert_array_equal(net.forw(knetc.onehot(indices, 7)), dense)


def test_one_compilation_serves_every_batch_size_and_memory_order(backend: str) -> None:
    net = knetc.compile(manual.SOFTMAX, "softmax", backend=backend, dtype="f64", out=3)
    x, _ = _data(4, 9, 3)
    whole = net.forw(x)
    for size in (1, 2, 5):
        np.testing.assert_allclose(net.forw(x[:, :size]), whole[:, :size], **EXACT)
    for same in (np.ascontiguousarray(x), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.tolist()):
        np.testing.assert_array_equal(net.forw(same), whole)


def test_built_in_operators_are_models(backend: str) -> None:
    x, _ = _data(4, 3, 2)
    net = knetc.compile(None, "wdot", backend=backend, dtype="f64", out=2)
    np.testing.assert_allclose(net.forw(x), net.get("w") @ x, **EXACT)
    rng = np.random.default_rng(5)
    w, images = rng.standard_normal((3, 2, 2, 4)), rng.standard_normal((5, 6, 2, 3))
    net = knetc.compile(None, "conv", backend=backend, dtype="f64", mode="CUDNN_CONVOLUTION")
    np.testing.assert_allclose(net.forw(w, images), reference.conv(w, images), **EXACT)
    dy = rng.standard_normal((3, 5, 4, 3))
    dw, dx = net.back(dy, getdx=True)
    for got, expected in zip((dw, dx), reference.conv_back(w, images, dy), strict=True):
        np.testing.assert_allclose(got, expected, **EXACT)


def test_overflow_and_invalid_powers_are_values_without_a_warning(backend: str) -> None:
    net = knetc.compile("@knet function f(x)\n return (x .^ 0.5) .* (x .^ 30)\nend\n", backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = net.forw(np.array([[-1.0, 4.0, 1e30]], np.float32))
    assert np.isnan(y[0, 0]) and y[0, 1] == np.float32(2.0**61) and np.isinf(y[0, 2])
