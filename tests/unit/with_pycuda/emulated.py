"""Run by test_pycuda in processes of its own: `runtime/cuda.py` with the true pycuda, the driver being emulated.

`python emulated.py DRIVER CASE`: loads the driver that the test has built, then runs one of the functions below.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import numpy as np

sys.setdlopenflags(os.RTLD_LAZY)  # pycuda names more functions than there are
from knetc.runtime import cuda, emulation  # noqa: E402

EMULATION = ctypes.CDLL(str(emulation.build_library()), ctypes.RTLD_GLOBAL)
DRIVER = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)

import pycuda.driver as driver  # noqa: E402
from pycuda.gpuarray import GPUArray  # noqa: E402

import knetc  # noqa: E402
from knetc.runtime.emulated import build_emulated  # noqa: E402

NET = """
@knet function net(x)
    c = cbfp(x; out=3, f=:relu, cwindow=3, pwindow=2)
    d = drop(c; pdrop=0.4)
    return wbf(d; out=5, f=:soft)
end
"""
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def install() -> None:
    """The host half is linked with the emulation, and the path of a library with the kernels stands for the cubin."""
    real = cuda.host_command

    def host_command(source: str, output: str, text: str, nccl: bool = False) -> list[str]:
        command = [c for c in real(source, output, "") if "cudart" not in c and not c.startswith("-Wl,")]
        return [*command, str(emulation.build_library()), sys.argv[1], "-Wl,--no-undefined"]

    cuda.host_command = host_command
    cuda.build_cubin = lambda source, arch: str(build_emulated(source)).encode() + b"\0"
    cuda.available.cache_clear()
    cuda.build.library = lambda name: Path(f"lib{name}.so")  # nothing is loaded from there
    assert cuda.available() is None


class Interface:
    """An array that describes itself as PyTorch's and CuPy's do; made of a host array, with its order."""

    def __init__(self, array: np.ndarray, stream: int | None = 1) -> None:
        self.dtype, self.memory = array.dtype, ctypes.c_void_p()
        assert EMULATION.cudaMalloc(ctypes.byref(self.memory), ctypes.c_size_t(max(1, array.nbytes))) == 0
        kept = array if array.flags.c_contiguous or array.flags.f_contiguous else np.ascontiguousarray(array)
        self.kept, size = kept, ctypes.c_size_t(kept.nbytes)
        # On the default stream, and not waited for: who reads the array has to.
        EMULATION.cudaMemcpyAsync(self.memory, ctypes.c_void_p(kept.ctypes.data), size, 1, None)
        self.__cuda_array_interface__ = {
            "shape": kept.shape,
            "strides": kept.strides,
            "typestr": kept.dtype.str,
            "data": (self.memory.value, False),
            "stream": stream,
            "version": 3,
        }


def nets() -> tuple[knetc.Model, knetc.Model]:
    """The same model on the device and on the interpreter."""
    net, meaning = (knetc.compile(NET, backend=b, seed=3) for b in ("cuda", "numpy"))
    return net, meaning


def batch(t: int, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """An input and a desired output."""
    r = np.random.default_rng(t)
    gold = np.zeros((5, size), np.float32, order="F")
    gold[r.integers(0, 5, size), np.arange(size)] = 1
    return np.asfortranarray(r.random((8, 8, 1, size)), np.float32), gold


def to_host(array: GPUArray) -> np.ndarray:
    """The elements of a result, which must be on the device."""
    assert isinstance(array, GPUArray), type(array)
    device = cuda._device()
    with device.current():
        return array.get()


def host_arrays() -> None:
    """Training with arrays of NumPy, which go through pinned memory, while they are filled anew after each call."""
    net, meaning = nets()
    x, gold = batch(0)
    for t in range(5):
        x[...], gold[...] = batch(t)
        values = [n.forw(x, dropout=t % 2 == 0) for n in (net, meaning)]
        np.testing.assert_allclose(*values, **CLOSE)
        gradients = []
        for n in (net, meaning):
            given = gold.copy(order="F")
            gradients.append(n.back(given, knetc.softloss, getdx=True))
            given[...] = np.nan  # the call must not read it any more
            n.setp(lr=0.1, adam=True)
            n.update(gclip=1.0)
        np.testing.assert_allclose(*gradients, **CLOSE)
    for name in net.params():
        np.testing.assert_allclose(net.get(name), meaning.get(name), **CLOSE)
    assert repr(net).startswith("net: back end cuda")


def device_arrays() -> None:
    """Device arrays in either order as inputs, desired outputs and masks; results on the device."""
    net, meaning = nets()
    for t in range(5):
        x, gold = batch(t)
        mask = np.array([1, 0, 1, 1, 0, 1], np.float32)
        forms = (
            (Interface(x), Interface(gold), Interface(mask)),  # Fortran order, the batch last
            (Interface(np.ascontiguousarray(x.T)), Interface(np.ascontiguousarray(gold.T)), mask),  # C, the batch first
            (Interface(x, 2), gold, Interface(mask, None)),
        )
        xd, gd, md = forms[t % 3]
        value = net.forw(xd)
        np.testing.assert_allclose(net.get("return"), meaning.forw(x), **CLOSE)  # waits for the model's stream alone
        np.testing.assert_allclose(to_host(value), meaning.forw(x), **CLOSE)
        assert abs(knetc.softloss(value, gd, md) - knetc.softloss(meaning.forw(x), gold, mask)) < 1e-5
        dx = net.back(gd, knetc.softloss, getdx=True, mask=md)
        np.testing.assert_allclose(to_host(dx), meaning.back(gold, knetc.softloss, getdx=True, mask=mask), **CLOSE)
        for n in (net, meaning):
            n.setp(lr=0.1, momentum=0.5)
            n.update()
        np.testing.assert_array_equal(net.get("x"), x)
        again = net.forw(value_of(x))  # a result of pycuda's own
        np.testing.assert_allclose(to_host(again), meaning.forw(x), **CLOSE)
    assert isinstance(net.forw(x), np.ndarray)
    assert "norm" in repr(net)


def sequences() -> None:
    """Steps back that nothing waits between, their desired outputs in pinned memory one after the other."""
    source = "@knet function f(x)\n h = lstm(x; out=4)\n return wbf(h; out=3, f=:soft)\nend"
    net, meaning = (knetc.compile(source, backend=b, seed=3) for b in ("cuda", "numpy"))
    r = np.random.default_rng(5)
    for _ in range(3):
        xs = [np.asfortranarray(r.random((3, 6)), np.float32) for _ in range(5)]
        golds = [np.asfortranarray(np.eye(3, dtype=np.float32)[:, r.integers(0, 3, 6)]) for _ in xs]
        for n in (net, meaning):
            for x in xs:
                n.sforw(x)
            for gold in golds:
                n.sback(gold, knetc.softloss)
        for name in net.params():
            np.testing.assert_allclose(net.grad(name), meaning.grad(name), **CLOSE)
        for n in (net, meaning):
            n.update()
            n.reset()


def outputs() -> None:
    """Results in the user's arrays: of pycuda and of another library where no input is on the device, and of NumPy."""
    net, meaning = nets()
    for t in range(4):
        x, gold = batch(t)
        want = meaning.forw(x)
        device = [value_of(np.full_like(want, np.nan)), Interface(np.full(want.shape[::-1], np.nan, np.float32))]
        for place in device:
            assert net.forw(x, out=place) is place
        assert net.forw(Interface(x), out=device[0]) is device[0]
        read = GPUArray(want.shape, np.float32, gpudata=device[1].memory.value, order="F")
        for place in (device[0], read):
            np.testing.assert_allclose(to_host(place), want, **CLOSE)
        for place in (np.empty_like(want), np.empty(want.shape, np.float32)):
            for given in (x, Interface(x)):
                assert net.forw(given, out=place) is place
                np.testing.assert_allclose(place, want, **CLOSE)
        dx = value_of(np.full_like(x, np.nan))
        assert net.back(gold, knetc.softloss, getdx=True, out=dx) is dx
        wanted = meaning.back(gold, knetc.softloss, getdx=True)
        np.testing.assert_allclose(to_host(dx), wanted, **CLOSE)
        host = np.empty(x.shape, np.float32)
        net.back(gold, knetc.softloss, getdx=0, out=host)
        np.testing.assert_allclose(host, wanted, **CLOSE)
        for n in (net, meaning):
            n.setp(lr=0.1)
            n.update()


