"""`forwseq` and `backseq` with device arrays and with `out`: time last, or first in C order, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import knetc

from .support import Array, empty, fetch, forms

MODELS = {
    "lstm": "@knet function f(x)\n h = lstm(x; out=5)\n return wbf(h; out=3, f=:soft)\nend",
    "no state": "@knet function f(x)\n return wbf(x; out=3, f=:soft)\nend",
}
F32 = np.float32
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
STEPS, BATCH = 5, 6


@pytest.fixture(params=MODELS)
def source(request: pytest.FixtureRequest) -> str:
    return MODELS[request.param]


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An input, a desired output and a mask, time last."""
    r = np.random.default_rng(4)
    gold = np.eye(3, dtype=F32)[:, r.integers(0, 3, (BATCH, STEPS))]
    mask = r.integers(0, 2, (BATCH, STEPS))
    return tuple(np.asfortranarray(a, F32) for a in (r.random((4, BATCH, STEPS)), gold, mask))  # type: ignore[return-value]


def same_gradients(net: knetc.Model, meaning: knetc.Model) -> None:
    for name in net.params():
        np.testing.assert_allclose(net.grad(name), meaning.grad(name), **CLOSE, err_msg=name)


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("order", [0, 1], ids=["time last", "time first in C order"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_device_array_of_all_steps(source: str, order: int, masked: bool) -> None:
    net, meaning = (knetc.compile(source, backend=b, seed=2) for b in ("cuda", "numpy"))
    x, gold, mask = data()
    for _ in range(2):
        xd, gd, md = forms(x)[order], forms(gold)[order], forms(mask)[order]
        device: Any = net._engine.device() if net._engine.executable else None
        value = net.forwseq(xd)
        assert isinstance(value, Array)
        np.testing.assert_allclose(fetch(value), meaning.forwseq(x), **CLOSE)
        net.backseq(gd, knetc.softloss, mask=md if masked else None)
        meaning.backseq(gold, knetc.softloss, mask=mask if masked else None)
        same_gradients(net, meaning)
        if device:
            assert xd.gpudata in device.places and gd.gpudata in device.places, "not read where it stands"
            assert "lstm" not in source or device.calls.count("forwseq") == 2 == device.calls.count("backseq")
        for n in (net, meaning):
            n.update()
            n.reset()


@pytest.mark.usefixtures("on_device")
def test_lists_of_steps_on_the_device(source: str) -> None:
    """Steps that follow each other in memory are one array; others go one by one."""
    net, meaning = (knetc.compile(source, backend=b, seed=2) for b in ("cuda", "numpy"))
    x, gold, mask = data()
    whole, whole_gold, whole_mask = Array.of(x), Array.of(gold), Array.of(mask)
    listed = [whole[..., t] for t in range(STEPS)]
    wanted = [whole_gold[..., t] for t in range(STEPS)]
    apart = [Array.of(np.asfortranarray(x[..., t])) for t in range(STEPS)]
    mixed = [x[..., t] if t % 2 else a for t, a in enumerate(apart)]
    masks = [whole_mask[..., t] if t else None for t in range(STEPS)]
    some = [g if t % 2 else None for t, g in enumerate(wanted)]
    plain = [np.asfortranarray(gold[..., t]) if t % 2 else None for t in range(STEPS)]
    for given, golds, gold_masks, expected, expected_masks in (
        (listed, wanted, None, gold, None),
        (apart, wanted, masks, gold, [mask[..., t] if t else None for t in range(STEPS)]),
        (mixed, some, None, plain, None),
        (listed, [gold[..., t] for t in range(STEPS)], whole_mask, gold, mask),
    ):
        values = net.forwseq(given)
        for t, want in enumerate(meaning.forwseq([x[..., t] for t in range(STEPS)])):
            np.testing.assert_allclose(fetch(values[t]), want, **CLOSE)
        net.backseq(golds, knetc.softloss, mask=gold_masks)
        meaning.backseq(expected, knetc.softloss, mask=expected_masks)
        same_gradients(net, meaning)
        for n in (net, meaning):
            n.update()
            n.reset()


@pytest.mark.parametrize("backend", ["numpy", "cpu", "emulated"])
def test_values_of_steps_go_to_arrays(source: str, backend: str) -> None:
    net = knetc.compile(source, backend=backend, seed=2)
    x, _, _ = data()
    want = net.forwseq(x)
    shape = (3, BATCH, STEPS)
    assert want.shape == shape and want.flags.f_contiguous
    wide = np.full((3, BATCH, 2 * STEPS), np.nan, F32)
    for given in (x, [x[..., t] for t in range(STEPS)]):
        for place in (np.full(shape, np.nan, F32, order="F"), np.full(shape, np.nan, F32), wide[..., ::2]):
            net.reset()
            assert net.forwseq(given, out=place) is place
            np.testing.assert_array_equal(place, want)
        listed = [np.full((3, BATCH), np.nan, F32, order="F") for _ in range(STEPS)]
        net.reset()
        assert net.forwseq(given, out=listed) is listed
        np.testing.assert_array_equal(np.stack(listed, axis=-1), want)
    net.reset()
    one = np.full((3, BATCH, 1), np.nan, F32)
    np.testing.assert_array_equal(net.forwseq(x[..., :1], out=one), want[..., :1])


@pytest.mark.usefixtures("on_device")
def test_values_of_steps_go_to_device_arrays(source: str) -> None:
    net, meaning = (knetc.compile(source, backend=b, seed=2) for b in ("cuda", "numpy"))
    x, gold, _ = data()
    want = meaning.forwseq(x)
    shape = (3, BATCH, STEPS)
    for given in (x, Array.of(x), [x[..., t] for t in range(STEPS)], [Array.of(x)[..., t] for t in range(STEPS)]):
        places: tuple[Any, ...] = (
            empty(shape, F32),
            Array.of(np.full(shape[::-1], np.nan, F32)),
            [empty(shape[:2], F32) for _ in range(STEPS)],
            np.full(shape, np.nan, F32),
        )
        for place in places:
            net.reset()
            assert net.forwseq(given, out=place) is place
            if isinstance(place, Array):
                place.shape, place.strides = shape, (4, 12, 12 * BATCH)
            found = np.stack([fetch(p) for p in place], -1) if isinstance(place, list) else place
            np.testing.assert_allclose(fetch(found) if isinstance(found, Array) else found, want, **CLOSE)
    meaning.backseq(gold, knetc.softloss)
    net.backseq(Array.of(gold), knetc.softloss)
    same_gradients(net, meaning)


@pytest.mark.usefixtures("on_device")
def test_errors_leave_the_model_as_it_was() -> None:
    net = knetc.compile(MODELS["lstm"], backend="cuda", seed=2)
    x, gold, _ = data()
    shape = (3, BATCH, STEPS)
    cases: list[tuple[Any, Any, str]] = [
        (Array.of(np.ascontiguousarray(x)), None, r"forwseq: shape \(4,\?,\?\)|forwseq: shape \(4,N,\?\) is expected"),
        (Array.of(np.asfortranarray(x, np.float64)), None, "forwseq: a device array is taken as it is"),
        (x, empty((3, BATCH, 3), F32), "forwseq: 5 steps and 3 places for their values in out"),
        (x, np.zeros((3, BATCH, 3), F32), "forwseq: 5 steps and 3 places for their values in out"),
        (x, empty((2, BATCH, STEPS), F32), r"forwseq: out: shape \(3,6,\?\) is expected"),
        (x, np.zeros((2, BATCH, STEPS), F32), r"out: shape \(3, 6\), the result's, is expected, got \(2, 6\)"),
        (x, 3, "forwseq: out: an array with time last or a list of steps is expected, got int"),
        (x, empty(shape, np.float64), "must be of float32"),
    ]
    net.forwseq(x)
    for given, out, message in cases:
        with pytest.raises(knetc.KnetError, match=message):
            net.forwseq(given, out=out)
    with pytest.raises(knetc.KnetShapeError, match=r"backseq: shape \(3,6,\?\) is expected"):
        net.backseq(Array.of(np.asfortranarray(x)), knetc.softloss)
    with pytest.raises(knetc.KnetStateError, match="backseq: there are 5 steps on the stack"):
        net.backseq(Array.of(np.concatenate([gold, gold], axis=-1)), knetc.softloss)
    net.backseq(Array.of(gold), knetc.softloss)
    with pytest.raises(knetc.KnetStateError, match="backseq: the stack is empty"):
        net.backseq(Array.of(gold), knetc.softloss)
    with pytest.raises(knetc.KnetTypeError, match="the model runs on the back end numpy"):
        knetc.compile(MODELS["lstm"], backend="numpy").forwseq(Array.of(x))
