"""State and sequences: the emitted code against the interpreter, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetStateError
from knetc.ir.footprint import step_bytes
from knetc.ir.planner import make_plan
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.runtime.executable import TrainingOptions

from .support import NONE, both, close, compiled
from .test_models import data

pytestmark = pytest.mark.usefixtures("target")

LSTM2 = """
@knet function layer(x; hidden=5)
    h = lstm(x; out=hidden)
    return drop(h; pdrop=0.3)
end
@knet function lstm2(x; out=3)
    z = repeat(x; frepeat=:layer, nrepeat=2)
    if predict
        return wbf(z; out=out, f=:soft)
    end
end
"""
GRU = "@knet function f(x; out=3)\n h = gru(x; out=4)\n return wbf(h; out=out, f=:soft)\nend"
IRNN = "@knet function f(x; out=3)\n h = irnn(x; out=4)\n return wbf(h; out=out, f=:soft)\nend"
TWO = """
@knet function two(x, z; out=3)
    if second
        u = wbf2(z, h; out=4, f=:tanh)
    end
    h = wbf2(x, u; out=4, f=:sigm)
    if quiet
        c = relu(h)
    else
        c = c .+ par(dims=(4,4), init=Gaussian(0, 0.5)) * h
    end
    return wbf(c; out=out, f=:soft)
end
"""
SWAP = """
@knet function swap(x; out=3)
    w = par(dims=(3,3), init=Gaussian(0, 1))
    t = a
    a = b .+ x
    b = t
    return soft(w * a)
