"""Models with state: values against plain NumPy, gradients against an unrolled computation by hand."""

from __future__ import annotations

from typing import Any

import manual
import numpy as np
import pytest

import knetc

from . import reference

EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def _compile(source: str, backend: str, **keywords: Any) -> knetc.Model:
    return knetc.compile(source, backend=backend, dtype="f64", seed=7, **keywords)


def test_rnn1_keeps_its_state_between_calls(backend: str, rng: np.random.Generator) -> None:
    net = _compile(manual.RNN1, backend, hsize=4, xsize=3)
    a, b = net.get("a"), net.get("b")
    net.set("c", rng.standard_normal((4, 1)))
    c = net.get("c")
    h = np.zeros((4, 2))
    for x in rng.standard_normal((5, 3, 2)):
        h = np.maximum(a @ x + b @ h + c, 0)
        np.testing.assert_allclose(net.forw(x), h, **EXACT)
        np.testing.assert_allclose(net.get("h"), h, **EXACT)
    assert net.state() == {"h": (4, 2)}
    net.reset(keepstate=True)
    np.testing.assert_allclose(net.forw(x), np.maximum(a @ x + b @ h + c, 0), **EXACT)
    net.reset()
    np.testing.assert_allclose(net.forw(x), np.maximum(a @ x + c, 0), **EXACT)
    net.set("h", h)
    np.testing.assert_allclose(net.forw(x), np.maximum(a @ x + b @ h + c, 0), **EXACT)


def test_rnn1_back_through_time(backend: str, rng: np.random.Generator) -> None:
    """Losses at steps 1, 2 and 4 of five; sback without ygold at the others."""
    net = _compile(manual.RNN1, backend, hsize=4, xsize=3)
    net.set("c", rng.standard_normal((4, 1)))
    a, b, c = (net.get(n) for n in "abc")
    xs, ys = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 4, 2))
    hs = [np.zeros((4, 2))]
    for x in xs:
        hs.append(np.maximum(a @ x + b @ hs[-1] + c, 0))
        np.testing.assert_allclose(net.sforw(x), hs[-1], **EXACT)
    grads = {n: np.zeros_like(net.get(n)) for n in "abc"}
    dh = np.zeros((4, 2))
    for t in reversed(range(5)):
        with_loss = t in (1, 2, 4)
        dx = net.sback(ys[t] if with_loss else None, knetc.quadloss if with_loss else None, getdx=True)
        dh = dh + ((hs[t + 1] - ys[t]) / 2 if with_loss else 0)
        d = dh * (hs[t + 1] > 0)
        grads["a"] += d @ xs[t].T
        grads["b"] += d @ hs[t].T
        grads["c"] += d.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(dx, a.T @ d, **EXACT)
        dh = b.T @ d
    for n in "abc":
        np.testing.assert_allclose(net.grad(n), grads[n], **EXACT)


CHARLM = {"embedding": 3, "hidden": 4, "nchar": 5}


def _charlm(backend: str, rng: np.random.Generator) -> tuple[knetc.Model, list[np.ndarray], list[np.ndarray]]:
    net = _compile(manual.CHARLM, backend, model="charlm", **CHARLM)
    net.sforw(np.eye(5)[:, [0, 0]])
    net.reset()
    for name, dims in net.params().items():
        net.set(name, rng.uniform(-0.7, 0.7, dims))
    symbols = rng.integers(0, 5, (7, 2))
    return net, [np.eye(5)[:, s] for s in symbols[:-1]], [np.eye(5)[:, s] for s in symbols[1:]]


def test_charlm_against_an_lstm_by_hand(backend: str, rng: np.random.Generator) -> None:
    net, xs, ys = _charlm(backend, rng)
    outs, grads = reference.charlm({n: net.get(n) for n in net.params()}, xs, ys)
    for x, out in zip(xs, outs, strict=True):
        np.testing.assert_allclose(net.sforw(x), out, **EXACT)
    for y in reversed(ys):
        net.sback(y, knetc.softloss)
    assert set(grads) == set(net.params())
    for name, grad in grads.items():
        np.testing.assert_allclose(net.grad(name), grad, **EXACT, err_msg=name)
    np.testing.assert_allclose(net.gnorm(), np.sqrt(sum((g**2).sum() for g in grads.values())), rtol=1e-10)


