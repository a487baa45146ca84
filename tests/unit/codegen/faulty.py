"""Run by test_faults in a process of its own: a library of an emitted file, perhaps with a fault in it, beside the
interpreter. Says `same` where every number agrees."""

from __future__ import annotations

import sys
from pathlib import Path

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

DENSE = "@knet function dense(x)\n h = wbf(x; out=8, f=:relu)\n return wbf(wb(h; out=6); out=5, f=:soft)\nend"
BATCH = 70  # more than two warps
TRAINING = TrainingOptions(lr=0.1, momentum=0.5, adam=True)


def model(name: str):
    """The program and the options of `lstm2`, which `sequence` runs too, of `dense` or of `lenet`."""
    if name == "dense":
        return compiled(DENSE, inputs=((9, N),), losses=("softloss",))
    if name in ("lstm2", "sequence"):
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
    """Whole sequences of several lengths, with dropout, whose state the next one takes up."""
    _, shapes, _ = MODELS["lstm2"]
    found = []
    for steps in (3, 1, 4):
        xs = data(shapes, 6 * steps, "f32", steps)
        found.append(executable.forward_sequence(frozenset({"dropout", "predict"}), xs, steps))
        executable.backward_sequence("softloss", onehot(3, 6 * steps, "f32"), None, steps)
        found += [executable.read("grad", name) for name in executable.program.params()]
        executable.update(dict.fromkeys(executable.program.params(), TRAINING), gclip=0.01, gscale=1.0)
        executable.reset(True)
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
    scenario = {"lstm2": lstm2, "sequence": sequence, "dense": dense, "lenet": lenet}[name]
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
