"""Data sets on the device: cut without a copy, and trained on in every form."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import knetc

from .support import Array, fetch, forms

NET = "@knet function f(x)\n d = drop(wbf(x; out=7, f=:tanh); pdrop=0.3)\n return wbf(d; out=3, f=:soft)\nend"
CELL = "@knet function f(x)\n h = lstm(x; out=5)\n return wbf(h; out=3, f=:soft)\nend"
F32 = np.float32
COLUMNS = 22


def data(columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An input, the classes of its columns, and these as a matrix."""
    r = np.random.default_rng(7)
    classes = r.integers(0, 3, columns)
    gold = np.asfortranarray(np.eye(3, dtype=F32)[:, classes])
    return np.asfortranarray(r.random((4, columns)), F32), classes, gold


def wide(value: Any) -> Array:
    """A device array of which every other column is another's."""
    array = Array.of(np.zeros((4, 2 * COLUMNS), F32, order="F"))
    array.shape, array.strides = (4, COLUMNS), (4, 32)
    return array


def nets(source: str = NET) -> tuple[knetc.Model, knetc.Model]:
    net, meaning = (knetc.compile(source, backend=b, seed=5) for b in ("cuda", "numpy"))
    for n in (net, meaning):
        n.setp(lr=0.5, momentum=0.5)
    return net, meaning