def whole_sequences() -> None:
    """Sequences as one array of the device, time last or first; values as one array, or a list of views of one."""
    source = "@knet function f(x)\n h = lstm(x; out=4)\n return wbf(h; out=3, f=:soft)\nend"
    net, meaning = (knetc.compile(source, backend=b, seed=3) for b in ("cuda", "numpy"))
    r = np.random.default_rng(5)
    for t in range(4):
        x = np.asfortranarray(r.random((3, 6, 5)), np.float32)
        gold = np.asfortranarray(np.eye(3, dtype=np.float32)[:, r.integers(0, 3, (6, 5))])
        given = (Interface(x), Interface(np.ascontiguousarray(x.T)), value_of(x), x)[t]
        place = value_of(np.full_like(gold, np.nan)) if t > 1 else None
        value = net.forwseq(given, out=place)
        want = meaning.forwseq(x)
        np.testing.assert_allclose(to_host(value), want, **CLOSE)
        net.backseq(Interface(gold), knetc.softloss)
        meaning.backseq(gold, knetc.softloss)
        for name in net.params():
            np.testing.assert_allclose(net.grad(name), meaning.grad(name), **CLOSE)
        net.reset()
        whole = value_of(x)
        values = net.forwseq([whole[..., k] for k in range(5)])
        again = Interface(np.ascontiguousarray(np.zeros_like(gold).T))
        net.reset()
        net.forwseq(x, out=again)
        for k in range(5):
            np.testing.assert_allclose(to_host(values[k]), want[..., k], **CLOSE)
        read = GPUArray(want.shape, np.float32, gpudata=again.memory.value, order="F")
        np.testing.assert_allclose(to_host(read), want, **CLOSE)
        for n in (net, meaning):
            n.reset()


