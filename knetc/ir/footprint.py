"""How much memory a plan takes: with its buffers shared, without, and the least that there could be.

After `ir.planner` and `ir.memory`. Counted without running averages, and without the workspaces of libraries.
"""

from __future__ import annotations

from knetc.ir.lifetimes import SHARING
from knetc.ir.overlap import least
from knetc.ir.plan import ELEMENT_BYTES, Plan
from knetc.ir.sequence_plan import of_all_steps


def kept_bytes(plan: Plan, batch: int) -> int:
    """What lives as long as the model, whatever runs: parameters, gradients, constants, state."""
    return sum(b.bytes(batch) for b in plan.buffers if b.kind not in SHARING)


def peak_bytes(plan: Plan, batch: int) -> int:
    """What a forward call and its backward pass take for `batch` columns."""
    if plan.arena is None:
        return unshared_bytes(plan, batch)
    return kept_bytes(plan, batch) + plan.arena.elements(batch) * ELEMENT_BYTES[plan.program.dtype]


def unshared_bytes(plan: Plan, batch: int) -> int:
    """The same if every buffer had memory of its own."""
    return sum(b.bytes(batch) for b in plan.buffers)


def bound_bytes(plan: Plan, batch: int) -> int:
    """The largest set of buffers that are needed at once: no sharing could do with less."""
    return kept_bytes(plan, batch) + max((least(plan, v, batch) for v in plan.variants), default=0)


def step_bytes(plan: Plan, batch: int) -> int:
    """What each step of a sequence keeps for its backward pass: the largest frame of any variant."""
    return max((sum(b.bytes(batch) for b in v.frame) for v in plan.variants), default=0)


def whole_bytes(plan: Plan, batch: int) -> int:
    """What each step of a sequence that runs at once takes: its part of the frame, and of what has all steps' columns.

    0 where sequences go step by step.
    """
    if all(v.phases is None for v in plan.variants):
        return 0
    return step_bytes(plan, batch) + sum(b.bytes(batch) for b in of_all_steps(plan) - plan.framed)
