"""The functions of the emitted file that run a whole sequence, forward or back, around its loop over time.

Before: `ir.sequence_plan`, whose lists these run. After: `codegen.functions`, which puts them beside the functions of
single steps. They have the same parameters as those, so that a call only chooses between the two.

The columns of a step begin where those of the step before end, which may be at any element: the products before and
after the loop need all columns side by side, so there is no room for an alignment. None is needed. Kernels load single
elements; cuBLASLt chooses by the alignment that there is (`knet_alignment`); cuBLAS takes any; cuDNN asks for 4 bytes
(release notes of 7.6.0: "require at a minimum 4-byte alignment"), and is only faster from 16 on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from knetc.codegen import buckets
from knetc.codegen.carried import carried
from knetc.codegen.lines import bucket_lines, declared, unit_lines, unreached
from knetc.codegen.spec import Module, Part
from knetc.errors import KnetLimitation
from knetc.ir.plan import BackwardPlan, Buffer, PhasePlan

_BEFORE = "// Before the loop over time: the columns of all steps at once."
_AFTER = "// After the loop: again all steps at once."
_FORWARD = "for (int step = 0; step < m->steps; step++) {"
_BACK = "for (int step = m->steps - 1; step >= 0; step--) {"
_CUDNN = re.compile(r"&m->(conv|pool)\[")


def sequence_lines(
    module: Module, phases: PhasePlan | None, back: BackwardPlan | None = None, read: Collection[Buffer] = ()
) -> list[str]:
    """The lines of the function that runs a list over a whole sequence; none where that goes step by step. `read`: the
    values that can be read by name after it.
    """
    if phases is None:
        return []
    hands = carried(module, phases, back is not None, read)
    whole, step = module.about(Part("all")), module.about(Part("step", frozenset(phases.whole), hands.names))
    early, late = phases.before, phases.after
    looped = len(early) + len(phases.loop)
    final = buckets.final(module.plan, (*early, *phases.loop, *late)) if back is not None else {}
    last = final.pop(looped + len(late), ())
    summed = [bucket for at in range(len(early) + 1, looped + 1) for bucket in final.get(at, ())]
    try:
        before = list(unit_lines(whole, early, {at: final[at] for at in final if at <= len(early)}))
        loop = list(unit_lines(step, [u for u in phases.loop if id(u) not in hands.left_out]))
        after = [*bucket_lines(summed), *unit_lines(whole, late, {at - looped: final[at] for at in final})]
    except KnetLimitation:  # of kernels that are fused otherwise than those of a step
        return []
    after += [*(unreached(module, back) if back is not None else ()), *bucket_lines(last)]
    head = _FORWARD if back is None else _BACK
    around = [*hands.before, *_block(head, [*hands.top, *loop, *hands.end]), *hands.after]
    return [*_block("{", before, _BEFORE), *around, *_block("{", after, _AFTER)]


def _block(head: str, lines: Sequence[str], comment: str = "") -> Iterator[str]:
    """A block with what its lines use declared; nothing where there are no lines."""
    if not lines:
        return
    yield from [comment] if comment else []
    yield head
    yield from (f"  {line}" for line in declared(lines, "m->batch * m->steps" if comment else "m->batch"))
    if any(_CUDNN.search(line) for line in lines):
        yield f"  TRY(describe(m, {'m->batch * m->steps' if comment else 'm->batch'}));"
    yield from (f"  {line}" for line in lines)
    yield "}"
