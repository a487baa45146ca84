"""The interpreter computes the same, to the bit, when its lists of instructions have become Python functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import knetc
from knetc.runtime import prepare

MODELS = {
    "layers": "@knet function m(x)\n h = wbf(x; out=5, f=:relu)\n return wbf(h; out=3, f=:soft)\nend",
    "wide": "@knet function m(x)\n a = par(dims=(1,))\n h = wdot(x; out=3)\n return soft(a .* h + h .* a)\nend",
    "random": "@knet function m(x)\n h = drop(wdot(x; out=6); pdrop=0.5)\n return wbf(h; out=3, f=:soft)\nend",
    "recurrent": "@knet function m(x)\n h = lstm(x; out=4)\n return wbf(h; out=3, f=:soft)\nend",
}
RNG = np.random.default_rng(3)
X = [np.asfortranarray(RNG.normal(size=(4, 6))) for _ in range(5)]
Y = [np.eye(3)[:, RNG.integers(0, 3, 6)] for _ in range(5)]
MASK = np.array([1, 0, 1, 1, 0, 1])


def trained(source: str, level: int, dtype: str) -> list[np.ndarray[Any, Any]]:
    """All that five steps give: outputs, gradients of the input, losses, and the parameters at the end."""
    net = knetc.compile(source, dtype=dtype, seed=7, backend="numpy", optimise=level)
    net.setp(lr=0.1, adam=True)
    conditions = {"dropout": True} if "drop(" in source else {}
    found = []
    for step, (x, y) in enumerate(zip(X, Y, strict=True)):
        found.append(net.forw(x, **conditions).copy())
        mask = MASK if step % 2 else None
        found.append(net.back(y, knetc.softloss, mask=mask, getdx=True).copy())
        net.update(gclip=5)
    for x in X:
        net.sforw(x, **conditions)
    for y in reversed(Y):
        net.sback(y, knetc.softloss)
    net.update()
    return found + [net.get(name).copy() for name in net.params()]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_function_computes_what_its_list_does(
    name: str, level: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    compiled = prepare.function
    monkeypatch.setattr(prepare, "function", lambda *given: built.append(given) or compiled(*given))
    functions = trained(MODELS[name], level, dtype)
    assert built
    built.clear()
    monkeypatch.setattr(prepare, "MOST_STEPS", 0)
    lists = trained(MODELS[name], level, dtype)
    assert not built
    for one, other in zip(functions, lists, strict=True):
        np.testing.assert_array_equal(one, other)
