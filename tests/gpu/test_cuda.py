"""The cuda back end on a real device, against the interpreter. Skipped, with the reason, where there is none."""

from __future__ import annotations

import numpy as np
import pytest

import knetc
from knetc.runtime import cuda

pytestmark = pytest.mark.gpu

LENET = """
@knet function lenet(x)
    c = cbfp(x; out=6, f=:relu, cwindow=5, pwindow=2)
    d = drop(cbfp(c; out=8, f=:tanh, cwindow=3, pwindow=3); pdrop=0.3)
    return wbf(d; out=10, f=:soft)
end
"""


RANDOM = """
@knet function f(x)
    w = par(init=Gaussian(0, 1), dims=(300, 0))
    return (w * x) .* rnd(init=Bernoulli(0.5, 2))
end
"""


@pytest.fixture(autouse=True)
def device():
    if cuda.available() is not None:
        pytest.skip(f"no device to test on: {cuda.available()}")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_training_agrees_with_the_interpreter(dtype):
    r = np.random.default_rng(0)
    real = np.float32 if dtype == "f32" else np.float64
    nets = [knetc.compile(LENET, "lenet", backend=b, dtype=dtype, seed=3) for b in ("cuda", "numpy")]
    tight = {"rtol": 2e-4, "atol": 2e-5} if dtype == "f32" else {"rtol": 1e-9, "atol": 1e-11}
    for step, batch in enumerate((8, 32, 5)):
        x = np.asfortranarray(r.random((28, 28, 1, batch)), real)
        gold = np.zeros((10, batch), real, order="F")
        gold[r.integers(0, 10, batch), np.arange(batch)] = 1
        values = [net.forw(x, dropout=bool(step % 2)) for net in nets]
        np.testing.assert_allclose(*values, **tight)
        gradients = [net.back(gold, knetc.softloss, getdx=True) for net in nets]
        np.testing.assert_allclose(np.asarray(gradients[0]), np.asarray(gradients[1]), **tight)
        for net in nets:
            net.setp(lr=0.1, momentum=0.9)
            net.update(gclip=1.0)
    for name in nets[0].params():
        np.testing.assert_allclose(*(net.get(name) for net in nets), **tight)


LSTM = """
@knet function charlm(x)
    h = drop(lstm(wdot(x; out=8); out=12); pdrop=0.3)
    if predict
        return wbf(h; out=5, f=:soft)
    end
end
"""


def test_sequences_agree_with_the_interpreter():
    r = np.random.default_rng(1)
    nets = [knetc.compile(LSTM, "charlm", backend=b, seed=3) for b in ("cuda", "numpy")]
    tight = {"rtol": 2e-4, "atol": 2e-5}
    for batch, keep in ((4, True), (4, False), (33, False)):
        xs = [np.asfortranarray(np.eye(5, dtype=np.float32)[:, r.integers(0, 5, batch)]) for _ in range(6)]
        for t, x in enumerate(xs):
            setting = {"dropout": t % 2 == 0, "predict": t > 2}
            values = [net.sforw(x, **setting) for net in nets]
            if t > 2:
                np.testing.assert_allclose(*values, **tight)
        for t in reversed(range(6)):
            for net in nets:
                net.sback(xs[t] if t > 2 else None, knetc.softloss if t > 2 else None)
        for net in nets:
            net.setp(adam=True, lr=0.01)
            net.update(gclip=1.0)
            net.reset(keepstate=keep)
        for name in nets[0].params():
            np.testing.assert_allclose(*(net.get(name) for net in nets), **tight)


def test_random_numbers_are_equal_to_the_bit():
    nets = [knetc.compile(RANDOM, "f", backend=b, seed=9) for b in ("cuda", "numpy")]
    x = np.ones((100, 7), np.float32, order="F")
    masks = [net.forw(x) == 0 for net in nets]
    assert np.array_equal(*masks)
    assert np.array_equal(*(net.get("w") for net in nets))


def test_the_same_bits_again():
    x = np.asfortranarray(np.random.default_rng(1).random((28, 28, 1, 16)), np.float32)
    gold = np.zeros((10, 16), np.float32, order="F")
    gold[0] = 1
    found = []
    for _ in range(2):
        net = knetc.compile(LENET, "lenet", backend="cuda", seed=3)
        net.forw(x)
        net.back(gold, knetc.softloss)
        found.append([net.grad(name) for name in net.params()])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
