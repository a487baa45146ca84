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
MODELS = {
    "lenet": (LENET, ((9, 8, 2, N),), ()),
    "pools": (POOLS, ((9, 8, 2, N),), ()),
    "lstm": (LSTM, ((3, N),), ("dropout",)),
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
