"""The training options, each against the formulas of the manual's table 5 written out on numbers."""

import math

import numpy as np
import pytest

from knetc.ops import registry
from knetc.ops.effects import UPDATE
from knetc.ops.update import SLOTS, gradient_scale
from knetc.runtime.executable import TrainingOptions

from .support import Context, attributes

W, STEPS = [1.0, -2.0, 0.0], [[0.5, -1.0, 2.0], [1.0, 0.25, -4.0], [0.0, 3.0, 1.0]]


def update(options, w, dw, slots, scale):
    """What the operator does to w and to the running averages."""
    UPDATE.numpy(Context({}, w.shape, w.dtype), options, w, dw, slots, scale)


def run(scale=1.0, dtype=np.float64, **options):
    w, slots = np.array(W, dtype), {}
    for dw in STEPS:
        gradient = np.array(dw, dtype)
        update(TrainingOptions(**options), w, gradient, slots, scale)
        np.testing.assert_array_equal(gradient, np.array(dw, dtype))
    assert w.dtype == dtype
    assert all(s.dtype == dtype and s.shape == w.shape for name, s in slots.items() if name != "adam_t")
    return w, slots


def by_hand(rule):
    """The parameter after all steps, one number at a time: `rule(w, dw, memory) -> what is subtracted`."""
    result = []
    for i, w in enumerate(W):
        memory = {}
        for dw in STEPS:
            w -= rule(w, dw[i], memory)
        result.append(w)
    return result


def adagrad(w, dw, m):
    m["a"] = m.get("a", 0) + dw * dw
    return dw / (1e-8 + math.sqrt(m["a"]))


def rmsprop(w, dw, m):
    m["r"] = 0.9 * m.get("r", 0) + 0.1 * dw * dw
    return dw / (1e-8 + math.sqrt(m["r"]))


def adam(w, dw, m):
    m["t"] = m.get("t", 0) + 1
    m["m"] = 0.9 * m.get("m", 0) + 0.1 * dw
    m["v"] = 0.999 * m.get("v", 0) + 0.001 * dw * dw
    return m["m"] / (1 - 0.9 ** m["t"]) / (math.sqrt(m["v"] / (1 - 0.999 ** m["t"])) + 1e-8)


def momentum(w, dw, m):
    m["mo"] = dw + 0.9 * m.get("mo", 0)
    return m["mo"]


def nesterov(w, dw, m):
    m["n"] = 0.8 * m.get("n", 0) + dw
    return dw + 0.8 * m["n"]


def sign(x):
    return (x > 0) - (x < 0)


def everything(w, dw, m):
    dw = dw + 0.2 * sign(w) + 0.1 * w
    for rule in (adagrad, rmsprop, adam, momentum, nesterov):
        dw = rule(w, dw, m)
    return 0.05 * dw


RULES = {
    "plain": ({}, lambda w, dw, m: dw),
    "lr": ({"lr": 0.1}, lambda w, dw, m: 0.1 * dw),
    "l1reg": ({"l1reg": 0.3}, lambda w, dw, m: dw + 0.3 * sign(w)),
    "l2reg": ({"l2reg": 0.3}, lambda w, dw, m: dw + 0.3 * w),
    "adagrad": ({"adagrad": True}, adagrad),
    "rmsprop": ({"rmsprop": True}, rmsprop),
    "adam": ({"adam": True}, adam),
    "momentum": ({"momentum": 0.9}, momentum),
    "nesterov": ({"nesterov": 0.8}, nesterov),
    "lr and momentum": ({"lr": 0.1, "momentum": 0.9}, lambda w, dw, m: 0.1 * momentum(w, dw, m)),
    "all in the order of the reference": (
        {"lr": 0.05, "l1reg": 0.2, "l2reg": 0.1, "adagrad": True, "rmsprop": True, "adam": True, "momentum": 0.9,
         "nesterov": 0.8},
        everything,
    ),
}  # fmt: skip


@pytest.mark.parametrize("options,rule", RULES.values(), ids=RULES.keys())
def test_option_by_hand(options, rule):
    np.testing.assert_allclose(run(**options)[0], by_hand(rule), rtol=1e-12)
    np.testing.assert_allclose(run(dtype=np.float32, **options)[0], by_hand(rule), rtol=1e-4)


def test_the_first_adam_step_is_lr_whatever_the_gradient():
    w = np.array([1.0, 1.0])
    update(TrainingOptions(lr=0.01, adam=True), w, np.array([1e-3, -50.0]), {}, 1.0)
    np.testing.assert_allclose(w, [0.99, 1.01], rtol=1e-6)


def test_the_scale_comes_before_everything():
    scaled = by_hand(lambda w, dw, m: 0.5 * dw + 0.3 * w)
    np.testing.assert_allclose(run(scale=0.5, l2reg=0.3)[0], scaled, rtol=1e-12)


def test_each_option_has_its_own_running_averages():
    for option, value in (("adagrad", True), ("rmsprop", True), ("adam", True), ("momentum", 0.9), ("nesterov", 0.8)):
        assert set(run(**{option: value})[1]) == set(SLOTS[option])
    _, slots = run(adagrad=True, momentum=0.9)
    assert set(slots) == {"adagrad", "momentum"}
    np.testing.assert_allclose(slots["adagrad"], [1.25, 10.0625, 21.0])
    assert run(adam=True)[1]["adam_t"] == 3


def test_gradient_scale():
    assert gradient_scale(10.0, 0, 1) == 1
    assert gradient_scale(10.0, 5.0, 1) == 0.5
    assert gradient_scale(4.0, 5.0, 1) == 1
    assert gradient_scale(10.0, 5.0, 2) == 1
    assert gradient_scale(10.0, 0, 0.25) == 0.25
    assert gradient_scale(0.0, 5.0, 1) == 1


def test_the_operator_runs_the_rule():
    w, dw, slots = np.array([1.0, 2.0]), np.array([0.5, 0.5]), {}
    context = Context(attributes("update", param="w"), (), w.dtype)
    result = registry()["update"].numpy(context, TrainingOptions(lr=2.0), w, dw, slots, 1.0)
    assert result is w
    np.testing.assert_array_equal(w, [0, 1])


def test_fortran_order_stays():
    w = np.asfortranarray(np.ones((3, 4)))
    slots = {}
    update(TrainingOptions(adagrad=True, momentum=0.5), w, np.asfortranarray(np.ones((3, 4))), slots, 1.0)
    assert w.flags.f_contiguous and all(s.flags.f_contiguous for s in slots.values())
