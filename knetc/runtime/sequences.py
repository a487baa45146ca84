"""Whole sequences of a model, `forwseq` and `backseq`: in one call of the executable where steps can be one array.

Methods of `model.Model`, which they use. Steps as users give them are `timesteps.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.errors import KnetShapeError, KnetTypeError
from knetc.ir.program import Program
from knetc.runtime import check, outputs, timesteps
from knetc.runtime.device import DeviceArray, is_device
from knetc.runtime.executable import into
from knetc.runtime.order import Call
from knetc.runtime.signature import result_type

if TYPE_CHECKING:
    from knetc.runtime.executable import Given
    from knetc.runtime.losses import Loss
    from knetc.runtime.model import Model


def forwseq(net: Model, xs: Any, /, out: Any = None, **conditions: bool) -> Any:
    """T calls of `sforw`: `xs` is an array with time as an extra last dimension, or a list of the steps' inputs.

    Returns the values in the same form (time last, or a list; a step of several inputs is a tuple), None where the
    model returns nothing. A device array has time last in Fortran order, or first in C order: (T, batch, ...); it is
    taken without a copy, and the values are then on the device. `out`: an array with time last, or a list of arrays,
    that the values are written to, as in `forw`. Raises as `sforw`, before the first step runs.
    """
    out, conditions = outputs.condition(out, conditions)
    setting = check.setting(conditions, net._engine.lowered.conditions)
    net._order.before_push("forwseq")
    inputs = net._engine.known.inputs
    given = timesteps.steps(xs, "forwseq", net._dtype, inputs[0].dims if inputs else None)
    prepared, program = [], None
    for step in given:
        prepared.append(net._inputs("forwseq", step if isinstance(step, tuple) else (step,), program))
        program = prepared[0][2]
    batches = [batch for _, batch, _ in prepared]
    if len(set(batches)) > 1:
        raise KnetShapeError(f"forwseq: the batch size differs between the steps: {batches}")
    arrays, batch, program = [arrays for arrays, _, _ in prepared], *prepared[0][1:]
    shape = outputs.shape(program, setting, batch)
    listed = not isinstance(xs, np.ndarray) and not is_device(xs)
    whole = out if out is not None else _room(net, arrays, shape, listed)
    rooms = None if whole is None else _rooms(net, whole, shape, len(arrays))
    _check_order(rooms or [], arrays)
    values = _forward(net, setting, arrays, rooms, batch, program)
    if whole is None or out is not None:
        return values if out is None else out
    return [whole[..., t] for t in range(len(arrays))] if listed else whole


def _room(net: Model, arrays: list[list[Given]], shape: tuple[int, ...] | None, listed: bool) -> Any:
    """An array for the values of all steps, time last; None where there are none, or where steps of the host make a
    list, which takes arrays of its own.
    """
    if shape is None:
        return None
    if any(isinstance(a, DeviceArray) for step in arrays for a in step):
        return net._engine.empty((*shape, len(arrays)))
    return None if listed else np.empty((*shape, len(arrays)), net._dtype, order="F")


def _rooms(net: Model, whole: Any, shape: tuple[int, ...] | None, steps: int) -> list[Given]:
    """The checked place for the value of each step."""
    found = timesteps.steps(whole, "forwseq: out", net._dtype, shape)
    if len(found) != steps:
        raise KnetShapeError(f"forwseq: {steps} steps and {len(found)} places for their values in out")
    rooms = [outputs.room(place, shape, net._dtype) for place in found]
    net._engine.can_take(rooms, "forwseq")
    return rooms


def _check_order(rooms: Sequence[Given], arrays: list[list[Given]]) -> None:
    """Raises KnetTypeError where on the device a step's value would go over the input of a later step: the steps may
    run one after the other there, in the memory that they are given.
    """
    places = np.array([_extent(r) for r in rooms if isinstance(r, DeviceArray)], np.uint64)
    for given in zip(*arrays, strict=True):
        if len(places) < len(given) or not all(isinstance(a, DeviceArray) for a in given):
            continue
        read = np.array([_extent(a) for a in given], np.uint64)
        over = (places[:, None, 0] < read[None, :, 1]) & (read[None, :, 0] < places[:, None, 1])
        if np.triu(over, 1).any():
            t, later = np.argwhere(np.triu(over, 1))[0]
            raise KnetTypeError(f"forwseq: out of step {t + 1} shares memory with the input of step {later + 1}")


def _extent(a: Any) -> tuple[int, int]:
    """Where a device array begins and ends in memory."""
    return a.pointer, a.pointer + a.nbytes


def _forward(
    net: Model,
    setting: frozenset[str],
    given: list[list[Given]],
    rooms: list[Given] | None,
    batch: int,
    program: Program,
) -> list[Any] | None:
    """The values of several steps, computed in one call where their inputs can be one array; None for none."""
    net._engine.confirm(program)
    type_ = net._engine.variants[setting][1]
    dims = [i.dims for i in program.inputs if i.dims is not None]
    whole = timesteps.joined_inputs(given, dims) if type_ is None or type_.batched else None
    room = timesteps.adjacent(rooms) if rooms else None
    scattered = room is None and any(isinstance(r, DeviceArray) for r in rooms or ())
    if whole is not None and len(given) > 1 and not scattered:
        return _at_once(net, setting, given, whole, rooms, room, batch)
    places: Sequence[Given | None] = rooms or [None] * len(given)
    values = [
        net._run("sforw", setting, arrays, batch, program, place) for arrays, place in zip(given, places, strict=True)
    ]
    return None if type_ is None else values


def _at_once(
    net: Model,
    setting: frozenset[str],
    given: list[list[Given]],
    whole: list[Given],
    rooms: list[Given] | None,
    room: Given | None,
    batch: int,
) -> list[Any] | None:
    """The values of several steps, whose inputs are `whole`; `room`: the array that `rooms` are parts of, if any."""
    place = room
    if rooms and room is None:  # on the host in another order: they are filled from an array of our own
        place = np.empty((*rooms[0].shape[:-1], batch * len(given)), net._dtype, order="F")
    value = net._engine.device().forward_sequence(setting, whole, len(given), place)
    for arrays in given:
        net._ran("sforw", setting, arrays, batch)
    if value is None or room is not None:
        return rooms
    values = timesteps.apart(value, len(given))
    return [into(v, r) for v, r in zip(values, rooms, strict=True)] if rooms else values


def backseq(net: Model, ys: Any, loss: Loss | str | None = None, mask: Any = None) -> None:
    """T calls of `sback`, the last step first. `ys` and `mask`: an array with time as an extra last dimension (on the
    device as `forwseq` says), or a list with an entry (or None) a step. Raises as `sback`, before the first step is
    taken off.
    """
    (newest,) = net._order.before_pop("backseq", 1) if is_device(ys) else (None,)
    steps = timesteps.steps(ys, "backseq", net._dtype, newest.result if newest else None)
    calls = net._order.before_pop("backseq", len(steps))
    columns = (calls[-1].batch,)
    masks = [None] * len(steps) if mask is None else timesteps.steps(mask, "backseq: mask", net._dtype, columns)
    if len(masks) != len(steps):
        raise KnetShapeError(f"backseq: {len(steps)} steps of ygold and {len(masks)} of mask")
    targets = [
        net._target(c, y, None if y is None else loss, None if y is None else m)
        for c, y, m in zip(calls, steps, masks, strict=True)
    ]
    for run in timesteps.runs(calls):
        _backward(net, calls[run], targets[run])


def _backward(net: Model, calls: list[Call], targets: list[timesteps.Target]) -> None:
    """Goes back through steps of one variant, in one call where their targets can be one array."""
    assert net._engine.program is not None
    type_ = result_type(net._engine.program, calls[0].variant)
    whole = timesteps.joined_targets(calls, targets) if type_ is None or type_.batched else None
    if whole is not None and len(calls) > 1:
        net._engine.device().backward_sequence(*whole, len(calls))
        for _ in calls:
            net._order.went_back(pop=True)
        return
    for target in reversed(targets):
        net._engine.device().backward(*target, (), pop=True)
        net._order.went_back(pop=True)
