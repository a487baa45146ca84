"""How much memory a plan takes: with its buffers shared, without, and the least that there could be.

After `ir.planner` and `ir.memory`. The least is the largest set of values that are live at once, which is worked out
here from the last unit to the first. Counted without running averages, and without the workspaces of libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

from knetc.ir.lifetimes import may_share, one_each
from knetc.ir.plan import ELEMENT_BYTES, SHARING, BackwardPlan, Buffer, PhasePlan, Plan, Unit, VariantPlan, flat
from knetc.ir.sequence_plan import of_all_steps


def kept_bytes(plan: Plan, batch: int) -> int:
    """What lives as long as the model, whatever runs: parameters, gradients, constants, state."""
    return sum(b.bytes(batch) for b in plan.buffers if b.kind not in SHARING)


def peak_bytes(plan: Plan, batch: int) -> int:
    """What a forward call and its backward pass take for `batch` columns."""
    if plan.arena is None:
        return unshared_bytes(plan, batch)
    frame = step_bytes(plan, batch) if plan.arena.apart else 0
    return kept_bytes(plan, batch) + frame + plan.arena.elements(batch) * ELEMENT_BYTES[plan.program.dtype]


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
    """What each further step of a sequence that runs at once takes: its part of the frame, and of what has all steps'
    columns. 0 where sequences go step by step.
    """
    if all(v.phases is None for v in plan.variants):
        return 0
    if plan.arena is None:
        return step_bytes(plan, batch) + sum(b.bytes(batch) for b in of_all_steps(plan) - plan.framed)
    later = max((end.later for end in plan.arena.sequence_ends), default=0)
    return step_bytes(plan, batch) + batch * later * ELEMENT_BYTES[plan.program.dtype]


def whole_bound_bytes(plan: Plan, batch: int) -> int:
    """The same at the least: the frame, and the largest set of other arrays of all steps that are live at once."""
    least = 0
    for v in plan.variants:
        desired = {x for b in v.backward if b.phases is not None for x in _gold(b)}
        lists = ((v.phases, desired), *((b.phases, set[Buffer]()) for b in v.backward))
        least = max([least, *(_least_of_sequence(plan, x, after, batch) for x, after in lists if x is not None)])
    return step_bytes(plan, batch) + least if whole_bytes(plan, batch) else 0


# --- what is live at once ---------------------------------------------------------------------------------------------


def _least(plan: Plan, variant: VariantPlan, batch: int) -> int:
    """The bytes of the largest set of buffers in the arena that are live at once."""
    lists = [(variant.forward, _after_forward(plan, variant))]
    lists += [(variant.forward, lists[0][1] | _gold(b)) for b in variant.backward]
    lists += [(b.steps, _after_backward(plan, variant, b)) for b in variant.backward]
    most = 0
    for units, after in lists:
        most = max(most, _most(units, after, batch)[0])
    return most


def _least_of_sequence(plan: Plan, phases: PhasePlan, after: AbstractSet[Buffer], batch: int) -> int:
    """For each step, the bytes of the largest set that is live at once of what has the columns of all steps, outside of
    frames; nothing of that is left to a user, and `after` to the list that comes next.

    Arrays count as a whole: what the loop touches is live from its beginning to its end, but for what it writes not
    before it.
    """
    whole = (phases.of_all_steps | after) - plan.framed
    late, live = _most(phases.after, after - plan.framed, batch, whole)
    looped = live | (whole & {b.root for s in flat(phases.loop) for b in (*s.args, s.out)})
    written = {s.out.root for s in flat(phases.loop)}
    early, _ = _most(phases.before, looped - written, batch, whole)
    return max(late, sum(b.bytes(batch) for b in looped), early)


def _most(
    units: Sequence[Unit], after: AbstractSet[Buffer], batch: int, among: AbstractSet[Buffer] | None = None
) -> tuple[int, set[Buffer]]:
    """The bytes of the largest set that is live at once, and what is live before the units; of `among` alone."""
    now = most = 0
    live: set[Buffer] = set()
    for born, buffer in _changes(units, after, among):
        now += buffer.bytes(batch) if born else -buffer.bytes(batch)
        most = max(most, now)
        (live.add if born else live.discard)(buffer)
    return most, live


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


def _changes(
    units: Sequence[Unit], after: AbstractSet[Buffer], among: AbstractSet[Buffer] | None
) -> Iterator[tuple[bool, Buffer]]:
    """From the last unit to the first, what becomes live (True) and what ceases to be (False); of `among` alone.

    While a unit runs, what it reads, what it writes and what it leaves alone are live at once. But of a result and an
    argument whose place it may take the one is live before the unit, the other after it.
    """

    def counts(b: Buffer) -> bool:
        return b.kind in SHARING and (among is None or b in among)

    live = set(filter(counts, after))
    yield from ((True, b) for b in live)
    first = {s.out.root: k for k in range(len(units) - 1, -1, -1) for s in flat([units[k]])}
    for k in range(len(units) - 1, -1, -1):
        steps = list(flat([units[k]]))
        outs = [b for b in dict.fromkeys(s.out.root for s in steps) if counts(b)]
        outside = dict.fromkeys(a.root for s in steps for a in s.args if first.get(a.root) != k)
        reads = [b for b in outside if counts(b)]
        dying = {b for b in reads if b not in live and b.kind != "input"}
        pairs = [(out, a) for out, a in may_share(units[k]) if a in dying and counts(out) and first[out] == k]
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
