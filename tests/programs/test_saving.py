"""Saved and loaded: a model goes on as if nothing had happened, and plain values come back as they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import manual
import numpy as np
import pytest

import knetc

DROPOUT = """
@knet function mlp(x; hidden=8)
    h = drop(wbf(x; out=hidden, f=:tanh); pdrop=0.5)
    return wbf(h; out=3, f=:soft)
end
"""
OPTIONS = [
    {"adam": True, "momentum": 0.5, "lr": 0.05},
    {"adagrad": True, "nesterov": 0.9, "l2reg": 0.01},
    {"rmsprop": True, "l1reg": 0.001, "gclip": 0.1, "gscale": 0.5, "lr": 0.02},
]


def bits(net: knetc.Model) -> dict[str, bytes]:
    """Every parameter to the bit."""
    return {name: net.get(name).tobytes() for name in net.params()}


def feedforward(net: knetc.Model, step: int) -> bytes:
    x = np.random.default_rng(step).standard_normal((5, 6))
    out = net.forw(x, dropout=True)
    net.back(np.arange(6) % 3, knetc.softloss)
    net.update()
    assert out is not None
    return out.tobytes()


def recurrent(net: knetc.Model, step: int) -> bytes:
    """Three steps of a sequence that goes on, with what manual's lesson 10 trains with."""
    xs = np.random.default_rng(step).integers(0, 5, (3, 4))
    outs = [net.sforw(knetc.onehot(x, 5), dropout=True) for x in xs]
    for x in reversed(xs):
        net.sback(x, knetc.softloss)
    net.update(gclip=1.0)
    net.reset(keepstate=True)
    return b"".join(out.tobytes() for out in outs)


def make_feedforward(backend: str, options: dict[str, Any]) -> knetc.Model:
    net = knetc.compile(DROPOUT, backend=backend, seed=5)
    net.setp(**options)
    net.setp(next(iter(net.params())), lr=0.3, momentum=0.8)
    return net


def make_recurrent(backend: str, options: dict[str, Any]) -> knetc.Model:
    net = knetc.compile(manual.CHARLM, "charlm", backend=backend, seed=5, embedding=3, hidden=4, pdrop=0.3, nchar=5)
    net.setp(**options)
    return net


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o))
@pytest.mark.parametrize(("make", "step"), [(make_feedforward, feedforward), (make_recurrent, recurrent)])
def test_resumed_training_is_uninterrupted_training_to_the_bit(
    make: Callable[..., knetc.Model], step: Callable[..., bytes], options: dict[str, Any], backend: str, tmp_path: Path
) -> None:
    whole, first = make(backend, options), make(backend, options)
    expected = [step(whole, i) for i in range(6)]
    got = [step(first, i) for i in range(2)]
    for i in range(2, 6, 2):
        knetc.save(tmp_path / "net.h5", first)
        first = knetc.load(tmp_path / "net.h5", "model", backend=backend)
        got += [step(first, i), step(first, i + 1)]
    assert got == expected
    assert bits(first) == bits(whole)
    assert first.state() == whole.state()
    assert all(first.get(name).tobytes() == whole.get(name).tobytes() for name in whole.state())


