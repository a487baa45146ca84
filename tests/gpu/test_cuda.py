"""The cuda back end on a real device, against the interpreter. Skipped, with the reason, where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc.ir.program import LOSSES
from knetc.runtime import check, cuda
from knetc.runtime.interp import Interpreter

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from codegen.support import compiled
from codegen.test_graphs import NET, SHAPE, training

pytestmark = pytest.mark.gpu
TIGHT = {"rtol": 2e-4, "atol": 2e-5}

LENET = """
@knet function lenet(x)
    c = cbfp(x; out=6, f=:relu, cwindow=5, pwindow=2)
    d = drop(cbfp(c; out=8, f=:tanh, cwindow=3, pwindow=3); pdrop=0.3)
    return wbf(d; out=10, f=:soft)
end
"""


RANDOM = """
@knet function f(x)
    w = par(init=Gaussian(0, 1), dims=(300, 0))
    return (w * x) .* rnd(init=Bernoulli(0.5, 2))
end
"""


@pytest.fixture(autouse=True)
def device(monkeypatch):
    if cuda.available() is not None:
        pytest.skip(f"no device to test on: {cuda.available()}")
    monkeypatch.setenv("KNETC_GRAPHS", "1")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_training_agrees_with_the_interpreter(dtype):
    r = np.random.default_rng(0)
    real = np.float32 if dtype == "f32" else np.float64
    nets = [knetc.compile(LENET, "lenet", backend=b, dtype=dtype, seed=3) for b in ("cuda", "numpy")]
    tight = {"rtol": 2e-4, "atol": 2e-5} if dtype == "f32" else {"rtol": 1e-9, "atol": 1e-11}
    for step, batch in enumerate((8, 32, 5)):
        x = np.asfortranarray(r.random((28, 28, 1, batch)), real)
        gold = np.zeros((10, batch), real, order="F")
        gold[r.integers(0, 10, batch), np.arange(batch)] = 1
        values = [net.forw(x, dropout=bool(step % 2)) for net in nets]
        np.testing.assert_allclose(*values, **tight)
        gradients = [net.back(gold, knetc.softloss, getdx=True) for net in nets]
        np.testing.assert_allclose(np.asarray(gradients[0]), np.asarray(gradients[1]), **tight)
        for net in nets:
            net.setp(lr=0.1, momentum=0.9)
            net.update(gclip=1.0)
    for name in nets[0].params():
        np.testing.assert_allclose(*(net.get(name) for net in nets), **tight)


LSTM = """
@knet function charlm(x)
    h = drop(lstm(wdot(x; out=8); out=12); pdrop=0.3)
    if predict
        return wbf(h; out=5, f=:soft)
    end
