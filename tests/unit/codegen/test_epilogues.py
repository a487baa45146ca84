"""Products with an epilogue by value: bias, relu and the bias's gradient in cuBLASLt's call, and without it.

The emulation's cuBLASLt computes them, finds no algorithm (`none`), or refuses the one that it found (`late`); the
numbers are the interpreter's in each case, of the definition (-O0) and of the optimised program.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

import knetc
from knetc.codegen.emit import emit_cuda
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.record import replace
from knetc.runtime import emulation
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.interp import Interpreter

from .support import NONE, ROOT, close, compiled
from .test_models import data, onehot
from .test_sequences import MODELS as RECURRENT
from .test_sequences import agree, run

MLP = "@knet function mlp(x)\n h = wbf(x; out=7, f=:relu)\n g = wb(h; out=6)\n return wbf(g; out=5, f=:soft)\nend"
SOFTMAX = "@knet function softmax(x)\n return wbf(x; out=5, f=:soft)\nend"
DENSE = (
    "@knet function dense(x)\n c = cbfp(x; out=2, f=:relu, cwindow=3, pwindow=2)\n h = wbf(c; out=8, f=:relu)\n"
    " return wbf(h; out=5, f=:soft)\nend"
)
# The parameters w and b used twice, a value before its relu that is used again, a scaled product, relu without a bias,
# one row.
SHARED = """
@knet function shared(x)
    w = par(init=Gaussian(0, 0.5), dims=(9,9))
    b = par(init=Gaussian(0, 1), dims=(9,))
    h = relu(w * relu(w * x .+ b) .+ b)
    z = w * h .+ b
    s = relu(0.5 * (w * relu(z)) .+ b) .+ z
    u = relu(wdot(s; out=5))
    return wbf(u; out=5, f=:soft) .+ wbf(h; out=1, f=:relu)
end
"""
MODELS = {
    "mlp": (MLP, ((9, N),)),
    "softmax": (SOFTMAX, ((9, N),)),
    "dense": (DENSE, ((9, 8, 1, N),)),
    "shared": (SHARED, ((9, N),)),
}
WAYS = ("work", "none", "late")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What cuBLASLt does."""
    library = ctypes.CDLL(str(emulation.build_library()))
    monkeypatch.setenv("KNETEMU_EPILOGUES", request.param)
    library.knetemu_reload()
    yield request.param
    monkeypatch.undo()
    library.knetemu_reload()


def met(executable, shapes, dtype, batches):
    """Values, gradients of the input and of parameters over several calls whose batches change."""
    found = []
    for step, batch in enumerate(batches):
        found.append(executable.forward(NONE, data(shapes, batch, dtype, step), push=False))
        for loss in ("softloss", "quadloss"):
            gold = onehot(found[0].shape[0], batch, dtype)
            found.append(executable.backward(loss, gold, None, [0], pop=False)[0])
            found += [executable.read("grad", p) for p in executable.program.params()]
    return found


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", MODELS)
def test_the_numbers_are_the_interpreters(name, dtype, way):
    source, shapes = MODELS[name]
    plain, _ = compiled(source, inputs=shapes, dtype=dtype, level=0)
    program, options = compiled(source, inputs=shapes, dtype=dtype)
    assert "multiply(m, " in emit_cuda(program, options)
    batches = (1, 37, 100, 37, 2, 3, 5, 1)  # more of them than there are plans of a product
    got = met(EmulatedExecutable(program, options, 3), shapes, dtype, batches)
    for meaning in (plain, program):
        for g, w in zip(got, met(Interpreter(meaning, 3), shapes, dtype, batches), strict=True):
            close(g, w, dtype, terms=2000)


@pytest.mark.parametrize("name", ["lstm2", "irnn"])
def test_sequences(name, way):
    """Frames of a sequence stand elsewhere than those of a single step: the vector's address goes with each call."""
    source, shapes, settings = RECURRENT[name]
    program, options = compiled(source, inputs=shapes, losses=LOSSES)
    assert "CUBLASLT_EPILOGUE_BGRADA" in emit_cuda(program, options)
    emitted, meaning = EmulatedExecutable(program, options, 3), Interpreter(program, 3)
    for _ in range(2):
        agree(*(run(e, shapes, settings, 4, "f32") for e in (emitted, meaning)), "f32")


