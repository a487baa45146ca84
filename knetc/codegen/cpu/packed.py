"""Matrices laid out for the loop over time, as its products read them: `knet_packed.h`.

Before: the plan, whose loops multiply by the same matrices at every step, and `codegen.cpu.products`, whose products by
columns these are. After: `codegen.cpu.functions`, which lays the matrices out before the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import knetc.ops  # noqa: F401  (fills the registry)
from knetc.codegen.library import matrix
from knetc.ir.plan import Buffer, PhasePlan, Plan, Step, flat
from knetc.ir.types import Type
from knetc.ops.base import Library, registry

# Elements from which a matrix is worth it: a product of less is as fast where it stands.
_LEAST = 1 << 14
# The rows of the widest vector: what rows are filled up to.
_LANES = 16
DEPTH, COLUMNS = 512, 96
"""How much of what is summed over is multiplied at a time, and how many columns: both stay in the second cache."""

Key: TypeAlias = "tuple[Buffer, bool]"
"""A matrix, and whether it is transposed."""


def packed_matrices(plan: Plan) -> dict[Key, Buffer]:
    """The matrices that loops over time multiply by, with the memory that each is laid out in."""
    lists = (x for v in plan.variants for x in (v.phases, *(b.phases for b in v.backward)) if x is not None)
    steps = (step for phases in lists for step in products_of(phases))
    return {key(step): _memory(step, plan.program.dtype) for step in steps}


def products_of(phases: PhasePlan) -> Iterator[Step]:
    """The products of a loop over time whose first operand is the same at every step, and large."""
    written = {s.out.root for s in flat(phases.loop)}
    for step in flat(phases.loop):
        cuda = registry()[step.instr.op].cuda
        if isinstance(cuda, Library) and cuda.call == "gemm" and by_columns(step):
            a, b = step.args
            if a.root not in written and b.kind != "input" and a.type.column >= _LEAST:
                yield step


def by_columns(step: Step) -> bool:
    """Whether a product has the columns of the batch, each from the same one of the second operand."""
    a, b = step.args
    return b.type.batched and not a.type.batched and step.out.type.batched and not step.instr.attr("tb")


def key(step: Step) -> Key:
    """What a product's first operand is known by."""
    return step.args[0], bool(step.instr.attr("ta"))


def _memory(step: Step, dtype: str) -> Buffer:
    a, ta = key(step)
    rows, columns = map(int, matrix(a.type.dims))
    m, k = (columns, rows) if ta else (rows, columns)
    name = f"packed {a.name} transposed" if ta else f"packed {a.name}"
    return Buffer(name, "packed", Type(dtype, (-(-m // _LANES) * _LANES, k)))
