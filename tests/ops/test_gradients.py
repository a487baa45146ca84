"""Every gradient against central differences in float64."""

import numpy as np
import pytest

from knetc.ops import registry
from knetc.values import Symbol

from .support import differences, distinct, evaluate, gradients, sample

CROSS, FLIP = Symbol("CUDNN_CROSS_CORRELATION"), Symbol("CUDNN_CONVOLUTION")
MAX = Symbol("CUDNN_POOLING_MAX")
INCLUDE = Symbol("CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING")
EXCLUDE = Symbol("CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING")

BROADCASTS = [
    [(3, 4), (3, 4)],
    [(3, 4), (3,)],
    [(3,), (3, 4)],
    [(1, 4), (3, 1)],
    [(3, 4, 2, 5), (1, 1, 2, 1)],
    [(1, 1), (2, 3)],
    [(2, 3, 1, 2, 4), (1, 3, 2, 1, 4)],
]
# a, p, b of a·x^p + b
POWERS = [
    (1, 1, 0), (-2.5, 1, 0.5), (0.3, 2, 1), (2, -1, 0), (1.5, 0, 2), (1, 0.5, 0), (0, 2, 1), (-1, 3, 0),
    (0.7, 1.7, -1), (2, -2.5, 3),
]  # fmt: skip

# operator -> (keywords, shapes of the arguments)
CASES = {
    "dot": [
        ({}, [(3, 4), (4, 5)]),
        ({"ta": True}, [(4, 3), (4, 5)]),
        ({"tb": True}, [(3, 4), (5, 4)]),
        ({"ta": True, "tb": True}, [(4, 3), (5, 4)]),
        ({}, [(3, 12), (2, 3, 2, 5)]),
        ({}, [(2, 3, 4), (4, 1)]),
        ({}, [(3, 4), (4,)]),
    ],
    "add": [({}, s) for s in BROADCASTS],
    "mul": [({}, s) for s in BROADCASTS],
    "axpb": [({"a": a, "p": p, "b": b}, [(3, 4)]) for a, p, b in POWERS],
    "copy": [({}, [(3, 4)]), ({}, [(2, 3, 2, 2)])],
    "relu": [({}, [(3, 4)]), ({}, [(2, 3, 2, 2)])],
    "sigm": [({}, [(3, 4)]), ({}, [(2, 3, 2, 2)])],
    "tanh": [({}, [(3, 4)]), ({}, [(2, 3, 2, 2)])],
    "soft": [({}, [(3, 4)]), ({}, [(2, 3, 2, 4)]), ({}, [(5,)])],
    "conv": [
        ({}, [(3, 2, 2, 3), (5, 4, 2, 2)]),
        ({"mode": CROSS}, [(3, 2, 2, 3), (5, 4, 2, 2)]),
        ({"padding": 1, "stride": 2}, [(3, 3, 1, 2), (6, 5, 1, 3)]),
        ({"padding": (2, 0), "stride": (1, 3), "upscale": (2, 1), "mode": CROSS}, [(3, 2, 2, 2), (5, 7, 2, 2)]),
        ({"upscale": 2}, [(2, 2, 1, 2), (4, 5, 1, 1)]),
        ({"padding": (1, 0, 1), "stride": (2, 1, 1)}, [(2, 2, 3, 2, 2), (4, 3, 3, 2, 2)]),
        ({"mode": CROSS, "upscale": (1, 1, 2)}, [(2, 1, 2, 1, 2), (3, 2, 4, 1, 1)]),
    ],
    "pool": [
        ({**k, "mode": mode}, [x])
        for mode in (MAX, INCLUDE, EXCLUDE)
        for k, x in (
            ({}, (4, 6, 2, 3)),
            ({}, (5, 3, 1, 2)),
            ({"window": 3, "stride": 2, "padding": 1}, (5, 6, 2, 2)),
            ({"window": (3, 2), "stride": (1, 2), "padding": (2, 0)}, (4, 5, 1, 2)),
            ({"window": 1}, (3, 2, 2, 2)),
            ({"window": 1, "stride": 3, "padding": 1}, (3, 4, 1, 2)),
            ({"window": (2, 1, 2)}, (4, 3, 3, 2, 2)),
            ({"window": 2, "stride": 1, "padding": (0, 1, 0)}, (3, 2, 3, 1, 2)),
        )
    ],
}  # fmt: skip


def test_every_gradient_is_checked():
    assert set(CASES) == {name for name, op in registry().items() if op.gradient}


@pytest.mark.parametrize("op,attrs,shapes", [(op, *case) for op, cases in CASES.items() for case in cases], ids=str)
def test_gradient_is_the_slope(op, attrs, shapes):
    rng = np.random.default_rng(1)
    args = [distinct(rng, *s) for s in shapes]
    if op == "axpb":
        args = [np.abs(x) + 0.5 for x in args]
    dy = sample(rng, *evaluate(op, *args, **attrs).shape)
    got, _ = gradients(op, args, dy, **attrs)
    for index, slope in enumerate(got):
        wanted = differences(lambda *a: float((dy * evaluate(op, *a, **attrs)).sum()), args, index)
        if slope is None:
            assert np.abs(wanted).max() == 0
        else:
            np.testing.assert_allclose(slope, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("op,shapes", [("dot", [(3, 4), (4, 5)]), ("add", [(3, 4), (3,)]), ("mul", [(3, 4), (3,)]),
                                       ("conv", [(2, 2, 1, 2), (3, 3, 1, 2)])])  # fmt: skip
def test_only_what_is_wanted_is_emitted(op, shapes):
    rng = np.random.default_rng(2)
    args = [sample(rng, *s) for s in shapes]
    dy = sample(rng, *evaluate(op, *args).shape)
    both, everything = gradients(op, args, dy)
    for index in (0, 1):
        one, builder = gradients(op, args, dy, wanted=[index])
        assert one[1 - index] is None
        np.testing.assert_array_equal(one[index], both[index])
        assert len(builder.emitted) < max(len(everything.emitted), 1) or op == "add"
    none, builder = gradients(op, args, dy, wanted=[])
    assert none == [None, None] and builder.emitted == []


@pytest.mark.parametrize("op,attrs,shapes", [(op, *cases[0]) for op, cases in CASES.items()], ids=str)
def test_the_gradient_reads_what_it_declares(op, attrs, shapes):
    rng = np.random.default_rng(3)
    args = [distinct(rng, *s) for s in shapes]
    if op == "axpb":
        attrs = {"a": 2, "p": 2, "b": 0}
    _, builder = gradients(op, args, sample(rng, *evaluate(op, *args, **attrs).shape), **attrs)
    names = {f"x{i}": name for i, name in enumerate(registry()[op].args)} | {"y": "out"}
    assert {names[a] for _, arguments in builder.emitted for a in arguments if a in names} == set(registry()[op].reads)


def test_relu_has_slope_0_where_its_result_is_0():
    got, _ = gradients("relu", [[[-1.0, 0.0, 2.0]]], [[5.0, 5.0, 5.0]])
    np.testing.assert_array_equal(got[0], [[0, 0, 5]])


def test_axpb_with_p_2_has_a_slope_at_0():
    got, _ = gradients("axpb", [[[0.0, 1.0]]], [[1.0, 1.0]], a=3, p=2)
    np.testing.assert_array_equal(got[0], [[0, 6]])
