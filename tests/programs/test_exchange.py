"""Parameters that go to other tools and come back: safetensors, and the binary of the emitted C interface."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as safetensors

import knetc
from knetc.runtime.library import Library

SOURCE = """
@knet function f(x)
    if wide
        w = par(dims=(4,3), init=Gaussian(0,1))
    else
        w = par(dims=(2,3), init=Gaussian(0,1))
    end
    θ = par(dims=(3,1), init=Uniform(1,2))
    return w*(θ .* x)
end
"""
PLAIN = "@knet function f(x)\n c = wconv(x; out=3, window=2)\n return wbf(c; out=2)\nend\n"
ENDINGS = (".safetensors", ".par")


def made(backend: str, dtype: str = "f32", seed: int = 1, source: str = PLAIN) -> knetc.Model:
    """A model that knows its sizes, none of its parameters symmetric."""
    net = knetc.compile(source, backend=backend, dtype=dtype, seed=seed)
    net.forw(np.ones((4, 5, 2, 3)))
    return net


def values(net: knetc.Model) -> dict[str, bytes]:
    return {name: a.tobytes("F") for name, a in net.parameter_values().items()}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_parameters_go_out_and_come_back(ending: str, dtype: str, backend: str, tmp_path: Path) -> None:
    net, other = made(backend, dtype, seed=1), made(backend, dtype, seed=2)
    path = tmp_path / f"net{ending}"
    knetc.export_parameters(net, path)
    assert values(other) != values(net)
    knetc.import_parameters(other, path)
    assert values(other) == values(net)


def test_safetensors_have_knets_names_and_shapes(tmp_path: Path) -> None:
    """Read by the library alone: an array of the same shape and the same elements at the same indices."""
    net = made("numpy")
    knetc.export_parameters(net, tmp_path / "net.safetensors")
    arrays = safetensors.load_file(tmp_path / "net.safetensors")
    assert {name: a.shape for name, a in arrays.items()} == net.params()
    assert any(len(a.shape) == 4 for a in arrays.values())
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, net.get(name))


@pytest.mark.parametrize("numbers", [np.float16, np.float32, np.float64])
def test_safetensors_of_another_tool(numbers: Any, tmp_path: Path) -> None:
    net = made("numpy")
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(dims).astype(numbers) for name, dims in net.params().items()}
    safetensors.save_file(arrays, tmp_path / "net.safetensors")
    knetc.import_parameters(net, tmp_path / "net.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(net.get(name), array.astype(np.float32))


def test_the_plain_binary_is_that_of_docs_files(tmp_path: Path) -> None:
    """Put together byte by byte from the description."""
    net = knetc.compile("@knet function f(x)\n w = par(dims=(2,3))\n return w*x\nend\n", backend="numpy", dtype="f64")
    w = np.arange(6.0).reshape(2, 3)
    net.set("w", w)
    number = lambda n: n.to_bytes(8, sys.byteorder)  # noqa: E731
    body = b"knetpar1" + number(8) + number(1) + number(1) + b"w" + number(2) + number(2) + number(3)
    body += struct.pack("=6d", 0, 3, 1, 4, 2, 5)
    knetc.export_parameters(net, tmp_path / "net.par")
    assert (tmp_path / "net.par").read_bytes() == body + number(zlib.crc32(body))


@pytest.mark.parametrize(
    "source", [PLAIN, "@knet function f(x)\n return 2*x\nend\n", SOURCE], ids=["conv", "none", "if"]
)
def test_the_emitted_interface_reads_and_writes_the_same_files(source: str, tmp_path: Path) -> None:
    """The interpreter's program and the optimised one that is emitted name the same parameters in the same order."""
    x = np.ones((4, 5, 2, 3)) if source == PLAIN else np.ones((3, 2))
    ours, theirs = (knetc.compile(source, backend=b, seed=s) for b, s in (("numpy", 1), ("cpu", 2)))
    ours.forw(x)
    theirs.forw(x)
    library = theirs._engine.device()
    assert isinstance(library, Library)
    knetc.export_parameters(ours, tmp_path / "ours.par")
    library._call("load", library._model, str(tmp_path / "ours.par").encode())
    assert values(theirs) == values(ours)
    library._call("save", library._model, str(tmp_path / "theirs.par").encode())
    assert (tmp_path / "theirs.par").read_bytes() == (tmp_path / "ours.par").read_bytes()
    for name in ours.params():
        theirs.set(name, 2 * ours.get(name))
    library._call("save", library._model, str(tmp_path / "theirs.par").encode())
    knetc.import_parameters(ours, tmp_path / "theirs.par")
    assert values(ours) == values(theirs)


