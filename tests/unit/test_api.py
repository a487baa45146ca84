"""The names of the package: each is there, and a function is the model's method, with one signature and one text."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import knetc

METHODS = [name for name in knetc.__all__ if inspect.isfunction(getattr(knetc.Model, name, None))]


def test_every_name_is_there() -> None:
    assert len(METHODS) == 23
    for name in knetc.__all__:
        assert getattr(knetc, name).__doc__, name
    assert set(knetc.__all__) <= set(dir(knetc))


@pytest.mark.parametrize("name", METHODS)
def test_a_function_is_the_models_method(name: str) -> None:
    function = getattr(knetc, name)
    assert function is getattr(knetc.Model, name)
    assert function.__name__ == name
    first = next(iter(inspect.signature(function).parameters.values()))
    assert first.name in ("self", "net")


def test_conditions_reach_the_model_whatever_they_are_called() -> None:
    net = knetc.compile("@knet function f(x)\n if net\n  y = wb(x; out=2)\n end\n return y .+ x\nend")
    x = np.ones((2, 3), np.float32)
    assert knetc.forw(net, x, net=True) is not None
    assert len(knetc.train(net, [(x, x)], knetc.quadloss, progress=False, net=True)) == 1
    assert knetc.gradcheck(net, x, x, knetc.quadloss, net=True) < 1e-5
