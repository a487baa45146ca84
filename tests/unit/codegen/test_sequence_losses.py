"""The loss that `backseq` gives: the mean of those of the steps that it goes back through, each the interpreter's."""

from __future__ import annotations

import numpy as np
import pytest

import knetc
from knetc.ir.program import LOSSES
from knetc.runtime.interp import Interpreter

from .support import compiled, make
from .test_models import data
from .test_whole_sequences import BATCH, LSTM, MODELS, ONE, columns

pytestmark = pytest.mark.usefixtures("target")
TOLERANCE = {"f32": 1e-5, "f64": 1e-12}


def pair(source: str, shapes: tuple, dtype: str):
    """The emitted code, and the interpreter of the program as it was written."""
    program, options = compiled(source, inputs=shapes, dtype=dtype, losses=LOSSES)
    plain, _ = compiled(source, inputs=shapes, dtype=dtype, losses=LOSSES, level=0)
    return make(program, options, 7), Interpreter(plain, 7)


def forward(nets, shapes, setting, steps: int, dtype: str, seed: int) -> list[np.ndarray]:
    """A sequence at once on the emitted code, step by step on the interpreter, whose values it gives."""
    emitted, meaning = nets
    inputs = data(shapes, BATCH * steps, dtype, seed)
    emitted.forward_sequence(setting, inputs, steps)
    return [meaning.forward(setting, [columns(a, t) for a in inputs], push=True) for t in range(steps)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", MODELS)
def test_the_mean_of_the_steps_losses(name, dtype, masked):
    """Of steps that run at once, of a single one, and of several runs, some of which are gone back through in part."""
    source, shapes, setting = MODELS[name]
    nets = pair(source, shapes, dtype)
    values = [v for steps in (1, 7, 3) for v in forward(nets, shapes, setting, steps, dtype, steps)]
    rng = np.random.default_rng(3)
    loss = "quadloss" if name in ("rnn1", "a value that no way back reads") else "softloss"
    for steps in (3, 2, 5, 1):
        last = values[-steps:]
        del values[-steps:]
        gold = np.asfortranarray(rng.uniform(size=(len(last[0]), BATCH * steps)), last[0].dtype)
        mask = rng.integers(0, 3, BATCH * steps).astype(gold.dtype) if masked else None
        found = nets[0].sequence_loss(loss, gold, mask, steps)
        parts = [None if mask is None else columns(mask, t) for t in range(steps)]
        each = [getattr(knetc, loss)(v, columns(gold, t), m) for t, (v, m) in enumerate(zip(last, parts, strict=True))]
        np.testing.assert_allclose(found, np.mean(each), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("loss", ["zero", "none"])
def test_there_is_none_where_the_way_back_starts_from_none(loss):
    nets = pair(LSTM, (ONE,), "f64")
    forward(nets, (ONE,), frozenset(), 4, "f64", 1)
    gold = None if loss == "zero" else np.ones((3, BATCH * 2))
    assert [nets[0].sequence_loss(loss, gold, None, 2) for _ in range(2)] == [0, 0]
