"""Training on many minibatches in one call, where the back end has such a call: emitted code, and any among several
processes.

Called by `train.train`; the numbers are those of forw, back and update, one minibatch after
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from knetc.ir.passes.shapes import batch_inputs
from knetc.ir.program import Program
from knetc.runtime import check
from knetc.runtime.batches import DeviceColumns
from knetc.runtime.device import DeviceArray
from knetc.runtime.onehot import OneHot
from knetc.runtime.order import Call

if TYPE_CHECKING:
    from knetc.runtime.executable import Given
    from knetc.runtime.model import Model

Several: TypeAlias = Callable[[int, int, int], "list[float]"]
"""Trains on the columns from the first to before the second, in minibatches of the third; gives their losses."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """All columns of an input or of what is desired: an array, or the rows of the 1s of a one-hot matrix so high."""

    array: Any
    height: int
    dtype: np.dtype[Any]

    def part(self, start: int, stop: int, dense: bool) -> Any:
        """Some columns, where wanted as an array also of what is given by rows."""
        if isinstance(self.array, DeviceArray):
            return self.array.columns(start, stop)
        found = self.array[..., start:stop]
        return OneHot(found, self.height).dense(self.dtype) if dense and found.dtype != self.dtype else found


def several(
    net: Model, /, xs: Sequence[Any], y: Any, loss: str, gclip: float, conditions: Mapping[str, Any]
) -> Several | None:
    """What trains on many minibatches of the inputs `xs` and of y in one call; None where the back end or the model has
    no such call.

    The numbers are those of forw, back and update. Raises as these, before anything is trained.
    """
    engine = net._engine
    setting = check.setting(conditions, engine.lowered.conditions)
    if engine.recurrent or (engine.backend == "numpy" and net.ranks == 1) or not all(batch_inputs(engine.unsized)):
        return None
    *xs, y = (a.columns(0, a.shape[-1]) if isinstance(a, DeviceColumns) else a for a in (*xs, y))
    inputs, program = _inputs(net, xs)
    engine.confirm(program)
    type_ = engine.variants[setting][1]
    if type_ is None:
        return None
    rows = check.rows_or_gold(y, type_.concrete(y.shape[-1]), net._dtype)
    engine.can_take((rows,), "train")
    gold = _Columns(rows, type_.concrete(1)[0], net._dtype)
    device: Any = engine.device()
    if not device.trains:
        return None

    def train(start: int, stop: int, size: int) -> list[float]:
        dense = not device.takes_rows
        given = [x.part(start, stop, dense) for x in inputs]
        wanted = gold.part(start, stop, dense)
        losses: list[float] = device.train(setting, given, wanted, size, loss, net._options, gclip)
        last = start + (stop - start - 1) // size * size
        _went_through(net, setting, [x.part(last, stop, dense=True) for x in inputs])
        return losses

    return train


def _inputs(net: Model, xs: Sequence[Any]) -> tuple[list[_Columns], Program]:
    """The checked inputs, and the program that they fit. Raises as `forw`.

    One-hot inputs are checked by their first columns, so that their dense matrices are never made.
    """
    few = any(isinstance(x, OneHot) for x in xs)
    shown = [(x[..., :1] if isinstance(x, np.ndarray) else x.columns(0, 1)) if few else x for x in xs]
    arrays, _, program = net._inputs("train", shown)
    found = []
    for x, first, label, declared in zip(xs, arrays, net._labels, program.inputs, strict=True):
        whole: Any = first
        if isinstance(x, OneHot):
            whole = x.indices.astype(np.int32)
        elif few:
            whole = check.columns(x, label, net._dtype, declared.dims)
        found.append(_Columns(whole, int(first.shape[0]), net._dtype))
    return found, program


def _went_through(net: Model, setting: frozenset[str], last: list[Given]) -> None:
    """Takes note of minibatches that were trained in one call, of which `last` has the last one's inputs."""
    variant, type_ = net._engine.variants[setting]
    batch = int(last[0].shape[-1])
    net._given = [*last]
    shapes = tuple(x.shape for x in last)
    net._order.ran(Call(variant, type_.concrete(batch) if type_ else None, batch, shapes), push=False)
    net._order.went_back(pop=False)
    net._order.parameters_changed()
