"""The steps of a sequence as users give them, one by one and side by side as one array.

Used by `model.py` for `forwseq` and `backseq`: an executable takes the columns of all steps in one array, the first
step's first (`Executable.forward_sequence`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from knetc.errors import KnetShapeError, KnetTypeError
from knetc.ir.types import N, PartialDims
from knetc.runtime import check, device
from knetc.runtime.device import DeviceArray, is_device

if TYPE_CHECKING:
    from knetc.runtime.executable import Given, Tensor
    from knetc.runtime.order import Call

Target: TypeAlias = "tuple[str, Given | None, Given | None]"
"""Where the backward pass of a step starts: the loss's kind, its gold and its mask."""


def steps(xs: Any, what: str, dtype: np.dtype[Any], dims: PartialDims | None) -> list[Any]:
    """What each step is given: the slices of an array along its last dimension, or the entries of a list.

    Those of a device array of `dtype` are the same memory; `dims`: what is known of a step's shape, for its order
    (`check.device_array`). Raises KnetShapeError where there are none, KnetTypeError for anything else.
    """
    if is_device(xs):
        xs = check.device_array(xs, what, dtype, None if dims is None else (*dims, None))
    if isinstance(xs, np.ndarray | DeviceArray):
        if xs.ndim == 0:
            raise KnetShapeError(f"{what}: time is the last dimension of an array, or give a list of steps")
        found = [xs[..., t] if isinstance(xs, np.ndarray) else xs.entry(t) for t in range(xs.shape[-1])]
    elif isinstance(xs, Sequence) and not isinstance(xs, str):
        found = list(xs)
    else:
        raise KnetTypeError(f"{what}: an array with time last or a list of steps is expected, got {type(xs).__name__}")
    if not found:
        raise KnetShapeError(f"{what}: there are no steps")
    return found


def joined_inputs(given: Sequence[Sequence[Given]], dims: Sequence[PartialDims]) -> list[Given] | None:
    """One array for each input of a model, with the columns of all steps; `given` has the inputs of each step.

    None where they cannot be one: none with a batch, one without a batch that changes, or as `side_by_side`.
    """
    batched = [d[-1:] == (N,) for d in dims]
    inputs = []
    for moves, values in zip(batched, zip(*given, strict=True), strict=True):
        joined = side_by_side(values) if moves else values[0] if _all_same(values) else None
        if joined is None:
            return None
        inputs.append(joined)
    return inputs if any(batched) else None


def _all_same(values: Sequence[Given]) -> bool:
    """Whether the arrays are one and the same, or on the host have the same elements."""
    first = values[0]
    if isinstance(first, DeviceArray):
        return all(v == first for v in values)
    return all(v is first or (isinstance(v, np.ndarray) and np.array_equal(v, first)) for v in values)


def joined_targets(calls: Sequence[Call], targets: Sequence[Target]) -> Target | None:
    """One target for several steps, of which those without one have weight zero. None where they cannot be one: on the
    device some without one, or as `side_by_side`.
    """
    first = next((t for t in targets if t[1] is not None), None)
    if first is None:
        return "zero", None, None
    kind, gold = first[0], first[1]
    if all(g is not None for _, g, _ in targets) and len({m is None for _, _, m in targets}) == 1:
        whole = side_by_side([g for _, g, _ in targets if g is not None])
        masks = [m for _, _, m in targets if m is not None]
        weights = side_by_side(masks) if masks else None
        return None if whole is None or (masks and weights is None) else (kind, whole, weights)
    if not isinstance(gold, np.ndarray) or any(isinstance(a, DeviceArray) for _, g, m in targets for a in (g, m)):
        return None
    golds = [np.zeros_like(gold, order="F") if g is None else g for _, g, _ in targets]
    if kind == "none":
        return kind, side_by_side(golds), None
    filled = [
        np.full(call.batch, g is not None, gold.dtype) if m is None else m
        for call, (_, g, m) in zip(calls, targets, strict=True)
    ]
    return kind, side_by_side(golds), side_by_side(filled)


def runs(calls: Sequence[Call]) -> Iterator[slice]:
    """The stretches of steps that ran the same variant on as many columns, the newest first."""
    end = len(calls)
    for t in range(end - 1, -1, -1):
        if t == 0 or calls[t - 1].variant is not calls[t].variant or calls[t - 1].batch != calls[t].batch:
            yield slice(t, end)
            end = t


def side_by_side(values: Sequence[Given]) -> Given | None:
    """Arrays along their last dimension, Fortran-ordered: a new array, or on the device the memory that they have.

    None where some are on the device and some not, or where they do not follow each other there.
    """
    here = [v for v in values if isinstance(v, np.ndarray)]
    there = [v for v in values if isinstance(v, DeviceArray)]
    if here and there:
        return None
    return device.joined(there) if there else np.asfortranarray(np.concatenate(here, axis=-1))


def adjacent(values: Sequence[Given]) -> Given | None:
    """The memory of arrays of one shape as one array, if that is what they are: Fortran-ordered one after the other."""
    here = [v for v in values if isinstance(v, np.ndarray)]
    if not here:
        return side_by_side(values)
    first = here[0]
    follows = (a.ctypes.data == first.ctypes.data + k * first.nbytes for k, a in enumerate(here))
    if len(here) < len(values) or not all(a.flags.f_contiguous for a in here) or not all(follows):
        return None
    shape = (*first.shape[:-1], first.shape[-1] * len(here))
    strides = [first.itemsize * math.prod(shape[:k]) for k in range(len(shape))]
    return np.lib.stride_tricks.as_strided(first, shape, strides)


def apart(value: Tensor, count: int) -> list[Tensor]:
    """The columns of each of `count` steps, as views."""
    batch = value.shape[-1] // count
    return [value[..., t * batch : (t + 1) * batch] for t in range(count)]
