"""-O0, -O1 and -O2 compute the same: at -O1 to the bit, at -O2 but for the order of sums. Whole models, interpreted.

The emitted code of optimised programs is compared with the definition in tests/programs and tests/unit/codegen.
"""

from __future__ import annotations

import numpy as np
import pytest

from knetc import driver
from knetc.errors import Source
from knetc.ir.types import N
from knetc.options import Options
from knetc.runtime.interp import Interpreter

LENET = """
@knet function lenet(x)
    a = cbfp(x; out=3, f=:relu, cwindow=3, pwindow=2)
    b = cbfp(a; out=4, f=:relu, cwindow=2, pwindow=3, ppadding=1, pstride=2)
    return wbf(b; out=5, f=:soft)
end
"""
POOLS = """
@knet function pools(x)
    a = pool(tanh(bias(x)); window=3, stride=1)
    b = pool(relu(a); window=2, padding=3, stride=4)
    c = pool(relu(x .* x); window=(4, 3), stride=(3, 2))
    return wbf(b; out=2, f=:sigm) + wbf(c; out=2)
end
"""
LSTM = """
@knet function net(x)
    h = lstm(x; out=4)
    return wbf(drop(h; pdrop=0.3); out=3, f=:soft)
end
"""
EMBEDDED = """
@knet function net(x)
    e = wdot(wdot(x; out=80); out=90)
    h = irnn(e; out=60)
    return wbf(h; out=3, f=:soft)
end
"""
GRU = """
@knet function net(x)
    h = gru(x; out=4)
    return wbf(h; out=3, f=:soft)
end
"""
HEADS = """
@knet function net(x, z)
    w = par(init=Gaussian(0, 1), dims=(4, 0))
    a = wdot(x; out=2) .+ wdot(z; out=2)
    if second
        b = wf(x; out=5, f=:sigm)
    else
        b = wf(z; out=5, f=:tanh)
    end
    c = wbf2(x, w * x .+ w * z; out=3) .* wdot(x; out=3)
    return wdot(a; out=3) + wdot(b; out=3) + c
end
"""
MODELS = {
    "lenet": (LENET, ((9, 8, 2, N),), ()),
    "pools": (POOLS, ((9, 8, 2, N),), ()),
    "lstm": (LSTM, ((3, N),), ("dropout",)),
    "gru": (GRU, ((5, N),), ()),
    "heads": (HEADS, ((3, N), (3, N)), ("second",)),
    "embedded": (EMBEDDED, ((4, N),), ()),
}
BATCH = 4


def results(name: str, level: int, steps: int = 3) -> list[np.ndarray]:
    """What a sequence gives, forward and back: values, gradients of inputs and parameters."""
    source, shapes, conditions = MODELS[name]
    options = Options(inputs=shapes, losses=("quadloss",), dtype="f64", level=level)
    net = Interpreter(driver.optimise(driver.lower(Source(name, source), None, {}), options), seed=3)
    rng = np.random.default_rng(5)
    found, golds = [], []
    for step in range(steps):
        inputs = [rng.standard_normal([BATCH if d is N else d for d in s]) for s in shapes]
        setting = frozenset(conditions) if step % 2 else frozenset()
        y = net.forward(setting, [np.asfortranarray(x) for x in inputs], push=True)
        assert y is not None
        found.append(y)
        golds.append(np.asfortranarray(rng.standard_normal(y.shape)))
    for gold in reversed(golds):
        found += net.backward("quadloss", gold, None, range(len(shapes)), pop=True).values()
    return found + [net.read("grad", p) for p in net.program.params()]


@pytest.mark.parametrize("name", MODELS)
def test_level_1_changes_no_bit(name: str) -> None:
    for plain, fast in zip(results(name, 0), results(name, 1), strict=True):
        assert np.array_equal(plain, fast)


@pytest.mark.parametrize("name", MODELS)
def test_level_2_changes_the_order_of_sums_alone(name: str) -> None:
    for plain, fast in zip(results(name, 0), results(name, 2), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-11, atol=1e-13)


RECURRENT = ("lstm", "gru", "embedded", "heads")


@pytest.mark.parametrize("loss", ["quadloss", "softloss", "none", "zero"])
@pytest.mark.parametrize("name", RECURRENT)
def test_a_whole_sequence_is_its_steps(name: str, loss: str) -> None:
    """Twice three steps in two calls each way, the state handed on, as six steps one by one; with a mask."""
    source, shapes, conditions = MODELS[name]
    losses = ("quadloss", "softloss", "none", "zero")
    plain, fast = (
        Interpreter(
            driver.optimise(
                driver.lower(Source(name, source), None, {}),
                Options(inputs=shapes, losses=losses, dtype="f64", level=level),
            ),
            seed=3,
        )
        for level in (0, 2)
    )
    assert name == "heads" or all(v.phases is not None for v in fast.program.variants)
    rng = np.random.default_rng(8)
    setting = frozenset(conditions)
    steps = 3
    for _ in range(2):
        inputs = [np.asfortranarray(rng.standard_normal((*s[:-1], BATCH * steps))) for s in shapes]
        columns = [slice(t * BATCH, (t + 1) * BATCH) for t in range(steps)]
        whole = fast.forward_sequence(setting, inputs, steps)
        single = [plain.forward(setting, [np.asfortranarray(x[..., at]) for x in inputs], push=True) for at in columns]
        np.testing.assert_allclose(whole, np.concatenate(single, axis=-1), rtol=1e-11)
        np.testing.assert_allclose(fast.read("value", "return"), single[-1], rtol=1e-11)
    gold = None if loss == "zero" else np.asfortranarray(rng.standard_normal(whole.shape))
    mask = None if loss in ("zero", "none") else rng.integers(0, 2, BATCH * steps).astype(float)
    for _ in range(2):
        fast.backward_sequence(loss, gold, mask, steps)
        for at in reversed(columns):
            mine, masked = (None if a is None else np.asfortranarray(a[..., at]) for a in (gold, mask))
            plain.backward(loss, mine, masked, (), pop=True)
    assert fast.stack_depth() == plain.stack_depth() == 0
    for p in plain.program.params():
        np.testing.assert_allclose(fast.read("grad", p), plain.read("grad", p), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_sequence_may_be_taken_off_step_by_step(name: str) -> None:
    """Steps pushed at once are taken off one by one, those pushed one by one at once: the same gradients."""
    source, shapes, _ = MODELS[name]
    program = driver.optimise(
        driver.lower(Source(name, source), None, {}), Options(inputs=shapes, losses=("quadloss",), dtype="f64")
    )
    one, other = Interpreter(program, seed=3), Interpreter(program, seed=3)
    rng = np.random.default_rng(9)
    x = np.asfortranarray(rng.standard_normal((*shapes[0][:-1], BATCH * 4)))
    columns = [slice(t * BATCH, (t + 1) * BATCH) for t in range(4)]
    gold = np.asfortranarray(rng.standard_normal((3, BATCH * 4)))
    setting: frozenset[str] = frozenset()
    one.forward_sequence(setting, [x], 4)
    for at in reversed(columns):
        one.backward("quadloss", np.asfortranarray(gold[:, at]), None, (), pop=True)
    for at in columns:
        other.forward(setting, [np.asfortranarray(x[:, at])], push=True)
    other.backward_sequence("quadloss", gold, None, 4)
    for p in program.params():
        np.testing.assert_allclose(one.read("grad", p), other.read("grad", p), rtol=1e-10, atol=1e-12)
