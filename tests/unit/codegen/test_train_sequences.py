"""Training over time in one call of emitted code: the numbers of the interpreter, segment after segment; in CUDA each
is one graph where it runs at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

import knetc
from knetc.codegen.cpu import emit as cpu
from knetc.codegen.cpu.emit import emit_cpp
from knetc.codegen.emit import emit_cuda, emit_header
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.record import replace
from knetc.runtime import emulation
from knetc.runtime.cpu import CpuExecutable
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter
from knetc.runtime.library import Library

from .sequence_script import library_of
from .support import NONE, both, close, compiled
from .test_models import data
from .test_whole_sequences import LSTM, MODELS, ONE

BATCH = 4
OPTIONS = TrainingOptions(lr=0.1, momentum=0.5)
# Steps and the length of a segment: segments that are alike, a shorter last one, one of a single step, one alone.
RUNS = ((6, 3), (8, 3), (7, 3), (2, 5), (3, 1))


@pytest.fixture
def device(monkeypatch) -> Iterator[ctypes.CDLL]:
    """The emulation library with its counters; its switches as before afterwards."""
    library = ctypes.CDLL(str(emulation.build_library()))
    for name in ("graphs", "graph_launches", "works", "live_objects"):
        getattr(library, f"knetemu_{name}").restype = ctypes.c_longlong
    yield library
    monkeypatch.undo()
    library.knetemu_reload()


def part(array: np.ndarray, first: int, steps: int, batch: int) -> np.ndarray:
    return np.asfortranarray(array[..., first * batch : (first + steps) * batch])


def by_steps(e, setting, xs, gold, batch, length, loss, options, gclip) -> list[float]:
    """The same by single steps of an executable."""
    e.reset(keepstate=True)
    losses = []
    total = gold.shape[-1] // batch
    for first in range(0, total, length):
        steps = range(first, min(first + length, total))
        values = [e.forward(setting, [part(x, t, 1, batch) for x in xs], push=True) for t in steps]
        golds = [part(gold, t, 1, batch) for t in steps]
        losses.append(np.mean([getattr(knetc, loss)(v, g) for v, g in zip(values, golds, strict=True)]))
        for g in reversed(golds):
            e.backward(loss, g, None, [], pop=True)
        e.update(options, gclip, 1.0)
        e.reset(keepstate=True)
    return losses


def case(shapes, rows, steps, batch, dtype, seed) -> tuple[list[np.ndarray], np.ndarray]:
    gold = np.random.default_rng(seed).uniform(size=(rows, batch * steps))
    return data(shapes, batch * steps, dtype, seed), np.asfortranarray(gold, np.float32 if dtype == "f32" else float)


def train_both(emitted, meaning, setting, shapes, rows, dtype, loss, runs=RUNS, batch=BATCH, gclip=0.3) -> None:
    """Runs of training on both, without a reset between them; losses, state and what can be read afterwards."""
    slow = replace(OPTIONS, lr=1e-3)  # the output of these models has no bounds
    options = dict.fromkeys(emitted.program.params(), slow if loss == "quadloss" else OPTIONS)
    for k, (steps, length) in enumerate(runs):
        xs, gold = case(shapes, rows, steps, batch, dtype, k)
        found = emitted.train_over_time(setting, xs, gold, batch, length, loss, options, gclip * (k % 2))
        want = by_steps(meaning, setting, xs, gold, batch, length, loss, options, gclip * (k % 2))
        np.testing.assert_allclose(found, want, rtol=1e-5 if dtype == "f32" else 1e-11)
        close(emitted.read("value", "return"), meaning.read("value", "return"), dtype, terms=600)
        for name in emitted.program.states():
            close(emitted.read("state", name), meaning.read("state", name), dtype, terms=600)
    for name in emitted.program.params():
        close(emitted.read("par", name), meaning.read("par", name), dtype, terms=2000)
    assert emitted.calls() == meaning.calls() and emitted.stack_depth() == 0
    with pytest.raises(KeyError):
        emitted.read("grad", next(iter(emitted.program.params())))


@pytest.mark.parametrize(("waiting", "graphs"), [("lazy", 1), ("eager", 2), ("lazy", 0)])
@pytest.mark.parametrize(("name", "dtype"), [*((name, "f64") for name in MODELS), ("lstm", "f32")])
def test_the_numbers_of_single_steps(name, dtype, graphs, waiting, device, monkeypatch):
    """With a batch that grows in between, the state gone."""
    monkeypatch.setenv("KNETEMU_ASYNC", waiting)
    monkeypatch.setenv("KNETC_GRAPHS", str(graphs))
    device.knetemu_reload()
    source, shapes, setting = MODELS[name]
    program, options = compiled(source, inputs=shapes, dtype=dtype, losses=LOSSES)
    plain, _ = compiled(source, inputs=shapes, dtype=dtype, losses=LOSSES, level=0)
    emitted, meaning = EmulatedExecutable(program, options, 7), Interpreter(plain, 7)
    loss = "quadloss" if name in ("rnn1", "a value that no way back reads") else "softloss"
    rows = 100 if name == "rnn1" else 3
    train_both(emitted, meaning, setting, shapes, rows, dtype, loss)
    for e in (emitted, meaning):
        e.reset(keepstate=False)
    train_both(emitted, meaning, setting, shapes, rows, dtype, loss, RUNS[1:3], BATCH + 3)
    # Captured when it comes again: 3 steps, the first length, and a single one; of another batch the same.
    captured, refused = emitted.graphs()
    assert refused == 0 and (captured > 3 if graphs else captured == 0)


@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_of_single_steps_on_the_processor(name):
    """With a batch that grows in between, the state gone; and one that has shrunk again."""
    source, shapes, setting = MODELS[name]
    program, options = compiled(source, inputs=shapes, dtype="f64", losses=LOSSES)
    plain, _ = compiled(source, inputs=shapes, dtype="f64", losses=LOSSES, level=0)
    emitted, meaning = CpuExecutable(program, options, 7), Interpreter(plain, 7)
    assert emitted.trains_over_time
    loss = "quadloss" if name in ("rnn1", "a value that no way back reads") else "softloss"
    rows = 100 if name == "rnn1" else 3
    for batch, runs in ((BATCH, RUNS), (5 * BATCH, RUNS[1:3]), (BATCH, RUNS[1:2])):
        train_both(emitted, meaning, setting, shapes, rows, "f64", loss, runs, batch)
        for e in (emitted, meaning):
            e.reset(keepstate=False)


def test_a_segment_is_one_graph(device, monkeypatch):
    """The first runs as it is, the second is captured; after that a segment is a copy of the input and of gold, the
    clock of the dropout mask, the graph, and a copy of its loss.
    """
    monkeypatch.setenv("KNETC_GRAPHS", "1")
    source, shapes, setting = MODELS["two lstms with dropout"]
    program, options = compiled(source, inputs=shapes)
    e, every = EmulatedExecutable(program, options, 7), dict.fromkeys(program.params(), OPTIONS)
    counts = []
    for steps in (6, 12, 11):
        xs, gold = case(shapes, 3, steps, BATCH, "f32", 1)
        before = device.knetemu_graphs(), device.knetemu_graph_launches(), device.knetemu_works()
        e.train_over_time(setting, xs, gold, BATCH, 3, "softloss", every, 0.5)
        after = device.knetemu_graphs(), device.knetemu_graph_launches(), device.knetemu_works()
        counts.append(tuple(a - b for a, b in zip(after, before, strict=True)))
    assert [c[:2] for c in counts] == [(1, 1), (0, 4), (0, 3)]
    assert counts[1][2] == 4 * 5 + 1  # and all losses in one copy
    assert e.graphs() == (1, 0)


@pytest.mark.parametrize("capture", ["never", "breaks"])
def test_segments_that_cannot_be_captured_run_as_they_are(capture, device, monkeypatch):
    found = []
    for graphs in (0, 1, 2):
        if graphs:
            monkeypatch.setenv("KNETEMU_CAPTURE", capture)
            device.knetemu_reload()
        monkeypatch.setenv("KNETC_GRAPHS", str(graphs))
        program, options = compiled(LSTM, inputs=(ONE,))
        e, every = EmulatedExecutable(program, options, 7), dict.fromkeys(program.params(), OPTIONS)
        xs, gold = case((ONE,), 3, 12, BATCH, "f32", 1)
        losses = [e.train_over_time(NONE, xs, gold, BATCH, 3, "softloss", every, 0.5) for _ in range(2)]
        found.append([*map(np.array, losses), *(e.read("par", name) for name in program.params())])
        assert e.graphs() == (0, bool(graphs))
    assert all(map(np.array_equal, found[0], found[1])) and all(map(np.array_equal, found[0], found[2]))


def test_what_does_not_run_at_once_is_trained_by_steps(tmp_path):
    """Of a model whose arrays may not have the columns of several steps."""
    built = library_of("step by step", tmp_path)
    emitted, meaning = Library(built.program, str(tmp_path / "model.so"), 7), Interpreter(built.program, 7)
    train_both(emitted, meaning, frozenset({"moved"}), (ONE,), 3, "f32", "softloss")
    train_both(emitted, meaning, NONE, (ONE,), 3, "f32", "quadloss")


@pytest.mark.usefixtures("target")
def test_between_other_calls():
    """What a sequence left is not added to, and what comes after begins anew."""
    program, options = compiled(LSTM, inputs=(ONE,), dtype="f64", losses=LOSSES)
    emitted, meaning = both(program, options)
    xs, gold = case((ONE,), 3, 4, BATCH, "f64", 5)
    every = dict.fromkeys(program.params(), OPTIONS)
    for turn in range(2):
        for e in (emitted, meaning):
            e.forward_sequence(NONE, xs, 4)
            e.backward_sequence("softloss", gold, None, 4)
            if turn:
                e.update(every, 0.0, 1.0)
        train_both(emitted, meaning, NONE, (ONE,), 3, "f64", "softloss", [(5, 2)])
        for e in (emitted, meaning):
            e.forward(NONE, [part(xs[0], 0, 1, BATCH)], push=False)
            e.backward("softloss", part(gold, 0, 1, BATCH), None, [], pop=False)
        for name in program.params():
            close(emitted.read("grad", name), meaning.read("grad", name), "f64", terms=600)
        for e in (emitted, meaning):
            e.reset(keepstate=True)
    emitted.train(NONE, [part(xs[0], 0, 1, BATCH)], part(gold, 0, 1, BATCH), BATCH, "softloss", every, 0.0)


def test_frames_of_segments_are_kept_though_a_batch_was_larger(device, monkeypatch):
    """So that their graphs are, and no memory is taken between two segments."""
    monkeypatch.setenv("KNETC_GRAPHS", "2")
    program, options = compiled(LSTM, inputs=(ONE,))
    e, every = EmulatedExecutable(program, options, 7), dict.fromkeys(program.params(), OPTIONS)
    e.forward(NONE, data((ONE,), 50, "f32"), push=False)
    e.reset(keepstate=False)
    xs, gold = case((ONE,), 3, 12, BATCH, "f32", 1)
    before = device.knetemu_graphs()
    e.train_over_time(NONE, xs, gold, BATCH, 3, "softloss", every, 0.5)
    assert device.knetemu_graphs() == before + 1


def test_there_is_no_such_function_where_sequences_have_none():
    """Without state, at -O1, and where there is nothing to train."""
    for source, level in (
        ("@knet function f(x)\n return wbf(x; out=3)\nend", 2),
        (LSTM, 1),
        ("@knet function f(x)\n h = tanh(x .+ h)\n return h\nend", 2),
    ):
        program, options = compiled(source, inputs=(ONE,), level=level)
        assert "trainseq" not in emit_cuda(program, options) + emit_header(program, options)
        assert "trainseq" not in emit_cpp(program, options) + cpu.emit_header(program, options)
    program, options = compiled(LSTM, inputs=((3, N),))
    assert "int f_trainseq(" in emit_header(program, options)
    assert "int f_trainseq(" in cpu.emit_header(program, options)


@pytest.mark.parametrize("given", ["arrays", "rows"])
def test_minibatches_of_a_model_with_state_on_the_processor(given):
    """Each goes on from the state that the one before has left, and back through its own call alone."""
    program, options = compiled(LSTM, inputs=(ONE,), dtype="f64", losses=("softloss",))
    e, meaning = CpuExecutable(program, options, 7), Interpreter(program, 7)
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 3, 5 * BATCH).astype(np.int32) for _ in range(2)]
    x, gold = (np.asfortranarray(np.eye(3)[:, r]) for r in rows)
    every = dict.fromkeys(program.params(), OPTIONS)
    want = []
    for t in range(5):
        value = meaning.forward(NONE, [part(x, t, 1, BATCH)], push=False)
        want.append(knetc.softloss(value, part(gold, t, 1, BATCH)))
        meaning.backward("softloss", part(gold, t, 1, BATCH), None, [], pop=False)
        meaning.update(every, 0.5, 1.0)
    found = e.train(
        NONE, [rows[0] if given == "rows" else x], rows[1] if given == "rows" else gold, BATCH, "softloss", every, 0.5
    )
    np.testing.assert_allclose(found, want, rtol=1e-11)
    for kind, names in (("par", program.params()), ("state", program.states()), ("grad", program.params())):
        for name in names:
            close(e.read(kind, name), meaning.read(kind, name), "f64", terms=600)
    with pytest.raises(knetc.KnetError, match="the state has 4 columns and the last minibatch 2"):
        e.train(NONE, [part(x, 0, 1, 6)], part(gold, 0, 1, 6), BATCH, "softloss", every, 0.5)
    # A minibatch that is all there is may be smaller than it could be; but not than the state.
    few = [part(x, 0, 1, 2)], part(gold, 0, 1, 2), BATCH, "softloss", every, 0.5
    with pytest.raises(knetc.KnetError, match="the state has 4 columns and the batch 2"):
        e.train(NONE, *few)
    e.reset(keepstate=False)
    assert len(e.train(NONE, *few)) == len(e.train(NONE, *few)) == 1


def test_on_the_processor_wrong_arguments_change_nothing():
    program, options = compiled(LSTM, inputs=(ONE,), losses=("softloss",))
    e, every = CpuExecutable(program, options, 7), dict.fromkeys(program.params(), OPTIONS)
    xs, gold = case((ONE,), 3, 4, BATCH, "f32", 5)
    before = [e.read("par", name) for name in program.params()]
    for loss, number in (("quadloss", 2), ("none", 1)):
        with pytest.raises(knetc.KnetError, match=f"there is no training from loss {number}"):
            e.train_over_time(NONE, xs, gold, BATCH, 2, loss, every, 0.0)
    e.forward(NONE, [part(xs[0], 0, 1, BATCH)], push=True)
    with pytest.raises(knetc.KnetError, match="there are steps on the stack"):
        e.train_over_time(NONE, xs, gold, BATCH, 2, "softloss", every, 0.0)
    assert all(map(np.array_equal, before, (e.read("par", name) for name in program.params())))
