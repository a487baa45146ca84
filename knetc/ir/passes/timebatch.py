"""Time batching: what the state does not stand between is computed for all steps of a sequence at once.

`training` → `training`. A variant with state, and each of its backward lists, gets `phases`: the instructions before
the loop over time, those in it, those after it. Forward, what does not depend on the state comes before (the input
projections of a recurrent layer), what the state does not depend on comes after (the output layer). Backward likewise,
by the state's gradient; a weight's gradient is one product over all steps, and comes before or after. Outside the loop
a value has the columns of all steps side by side. Comes after `merge`, before `fuse`; at `-O2` alone, since sums over
the batch become sums over all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from knetc.ir import uses
from knetc.ir.program import GOLD, MASK, Backward, Instr, Phases, Program, Variant
from knetc.ir.types import N
from knetc.options import Options
from knetc.record import replace


def run(program: Program, options: Options) -> Program:
    """The program with the phases of its sequences, where it has state."""
    if options.level < 2 or not program.states():
        return program
    batched = all(i.dims is not None and i.dims[-1:] == (N,) for i in program.inputs)
    batched = batched and all(t is not None and t.batched for t in program.states().values())
    return replace(program, variants=tuple(_variant(v, program) for v in program.variants)) if batched else program


def _variant(variant: Variant, program: Program) -> Variant:
    moving = _moving(variant.forward, {i.name for i in program.inputs}, ("state", "rnd"))
    if not _columns_apart(variant.forward, moving):
        return variant
    backward = tuple(_backward(b, moving) for b in variant.backward)
    return replace(variant, phases=_phases(variant.forward, "state", "keep"), backward=backward)


def _moving(body: Sequence[Instr], sources: AbstractSet[str], operators: Sequence[str]) -> set[str]:
    """The values that may differ from step to step: those that depend on `sources` or are results of `operators`."""
    found = set(sources)
    for i in body:
        if i.op in operators or not found.isdisjoint(i.args):
            found.add(i.out)
    return found


def _columns_apart(body: Sequence[Instr], moving: AbstractSet[str]) -> bool:
    """Whether every value that moves has the batch, so that the steps' columns can stand side by side."""
    for i in body:
        if i.out in moving and i.out and not (i.type and i.type.batched):
            return False
        if i.op == "dot" and i.args[0] in moving:
            return False
    return True


# --- the way back -----------------------------------------------------------------------------------------------------


def _backward(backward: Backward, forward: AbstractSet[str]) -> Backward:
    """`forward`: the values of the forward list that move. Inputs' gradients are not asked for in a whole sequence."""
    body = uses.without_inputs(backward, ()).body
    if not _sums_are_linear(body, forward):
        return backward
    return replace(backward, phases=_phases(body, "dstate", "dkeep"))


def _sums_are_linear(body: Sequence[Instr], forward: AbstractSet[str]) -> bool:
    """Whether what is summed over the batch is only used where the sum over all steps can take its place."""
    moving = _moving(body, forward | {GOLD, MASK}, ("dstate",))
    summed = {i.out for i in body if i.out in moving and i.type and not i.type.batched}
    return all(_is_linear(i, summed, moving) for i in body if i.out and not summed.isdisjoint(i.args))


def _is_linear(instr: Instr, summed: AbstractSet[str], moving: AbstractSet[str]) -> bool:
    """Whether an instruction is linear in the sums that it reads, and the same at every step otherwise."""
    mine = [a for a in instr.args if a in summed]
    others = [a for a in instr.args if a not in summed]
    if instr.op in ("add", "stack"):
        linear = not others
    elif instr.op in ("dot", "mul"):
        linear = len(mine) == 1 and moving.isdisjoint(others)
    elif instr.op == "axpb":
        linear = instr.attr("p") == 1 and instr.attr("b") == 0
    else:
        linear = instr.op in ("sumto", "rows", "copy")
    return linear and instr.type is not None and not instr.type.batched


# --- phases -----------------------------------------------------------------------------------------------------------


def _phases(body: Sequence[Instr], source: str, sink: str) -> Phases:
    """Splits a list: `source` reads what flows from step to step (`state`), `sink` hands it on (`keep`)."""
    late = _moving(body, frozenset(), (source,)) - {""}  # what depends on an earlier step
    flowing: set[str] = set()  # what a later step depends on
    loop: set[int] = set()
    for k in range(len(body) - 1, -1, -1):
        i = body[k]
        if i.op in (source, sink) or (i.out in flowing and i.out in late):
            loop.add(k)
            flowing.update(i.args)
    rest = [(i, not late.isdisjoint((i.out, *i.args))) for k, i in enumerate(body) if k not in loop]
    return Phases(
        before=tuple(i for i, after in rest if not after),
        loop=tuple(body[k] for k in sorted(loop)),
        after=tuple(i for i, after in rest if after),
    )
