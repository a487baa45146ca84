"""Bad calls: each message whole, the model as it was, and it still runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import manual
import numpy as np
import pytest

import knetc
from knetc import KnetError, KnetNameError, KnetShapeError, KnetStateError, KnetTypeError
from knetc.runtime import build

FEED = """
@knet function feed(x; out=2)
    h = wbf(x; out=4, f=:tanh)
    if nothing_at_all
        z = relu(h)
    end
    if predict
        return wb(h; out=out)
    elseif !nothing_at_all
        return wb(drop(h; pdrop=0.5); out=out)
    end
end
"""
X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
Y = np.ones((2, 5), np.float32)
NAN = np.where(np.arange(15).reshape(3, 5) == 7, np.nan, X)

Net = knetc.Model
Case = tuple[Callable[[Net], Any], type[KnetError], str]


def _feed() -> Net:
    net = knetc.compile(FEED, backend="numpy", seed=1)
    net.forw(X)
    return net


def _seq() -> Net:
    net = knetc.compile(manual.RNN1, backend="numpy", hsize=4, xsize=3)
    net.sforw(X)
    net.sforw(X)
    return net


CONDITIONS = "(its conditions: dropout, nothing_at_all, predict)"
OPTIONS = "(there are lr, l1reg, l2reg, adagrad, rmsprop, adam, momentum, nesterov, gclip, gscale)"
PARAMS = "(there are h/w, h/b, wb/w, wb/b, wb2/w, wb2/b)"

FEED_CASES: list[Case] = [
    # inputs
    (lambda n: n.forw(), KnetTypeError, "forw: the model has 1 input (x), got 0"),
    (lambda n: n.forw(X, X), KnetTypeError, "forw: the model has 1 input (x), got 2"),
    (lambda n: n.forw(X[:2]), KnetShapeError, "input x: shape (3,N) is expected, got (2, 5)"),
    (lambda n: n.forw(X[None]), KnetShapeError, "input x: shape (3,N) is expected, got (1, 3, 5)"),
    (lambda n: n.forw(X[:, 0]), KnetShapeError, "input x: shape (3,N) is expected, got (3,)"),
    (lambda n: n.forw(X[:, :0]), KnetShapeError, "input x: the batch is empty, its shape is (3, 0)"),
    (
        lambda n: n.forw(1.0),
        KnetShapeError,
        "input x: an array whose last dimension is the batch is expected, got a single number",
    ),
    (
        lambda n: n.forw(X.astype(complex)),
        KnetTypeError,
        "input x: real numbers are expected, got an array of complex128",
    ),
    (lambda n: n.forw(X.astype(str)), KnetTypeError, "input x: real numbers are expected, got an array of strings"),
    (
        lambda n: n.forw(X.astype(object)),
        KnetTypeError,
        "input x: real numbers are expected, got an array of Python objects",
    ),
    (lambda n: n.forw([[1], [2, 3]]), KnetTypeError, "input x: an array of numbers is expected, got list"),
    (lambda n: n.forw(NAN), KnetTypeError, "input x: every element must be finite, got nan at index (1, 2)"),
    (
        lambda n: n.forw(-X / 0),
        KnetTypeError,
        "input x: every element must be finite, got -inf at index (0, 0) (15 such elements)",
    ),
    (lambda n: n.forw(X.astype(float) * 1e39), KnetTypeError, None),
    (lambda n: n.forw([0, 3]), KnetShapeError, "input x: row index 3 is outside of 0 to 2 (indices count from 0)"),
    (lambda n: n.forw(knetc.onehot([0], 4)), KnetShapeError, "input x: shape (3,N) is expected, got (4, 1)"),
    # names of another kind
    (lambda n: n.setp(["a"], lr=1), KnetNameError, None),
    (lambda n: n.grad(["a"]), KnetNameError, None),
    (lambda n: n.get(["a"]), KnetNameError, "the model has no variable ['a']"),
    # data of another kind
    (
        lambda n: n.train(3, "quadloss", progress=False),
        KnetTypeError,
        "the data are pairs (x, y), as minibatch makes, got int",
    ),
    (lambda n: n.test(None, "quadloss"), KnetTypeError, "the data are pairs (x, y), as minibatch makes, got NoneType"),
    (lambda n: n.setseed(2**64), KnetTypeError, "seed is an integer below 2^64, got 18446744073709551616"),
    # conditions
    (lambda n: n.forw(X, training=True), KnetNameError, f"the model tests no condition 'training' {CONDITIONS}"),
    (
        lambda n: n.forw(X, droput=True),
        KnetNameError,
        f"the model tests no condition 'droput' {CONDITIONS}; did you mean 'dropout'?",
    ),
    (lambda n: n.forw(X, dropout=1), KnetTypeError, "condition dropout is True or False, got 1"),
    # backward
    (
        lambda n: n.back(Y[:1], knetc.quadloss),
        KnetShapeError,
        "ygold: shape (2, 5), the output's, is expected, got (1, 5)",
    ),
    (
        lambda n: n.back(Y * np.inf, "quadloss"),
        KnetTypeError,
        "ygold: every element must be finite, got inf at index (0, 0) (10 such elements)",
    ),
    (lambda n: n.back([0, 1, 2, 0, 1], "softloss"), KnetShapeError, None),
    (
        lambda n: n.back(Y, knetc.zeroone),
        KnetTypeError,
        "zeroone has no gradient; train with quadloss or softloss and test with zeroone",
    ),
    (
        lambda n: n.back(Y, "quadlos"),
        KnetNameError,
        "there is no loss 'quadlos' (there are quadloss, softloss, zeroone); did you mean 'quadloss'?",
    ),
    (lambda n: n.back(Y, 3), KnetTypeError, "the loss is knetc.quadloss, knetc.softloss or knetc.zeroone, got 3"),
    (lambda n: n.back(loss="quadloss"), KnetTypeError, "quadloss needs a ygold to compare the output with"),
    (
        lambda n: n.back(Y, "quadloss", mask=[1, 1]),
        KnetShapeError,
        "mask: one number a column is expected, so shape (5,), got (2,)",
    ),
    (
        lambda n: n.back(Y, mask=[1] * 5),
        KnetTypeError,
        "a mask goes with a loss; without one, ygold is the gradient itself",
    ),
    (lambda n: n.back(mask=[1] * 5), KnetTypeError, "a mask needs a ygold and a loss"),
    (
        lambda n: n.back(Y, "quadloss", getdx=1),
        KnetTypeError,
        "getdx is True, an index of an input (0 to 0) or a list of them, got 1",
    ),
    (
        lambda n: n.back(Y, "quadloss", getdx="x"),
        KnetTypeError,
        "getdx is True, an index of an input (0 to 0) or a list of them, got 'x'",
    ),
    (
        lambda n: (n.forw(X, nothing_at_all=True), n.back(Y, "quadloss")),
        KnetStateError,
        "ygold: the model returned nothing in that call, so there is nothing to compare",
    ),
    (
        lambda n: n.sback(Y, "quadloss"),
        KnetStateError,
        "sback: the stack is empty; each step back needs an sforw of its own",
    ),
    # update and options
    (lambda n: n.update(), KnetStateError, "update: there are no gradients; call back or sback first"),
    (lambda n: n.update(gclip=-1), KnetTypeError, "option gclip is not negative, got -1"),
    (lambda n: n.update(gscale=None), KnetTypeError, "option gscale is a finite number, got None"),
    (lambda n: n.setp(lrr=0.1), KnetNameError, f"there is no training option 'lrr' {OPTIONS}; did you mean 'lr'?"),
    (lambda n: n.setp(lr="fast"), KnetTypeError, "option lr is a finite number, got 'fast'"),
    (lambda n: n.setp(lr=True), KnetTypeError, "option lr is a finite number, got True"),
    (lambda n: n.setp(adam=1), KnetTypeError, "option adam is True or False, got 1"),
    (lambda n: n.setp(momentum=-0.1), KnetTypeError, "option momentum is not negative, got -0.1"),
    (lambda n: n.setp("h/v", lr=1), KnetNameError, f"setp: there is no parameter 'h/v' {PARAMS}; did you mean 'h/w'?"),
    (lambda n: n.setseed(-1), KnetTypeError, "seed is an integer of at least 0, got -1"),
    (lambda n: n.reset(keepstate=1), KnetTypeError, "option keepstate is True or False, got 1"),
    # data
    (lambda n: n.get("nope"), KnetNameError, "the model has no variable 'nope'"),
    (lambda n: n.get("h/ww"), KnetNameError, "the model has no variable 'h/ww'; did you mean 'h/w'?"),
    (lambda n: n.get("z"), KnetStateError, "get: variable z has no value under the conditions of the last call"),
    (lambda n: n.set("h", X), KnetTypeError, "set: h is computed by the model; parameters and state can be set"),
    (lambda n: n.set("h/w", X), KnetShapeError, "set: h/w: shape (4,3) is expected, got (3, 5)"),
    (
        lambda n: n.set("h/w", np.full((4, 3), np.nan)),
        KnetTypeError,
        "set: h/w: every element must be finite, got nan at index (0, 0) (12 such elements)",
    ),
    (lambda n: n.grad("h"), KnetNameError, f"grad: there is no parameter 'h' {PARAMS}"),
    (lambda n: n.grad("h/w"), KnetStateError, "grad: there are no gradients; call back or sback first"),
    (lambda n: n.gnorm(), KnetStateError, "gnorm: there are no gradients; call back or sback first"),
    # runs
    (
        lambda n: n.train([X, X], "quadloss", progress=False),
        KnetTypeError,
        "the data are pairs (x, y), as minibatch makes; for time steps give seqlength",
    ),
    (lambda n: n.train([(X, Y)], "zeroone"), KnetTypeError, None),
    (lambda n: n.train([(X, Y)], "quadloss", epochs=-1), KnetTypeError, "epochs is an integer of at least 0, got -1"),
    (
        lambda n: n.train([(X, Y)], "quadloss", seqlength=5, progress=False),
        KnetTypeError,
        "with seqlength the data are a list of time steps, as seqbatch makes",
    ),
    (
        lambda n: n.train([X], "quadloss", seqlength=5, progress=False),
        KnetShapeError,
        "with seqlength the data need two time steps at least: an input and what follows it",
    ),
    (
        lambda n: n.train([(X, Y)], "quadloss", progress=False, nothing_at_all=True),
        KnetTypeError,
        "the model returns nothing under these conditions, so there is no loss",
    ),
    (lambda n: n.test([], "quadloss"), KnetShapeError, "test: there are no data"),
    (lambda n: n.forwseq([]), KnetShapeError, "forwseq: there are no steps"),
    (
        lambda n: n.forwseq(3),
        KnetTypeError,
        "forwseq: an array with time last or a list of steps is expected, got int",
    ),
    (
        lambda n: n.forwseq([X, X[:, :2]]),
        KnetShapeError,
        "forwseq: the batch size differs between the steps: [5, 2]",
    ),
    (
        lambda n: n.gradcheck([X, X], [Y], "quadloss"),
        KnetShapeError,
        "gradcheck: x has 2 time steps and y has 1",
    ),
]

SEQUENCE_CASES: list[Case] = [
    (
        lambda n: n.forw(X[:, :2]),
        KnetStateError,
        "forw: the batch has 2 columns and the state that is kept has 5; reset the model before another batch size",
    ),
    (
        lambda n: n.back(X, "quadloss"),
        KnetStateError,
        "back: the last call was sforw, which only sback goes back through",
    ),
    (
        lambda n: n.backseq([None] * 3),
        KnetStateError,
        "backseq: there are 2 steps on the stack; each step back needs an sforw of its own",
    ),
    (
        lambda n: n.backseq([None] * 2, mask=[None]),
        KnetShapeError,
        "backseq: 2 steps of ygold and 1 of mask",
    ),
    (
        lambda n: (n.sback(), n.sforw(X)),
        KnetStateError,
        "sforw: sback has begun, with 1 step left on the stack; go back through all, or reset the model",
    ),
    (
        lambda n: (n.sback(), n.update(), n.sback()),
        KnetStateError,
        "sback: the parameters have changed since sforw; reset the model first",
    ),
    (
        lambda n: (n.set("a", n.get("a")), n.sforw(X)),
        KnetStateError,
        "sforw: the parameters have changed with 2 steps on the stack; reset the model first",
    ),
    (
        lambda n: (n.forw(X), n.sforw(X)),
        KnetStateError,
        "sforw: forw changed the state in mid-sequence, with 2 steps on the stack; reset the model first "
        "(keepstate=True keeps the state)",
    ),
    (
        lambda n: (n.set("h", np.zeros((4, 5))), n.sforw(X)),
        KnetStateError,
        "sforw: set changed the state in mid-sequence, with 2 steps on the stack; reset the model first "
        "(keepstate=True keeps the state)",
    ),
    (
        lambda n: n.set("h", np.zeros((4, 2))),
        KnetStateError,
        "set: the state has 5 columns, got 2; reset the model first",
    ),
    (
        lambda n: (n.reset(), n.get("h")),
        KnetStateError,
        "get: variable h has no value before the first forw",
    ),
]


def _text(caught: pytest.ExceptionInfo[KnetError], text: str | None) -> None:
    if text is not None:
        assert str(caught.value) == f"error: {text}"


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("call", "kind", "text"), FEED_CASES, ids=range(len(FEED_CASES)))
def test_a_bad_call_is_refused_and_changes_nothing(
    call: Callable[[Net], Any], kind: type[KnetError], text: str
) -> None:
    net, twin = _feed(), _feed()
    with pytest.raises(kind) as caught:
        call(net)
    _text(caught, text)
    for name in net.params():
        np.testing.assert_array_equal(net.get(name), twin.get(name))
    for each in (net, twin):
        each.setseed(1)
        each.forw(X, dropout=True)
        each.back(Y, "quadloss")
        each.update()
    for name in net.params():
        np.testing.assert_array_equal(net.get(name), twin.get(name))


@pytest.mark.parametrize(("call", "kind", "text"), SEQUENCE_CASES, ids=range(len(SEQUENCE_CASES)))
def test_calls_out_of_order_in_a_sequence(call: Callable[[Net], Any], kind: type[KnetError], text: str) -> None:
    net = _seq()
    with pytest.raises(kind) as caught:
        call(net)
    _text(caught, text)
    net.reset()
    net.sforw(X)
    net.sback(np.ones((4, 5)))
    net.update()


def test_a_refused_sback_leaves_the_stack(backend: str) -> None:
    net, twin = _seq(), _seq()
    dy = np.ones((4, 5))
    with pytest.raises(KnetShapeError):
        net.sback(dy[:2], "quadloss")
    with pytest.raises(KnetShapeError):
        net.backseq([dy, dy[:2]], "quadloss")
    for each in (net, twin):
        each.sback(dy, "quadloss")
        each.sback(dy, "quadloss")
    for name in net.params():
        np.testing.assert_array_equal(net.grad(name), twin.grad(name))


def test_back_after_the_parameters_changed() -> None:
    net = _feed()
    net.back(Y, "quadloss")
    net.update()
    with pytest.raises(KnetStateError) as caught:
        net.back(Y, "quadloss")
    _text(caught, "back: the parameters have changed since the last forw; call forw again")


def test_before_the_first_forw() -> None:
    net = knetc.compile(FEED, backend="numpy")
    cases: list[Case] = [
        (lambda n: n.back(Y, "quadloss"), KnetStateError, "back: call forw first"),
        (
            lambda n: n.get("h/w"),
            KnetStateError,
            "get: the sizes of the model depend on its input; call forw first",
        ),
        (lambda n: n.wnorm(), KnetStateError, "wnorm: the sizes of the model depend on its input; call forw first"),
        (
            lambda n: n.forw([0, 1]),
            KnetShapeError,
            "input x: a vector of integers stands for one-hot columns, but their number of rows is not known; give "
            "knetc.onehot(indices, rows)",
        ),
    ]
    for call, kind, text in cases:
        with pytest.raises(kind) as caught:
            call(net)
        _text(caught, text)
    assert net.forw(knetc.onehot([0, 1], 3)).shape == (2, 2)  # type: ignore[union-attr]


def test_a_first_input_that_does_not_fit_leaves_the_sizes_open() -> None:
    source = "@knet function f(x, y)\n return add(wdot(x; out=2), wdot(y; out=2))\nend\n"
    net = knetc.compile(source, backend="numpy")
    with pytest.raises(KnetShapeError) as caught:
        net.forw(np.ones((3, 4)), np.ones((5, 6)))
    _text(caught, "input y has 6 columns and input x has 4")
    assert net.forw(np.ones((7, 4)), np.ones((5, 4))).shape == (2, 4)  # type: ignore[union-attr]


def test_a_parameter_set_before_the_first_forw_keeps_its_shape() -> None:
    """A matrix's input is taken for a matrix until an image comes; what was set must still fit."""
    source = "@knet function f(x)\n w = par(dims=(2,12))\n return w * x\nend\n"
    net = knetc.compile(source, backend="numpy")
    w = np.arange(24.0).reshape(2, 12)
    net.set("w", w)
    x = np.random.default_rng(0).random((4, 3, 1, 5))
    np.testing.assert_allclose(net.forw(x), w @ x.reshape(12, 5, order="F"), rtol=1e-5)


