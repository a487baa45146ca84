"""Whole sequences in the emitted CUDA: the values of single steps of the program as it was written (-O0), in the
products that time batching leaves, by one graph each way; and the model as it was where memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import re

import numpy as np
import pytest

from knetc.codegen.emit import emit_cuda, emit_header
from knetc.errors import KnetMemoryError, KnetStateError
from knetc.ir.types import N
from knetc.runtime import emulation
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter

from .driver import CONVOLVED
from .support import NONE, ROOT, close, compiled
from .test_models import data
from .test_sequences import GRU, IRNN, LSTM2, ONE, SWAP

LSTM = GRU.replace("gru", "lstm")
RNN1 = (ROOT / "tests" / "golden" / "models" / "rnn1.knet").read_text()
TWO = """
@knet function two(x, z; out=3)
    h = wbf2(wbf(x; out=4, f=:tanh), h; out=4, f=:sigm)
    return wbf(h .+ wdot(z; out=4); out=out, f=:soft)
end
"""
UNREAD = "@knet function f(x; out=3)\n h = lstm(x; out=4)\n return wdot(h; out=out)\nend"
SUMS = """
@knet function sums(x; out=3)
    w = par(dims=(3,3), init=Gaussian(0, 1))
    s = s .+ x
    m = 0.5 .* (m .+ s)
    return soft(w*m)
