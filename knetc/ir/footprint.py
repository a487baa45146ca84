"""How much memory a plan takes: with its buffers shared, without, and the least that there could be.

After `ir.planner` and `ir.memory`. The least is the largest set of values that are live at once, which is worked out
here from the last unit to the first. Counted without running averages, and without the workspaces of libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from knetc.ir.lifetimes import SHARING, may_share, one_each
from knetc.ir.plan import ELEMENT_BYTES, BackwardPlan, Buffer, Plan, Unit, VariantPlan, flat
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
    return kept_bytes(plan, batch) + max((_least(plan, v, batch) for v in plan.variants), default=0)


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


# --- what is live at once ---------------------------------------------------------------------------------------------


def _least(plan: Plan, variant: VariantPlan, batch: int) -> int:
    """The bytes of the largest set of buffers in the arena that are live at once."""
    lists = [(variant.forward, _after_forward(plan, variant))]
    lists += [(variant.forward, lists[0][1] | _gold(b)) for b in variant.backward]
    lists += [(b.steps, _after_backward(plan, variant, b)) for b in variant.backward]
    most = 0
    for units, after in lists:
        now = 0
        for born, buffer in _changes(units, after):
            now += buffer.bytes(batch) if born else -buffer.bytes(batch)
            most = max(most, now)
    return most


def _after_forward(plan: Plan, variant: VariantPlan) -> set[Buffer]:
    """What must be there after the forward list: named values, the result, and what a backward list reads."""
    found = {b.root for _, b in variant.names} | set(variant.frame) | set(plan.inputs)
    return found | ({variant.result.root} if variant.result is not None else set())


def _gold(backward: BackwardPlan) -> set[Buffer]:
    """The desired output of a backward list, which a training step is given before its forward list runs."""
    read = (a for s in flat(backward.steps) for a in s.args)
    return {b.root for b in (*read, *(at for _, at in backward.inputs)) if b.root.kind == "gold"}


def _after_backward(plan: Plan, variant: VariantPlan, backward: BackwardPlan) -> set[Buffer]:
    """What must be there after a backward list: named values and inputs' gradients; without state the inputs, so that
    the forward call can be repeated, and with state all that another backward list might read.
    """
    found = {b.root for _, b in variant.names} | {b.root for _, b in backward.inputs} | set(plan.inputs)
    return found | _after_forward(plan, variant) if plan.states else found


def _changes(units: Sequence[Unit], after: AbstractSet[Buffer]) -> Iterator[tuple[bool, Buffer]]:
    """From the last unit to the first, what becomes live (True) and what ceases to be (False).

    While a unit runs, what it reads, what it writes and what it leaves alone are live at once. But of a result and an
    argument whose place it may take the one is live before the unit, the other after it.
    """
    live = {b for b in after if b.kind in SHARING}
    yield from ((True, b) for b in live)
    first = {s.out.root: k for k in range(len(units) - 1, -1, -1) for s in flat([units[k]])}
    for k in range(len(units) - 1, -1, -1):
        steps = list(flat([units[k]]))
        outs = [b for b in dict.fromkeys(s.out.root for s in steps) if b.kind in SHARING]
        outside = dict.fromkeys(a.root for s in steps for a in s.args if first.get(a.root) != k)
        reads = [b for b in outside if b.kind in SHARING]
        dying = {b for b in reads if b not in live and b.kind != "input"}
        pairs = [(out, a) for out, a in may_share(units[k]) if a in dying and first[out] == k]
        late = {a for _, a in one_each(pairs)}
        for b in (*outs, *(r for r in reads if r not in late)):
            if b not in live:
                live.add(b)
                yield True, b
        for b in outs:
            if first[b] == k:
                live.discard(b)
                yield False, b
        live.update(late)
        yield from ((True, b) for b in late)
