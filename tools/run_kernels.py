"""Runs every kernel that knetc emits at least once on the GPU: every operator's, and those of every example, in single
calls, sequences of steps, whole sequences and steps of training.

    python tools/run_kernels.py [--backend emulated]

For compute-sanitizer (tools/gpu_check.sh): sizes are small, values are not looked at. With `--backend emulated` on the
emulation, to see that the script itself is right.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from codegen.cases import ALL  # noqa: E402
from codegen.support import NONE, compiled, data_for, program_of  # noqa: E402
from codegen.test_models import OPTIONS, data  # noqa: E402

from knetc.ir.program import LOSSES, Program  # noqa: E402
from knetc.ir.types import N  # noqa: E402
from knetc.options import Options  # noqa: E402

HOUSING = "--input 13,N"  # the one example whose file does not say the size of its input


def shapes_of(path: Path) -> tuple[tuple[Any, ...], ...]:
    """The shapes of a model's inputs, from the line `# knetc: --input …` of its file."""
    text = HOUSING if path.stem == "housing" else path.read_text()
    found = re.findall(r"--input (\S+)", text)
    return tuple(tuple(N if word == "N" else int(word) for word in dims.split(",")) for dims in found)


def executable(backend: str, program: Program, options: Options) -> Any:
    """The program on the back end, with seed 1."""
    from knetc.runtime.backends import make

    return make(backend, program, options, 1)


def operators(backend: str) -> None:
    """Every operator, for batches that grow and shrink."""
    for dtype in ("f32", "f64"):
        e = executable(backend, program_of(ALL, dtype), Options(dtype=dtype))
        for batch in (1, 33):
            e.forward(NONE, data_for(ALL, dtype, batch), push=False)
            e.read("value", f"v{len(ALL) - 1}")
        e.close()


def example(backend: str, path: Path) -> None:
    """Forward, backward from every loss and update under every condition; steps and sequences; training."""
    shapes = shapes_of(path)
    program, options = compiled(path, losses=LOSSES, inputs=shapes)
    e = executable(backend, program, options)
    sequences(e, shapes)
    settings = [s for v in program.variants for s in v.settings]
    for round_, training in enumerate(OPTIONS[:3]):
        for push in (False, True):
            for setting in settings:
                value = e.forward(setting, data(shapes, 5, "f32", round_), push=push)
                for loss in LOSSES if not push else LOSSES[-1:]:
                    if (value is None) != (loss == "zero"):
                        continue
                    gold = None if value is None else np.abs(value)
                    mask = np.ones(5, np.float32) if loss in ("quadloss", "softloss") else None
                    e.backward(loss, gold, mask, [0] if not push else [], pop=push)
                if value is None and push:
                    e.backward("zero", None, None, [], pop=True)
        e.update(dict.fromkeys(program.params(), training), gclip=1.0, gscale=1.0)
        e.reset(False)
    e.close()


def sequences(e: Any, shapes: tuple[tuple[Any, ...], ...]) -> None:
    """Whole sequences under every condition, back from every loss; minibatches and segments in one call."""
    xs = data(shapes, 6, "f32", 1)
    every = dict.fromkeys(e.program.params(), OPTIONS[0])
    for setting in (s for v in e.program.variants for s in v.settings):
        for loss in LOSSES:
            value = e.forward_sequence(setting, xs, 3)
            if (value is None) == (loss == "zero"):
                mask = np.ones(6, np.float32) if loss in ("quadloss", "softloss") else None
                e.backward_sequence(loss, None if value is None else np.abs(value), mask, 3)
            e.reset(False)
        if value is not None and e.trains:
            for loss in ("quadloss", "softloss"):
                e.train(setting, xs, np.abs(value), 3, loss, every, 1.0)
                e.reset(False)
                if e.trains_over_time:
                    e.train_over_time(setting, xs, np.abs(value), 2, 2, loss, every, 1.0)
                    e.reset(False)


def main() -> None:
    """Runs all; says what, so that a finding has a place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["cuda", "emulated"], default="cuda")
    backend = parser.parse_args().backend
    print("operators", flush=True)
    operators(backend)
    for path in sorted([*(ROOT / "examples").glob("*.knet"), *(ROOT / "tests/golden/models").glob("*.knet")]):
        print(path.stem, flush=True)
        example(backend, path)
    print("every kernel has run")


if __name__ == "__main__":
    main()
