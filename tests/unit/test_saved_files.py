"""Files that are not as `knetc.save` wrote them: each is refused with a reason, and nothing large is made of it."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import knetc
from knetc.runtime import container

SOURCE = "@knet function f(x)\n w = par(dims=(2,0))\n h = tanh(w*x .+ h)\n return drop(h; pdrop=0.5)\nend\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with something of everything in it, as bytes."""
    net = knetc.compile(SOURCE, backend="numpy", seed=1)
    net.setp(momentum=0.5, adam=True)
    net.sforw(np.ones((3, 2)), dropout=True)
    net.sback(np.ones((2, 2)), knetc.quadloss)
    net.update()
    net.reset(keepstate=True)
    path = tmp_path_factory.mktemp("saved") / "net.h5"
    knetc.save(path, net, table={"a": np.arange(3.0)}, note="text")
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.h5"


def signed(body: bytes) -> bytes:
    """A file with a checksum that is right, as whoever means harm would write it."""
    return container._block(len(body), hashlib.sha256(body).hexdigest()) + body


def forged(path: Path, saved: bytes, edit: Callable[[h5py.File], Any]) -> Path:
    """The saved file after an edit of its HDF5 data, its checksum made right again."""
    path.write_bytes(saved)
    with h5py.File(path, "r+", libver=("v108", "v110")) as file:
        edit(file)
    path.write_bytes(signed(path.read_bytes()[container.BLOCK :]))
    return path


def refused(path: Path, reason: str, most: int = 2 << 20) -> None:
    """Loading raises a KnetError with that reason and never has more than `most` bytes in Python's memory."""
    tracemalloc.start()
    try:
        with pytest.raises(knetc.KnetError, match=reason) as raised:
            knetc.load(path, backend="numpy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not isinstance(raised.value, knetc.KnetInternalError)
    assert peak < most, f"{peak} bytes were taken"


# --- damage -----------------------------------------------------------------------------------------------------------


def test_the_file_itself_is_taken(path: Path, saved: bytes) -> None:
    """What the other tests change is good before they change it, its checksum made again or not."""
    path.write_bytes(saved)
    assert set(knetc.load(path)) == {"model", "table", "note"}
    assert signed(saved[container.BLOCK :]) == saved
    assert set(knetc.load(forged(path, saved, lambda file: None))) == {"model", "table", "note"}


def test_every_byte_counts(path: Path, saved: bytes) -> None:
    """One bit of each byte flipped: each time the file is refused."""
    for i in range(len(saved)):
        damaged = bytearray(saved)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        with pytest.raises(knetc.KnetError, match="damaged|not a file that knetc.save wrote|of format"):
            knetc.load(path)


def test_every_length_counts(path: Path, saved: bytes) -> None:
    for size in [*range(0, 600, 7), *range(600, len(saved), 101), len(saved) - 1]:
        path.write_bytes(saved[:size])
        refused(path, "damaged|not a file that knetc.save wrote")
    for tail in (b"\0", b"x", saved):
        path.write_bytes(saved + tail)
        refused(path, "damaged")


def test_damage_under_a_right_checksum_never_breaks_out(path: Path, saved: bytes) -> None:
    """Bytes changed at random and signed again: an error of ours, or a model; no crash, no other exception."""
    chance = random.Random(1)
    body = saved[container.BLOCK :]
    errors = 0
    for _ in range(300):
        damaged = bytearray(body)
        for _ in range(chance.choice([1, 1, 2, 4])):
            damaged[chance.randrange(len(body))] = chance.choice([0, 255, chance.randrange(256)])
        path.write_bytes(signed(bytes(damaged)))
        try:
            knetc.load(path, backend="numpy")
        except knetc.KnetInternalError:
            raise
        except knetc.KnetError:
            errors += 1
    assert errors > 200


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not a file that knetc.save wrote"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "is not a file that knetc.save wrote"),
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "is not a file that knetc.save wrote"),
        (signed(b""), "no HDF5 data"),
        (signed(b"knetpar1" * 50), "no HDF5 data"),
        (signed(b"\x89HDF\r\n\x1a\n" + bytes(3000)), "no HDF5 data"),
        (
            b"knetc file, format 2\n".ljust(512, b"\0"),
            "is of format 2, and this version of knetc reads format 1: update",
        ),
        (b"knetc file, format " + b"9" * 400, "is of format 9999"),
        (b"knetc file, format 0\n".ljust(512, b"\0"), "damaged"),
        (b"knetc file, format \xd9\xa3\n".ljust(512, b"\0"), "damaged"),
    ],
    ids=range(10),
)
def test_other_files(data: bytes, reason: str, path: Path) -> None:
    path.write_bytes(data)
    refused(path, reason)


