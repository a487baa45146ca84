"""Calls captured as CUDA graphs: the same bits as calls that run as they are, captured once and replayed after.

On the emulation, which records a captured stream's work and does it when the graph is launched; what a graph refers to
and is freed, or changes without the graph seeing it, shows.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from knetc.errors import KnetError
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.runtime import emulation
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter
from knetc.runtime.losses import mean_loss

from .support import NONE, close, compiled
from .test_models import data, onehot
from .test_sequences import MODELS, run

NET = """
@knet function net(x)
    c = cbfp(x; out=3, f=:relu, cwindow=3, pwindow=2)
    d = drop(c; pdrop=0.4)
    return wbf(d; out=5, f=:soft)
end
"""
SHAPE = (8, 8, 1, N)


@pytest.fixture
def device(monkeypatch):
    """The emulation library with its counters; its switches as before afterwards."""
    library = ctypes.CDLL(str(emulation.build_library()))
    for name in ("graphs", "graph_launches", "works", "live_objects"):
        getattr(library, f"knetemu_{name}").restype = ctypes.c_longlong
    yield library
    monkeypatch.undo()
    library.knetemu_reload()


def model(monkeypatch, graphs, source=NET, shapes=(SHAPE,), **keywords):
    monkeypatch.setenv("KNETC_GRAPHS", str(graphs))
    program, options = compiled(source, inputs=shapes, losses=LOSSES, **keywords)
    return EmulatedExecutable(program, options, 7)


def training(executable, steps=12):
    """Steps that change all that may change: dropout, batch, loss, mask, options, clipping, wanted gradients, seed."""
    met = []
    for t in range(steps):
        batch = (4, 4, 4, 9, 2)[t % 5]
        setting = frozenset({"dropout"} if t % 3 else ())
        met.append(executable.forward(setting, data((SHAPE,), batch, "f32", t), push=False))
        mask = np.arange(batch, dtype=np.float32) if t % 4 == 2 else None
        loss = ("softloss", "softloss", "none", "quadloss")[t % 4]
        gold = onehot(5, batch, "f32")
        met += executable.backward(loss, gold, None if loss == "none" else mask, [0] if t % 2 else [], False).values()
        o = TrainingOptions(lr=0.1 / (1 + t // 4), adam=t > 3, momentum=0.5 * (t > 6), l2reg=1e-3)
        executable.update(dict.fromkeys(executable.program.params(), o), 0.5 * (t % 3 == 1), 1.0)
        met += [executable.read("par", name) for name in executable.program.params()]
        if t == 8:
            executable.set_seed(99)
        if t == 9:
            executable.clean()
    return met


def test_the_same_bits_as_without_graphs(monkeypatch):
    without, again, at_once = (training(model(monkeypatch, k)) for k in (0, 1, 2))
    assert all(map(np.array_equal, without, again)) and all(map(np.array_equal, without, at_once))
    program, _ = compiled(NET, inputs=(SHAPE,), losses=LOSSES)
    for got, want in zip(without, training(Interpreter(program, 7)), strict=True):
        close(got, want, "f32", terms=600)


@pytest.mark.parametrize("name", MODELS)
def test_sequences_the_same_bits_as_without_graphs(monkeypatch, device, name):
    source, shapes, settings = MODELS[name]
    found = []
    for graphs in (0, 1, 2):
        e = model(monkeypatch, graphs, source, shapes)
        met = []
        for keep, batch in ((True, 4), (True, 4), (False, 4), (False, 7), (False, 7)):
            met += run(e, shapes, settings, batch, "f32")
            e.update(dict.fromkeys(e.program.params(), TrainingOptions(lr=0.1, adam=True)), 1.0, 1.0)
            e.reset(keep)
        found.append(met + [e.read("par", p) for p in e.program.params()])
        e.close()
    assert all(map(np.array_equal, found[0], found[1])) and all(map(np.array_equal, found[0], found[2]))


def test_captured_once_and_replayed(monkeypatch, device):
    """The second step captures forward, backward and update; later ones launch three graphs and little else."""
    e = model(monkeypatch, 1)
    x, gold = data((SHAPE,), 6, "f32"), onehot(5, 6, "f32")
    options = dict.fromkeys(e.program.params(), TrainingOptions(lr=0.1, adam=True))
    made, launched, works = [], [], []
    for _ in range(5):
        before = device.knetemu_graphs(), device.knetemu_graph_launches(), device.knetemu_works()
        e.forward(frozenset({"dropout"}), x, push=False)
        e.backward("softloss", gold, None, [], pop=False)
        e.update(options, 0.0, 1.0)
        after = device.knetemu_graphs(), device.knetemu_graph_launches(), device.knetemu_works()
        for counts, a, b in zip((made, launched, works), after, before, strict=True):
            counts.append(a - b)
    assert made == [0, 3, 0, 0, 0] and launched == [0, 3, 3, 3, 3]
    assert e.graphs() == (3, 0)
    # A copy of input, output and gold each, and the clock of the dropout mask, beside the three graphs.
    assert works[2:] == [7, 7, 7]
    live = device.knetemu_live_objects()
    e.close()
    assert device.knetemu_live_objects() < live


def test_a_step_of_training_is_one_graph(monkeypatch, device):
    """In one call for many minibatches: the first runs as it is, the second is captured, and each after it is a copy of
    the input and of gold, the clock of the dropout mask, the graph, and a copy of its loss; the last one is smaller.
    """
    e, alone = model(monkeypatch, 1), model(monkeypatch, 0)
    options = dict.fromkeys(e.program.params(), TrainingOptions(lr=0.1, adam=True))
    x, gold = data((SHAPE,), 44, "f32")[0], onehot(5, 44, "f32")
    found, counts = [], []
    for columns in (12, 24, 44):
        before = device.knetemu_graphs(), device.knetemu_graph_launches(), device.knetemu_works()
        found += e.train(frozenset({"dropout"}), [x[..., :columns]], gold[:, :columns], 6, "softloss", options, 0.5)
        after = device.knetemu_graphs(), device.knetemu_graph_launches(), device.knetemu_works()
        counts.append(tuple(a - b for a, b in zip(after, before, strict=True)))
    assert [c[:2] for c in counts] == [(1, 1), (0, 4), (0, 7)]
    assert counts[1][2] == 4 * 5 + 1  # and all losses in one copy
    want = []
    for columns in (12, 24, 44):
        for first in range(0, columns, 6):
            here = slice(first, min(first + 6, columns))
            value = alone.forward(frozenset({"dropout"}), [x[..., here]], push=False)
            want.append(mean_loss("softloss", value, gold[:, here]))
            alone.backward("softloss", gold[:, here], None, [], pop=False)
            alone.update(options, 0.5, 1.0)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    for name in e.program.params():
        assert np.array_equal(e.read("par", name), alone.read("par", name))
        assert np.array_equal(e.read("grad", name), alone.read("grad", name))
    assert np.array_equal(e.read("value", "return"), alone.read("value", "return"))


@pytest.mark.parametrize("capture", ["never", "breaks"])
def test_steps_of_training_that_cannot_be_captured_run_as_they_are(monkeypatch, device, capture):
    x, gold = data((SHAPE,), 44, "f32")[0], onehot(5, 44, "f32")
    found = []
    for graphs in (0, 1, 2):
        if graphs:
            monkeypatch.setenv("KNETEMU_CAPTURE", capture)
            device.knetemu_reload()
        e = model(monkeypatch, graphs)
        options = dict.fromkeys(e.program.params(), TrainingOptions(lr=0.1, adam=True))
        losses = [e.train(frozenset({"dropout"}), [x], gold, 6, "softloss", options, 0.5) for _ in range(2)]
        found.append([*map(np.array, losses), *(e.read("par", name) for name in e.program.params())])
        assert e.graphs() == (0, 2 * bool(graphs))
    assert all(map(np.array_equal, found[0], found[1])) and all(map(np.array_equal, found[0], found[2]))


def test_a_sequence_replays_a_graph_for_each_step_of_the_stack(monkeypatch, device):
    source, shapes, settings = MODELS["gru"]
    e = model(monkeypatch, 1, source, shapes)
    made = []
    for _ in range(4):
        before = device.knetemu_graphs()
        run(e, shapes, settings, 4, "f32")
        e.reset(False)
        made.append(device.knetemu_graphs() - before)
    assert made == [0, 2 * len(settings), 0, 0]


@pytest.mark.parametrize("capture", ["never", "breaks"])
def test_without_capture_calls_run_as_they_are(monkeypatch, device, capture):
    want = training(model(monkeypatch, 0))
    monkeypatch.setenv("KNETEMU_CAPTURE", capture)
    device.knetemu_reload()
    launched = device.knetemu_graph_launches()
    for graphs in (1, 2):
        e = model(monkeypatch, graphs)
        assert all(map(np.array_equal, training(e), want))
        assert e.graphs()[0] == 0 and e.graphs()[1] > 5
    assert device.knetemu_graph_launches() == launched


def test_any_call_of_cuda_may_fail_in_a_capture(monkeypatch, device):
    """Whichever call fails in the second step: an error of that step, or none at all, and the next step is right."""
    x, gold = data((SHAPE,), 3, "f32"), onehot(5, 3, "f32")

    def step(e):
        value = e.forward(NONE, x, push=False)
        e.backward("softloss", gold, None, [], pop=False)
        return [value, *(e.read("grad", p) for p in e.program.params())]

    want = step(model(monkeypatch, 0))
    silent = errors = 0
    for n in range(1, 70):
        e = model(monkeypatch, 1)
        step(e)
        monkeypatch.setenv("KNETEMU_FAIL_CALL", str(n))
        device.knetemu_reload()
        try:
            assert all(map(np.array_equal, step(e), want))
            silent += 1
        except (KnetError, KeyError):  # KeyError where it was a read that failed
            errors += 1
        monkeypatch.delenv("KNETEMU_FAIL_CALL")
        device.knetemu_reload()
        assert all(map(np.array_equal, step(e), want))
        e.close()
    assert silent > 5 and errors > 5


@pytest.mark.parametrize(
    "settings,forward,data_algorithm,filter_algorithm",
    [
        # As the emulation lists them: heuristics 1, 2, 0 forward, 0 and 1 for data, 3, 1 and 0 for the filter; a search
        # finds the reverse; data 0 and filter 0 and 3 are not deterministic.
        ({}, 1, 1, 1),
        ({"KNETC_DETERMINISTIC": "0"}, 1, 0, 3),
        ({"KNETC_SEARCH": "1"}, 0, 1, 1),
        ({"KNETC_SEARCH": "1", "KNETC_DETERMINISTIC": "0"}, 0, 1, 0),
    ],
)
@pytest.mark.parametrize("graphs", [1, 2])
def test_how_algorithms_are_chosen(monkeypatch, device, graphs, settings, forward, data_algorithm, filter_algorithm):
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    source = "@knet function f(x)\n return wconv(wconv(x; out=2, window=3); out=2, window=3)\nend"
    e = model(monkeypatch, graphs, source)
    meaning = Interpreter(e.program, 7)
    for t, batch in enumerate((3, 3, 5, 3, 3)):
        x = data((SHAPE,), batch, "f32", t)
        got, want = (m.forward(NONE, x, push=False) for m in (e, meaning))
        close(got, want, "f32", terms=600)
        for m in (e, meaning):
            m.backward("quadloss", np.zeros_like(want), None, [], pop=False)
        for name in e.program.params():
            close(e.read("grad", name), meaning.read("grad", name), "f32", terms=6000)
    assert [device.knetemu_convolution(k) for k in range(3)] == [forward, data_algorithm, filter_algorithm]


@pytest.mark.parametrize("variable,value", [("KNETC_GRAPHS", "3"), ("KNETC_SEARCH", "yes"), ("KNETC_SEARCH", "-1")])
def test_a_wrong_setting(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    program, options = compiled(NET, inputs=(SHAPE,))
    with pytest.raises(KnetError, match=f"{variable}={value}: the variable is 0 or 1"):
        EmulatedExecutable(program, options, 7)


def test_streams_that_wait_for_each_other(monkeypatch):
    """What another stream writes before `wait_for` is read, and what is put on it after `make_wait` comes later."""
    library = ctypes.CDLL(str(emulation.build_library()))
    monkeypatch.setenv("KNETEMU_ASYNC", "lazy")
    library.knetemu_reload()
    try:
        e = model(monkeypatch, 1, "@knet function f(x)\n return relu(x)\nend", ((4, N),))
        stream, x, y = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        assert library.cudaStreamCreateWithFlags(ctypes.byref(stream), 1) == 0
        for place in (x, y):
            assert library.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(16)) == 0
        given, got = np.arange(-2, 2, dtype=np.float32), np.zeros(4, np.float32)
        size = ctypes.c_size_t(16)
        library.cudaMemcpyAsync(x, ctypes.c_void_p(given.ctypes.data), size, 4, stream)
        e._call("wait_for", e._model, stream)
        e._call("forward", e._model, 0, (ctypes.c_void_p * 1)(x), 1, y)
        e._call("make_wait", e._model, stream)
        library.cudaMemcpyAsync(ctypes.c_void_p(got.ctypes.data), y, size, 4, stream)
        assert not got.any()  # nothing has waited so far, not even for the output, which is in device memory
        assert library.cudaStreamSynchronize(stream) == 0
        assert got.tolist() == [0, 0, 0, 1]
        e.close()
        for place in (x, y):
            library.cudaFree(place)
        library.cudaStreamDestroy(stream)
    finally:
        monkeypatch.undo()
        library.knetemu_reload()
