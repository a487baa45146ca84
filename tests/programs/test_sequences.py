"""Whole sequences in one call (`forwseq`, `backseq`, `train`) give what single steps of the plain interpreter give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import knetc
from knetc.runtime import cpu
from knetc.runtime.cpu import CpuExecutable

CELLS = {
    "lstm": """
@knet function net(x; out=3)
    h = lstm(x; out=5)
    return wbf(h; out=out, f=:soft)
end
""",
    "gru": """
@knet function net(x; out=3)
    h = gru(x; out=5)
    return wbf(h; out=out, f=:soft)
end
""",
    "irnn": """
@knet function net(x; out=3)
    h = irnn(x; out=9)
    return wbf(h; out=out, f=:soft)
end
""",
    "two layers": """
@knet function net(x; out=3)
    e = wdot(x; out=4)
    h = lstm(drop(e; pdrop=0.3); out=5)
    k = lstm(drop(h; pdrop=0.5); out=6)
    return wbf(drop(k; pdrop=0.5); out=out, f=:soft)
end
""",
    "noise in the loop": """
@knet function net(x; out=3)
    w = par(dims=(5,0))
    r = par(dims=(5,5))
    h = tanh(w * x .+ r * drop(h; pdrop=0.4))
    return wbf(h; out=out, f=:soft)
end
""",
    "last step": """
@knet function net(x; out=3)
    h = lstm(x; out=5)
    if predict
        return wbf(h; out=out, f=:soft)
    end
end
""",
    "the state itself": """
@knet function net(x; out=3)
    w = par(dims=(out,0))
    r = par(dims=(out,out))
    h = sigm(w * x .+ r * h)
    return h
end
""",
}
TOLERANCE = {"f32": {"rtol": 2e-4, "atol": 2e-6}, "f64": {"rtol": 1e-10, "atol": 1e-12}}
INPUTS, OUT, BATCH = 4, 3, 7


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every test."""
    return np.random.default_rng(7)


def _pair(name: str, backend: str, dtype: str = "f64", optimise: int = 2) -> tuple[knetc.Model, knetc.Model]:
    """The model on a back end, and on the interpreter as it is written."""
    nets = [
        knetc.compile(CELLS[name], backend=b, dtype=dtype, optimise=o, seed=4)
        for b, o in ((backend, optimise), ("numpy", 0))
    ]
    return nets[0], nets[1]


def _steps(rng: np.random.Generator, count: int, rows: int, batch: int = BATCH) -> list[np.ndarray]:
    return [rng.standard_normal((rows, batch)) for _ in range(count)]


def _golds(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [np.eye(OUT)[:, rng.integers(0, OUT, BATCH)] for _ in range(count)]


def _same(one: Any, other: Any, dtype: str, what: str = "") -> None:
    np.testing.assert_allclose(one, other, **TOLERANCE[dtype], err_msg=what)


def _same_gradients(net: knetc.Model, plain: knetc.Model, dtype: str = "f64") -> None:
    assert net.params() == plain.params()
    for name in net.params():
        _same(net.grad(name), plain.grad(name), dtype, name)


def _forward(net: knetc.Model, plain: knetc.Model, xs: Sequence[np.ndarray], dtype: str, **conditions: bool) -> None:
    whole = net.forwseq(list(xs), **conditions)
    single = [plain.sforw(x, **conditions) for x in xs]
    if single[0] is None:
        assert whole is None
        return
    for one, other in zip(whole, single, strict=True):
        _same(one, other, dtype)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((n, "f64") for n in CELLS if n != "last step"), ("lstm", "f32"), ("two layers", "f32")]
)
def test_sequences_as_single_steps(name: str, dtype: str, backend: str, rng: np.random.Generator) -> None:
    """Two sequences with the state handed on, with dropout and a mask, back through both, an update, and once more."""
    net, plain = _pair(name, backend, dtype)
    given = {"dropout": True} if "drop" in CELLS[name] else {}
    for _ in range(2):
        for count in (4, 3):
            _forward(net, plain, _steps(rng, count, INPUTS), dtype, **given)
        for count in (3, 4):
            ys = _golds(rng, count)
            masks = list(rng.integers(0, 2, (count, BATCH)).astype(float))
            net.backseq(ys, "softloss", masks)
            for y, m in zip(reversed(ys), reversed(masks), strict=True):
                plain.sback(y, "softloss", mask=m)
            _same_gradients(net, plain, dtype)
        for n in (net, plain):
            n.update(gclip=1.0)
            n.reset(keepstate=True)
    for parameter in net.params():
        _same(net.get(parameter), plain.get(parameter), dtype, parameter)