def test_a_newer_format_is_named_though_the_rest_is_sound(path: Path, saved: bytes) -> None:
    newer = saved.replace(b"format 1\n", b"format 2\n", 1)
    path.write_bytes(newer)
    refused(path, "of format 2, and this version of knetc reads format 1: update knetc")


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.h5", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: it is not a regular file")
    refused(Path("/dev/zero"), "cannot be read: it is not a regular file")
    for place, reason in ((tmp_path / "no" / "net.h5", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(knetc.KnetError, match=f"cannot be written: .*{reason}"):
            knetc.save(place, x=1)


# --- HDF5 that save does not write ------------------------------------------------------------------------------------


def replaced(name: str, **options: Any) -> Callable[[h5py.File], Any]:
    """An edit: a data set made anew, with the options of h5py's create_dataset."""

    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, **options)

    return edit


def linked(name: str, link: Any) -> Callable[[h5py.File], Any]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return edit


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(2, 3), dtype="<f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "w", shape=(2, 3))
    del file["parameters/w"]
    file["parameters"].create_virtual_dataset("w", layout, fillvalue=1)


def external(file: h5py.File) -> None:
    replaced("parameters/w", shape=(2, 3), dtype="<f4", external=[("/etc/passwd", 0, 24)])(file)


def unwritten(file: h5py.File, shape: tuple[int, ...] = (2, 3)) -> None:
    """A contiguous data set whose space was never taken: HDF5 would make it up of the fill value."""
    del file["parameters/w"]
    file["parameters"].create_dataset("w", shape=shape, dtype="<f4", fillvalue=1)


def chunked(shape: tuple[int, ...], **options: Any) -> Callable[[h5py.File], Any]:
    chunks = tuple(min(n, 64) for n in shape)
    return replaced("parameters/w", shape=shape, dtype="<f4", chunks=chunks, **options)


def compact(file: h5py.File) -> None:
    del file["parameters/w"]
    form = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    form.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple((2, 3)), h5py.h5t.py_create(np.dtype("<f4"))
    h5py.h5d.create(file["parameters"].id, b"w", kind, space, form)


def cyclic(file: h5py.File) -> None:
    file["parameters/again"] = file["parameters"]


def root_again(file: h5py.File) -> None:
    file["again"] = file["/"]


def references(file: h5py.File) -> None:
    replaced("parameters/w", data=np.array([file.ref, file.ref], dtype=h5py.ref_dtype))(file)


HUGE = (1 << 30, 1 << 20)
STRUCTURES: list[tuple[Callable[[h5py.File], Any], str]] = [
    (linked("parameters/w", h5py.ExternalLink("/etc/passwd", "w")), "w is a link to another place"),
    (linked("parameters/w", h5py.ExternalLink("net.h5", "/parameters/w")), "w is a link to another place"),
    (linked("parameters/w", h5py.SoftLink("/values/0")), "w is a link to another place"),
    (linked("parameters", h5py.SoftLink("/values")), "parameters is a link to another place"),
    (linked("more", h5py.ExternalLink("/etc/passwd", "/")), "more is a link to another place"),
    (linked("head", h5py.SoftLink("/source")), "head is a link to another place"),
    (virtual, "parameters/w do not stand in the file as they are"),
    (external, "parameters/w do not stand in the file as they are"),
    (unwritten, "parameters/w claims 24 bytes, which the file does not hold"),
    (lambda file: unwritten(file, HUGE), "parameters/w claims 4503599627370496 bytes"),
    (lambda file: unwritten(file, (0, 1 << 40)), r"parameter w: shape \(2,3\) is expected, got \(0, 1099511627776\)"),
    (chunked((2, 3)), "parameters/w do not stand in the file as they are"),
    (chunked(HUGE, fillvalue=1), "parameters/w do not stand in the file as they are"),
    (chunked((4096, 4096), compression="gzip"), "parameters/w do not stand in the file as they are"),
    (chunked((4096, 4096), scaleoffset=2), "parameters/w do not stand in the file as they are"),
    (compact, "parameters/w do not stand in the file as they are"),
    (cyclic, "parameters/again is no array"),
    (root_again, "again/.* is no array"),
    (references, "parameters/w is an array of object"),
    (replaced("parameters/w", data="text"), "parameters/w is an array of object"),
    (replaced("parameters/w", data=np.zeros((2, 3), "c8")), "parameters/w is an array of complex64"),
    (replaced("parameters/w", data=np.zeros((2, 3), ">f4")), "parameters/w is an array of >f4"),
    (replaced("parameters/w", data=np.zeros((2, 3), [("a", "f4")])), "parameters/w is an array of"),
    (replaced("parameters/w", dtype="<f4"), "parameters/w"),
    (replaced("parameters/w", data=h5py.Empty("<f4")), "parameters/w"),
    (replaced("head", data="text of any length"), "head is no text of a fixed length"),
    (replaced("head", data=np.zeros(3)), "head is no text of a fixed length"),
    (replaced("head", data=np.array([b"{}", b"{}"])), "head is no text of a fixed length"),
    (replaced("head", shape=(), dtype=h5py.string_dtype("utf-8", 1 << 30)), "head claims 1073741824 bytes"),
    (replaced("head", data=np.bytes_(b"\xff\xfe")), "no HDF5 data"),
    (replaced("parameters/more/deep", data=np.zeros(2)), "parameters/more is no array"),
    (lambda file: file.create_group("more"), "no kind of arrays more"),
    (replaced("more", data=np.bytes_(b"text")), "holds more than its head tells of"),
    (lambda file: file.__delitem__("head"), "head"),
    (lambda file: file.__delitem__("source"), "the source's name is wrong"),
    (lambda file: file.__delitem__("parameters"), "the parameters w are missing"),
    (lambda file: file.__delitem__("values"), "0"),
    (lambda file: file.move("parameters/w", "parameters/v"), "the model has no parameters v"),
    (lambda file: file.move("parameters", "params"), "no kind of arrays params"),
    (lambda file: file.move("state/h", "state/w"), "the model has no state variables w"),
    (lambda file: file.move("momentum/w", "momentum/h"), "no average momentum of h"),
    (replaced("parameters/v", data=np.zeros(3, "<f4")), "the model has no parameters v"),
    (replaced("values/7", data=np.zeros(3)), "holds more than its head tells of"),
    (replaced("parameters/w", data=np.zeros((3, 2), "<f4")), r"parameter w: shape \(2,3\) is expected, got \(3, 2\)"),
    (replaced("parameters/w", data=np.zeros((2, 3), "<f8")), "parameter w: elements of float32 are expected"),
    (replaced("state/h", data=np.zeros((2, 3), "<f4")), "state h: 2 columns are expected, got 3"),
    (replaced("state/h", data=np.zeros((3, 2), "<f4")), r"state h: shape \(2,N\) is expected"),
    (replaced("momentum/w", data=np.zeros((2, 2), "<f4")), r"momentum of w: shape \(2,3\) is expected"),
    (replaced("adam_t/w", data=np.zeros(1)), r"adam_t of w: shape \(\) is expected"),
    (replaced("adam_t/w", data=-1.0), "adam_t of w: a number of steps is expected"),
    (replaced("adam_t/w", data=0.5), "adam_t of w: a number of steps is expected"),
    (replaced("adam_t/w", data=np.nan), "adam_t of w: a number of steps is expected"),
    (replaced("constants/0", data=np.zeros((2, 2), "<f4")), "no constants 0"),
]


@pytest.mark.parametrize(("edit", "reason"), STRUCTURES, ids=range(len(STRUCTURES)))
def test_data_that_save_does_not_write(edit: Callable[[h5py.File], Any], reason: str, path: Path, saved: bytes) -> None:
    refused(forged(path, saved, edit), reason)


def test_arrays_that_share_their_bytes(path: Path) -> None:
    """A small file cannot be made large by telling of the same bytes many times."""
    table = np.arange(100_000.0)
    knetc.save(path, table=table)

    def again(file: h5py.File) -> None:
        for i in range(1, 50):
            file[f"values/{i}"] = file["values/0"]

    refused(forged(path, path.read_bytes(), again), "which the file does not hold", most=4 << 20)


def test_nothing_is_read_beside_the_file(path: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link, an external or a virtual data set: the other file is not opened, though it is there and sound."""
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["w"] = np.ones((2, 3), "<f4")
    opened: list[str] = []
    monkeypatch.setattr("builtins.open", _recording(opened, open))
    for link in (h5py.ExternalLink(str(other), "/w"), h5py.ExternalLink("other.h5", "/w")):
        refused(forged(path, saved, linked("parameters/w", link)), "w is a link to another place")
    assert opened and all(Path(name).name == "net.h5" for name in opened)


def _recording(opened: list[str], real: Any) -> Any:
    def record(name: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(name))
        return real(name, *args, **kwargs)

    return record


# --- a head that save does not write ----------------------------------------------------------------------------------


def with_head(change: Callable[[dict[str, Any]], Any]) -> Callable[[h5py.File], Any]:
    def edit(file: h5py.File) -> None:
        head = json.loads(file["head"][()])
        changed = change(head)
        text = changed if isinstance(changed, str) else json.dumps(head)
        replaced("head", data=np.bytes_(text.encode()))(file)

    return edit


def set_(**settings: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda head: head["model"].update(settings)


def value(json_: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda head: head["values"].update(note=json_)


OPTIONS = {"lr": 1.0, "l1reg": 0.0, "l2reg": 0.0, "adagrad": False, "rmsprop": False, "adam": False, "momentum": 0.0}
OPTIONS |= {"nesterov": 0.0, "gclip": 0.0, "gscale": 1.0}
HEADS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda head: "[" * 100_000, "is refused"),
    (lambda head: "{", "its head is no JSON"),
    (lambda head: '{"model":NaN}', "its head is no JSON: there is a NaN"),
    (lambda head: "9" * 5000, "its head is no JSON"),
    (lambda head: "[]", "is refused"),
    (lambda head: head.update(more=1), "its head is of another form"),
    (lambda head: head.pop("values"), "its head is of another form"),
    (lambda head: head.update(values=[1]), "is refused"),
    (lambda head: head.update(model=None), "arrays of no model"),
    (lambda head: head["values"].update(model=1), "it has two models"),
    (lambda head: head["model"].update(extra=1), "not those that save writes"),
    (lambda head: head["model"].pop("seed"), "not those that save writes"),
    (set_(dtype="f16"), "the model's name or dtype is wrong"),
    (set_(dtype="f64"), "parameter w: elements of float64 are expected"),
    (set_(name=3), "the model's name or dtype is wrong"),
    (set_(name="g"), "does not define 'g'"),
    (set_(file=None), "the source's name is wrong"),
    (set_(seed=-1), "seed is an integer of at least 0"),
    (set_(seed=1 << 64), "seed is an integer below"),
    (set_(seed="1"), "seed is an integer"),
    (set_(seed=True), "seed is an integer"),
    (set_(draw_seed=1.5), "seed is an integer"),
    (set_(optimise=3), "optimise is 0, 1 or 2"),
    (set_(calls=-1), "calls is an integer"),
    (set_(inputs=None), "the model has no arrays"),
    (set_(inputs=[]), "the model has 1 inputs, not 0"),
    (set_(inputs=[[3, "N"], [3, "N"]]), "the model has 1 inputs, not 2"),
    (set_(inputs=[["N", 3]]), "the batch is not an input's last dimension"),
    (set_(inputs=[[0, "N"]]), "a dimension of an input"),
    (set_(inputs=[[4, "N"]]), r"parameter w: shape \(2,4\) is expected, got \(2, 3\)"),
    (set_(inputs=[[1 << 50, "N"]]), "does not fit into memory"),
    (set_(inputs=[[1 << 30, "N"]]), r"parameter w: shape"),
    (set_(inputs=[[1] * 1000]), "is refused"),
    (set_(inputs=[3]), "is refused"),
    (set_(confirmed=1), "option confirmed is True or False"),
    (set_(written=["v"]), "the model has no parameters v"),
    (set_(written=[["w"]]), "is refused"),
    (set_(options={}), "the training options w are missing"),
    (set_(options={"w": OPTIONS, "v": OPTIONS}), "the model has no training options v"),
    (set_(options={"w": {"lr": 1.0}}), "the training options are not those of this version"),
    (set_(options={"w": OPTIONS | {"lr": "fast"}}), "option lr is a finite number"),
    (set_(options={"w": OPTIONS | {"momentum": -1.0}}), "option momentum is not negative"),
    (set_(options={"w": OPTIONS | {"adam": 1}}), "option adam is True or False"),
    (set_(state_batch=0), "state_batch is an integer of at least 1"),
    (set_(state_batch=None), "state h: None columns are expected, got 2"),
    (set_(keywords={"out": 3}), "has no keyword 'out'"),
    (set_(keywords={"out": {"filler": ["Gaussian", 0, -1]}}), "std must be at least 0"),
    (set_(keywords={"out": {"filler": ["object"]}}), "is refused"),
    (set_(keywords={"out": {"filler": ["Gaussian", 0, 1, 2]}}), "is refused"),
    (set_(keywords={"out": {"range": ["a", "b"]}}), "a range goes from a number to a number"),
    (value({"array": "9"}), "is refused"),
    (value({"array": ["0"]}), "is refused"),
    (value({"booleans": "0"}), "an array is not booleans"),
    (value({"pickle": "cos\nsystem"}), "is made of no list"),
    (value({"array": "0", "list": []}), "is refused"),
    (value({"number": ["<f4", "zz"]}), "is refused"),
    (value({"number": ["O", "00"]}), "an array is not a number"),
    (value({"number": ["<f4", "0000803f0000803f"]}), "is refused"),
    (value({"number": ["<f4,<f4", "0000803f"]}), "an array is not a number"),
    (value({"float": "1e5"}), "is refused"),
    (value({"dictionary": [[[], 1]]}), "is refused"),
    (value({"dictionary": [[1, 2, 3]]}), "is refused"),
    (value({"tuple": {"a": 1}}), "is made of no list"),
    (value({}), "is refused"),
    (value(json.loads("[" * 80 + "]" * 80)), "a value is nested too deeply"),
]


@pytest.mark.parametrize(("change", "reason"), HEADS, ids=range(len(HEADS)))
def test_a_head_that_save_does_not_write(
    change: Callable[[dict[str, Any]], Any], reason: str, path: Path, saved: bytes
) -> None:
    refused(forged(path, saved, with_head(change)), reason)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (SOURCE.replace("dims=(2,0)", "dims=(1000000000,0)"), r"parameter w: shape \(1000000000,3\) is expected"),
        (SOURCE.replace("\n h", "\n a = arr(dims=(90000,90000))\n h", 1), "the constants 1 are missing"),
        ("@knet function f(x; a=zeros(10000,10000))\n w = par(dims=(2,0), init=a)\n return w*x\nend\n", "too large"),
        ("@knet function f(x)\n return repeat(x; frepeat=:wbf, nrepeat=1000000, out=2)\nend\n", "at most 100000 times"),
        ("import os; os.system('true')", "error: "),
        ("", "no text of a fixed length|no '@knet function' found|no HDF5 data"),
    ],
    ids=range(6),
)
def test_a_source_that_asks_for_too_much(source: str, reason: str, path: Path, saved: bytes) -> None:
    refused(forged(path, saved, replaced("source", data=np.bytes_(source.encode()))), reason, most=16 << 20)
