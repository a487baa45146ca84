"""`out`: results that are written to an array of the user's, on the host and on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import knetc

from .support import Array, empty, fetch, forms

NET = """
@knet function net(x, z)
    h = wbf(x; out=4, f=:relu)
    g = wdot(z; out=4)
    if plain
        return wbf(h; out=3, f=:soft)
    else
        return wbf(h + g; out=3, f=:soft)
    end
end
"""
F32 = np.float32
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
HOST = ["numpy", "cpu", "emulated"]


def arrays(batch: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two inputs and a desired output."""
    r = np.random.default_rng(3)
    x, z = (np.asfortranarray(r.random((n, batch)), F32) for n in (6, 2))
    return x, z, np.asfortranarray(np.eye(3, dtype=F32)[:, r.integers(0, 3, batch)])


def places(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays of one shape in several orders, which are NaN."""
    wide = np.full((*shape[:-1], 2 * shape[-1]), np.nan, F32)
    return {
        "Fortran": np.full(shape, np.nan, F32, order="F"),
        "C": np.full(shape, np.nan, F32),
        "every other column": wide[..., ::2],
    }


@pytest.mark.parametrize("backend", HOST)
def test_a_value_goes_to_an_array_in_any_order(backend: str) -> None:
    net = knetc.compile(NET, backend=backend, seed=1)
    x, z, _ = arrays()
    want = net.forw(x, z)
    for name, place in places((3, 5)).items():
        for call in (net.forw, net.sforw):
            place[...] = np.nan
            assert call(x, z, out=place) is place, name
            np.testing.assert_array_equal(place, want, err_msg=name)
    assert np.isfinite(net.get("return")).all()


@pytest.mark.parametrize("backend", HOST)
def test_gradients_of_inputs_go_to_arrays(backend: str) -> None:
    net = knetc.compile(NET, backend=backend, seed=1)
    x, z, gold = arrays()
    net.forw(x, z)
    want = net.back(gold, knetc.softloss, getdx=True)
    for dx, dz in zip(places(x.shape).values(), places(z.shape).values(), strict=True):
        given = [dx, dz]
        assert net.back(gold, knetc.softloss, getdx=True, out=given) is given
        np.testing.assert_array_equal(dx, want[0])
        np.testing.assert_array_equal(dz, want[1])
        assert net.back(gold, knetc.softloss, getdx=1, out=dx[:2]) is not None
        np.testing.assert_array_equal(dx[:2], want[1])
    dx, dz = (np.full(a.shape, np.nan, F32, order="F") for a in (x, z))
    net.sforw(x, z, plain=True)
    net.sback(gold, knetc.softloss, getdx=[1, 0], out=(dz, dx))
    assert not dz.any() and dx.any(), "no gradient flows to z"


@pytest.mark.parametrize("backend", HOST)
@pytest.mark.parametrize(
    ("out", "kind", "message"),
    [
        (np.zeros((5, 3), F32), knetc.KnetShapeError, r"out: shape \(3, 5\), the result's, is expected, got \(5, 3\)"),
        (np.zeros((3, 5)), knetc.KnetTypeError, "out: an array of float32 is expected, got one of float64"),
        (np.broadcast_to(F32(0), (3, 5)), knetc.KnetTypeError, "out: the array is read-only"),
        ([[0.0] * 5] * 3, knetc.KnetTypeError, "out: an array of NumPy or one on the device is expected, got list"),
        (True, knetc.KnetNameError, "the model tests no condition 'out'"),
    ],
)
def test_a_wrong_place_is_an_error_and_changes_nothing(
    backend: str, out: Any, kind: type[knetc.KnetError], message: str
) -> None:
    net = knetc.compile(NET, backend=backend, seed=1)
    x, z, gold = arrays()
    with pytest.raises(kind, match=message):
        net.forw(x, z, out=out)
    with pytest.raises(knetc.KnetStateError, match="call forw first"):
        net.back(gold, knetc.softloss)
    want = net.forw(x, z)
    with pytest.raises(kind, match=message):
        net.forw(x, z, out=out)
    np.testing.assert_array_equal(net.get("return"), want)
    net.back(gold, knetc.softloss)


def test_other_wrong_places() -> None:
    net = knetc.compile(NET, backend="numpy", seed=1)
    x, z, gold = arrays()
    place = np.zeros((3, 5), F32)
    silent = knetc.compile("@knet function f(x)\n if a\n  return relu(x)\n end\nend", backend="numpy")
    for call in (silent.forw, silent.sforw):
        with pytest.raises(knetc.KnetTypeError, match="out: the model returns nothing under these conditions"):
            call(x, out=place)
    same = knetc.compile("@knet function f(x)\n return relu(x)\nend", backend="numpy")
    x = x.copy(order="F")
    with pytest.raises(knetc.KnetTypeError, match="out: it shares memory with input x, which back reads again"):
        same.forw(x, out=x)
    net.forw(*arrays()[:2])
    for getdx, out, message in (
        (True, place, "a place for each gradient that getdx asks for is expected, 2 here"),
        (False, place, "a place for each gradient that getdx asks for is expected, 0 here"),
        ([0], place, "a place for each gradient that getdx asks for is expected, 1 here"),
        ([1, 1], [place, place], "getdx asks for a gradient twice"),
        (0, place, r"out: shape \(6, 5\), the result's, is expected, got \(3, 5\)"),
    ):
        with pytest.raises(knetc.KnetError, match=message):
            net.back(gold, knetc.softloss, getdx=getdx, out=out)
    net.back(gold, knetc.softloss)


@pytest.mark.parametrize("backend", HOST)
def test_a_step_may_go_over_its_input(backend: str) -> None:
    """What is pushed has been copied, so the way back reads the input as it was."""
    net = knetc.compile("@knet function f(x)\n return x .* x\nend", backend=backend)
    x = np.full((2, 3), 3, F32, order="F")
    assert net.sforw(x, out=x) is x and (x == 9).all()
    np.testing.assert_array_equal(net.sback(np.ones((2, 3), F32), getdx=True), np.full((2, 3), 6))


def test_a_condition_may_be_called_out() -> None:
    source = "@knet function f(x)\n if out\n  return 2*x\n else\n  return 3*x\n end\nend"
    net = knetc.compile(source, backend="numpy")
    one = np.ones((1, 1), F32)
    assert [net.forw(one, out=c)[0, 0] for c in (True, False)] == [2, 3]
    assert knetc.forwseq(net, [one], out=True)[0][0, 0] == 2


# --- on the device ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("on_device")
def test_a_device_array_is_asked_for_where_no_input_is_one() -> None:
    net, meaning = (knetc.compile(NET, backend=b, seed=1) for b in ("cuda", "numpy"))
    x, z, gold = arrays()
    for call in ("forw", "sforw"):
        want = getattr(meaning, call)(x, z)
        for place in (empty((3, 5), F32), Array.of(np.full((5, 3), np.nan, F32))):
            assert getattr(net, call)(x, z, out=place) is place
            place.strides, place.shape = (4, 12), (3, 5)  # either way the same memory
            np.testing.assert_allclose(fetch(place), want, **CLOSE)
    dx, dz = empty(x.shape, F32), empty(z.shape, F32)
    assert net.sback(gold, knetc.softloss, getdx=[0, 1], out=[dx, dz]) == [dx, dz]
    for found, want in zip((dx, dz), meaning.sback(gold, knetc.softloss, getdx=True), strict=True):
        np.testing.assert_allclose(fetch(found), want, **CLOSE)


@pytest.mark.usefixtures("on_device")
def test_an_array_of_the_host_is_asked_for_where_inputs_are_on_the_device() -> None:
    net, meaning = (knetc.compile(NET, backend=b, seed=1) for b in ("cuda", "numpy"))
    x, z, gold = arrays()
    for xd, zd in zip(forms(x), forms(z), strict=True):
        for place in places((3, 5)).values():
            assert net.forw(xd, zd, out=place) is place
            np.testing.assert_allclose(place, meaning.forw(x, z), **CLOSE)
        dx = np.full(x.shape, np.nan, F32)
        net.back(gold, knetc.softloss, getdx=0, out=dx)
        np.testing.assert_allclose(dx, meaning.back(gold, knetc.softloss, getdx=0), **CLOSE)


@pytest.mark.usefixtures("on_device")
def test_wrong_device_arrays() -> None:
    net = knetc.compile(NET, backend="cuda", seed=1)
    x, z, gold = arrays()
    wide, frozen, double = empty((3, 10), F32), empty((3, 5), F32), empty((3, 5), np.float64)
    frozen.read_only = True
    wide.shape, wide.strides = (3, 5), (4, 24)
    of_jax = type("ArrayImpl", (Array,), {"__module__": "jaxlib._jax"}).of(np.zeros((3, 5), F32, order="F"))
    input_itself = Array.of(np.asfortranarray(x[:3]))
    cases: list[tuple[Any, str]] = [
        (frozen, "out: the device array is read-only"),
        (of_jax, "out: the device array is read-only"),
        (wide, "out: the elements of the device array do not lie one after the other"),
        (double, "out: a device array is taken as it is, so it must be of float32, got float64"),
        (empty((4, 5), F32), r"out: shape \(3,5\) is expected, got a device array of \(4, 5\)"),
    ]
    want = net.forw(x, z)
    for out, message in cases:
        with pytest.raises(knetc.KnetError, match=message):
            net.forw(x, z, out=out)
        with pytest.raises(knetc.KnetError, match="out: "):
            net.back(gold, knetc.softloss, getdx=0, out=out)
    np.testing.assert_array_equal(net.get("return"), want)
    same = knetc.compile("@knet function f(x)\n return relu(x)\nend", backend="cuda")
    with pytest.raises(knetc.KnetTypeError, match="it shares memory with input x"):
        same.forw(input_itself, out=input_itself)
    with pytest.raises(knetc.KnetTypeError, match="the model runs on the back end numpy"):
        knetc.compile(NET, backend="numpy").forw(x, z, out=empty((3, 5), F32))


@pytest.mark.parametrize("backend", HOST)
def test_gradients_do_not_go_over_what_is_read_again(backend: str) -> None:
    x, _, y = arrays()
    net = knetc.compile("@knet function m(x, z)\n return wbf(x .* z; out=3, f=:soft)\nend", backend=backend)
    net.forw(x, x + 1)
    with pytest.raises(knetc.KnetTypeError, match="out: it shares memory with input x, which back reads again"):
        net.back(y, knetc.softloss, getdx=0, out=x)
    with pytest.raises(knetc.KnetTypeError, match="out: two of the places for gradients share memory"):
        net.back(y, knetc.softloss, getdx=True, out=[np.empty_like(x)] * 2)


@pytest.mark.usefixtures("on_device")
def test_values_do_not_go_over_inputs_of_later_steps() -> None:
    """Steps on the device may run one after the other, in the memory that is given; over its own input a step may."""
    xs = np.asfortranarray(np.random.default_rng(5).normal(size=(6, 5, 4)), F32)
    source = "@knet function m(x)\n return wbf(x; out=6, f=:tanh)\nend"
    want = knetc.compile(source, backend="numpy", seed=1).forwseq(xs)
    net = knetc.compile(source, backend="cuda", seed=1)
    memory = Array.of(np.concatenate([xs, np.zeros((6, 5, 1), F32)], axis=-1).copy(order="F"))
    size = 4 * 6 * 5

    def part(first: int) -> Array:
        return Array(memory.gpudata + first * size, (6, 5, 4), F32, memory.strides, memory)

    with pytest.raises(knetc.KnetTypeError, match="out of step 1 shares memory with the input of step 2"):
        net.forwseq(part(0), out=part(1))
    net.forwseq(part(0), out=part(0))
    np.testing.assert_allclose(fetch(memory)[..., :4], want, **CLOSE)


@pytest.mark.usefixtures("on_device")
def test_a_part_of_a_read_only_array_is_read_only() -> None:
    x, z, _ = arrays()
    place = Array.of(np.zeros((3, 10), F32, order="F"))
    place.read_only = True
    (part, _), _ = knetc.minibatch(place, np.zeros(10, int), 5)
    assert part.__cuda_array_interface__["data"][1]
    with pytest.raises(knetc.KnetTypeError, match="out: the device array is read-only"):
        knetc.compile(NET, backend="cuda").forw(x, z, out=part)