@pytest.mark.parametrize("optimise", [0, 1, 2])
def test_a_prediction_at_the_last_step(optimise: int, backend: str, rng: np.random.Generator) -> None:
    net, plain = _pair("last step", backend, optimise=optimise)
    _forward(net, plain, _steps(rng, 5, INPUTS), "f64")
    x, (y,) = _steps(rng, 1, INPUTS)[0], _golds(rng, 1)
    _same(net.sforw(x, predict=True), plain.sforw(x, predict=True), "f64")
    net.backseq([None] * 5 + [y], "softloss")
    plain.sback(y, "softloss")
    for _ in range(5):
        plain.sback()
    _same_gradients(net, plain)


@pytest.mark.parametrize("loss", ["quadloss", None])
def test_some_steps_have_no_gold(loss: str | None, backend: str, rng: np.random.Generator) -> None:
    net, plain = _pair("two layers", backend)
    _forward(net, plain, _steps(rng, 4, INPUTS), "f64", dropout=True)
    ys = [_steps(rng, 1, OUT)[0], None, _steps(rng, 1, OUT)[0], None]
    net.backseq(ys, loss)
    for y in reversed(ys):
        plain.sback(y, None if y is None else loss)
    _same_gradients(net, plain)


IMAGES = """
@knet function net(x; out=3)
    c = cbfp(x; out=4, f=:relu, cwindow=3, pwindow=2)
    h = lstm(c; out=6)
    return wbf(h; out=out, f=:soft)
end
"""
CONVOLVED = """
@knet function net(x; out=3)
    w = par(init=Gaussian(0, 0.1), dims=(3,3,0,2))
    h = tanh(conv(w, h; padding=1) .+ x)
    p = pool(h; window=2)
    return wbf(p; out=out, f=:soft)
end
"""


@pytest.mark.parametrize(("source", "channels"), [(IMAGES, 3), (CONVOLVED, 2)], ids=["before", "in the loop"])
def test_images_over_time(source: str, channels: int, backend: str, rng: np.random.Generator) -> None:
    net, plain = (
        knetc.compile(source, backend=b, dtype="f64", optimise=o, seed=4) for b, o in ((backend, 2), ("numpy", 0))
    )
    for count in (3, 2):
        _forward(net, plain, [rng.standard_normal((6, 6, channels, BATCH)) for _ in range(count)], "f64")
    ys = _golds(rng, 5)
    net.backseq(ys, "softloss")
    for y in reversed(ys):
        plain.sback(y, "softloss")
    _same_gradients(net, plain)


def test_what_a_sequence_refuses(rng: np.random.Generator) -> None:
    """The emitted functions by themselves; what they refuse changes nothing."""
    net, plain = _pair("lstm", "cpu")
    xs, ys = _steps(rng, 3, INPUTS), _golds(rng, 3)
    _forward(net, plain, xs, "f64")
    device = net._engine.device()
    gold, whole = np.asfortranarray(np.concatenate([*ys, *ys], axis=1)), np.zeros((INPUTS, 6))
    refused = [
        (lambda: device.backward_sequence("softloss", gold, None, 6), "the stack has 3 steps, not 6"),
        (lambda: device.backward_sequence("softloss", None, None, 3), "gold is NULL"),
        (lambda: device.backward_sequence("softloss", gold, None, 0), "a sequence of 0 steps"),
        (lambda: device.forward_sequence(frozenset(), [whole], 3), "the state has 7 columns and the batch 2"),
    ]
    for call, message in refused:
        with pytest.raises(knetc.KnetError, match=message):
            call()
    net.backseq(ys, "softloss")
    for y in reversed(ys):
        plain.sback(y, "softloss")
    _same_gradients(net, plain)


def test_sequences_and_single_steps_mix(backend: str, rng: np.random.Generator) -> None:
    """A sequence on the stack is taken off step by step, single steps at once, and one call goes through several."""
    net, plain = _pair("lstm", backend)
    for count in (3, 1, 2, 4):
        _forward(net, plain, _steps(rng, count, INPUTS), "f64")
    ys = _golds(rng, 10)
    for n in (net, plain):
        n.sback(ys[9], "softloss")  # one of four
    dx = [n.sback(ys[8], "softloss", getdx=True) for n in (net, plain)]
    _same(*dx, "f64")
    net.backseq(ys[1:8], "softloss")  # two of four, two, one and two of three
    for y in reversed(ys[1:8]):
        plain.sback(y, "softloss")
    for n in (net, plain):
        n.sback(ys[0], "softloss")
    _same_gradients(net, plain)


