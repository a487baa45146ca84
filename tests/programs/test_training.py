"""Training end to end on every back end: options, train and test, sequences, determinism."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import manual
import numpy as np
import pytest

import knetc
from knetc.runtime import check

EXACT = {"rtol": 1e-9, "atol": 1e-12}
LINEAR = "@knet function linear(x)\n w = par(dims=(2,3))\n return w * x\nend\n"
DROPOUT = """
@knet function net(x; hidden=6)
    h = wbf(x; out=hidden, f=:tanh)
    d = drop(h; pdrop=0.4)
    return wbf(d; out=3, f=:soft)
end
"""


def _by_hand(options: dict[str, Any], w: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Table 5 of the manual, an option at a time, over a list of gradients that depend on no parameter."""
    slow, m, v = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    lr = options.get("lr", 1.0)
    for t, g in enumerate(gradients, 1):
        dw = g * options.get("gscale", 1.0)
        norm = np.sqrt((g**2).sum())
        if 0 < options.get("gclip", 0) < norm:
            dw = dw * options["gclip"] / norm
        dw = dw + options.get("l1reg", 0) * np.sign(w) + options.get("l2reg", 0) * w
        if options.get("adagrad"):
            slow = slow + dw**2
            dw = dw / (1e-8 + np.sqrt(slow))
        if options.get("rmsprop"):
            slow = 0.9 * slow + 0.1 * dw**2
            dw = dw / (1e-8 + np.sqrt(slow))
        if options.get("adam"):
            m, v = 0.9 * m + 0.1 * dw, 0.999 * v + 0.001 * dw**2
            dw = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        if options.get("momentum"):
            dw = dw + options["momentum"] * slow
            slow = dw
        if options.get("nesterov"):
            slow = options["nesterov"] * slow + dw
            dw = dw + options["nesterov"] * slow
        w = w - lr * dw
    return w


OPTIONS: list[dict[str, Any]] = [
    {},
    {"lr": 0.1},
    {"lr": 0.1, "gclip": 0.5},
    {"lr": 0.1, "gclip": 1e6},
    {"lr": 0.1, "gscale": 3.0, "gclip": 0.7},
    {"lr": 0.1, "l1reg": 0.2},
    {"lr": 0.1, "l2reg": 0.3},
    {"lr": 0.1, "l1reg": 0.2, "l2reg": 0.3},
    {"lr": 0.1, "adagrad": True},
    {"lr": 0.1, "rmsprop": True},
    {"lr": 0.1, "adam": True},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "nesterov": 0.9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "default")
def test_training_options_are_those_of_the_manual(backend: str, options: dict[str, Any]) -> None:
    net = knetc.compile(LINEAR, backend=backend, dtype="f64", seed=3)
    rng = np.random.default_rng(1)
    start = net.get("w")
    net.setp(**options)
    gradients = []
    for _ in range(4):
        x, dy = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
        gradients.append(dy @ x.T)
        net.forw(x)
        net.back(dy)
        net.update()
        np.testing.assert_allclose(net.grad("w"), gradients[-1], **EXACT)
    np.testing.assert_allclose(net.get("w"), _by_hand(options, start, gradients), **EXACT)


def test_the_calls_gclip_and_gscale(backend: str) -> None:
    """A gclip given to update takes the place of the option, gscale multiplies the option's."""
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
    net = knetc.compile(LINEAR, backend=backend, dtype="f64")
    start = net.get("w")
    net.setp(gclip=1e-3, gscale=2.0)
    net.forw(x)
    net.back(dy)
    net.update(gclip=0.5, gscale=3.0)
    expected = _by_hand({"gclip": 0.5, "gscale": 6.0}, start, [dy @ x.T])
    np.testing.assert_allclose(net.get("w"), expected, **EXACT)


def test_options_of_one_parameter_and_the_norm_over_all(backend: str) -> None:
    net = knetc.compile(manual.LINREG2, "linreg2", backend=backend, dtype="f64", inputs=3, outputs=2)
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((3, 5)), rng.standard_normal((2, 5))
    w, b = net.get("w"), net.get("b")
    net.setp(lr=0.5)
    net.setp("b", lr=0.25)
    net.forw(x)
    net.back(dy)
    dw, db = dy @ x.T, dy.sum(axis=1, keepdims=True)
    norm = np.sqrt((dw**2).sum() + (db**2).sum())
    np.testing.assert_allclose(net.gnorm(), norm, **EXACT)
    np.testing.assert_allclose(net.wnorm(), np.sqrt((w**2).sum() + (b**2).sum()), **EXACT)
    net.update(gclip=norm / 4)
    np.testing.assert_allclose(net.get("w"), w - 0.5 * dw / 4, **EXACT)
    np.testing.assert_allclose(net.get("b"), b - 0.25 * db / 4, **EXACT)


