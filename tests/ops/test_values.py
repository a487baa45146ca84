"""Values of the matrix product, broadcasting, activations and losses, against hand figures and loops."""

import math
import re

import numpy as np
import pytest

from knetc.ops import registry
from knetc.ops.base import Elementwise
from knetc.values import Array, Constant, Uniform

from .support import Context, attributes, differences, evaluate, sample

RNG = np.random.default_rng(1)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


# --- matrix product ---


def test_dot_of_the_manual():
    w, x = np.array([[1.0, 3, 5], [2, 4, 6]]), np.array([[1.0], [2], [3]])
    np.testing.assert_array_equal(evaluate("dot", w, x), [[22], [28]])


@BOTH
def test_dot_by_loops(dtype):
    a, b = sample(RNG, 3, 4), sample(RNG, 4, 5)
    wanted = [[sum(a[i, k] * b[k, j] for k in range(4)) for j in range(5)] for i in range(3)]
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(evaluate("dot", a, b, dtype=dtype), wanted, rtol=tolerance)
    np.testing.assert_allclose(evaluate("dot", a.T, b, ta=True, dtype=dtype), wanted, rtol=tolerance)
    np.testing.assert_allclose(evaluate("dot", a, b.T, tb=True, dtype=dtype), wanted, rtol=tolerance)
    np.testing.assert_allclose(evaluate("dot", a.T, b.T, ta=True, tb=True, dtype=dtype), wanted, rtol=tolerance)


def test_dot_takes_more_dimensions_as_a_matrix_in_column_major_order():
    a, x = sample(RNG, 3, 12), sample(RNG, 2, 3, 2, 5)
    columns = np.stack(
        [[x[i, j, k, n] for k in range(2) for j in range(3) for i in range(2)] for n in range(5)], axis=1
    )
    np.testing.assert_allclose(evaluate("dot", a, x), a @ columns)
    # and lays its result out as its type says
    back = evaluate("dot", a, a @ columns, ta=True, dims=(2, 3, 2, 5))
    np.testing.assert_allclose(back.reshape(12, 5, order="F"), a.T @ (a @ columns))


def test_dot_with_one_dimension():
    np.testing.assert_array_equal(evaluate("dot", [[1.0, 2], [3, 4]], [5.0, 6]), [[17], [39]])
    # whose only dimension is the batch: a row
    np.testing.assert_array_equal(evaluate("dot", [[2.0], [3]], [1.0, 4, 5], dims=(2, 3)), [[2, 8, 10], [3, 12, 15]])


# --- broadcasting ---


@pytest.mark.parametrize(
    "a,b",
    [((3, 4), (3, 4)), ((3, 4), (3,)), ((3,), (3, 4)), ((3, 1), (1, 4)), ((2, 3, 4, 5), (1, 1, 4, 1)),
     ((2, 3, 4, 5), (2, 3)), ((1, 1), (3, 2)), ((2, 3, 2, 3, 2), (1, 1, 1, 3, 1))],
)  # fmt: skip
@BOTH
def test_broadcasting_by_loops(a, b, dtype):
    """Dimensions that are missing at the end, and dimensions of 1, expand."""
    a, b = sample(RNG, *a).astype(dtype), sample(RNG, *b).astype(dtype)
    rank = max(a.ndim, b.ndim)
    sizes = [s + (1,) * (rank - len(s)) for s in (a.shape, b.shape)]
    total, product = evaluate("add", a, b, dtype=dtype), evaluate("mul", a, b, dtype=dtype)
    assert total.shape == product.shape == tuple(map(max, *sizes))
    for at in np.ndindex(*total.shape):
        x = a[tuple(0 if n == 1 else i for i, n in zip(at, a.shape, strict=False))]
        y = b[tuple(0 if n == 1 else i for i, n in zip(at, b.shape, strict=False))]
        assert total[at] == x + y and product[at] == x * y