def minibatches() -> None:
    """Training on data sets of the device, in one call for many minibatches and call by call."""
    net, meaning = nets()
    x, gold = batch(0, 26)
    forms = (
        (Interface(x), Interface(gold)),
        (Interface(np.ascontiguousarray(x.T)), Interface(np.ascontiguousarray(gold.T))),
        (value_of(x), gold),
        (x, value_of(gold)),
    )
    for xd, gd in forms:
        device, host = knetc.minibatch(xd, gd, 8), knetc.minibatch(x, gold, 8)
        found, want = (
            n.train(d, knetc.softloss, epochs=2, gclip=1.0, progress=False) for n, d in ((net, device), (meaning, host))
        )
        np.testing.assert_allclose(found, want, rtol=1e-4)
        assert abs(net.test(device, knetc.zeroone) - meaning.test(host, knetc.zeroone)) < 1e-6
        for (part, _), (wanted, g) in zip(device, host, strict=True):
            np.testing.assert_allclose(net.forw(part, out=np.empty_like(g)), meaning.forw(wanted), **CLOSE)
    for name in net.params():
        np.testing.assert_allclose(net.get(name), meaning.get(name), **CLOSE)


def value_of(x: np.ndarray) -> GPUArray:
    """An array of pycuda in Fortran order."""
    device = cuda._device()
    x = np.asfortranarray(x)
    with device.current():
        array = GPUArray(x.shape, x.dtype, order="F")
        array.set(x)
    return array


def wrong_arrays() -> None:
    """What cannot be taken as it is: an error that says what was expected, and the model goes on."""
    net, _ = nets()
    x, gold = batch(0)
    net.forw(x)
    cases = [
        (Interface(x.astype(np.float64)), "must be of float32, got float64"),
        (Interface(np.asfortranarray(x.transpose(0, 1, 3, 2))), r"shape \(8,8,1,N\) is expected"),
        (Interface(np.ascontiguousarray(x)), r"device array of \(8, 8, 1, 6\), which is C-ordered, so read reversed"),
        (Interface(np.zeros((8, 8, 1, 0), np.float32, order="F")), "the batch is empty"),
    ]
    strided = Interface(x)
    strided.__cuda_array_interface__["strides"] = tuple(2 * s for s in x.strides)
    cases.append((strided, "do not lie one after the other"))
    for given, message in cases:
        error(message, lambda given=given: net.forw(given))
    flat = knetc.compile("@knet function f(x)\n return wb(x; out=2)\nend", backend="cuda")
    error("can be read in two ways", lambda: flat.forw(Interface(np.ones((4, 4), np.float32))))
    error("an array in host memory is expected", lambda: net.set("wbf/b", Interface(np.ones(5, np.float32))))
    error("the back end numpy", lambda: knetc.compile(NET, backend="numpy").forw(Interface(x)))
    net.back(gold, knetc.softloss)


def error(message: str, call) -> None:
    """The call raises a KnetError of that message."""
    import re

    try:
        call()
    except knetc.KnetError as found:
        assert re.search(message, str(found)), (message, str(found))
    else:
        raise AssertionError(message)


def several() -> None:
    """Two models and a thread: contexts are pushed and popped in pairs, memory comes back."""
    import gc
    import threading

    live = EMULATION.knetemu_live_objects
    live.restype = ctypes.c_longlong
    cuda._device()
    before = live()
    net, meaning = nets()
    x, gold = batch(1)
    want = meaning.forw(x)
    found = []

    def work() -> None:
        other, _ = nets()
        found.append(other.forw(x))
        other.back(gold, knetc.softloss)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    found.append(net.forw(x))
    for value in found:
        np.testing.assert_allclose(value, want, **CLOSE)
    gc.collect()
    del net
    gc.collect()
    assert live() <= before, "something was left behind"
    assert driver.Context.get_current() is None


if __name__ == "__main__":
    install()
    globals()[sys.argv[2]]()
    print("done")
