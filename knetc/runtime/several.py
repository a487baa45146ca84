"""Training on many minibatches in one call, where the back end has such a call: emitted code, and any among several
processes.

Called by `train.train`; the numbers are those of forw, back and update, one minibatch after
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

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


def several(net: Model, /, x: Any, y: Any, loss: str, gclip: float, conditions: Mapping[str, Any]) -> Several | None:
    """What trains on many minibatches of (x, y) in one call; None where the back end or the model has no such call.

    The numbers are those of forw, back and update. Raises as these, before anything is trained.
    """
    setting = check.setting(conditions, net._engine.lowered.conditions)
    if net._engine.recurrent or len(net._labels) != 1 or (net._engine.backend == "numpy" and net.ranks == 1):
        return None
    x, y = (a.columns(0, a.shape[-1]) if isinstance(a, DeviceColumns) else a for a in (x, y))
    # A one-hot input is checked by its first column, so that its dense matrix is never made.
    rows = x.indices.astype(np.int32) if isinstance(x, OneHot) else None
    (array,), columns, program = net._inputs("train", (x if rows is None else x.columns(0, 1),))
    net._engine.confirm(program)
    type_ = net._engine.variants[setting][1]
    if type_ is None:
        return None
    whole: Any = array if rows is None else rows
    columns = columns if rows is None else len(rows)
    gold = check.rows_or_gold(y, type_.concrete(columns), net._dtype)
    net._engine.can_take((gold,), "train")
    device: Any = net._engine.device()
    if not device.trains:
        return None

    def part(all_columns: Any, height: Any, start: int, stop: int, dense: bool) -> Any:
        """Some columns, where wanted as an array also of what is given by rows."""
        if isinstance(all_columns, DeviceArray):
            return all_columns.columns(start, stop)
        found = all_columns[..., start:stop]
        return found if found.dtype == net._dtype or not dense else OneHot(found, height).dense(net._dtype)

    def train(start: int, stop: int, size: int) -> list[float]:
        dense = not device.takes_rows
        given, wanted = part(whole, array.shape[0], start, stop, dense), part(gold, type_.dims[0], start, stop, dense)
        losses: list[float] = device.train(setting, [given], wanted, size, loss, net._options, gclip)
        last = start + (stop - start - 1) // size * size
        _went_through(net, setting, part(whole, array.shape[0], last, stop, dense=True))
        return losses

    return train


def _went_through(net: Model, setting: frozenset[str], last: Given) -> None:
    """Takes note of minibatches that were trained in one call, of which `last` is the last one's input."""
    variant, type_ = net._engine.variants[setting]
    batch = int(last.shape[-1])
    net._given = [last]
    net._order.ran(Call(variant, type_.concrete(batch) if type_ else None, batch, (last.shape,)), push=False)
    net._order.went_back(pop=False)
    net._order.parameters_changed()
