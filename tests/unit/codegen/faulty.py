"""Run by test_faults in a process of its own: a library of an emitted file, perhaps with a fault in it, beside the
interpreter. Says `same` where every number agrees."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from codegen.support import close, compiled
from codegen.test_models import LENET, data, onehot
from codegen.test_sequences import MODELS, agree, run
from knetc.errors import KnetError
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter
from knetc.runtime.library import Library
from knetc.runtime.losses import mean_loss

DENSE = "@knet function dense(x)\n h = wbf(x; out=8, f=:relu)\n return wbf(wb(h; out=6); out=5, f=:soft)\nend"
BATCH = 70  # more than two warps
TRAINING = TrainingOptions(lr=0.1, momentum=0.5, adam=True)


def model(name: str):
    """The program and the options of `lstm2`, which `sequence` and `segments` run too, of `dense` or `training`, or of
    `lenet`.
    """
    if name in ("dense", "training"):
        return compiled(DENSE, inputs=((9, N),), losses=("softloss",))
    if name in ("lstm2", "sequence", "segments"):
        source, shapes, _ = MODELS["lstm2"]
        return compiled(source, inputs=shapes, losses=LOSSES)
    return compiled(LENET, inputs=((9, 8, 2, N),), losses=LOSSES)


def lstm2(executable):
    _, shapes, settings = MODELS["lstm2"]
    found = run(executable, shapes, settings, BATCH, "f32")  # the next sequence adds to its gradients
    for keep in (True, False, False):
        found += run(executable, shapes, settings, BATCH, "f32")
        executable.update(dict.fromkeys(executable.program.params(), TRAINING), gclip=0.01, gscale=1.0)
        executable.reset(keep)
    return found


def sequence(executable):
    """Whole sequences of several lengths, with dropout, whose state the next one takes up; the last in two parts."""
    _, shapes, _ = MODELS["lstm2"]
    found = []
    for *earlier, steps in ((3,), (1,), (4,), (2, 3)):
        for part in (*earlier, steps):
            xs = data(shapes, 6 * part, "f32", part)
            found.append(executable.forward_sequence(frozenset({"dropout", "predict"}), xs, part))
        steps += sum(earlier)
        executable.backward_sequence("softloss", onehot(3, 6 * steps, "f32"), None, steps)
        found += [executable.read("grad", name) for name in executable.program.params()]
        executable.update(dict.fromkeys(executable.program.params(), TRAINING), gclip=0.01, gscale=1.0)
        executable.reset(True)
    return found


def segments(executable):
    """Training over time in one call, the last segment shorter, from the state of the call before; on the interpreter
    segment by segment.
    """
    _, shapes, _ = MODELS["lstm2"]
    found, setting = [], frozenset({"dropout", "predict"})
    every = dict.fromkeys(executable.program.params(), TRAINING)
    for steps in (8, 6, 7):
        (x,), gold = data(shapes, 6 * steps, "f32", steps), onehot(3, 6 * steps, "f32")
        if isinstance(executable, Library):
            losses = executable.train_over_time(setting, [x], gold, 6, 3, "softloss", every, 0.01)
        else:
            losses = []
            for first in range(0, steps, 3):
                here = slice(6 * first, 6 * min(first + 3, steps))
                part, count = np.asfortranarray(gold[:, here]), min(3, steps - first)
                value = executable.forward_sequence(setting, [np.asfortranarray(x[:, here])], count)
                losses.append(mean_loss("softloss", value, part))
                executable.backward_sequence("softloss", part, None, count)
                executable.update(every, 0.01, 1.0)
                executable.reset(True)
        found += [np.array(losses, np.float32), executable.read("value", "return")]
    return found


def dense(executable):
    """Batches of several sizes, one of them after more others than there are plans of a product."""
    found = []
    for step, batch in enumerate((6, 70, 6, 2, 3, 4, 6)):
        found.append(executable.forward(frozenset(), data(((9, N),), batch, "f32", step), push=True))
        found.append(executable.forward(frozenset(), data(((9, N),), batch, "f32", step + 20), push=True))
        for _ in range(2):
            found += executable.backward("softloss", onehot(5, batch, "f32"), None, [0], pop=True).values()
        found += [executable.read("grad", name) for name in executable.program.params()]
        executable.update(dict.fromkeys(executable.program.params(), TRAINING), gclip=0.01, gscale=1.0)
    return found


def training(executable):
    """Minibatches in one call, the last one smaller, and again with other options; on the interpreter one by one."""
    found = []
    for seed, clip, options in ((1, 0.0, TrainingOptions(lr=0.1)), (2, 0.01, TRAINING), (3, 0.01, TRAINING)):
        (x,), gold = data(((9, N),), 39, "f32", seed), onehot(5, 39, "f32")
        wanted = dict.fromkeys(executable.program.params(), options)
        if isinstance(executable, Library):
            losses = executable.train(frozenset(), [x], gold, 6, "softloss", wanted, clip)
        else:
            losses = []
            for first in range(0, 39, 6):
                part, here = gold[:, first : first + 6], [x[:, first : first + 6]]
                losses.append(mean_loss("softloss", executable.forward(frozenset(), here, push=False), part))
                executable.backward("softloss", part, None, (), pop=False)
                executable.update(wanted, clip, 1.0)
        found += [np.array(losses, np.float32), executable.read("value", "return")]
        found += [executable.read("grad", name) for name in executable.program.params()]
    return found


def lenet(executable):
    found = []
    for step in range(2):
        found.append(executable.forward(frozenset(), data(((9, 8, 2, N),), 6, "f32", step), push=False))
        found += executable.backward("softloss", onehot(5, 6, "f32"), None, [0], pop=False).values()
        found += [executable.read("grad", name) for name in executable.program.params()]
        executable.update(dict.fromkeys(executable.program.params(), TRAINING), gclip=0.01, gscale=1.0)
    return found


def main(name: str, path: str) -> str:
    program, _ = model(name)
    scenarios = {"dense": dense, "training": training, "lenet": lenet}
    scenario = {"lstm2": lstm2, "sequence": sequence, "segments": segments, **scenarios}[name]
    try:
        emitted = Library(program, path, 7)
        got, params = scenario(emitted), [emitted.read("par", p) for p in program.params()]
        emitted.close()
    except KnetError as error:
        return f"refused: {error}"
    meaning = Interpreter(program, 7)
    try:
        agree(got, scenario(meaning), "f32")
        for param, name in zip(params, program.params(), strict=True):
            close(param, meaning.read("par", name), "f32", terms=600)
    except AssertionError:
        return "different"
    return "same"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
