"""How much work a function is, for the choice of how many threads run it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from knetc.ir.plan import Step, Unit, flat
from knetc.ops.base import Elementwise, registry


class Work(NamedTuple):
    """Operations, about: for each column, and whatever the batch."""

    column: int
    fixed: int


def work(units: Iterable[Unit]) -> Work:
    """The work of all units."""
    column = fixed = 0
    for step in flat(units):
        batched = any(b.type.batched for b in (*step.args, step.out))
        operations = _operations(step)
        column += operations if batched else 0
        fixed += 0 if batched else operations
    return Work(column, fixed)


def _operations(step: Step) -> int:
    sizes = [b.type.column for b in (*step.args, step.out)]
    if step.instr.op == "dot":  # of (m,k), (k,n), (m,n), their product is the square of what is multiplied and added
        return 2 * math.isqrt(math.prod(sizes))
    if step.instr.op.startswith("conv"):
        return 2 * _multiplications(step)
    return max(sizes) * (2 if isinstance(registry()[step.instr.op].cuda, Elementwise) else 8)


def _multiplications(step: Step) -> int:
    """Those of a convolution for one image: each element of a channel of the result meets the channel's filter."""
    arrays = (*step.args, step.out)
    w = next((b for b in arrays if not b.type.batched), arrays[0])
    images = [b for b in arrays if b is not w]
    y = next((b for b in images if b.type.dims[-2] == w.type.dims[-1]), images[0])
    outputs = y.type.dims[-2]
    assert isinstance(outputs, int)
    return y.type.column // outputs * w.type.column