def same_parameters(net: knetc.Model, meaning: knetc.Model) -> None:
    for name in net.params():
        np.testing.assert_allclose(net.get(name), meaning.get(name), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.usefixtures("on_device")
def test_parts_are_the_same_memory() -> None:
    x, _, gold = data()
    for xd, gd in itertools.product(forms(x), forms(gold)):
        parts = knetc.minibatch(xd, gd, 8)
        assert len(parts) == 3
        for k, (a, b) in enumerate(parts):
            assert a.pointer == xd.gpudata + 4 * 4 * 8 * k and b.pointer == gd.gpudata + 4 * 3 * 8 * k
            np.testing.assert_array_equal(fetch(a), x[:, 8 * k : 8 * k + 8])
            np.testing.assert_array_equal(fetch(b), gold[:, 8 * k : 8 * k + 8])
        np.testing.assert_array_equal(fetch(parts[-1][0]), x[:, 16:])
        described = parts[1][0].__cuda_array_interface__
        assert described["shape"] == (4, 8) and described["strides"] == (4, 16) and described["typestr"] == "<f4"


@pytest.mark.usefixtures("on_device")
def test_one_row_is_read_as_the_other_array_says() -> None:
    x, _, _ = data()
    y = np.arange(COLUMNS, dtype=F32).reshape(1, COLUMNS)
    for xd, yd in itertools.product((*forms(x), x), forms(y)):
        parts = knetc.minibatch(xd, yd, 5)
        assert [b.shape for _, b in parts] == [(1, 5)] * 4 + [(1, 2)]
        np.testing.assert_array_equal(fetch(parts[2][1]), y[:, 10:15])
    for xd, yd in itertools.product(forms(y), forms(y)):  # one row each, so the columns are many
        assert len(knetc.minibatch(xd, yd, 5)) == 5
    images = np.asfortranarray(np.arange(2 * 3 * 1 * 4, dtype=F32).reshape(2, 3, 1, 4))
    for xd in forms(images):
        parts = knetc.minibatch(xd, knetc.onehot([0, 1, 1, 0], 2), 3)
        np.testing.assert_array_equal(fetch(parts[1][0]), images[..., 3:])
        np.testing.assert_array_equal(np.asarray(parts[1][1]), [[1], [0]])


@pytest.mark.usefixtures("on_device")
def test_what_cannot_be_cut() -> None:
    x, _, gold = data()
    cases: list[tuple[Any, Any, type[knetc.KnetError], str]] = [
        (Array.of(x), Array.of(gold[:, 1:]), knetc.KnetShapeError, "minibatch: x has 22 columns and y has 21"),
        (wide(x), gold, knetc.KnetTypeError, "minibatch: x: the elements of the device array do not lie one after"),
        (gold, Array.of(np.zeros((22, 22), F32)), knetc.KnetTypeError, "minibatch: y: .* can be read in two ways"),
    ]
    for xd, yd, kind, message in cases:
        with pytest.raises(kind, match=message):
            knetc.minibatch(xd, yd, 8)
    moved = Array.of(x)
    parts = knetc.minibatch(moved, gold, 8)
    moved.shape, moved.strides = (2, 44), (4, 8)
    with pytest.raises(knetc.KnetShapeError, match=r"the device array had the shape \(4, 22\) and has \(2, 44\) now"):
        parts[0]
    for backend in ("numpy", "cpu"):
        with pytest.raises(knetc.KnetTypeError, match=f"the model runs on the back end {backend}"):
            net = knetc.compile(NET, backend=backend)
            net.train(knetc.minibatch(Array.of(x), gold, 8), knetc.softloss, progress=False)
    doubles = knetc.minibatch(Array.of(np.asfortranarray(x, np.float64)), gold, 8)
    none = knetc.minibatch(Array.of(x[:, :0]), Array.of(gold[:, :0]), 8)
    assert len(none) == 0
    with pytest.raises(knetc.KnetShapeError, match="input x: the batch is empty"):
        knetc.compile(NET, backend="cuda").train(none, knetc.softloss, progress=False)
    with pytest.raises(knetc.KnetTypeError, match="must be of float32, got float64"):
        knetc.compile(NET, backend="cuda").forw(doubles[0][0])


@pytest.mark.usefixtures("on_device")
def test_training_in_one_call() -> None:
    """Either array on the device, in either order, the other on the host in every form."""
    x, classes, gold = data()
    hot = knetc.onehot(classes, 3)
    pairs = [(a, b) for a in forms(x) for b in (*forms(gold), gold, classes, hot)]
    pairs += [(x, b) for b in forms(gold)]
    for xd, yd in pairs:
        net, meaning = nets()
        net.forw(x[:, :8])  # the sizes are known, so the executable is there
        meaning.forw(x[:, :8])
        device: Any = net._engine.device()
        device.places.clear()
        losses = net.train(knetc.minibatch(xd, yd, 8), knetc.softloss, 2, gclip=1, progress=False, dropout=True)
        assert device.calls.count("train") == 2, "not in one call"
        assert all(a.gpudata in device.places for a in (xd, yd) if isinstance(a, Array)), "not where it stands"
        wanted = meaning.train(knetc.minibatch(x, hot, 8), knetc.softloss, 2, gclip=1, progress=False, dropout=True)
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
        same_parameters(net, meaning)
        found = net.test(knetc.minibatch(xd, yd, 8), knetc.softloss)
        assert abs(found - meaning.test(knetc.minibatch(x, hot, 8), knetc.softloss)) < 1e-5
        np.testing.assert_array_equal(net.get("x"), x[:, 16:])


@pytest.mark.usefixtures("on_device")
def test_training_call_by_call() -> None:
    """Pairs of any arrays, several inputs, and models with state."""
    x, _, gold = data()
    two = "@knet function f(x, z)\n return wbf2(x, z; out=3, f=:soft)\nend"
    net, meaning = nets(two)
    z = np.asfortranarray(x[:2] - 1)
    for xd, zd, gd in zip(forms(x), forms(z), forms(gold), strict=True):
        losses = net.train([((xd, zd), gd), ((xd, z), gold)], knetc.softloss, progress=False)
        wanted = meaning.train([((x, z), gold)] * 2, knetc.softloss, progress=False)
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    same_parameters(net, meaning)
    net, meaning = nets(CELL)
    x, _, gold = data(24)
    for xd, gd in zip(forms(x), forms(gold), strict=True):
        losses = net.train(knetc.minibatch(xd, gd, 8), knetc.softloss, progress=False)
        np.testing.assert_allclose(
            losses, meaning.train(knetc.minibatch(x, gold, 8), knetc.softloss, progress=False), rtol=1e-4
        )
    same_parameters(net, meaning)


@pytest.mark.usefixtures("on_device")
def test_training_over_time() -> None:
    """Steps one after the other in memory, and steps apart; what follows a step is what is desired of it."""
    source = "@knet function f(x)\n h = lstm(x; out=5)\n return wbf(h; out=4, f=:soft)\nend"
    r = np.random.default_rng(9)
    x = np.asfortranarray(np.eye(4, dtype=F32)[:, r.integers(0, 4, (6, 9))])
    whole = Array.of(x)
    host = [np.asfortranarray(x[..., t]) for t in range(9)]
    for steps in ([whole[..., t] for t in range(9)], [Array.of(step) for step in host]):
        net, meaning = nets(source)
        losses = net.train(steps, knetc.softloss, 2, seqlength=3, gclip=1, progress=False)
        wanted = meaning.train(host, knetc.softloss, 2, seqlength=3, gclip=1, progress=False)
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
        same_parameters(net, meaning)
        assert abs(net.test(steps, knetc.softloss) - meaning.test(host, knetc.softloss)) < 1e-5