def test_another_process_goes_on(tmp_path: Path) -> None:
    whole, first = (make_recurrent("numpy", OPTIONS[0]) for _ in range(2))
    for i in range(4):
        recurrent(whole, i)
    recurrent(first, 0)
    recurrent(first, 1)
    knetc.save(tmp_path / "net.h5", first)
    program = f"""
import sys
import knetc
sys.path.insert(0, "tests")
from programs.test_saving import recurrent
net = knetc.load({str(tmp_path / "net.h5")!r}, "model", backend="numpy")
recurrent(net, 2)
recurrent(net, 3)
knetc.save({str(tmp_path / "after.h5")!r}, net)
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
    assert bits(knetc.load(tmp_path / "after.h5", "model", backend="numpy")) == bits(whole)


def test_a_model_moves_to_another_back_end(backend: str, tmp_path: Path) -> None:
    """Parameters, averages and state are the same to the bit; a step then gives the same but for rounding."""
    other = "cpu" if backend == "numpy" else "numpy"
    net = make_recurrent(backend, OPTIONS[0])
    recurrent(net, 0)
    knetc.save(tmp_path / "net.h5", net)
    moved = knetc.load(tmp_path / "net.h5", "model", backend=other)
    assert moved.backend == other and bits(moved) == bits(net)
    knetc.save(tmp_path / "moved.h5", moved)
    assert (tmp_path / "moved.h5").read_bytes() == (tmp_path / "net.h5").read_bytes()
    recurrent(net, 1)
    recurrent(moved, 1)
    for name in net.params():
        np.testing.assert_allclose(moved.get(name), net.get(name), rtol=1e-3, atol=1e-5)


def test_what_is_loaded_is_a_model_like_a_fresh_one(backend: str, tmp_path: Path) -> None:
    """No stack, no gradients, no values: what is not saved is not there, rather than wrong."""
    net = make_recurrent(backend, OPTIONS[0])
    net.sforw(knetc.onehot([0, 1], 5))
    net.sforw(knetc.onehot([2, 3], 5))
    net.sback([2, 3], knetc.softloss)
    knetc.save(tmp_path / "net.h5", net.clean())
    loaded = knetc.load(tmp_path / "net.h5", "model", backend=backend)
    for call in (lambda: loaded.sback(), lambda: loaded.update(), lambda: loaded.get("return"), lambda: loaded.back()):
        with pytest.raises(knetc.KnetStateError):
            call()
    with pytest.raises(knetc.KnetStateError, match="reset the model before another batch size"):
        loaded.forw(knetc.onehot([0, 1, 2], 5))
    np.testing.assert_array_equal(loaded.forw(knetc.onehot([1, 1], 5)), net.forw(knetc.onehot([1, 1], 5)))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_numbers_that_are_not_finite_are_kept(dtype: str, tmp_path: Path) -> None:
    net = knetc.compile(manual.LINREG, backend="numpy", dtype=dtype)
    net.setp(lr=1e38, momentum=0.9)
    for _ in range(4):
        net.forw(np.ones((13, 2)))
        net.back(np.ones((1, 2)), knetc.quadloss)
        net.update()
    net._engine.device().write("par", "b", np.full((1, 1), -0.0, net.get("b").dtype))
    if dtype == "f32":
        assert not np.isfinite(net.get("w")).all()
    knetc.save(tmp_path / "net.h5", net)
    assert bits(knetc.load(tmp_path / "net.h5", "model")) == bits(net)


# --- models in every condition ----------------------------------------------------------------------------------------


def test_a_model_whose_sizes_are_not_known_yet(tmp_path: Path) -> None:
    net = knetc.compile(DROPOUT, backend="numpy", seed=9)
    net.setp(lr=0.25)
    net.setseed(77)
    knetc.save(tmp_path / "net.h5", net)
    loaded = knetc.load(tmp_path / "net.h5", "model", backend="numpy")
    assert loaded.params() == net.params() and 0 in next(iter(net.params().values()))
    assert [feedforward(loaded, i) for i in range(3)] == [feedforward(net, i) for i in range(3)]


def test_a_parameter_that_was_set_before_the_first_input(tmp_path: Path) -> None:
    """Its shape holds against the first input, as in the model that was saved."""
    source = "@knet function f(x)\n w = par(dims=(3,2), init=Identity(1))\n h = w*x .+ h\n return h\nend\n"
    net = knetc.compile(source, backend="numpy", dtype="f64")
    w, h = np.arange(6.0).reshape(3, 2), np.arange(15.0).reshape(3, 5)
    net.set("w", w)
    net.set("h", h)
    knetc.save(tmp_path / "net.h5", net)
    loaded = knetc.load(tmp_path / "net.h5", "model", backend="numpy")
    np.testing.assert_array_equal(loaded.forw(np.ones((1, 2, 5))), w @ np.ones((2, 5)) + h)


def test_setseed_and_the_calls_since(backend: str, tmp_path: Path) -> None:
    net = knetc.compile(None, "drop", backend=backend, seed=1, pdrop=0.5)
    x = np.ones((4, 50))
    net.forw(x, dropout=True)
    net.setseed(2**64 - 1)
    net.forw(x, dropout=True)
    knetc.save(tmp_path / "net.h5", net)
    loaded = knetc.load(tmp_path / "net.h5", "model", backend=backend)
    after = [net.forw(x, dropout=True).tobytes() for _ in range(2)]
    assert [loaded.forw(x, dropout=True).tobytes() for _ in range(2)] == after and after[0] != after[1]


KEYWORDS: dict[str, Any] = {
    "winit": np.arange(6.0).reshape(2, 3),
    "binit": knetc.Gaussian(0.5, 2),
    "f": "sigm",
    "flag": True,
    "nothing": None,
    "nested": (1, (2.5, "name"), ()),
    "mode": knetc.CUDNN_CONVOLUTION,
}


def test_keywords_of_every_kind(tmp_path: Path) -> None:
    source = """@knet function f(x; winit=0, binit=0, f=:relu, flag=0, nothing=0, nested=0, mode=0)
  w = par(init=winit)
  b = par(dims=(2,1), init=binit)
  return f(w*x .+ b)