COMPILE_CASES: list[tuple[Callable[[], Any], type[KnetError], str | None]] = [
    (
        lambda: knetc.compile("no/such/file.knet"),
        KnetError,
        "'no/such/file.knet' cannot be read: No such file or directory",
    ),
    (lambda: knetc.compile(3), KnetTypeError, "the source is a path, a text or None, got int"),  # type: ignore[arg-type]
    (lambda: knetc.compile(FEED, dtype="f16"), KnetTypeError, "dtype is 'f32' or 'f64', got 'f16'"),
    (lambda: knetc.compile(FEED, seed=1.5), KnetTypeError, "seed is an integer of at least 0, got 1.5"),  # type: ignore[arg-type]
    (
        lambda: knetc.compile(FEED, backend="gpu"),
        KnetNameError,
        "there is no back end 'gpu' (there are auto, numpy, cpu, emulated, cuda); did you mean 'cpu'?",
    ),
    (
        lambda: knetc.compile(None),
        KnetTypeError,
        "with source None the model names a built-in operator, as in compile(None, 'wdot', out=10)",
    ),
    (lambda: knetc.compile(FEED, 3), KnetTypeError, "the model is named by a string, got int"),  # type: ignore[arg-type]
    (
        lambda: knetc.compile(FEED, out=object()),
        KnetTypeError,
        "keyword out: a number, boolean, string, None, tuple, array or filler is expected, got object",
    ),
    (lambda: knetc.compile(FEED, outt=3), KnetError, None),
    (lambda: knetc.compile(FEED, "fed"), KnetError, None),
    (lambda: knetc.compile(None, "wdto", out=3), KnetError, None),
]