def test_a_parameter_that_the_last_pass_did_not_reach_has_gradient_zero(backend: str) -> None:
    source = """
    @knet function f(x)
        u = par(dims=(2,3))
        v = par(dims=(2,3))
        if second
            return v * x
        else
            return u * x
        end
    end
    """
    net = knetc.compile(source, backend=backend, dtype="f64")
    x, dy = np.ones((3, 4)), np.ones((2, 4))
    net.forw(x)
    net.back(dy)
    assert net.grad("u").all() and not net.grad("v").any()
    u, v = net.get("u"), net.get("v")
    net.update()
    assert (net.get("u") == u - 4).all()
    np.testing.assert_array_equal(net.get("v"), v)
    net.forw(x, second=True)
    net.back(dy)
    assert net.grad("v").all() and not net.grad("u").any()


def _blobs(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    centres = np.array([[0, 2, -2], [2, -1, -1], [0.5, 0.5, 0.5]])
    return np.asfortranarray(centres[:, labels] + 0.4 * rng.standard_normal((3, n)), np.float32), labels


def test_train_is_the_loop_written_out(backend: str) -> None:
    x, y = _blobs()
    data = knetc.minibatch(x, y, 16)
    nets = [knetc.compile(DROPOUT, backend=backend, seed=5) for _ in range(2)]
    for net in nets:
        net.setp(lr=0.3)
    losses = nets[0].train(data, knetc.softloss, epochs=3, gclip=2.0, progress=False, dropout=True)
    expected = []
    for _ in range(3):
        for xb, yb in data:
            expected.append(knetc.softloss(nets[1].forw(xb, dropout=True), yb))
            nets[1].back(yb, knetc.softloss)
            nets[1].update(gclip=2.0)
    assert len(losses) == 12
    # One call for many minibatches (cpu) adds the loss up in another order.
    same = (
        np.testing.assert_array_equal if backend != "cpu" else partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    )
    same(losses, expected)
    for name in nets[0].params():
        same(nets[0].get(name), nets[1].get(name))
        same(nets[0].grad(name), nets[1].grad(name))
    tested = nets[0].test(data, "zeroone")
    assert tested == np.mean([knetc.zeroone(nets[1].forw(xb), yb) for xb, yb in data])


OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "gscale": 0.5, "l2reg": 0.01},
    {"lr": 0.01, "adam": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=map("-".join, OPTIONS))
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "one-hot"])
def test_train_in_one_call_is_the_loop_written_out(backend: str, sparse: bool, options: dict[str, Any]) -> None:
    """With a smaller last minibatch, each kind of option, and one-hot columns given as rows or as a matrix."""
    rows, labels = np.random.default_rng(3).integers(0, 6, 43), np.random.default_rng(4).integers(0, 3, 43)
    x = knetc.onehot(rows, 6)
    data = knetc.minibatch(x if sparse else x.dense(np.float64), labels, 9)
    source = "@knet function f(x)\n h = wbf(x; out=7, f=:tanh)\n return wbf(h; out=3, f=:soft)\nend\n"
    nets = [knetc.compile(source, backend=backend, seed=5, dtype="f64") for _ in range(2)]
    for net in nets:
        net.setp(**options)
        net.setp("h/b", lr=0.3)
    losses = nets[0].train(data, knetc.softloss, epochs=2, progress=False)
    expected = []
    for _ in range(2):
        for xb, yb in data:
            expected.append(knetc.softloss(nets[1].forw(xb), yb))
            nets[1].back(yb, knetc.softloss)
            nets[1].update()
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for name in nets[0].params():
        np.testing.assert_allclose(nets[0].get(name), nets[1].get(name), rtol=1e-9)
        np.testing.assert_allclose(nets[0].grad(name), nets[1].grad(name), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(nets[0].get("return"), nets[1].get("return"), rtol=1e-9)
    np.testing.assert_array_equal(nets[0].get("x"), nets[1].get("x"))


TWO = """
@knet function two(x, z; out=3)
    h = drop(wbf2(x, z; out=6, f=:tanh); pdrop=0.4)
    return wbf(h; out=out, f=:soft)
end
"""


@pytest.mark.parametrize("sparse", ["neither", "one", "both"])
@pytest.mark.parametrize("loss", ["softloss", "quadloss"])
def test_train_of_several_inputs_in_one_call_is_the_loop_written_out(backend: str, loss: str, sparse: str) -> None:
    rng = np.random.default_rng(5)
    x = knetc.onehot(rng.integers(0, 4, 43), 4) if sparse != "neither" else rng.standard_normal((4, 43))
    z = knetc.onehot(rng.integers(0, 5, 43), 5) if sparse == "both" else rng.standard_normal((5, 43))
    data = knetc.minibatch((x, z), rng.integers(0, 3, 43), 9)
    nets = [knetc.compile(TWO, backend=backend, seed=5, dtype="f64") for _ in range(2)]
    for net in nets:
        net.setp(lr=0.1, momentum=0.5)
    losses = nets[0].train(data, loss, epochs=2, gclip=0.3, progress=False, dropout=True)
    expected = []
    for _ in range(2):
        for inputs, gold in data:
            expected.append(getattr(knetc, loss)(nets[1].forw(*inputs, dropout=True), gold))
            nets[1].back(gold, loss)
            nets[1].update(gclip=0.3)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for name in nets[0].params():
        np.testing.assert_allclose(nets[0].get(name), nets[1].get(name), rtol=1e-9)
        np.testing.assert_allclose(nets[0].grad(name), nets[1].grad(name), rtol=1e-9, atol=1e-12)
    for name in ("return", "x", "z"):
        np.testing.assert_allclose(nets[0].get(name), nets[1].get(name), rtol=1e-9)


def test_train_of_several_inputs_is_one_call(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No forward call of its own, but where the interpreter runs."""
    x, z, y = np.ones((4, 40)), np.ones((5, 40)), np.zeros(40, int)
    net, calls = knetc.compile(TWO, backend=backend), []
    net.forw(x, z)
    device = net._engine.device()
    forward = device.forward
    monkeypatch.setattr(device, "forward", lambda *given, **more: calls.append(1) or forward(*given, **more))
    net.train(knetc.minibatch((x, z), y, 10), "softloss", progress=False)
    assert len(calls) == (4 if backend == "numpy" else 0)


def test_passes_in_one_call_of_train_are_as_many_calls(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pass is one call of the back end, the data are looked through for NaN once for all passes."""
    x, y = _blobs()
    found: list[tuple[list[float], np.ndarray[Any, Any]]] = []
    looked: list[int] = []
    finite = check.finite
    monkeypatch.setattr(check, "finite", lambda a, *more: looked.append(a.size) or finite(a, *more))
    for calls, epochs in ((3, 1), (1, 3)):
        net = knetc.compile(DROPOUT, backend=backend, seed=1)
        net.forw(x[:, :1])
        net.setp(lr=0.5)
        looked.clear()
        data = knetc.minibatch(x, y, 20)
        losses = [loss for _ in range(calls) for loss in net.train(data, "softloss", epochs=epochs, progress=False)]
        found.append((losses, net.get(next(iter(net.params())))))
        assert backend == "numpy" or looked.count(x.size) == calls
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_no_pass_at_all_does_nothing(backend: str) -> None:
    """Not even with data that would be refused; the sizes stay open."""
    x, y = _blobs()
    net = knetc.compile(DROPOUT, backend=backend, seed=1)
    assert net.train(knetc.minibatch(np.full_like(x, np.nan), y, 20), "softloss", epochs=0, progress=False) == []
    assert net.forw(np.ones((7, 2))).shape[1] == 2


@pytest.mark.parametrize("wrong", ["nan", "rows", "count"])
def test_wrong_inputs_of_several_are_refused_before_anything_is_trained(backend: str, wrong: str) -> None:
    x, z, y = np.ones((4, 40)), np.ones((5 + (wrong == "rows"), 40)), np.zeros(40, int)
    net = knetc.compile(TWO, backend=backend)
    net.forw(x[:, :10], np.ones((5, 10)))
    before = {name: net.get(name) for name in net.params()}
    z[2, 7] = np.nan if wrong == "nan" else 1
    inputs = (knetc.onehot(np.zeros(40, int), 4), z) if wrong != "count" else (x, z, z)
    with pytest.raises(knetc.KnetError, match={"nan": "input z", "rows": "input z", "count": "2 inputs"}[wrong]):
        net.train(knetc.minibatch(inputs, y, 40), "softloss", progress=False)
    for name, value in before.items():
        np.testing.assert_array_equal(net.get(name), value)


def test_training_lowers_the_loss(backend: str) -> None:
    x, y = _blobs()
    net = knetc.compile(DROPOUT, backend=backend, seed=1)
    net.setp(lr=0.5)
    data = knetc.minibatch(x, y, 20)
    net.train(data, "softloss", epochs=30, progress=False)
    assert net.test(data, knetc.zeroone) < 0.05


def test_the_same_seed_gives_the_same_run_and_another_seed_another(backend: str) -> None:
    x, y = _blobs()
    data = knetc.minibatch(x, y, 16)

    def run(seed: int) -> tuple[list[float], np.ndarray]:
        net = knetc.compile(DROPOUT, backend=backend, seed=seed)
        return net.train(data, "softloss", progress=False, dropout=True), net.get("h/w")

    first, again, other = run(4), run(4), run(5)
    assert first[0] == again[0] != other[0]
    np.testing.assert_array_equal(first[1], again[1])


def test_every_back_end_draws_the_same_numbers(backend: str) -> None:
    """Initial weights and masks are those of the interpreter, to the bit."""
    nets = [knetc.compile(DROPOUT, backend=b, seed=2) for b in ("numpy", backend)]
    x, _ = _blobs(7)
    for _ in range(2):
        for net in nets:
            net.forw(x, dropout=True)
        np.testing.assert_array_equal(*[net.get("d") == 0 for net in nets])
    for name in nets[0].params():
        np.testing.assert_array_equal(*[net.get(name) for net in nets])


def test_dropout_masks_do_not_depend_on_how_many_columns_follow(backend: str) -> None:
    x, _ = _blobs(9)
    masks = []
    for size in (9, 4, 1):
        net = knetc.compile(DROPOUT, backend=backend, seed=2)
        net.forw(x[:, :size], dropout=True)
        masks.append(net.get("d") == 0)
    for size, mask in zip((4, 1), masks[1:], strict=True):
        np.testing.assert_array_equal(mask, masks[0][:, :size])


def test_each_call_draws_anew_and_setseed_begins_again(backend: str) -> None:
    x, _ = _blobs(20)
    net = knetc.compile(DROPOUT, backend=backend, seed=2)

    def mask() -> list[bool]:
        net.forw(x, dropout=True)
        return (net.get("d") == 0).ravel().tolist()

    first, second = mask(), mask()
    assert first != second
    weights = net.get("h/w")
    net.setseed(2)
    assert [mask(), mask()] == [first, second]
    net.setseed(3)
    assert mask() != first
    np.testing.assert_array_equal(net.get("h/w"), weights)


def test_ctrl_c_stops_after_a_whole_step(backend: str) -> None:
    x, y = _blobs()
    nets = [knetc.compile(DROPOUT, backend=backend, seed=5) for _ in range(2)]
    data = knetc.minibatch(x, y, 10)

    def interrupted() -> Iterator[Any]:
        for i, pair in enumerate(data):
            if i == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield pair

    handler = signal.getsignal(signal.SIGINT)
    losses = nets[0].train(interrupted(), "softloss", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert losses == nets[1].train(data[:3], "softloss", progress=False)
    for name in nets[0].params():
        np.testing.assert_array_equal(nets[0].get(name), nets[1].get(name))


def test_ctrl_c_stops_a_loop_of_runs_once(backend: str) -> None:
    """In a block of `stoppable` it interrupts nothing: `train` stops after an update, and later calls do nothing."""
    x, y = _blobs()
    nets = [knetc.compile(DROPOUT, backend=backend, seed=5) for _ in range(2)]
    data = list(knetc.minibatch(x, y, 10))

    def interrupted() -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGINT)
        yield from data

    handler = signal.getsignal(signal.SIGINT)
    with knetc.stoppable() as stopped:
        assert len(nets[0].train(data, "softloss", progress=False)) == len(data) and not stopped.is_set()
        with knetc.stoppable() as inner:
            assert inner is stopped
        assert len(nets[0].train(interrupted(), "softloss", progress=False)) == 1 and stopped.is_set()
        assert nets[0].train(data, "softloss", progress=False) == []
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is handler
    nets[1].train([*data, data[0]], "softloss", progress=False)
    for name in nets[0].params():
        np.testing.assert_array_equal(nets[0].get(name), nets[1].get(name))
    assert len(nets[0].train(data, "softloss", progress=False)) == len(data)


def test_ctrl_c_is_left_alone_in_other_threads() -> None:
    found: list[bool] = []

    def block() -> None:
        with knetc.stoppable() as stopped:
            found.append(signal.getsignal(signal.SIGINT) is handler and not stopped.is_set())

    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert found == [True]


def test_progress_goes_to_standard_error(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = _blobs()
    net = knetc.compile(DROPOUT, backend=backend, seed=5)
    net.train(knetc.minibatch(x, y, 20), "softloss")
    shown = capsys.readouterr()
    assert shown.out == "" and "3/3" in shown.err and "loss" in shown.err


# --- sequences --------------------------------------------------------------------------------------------------------

TEXT = "to be or not to be that is the question " * 6


def test_train_on_time_steps_is_the_manuals_loop(backend: str) -> None:
    """Lesson 10: sforw, sback in reverse, update, reset keeping the state."""
    rows = {c: i for i, c in enumerate(sorted(set(TEXT)))}
    data = knetc.seqbatch(TEXT, rows, 4)
    keywords: dict[str, Any] = {"embedding": 5, "hidden": 8, "pdrop": 0.2, "nchar": len(rows)}
    nets = [knetc.compile(manual.CHARLM, "charlm", backend=backend, dtype="f64", seed=1, **keywords) for _ in range(2)]
    losses = nets[0].train(data, "softloss", gclip=5.0, seqlength=7, progress=False, dropout=True)

    net, expected, stack, total = nets[1], [], [], 0.0
    net.reset()
    steps = len(data) - 1
    for t in range(1, steps + 1):
        y = data[t]
        total += knetc.softloss(net.sforw(data[t - 1], dropout=True), y)
        stack.append(y)
        if t % 7 == 0 or t == steps:
            expected.append(total / len(stack))
            total = 0.0
            while stack:
                net.sback(stack.pop(), knetc.softloss)
            net.update(gclip=5.0)
            net.reset(keepstate=True)
    assert losses == pytest.approx(expected, rel=1e-12) and len(losses) == -(-steps // 7)
    for name in nets[0].params():
        np.testing.assert_allclose(nets[0].get(name), nets[1].get(name), rtol=0, atol=1e-12)

    tested = nets[0].test(data, "softloss")
    net.reset()
    each = [knetc.softloss(net.forw(data[t]), data[t + 1]) for t in range(steps)]
    assert tested == pytest.approx(np.mean(each), rel=1e-12)


def test_a_stopped_pass_goes_on_with_keepstate(backend: str) -> None:
    rows = {c: i for i, c in enumerate(sorted(set(TEXT)))}
    data = knetc.seqbatch(TEXT, rows, 4)
    keywords: dict[str, Any] = {"embedding": 5, "hidden": 8, "pdrop": 0.2, "nchar": len(rows)}
    nets = [knetc.compile(manual.CHARLM, "charlm", backend=backend, seed=1, **keywords) for _ in range(2)]
    options: dict[str, Any] = {"seqlength": 7, "progress": False, "dropout": True}
    losses = nets[0].train(data, "softloss", epochs=2, **options)
    parts = nets[1].train(data[:15], "softloss", **options)
    parts += nets[1].train(data[14:], "softloss", keepstate=True, **options)
    parts += nets[1].train(data, "softloss", **options)
    assert parts == losses
    for name in nets[0].params():
        np.testing.assert_array_equal(nets[0].get(name), nets[1].get(name))
    x, y = _blobs()
    with pytest.raises(knetc.KnetTypeError, match="keepstate goes with seqlength"):
        nets[0].train(knetc.minibatch(x, y, 10), "softloss", keepstate=True)
    with pytest.raises(knetc.KnetTypeError, match="option keepstate is True or False"):
        nets[0].train(data, "softloss", keepstate=1, **options)  # type: ignore[arg-type]


def test_a_character_model_learns_its_text(backend: str) -> None:
    rows = {c: i for i, c in enumerate(sorted(set(TEXT)))}
    data = knetc.seqbatch(TEXT, rows, 2)
    net = knetc.compile(manual.CHARLM, "charlm", backend=backend, seed=1, embedding=8, hidden=24, nchar=len(rows))
    net.setp(adam=True, lr=0.02)
    losses = net.train(data, "softloss", epochs=12, gclip=5.0, seqlength=10, progress=False)
    assert losses[0] == pytest.approx(np.log(len(rows)), rel=0.1)
    assert np.mean(losses[-12:]) < 0.25


def test_generating_changes_the_batch_after_a_reset(backend: str) -> None:
    net = knetc.compile(manual.RNN1, backend=backend, hsize=3, xsize=2)
    net.forw(np.ones((2, 5)))
    with pytest.raises(knetc.KnetStateError):
        net.forw(np.ones((2, 1)))
    net.reset()
    assert net.forw(np.ones((2, 1))).shape == (3, 1)  # type: ignore[union-attr]


# --- arrays handed in and out -----------------------------------------------------------------------------------------


def test_a_result_is_the_users_to_change(backend: str) -> None:
    net = knetc.compile(manual.SOFTMAX, "softmax", backend=backend, dtype="f64", out=3)
    x, y = _blobs(5)
    p = net.forw(x)
    kept = p.copy()
    p[...] = 7
    np.testing.assert_array_equal(net.get("return"), kept)
    net.back(y, "softloss")
    np.testing.assert_allclose(net.grad("z/b")[:, 0], (kept - np.eye(3)[:, y]).sum(axis=1) / 5, **EXACT)


def test_inputs_of_a_sequence_may_be_filled_anew(backend: str) -> None:
    """One buffer for the input of every step, as in the manual's generator."""
    net = knetc.compile(manual.RNN1, backend=backend, dtype="f64", hsize=3, xsize=2)
    xs, dy = np.random.default_rng(0).standard_normal((4, 2, 5)), np.ones((3, 5))
    net.forwseq(list(xs))
    net.backseq([dy] * 4)
    expected = {n: net.grad(n) for n in net.params()}
    net.reset()
    buffer = np.zeros((2, 5), order="F")
    for x in xs:
        buffer[...] = x
        net.sforw(buffer)
    for _ in xs:
        net.sback(dy)
    for name, grad in expected.items():
        np.testing.assert_allclose(net.grad(name), grad, rtol=0, atol=1e-14)


def test_single_precision_agrees_with_double(backend: str) -> None:
    x, y = _blobs(8)
    nets = [knetc.compile(DROPOUT, backend=backend, dtype=d, seed=2) for d in ("f32", "f64")]
    values = [net.forw(x) for net in nets]
    assert [v.dtype for v in values if v is not None] == [np.float32, np.float64]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)
    for net in nets:
        net.back(y, "softloss")
    for name in nets[0].params():
        np.testing.assert_allclose(nets[0].grad(name), nets[1].grad(name), rtol=1e-4, atol=1e-6)


def test_clean_keeps_what_cannot_be_computed_again(backend: str) -> None:
    x, y = _blobs(8)
    nets = [knetc.compile(DROPOUT, backend=backend, seed=2) for _ in range(2)]
    for i, net in enumerate(nets):
        net.setp(adam=True, lr=0.1)
        for _ in range(3):
            net.forw(x, dropout=True)
            net.back(y, "softloss")
            net.update()
            if i:
                net.clean()
    np.testing.assert_array_equal(nets[0].get("h/w"), nets[1].get("h/w"))
    with pytest.raises(knetc.KnetStateError, match="no value"):
        nets[1].get("d")


def test_gradcheck_on_every_back_end(backend: str) -> None:
    x, y = _blobs(6)
    net = knetc.compile(DROPOUT, backend=backend, seed=2)
    before = net.forw(x)
    weights = net.get("h/w")
    assert net.gradcheck(x, y, knetc.softloss, dropout=True) < 1e-6
    assert net.gradcheck(x, np.random.default_rng(0).random((3, 6)), "quadloss") < 1e-6
    np.testing.assert_array_equal(net.get("h/w"), weights)
    np.testing.assert_array_equal(net.get("return"), before)
