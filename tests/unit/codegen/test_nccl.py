"""Emitted CUDA with -DKNET_NCCL: models that share a minibatch, on the emulation's look-alike of NCCL."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from knetc import driver
from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetError, KnetStateError, Source
from knetc.ir.program import LOSSES, Program
from knetc.ir.types import N
from knetc.options import Options
from knetc.runtime import emulation
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter
from knetc.runtime.library import SIGNATURES, Library

SOURCE = """
@knet function net(x; hidden=6)
    n = rnd(init=Gaussian(0, 0.1))
    h = wbf(x .+ n; out=hidden, f=:tanh)
    d = drop(h; pdrop=0.4) .+ rnd(dims=(6,1), init=Uniform(-0.1, 0.1))
    return wbf(d; out=3, f=:soft)
end
"""
OPTIONS = Options(inputs=((5, N),), losses=LOSSES, dtype="f64")
DROPOUT = frozenset({"dropout"})


class Shared(Library):
    """A model of a library that was built with NCCL."""

    functions = {**SIGNATURES, "allreduce": (ctypes.c_void_p, ctypes.c_void_p)}

    def allreduce(self, comm: ctypes.c_void_p) -> None:
        """Sums the gradients with those of the other models of the communicator."""
        self._call("allreduce", self._model, comm)

    def set_columns(self, first: int) -> None:
        """Where the columns of the next calls begin."""
        self._call("set_columns", self._model, first)


@pytest.fixture(scope="module")
def program() -> Program:
    return driver.optimise(driver.lower(Source("net.knet", SOURCE), None, {}), OPTIONS)


@pytest.fixture(scope="module")
def built(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nccl")
    (folder / "net.cu").write_text(emit_cuda(program, OPTIONS))
    emulation.compile_shared(folder / "net.cu", folder / "net.so", extra=("-DKNET_NCCL",))
    return folder / "net.so"


@pytest.fixture
def comms() -> Iterator[list[ctypes.c_void_p]]:
    nccl = ctypes.CDLL(str(emulation.build_library()))
    made = (ctypes.c_void_p * 3)()
    assert nccl.ncclCommInitAll(made, 3, None) == 0
    yield [ctypes.c_void_p(c) for c in made]
    for comm in made:
        nccl.ncclCommDestroy(ctypes.c_void_p(comm))


def test_models_that_share_a_minibatch_train_as_one(
    program: Program, built: Path, comms: list[ctypes.c_void_p]
) -> None:
    rng = np.random.default_rng(0)
    ends = [0, 4, 7, 10]
    models = [Shared(program, str(built), 3) for _ in comms]
    whole = Interpreter(program, 3)
    options = {str(i.attr("param")): TrainingOptions(lr=0.3, momentum=0.5) for i in program.update}
    for _ in range(3):
        x = np.asfortranarray(rng.normal(size=(5, 10)))
        gold = np.asfortranarray(np.eye(3)[:, rng.integers(0, 3, 10)])
        value = whole.forward(DROPOUT, [x], push=False)
        whole.backward("softloss", gold, None, (), pop=False)
        whole.update(options, 0.2, 1.0)
        for net, a, b in zip(models, ends, ends[1:], strict=False):
            net.set_columns(a)
            np.testing.assert_allclose(net.forward(DROPOUT, [x[:, a:b]], push=False), value[:, a:b], rtol=1e-12)
            net.backward("softloss", gold[:, a:b], np.full(b - a, (b - a) / 10), (), pop=False)
        for net, comm in zip(models, comms, strict=True):
            net.allreduce(comm)
        for net in models:
            net.update(options, 0.2, 1.0)
    for name in options:
        for net in models:
            np.testing.assert_allclose(net.read("par", name), whole.read("par", name), rtol=1e-10, atol=1e-13)
            assert net.read("par", name).tobytes() == models[0].read("par", name).tobytes()


def test_what_does_not_fit_is_an_error(program: Program, built: Path, comms: list[ctypes.c_void_p]) -> None:
    net = Shared(program, str(built), 3)
    with pytest.raises(KnetStateError, match="allreduce comes after backward"):
        net.allreduce(comms[0])
    with pytest.raises(KnetError, match="communicator is NULL"):
        net.allreduce(ctypes.c_void_p(None))
    with pytest.raises(KnetError, match="first column -1"):
        net.set_columns(-1)


def test_every_call_that_fails_is_told(
    program: Program, built: Path, comms: list[ctypes.c_void_p], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code and a reason, and a model whose parameters are as they were and which goes on."""
    library, net = ctypes.CDLL(str(emulation.build_library())), Shared(program, str(built), 3)
    x, gold = np.ones((5, 4), order="F"), np.asfortranarray(np.eye(3)[:, [0, 1, 2, 0]])
    names = [str(i.attr("param")) for i in program.update]
    before = [net.read("par", name) for name in names]
    reasons, most = [], 20
    for n in range(1, most):
        net.forward(DROPOUT, [x], push=False)
        net.backward("softloss", gold, None, (), pop=False)
        monkeypatch.setenv("KNETEMU_FAIL_CALL", str(n))
        library.knetemu_reload()
        code = net._function("allreduce")(net._model, comms[0])
        monkeypatch.setenv("KNETEMU_FAIL_CALL", "0")
        library.knetemu_reload()
        if not code:
            break
        reasons.append(net._function("last_error")().decode())
    assert n < most and len(reasons) > len(program.update) and all(reasons), reasons
    assert any("ncclAllReduce: " in reason for reason in reasons)
    assert all(np.array_equal(a, net.read("par", name)) for a, name in zip(before, names, strict=True))
