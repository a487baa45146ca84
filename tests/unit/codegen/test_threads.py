"""Emitted C++ on several threads: the interpreter's numbers, wherever a thread has columns and wherever rows."""

from __future__ import annotations

import numpy as np
import pytest

from knetc.codegen.cpu.access import ALL, COLUMNS, Access, Action, barriers, ordered, share
from knetc.codegen.cpu.emit import emit_cpp
from knetc.errors import KnetError, KnetMemoryError
from knetc.ir.plan import Buffer
from knetc.ir.program import LOSSES
from knetc.ir.types import N, Type
from knetc.options import Options
from knetc.runtime.cpu import CpuLibrary, build_cpu
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter

from .cases import ALL as CASES
from .support import NONE, close, compiled, data_for, program_of
from .test_models import LENET, MANY, MLP, data, onehot
from .test_sequences import MODELS, run

BLOCKS = """
@knet function blocks(x)
    a = par(dims=(7,0)); b = par(dims=(9,0))
    u = tanh(a*x .+ par(dims=(7,1))); v = sigm(b*x .+ par(dims=(9,1)))
    c = par(dims=(5,7)); d = par(dims=(5,9)); e = par(dims=(5,7))
    return soft(c*u + d*v + e*u)
end
"""
TRAINED = {
    "mlp": (MLP, ((9, N),)),
    "lenet": (LENET, ((9, 8, 2, N),)),
    "many": (MANY, ((4, N), (6, N))),
    "blocks": (BLOCKS, ((6, N),)),
}


class Threaded(CpuLibrary):
    """Every call on that many threads, however little work it is."""

    def __init__(self, program, options: Options, threads: int) -> None:
        text = "#define KNET_THREAD_WORK 1\n" + emit_cpp(program, options)
        super().__init__(program, str(build_cpu(text)), 7)
        self.set_threads(threads)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", TRAINED)
def test_training(name, threads):
    """More columns than threads, as many, fewer; plain options and others, clipped or not."""
    source, shapes = TRAINED[name]
    program, options = compiled(source, inputs=shapes, dtype="f64")
    emitted, meaning = Threaded(program, options, threads), Interpreter(program, 7)
    settings = [frozenset(s) for v in program.variants for s in v.settings]
    for step, batch in enumerate([7, 3, 2, 1]):
        inputs = data(shapes, batch, "f64", step)
        for setting in settings:
            got, want = (e.forward(setting, inputs, push=False) for e in (emitted, meaning))
            close(got, want, "f64", terms=100)
            gold = onehot(want.shape[0], batch, "f64")
            for loss in ("softloss", "quadloss"):
                every = range(len(shapes))
                got, want = (e.backward(loss, gold, None, every, pop=False) for e in (emitted, meaning))
                for i in every:
                    close(got[i], want[i], "f64", terms=100)
                for param in program.params():
                    close(emitted.read("grad", param), meaning.read("grad", param), "f64", terms=100 * batch)
        training = {p: TrainingOptions(lr=0.01, adam=k == step) for k, p in enumerate(program.params())}
        for e in (emitted, meaning):
            e.update(training, gclip=float(step % 2), gscale=1.0)
    for param in program.params():
        close(emitted.read("par", param), meaning.read("par", param), "f64", terms=1000)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", ["gru", "two"])
def test_sequences(name, threads):
    source, shapes, settings = MODELS[name]
    program, options = compiled(source, inputs=shapes, losses=LOSSES, dtype="f64")
    emitted, meaning = Threaded(program, options, threads), Interpreter(program, 7)
    for batch in (5, 1):
        got, want = (run(e, shapes, settings, batch, "f64") for e in (emitted, meaning))
        for g, w in zip(got, want, strict=True):
            close(g, w, "f64", terms=600)
        for e in (emitted, meaning):
            e.reset(False)


def test_operators():
    program = program_of(CASES, "f64")
    one, several = (Threaded(program, Options(dtype="f64"), n) for n in (1, 3))
    for batch in (1, 2, 8):
        for e in (one, several):
            e.forward(NONE, data_for(CASES, "f64", batch), push=False)
        for k in range(len(CASES)):
            got, want = (e.read("value", f"v{k}") for e in (several, one))
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=CASES[k].op)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "lenet", "blocks"])
def test_many_minibatches_in_one_call(name, threads):
    """Gradients go straight into the parameters, or stand by themselves where options or clipping want them."""
    source, shapes = TRAINED[name]
    program, options = compiled(source, inputs=shapes, dtype="f64")
    emitted, meaning = Threaded(program, options, threads), Interpreter(program, 7)
    (x,) = data(shapes, 23, "f64")
    rows = 5
    gold = onehot(rows, 23, "f64")
    names = list(program.params())
    plain = {p: TrainingOptions(lr=0.02 * (k + 1)) for k, p in enumerate(names)}
    other = plain | {names[0]: TrainingOptions(lr=0.1, momentum=0.5), names[-1]: TrainingOptions(lr=0.1, l2reg=0.1)}
    for training, gclip in ((plain, 0.0), (other, 0.0), (plain, 0.5)):
        losses = emitted.train(NONE, [x], gold, 5, "softloss", training, gclip)
        want = []
        for c in range(0, 23, 5):
            batch = slice(c, min(c + 5, 23))
            y = meaning.forward(NONE, [np.asfortranarray(x[..., batch])], push=False)
            want.append(-float((gold[:, batch] * np.log(y)).sum()) / y.shape[1])
            meaning.backward("softloss", np.asfortranarray(gold[:, batch]), None, [], pop=False)
            meaning.update(training, gclip=gclip, gscale=1.0)
        np.testing.assert_allclose(losses, want, rtol=1e-8)
        for p in names:
            close(emitted.read("par", p), meaning.read("par", p), "f64", terms=10000)
            close(emitted.read("grad", p), meaning.read("grad", p), "f64", terms=10000)


