"""Whole models: the emitted code against the interpreter, forward, backward and update, over batches and conditions."""

from __future__ import annotations

import numpy as np
import pytest

from knetc.errors import KnetError, KnetStateError
from knetc.ir.types import N
from knetc.runtime.executable import TrainingOptions

from .support import NONE, NUMPY, ROOT, both, close, compiled

pytestmark = pytest.mark.usefixtures("target")

MLP = """
@knet function mlp(x; hidden=12, out=5)
    h = wbf(x; out=hidden, f=:tanh)
    d = drop(h; pdrop=0.4)
    return wbf(d; out=out, f=:soft)
end
"""
LENET = """
@knet function lenet(x)
    c = cbfp(x; out=3, f=:relu, cwindow=3, pwindow=2)
    d = cbfp(c; out=4, f=:sigm, cwindow=2, pwindow=2, ppadding=1, pmode=CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING)
    return wbf(d; out=5, f=:soft)
end
"""
MANY = """
@knet function many(x, z)
    a = par(init=Gaussian(0, 0.3), dims=(6, 0))
    b = par(init=Identity(2), dims=(6, 6))
    c = arr(init=[1.0 2.0 3.0 4.0 5.0 6.0])
    y = tanh(b * (a * x)) .* (z .^ 2 .+ 1)
    if second
        y2 = y .* y - 0.5 * z
    else
        y2 = c * y ./ 3
    end
    return y2
end
"""
MODELS = {
    "mlp": (MLP, ((9, N),), (5, N)),
    "lenet": (LENET, ((9, 8, 2, N),), (5, N)),
}


def data(shapes, batch, dtype, seed=0):
    r = np.random.default_rng(seed)
    return [np.asfortranarray(r.normal(size=[batch if d is N else d for d in s]), NUMPY[dtype]) for s in shapes]


def onehot(rows, batch, dtype, seed=1):
    gold = np.zeros((rows, batch), NUMPY[dtype], order="F")
    gold[np.random.default_rng(seed).integers(0, rows, batch), np.arange(batch)] = 1
    return gold


def readable(executable, variant):
    """The variables that have memory; those of definitions that the model calls may have none."""
    found = set()
    for variable, _ in variant.names:
        try:
            executable.read("value", variable)
            found.add(variable)
        except KeyError:
            assert "/" in variable
    return found


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", MODELS)
def test_training_agrees_with_the_interpreter(name, dtype):
    source, shapes, (rows, _) = MODELS[name]
    program, options = compiled(source, inputs=shapes, dtype=dtype)
    emitted, meaning = both(program, options)
    for param in program.params():
        assert np.array_equal(emitted.read("par", param), meaning.read("par", param))  # drawn to the bit
    settings = [frozenset(s) for v in program.variants for s in v.settings]
    for step, batch in enumerate([4, 1, 9, 3]):
        inputs = data(shapes, batch, dtype, step)
        gold = onehot(rows, batch, dtype)
        mask = None if step % 2 else np.asfortranarray(np.arange(batch) % 2, NUMPY[dtype])
        for setting in settings:
            got, want = (e.forward(setting, inputs, push=False) for e in (emitted, meaning))
            close(got, want, dtype, terms=100)
            for loss in ("softloss", "quadloss", "none"):
                dx, dwant = (e.backward(loss, gold, mask, [0], pop=False)[0] for e in (emitted, meaning))
                close(dx, dwant, dtype, terms=100)
                for param in program.params():
                    close(emitted.read("grad", param), meaning.read("grad", param), dtype, terms=100 * batch)
            for variable, _ in program.variant(setting).names:
                if "/" in variable:  # of a definition that the model calls: not kept by the optimiser
                    continue
                close(emitted.read("value", variable), meaning.read("value", variable), dtype, terms=100)
        training = {p: TrainingOptions(lr=0.05, momentum=0.9) for p in program.params()}
        for e in (emitted, meaning):
            e.update(training, gclip=1.0, gscale=2.0)
    for param in program.params():
        close(emitted.read("par", param), meaning.read("par", param), dtype, terms=1000)


def test_inputs_conditions_and_constants():
    program, options = compiled(MANY, inputs=((4, N), (6, N)))
    emitted, meaning = both(program, options)
    inputs = data(((4, N), (6, N)), 7, "f32")
    for setting in (NONE, frozenset({"second"})):
        got, want = (e.forward(setting, inputs, push=False) for e in (emitted, meaning))
        close(got, want, "f32", terms=10)
        gold = np.ones_like(want)
        for wanted in ([], [0], [1], [1, 0]):
            a, b = (e.backward("quadloss", gold, None, wanted, pop=False) for e in (emitted, meaning))
            assert a.keys() == b.keys()
            for index in wanted:
                close(a[index], b[index], "f32", terms=50)
    assert np.array_equal(emitted.read("par", "b"), 2 * np.eye(6))