def test_the_lstms_forget_bias_starts_at_fbias(backend: str) -> None:
    net = _compile(manual.CHARLM, backend, model="charlm", **CHARLM)
    net.forw([0, 1], **{}) if net.params()["a/w"][1] else net.forw(knetc.onehot([0, 1], 5))
    assert (net.get("b/forget/c") == 1).all() and not net.get("b/input/c").any()


def test_sequence_calls_equal_the_single_steps(backend: str, rng: np.random.Generator) -> None:
    net, xs, ys = _charlm(backend, rng)
    mask = rng.integers(0, 2, (len(xs), 2)).astype(float)
    single = [net.sforw(x) for x in xs]
    for y, m in zip(reversed(ys), reversed(mask), strict=True):
        net.sback(y, knetc.softloss, mask=m)
    grads = {n: net.grad(n) for n in net.params()}
    forms: list[tuple[Any, Any, Any]] = [
        (xs, ys, list(mask)),
        (np.stack(xs, axis=-1), np.stack(ys, axis=-1), mask.T),
        (np.stack([x.argmax(axis=0) for x in xs], axis=-1), [y.argmax(axis=0) for y in ys], list(mask)),
    ]
    for x, y, m in forms:
        net.reset()
        got = net.forwseq(x)
        values = np.moveaxis(got, -1, 0) if isinstance(got, np.ndarray) else got
        np.testing.assert_allclose(values, single, rtol=0, atol=1e-14)  # sums in another order
        net.backseq(y, knetc.softloss, mask=m)
        for n, grad in grads.items():
            np.testing.assert_allclose(net.grad(n), grad, rtol=0, atol=1e-14)


MIXED = """
@knet function mixed(x; hidden=4, out=3)
    w = par(dims=(hidden,0))
    r = par(dims=(hidden,hidden))
    h = tanh(w * x .+ r * h)
    d = drop(h; pdrop=0.5)
    if predict
        return wb(d; out=out)
    end
end
"""


def test_conditions_change_from_step_to_step(backend: str, rng: np.random.Generator) -> None:
    """Dropout at some steps, a prediction at some, both at one; back through it against the unrolled computation."""
    net = _compile(MIXED, backend)
    settings = [{"dropout": True}, {"dropout": True, "predict": True}, {}, {"predict": True}, {"dropout": True}]
    xs, ys = rng.standard_normal((5, 2, 6)), rng.standard_normal((5, 3, 6))
    net.forw(xs[0], predict=True)
    net.set("wb/b", rng.standard_normal(net.params()["wb/b"]))
    net.reset()
    w, r, v, b = net.get("w"), net.get("r"), net.get("wb/w"), net.get("wb/b").reshape(-1, 1)
    hs, masks, outs = [np.zeros((4, 6))], [], []
    for x, setting in zip(xs, settings, strict=True):
        out = net.sforw(x, **setting)
        hs.append(np.tanh(w @ x + r @ hs[-1]))
        np.testing.assert_allclose(net.get("h"), hs[-1], **EXACT)
        masks.append(net.get("d") / hs[-1] if "dropout" in setting else np.ones((4, 6)))
        assert ("predict" in setting) == (out is not None)
        if out is not None:
            outs.append(v @ (masks[-1] * hs[-1]) + b)
            np.testing.assert_allclose(out, outs[-1], **EXACT)
    assert {float(m) for m in np.unique(np.round(masks[0], 9))} == {0.0, 2.0}
    assert not np.array_equal(masks[0], masks[1])

    grads = {"w": np.zeros_like(w), "r": np.zeros_like(r), "wb/w": np.zeros_like(v), "wb/b": np.zeros(3)}
    dh = np.zeros((4, 6))
    for t in reversed(range(5)):
        predicts = "predict" in settings[t]
        net.sback(ys[t] if predicts else None, knetc.quadloss if predicts else None)
        if predicts:
            dy = (outs.pop() - ys[t]) / 6
            grads["wb/w"] += dy @ (masks[t] * hs[t + 1]).T
            grads["wb/b"] += dy.sum(axis=1)
            dh = dh + masks[t] * (v.T @ dy)
        d = dh * (1 - hs[t + 1] ** 2)
        grads["w"] += d @ xs[t].T
        grads["r"] += d @ hs[t].T
        dh = r.T @ d
    for name, grad in grads.items():
        np.testing.assert_allclose(net.grad(name).reshape(grad.shape), grad, **EXACT, err_msg=name)