# --- barriers ---------------------------------------------------------------------------------------------------------


BLOCK = Buffer("block", "value", Type("f32", (8, N)))
UPPER, LOWER = (Buffer(f"rows{k}", "value", Type("f32", (4, N)), BLOCK, 4 * k) for k in (0, 1))


def action(wide, narrow=(), by_columns=True):
    return Action(None, lambda columns: "", "value", tuple(wide), tuple(narrow), by_columns)


def test_threads_wait_where_one_reads_what_another_writes():
    first = action([Access(BLOCK, COLUMNS, True)], [Access(BLOCK, share(8), True)])
    second = action([Access(BLOCK, COLUMNS)], [Access(BLOCK, ALL)])
    third = action([Access(BLOCK, ALL)], [Access(BLOCK, ALL)])
    assert barriers([first, second, third], "wide") == [False, False, True]
    assert barriers([first, second, third], "narrow") == [False, True, False]


def test_rows_of_a_block_are_apart_and_part_of_it():
    upper, lower = (action([], [Access(b, share(4), True)]) for b in (UPPER, LOWER))
    whole, same = action([], [Access(BLOCK, share(8))]), action([], [Access(LOWER, share(4))])
    assert barriers([upper, lower], "narrow") == [False, False]
    assert barriers([upper, lower, same], "narrow") == [False, False, False]
    assert barriers([upper, lower, whole], "narrow") == [False, False, True]


def test_what_needs_no_barrier_goes_first_and_nothing_before_what_it_reads():
    x, y, z = (Buffer(name, "value", Type("f32", (4, N))) for name in "xyz")
    make_x = action([Access(x, COLUMNS, True)])
    sum_x = action([Access(x, ALL), Access("sum", share(4), True)], by_columns=False)
    make_y = action([Access(x, COLUMNS), Access(y, COLUMNS, True)])
    use_sum = action([Access("sum", ALL), Access(z, COLUMNS, True)])
    assert ordered([make_x, sum_x, make_y, use_sum]) == [make_x, make_y, sum_x, use_sum]


# --- memory -----------------------------------------------------------------------------------------------------------

FAILING = r"""
#include <stdlib.h>
#include <new>
static long made, failing;
static size_t largest;
static bool fails(size_t n) {
  largest = n > largest ? n : largest;
  return ++made == failing;
}
void* operator new(size_t n, const std::nothrow_t&) noexcept { return fails(n) ? nullptr : malloc(n); }
void* operator new[](size_t n, const std::nothrow_t&) noexcept { return fails(n) ? nullptr : malloc(n); }
void* operator new[](size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return fails(n) ? nullptr : aligned_alloc((size_t)a, (n + (size_t)a - 1) / (size_t)a * (size_t)a);
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }
void operator delete[](void* p) noexcept { free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { free(p); }
extern "C" void fail_at(long n) { made = 0, failing = n, largest = 0; }
extern "C" long how_many() { return made; }
extern "C" long the_largest() { return (long)largest; }
"""


def test_a_call_that_finds_no_memory_can_be_repeated():
    """Whichever allocation fails: the call says so, and the numbers are in the end as if it had not."""
    source, shapes, _ = MODELS["gru"]
    program, options = compiled(source, inputs=shapes, dtype="f64")
    text = "#define KNET_THREAD_WORK 1\n" + FAILING + emit_cpp(program, options)
    path = str(build_cpu(text))
    every = {p: TrainingOptions(lr=0.1, adam=True) for p in program.params()}
    gold = onehot(3, 2, "f64")
    calls = [
        lambda e: e.set_threads(2),
        *(lambda e, t=t: e.forward(NONE, data(shapes, 2, "f64", t), push=True) for t in range(2)),
        *(lambda e: e.backward("softloss", gold, None, [0], pop=True) for _ in range(2)),
        lambda e: e.update(every, gclip=1.0, gscale=1.0),
    ]

    def results(fail: int) -> tuple[list[np.ndarray], int, int]:
        e = CpuLibrary(program, path, 7)
        e._library.fail_at(fail)
        failed = 0
        for call in calls:
            try:
                call(e)
            except KnetMemoryError:
                failed += 1
                call(e)
        count = e._library.how_many()
        e._library.fail_at(0)
        found = [e.read("par", p) for p in program.params()]
        e.close()
        return found, failed, count

    want, failed, count = results(0)
    assert failed == 0 and count > 10
    for n in range(1, count + 1):
        got, failed, _ = results(n)
        assert failed == 1
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-12, err_msg=str(n))