OPTIONS = [
    TrainingOptions(),
    TrainingOptions(lr=0.1, gscale=0.5),
    TrainingOptions(lr=0.1, gclip=0.01),
    TrainingOptions(lr=0.1, l1reg=0.02),
    TrainingOptions(lr=0.1, l2reg=0.3),
    TrainingOptions(lr=0.1, adagrad=True),
    TrainingOptions(lr=0.1, rmsprop=True),
    TrainingOptions(lr=0.01, adam=True),
    TrainingOptions(lr=0.1, momentum=0.9),
    TrainingOptions(lr=0.1, nesterov=0.8),
    TrainingOptions(0.02, 0.01, 0.02, True, True, True, 0.5, 0.4, 3.0, 2.0),
]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_training_options(dtype):
    # Against the interpreter, each option over several steps of one model; gradients far from 0, where adam divides.
    source = (
        "@knet function linreg(x)\n w = par(dims=(3,0))\n b = par(init=Constant(0.5), dims=(0,))\n return w*x .+ b\nend"
    )
    program, options = compiled(source, inputs=((4, N),), dtype=dtype)
    emitted, meaning = both(program, options)
    inputs = [np.abs(a) for a in data(((4, N),), 6, dtype)]
    start = {p: meaning.read("par", p) for p in program.params()}
    for training in OPTIONS:
        for e in (emitted, meaning):
            for p, value in start.items():
                e.write("par", p, value)
        for step in range(4):
            gold = np.full((3, 6), 20 + step, NUMPY[dtype], order="F")
            for e in (emitted, meaning):
                e.forward(NONE, inputs, push=False)
                e.backward("quadloss", gold, None, [], pop=False)
                e.update({"w": training, "b": TrainingOptions(lr=0.01)}, gclip=5.0 if step == 3 else 0.0, gscale=1.0)
            for p in start:
                close(emitted.read("par", p), meaning.read("par", p), dtype, terms=200)


def test_same_bits_again():
    # No atomics, no order that may change: two models, the same numbers to the bit, whatever the batch before was.
    program, options = compiled(LENET, inputs=((9, 8, 2, N),))
    first, second = (both(program, options)[0] for _ in range(2))
    inputs, gold = data(((9, 8, 2, N),), 5, "f32"), onehot(5, 5, "f32")
    first.forward(NONE, data(((9, 8, 2, N),), 20, "f32"), push=False)
    for e in (first, second):
        e.forward(NONE, inputs, push=False)
        e.backward("softloss", gold, None, [], pop=False)
    for param in program.params():
        assert np.array_equal(first.read("grad", param), second.read("grad", param))


def test_losses_by_value():
    program, options = compiled(MLP, inputs=((9, N),))
    emitted, _ = both(program, options)
    (x,), gold = data(((9, N),), 6, "f32"), onehot(5, 6, "f32")
    y = emitted.forward(NONE, [x], push=False).astype(float)
    assert emitted.loss("quadloss", gold) == pytest.approx(((y - gold) ** 2).sum() / 2 / 6, rel=1e-6)
    assert emitted.loss("softloss", gold) == pytest.approx(-(gold * np.log(y)).sum() / 6, rel=1e-6)


def test_dropout_masks_differ_from_call_to_call_and_repeat_with_the_seed():
    program, options = compiled(MLP, inputs=((9, N),))
    emitted, meaning = both(program, options, seed=3)
    (x,) = data(((9, N),), 50, "f32")
    drop = frozenset({"dropout"})
    calls = [emitted.forward(drop, [x], push=False) for _ in range(3)]
    assert not np.array_equal(calls[0], calls[1])
    for want in calls:
        close(meaning.forward(drop, [x], push=False), want, "f32", terms=20)
    emitted.set_seed(3)
    assert np.array_equal(emitted.forward(drop, [x], push=False), calls[0])


def test_calls_out_of_order_and_errors_leave_the_model_as_it_was():
    program, options = compiled(MLP, inputs=((9, N),))
    emitted, _ = both(program, options)
    (x,), gold = data(((9, N),), 6, "f32"), onehot(5, 6, "f32")
    with pytest.raises(KnetStateError, match="backward comes after forward"):
        emitted.backward("softloss", gold, None, [], pop=False)
    with pytest.raises(KnetStateError, match="update comes after backward"):
        emitted.update({}, 0.0, 1.0)
    with pytest.raises(KeyError):
        emitted.read("grad", "h/w")
    with pytest.raises(KeyError):
        emitted.read("par", "nothing")
    with pytest.raises(KnetStateError, match="the stack is empty"):
        emitted.backward("softloss", gold, None, [], pop=True)
    before = emitted.forward(NONE, [x], push=False)
    with pytest.raises(KnetError, match="a batch of 300000000 columns is too large"):
        emitted._call("forward", emitted._model, 0, (__import__("ctypes").c_void_p * 1)(x.ctypes.data), 300000000, None)
    assert np.array_equal(emitted.forward(NONE, [x], push=False), before)
    emitted.backward("softloss", gold, None, [], pop=False)
    emitted.clean()
    with pytest.raises(KeyError):
        emitted.read("grad", "h/w")
    assert np.array_equal(emitted.forward(NONE, [x], push=False), before)


def test_examples():
    for name, shape in (("housing", (13, N)), ("softmax", (784, N)), ("lenet_dropout", (28, 28, 1, N))):
        program, options = compiled(ROOT / "examples" / f"{name}.knet", losses=("softloss",), inputs=(shape,))
        emitted, meaning = both(program, options)
        (x,) = data((shape,), 2, "f32")
        close(*(e.forward(NONE, [x], push=False) for e in (emitted, meaning)), "f32", terms=1000)