end
"""


def test_sequences_agree_with_the_interpreter():
    r = np.random.default_rng(1)
    nets = [knetc.compile(LSTM, "charlm", backend=b, seed=3) for b in ("cuda", "numpy")]
    tight = {"rtol": 2e-4, "atol": 2e-5}
    for batch, keep in ((4, True), (4, False), (33, False)):
        xs = [np.asfortranarray(np.eye(5, dtype=np.float32)[:, r.integers(0, 5, batch)]) for _ in range(6)]
        for t, x in enumerate(xs):
            setting = {"dropout": t % 2 == 0, "predict": t > 2}
            values = [net.sforw(x, **setting) for net in nets]
            if t > 2:
                np.testing.assert_allclose(*values, **tight)
        for t in reversed(range(6)):
            for net in nets:
                net.sback(xs[t] if t > 2 else None, knetc.softloss if t > 2 else None)
        for net in nets:
            net.setp(adam=True, lr=0.01)
            net.update(gclip=1.0)
            net.reset(keepstate=keep)
        for name in nets[0].params():
            np.testing.assert_allclose(*(net.get(name) for net in nets), **tight)


def test_random_numbers_are_equal_to_the_bit():
    nets = [knetc.compile(RANDOM, "f", backend=b, seed=9) for b in ("cuda", "numpy")]
    x = np.ones((100, 7), np.float32, order="F")
    masks = [net.forw(x) == 0 for net in nets]
    assert np.array_equal(*masks)
    assert np.array_equal(*(net.get("w") for net in nets))


def test_the_same_bits_again():
    x = np.asfortranarray(np.random.default_rng(1).random((28, 28, 1, 16)), np.float32)
    gold = np.zeros((10, 16), np.float32, order="F")
    gold[0] = 1
    found = []
    for _ in range(2):
        net = knetc.compile(LENET, "lenet", backend="cuda", seed=3)
        net.forw(x)
        net.back(gold, knetc.softloss)
        found.append([net.grad(name) for name in net.params()])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


# --- graphs and algorithms --------------------------------------------------------------------------------------------


def model(monkeypatch, **environment):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    program, options = compiled(NET, inputs=(SHAPE,), losses=LOSSES)
    return cuda.CudaExecutable(program, options, 7)


def test_replayed_graphs_agree_with_the_interpreter(monkeypatch):
    """Dropout, batch, loss, mask, options, clipping, wanted gradients and seed change from step to step."""
    e = model(monkeypatch)
    for got, want in zip(training(e, 24), training(Interpreter(e.program, 7), 24), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    captured, refused = e.graphs()
    assert captured > 5 and refused == 0


def test_the_same_bits_with_and_without_graphs(monkeypatch):
    without, again = (training(model(monkeypatch, KNETC_GRAPHS=k)) for k in ("0", "1"))
    assert all(map(np.array_equal, without, again))


@pytest.mark.parametrize("search,deterministic", [("1", "1"), ("1", "0"), ("0", "0")])
def test_other_algorithms_agree_with_the_interpreter(monkeypatch, search, deterministic):
    e = model(monkeypatch, KNETC_SEARCH=search, KNETC_DETERMINISTIC=deterministic)
    for got, want in zip(training(e), training(Interpreter(e.program, 7)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_a_sequence_is_replayed(monkeypatch):
    from codegen.test_sequences import MODELS, run

    source, shapes, settings = MODELS["lstm2"]
    program, options = compiled(source, inputs=shapes, losses=LOSSES)
    e, meaning = cuda.CudaExecutable(program, options, 7), Interpreter(program, 7)
    for _ in range(4):
        for got, want in zip(*(run(m, shapes, settings, 33, "f32") for m in (e, meaning)), strict=True):
            np.testing.assert_allclose(got, want, **TIGHT)
        for m in (e, meaning):
            m.reset(False)
    captured, refused = e.graphs()
    assert captured >= 2 * len(settings) and refused == 0


# --- device arrays ----------------------------------------------------------------------------------------------------


def pycuda_array(x):
    from pycuda.gpuarray import GPUArray

    with cuda._device().current():
        array = GPUArray(x.shape, x.dtype, order="F")
        array.set(x)
    return array


def torch_array(x):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return torch.from_numpy(np.ascontiguousarray(x.T)).cuda()  # C-ordered, the batch first


def torch_array_of_a_stream(x):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with torch.cuda.stream(torch.cuda.Stream()):
        array = torch.from_numpy(np.ascontiguousarray(x.T)).pin_memory().cuda(non_blocking=True)
        for _ in range(20):
            array = array * 1
    return array


def cupy_array(x):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    return cupy.asarray(x, order="F")


def jax_array(x):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    if jax.default_backend() != "gpu":
        pytest.skip(f"JAX has no GPU here, its backend is {jax.default_backend()}")
    return jax.numpy.asarray(np.ascontiguousarray(x.T))


MAKERS = [pycuda_array, torch_array, torch_array_of_a_stream, cupy_array, jax_array]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_device_arrays(make):
    """As inputs, desired outputs and masks; the results, read back, are those for host arrays."""
    r = np.random.default_rng(0)
    nets = [knetc.compile(LENET, "lenet", backend="cuda", seed=3) for _ in range(2)]
    for _ in range(4):
        x = np.asfortranarray(r.random((28, 28, 1, 16)), np.float32)
        gold = np.zeros((10, 16), np.float32, order="F")
        gold[r.integers(0, 10, 16), np.arange(16)] = 1
        mask = r.integers(0, 2, 16).astype(np.float32)
        wanted = nets[1].forw(x)
        value = nets[0].forw(make(x))
        assert not isinstance(value, np.ndarray)
        with cuda._device().current():
            np.testing.assert_array_equal(value.get(), wanted)
        dx = nets[0].back(make(gold), knetc.softloss, getdx=True, mask=make(mask))
        with cuda._device().current():
            np.testing.assert_array_equal(dx.get(), nets[1].back(gold, knetc.softloss, getdx=True, mask=mask))
        assert nets[0].get("x").tolist() == x.tolist()
        for net in nets:
            net.update()
    for name in nets[0].params():
        np.testing.assert_array_equal(nets[0].get(name), nets[1].get(name))


def test_a_result_goes_to_torch_and_cupy_without_a_copy():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = knetc.compile("@knet function f(x)\n return relu(x)\nend", backend="cuda")
    x = torch.randn(50, 7, device="cuda")  # 50 columns of 7
    for _ in range(20):
        y = torch.as_tensor(net.forw(x), device="cuda")  # Fortran-ordered, (7, 50)
        assert torch.equal(y, torch.relu(x).T)
        x = x + 0.1
    assert y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("make", [pycuda_array, torch_array, cupy_array], ids=lambda make: make.__name__)
def test_results_go_to_device_arrays(make):
    """`out` where no input is on the device, and where one is; gradients of inputs too."""
    r = np.random.default_rng(0)
    net, meaning = (knetc.compile(LENET, "lenet", backend="cuda", seed=3) for _ in range(2))
    gold = np.asfortranarray(np.eye(10, dtype=np.float32)[:, r.integers(0, 10, 16)])
    for _ in range(4):
        x = np.asfortranarray(r.random((28, 28, 1, 16)), np.float32)
        wanted = meaning.forw(x)
        for given in (x, make(x)):
            place = make(np.zeros_like(wanted))
            assert net.forw(given, out=place) is place
            np.testing.assert_array_equal(fetched(place, wanted.shape), wanted)
        place = make(np.zeros_like(x))
        assert net.back(gold, knetc.softloss, getdx=True, out=place) is place
        np.testing.assert_array_equal(fetched(place, x.shape), meaning.back(gold, knetc.softloss, getdx=True))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_whole_sequences_and_minibatches_of_the_device(make):
    """One array of all steps, and a data set: the bits that arrays of the host give."""
    r = np.random.default_rng(0)
    source = "@knet function f(x)\n h = lstm(x; out=5)\n return wbf(h; out=3, f=:soft)\nend"
    net, meaning = (knetc.compile(source, backend="cuda", seed=3) for _ in range(2))
    for _ in range(3):
        x = np.asfortranarray(r.random((4, 7, 5)), np.float32)
        gold = np.asfortranarray(np.eye(3, dtype=np.float32)[:, r.integers(0, 3, (7, 5))])
        value = net.forwseq(make(x))
        with cuda._device().current():
            np.testing.assert_array_equal(value.get(), meaning.forwseq(x))
        net.backseq(make(gold), knetc.softloss)
        meaning.backseq(gold, knetc.softloss)
        for n in (net, meaning):
            n.update()
            n.reset()
    net, meaning = (knetc.compile(LENET, "lenet", backend="cuda", seed=3) for _ in range(2))
    x = np.asfortranarray(r.random((28, 28, 1, 40)), np.float32)
    gold = np.asfortranarray(np.eye(10, dtype=np.float32)[:, r.integers(0, 10, 40)])
    device, host = knetc.minibatch(make(x), make(gold), 16), knetc.minibatch(x, gold, 16)
    for _ in range(2):
        losses = net.train(device, knetc.softloss, epochs=2, progress=False)
        assert losses == meaning.train(host, knetc.softloss, epochs=2, progress=False)


def fetched(place, shape):
    """The elements of a device array in either order, in Knet's."""
    return cuda.fetch(check.device_array(place, "place", np.dtype(np.float32), shape))


def test_a_wrong_device_array():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = knetc.compile(LENET, "lenet", backend="cuda")
    x = torch.rand(4, 1, 28, 28, device="cuda")
    for given, message in (
        (x.double(), "must be of float32, got float64"),
        (x[..., ::2], "do not lie one after the other"),
        (torch.rand(28, 28, 1, 4, device="cuda"), "C-ordered, so read reversed"),
        (x.clone().requires_grad_(), "cannot be read"),
    ):
        net.forw(x)
        with pytest.raises(knetc.KnetError, match=message):
            net.forw(given)