@pytest.mark.parametrize("call", ["train", "train_over_time"])
def test_training_that_finds_no_memory_changes_nothing(call):
    """Whichever allocation fails, of a model with state that is given the rows of one-hot columns, or whole segments of
    which the last is a single step: parameters are as before, there is no state yet, and the repeat gives the numbers.
    Only without room for the rows of one-hot columns a sequence goes on.
    """
    source, shapes, _ = MODELS["gru"]
    program, options = compiled(source, inputs=shapes, dtype="f64", losses=("softloss",))
    path = str(build_cpu("#define KNET_THREAD_WORK 1\n" + FAILING + emit_cpp(program, options)))
    every = {p: TrainingOptions(lr=0.1, adam=True) for p in program.params()}
    rows = np.random.default_rng(2).integers(0, 3, 14).astype(np.int32)
    x, gold = data(shapes, 14, "f64", 1), onehot(3, 14, "f64")

    def train(e: CpuLibrary) -> list[float]:
        if call == "train":
            return e.train(NONE, [rows], gold, 2, "softloss", every, 0.5)
        return e.train_over_time(NONE, x, gold, 2, 3, "softloss", every, 0.5)

    def parameters(e: CpuLibrary) -> list[np.ndarray]:
        return [e.read("par", p) for p in program.params()]

    plain = CpuLibrary(program, path, 7)
    before = parameters(plain)
    plain._library.fail_at(0)
    losses, count = train(plain), plain._library.how_many()
    assert count > 10
    unfailing = 0
    for n in range(1, count + 1):
        e = CpuLibrary(program, path, 7)
        e._library.fail_at(n)
        try:
            found = train(e)
            unfailing += 1
        except KnetMemoryError:
            e._library.fail_at(0)
            assert all(map(np.array_equal, parameters(e), before)), n
            for name in program.states():
                with pytest.raises(KeyError):
                    e.read("state", name)
            found = train(e)
        np.testing.assert_allclose(found, losses, rtol=1e-12, err_msg=str(n))
        e.close()
    assert unfailing == (2 if call == "train_over_time" else 0)  # of the two segments that run at once


def test_a_smaller_batch_has_room_after_one_that_had_none():
    """Whichever allocation of the larger call fails, the smaller one asks for no array of the larger one's size."""
    source, shapes, _ = MODELS["gru"]
    program, options = compiled(source, inputs=shapes, losses=("softloss",))
    path = str(build_cpu(FAILING + emit_cpp(program, options)))
    large, small, failed = data(shapes, 30000, "f32"), data(shapes, 2, "f32"), 0
    for call in ("single", "step", "steps"):
        n, enough = 0, False
        while not enough:
            n += 1
            e = CpuLibrary(program, path, 7)
            e._library.fail_at(n)
            try:
                if call == "steps":
                    e.forward_sequence(NONE, large, 3)
                else:
                    e.forward(NONE, large, push=call == "step")
                enough = True
            except KnetMemoryError:
                e._library.fail_at(0)
                e.forward(NONE, small, push=call == "step")
                assert e._library.the_largest() < 1 << 14, n
            e._library.fail_at(0)
            e.close()
        failed += n - 1
    assert failed > 30


def test_options_that_no_gradient_can_take():
    """As in the emitted CUDA (`test_arguments`): a clip or a scale that is no number changes nothing."""
    program, options = compiled(MODELS["gru"][0], inputs=((3, N),), losses=("softloss",))
    e, x, gold = CpuLibrary(program, str(build_cpu(emit_cpp(program, options))), 7), np.eye(3, dtype="f"), np.eye(3)
    e.forward(NONE, [x], push=False)
    e.backward("softloss", gold.astype("f"), None, [], pop=False)
    before = [e.read("par", p) for p in program.params()]
    for clip, scale, reason in (
        (-1.0, 1.0, "gclip cannot be"),
        (np.inf, 1.0, "gclip"),
        (0.0, np.nan, "gscale cannot be"),
    ):
        with pytest.raises(KnetError, match=reason):
            e.update({}, clip, scale)
    every = {p: TrainingOptions(lr=0.1) for p in program.params()}
    with pytest.raises(KnetError, match="gclip cannot be"):
        e.train(NONE, [x], gold.astype("f"), 3, "softloss", every, -1.0)
    with pytest.raises(KnetError, match="gclip cannot be"):
        e.train_over_time(NONE, [x], gold.astype("f"), 3, 2, "softloss", every, np.nan)
    assert all(map(np.array_equal, before, (e.read("par", p) for p in program.params())))