end
"""
MODELS = {
    "rnn1": (RNN1, (ONE,), NONE),
    "lstm": (LSTM, (ONE,), NONE),
    "gru": (GRU, (ONE,), NONE),
    "irnn": (IRNN, (ONE,), NONE),
    "two lstms with dropout": (LSTM2, (ONE,), frozenset({"dropout", "predict"})),
    "a convolution and a pooling of the state": (CONVOLVED, ((5, 3, 1, N),), NONE),
    "states that change places": (SWAP, (ONE,), NONE),
    "sums without a weight": (SUMS, (ONE,), NONE),
    "two inputs": (TWO, (ONE, (5, N)), NONE),
    "a value that no way back reads": (UNREAD, (ONE,), NONE),
}
BATCH = 4


@pytest.fixture
def device(monkeypatch):
    """The emulation library; its switches as before afterwards."""
    library = ctypes.CDLL(str(emulation.build_library()))
    for name in ("graphs", "graph_launches", "products", "works", "live_objects", "allocations"):
        getattr(library, f"knetemu_{name}").restype = ctypes.c_longlong
    yield library
    monkeypatch.undo()
    library.knetemu_reload()


def pair(source: str, shapes: tuple, losses=("none", "quadloss", "softloss")):
    """The emitted code, optimised, and the interpreter of the program as it was written."""
    program, options = compiled(source, inputs=shapes, dtype="f64", losses=losses)
    plain, _ = compiled(source, inputs=shapes, dtype="f64", losses=losses, level=0)
    return EmulatedExecutable(program, options, 7), Interpreter(plain, 7)


def columns(array: np.ndarray, t: int) -> np.ndarray:
    return np.asfortranarray(array[..., t * BATCH : (t + 1) * BATCH])


def both_forward(emitted, meaning, shapes, setting, steps, seed) -> None:
    """A sequence at once and step by step: values, state, and what can be read by name afterwards."""
    inputs = data(shapes, BATCH * steps, "f64", seed)
    value = emitted.forward_sequence(setting, inputs, steps)
    want = [meaning.forward(setting, [columns(a, t) for a in inputs], push=True) for t in range(steps)]
    if value is not None:
        close(value, np.concatenate(want, axis=-1), "f64", terms=600)
        close(emitted.read("value", "return"), want[-1], "f64", terms=600)
    read = 0
    for name, _ in emitted.program.variant(setting).names:
        with contextlib.suppress(KeyError):  # of those within a cell some are not kept
            close(emitted.read("value", name), meaning.read("value", name), "f64", terms=600)
            read += 1
    assert read
    for name in emitted.program.states():
        close(emitted.read("state", name), meaning.read("state", name), "f64", terms=600)


def both_back(emitted, meaning, rows, steps, loss, masked) -> None:
    rng = np.random.default_rng(steps)
    gold = None if loss == "zero" else np.asfortranarray(rng.uniform(size=(rows, BATCH * steps)))
    mask = rng.integers(0, 2, BATCH * steps).astype(float) if masked else None
    emitted.backward_sequence(loss, gold, mask, steps)
    for t in reversed(range(steps)):
        parts = [None if a is None else columns(a, t) for a in (gold, mask)]
        meaning.backward(loss, *parts, [], pop=True)


def same_gradients(emitted, meaning) -> None:
    for name in emitted.program.params():
        close(emitted.read("grad", name), meaning.read("grad", name), "f64", terms=600)


@pytest.mark.parametrize("waiting", ["eager", "lazy"])
@pytest.mark.parametrize("name", MODELS)
def test_the_values_of_single_steps(name, waiting, device, monkeypatch):
    """1, 7 and 3 steps, back in other parts than they came, with a mask, the state kept, an update; and once more."""
    monkeypatch.setenv("KNETEMU_ASYNC", waiting)
    device.knetemu_reload()
    source, shapes, setting = MODELS[name]
    emitted, meaning = pair(source, shapes)
    result = meaning.program.variant(setting).result
    rows = 100 if name == "rnn1" else 3
    loss = "quadloss" if name in ("rnn1", "a value that no way back reads") else "softloss"
    options = dict.fromkeys(emitted.program.params(), TrainingOptions(lr=0.1, momentum=0.5))
    for turn in range(2):
        for steps in (1, 7, 3):
            both_forward(emitted, meaning, shapes, setting, steps, 10 * turn + steps)
        for steps, masked in ((2, True), (8, False), (1, True)):
            both_back(emitted, meaning, rows, steps, loss if result is not None else "zero", masked)
            same_gradients(emitted, meaning)
        for e in (emitted, meaning):
            e.update(options, gclip=0.5, gscale=1.0)
            e.reset(keepstate=True)
    assert emitted.stack_depth() == 0 and emitted.calls() == meaning.calls() == 22
    for p in emitted.program.params():
        close(emitted.read("par", p), meaning.read("par", p), "f64", terms=600)


@pytest.mark.parametrize("graphs", ["0", "1", "2"])
@pytest.mark.parametrize("steps", [2, 7, 20])
def test_the_products_of_an_lstm_over_time(steps, graphs, device, monkeypatch):
    """Forward a product a step, and two for all: the four gates' of the input, the output's. Back a product a step, and
    four for all: the output's weight and value, the gates' two weights. Step by step it would be 3 and 5 a step."""
    monkeypatch.setenv("KNETC_GRAPHS", graphs)
    emitted, _ = pair(LSTM, (ONE,))
    for _ in range(3):
        before = device.knetemu_products()
        value = emitted.forward_sequence(NONE, data((ONE,), BATCH * steps, "f64"), steps)
        middle = device.knetemu_products()
        emitted.backward_sequence("softloss", value, None, steps)
        emitted.read("grad", next(iter(emitted.program.params())))  # waits
        assert (middle - before, device.knetemu_products() - middle) == (steps + 2, steps + 4)
        emitted.reset(False)


def loops(text: str) -> list[str]:
    """The bodies of the loops over time of an emitted file."""
    return re.findall(r"^  for \(int step = [^\n]*m->steps[^\n]*\n(.*?)\n  \}$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", MODELS)
def test_no_step_copies_state(name):
    """But where a variable keeps what it has not computed: of two that change places one keeps what the other was."""
    source, shapes, _ = MODELS[name]
    program, options = compiled(source, inputs=shapes)
    found = loops(emit_cuda(program, options))
    assert len(found) >= 4  # forward, and back from each of three losses
    copies = [len(re.findall(r"cudaMemcpyAsync|_state_gradient", body)) for body in found]
    assert copies == [0] * len(found) or (name == "states that change places" and max(copies) == 2)


@pytest.mark.parametrize("steps", [2, 7])
def test_a_step_of_an_lstm_is_two_works(steps, device, monkeypatch):
    """A product and the cell, each way: four more works for each step more of a sequence there and back."""
    monkeypatch.setenv("KNETC_GRAPHS", "0")
    emitted, _ = pair(LSTM, (ONE,))
    counts = []
    for length in (steps, steps + 1):
        before = device.knetemu_works()
        value = emitted.forward_sequence(NONE, data((ONE,), BATCH * length, "f64"), length)
        emitted.backward_sequence("softloss", value, None, length)
        emitted.read("grad", next(iter(emitted.program.params())))
        counts.append(device.knetemu_works() - before)
        emitted.reset(False)
    assert counts[1] - counts[0] == 4


def test_a_sequence_is_one_graph_each_way(device, monkeypatch):
    """Captured when the same number of steps comes again, and kept while other numbers of steps come between."""
    monkeypatch.setenv("KNETC_GRAPHS", "1")
    emitted, _ = pair(LSTM, (ONE,))
    made = []
    for steps in (6, 6, 5, 6, 5, 5, 6):
        before = device.knetemu_graphs()
        value = emitted.forward_sequence(NONE, data((ONE,), BATCH * steps, "f64"), steps)
        emitted.backward_sequence("softloss", value, None, steps)
        emitted.reset(False)
        made.append(device.knetemu_graphs() - before)
    assert made == [0, 2, 0, 0, 2, 0, 0] and emitted.graphs() == (4, 0)


def test_another_batch_in_mid_sequence_is_refused(device):
    emitted, meaning = pair(LSTM, (ONE,))
    both_forward(emitted, meaning, (ONE,), NONE, 3, 1)
    with pytest.raises(KnetStateError, match="the state has 4 columns and the batch 6; reset"):
        emitted.forward_sequence(NONE, data((ONE,), 18, "f64"), 3)
    with pytest.raises(KnetStateError, match="the stack has 3 steps, not 4"):
        emitted.backward_sequence("softloss", data(((3, N),), 16, "f64")[0], None, 4)
    both_back(emitted, meaning, 3, 3, "softloss", False)
    same_gradients(emitted, meaning)


def everything(e) -> list[np.ndarray]:
    program = e.program
    return [e.read("par", p) for p in program.params()] + [e.read("state", s) for s in program.states()]


def test_whichever_allocation_fails_the_sequence_can_be_made_again(device, monkeypatch):
    """At once, step by step where a condition changes, and both ways back: the numbers of a run where none failed."""
    source, shapes, setting = MODELS["two lstms with dropout"]
    program, options = compiled(source, inputs=shapes, dtype="f64")
    gold = data(((3, N),), BATCH * 5, "f64", 3)[0]
    every = dict.fromkeys(program.params(), TrainingOptions(lr=0.1))
    calls = [
        lambda e: e.forward_sequence(setting, data(shapes, BATCH * 2, "f64", 1), 2),
        lambda e: e.forward_sequence(setting, data(shapes, BATCH * 3, "f64", 2), 3),
        lambda e: e.backward_sequence("softloss", gold, None, 5),
        lambda e: e.update(every, 1.0, 1.0),
    ]

    def results(fail: int) -> tuple[list[np.ndarray], int, int]:
        e = EmulatedExecutable(program, options, 7)
        monkeypatch.setenv("KNETEMU_FAIL_MALLOC", str(fail))
        device.knetemu_reload()
        failed = 0
        for call in calls:
            try:
                call(e)
            except KnetMemoryError:
                failed += 1
                call(e)
        count = device.knetemu_allocations()
        monkeypatch.delenv("KNETEMU_FAIL_MALLOC")
        device.knetemu_reload()
        return everything(e), failed, count

    want, failed, count = results(0)
    assert failed == 0 and count >= 20
    for n in range(1, count + 1):
        got, failed, _ = results(n)
        assert failed == 1, n
        assert all(map(np.array_equal, got, want)), n


@pytest.mark.parametrize(
    ("order", "fill", "capture"), [("desc", "0x00", "works"), ("rand:3", "0x3c", "never"), ("asc", "0xff", "breaks")]
)
def test_the_same_bits_whatever_the_order_of_threads_or_what_memory_held(order, fill, capture, device, monkeypatch):
    source, shapes, setting = MODELS["two lstms with dropout"]
    found = []
    for settings in ({}, {"KNETEMU_ORDER": order, "KNETEMU_FILL": fill, "KNETEMU_CAPTURE": capture}):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        device.knetemu_reload()
        emitted, _ = pair(source, shapes)
        value = emitted.forward_sequence(setting, data(shapes, BATCH * 5, "f64"), 5)
        emitted.backward_sequence("softloss", value, None, 5)
        found.append([value, *everything(emitted), *(emitted.read("grad", p) for p in emitted.program.params())])
    assert all(map(np.array_equal, *found))


def test_what_has_no_phases_has_no_functions_for_them():
    """A model without state, and one of which -O1 leaves the steps as they are."""
    for source, level in (("@knet function f(x)\n return wbf(x; out=3)\nend", 2), (LSTM, 1)):
        program, options = compiled(source, inputs=(ONE,), level=level)
        assert "forwseq" not in emit_cuda(program, options)
        assert "_forwseq" not in emit_header(program, options)
    program, options = compiled(LSTM, inputs=(ONE,))
    assert "int f_forwseq(" in emit_header(program, options) and "int f_backseq(" in emit_header(program, options)
