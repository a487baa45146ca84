"""Run by test_sanitizers in a process of its own: every operator's code and a training step, under a sanitizer.

Arguments: the sanitizer, the target; and "failing" for the sweep of failures in whole sequences instead.

Every buffer has memory of its own here, so that the sanitizer sees its end.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pytest

from codegen.cases import ALL
from codegen.driver import Failures
from codegen.sequence_script import library_of, script_of
from codegen.support import NONE, TARGETS, compiled, data_for, program_of
from codegen.sweep import KINDS_OF_FAILURE, Sweep
from codegen.test_models import LENET, MLP, OPTIONS, data, onehot
from codegen.test_sequences import MODELS, run
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.options import Options
from knetc.record import replace
from knetc.runtime.executable import Executable


def operators(sanitize: str) -> None:
    executable = TARGETS[sys.argv[2]](program_of(ALL, "f32"), Options(arena=False), 1, sanitize)
    for batch in (1, 4, 3):  # grows, then fits
        executable.forward(NONE, data_for(ALL, "f32", batch), push=False)
        for k in range(len(ALL)):
            executable.read("value", f"v{k}")
    executable.close()


def training(sanitize: str, source: str, shape: tuple) -> None:
    program, options = compiled(source, inputs=(shape,))
    executable = TARGETS[sys.argv[2]](program, replace(options, arena=False), 1, sanitize)
    for step, training in enumerate(OPTIONS):
        batch = 1 + step % 4
        for setting in (s for v in program.variants for s in v.settings):
            executable.forward(setting, data((shape,), batch, "f32"), push=False)
            mask = np.ones(batch, np.float32) if step % 2 else None
            loss = ("softloss", "quadloss", "none")[step % 3]
            executable.backward(loss, onehot(5, batch, "f32"), mask, [0], pop=False)
        executable.update(dict.fromkeys(program.params(), training), gclip=float(step % 2), gscale=1.0)
    executable.clean()
    executable.close()


def at_once(executable: Executable, shapes: tuple, setting: frozenset[str]) -> None:
    for batch, steps in ((2, 3), (2, 5), (4, 3)):
        for given in (data(shapes, batch * steps, "f32"), [onehot(s[0], batch * steps, "f32") for s in shapes]):
            value = executable.forward_sequence(setting, given, steps)
            if value is not None:
                executable.backward_sequence("softloss", value, np.ones(batch * steps, np.float32), steps)
            executable.reset(False)
            if value is not None and executable.trains_over_time:
                every = dict.fromkeys(executable.program.params(), OPTIONS[0])
                executable.train_over_time(setting, given, np.abs(value), batch, steps - 1, "softloss", every, 1.0)
                executable.reset(False)


def sequences(sanitize: str) -> None:
    for name in ("lstm2", "two"):
        source, shapes, settings = MODELS[name]
        program, options = compiled(source, inputs=shapes, losses=LOSSES)
        executable = TARGETS[sys.argv[2]](program, replace(options, arena=False), 1, sanitize)
        for keep, batch in ((True, 3), (False, 3), (False, 5)):
            run(executable, shapes, settings, batch, "f32")
            executable.update(dict.fromkeys(program.params(), OPTIONS[0]), gclip=1.0, gscale=1.0)
            executable.reset(keep)
        executable.reset(False)
        at_once(executable, shapes, frozenset(settings[0]))
        executable.forward(frozenset(settings[0]), data(shapes, 2, "f32"), push=True)
        executable.close()  # with a step on the stack


def failing(sanitize: str) -> None:
    """Every failure in a whole sequence, captured where it can be."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        library = library_of("unwritten", Path(folder), sanitize=sanitize)
        for kind in KINDS_OF_FAILURE:
            Sweep(script_of("unwritten"), library, kind, Failures(library._library, patch), graphs=2).run()


if __name__ == "__main__":
    if sys.argv[3:] == ["failing"]:
        failing(sys.argv[1])
    else:
        operators(sys.argv[1])
        training(sys.argv[1], MLP, (9, N))
        training(sys.argv[1], LENET, (9, 8, 2, N))
        sequences(sys.argv[1])
    print("clean")
