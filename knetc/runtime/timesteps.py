"""The steps of a sequence as users give them, one by one and side by side as one array.

Used by `model.py` for `forwseq` and `backseq`: an executable takes the columns of all steps in one array, the first
step's first (`Executable.forward_sequence`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from knetc.errors import KnetShapeError, KnetTypeError
from knetc.ir.types import N, PartialDims

if TYPE_CHECKING:
    from knetc.runtime.executable import Given, Tensor
    from knetc.runtime.order import Call

Target: TypeAlias = "tuple[str, Given | None, Given | None]"
"""Where the backward pass of a step starts: the loss's kind, its gold and its mask."""


def steps(xs: Any, what: str) -> list[Any]:
    """What each step is given: the slices of an array along its last dimension, or the entries of a list.

    Raises KnetShapeError where there are none, KnetTypeError for anything else.
    """
    if isinstance(xs, np.ndarray):
        if xs.ndim == 0:
            raise KnetShapeError(f"{what}: time is the last dimension of an array, or give a list of steps")
        found = [xs[..., t] for t in range(xs.shape[-1])]
    elif isinstance(xs, Sequence) and not isinstance(xs, str):
        found = list(xs)
    else:
        raise KnetTypeError(f"{what}: an array with time last or a list of steps is expected, got {type(xs).__name__}")
    if not found:
        raise KnetShapeError(f"{what}: there are no steps")
    return found


def joined_inputs(given: Sequence[Sequence[Given]], dims: Sequence[PartialDims]) -> list[Tensor] | None:
    """One array for each input of a model, with the columns of all steps; `given` has the inputs of each step.

    None where they cannot be one: an input on a device, none with a batch, or one without a batch that changes.
    """
    batched = [d[-1:] == (N,) for d in dims]
    inputs = []
    for moves, values in zip(batched, zip(*given, strict=True), strict=True):
        if not all(isinstance(v, np.ndarray) for v in values):
            return None
        if not moves and not all(v is values[0] or np.array_equal(v, values[0]) for v in values):
            return None
        inputs.append(side_by_side(values) if moves else values[0])
    return inputs if any(batched) else None


def joined_targets(calls: Sequence[Call], targets: Sequence[Target]) -> Target | None:
    """One target for several steps, of which those without one have weight zero. None where they cannot be one."""
    if any(a is not None and not isinstance(a, np.ndarray) for _, *arrays in targets for a in arrays):
        return None
    first = next((t for t in targets if t[1] is not None), None)
    if first is None:
        return "zero", None, None
    kind, gold = first[0], first[1]
    assert isinstance(gold, np.ndarray)
    golds = [np.zeros_like(gold, order="F") if g is None else g for _, g, _ in targets]
    if kind == "none" or all(g is not None and m is None for _, g, m in targets):
        return kind, side_by_side(golds), None
    weights = [
        np.full(call.batch, g is not None, gold.dtype) if m is None else m
        for call, (_, g, m) in zip(calls, targets, strict=True)
    ]
    return kind, side_by_side(golds), side_by_side(weights)


def runs(calls: Sequence[Call]) -> Iterator[slice]:
    """The stretches of steps that ran the same variant on as many columns, the newest first."""
    end = len(calls)
    for t in range(end - 1, -1, -1):
        if t == 0 or calls[t - 1].variant is not calls[t].variant or calls[t - 1].batch != calls[t].batch:
            yield slice(t, end)
            end = t


def side_by_side(values: Sequence[Any]) -> Tensor:
    """Arrays along their last dimension, Fortran-ordered."""
    return np.asfortranarray(np.concatenate(values, axis=-1))


def apart(value: Tensor, count: int) -> list[Tensor]:
    """The columns of each of `count` steps, as views."""
    batch = value.shape[-1] // count
    return [value[..., t * batch : (t + 1) * batch] for t in range(count)]
