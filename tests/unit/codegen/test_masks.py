"""A column whose mask is 0 adds nothing to a loss or a gradient, whatever stands there (LANGUAGE.md §9)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from knetc.ir.types import N
from knetc.ops.base import registry
from knetc.runtime.emulated import EmulatedExecutable

from .support import NONE, both, compiled

CONTEXT = SimpleNamespace(steps=1, out=None, dtype=np.dtype(np.float32))  # all that the losses read of an evaluation
SOURCES = {
    "quadloss": "@knet function m(x)\n return 2 .* x\nend",
    "softloss": "@knet function m(x)\n return relu(x)\nend",  # softloss on what is no soft
    "softmax": "@knet function m(x)\n return soft(x)\nend",
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", list(SOURCES))
def test_a_masked_column_adds_nothing(name, value):
    loss = "quadloss" if name == "quadloss" else "softloss"
    program, options = compiled(SOURCES[name], inputs=((3, N),))
    r = np.random.default_rng(1)
    x = np.asfortranarray(r.random((3, 4)) + 0.5, np.float32)
    gold = np.asfortranarray(r.random((3, 4)), np.float32)
    gold /= gold.sum(axis=0)
    mask = np.array([1, 0, 0.5, 0], np.float32)
    clean, bad = x.copy(order="F"), x.copy(order="F")
    bad_gold = gold.copy(order="F")
    bad[1, 1] = bad_gold[2, 3] = value
    results = []
    for executable in both(program, options):
        for data, want in ((clean, gold), (bad, bad_gold)):
            y = executable.forward(NONE, [data], push=False)
            dx = executable.backward(loss, want, mask, [0], pop=False)[0]
            emitted = isinstance(executable, EmulatedExecutable)
            total = (
                executable.loss(loss, want, mask) if emitted else float(registry()[loss].numpy(CONTEXT, y, want, mask))
            )
            results.append((total, dx))
    for got, dx in results:
        assert np.isfinite(got)
        np.testing.assert_allclose(got, results[0][0], rtol=2e-6)
        np.testing.assert_allclose(dx, results[0][1], rtol=2e-6, atol=1e-7)
        assert not dx[:, [1, 3]].any()


@pytest.mark.parametrize("before", [False, True], ids=["at first", "after a loss"])
def test_without_a_loss_a_mask_is_left_alone(before):
    """C programs may give one with a gradient of the output too; then there is no place for it to be copied to."""
    source = "@knet function m(x)\n h = wbf(x; out=3, f=:relu)\n return wbf(h; out=3, f=:soft)\nend"
    program, options = compiled(source, inputs=((3, N),), losses=("zero", "none", "softloss"))
    r = np.random.default_rng(1)
    x, dy = (np.asfortranarray(r.standard_normal((3, 4)), np.float32) for _ in range(2))
    mask = np.zeros(4, np.float32)
    found = []
    for executable in both(program, options):
        executable.forward(NONE, [x], push=False)
        if before:
            executable.backward("softloss", np.abs(dy), np.ones(4, np.float32), [0], pop=False)
        for given in (None, mask):
            executable.forward(NONE, [x], push=False)
            found.append(executable.backward("none", dy, given, [0], pop=False)[0])
    for dx in found:
        np.testing.assert_allclose(dx, found[0], rtol=2e-5, atol=1e-7)
    assert found[0].any()
