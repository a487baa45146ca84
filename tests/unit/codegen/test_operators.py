"""Every operator's emitted kernel or library call against its NumPy meaning, over shapes, batches and element types."""

from __future__ import annotations

import numpy as np
import pytest

from knetc.ir.program import Backward, Input, Instr, Program, Variant
from knetc.ir.types import N, Type
from knetc.ops import registry
from knetc.ops.base import NoCode
from knetc.ops.fillers import fill
from knetc.options import Options

from .cases import ALL
from .support import NONE, attributes, close, data_for, make, program_of, result_dims

LOSSES = ("quadloss", "softloss", "zeroone")
LOSS_GRADIENTS = ("quadloss_back", "softloss_back", "softmax_softloss_back")
# What runs through other tests: parameters and state, and the effects, which are plans of buffers rather than code.
ELSEWHERE = {"keep", "dkeep", "dpar", "dinput", "update", "dstate", "state", "par", "arr"}


def test_every_operator_has_a_case():
    covered = {c.op for c in ALL} | set(LOSSES) | set(LOSS_GRADIENTS) | ELSEWHERE
    assert covered == set(registry())
    assert all(not isinstance(registry()[c.op].cuda, NoCode) for c in ALL)


class Context:
    """What a NumPy meaning asks for."""

    steps = 1
    out = None

    def __init__(self, case, index, dims, dtype, seed, call):
        self.attrs, self.dims, self.dtype = attributes(case), dims, np.dtype(dtype)
        self._key = (seed, index, call)

    def draw(self, filler, stream):
        seed, index, call = self._key
        return fill(filler, self.dims, self.dtype, seed, index, call)


class PoolContext(Context):
    """That of maximum pooling, for an operator that goes by its winners."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.attrs = {**self.attrs, "mode": "CUDNN_POOLING_MAX"}


@pytest.fixture(scope="module", params=["f32", "f64"])
def emitted(request, target):
    """All cases in one library, compiled once for each element type."""
    program = program_of(ALL, request.param)
    executable = make(program, Options(dtype=request.param), seed=11)
    yield request.param, executable
    executable.close()


@pytest.mark.parametrize("batch", [1, 5, 33])
def test_operators_by_value(emitted, batch):
    dtype, executable = emitted
    inputs = data_for(ALL, dtype, batch)
    executable.set_seed(11)
    executable.forward(NONE, inputs, push=False)
    taken = 1
    for k, case in enumerate(ALL):
        args = inputs[taken : taken + len(case.dims)]
        taken += len(case.dims)
        dims = tuple(batch if d is N else d for d in result_dims(case))
        if case.op in ("pool_back", "unpool"):  # they read what pooling made of an image
            continue
        want = registry()[case.op].numpy(Context(case, k, dims, inputs[0].dtype, 11, 1), *args)
        got = executable.read("value", f"v{k}")
        if case.op == "rnd":
            assert np.array_equal(got, want), case.id
        else:
            close(got, np.asarray(want), dtype, terms=max(a.size for a in args) if args else 1)


@pytest.mark.parametrize("batch", [1, 6])
def test_pooling_gradients_by_value(emitted, batch):
    # With x at hand, y is what pooling made of it, and its winners; ties go to the first maximum.
    dtype, executable = emitted
    inputs = data_for(ALL, dtype, batch, seed=3)
    taken = 1
    wanted = {}
    for k, case in enumerate(ALL):
        if case.op == "pool_back":
            dy, x = inputs[taken], inputs[taken + 1]
            pool = registry()["pool"].numpy(Context(case, k, dy.shape, dy.dtype, 0, 0), x)
            inputs[taken + 2] = np.asfortranarray(pool)
            wanted[k] = registry()["pool_back"].numpy(Context(case, k, x.shape, dy.dtype, 0, 0), dy, x, pool)
        elif case.op == "unpool":
            dy, size = inputs[taken], tuple(batch if d is N else d for d in case.out)
            x = np.asfortranarray(np.random.default_rng(k).integers(0, 3, size), dy.dtype)
            won = registry()["winner"].numpy(Context(case, k, dy.shape, dy.dtype, 0, 0), x)
            inputs[taken + 1] = np.asfortranarray(won)
            pool = registry()["pool"].numpy(PoolContext(case, k, dy.shape, dy.dtype, 0, 0), x)
            wanted[k] = registry()["pool_back"].numpy(PoolContext(case, k, size, dy.dtype, 0, 0), dy, x, pool)
        taken += len(case.dims)
    executable.forward(NONE, inputs, push=False)
    for k, want in wanted.items():
        close(executable.read("value", f"v{k}"), want, dtype)


# --- losses -----------------------------------------------------------------------------------------------------------


def loss_program(dims, loss, back, dtype):
    """A model that returns its input, with one backward pass that computes a loss and a gradient of it."""
    t = Type(dtype, dims)
    arguments = ("x", "@gold", "@mask")
    body = (
        Instr("@loss", loss, arguments, type=Type(dtype, ())),
        Instr("d:x", back, arguments, type=t),
        Instr("", "dinput", ("d:x",), (("index", 0),)),
    )
    variant = Variant((NONE,), (), "x", (("return", "x"),), (Backward("quadloss", body),))
    return Program("losses", "training", (Input("x", dims),), (), (variant,), dtype)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("loss,back", list(zip(LOSSES, LOSS_GRADIENTS, strict=True)))
def test_losses_by_value(loss, back, dtype, target):
    executable = make(loss_program((10, N), loss, back, dtype), Options(dtype=dtype))
    for batch in (1, 7, 40):
        r = np.random.default_rng(batch)
        p = np.asfortranarray(r.random((10, batch)), executable._dtype)
        p[0, 0] = 0  # under the bound of softloss
        gold = np.zeros_like(p, order="F")
        gold[r.integers(0, 10, batch), np.arange(batch)] = 1
        for mask in (None, np.asfortranarray(r.integers(0, 3, batch) / 2, p.dtype)):
            got = executable.forward(NONE, [p], push=False)
            assert np.array_equal(got, p)
            context = type("C", (), {"dtype": p.dtype, "dims": (), "attrs": {}, "steps": 1, "out": None})
            close(
                np.asarray(executable.loss("quadloss", gold, mask), p.dtype),
                np.asarray(registry()[loss].numpy(context, p, gold, mask)),
                dtype,
            )
            dx = executable.backward("quadloss", gold, mask, [0], pop=False)[0]
            close(dx, np.asarray(registry()[back].numpy(context, p, gold, mask)), dtype)
    executable.close()