@pytest.mark.parametrize(
    "big,small",
    [((3, 4), (3,)), ((3, 4), (1, 4)), ((3, 4), (1, 1)), ((3, 4), (3, 4)), ((3, 4), (1,)), ((2, 3, 4, 5), (1, 1, 4, 1)),
     ((2, 3, 4, 5), (2, 1, 4)), ((2, 3, 4, 5), (1, 3, 1, 5)), ((2, 3, 2, 4, 3), (1, 1, 1, 4, 1)), ((1, 4), (1,)),
     ((2, 1, 3), (1, 1, 3))],
)  # fmt: skip
@BOTH
def test_sumto_by_loops(big, small, dtype):
    dy = sample(RNG, *big).astype(dtype)
    wanted = np.zeros(small)
    for at in np.ndindex(*big):
        wanted[tuple(0 if n == 1 else i for i, n in zip(at, small, strict=False))] += dy[at]
    got = evaluate("sumto", dy, dims=small, dtype=dtype)
    np.testing.assert_allclose(got, wanted, rtol=1e-6 if dtype == np.float32 else 1e-13, atol=1e-6)


# --- elementwise ---

POINTS = np.array([[-100.0, -20, -3, -1, -0.5, -1e-3, -1e-8, 0, 1e-8, 1e-3, 0.5, 1, 3, 20, 100]])


@BOTH
@pytest.mark.parametrize(
    "op,formula",
    [
        ("copy", lambda x: x),
        ("relu", lambda x: max(x, 0.0)),
        ("sigm", lambda x: 1 / (1 + math.exp(-x))),
        ("tanh", math.tanh),
    ],
)
def test_activations_by_the_library_of_python(op, formula, dtype):
    x = POINTS.astype(dtype)
    wanted = [[formula(float(v)) for v in x[0]]]
    tolerance = 4e-7 if dtype == np.float32 else 1e-15
    np.testing.assert_allclose(evaluate(op, x, dtype=dtype), wanted, rtol=tolerance, atol=1e-43)


@BOTH
@pytest.mark.parametrize(
    "a,p,b",
    [(1, 1, 0), (-2, 1, 3), (0.1, 2, 0), (3, -1, 1), (1, 0.5, 0), (2, 0, 1), (1, 3, 0), (0.5, 1.7, -1), (1, -2, 0)],
)
def test_axpb_by_formula(a, p, b, dtype):
    x = np.array([[0.25, 1, 1.5, 10, 300]], dtype)
    wanted = [[a * float(v) ** p + b for v in x[0]]]
    np.testing.assert_allclose(evaluate("axpb", x, a=a, p=p, b=b, dtype=dtype), wanted, rtol=4e-7, atol=1e-7)


def test_axpb_where_powers_are_delicate():
    np.testing.assert_array_equal(evaluate("axpb", [[0.0, -2]], p=0, a=3, b=1), [[4, 4]])
    np.testing.assert_array_equal(evaluate("axpb", [[-2.0, 0]], p=3), [[-8, 0]])
    np.testing.assert_array_equal(evaluate("axpb", [[-2.0, 0]], p=2), [[4, 0]])


def test_not_a_number_goes_through():
    x = np.array([[math.nan, 1]])
    for op in ("copy", "relu", "sigm", "tanh", "axpb"):
        assert np.isnan(evaluate(op, x)[0, 0]), op
    assert np.isnan(evaluate("pool", x.reshape(2, 1, 1, 1))[0, 0, 0, 0])


@BOTH
def test_soft_by_formula(dtype):
    x = sample(RNG, 2, 3, 4, low=-5, high=5).astype(dtype)
    y = evaluate("soft", x, dtype=dtype)
    for n in range(4):
        e = np.exp(x[:, :, n].astype(float))
        np.testing.assert_allclose(y[:, :, n], e / e.sum(), rtol=1e-6)


def test_soft_of_large_numbers():
    np.testing.assert_array_equal(
        evaluate("soft", [[1000.0, -1000], [0, -1000]], dtype=np.float32), [[1, 0.5], [0, 0.5]]
    )