# --- files that do not fit --------------------------------------------------------------------------------------------


def summed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(8, sys.byteorder)


def words(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(8, sys.byteorder) for n in numbers)


DAMAGE: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda data: b"", "no file that the C interface"),
    (lambda data: b"knetpar1", "no file that the C interface"),
    (lambda data: data[:-1], "damaged"),
    (lambda data: data + b"\0", "damaged"),
    (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "damaged"),
    (lambda data: summed(data[:-12]), "ends before its parameters do"),
    (lambda data: summed(data[:-8] + b"more"), "more in it than its parameters"),
    (lambda data: summed(b"knetpar1" + words(2, 0)), "not of 4 or 8 bytes"),
    (lambda data: summed(b"knetpar1" + words(4, 1 << 60)), "ends before its parameters do"),
    (lambda data: summed(b"knetpar1" + words(4, 1, 1 << 62)), "ends before its parameters do"),
    (lambda data: summed(b"knetpar1" + words(4, 1, 0, 1 << 62)), "ends before its parameters do"),
    (lambda data: summed(b"knetpar1" + words(4, 1, 0, 2, 1 << 40, 1 << 40)), "ends before its parameters do"),
    (lambda data: summed(b"knetpar1" + words(4, 1, 0, 3, 0, 1 << 62, 1 << 62)), "dimensions that no array can have"),
    (lambda data: summed(b"knetpar1" + words(4, 0)), "lacks"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_file_changes_nothing(damage: Callable[[bytes], bytes], reason: str, tmp_path: Path) -> None:
    net, path = made("numpy"), tmp_path / "net.par"
    knetc.export_parameters(net, path)
    path.write_bytes(damage(path.read_bytes()))
    before = values(net)
    with pytest.raises(knetc.KnetError, match=reason):
        knetc.import_parameters(net, path)
    assert values(net) == before


def test_every_byte_of_a_plain_file_counts(tmp_path: Path) -> None:
    net, path = made("numpy"), tmp_path / "net.par"
    knetc.export_parameters(net, path)
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
        with pytest.raises(knetc.KnetError, match="damaged|no file that the C interface"):
            knetc.import_parameters(net, path)


def test_a_file_of_another_model_changes_nothing(tmp_path: Path) -> None:
    net, path = made("numpy"), tmp_path / "net.safetensors"
    good = net.parameter_values()
    name = next(iter(good))
    nan = np.full_like(good[name], np.nan)
    files: list[tuple[dict[str, np.ndarray], type[Exception], str]] = [
        ({n: a for n, a in good.items() if n != name}, knetc.KnetNameError, f"lacks {name}"),
        ({**good, "more": np.ones(2)}, knetc.KnetNameError, "has more beside"),
        ({**good, name: good[name].T}, knetc.KnetShapeError, f"parameter {name}: shape"),
        ({**good, name: good[name].astype(np.int32)}, knetc.KnetTypeError, f"parameter {name}: floating-point numbers"),
        ({**good, name: nan}, knetc.KnetTypeError, f"parameter {name}: every element must be finite"),
    ]
    before = values(net)
    for arrays, kind, reason in files:
        arrays = {n: np.ascontiguousarray(a) for n, a in arrays.items()}
        safetensors.save_file({n: a + (a.dtype.kind == "f") for n, a in arrays.items()}, path)
        with pytest.raises(kind, match=reason):
            knetc.import_parameters(net, path)
        assert values(net) == before
    path.write_bytes(b"{}")
    with pytest.raises(knetc.KnetError, match="is no safetensors file"):
        knetc.import_parameters(net, path)


def test_places_and_endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = made("numpy")
    for call in (knetc.export_parameters, knetc.import_parameters):
        with pytest.raises(knetc.KnetTypeError, match=r"ends in .safetensors or .par"):
            call(net, tmp_path / "net.h5")
        with pytest.raises(knetc.KnetStateError, match="call forw first"):
            call(knetc.compile(PLAIN, backend="numpy"), tmp_path / "net.par")
    with pytest.raises(knetc.KnetError, match="cannot be written: No such file"):
        knetc.export_parameters(net, tmp_path / "no" / "net.par")
    with pytest.raises(knetc.KnetError, match="cannot be read: No such file"):
        knetc.import_parameters(net, tmp_path / "net.par")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(knetc.KnetEnvironmentError, match=r"pip install 'knetc\[safetensors\]'"):
        knetc.export_parameters(net, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []
