"""`knetc.save` and `knetc.load`: a model and plain values in one file.

Before: the user's call, and a model's `snapshot.py`. After: `container.py`, which writes and reads the file itself.
docs/files.md describes what stands in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from knetc.errors import (
    Diagnostic,
    KnetEnvironmentError,
    KnetError,
    KnetInternalError,
    KnetMemoryError,
    KnetNameError,
    KnetTypeError,
    Source,
)
from knetc.ir.types import N, PartialDims
from knetc.runtime import backends, check, container, keywords, process
from knetc.runtime.container import Contents
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.model import Model
from knetc.runtime.plain import Decoder, Encoder
from knetc.runtime.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD, SOURCE, VALUES = "head", "source", "values"
"""The texts of a file, and the group of the arrays that the values and the keywords hold."""

_SETTINGS = {f.name for f in fields(Snapshot)} - {"source", "arrays"} | {"file"}


def save(path: str | os.PathLike[str], /, model: Model | None = None, **more: Any) -> None:
    """Writes a model and plain values to a file, which takes the place of the one at `path` in one step.

    The model's source, keywords, dtype, parameters, state, training options with their running averages and the state
    of its random numbers are saved; not the stack, the gradients and the values of the last call. `more`: dictionaries,
    lists, tuples, NumPy arrays, strings, numbers, booleans and None, by the names under which `load` gives them back.
    Among several processes (`knetc.distribute`) all make the call, and rank 0 writes the file.
    Raises KnetTypeError for a value of another kind, KnetError where the file cannot be written.
    """
    _check_path(path)
    if model is not None and not isinstance(model, Model):
        raise KnetTypeError(f"save: model is a model that knetc.compile made, got {type(model).__name__}")
    encoder, contents = Encoder(), Contents()
    head: dict[str, Any] = {"model": None, "values": {n: encoder.encode(v, n) for n, v in more.items()}}
    if model is not None:
        snapshot = model.snapshot()
        head["model"] = _settings(snapshot, encoder)
        if snapshot.source:
            contents.texts[SOURCE] = snapshot.source.text
        for kind, arrays in snapshot.arrays.items():
            if arrays:
                contents.arrays[kind] = {_stored_name(name): array for name, array in arrays.items()}
    if encoder.arrays:
        contents.arrays[VALUES] = encoder.arrays
    contents.texts[HEAD] = json.dumps(head, allow_nan=False, separators=(",", ":"))
    if process.speaks():
        container.write(path, contents)


def load(path: str | os.PathLike[str], name: str | None = None, *, backend: str = "auto") -> Any:
    """What `save` wrote: a dictionary with the model under `model` and the other values under their names.

    With `name`, that entry alone. The model runs on `backend`, as in `compile`. Raises KnetError for a file that cannot
    be read, was altered or truncated, is of a newer format or not what `save` writes; KnetNameError where it has no
    entry `name`; KnetEnvironmentError for a back end that cannot run here.
    """
    _check_path(path)
    backends.choose(backend)
    snapshot, values = _read(path)
    entries = [*(["model"] if snapshot else []), *values]
    if name is not None and name not in entries:
        raise KnetNameError(f"{os.fspath(path)} has no entry {name!r} (there are {check.listing(entries)})")
    if snapshot and name in (None, "model"):
        values = {"model": _model(snapshot, backend, path), **values}
    return values if name is None else values[name]


def stored(path: str | os.PathLike[str]) -> Snapshot:
    """The snapshot of the model that `save` has written. Raises KnetError as `load`."""
    snapshot, _ = _read(path)
    if snapshot is None:
        raise KnetNameError(f"{os.fspath(path)} has no model")
    return snapshot


def _read(path: str | os.PathLike[str]) -> tuple[Snapshot | None, dict[str, Any]]:
    """The model's snapshot, if there is one, and the other values of a file."""
    contents = container.read(path)
    try:
        return _unpacked(contents)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise KnetError(f"{os.fspath(path)} is refused: {error}") from None


def _check_path(path: Any) -> None:
    if not isinstance(path, str | os.PathLike):
        raise KnetTypeError(f"a file is named by a path, got {type(path).__name__}")


# --- writing ----------------------------------------------------------------------------------------------------------