def test_a_step_that_does_not_write_the_state_passes_it_on(backend: str, rng: np.random.Generator) -> None:
    source = """
    @knet function f(x)
        w = par(dims=(3,3))
        if step
            h = tanh(w * x .+ h)
        end
        return copy(h)
    end
    """
    net = _compile(source, backend)
    w = net.get("w")
    x1, x2, x3 = rng.standard_normal((3, 3, 2))
    y = rng.standard_normal((3, 2))
    h1 = np.tanh(w @ x1)
    np.testing.assert_allclose(net.sforw(x1, step=True), h1, **EXACT)
    np.testing.assert_allclose(net.sforw(x2), h1, **EXACT)
    h3 = np.tanh(w @ x3 + h1)
    np.testing.assert_allclose(net.sforw(x3, step=True), h3, **EXACT)
    net.sback(y, knetc.quadloss)
    net.sback(y, knetc.quadloss)
    net.sback()
    d3 = (h3 - y) / 2 * (1 - h3**2)
    d1 = (d3 + (h1 - y) / 2) * (1 - h1**2)
    np.testing.assert_allclose(net.grad("w"), d3 @ x3.T + d1 @ x1.T, **EXACT)


@pytest.mark.parametrize("layer", ["lstm", "gru", "irnn"])
def test_recurrent_layers_have_true_gradients(backend: str, layer: str, rng: np.random.Generator) -> None:
    source = f"@knet function f(x)\n h = {layer}(x; out=3)\n return wb(h; out=2)\nend\n"
    net = _compile(source, backend)
    xs, ys = list(rng.standard_normal((4, 5, 3))), list(rng.standard_normal((4, 2, 3)))
    net.forwseq(xs)
    net.reset()
    for name, dims in net.params().items():
        net.set(name, rng.uniform(-0.8, 0.8, dims))
    assert net.gradcheck(xs, ys, knetc.quadloss) < 1e-6
    assert net.gradcheck(xs, [None, ys[1], None, ys[3]], knetc.quadloss) < 1e-6


def test_gradcheck_finds_a_wrong_gradient(backend: str, rng: np.random.Generator) -> None:
    """A loss whose gradient is known to be another function's: softloss's shortcut on columns that do not sum to 1."""
    net = _compile(manual.SOFTMAX, backend, model="softmax", out=3)
    x = rng.standard_normal((4, 5))
    assert net.gradcheck(x, [0, 1, 2, 1, 0], knetc.softloss) < 1e-6
    assert net.gradcheck(x, 2 * np.eye(3)[:, [0, 1, 2, 1, 0]], knetc.softloss) > 0.1


def test_a_two_layer_charlm_repeats_its_layer(backend: str, rng: np.random.Generator) -> None:
    net = _compile(manual.CHARLM, backend, model="charlm2", nlayer=2, **CHARLM)
    xs = [np.eye(5)[:, rng.integers(0, 5, 3)] for _ in range(4)]
    net.forwseq(xs)
    assert len(net.params()) == 1 + 2 * 12 + 2
    net.reset()
    for name, dims in net.params().items():
        net.set(name, rng.uniform(-0.8, 0.8, dims))
    assert net.gradcheck(xs[:-1], xs[1:], knetc.softloss) < 1e-6