end
"""
ONE = (3, N)
MODELS = {
    "lstm2": (LSTM2, (ONE,), [{"predict"}, set(), {"dropout"}, {"dropout", "predict"}, {"predict"}]),
    "gru": (GRU, (ONE,), [set()] * 4),
    "irnn": (IRNN, (ONE,), [set()] * 4),
    "two": (TWO, (ONE, ONE), [{"second"}, {"quiet"}, set(), {"second", "quiet"}, set()]),
    "swap": (SWAP, (ONE,), [set()] * 3),
}


def run(executable, shapes, settings, batch, dtype, losses=LOSSES):
    """One sequence forward and back: every value, state and input gradient that is met, then all gradients."""
    met = []
    for t, setting in enumerate(settings):
        value = executable.forward(frozenset(setting), data(shapes, batch, dtype, t), push=True)
        met += [] if value is None else [value.copy()]  # as it is when the call returns
        met += [executable.read("state", name) for name in executable.program.states()]
    assert executable.stack_depth() == len(settings)
    for t in reversed(range(len(settings))):
        result = executable.program.variant(frozenset(settings[t])).result
        loss = losses[t % len(losses)] if result is not None else "zero"
        (gold,) = data(((3, N),), batch, dtype, 40 + t)
        found = executable.backward(loss, None if loss == "zero" else gold, None, range(len(shapes)), pop=True)
        met += [found[i] for i in sorted(found)]
    assert executable.stack_depth() == 0
    return met + [executable.read("grad", str(i.attr("param"))) for i in executable.program.update]


def agree(got, want, dtype):
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        close(g, w, dtype, terms=600)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", MODELS)
def test_sequences_agree_with_the_interpreter(name, dtype):
    """Three sequences with an update after each: the state kept, then another batch after a reset."""
    source, shapes, settings = MODELS[name]
    program, options = compiled(source, inputs=shapes, dtype=dtype, losses=LOSSES)
    emitted, meaning = both(program, options)
    training = dict.fromkeys(program.params(), TrainingOptions(lr=0.1, momentum=0.5))
    for keep, batch in ((True, 4), (False, 4), (False, 7), (False, 2)):
        agree(run(emitted, shapes, settings, batch, dtype), run(meaning, shapes, settings, batch, dtype), dtype)
        for executable in (emitted, meaning):
            executable.update(training, gclip=0.5, gscale=1.0)
            executable.reset(keep)
        for param in program.params():
            close(emitted.read("par", param), meaning.read("par", param), dtype, terms=600)
        if not keep:
            with pytest.raises(KeyError):
                emitted.read("state", next(iter(program.states())))


def test_back_after_forw_in_the_middle_of_a_sequence_leaves_the_sequence_as_it_is():
    program, options = compiled(GRU, inputs=(ONE,), dtype="f64")
    emitted, meaning = both(program, options)
    for executable in (emitted, meaning):
        for t in range(3):
            executable.forward(NONE, data((ONE,), 4, "f64", t), push=True)
        executable.backward("softloss", data(((3, N),), 4, "f64", 9)[0], None, [], pop=True)
        executable.forward(NONE, data((ONE,), 4, "f64", 5), push=False)
        executable.backward("quadloss", data(((3, N),), 4, "f64", 8)[0], None, [0], pop=False)
        executable.backward("softloss", data(((3, N),), 4, "f64", 7)[0], None, [0], pop=True)
    for param in program.params():
        close(emitted.read("grad", param), meaning.read("grad", param), "f64", terms=600)
    for name in ("h", "return"):
        close(emitted.read("value", name), meaning.read("value", name), "f64", terms=600)


def test_the_state_can_be_written_and_outlives_clean():
    program, options = compiled(SWAP, inputs=(ONE,), dtype="f64")
    emitted, meaning = both(program, options)
    (a,) = data(((3, N),), 5, "f64", 3)
    for executable in (emitted, meaning):
        executable.write("state", "a", a)
        executable.forward(NONE, data((ONE,), 5, "f64"), push=False)
        executable.clean()
    got, want = (e.forward(NONE, data((ONE,), 5, "f64", 1), push=False) for e in (emitted, meaning))
    close(got, want, "f64", terms=9)
    assert np.array_equal(emitted.read("state", "b"), data((ONE,), 5, "f64")[0])  # b + x of the first call, b being 0


def test_another_batch_in_mid_sequence_is_refused_and_the_sequence_goes_on():
    program, options = compiled(IRNN, inputs=(ONE,), dtype="f64")
    emitted, meaning = both(program, options)
    for executable in (emitted, meaning):
        executable.forward(NONE, data((ONE,), 4, "f64"), push=True)
    with pytest.raises(KnetStateError, match="the state has 4 columns and the batch 9; reset"):
        emitted.forward(NONE, data((ONE,), 9, "f64"), push=True)
    for executable in (emitted, meaning):
        executable.backward("quadloss", data(((3, N),), 4, "f64", 8)[0], None, [], pop=True)
    for param in program.params():
        close(emitted.read("grad", param), meaning.read("grad", param), "f64", terms=600)


def test_a_feed_forward_model_may_stack_steps_of_different_batches():
    program, options = compiled("@knet function f(x)\n return wbf(x; out=3, f=:soft)\nend", inputs=(ONE,), dtype="f64")
    emitted, meaning = both(program, options)
    for executable in (emitted, meaning):
        for batch in (2, 6, 3):
            executable.forward(NONE, data((ONE,), batch, "f64", batch), push=True)
        for batch in (3, 6, 2):
            executable.backward("softloss", data(((3, N),), batch, "f64", batch)[0], None, [], pop=True)
    for param in program.params():
        close(emitted.read("grad", param), meaning.read("grad", param), "f64", terms=600)


def test_one_library_for_every_batch_size():
    """Memory grows, shrinks to nothing and grows again; parameters, and the state of an equal batch, stay."""
    program, options = compiled(GRU, inputs=(ONE,), dtype="f64")
    emitted, meaning = both(program, options)
    for batch in (1, 100, 37, 1000, 37):
        for executable in (emitted, meaning):
            executable.reset(False)
        for t in range(2):
            got, want = (e.forward(NONE, data((ONE,), batch, "f64", t), push=True) for e in (emitted, meaning))
            close(got, want, "f64", terms=600)
        for executable in (emitted, meaning):
            for t in range(2):
                executable.backward("softloss", data(((3, N),), batch, "f64", t)[0], None, [], pop=True)
            executable.update(dict.fromkeys(program.params(), TrainingOptions(lr=0.5)), 0.0, 1.0)
    for param in program.params():
        close(emitted.read("par", param), meaning.read("par", param), "f64", terms=600)


def test_a_frame_holds_only_what_backward_passes_read():
    """Of `h = tanh(w * x); return wb(h)`: x for dw, h for the gradient of tanh and of the second w, the value for the
    loss; no product, no sum."""
    source = "@knet function f(x)\n h = tanh(par(dims=(4,0)) * x)\n return wb(h; out=2)\nend"
    program, options = compiled(source, inputs=(ONE,))
    assert step_bytes(make_plan(program, options), 10) == 4 * 10 * (3 + 4 + 2)
    text = emit_cuda(program, options)
    frame = text.split("const knet_buffer frame_0[] = {")[1].split("};")[0]
    assert [line.split("::")[1].split(",")[0] for line in frame.split("\n") if "::" in line] == ["x", "h", "return_"]