end
"""
    net = knetc.compile(source, backend="numpy", dtype="f64", seed=4, **KEYWORDS)
    knetc.save(tmp_path / "net.h5", net)
    loaded = knetc.load(tmp_path / "net.h5", "model", backend="numpy")
    assert loaded._engine.lowered.keywords == net._engine.lowered.keywords
    x = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_array_equal(loaded.forw(x), net.forw(x))
    np.testing.assert_array_equal(loaded.get("w"), KEYWORDS["winit"])


def test_constant_arrays_are_made_again_and_compared(backend: str, tmp_path: Path) -> None:
    source = """@knet function f(x)
  a = arr(dims=(4,3), init=Gaussian(0,1))
  b = arr(init=[1.0 2.0; 3.0 4.0])
  w = par(dims=(2,4))
  return b * (w * (a * x))
end
"""
    net = knetc.compile(source, backend=backend, seed=6)
    x = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    knetc.save(tmp_path / "net.h5", net)
    np.testing.assert_array_equal(knetc.load(tmp_path / "net.h5", "model", backend=backend).forw(x), net.forw(x))
    with h5py.File(tmp_path / "net.h5") as file:
        net.forw(x)
        constants = [d[()] for d in file["constants"].values()]
    np.testing.assert_array_equal(constants[0], net.get("a"))
    np.testing.assert_array_equal(constants[1], net.get("b"))


@pytest.mark.parametrize(
    "source",
    [
        "@knet function f(x)\n θ = par(dims=(2,3))\n return θ*x\nend\n",
        "@knet function f(x)\n w = par(dims=(2,3))\n a = w*x\n w = wdot(a; out=2)\n return w\nend\n",
        "@knet function f(x)\n return 2*x # ü\nend\n",
    ],
)
def test_names_of_every_kind(source: str, tmp_path: Path) -> None:
    x = np.ones((3, 2))
    net = knetc.compile(source, backend="numpy")
    out = net.forw(x)
    knetc.save(tmp_path / "net.h5", net)
    loaded = knetc.load(tmp_path / "net.h5", "model", backend="numpy")
    assert loaded.params() == net.params()
    np.testing.assert_array_equal(loaded.forw(x), out)


def test_variants_and_their_parameters(backend: str, tmp_path: Path) -> None:
    source = """
    @knet function f(x)
        if wide
            w = par(dims=(4,2), init=Gaussian(0,1))
        else
            w = par(dims=(3,2), init=Gaussian(0,1))
        end
        return w * x
    end
    """
    net = knetc.compile(source, backend=backend, seed=2)
    x = np.ones((2, 5))
    net.setp(momentum=0.9, lr=0.1)
    for wide, size in ((True, 4), (False, 3)):
        net.forw(x, wide=wide)
        net.back(np.ones((size, 5)), knetc.quadloss)
        net.update()
    knetc.save(tmp_path / "net.h5", net)
    loaded = knetc.load(tmp_path / "net.h5", "model", backend=backend)
    for wide in (True, False):
        np.testing.assert_array_equal(loaded.forw(x, wide=wide), net.forw(x, wide=wide))


# --- plain values -----------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "nothing": None,
    "yes": True,
    "one": 1,
    "large": -(3**200),
    "pi": 3.141592653589793,
    "tiny": 5e-324,
    "minus_zero": -0.0,
    "infinite": [float("inf"), float("-inf")],
    "text": "line\n\0 ünïcode 漢 \ud800",
    "empty": [[], (), {}, ""],
    "nested": {"a": [1, (2, {"b": None})], 3: "three", (1, "x"): True, None: 0, 2.5: [], True: "yes"},
    "char2int": {c: i for i, c in enumerate("abc\n ")},
}
TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i2")
ARRAYS: dict[str, Any] = {
    **{
        f"{t}": np.arange(6).astype(t).reshape(2, 3)
        for t in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i2"]
    },
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "strided": np.arange(20.0)[::-3],
    "booleans": np.array([[True, False, True]]),
    "one": np.array(7.5),
    "none": np.zeros((0, 3), np.float32),
    "nan": np.array([np.nan, -0.0, np.inf]),
    "float32": np.float32(0.1),
    "int64": np.int64(-5),
    "bool": np.bool_(True),
}


def test_plain_values_come_back_equal_and_of_the_same_type(tmp_path: Path) -> None:
    knetc.save(tmp_path / "values.h5", **PLAIN)
    got = knetc.load(tmp_path / "values.h5")
    assert repr(got) == repr(PLAIN)  # also tells -0.0, 1 and True, tuples and lists apart
    assert np.isnan(_round(tmp_path, x=float("nan"))["x"])


def test_arrays_come_back_equal_to_the_bit(tmp_path: Path) -> None:
    got = _round(tmp_path, arrays=ARRAYS)["arrays"]
    assert list(got) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert type(got[name]) is type(array) and got[name].shape == array.shape, name
        assert (
            got[name].dtype == array.dtype.newbyteorder("<")
            and got[name].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
        ), name


def _round(tmp_path: Path, **values: Any) -> dict[str, Any]:
    knetc.save(tmp_path / "values.h5", **values)
    result: dict[str, Any] = knetc.load(tmp_path / "values.h5")
    return result


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def _circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "x is of type set"),
        ([0, {"k": object()}], r"x\[1\]\['k'\] is of type object"),
        (b"bytes", "x is of type bytes"),
        (1j, "x is of type complex"),
        (np.array(["a"]), "x holds elements of <U1"),
        (np.array([None]), "x holds elements of object"),
        (np.zeros(2, np.longdouble), "x holds elements of float128"),
        (np.ma.array([1]), "x is of type MaskedArray"),
        (np.datetime64(0, "s"), "x holds elements of datetime64"),
        (1 << 20_000, "x is an integer of more than"),
        (_deep(70), "x.* is nested deeper than 64 levels"),
        (_circular(), "x.* is nested deeper than 64 levels"),
        (print, "x is of type builtin_function_or_method"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_not_plain_is_refused_and_the_file_stays(value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "values.h5"
    knetc.save(path, y=1)
    before = path.read_bytes()
    with pytest.raises(knetc.KnetTypeError, match=message):
        knetc.save(path, x=value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_deepest_value_that_is_taken(tmp_path: Path) -> None:
    assert _round(tmp_path, x=_deep(64))["x"] == _deep(64)


def test_the_entries_by_name(tmp_path: Path) -> None:
    net = knetc.compile(manual.LINREG, backend="numpy", seed=1)
    knetc.save(tmp_path / "net.h5", model=net, epoch=3)
    assert knetc.load(tmp_path / "net.h5", "epoch") == 3
    assert set(knetc.load(tmp_path / "net.h5")) == {"model", "epoch"}
    assert bits(knetc.load(tmp_path / "net.h5", "model")) == bits(net)
    with pytest.raises(knetc.KnetNameError, match="has no entry 'epochs' .there are model, epoch."):
        knetc.load(tmp_path / "net.h5", "epochs")
    for call in (lambda: knetc.save(3), lambda: knetc.load(None), lambda: knetc.save(tmp_path / "x", model=3)):
        with pytest.raises(knetc.KnetTypeError):
            call()
    with pytest.raises(knetc.KnetNameError, match="there is no back end"):
        knetc.load(tmp_path / "net.h5", backend="gpu")


def test_hdf5_tools_read_a_file(tmp_path: Path) -> None:
    """The layout that docs/files.md describes, read by h5py alone."""
    net = knetc.compile(manual.LINREG, backend="numpy", seed=1)
    knetc.save(tmp_path / "net.h5", net, table=np.arange(6.0).reshape(2, 3))
    with h5py.File(tmp_path / "net.h5") as file:
        assert set(file) == {"head", "source", "parameters", "values"}
        assert file["source"][()].decode() == manual.LINREG
        np.testing.assert_array_equal(file["parameters/w"][()], net.get("w"))
        np.testing.assert_array_equal(file["values/0"][()], np.arange(6.0).reshape(2, 3))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        net = make_feedforward("numpy", OPTIONS[0])
        feedforward(net, 0)
        knetc.save(tmp_path / name, net, x=[np.ones(3)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