def test_longer_and_shorter_sequences(backend: str, rng: np.random.Generator) -> None:
    """Memory grows with the steps and the batch, and smaller ones come after larger ones."""
    net, plain = _pair("gru", backend)
    for count, batch in ((2, 3), (9, 3), (4, 3), (3, 11), (12, 11), (1, 11), (2, 5)):
        for n in (net, plain):
            n.reset()
        xs = _steps(rng, count, INPUTS, batch)
        _forward(net, plain, xs, "f64")
        y = np.eye(OUT)[:, rng.integers(0, OUT, batch)]
        net.backseq([y] * count, "softloss")
        for _ in xs:
            plain.sback(y, "softloss")
        _same_gradients(net, plain)
        _same(net.forw(xs[0]), plain.forw(xs[0]), "f64")
        for n in (net, plain):
            n.back(y, "softloss")
        _same_gradients(net, plain)


def test_random_draws_are_those_of_the_steps(backend: str, rng: np.random.Generator) -> None:
    """To the bit: what a dropped-out sequence lets through."""
    source = "@knet function net(x)\n    h = 0.5*h + drop(x; pdrop=0.5)\n    return h\nend\n"
    net, plain = (knetc.compile(source, backend=b, dtype="f64", seed=9) for b in (backend, "numpy"))
    for count in (3, 5):
        xs = [np.ones((2, BATCH)) for _ in range(count)]
        whole = net.forwseq(xs, dropout=True)
        single = [plain.sforw(x, dropout=True) for x in xs]
        np.testing.assert_array_equal(np.stack(whole), np.stack(single))


def test_training_over_time(backend: str, rng: np.random.Generator) -> None:
    source = CELLS["lstm"].replace("out=3", "out=4")
    net, plain = (
        knetc.compile(source, backend=b, dtype="f64", optimise=o, seed=4) for b, o in ((backend, 2), ("numpy", 0))
    )
    data = [np.eye(INPUTS)[:, s] for s in rng.integers(0, INPUTS, (12, BATCH))]
    losses = [n.train(data, "softloss", epochs=2, seqlength=4, progress=False, gclip=1.0) for n in (net, plain)]
    _same(losses[0], losses[1], "f64")


def _given(kind: str, symbols: np.ndarray) -> list[Any]:
    """Steps, each a matrix, the rows of its 1s, or one-hot; or now this and now that."""
    forms = {
        "dense": lambda s: np.eye(INPUTS)[:, s],
        "rows": lambda s: s,
        "one-hot": lambda s: knetc.onehot(s, INPUTS),
        "weights": lambda s: 0.8 * np.eye(INPUTS)[:, s] + 0.05,
    }
    chosen = [forms[kind]] if kind != "mixed" else [*forms.values()][:3]
    return [chosen[t % len(chosen)](s) for t, s in enumerate(symbols)]


@pytest.mark.parametrize("dtype", ["f64", "f32"])
@pytest.mark.parametrize("given", ["dense", "rows", "one-hot", "weights", "mixed"])
def test_training_over_time_is_the_loop_written_out(
    given: str, dtype: str, backend: str, rng: np.random.Generator
) -> None:
    """With dropout, clipping, a shorter last segment, a second pass, and a pass that goes on with the state."""
    source = CELLS["two layers"].replace("out=3", "out=4")
    net, plain = (
        knetc.compile(source, backend=b, dtype=dtype, optimise=o, seed=4) for b, o in ((backend, 2), ("numpy", 0))
    )
    for n in (net, plain):
        n.setp(lr=0.1, momentum=0.5)
        n.forw(np.ones((INPUTS, BATCH)))  # rows of 1s do not say how many there are
    data = _given(given, rng.integers(0, INPUTS, (12, BATCH)))
    options: dict[str, Any] = {"seqlength": 4, "progress": False, "gclip": 0.5, "dropout": True}
    losses = net.train(data, "quadloss", epochs=2, **options) + net.train(data, "quadloss", keepstate=True, **options)
    expected = []
    for keep in (False, False, True):
        plain.reset(keepstate=keep)
        for first in range(0, 11, 4):
            steps = data[first : first + 5]
            values = [plain.sforw(x, dropout=True) for x in steps[:-1]]
            wanted = [_matrix(y) for y in steps[1:]]
            expected.append(np.mean([knetc.quadloss(v, y) for v, y in zip(values, wanted, strict=True)]))
            for y in reversed(wanted):
                plain.sback(y, "quadloss")
            plain.update(gclip=0.5)
            plain.reset(keepstate=True)
    _same(losses, expected, dtype)
    for name in net.params():
        _same(net.get(name), plain.get(name), dtype, name)
    for name in net.state():
        _same(net.get(name), plain.get(name), dtype, name)
    for name in ("return", "x"):
        _same(net.get(name), plain.get(name), dtype, name)
    with pytest.raises(knetc.KnetStateError, match="there are no gradients"):
        net.update()


