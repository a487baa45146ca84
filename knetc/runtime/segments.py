"""Training over time in one call, where the back end has such a call: emitted code of models with state.

Called by `train.train`; the numbers are those of forwseq, backseq and update, one segment after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.runtime import check
from knetc.runtime.onehot import OneHot
from knetc.runtime.timesteps import side_by_side
from knetc.runtime.variables import whole

if TYPE_CHECKING:
    from knetc.ir.program import Program
    from knetc.runtime.model import Model


@whole
def segments(
    net: Model, /, steps: Sequence[Any], loss: str, gclip: float, length: int, conditions: Mapping[str, Any]
) -> list[float] | None:
    """Trains over `steps`, each of which is what is desired of the one before, with an update after every `length`; the
    loss before each.

    The stack is empty, before and after. None, and nothing done, where the back end has no such call for these steps.
    Raises as `forwseq` and `backseq`, before anything is trained.
    """
    setting = check.setting(conditions, net._engine.lowered.conditions)
    if not _may_be(net):
        return None
    together = _together(steps)
    arrays, batch, program = _checked(net, steps[:1] if together else steps[:-1])
    net._engine.confirm(program)
    type_ = net._engine.variants[setting][1]
    device: Any = net._engine.device()
    if not device.trains_over_time or type_ is None:
        return None
    wanted = type_.concrete(batch)
    if not all(isinstance(a, np.ndarray) and a.shape == wanted for a in arrays):
        return None
    if together is None:
        arrays.append(check.gold(steps[-1], wanted, net._dtype))
    columns: Any = side_by_side(arrays) if together is None else together.dense(net._dtype)
    xs, gold = columns[..., :-batch], columns[..., batch:]
    losses: list[float] = device.train_over_time(setting, [xs], gold, batch, length, loss, net._options, gclip)
    net._ran("sforw", setting, [xs[..., -batch:].copy(order="F")], batch)
    net._order.went_back(pop=True)
    net._order.parameters_changed()
    net.reset(keepstate=True)
    return losses


def _may_be(net: Model) -> bool:
    """Whether there may be such a call, as far as can be told before the model has its sizes."""
    made: Any = net._engine.executable
    if net.ranks > 1 or not net._engine.recurrent or len(net._labels) != 1:
        return False
    return net._engine.backend != "numpy" and (made is None or made.trains_over_time)


def _together(steps: Sequence[Any]) -> OneHot | None:
    """Steps that are all one-hot as one matrix, so that they are made dense together; None for others."""
    first = steps[0]
    if not all(isinstance(x, OneHot) and x.shape == first.shape for x in steps):
        return None
    return OneHot(np.concatenate([x.indices for x in steps]), first.rows)


def _checked(net: Model, steps: Sequence[Any]) -> tuple[list[Any], int, Program]:
    """The checked input of each step, the columns of the first, and the program that it fits. Raises as `forwseq`."""
    arrays: list[Any] = []
    first = net._inputs("forwseq", (steps[0],))
    for x in steps[1:]:
        arrays += net._inputs("forwseq", (x,), first[2])[0]
    return [*first[0], *arrays], first[1], first[2]
