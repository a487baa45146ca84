"""Where the results of a model's calls go: the user's `out`, checked against what the call will return.

Before: the arguments of `Model.forw`, `sforw`, `back` and `sback`. After: arrays that an executable writes to
(`Executable.forward`). Whole sequences have the same in `sequences.py`. Nothing here changes a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.errors import KnetTypeError
from knetc.ir.program import Program
from knetc.runtime import check
from knetc.runtime.executable import into
from knetc.runtime.signature import result_type

if TYPE_CHECKING:
    from knetc.runtime.executable import Given, Tensor


def condition(out: Any, conditions: dict[str, bool]) -> tuple[Any, dict[str, bool]]:
    """`out` and the conditions of a call: a boolean is no place for a result, but a condition of that name."""
    return (None, {**conditions, "out": bool(out)}) if isinstance(out, bool | np.bool_) else (out, conditions)


def shape(program: Program, setting: frozenset[str], batch: int) -> tuple[int, ...] | None:
    """The shape of the value that the model returns under `setting`; None where it returns nothing."""
    type_ = result_type(program, program.variant(setting))
    return type_.concrete(batch) if type_ else None


def room(out: Any, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Given:
    """`out` as the array that a value of `shape` goes to.

    Raises KnetTypeError and KnetShapeError as `check.room`, KnetTypeError where there is no value.
    """
    if shape is None:
        raise KnetTypeError("out: the model returns nothing under these conditions")
    return check.room(out, "out", dtype, shape)


def apart(out: Given, inputs: Sequence[Given], labels: Sequence[str]) -> None:
    """Raises KnetTypeError where a result would go over an input, which `back` reads again."""
    for array, label in zip(inputs, labels, strict=True):
        if check.overlap(out, array):
            raise KnetTypeError(f"out: it shares memory with {label}, which back reads again")


# --- gradients of inputs ----------------------------------------------------------------------------------------------


def wanted(getdx: Any, inputs: int) -> list[int]:
    """The inputs whose gradients `getdx` asks for, of so many. Raises KnetTypeError."""
    if isinstance(getdx, bool | np.bool_):
        return list(range(inputs)) if getdx else []
    indices = list(getdx) if isinstance(getdx, list | tuple) else [getdx]
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < inputs:
            raise KnetTypeError(
                f"getdx is True, an index of an input (0 to {inputs - 1}) or a list of them, got {getdx!r}"
            )
    return [int(index) for index in indices]


def gradient_rooms(
    out: Any, getdx: Any, indices: Sequence[int], shapes: Sequence[tuple[int, ...]], dtype: np.dtype[Any]
) -> dict[int, Given]:
    """Where the gradients of the inputs in `indices` go, by input; `shapes` are those of all inputs.

    `out`: an array where `getdx` gives one array, a list of as many where it gives a list. Raises as `check.room`.
    """
    given = [out] if _is_one(getdx, indices) else out
    if not isinstance(given, list | tuple) or len(given) != len(indices):
        raise KnetTypeError(f"out: a place for each gradient that getdx asks for is expected, {len(indices)} here")
    if len(set(indices)) < len(indices):
        raise KnetTypeError("out: getdx asks for a gradient twice")
    rooms = {i: check.room(o, "out", dtype, shapes[i]) for i, o in zip(indices, given, strict=True)}
    if any(check.overlap(a, b) for a, b in combinations(rooms.values(), 2)):
        raise KnetTypeError("out: two of the places for gradients share memory")
    return rooms


def gradients(
    getdx: Any,
    indices: Sequence[int],
    found: Mapping[int, Tensor],
    rooms: Mapping[int, Given],
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype[Any],
) -> Any:
    """The gradients of inputs as `getdx` asks for them: zero where none flows, one array for one input, or a list."""
    if not indices and not isinstance(getdx, list | tuple):
        return None
    all_ = []
    for i in indices:
        if i not in found:
            zero = np.zeros(shapes[i], dtype, order="F")
            all_.append(into(zero, rooms.get(i)))  # of the interpreter, so in host memory
        else:
            all_.append(found[i])
    return all_[0] if _is_one(getdx, indices) else all_


def _is_one(getdx: Any, indices: Sequence[int]) -> bool:
    return len(indices) == 1 and not isinstance(getdx, list | tuple)