def _matrix(y: Any) -> np.ndarray:
    """What is desired, as a matrix."""
    return np.asarray(y if not isinstance(y, np.ndarray) or y.ndim == 2 else knetc.onehot(y, INPUTS))


@pytest.mark.parametrize("optimise", [1, 2])
def test_training_over_time_copies_no_values_back(
    optimise: int, backend: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In emitted code whose sequences run at once; elsewhere it makes the calls one by one."""
    source = CELLS["lstm"].replace("out=3", "out=4")
    net, calls = knetc.compile(source, backend=backend, optimise=optimise), []
    data = _given("one-hot", rng.integers(0, INPUTS, (12, BATCH)))
    net.forw(data[0])
    device = net._engine.device()
    for name in ("forward", "forward_sequence", "train_over_time"):
        real = getattr(device, name, None)
        monkeypatch.setattr(
            device, name, lambda *given, n=name, r=real, **more: calls.append(n) or r(*given, **more), raising=False
        )
    net.train(data, "softloss", seqlength=4, progress=False)
    at_once = backend != "numpy" and optimise == 2
    assert ("train_over_time" in calls) == at_once
    assert bool({"forward", "forward_sequence"} & set(calls)) != at_once


@pytest.mark.parametrize("wrong", ["nan", "columns", "rows", "condition", "result", "loss"])
def test_what_is_wrong_in_training_over_time(wrong: str, backend: str, rng: np.random.Generator) -> None:
    """Is said as by single steps; the parameters stay, where it is in the first segment."""
    net = knetc.compile(CELLS["lstm"].replace("out=3", "out=4"), backend=backend)
    data = _given("weights", rng.integers(0, INPUTS, (6, BATCH)))
    net.forw(data[0])
    net.reset()
    before = {name: net.get(name) for name in net.params()}
    kind, text = {
        "nan": (knetc.KnetTypeError, "must be finite"),
        "columns": (knetc.KnetShapeError, "the batch size differs between the steps|shape"),
        "rows": (knetc.KnetShapeError, "shape"),
        "condition": (knetc.KnetNameError, "no condition"),
        "result": (knetc.KnetShapeError, "ygold"),
        "loss": (knetc.KnetTypeError, "no gradient"),
    }[wrong]
    if wrong == "nan":
        data[3] = np.full((INPUTS, BATCH), np.nan)
    elif wrong == "columns":
        data[2] = data[2][:, :3]
    elif wrong == "rows":
        data[4] = np.ones((INPUTS + 1, BATCH))
    elif wrong == "result":
        net = knetc.compile(CELLS["lstm"], backend=backend)
        before = {}
    with pytest.raises(kind, match=text):
        conditions = {"nothing": True} if wrong == "condition" else {}
        net.train(data, "zeroone" if wrong == "loss" else "softloss", seqlength=5, progress=False, **conditions)
    for name, value in before.items():
        np.testing.assert_array_equal(net.get(name), value)
    if wrong != "result":
        net.reset()
        data = _given("dense", rng.integers(0, INPUTS, (6, BATCH)))
        assert np.isfinite(net.train(data, "softloss", seqlength=5, progress=False)).all()


@pytest.mark.parametrize("change", [None, "two ones", "a half", "none"])
def test_one_hot_inputs(change: str | None, backend: str, rng: np.random.Generator) -> None:
    """Products with one-hot inputs pick columns, unless a single column is not one-hot."""
    net, plain = _pair("gru", backend)
    for _ in range(2):
        xs = [np.eye(INPUTS)[:, rng.integers(0, INPUTS, BATCH)] for _ in range(4)]
        if change:
            xs[2][:, 3] = {"two ones": [1, 0, 1, 0], "a half": [0, 0, 0.5, 0], "none": [0, 0, 0, 0]}[change]
        _forward(net, plain, xs, "f64")
        ys = _golds(rng, 4)
        net.backseq(ys, "softloss")
        for y in reversed(ys):
            plain.sback(y, "softloss")
        _same_gradients(net, plain)
        for n in (net, plain):
            n.reset(keepstate=True)


def test_the_state_is_kept_when_another_batch_comes(backend: str, rng: np.random.Generator) -> None:
    net, plain = _pair("lstm", backend)
    _forward(net, plain, _steps(rng, 3, INPUTS), "f64")
    with pytest.raises(knetc.KnetStateError, match="the batch has 2 columns"):
        net.forwseq(_steps(rng, 3, INPUTS, 2))
    _forward(net, plain, _steps(rng, 2, INPUTS), "f64")
    ys = _golds(rng, 5)
    net.backseq(ys, "softloss")
    for y in reversed(ys):
        plain.sback(y, "softloss")
    _same_gradients(net, plain)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("name", ["two layers", "noise in the loop"])
def test_any_number_of_threads(
    name: str, batch: int, threads: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With threads that have columns and with threads that share the rows, at a size where one would do."""
    monkeypatch.setattr(cpu, "FLAGS", (*cpu.FLAGS, "-DKNET_THREAD_WORK=1"))
    net, plain = _pair(name, "cpu")
    xs = _steps(rng, 4, INPUTS, batch)
    net.forwseq(xs[:1], dropout=True)
    executable = net._engine.device()
    assert isinstance(executable, CpuExecutable)
    executable.set_threads(threads)
    plain.sforw(xs[0], dropout=True)
    _forward(net, plain, xs, "f64", dropout=True)
    y = np.eye(OUT)[:, rng.integers(0, OUT, batch)]
    net.backseq([y] * 5, "softloss")
    for _ in range(5):
        plain.sback(y, "softloss")
    _same_gradients(net, plain)


def test_steps_of_other_batches_go_back_in_one_call(backend: str, rng: np.random.Generator) -> None:
    """Without state each step may have columns of its own."""
    source = "@knet function net(x)\n    h = wbf(x; out=5, f=:tanh)\n    return wbf(h; out=3, f=:soft)\nend\n"
    net, plain = (knetc.compile(source, backend=b, dtype="f64", seed=4) for b in (backend, "numpy"))
    golds = [np.eye(OUT)[:, rng.integers(0, OUT, batch)] for batch in (2, 2, 5, 1)]
    for gold in golds:
        x = rng.normal(size=(4, gold.shape[1]))
        _same(net.sforw(x), plain.sforw(x), "f64")
    net.backseq(golds, "softloss")
    for gold in reversed(golds):
        plain.sback(gold, "softloss")
    _same_gradients(net, plain)


def test_a_call_in_mid_sequence_is_gone_back_through_after_the_steps(backend: str, rng: np.random.Generator) -> None:
    """What `forw` left is there when `sback` has run, of the same function or another."""
    source = """
@knet function net(x)
    n = rnd(init=Gaussian(0, 0.3))
    if wide
        h = wbf(wbf(wbf(x .+ n; out=9, f=:tanh); out=9, f=:tanh); out=9, f=:tanh)
    else
        h = wbf(x .+ n; out=9, f=:relu)
    end
    return wbf(h; out=3, f=:soft)
end
"""
    net, plain = (knetc.compile(source, backend=b, dtype="f64", seed=4) for b in (backend, "numpy"))
    x, gold = rng.normal(size=(4, 5)), np.eye(OUT)[:, rng.integers(0, OUT, 5)]
    for step, call in ((False, False), (True, False), (False, True)):
        for n in (net, plain):
            n.reset()
            n.sforw(x * 2, wide=step)
            n.forw(x, wide=call)
            n.sback(gold, "softloss")
        _same(net.get("h"), plain.get("h"), "f64")
        for _ in range(2):
            grads = [n.back(gold, "softloss", getdx=True) for n in (net, plain)]
            _same(grads[0], grads[1], "f64")
            _same_gradients(net, plain)
