"""Which values a loop over time hands from step to step without a copy of each: state, and its gradient.

Before: `ir.sequence_plan`, in whose loops a step begins by taking what the step before has kept (`state`; on the way
back `dstate`) and ends by keeping (`keep`, `dkeep`). After: `ir.lifetimes`, for which such values are needed at every
step's beginning and end, and `codegen.carried`, which lets a step read a value where another has written it.
"""

from __future__ import annotations

from collections.abc import Iterator

from knetc.ir.plan import Buffer, PhasePlan, Step, flat

_FORWARD, _BACK = ("state", "keep"), ("dstate", "dkeep")


def pairs(phases: PhasePlan, back: bool) -> Iterator[tuple[Step, Step]]:
    """For each variable the step that takes it and the one that keeps it, where both are about arrays that have the
    columns of the batch, are no rows of others, and of which the loop computes what is kept. What two variables keep is
    carried for one of them.
    """
    ops = _BACK if back else _FORWARD
    loop = list(flat(phases.loop))
    moves = {op: [s for s in loop if s.instr.op == op] for op in ops}
    made = {s.out.root for s in loop if s.instr.op not in ops}
    carried: set[Buffer] = set()
    taken, kept = ({s.instr.attr("var"): s for s in moves[op]} for op in ops)
    for var, take in taken.items():
        keep = kept.get(var)
        if keep is None or take.wanted is not None or keep.wanted is not None:
            continue
        p, v = take.out, keep.args[0]
        own = all(b.base is None and b.kind == "value" and b.type.batched for b in (p, v))
        if own and p.type == v.type and v in made and v not in carried:
            carried.add(v)
            yield take, keep


def lasting(phases: PhasePlan, back: bool) -> set[Buffer]:
    """The arrays with the columns of one step that are needed from one step to the next."""
    found: set[Buffer] = set()
    for take, keep in pairs(phases, back):
        two = {take.out, keep.args[0]} - set(phases.whole)
        if len(two) == 2:
            found |= two  # they change places after every step
        elif back:
            found |= two - {keep.args[0]}  # what comes from outside is read at the first step
    return found