@pytest.mark.parametrize(("call", "kind", "text"), COMPILE_CASES, ids=range(len(COMPILE_CASES)))
def test_compile_refuses(call: Callable[[], Any], kind: type[KnetError], text: str | None) -> None:
    with pytest.raises(kind) as caught:
        call()
    _text(caught, text)
    assert "fault of knetc" not in str(caught.value)


def test_a_back_end_asked_for_by_name_is_never_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build, "cxx", build.cxx.__wrapped__)  # it remembers what it found
    net = knetc.compile(FEED, backend="cpu")
    with pytest.raises(knetc.KnetEnvironmentError):
        net.forw(X)


def test_paths_texts_and_julia_files(tmp_path: Path) -> None:
    text = "@knet function f(x)\n return relu(x)\nend\n"
    (tmp_path / "m.knet").write_text(text)
    (tmp_path / "m.jl").write_text("using Knet\nx = rand(3)\n" + text + "println(x)\n")
    for source in (text, str(tmp_path / "m.knet"), tmp_path / "m.knet", tmp_path / "m.jl"):
        np.testing.assert_array_equal(knetc.compile(source, backend="numpy").forw(X), np.maximum(X, 0))
    (tmp_path / "bad.knet").write_bytes(b"@knet \xff")
    with pytest.raises(KnetError, match="UTF-8"):
        knetc.compile(tmp_path / "bad.knet")