@pytest.mark.parametrize(
    "op", [n for n, op in registry().items() if isinstance(op.cuda, Elementwise) and not op.effect]
)
@BOTH
def test_elementwise_operators_keep_type_and_order(op, dtype):
    args = [sample(RNG, *((5,) if a == "mask" else (2, 3, 4, 5)), low=0.1) for a in registry()[op].args]
    for attrs in ({}, {"a": 2, "p": 3}, {"a": 0.1, "p": -1}, {"p": 0.5}) if "p" in registry()[op].keywords else ({},):
        y = evaluate(op, *args, dims=args[0].shape, dtype=dtype, **attrs)
        assert y.flags.f_contiguous and y.dtype == dtype


# --- the emitted expressions, read as Python ---


def _python(text: str) -> str:
    text = text.replace("knet_", "np.").replace("np.pow", "np.power")
    text = re.sub(r"T\(([-0-9.e]+)\)", r"\1", text)
    text = re.sub(r"\(([^()]*) \? ([^()]*) : ([^()]*)\)", r"np.where(\1, \2, \3)", text)
    if "?" in text:
        test, rest = text.split(" ? ")
        yes, no = rest.rsplit(" : ", 1)
        return f"np.where({test}, {yes}, {no})"
    return text


@pytest.mark.parametrize(
    "op", [n for n, op in registry().items() if isinstance(op.cuda, Elementwise) and not op.effect]
)
def test_the_emitted_expression_says_the_same(op):
    """The CUDA text is evaluated with the scalar arithmetic of Python: every operator, in several settings."""
    definition = registry()[op]
    args = {n: sample(RNG, *((4,) if n == "mask" else (3, 4)), low=0.2, high=2.0) for n in definition.args}
    magic = {"share": "(args['mask'] / 4)", "epsilon": "2.0**-52"}
    powers = [
        {"a": a, "p": p} for a, p in ((1, 1), (2, 2), (-0.5, -1), (3, 0.5), (2, 0), (1.5, 3), (1, 1.7), (2, -2.5))
    ]
    for attrs in (
        [{**p, **b} for p in powers for b in ({"b": 0}, {"b": -1.5})]
        if "b" in definition.keywords
        else (powers if "p" in definition.keywords else [{}])
    ):
        expr = definition.cuda.expr
        text = expr(attributes(op, **attrs)) if callable(expr) else expr
        got = eval(_python(text.format_map({n: f"args['{n}']" for n in args} | magic)), {"np": np, "args": args})
        np.testing.assert_allclose(got, evaluate(op, *args.values(), **attrs), rtol=1e-12)


# --- sources ---


def test_sources_are_filled_by_their_init():
    for op in ("par", "arr", "rnd"):
        assert (evaluate(op, dims=(3, 2), init=Constant(2.5)) == 2.5).all()
        np.testing.assert_array_equal(evaluate(op, dims=(2,), init=Array.of((2,), [3, 4])), [3, 4])
    values = [evaluate("rnd", dims=(10, 10), init=Uniform(0, 1), stream=s) for s in (0, 1)]
    assert (values[0] != values[1]).all()
    for op in ("zeros", "state", "dstate"):
        assert (evaluate(op, dims=(3, 2)) == 0).all()


def test_effects_hand_on_their_value():
    v = sample(RNG, 3, 4)
    for op in ("keep", "dpar", "dinput", "dkeep"):
        np.testing.assert_array_equal(registry()[op].numpy(Context(attributes(op), (), v.dtype), v), v)


# --- losses ---

P = np.array([[0.2, 0.5, 0.1], [0.7, 0.25, 0.1], [0.1, 0.25, 0.8]])
GOLD = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])


@BOTH
def test_losses_by_hand(dtype):
    tolerance = 1e-6 if dtype == np.float32 else 1e-14
    quad = (0.04 + 0.09 + 0.01 + 0.25 + 0.0625 + 0.0625 + 0.01 + 0.01 + 0.04) / 2 / 3
    assert evaluate("quadloss", P, GOLD, None, dims=(), dtype=dtype) == pytest.approx(quad, rel=tolerance)
    soft = -(math.log(0.7) + math.log(0.5) + math.log(0.8)) / 3
    assert evaluate("softloss", P, GOLD, None, dims=(), dtype=dtype) == pytest.approx(soft, rel=tolerance)
    wrong = np.array([[0.0, 0, 0], [1, 0, 1], [0, 1, 0]])
    assert evaluate("zeroone", P, GOLD, None, dims=(), dtype=dtype) == 0
    assert evaluate("zeroone", P, wrong, None, dims=(), dtype=dtype) == pytest.approx(2 / 3, rel=tolerance)