def _settings(snapshot: Snapshot, encoder: Encoder) -> dict[str, Any]:
    """All of a model but its source text and its arrays."""
    inputs = snapshot.inputs
    return {
        "name": snapshot.name,
        "file": os.path.basename(snapshot.source.name) if snapshot.source else None,
        "keywords": {n: encoder.encode(v, f"keyword {n}") for n, v in snapshot.keywords.items()},
        "dtype": snapshot.dtype,
        "optimise": snapshot.optimise,
        "seed": snapshot.seed,
        "draw_seed": snapshot.draw_seed,
        "calls": snapshot.calls,
        "inputs": None if inputs is None else [["N" if d is N else d for d in dims or ()] for dims in inputs],
        "confirmed": snapshot.confirmed,
        "written": sorted(snapshot.written),
        "options": {name: vars(options) for name, options in snapshot.options.items()},
        "state_batch": snapshot.state_batch,
    }


def _stored_name(name: str) -> str:
    """A variable's name in the file: `c1.w` for c1/w, since / parts the names of nested groups."""
    if "." in name:
        raise KnetInternalError(f"a variable is called {name}")
    return name.replace("/", ".")


# --- reading ----------------------------------------------------------------------------------------------------------


def _unpacked(contents: Contents) -> tuple[Snapshot | None, dict[str, Any]]:
    """The model's snapshot and the other values. Raises ValueError and its like for what `save` does not write."""
    head = _parsed(contents.texts.pop(HEAD))
    source = contents.texts.pop(SOURCE, None)
    values = Decoder(contents.arrays.pop(VALUES, {}))
    _expect(head.keys() == {"model", "values"}, "its head is of another form")
    entries = {name: values.decode(v) for name, v in head["values"].items()}
    _expect("model" not in entries, "it has two models")
    snapshot = None if head["model"] is None else _snapshot(head["model"], source, values, contents.arrays)
    _expect(snapshot is not None or (source is None and not contents.arrays), "it has arrays of no model")
    _expect(not contents.texts and not values.unused, "it holds more than its head tells of")
    return snapshot, entries


def _snapshot(
    settings: dict[str, Any],
    source: str | None,
    values: Decoder,
    arrays: Mapping[str, Mapping[str, NDArray[Any]]],
) -> Snapshot:
    s = settings
    _expect(s.keys() == _SETTINGS, "the model's settings are not those that save writes")
    _expect(isinstance(s["name"], str) and s["dtype"] in check.DTYPES, "the model's name or dtype is wrong")
    _expect(s["file"] is None if source is None else isinstance(s["file"], str), "the source's name is wrong")
    return Snapshot(
        source=None if source is None else Source(s["file"], source),
        name=s["name"],
        keywords=keywords.values({name: values.decode(v) for name, v in s["keywords"].items()}),
        dtype=s["dtype"],
        optimise=check.level(s["optimise"]),
        seed=check.seed(s["seed"]),
        draw_seed=None if s["draw_seed"] is None else check.seed(s["draw_seed"]),
        calls=check.natural("calls", s["calls"], 0),
        inputs=None if s["inputs"] is None else tuple(_dims(dims) for dims in s["inputs"]),
        confirmed=check.flag("confirmed", s["confirmed"]),
        written=frozenset(s["written"]),
        options={name: _options(options) for name, options in s["options"].items()},
        state_batch=None if s["state_batch"] is None else check.natural("state_batch", s["state_batch"]),
        arrays={
            kind: {name.replace(".", "/"): np.asarray(a, order="F") for name, a in group.items()}
            for kind, group in arrays.items()
        },
    )


def _dims(dims: list[Any]) -> PartialDims:
    _expect("N" not in dims[:-1], "the batch is not an input's last dimension")
    return tuple(N if d == "N" else check.natural("a dimension of an input", d) for d in dims)


def _options(options: dict[str, Any]) -> TrainingOptions:
    _expect(options.keys() == vars(TrainingOptions()).keys(), "the training options are not those of this version")
    checked: dict[str, Any] = check.training_options(options)
    return TrainingOptions(**checked)


def _model(snapshot: Snapshot, backend: str, path: str | os.PathLike[str]) -> Model:
    try:
        return Model.of(snapshot, backend)
    except (KnetEnvironmentError, KnetInternalError, KnetMemoryError):
        raise
    except MemoryError as error:
        raise KnetMemoryError(f"out of memory in load: {error}") from None
    except KnetError as error:
        head = Diagnostic(f"{os.fspath(path)} is refused: its model is none for this version of knetc")
        raise KnetError([head, *error.diagnostics]) from None


def _expect(good: bool, reason: str) -> None:
    if not good:
        raise ValueError(reason)


def _parsed(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"there is a {constant}")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"its head is no JSON: {error}") from None