@pytest.mark.parametrize("dims", ["(10^12,0)", "(2^62,4)"])
def test_a_model_that_no_memory_holds_is_refused(dims: str) -> None:
    with pytest.raises(knetc.KnetLimitation, match="the model does not fit into memory; its largest parameter, w, has"):
        net = knetc.compile(f"@knet function f(x)\n w = par(dims={dims})\n return w*x\nend\n", backend="numpy")
        net.forw(np.ones((4, 2)))


@pytest.mark.parametrize("dims", ["(5,4)", "(0,4)"])
def test_an_input_in_the_place_of_a_weight_is_refused(dims: str) -> None:
    """The product would sum over the batch, so a parameter's size would depend on it."""
    net = knetc.compile(f"@knet function f(x)\n return x*par(dims={dims})\nend\n", backend="numpy")
    with pytest.raises(KnetShapeError, match="in the matrix product of|would sum over the batch"):
        net.forw(np.ones((3, 5)))


def test_batches_of_operands_in_different_places_name_both() -> None:
    net = knetc.compile("@knet function f(a, b)\n return a .* b\nend\n", backend="numpy")
    with pytest.raises(KnetShapeError) as caught:
        net.forw(np.ones((5, 1, 4)), np.ones((1, 3, 1, 4)))
    assert str(caught.value).splitlines()[0] == (
        "<text>:2:9: error: a, (5,1,N), and b, (1,3,1,N), do not fit: "
        "the batch N must be the last dimension, here the shape would be (5,3,N,N)"
    )