def test_zeroone_takes_the_first_of_equal_maxima():
    assert evaluate("zeroone", [[0.5], [0.5]], [[1.0], [0]], None, dims=()) == 0
    assert evaluate("zeroone", [[0.5], [0.5]], [[0.0], [1]], None, dims=()) == 1


@pytest.mark.parametrize("mask", [[1.0, 0, 1], [0.0, 0, 0], [0.5, 2, 0]])
def test_a_mask_weighs_columns_and_the_average_stays_over_all(mask):
    for loss in ("quadloss", "softloss", "zeroone"):
        gold = GOLD[:, ::-1]
        each = [float(evaluate(loss, P[:, [n]], gold[:, [n]], None, dims=())) for n in range(3)]
        wanted = sum(m * e for m, e in zip(mask, each, strict=True)) / 3
        for form in (np.array(mask), np.array([mask])):
            assert evaluate(loss, P, gold, form, dims=()) == pytest.approx(wanted, rel=1e-14)


@pytest.mark.filterwarnings("ignore:invalid value")  # NaN and infinity are what it is about
def test_a_masked_column_adds_nothing_whatever_it_holds():
    p = P.copy()
    p[:, 1] = [math.nan, math.inf, 0]
    mask = np.array([1.0, 0, 1])
    rest = [evaluate(loss, P, GOLD, mask, dims=()) for loss in ("quadloss", "softloss", "zeroone")]
    assert [evaluate(loss, p, GOLD, mask, dims=()) for loss in ("quadloss", "softloss", "zeroone")] == rest
    for back in ("quadloss_back", "softloss_back", "softmax_softloss_back"):
        assert (evaluate(back, p, GOLD, mask, dims=P.shape)[:, 1] == 0).all()


@pytest.mark.parametrize("loss", ["quadloss", "softloss"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 3), (1, 5)])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_gradients_are_slopes(loss, shape, masked):
    p, gold = sample(RNG, *shape, low=0.05, high=1), sample(RNG, *shape, low=0, high=1)
    mask = RNG.choice([0.0, 1.0, 0.5], shape[-1]) if masked else None
    got = evaluate(f"{loss}_back", p, gold, mask, dims=shape)
    wanted = differences(lambda p: float(evaluate(loss, p, gold, mask, dims=())), [p], 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_softmax_and_softloss_together_have_the_slope_of_both(masked):
    x = sample(RNG, 2, 3, 4, low=-2, high=2)
    gold = evaluate("soft", sample(RNG, 2, 3, 4))
    mask = np.array([1.0, 0, 0.5, 1]) if masked else None
    got = evaluate("softmax_softloss_back", evaluate("soft", x), gold, mask, dims=x.shape)
    wanted = differences(lambda x: float(evaluate("softloss", evaluate("soft", x), gold, mask, dims=())), [x], 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-9)


@BOTH
def test_softloss_is_bounded_where_a_probability_is_0(dtype):
    eps = np.finfo(dtype).eps
    p, gold = [[0.0, 1.0], [1, 0]], [[1.0, 1], [0, 0]]
    assert evaluate("softloss", p, gold, None, dims=(), dtype=dtype) == pytest.approx(-math.log(eps) / 2, rel=1e-6)
    slope = evaluate("softloss_back", p, gold, None, dims=(2, 2), dtype=dtype)
    np.testing.assert_array_equal(slope, [[0, -0.5], [0, 0]])


def test_losses_of_float32_are_summed_in_float64():
    p = np.full((1000, 1000), 0.1, np.float32)
    got = evaluate("quadloss", p, np.zeros_like(p), None, dims=(), dtype=np.float32)
    assert got == np.float32(1000 * float(np.float32(np.float32(0.1) ** 2)) / 2)