def test_whole_sequences(way):
    """What is computed for all steps at once, before the loop and after it, has its epilogues too."""
    source = """
@knet function m(x)
    a = wbf(x; out=6, f=:relu)
    h = tanh(wdot(a; out=5) .+ wdot(h; out=5) .+ par(init=Gaussian(0, 1), dims=(5,1)))
    b = wbf(h; out=7, f=:relu)
    return wbf(b; out=3, f=:soft)
end
"""
    found = []
    for backend, level in (("numpy", 0), ("emulated", 2)):
        net = knetc.compile(source, backend=backend, dtype="f64", seed=3, optimise=level)
        for steps, batch in ((4, 3), (2, 3), (5, 2)):
            rng = np.random.default_rng(steps)
            golds = [np.eye(3)[:, rng.integers(0, 3, batch)] for _ in range(steps)]
            found += net.forwseq([rng.normal(size=(4, batch)) for _ in range(steps)])
            net.backseq(golds, "softloss")
            found += [net.grad(name) for name in net.params()]
            net.update()
            net.reset()
    assert len(found) == 2 * (11 + 3 * 9)
    for w, g in zip(found, found[len(found) // 2 :], strict=False):
        close(g, w, "f64", terms=600)


def test_levels_agree_and_lower_ones_have_no_epilogue():
    shapes = ((9, N),)
    found = []
    for level in (0, 1, 2):
        program, options = compiled(MLP, inputs=shapes, level=level)
        assert ("cublasLt" in emit_cuda(program, options)) == (level == 2)
        found.append(met(EmulatedExecutable(program, options, 3), shapes, "f32", (37,)))
    for other in found[1:]:
        for g, w in zip(other, found[0], strict=True):
            close(g, w, "f32", terms=500)


@pytest.mark.parametrize(
    "dtype,math,compute",
    [
        ("f32", "fp32", "CUBLAS_COMPUTE_32F"),
        ("f32", "tf32", "CUBLAS_COMPUTE_32F_FAST_TF32"),
        ("f64", "fp32", "CUBLAS_COMPUTE_64F"),
        ("f64", "tf32", "CUBLAS_COMPUTE_64F"),
    ],
)
def test_both_ways_of_multiplying_compute_in_the_same_numbers(dtype, math, compute):
    program, options = compiled(MLP, inputs=((9, N),), dtype=dtype)
    options = replace(options, math=math)
    text = emit_cuda(program, options)
    assert f"cublasLtMatmulDescCreate(&p->call, {compute}, type)" in text
    assert ("CUBLAS_TF32_TENSOR_OP_MATH" in text) == (math == "tf32")
    got = met(EmulatedExecutable(program, options, 3), ((9, N),), dtype, (37,))
    for g, w in zip(got, met(Interpreter(program, 3), ((9, N),), dtype, (37,)), strict=True):
        close(g, w, dtype, terms=500)


def test_launches_of_a_step_of_training(monkeypatch):
    """What the device is given to do in a step, without graphs: three kernels fewer where products have epilogues."""
    library = ctypes.CDLL(str(emulation.build_library()))
    library.knetemu_works.restype = ctypes.c_longlong
    monkeypatch.setenv("KNETC_GRAPHS", "0")
    program, options = compiled(ROOT / "examples" / "mlp.knet", inputs=((28, 28, 1, N),), losses=("softloss",))
    (x,), gold = data(((28, 28, 1, N),), 3, "f32"), onehot(10, 3, "f32")
    works = {}
    for way in WAYS:
        monkeypatch.setenv("KNETEMU_EPILOGUES", way)
        library.knetemu_reload()
        emitted = EmulatedExecutable(program, options, 3)
        for _ in range(2):
            before = library.knetemu_works()
            emitted.forward(NONE, [x], push=False)
            emitted.backward("softloss", gold, None, [], pop=False)
            works[way] = library.knetemu_works() - before
        emitted.close()
    monkeypatch.undo()
    library.knetemu_reload()
    assert works["none"] == works["late"] == works["work"] + 3


def test_an_unused_library_is_not_asked_for():
    """A program without products with an epilogue names neither cuBLASLt nor its header."""
    program, options = compiled("@knet function f(x)\n return tanh(wdot(x; out=3))\nend", inputs=((4, N),))
    text = emit_cuda(program, options)
    assert "cublas_v2.h" in text and "cublasLt" not in text
    assert np.isfinite(EmulatedExecutable(program, options, 3).forward(NONE, data(((4, N),), 5, "f32"), False)).all()
