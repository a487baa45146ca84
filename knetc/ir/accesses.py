"""What a unit of a plan reads and writes in memory, how far from its own element, and in which order.

Part of `ir.replay`. The rules are those of the emitted kernels. What the code of an operator may do, its `OpDef.cuda`
says. An `Elementwise` reads each argument at the element that it writes. A `Piece` reads a window, or its column to the
end before the block writes any of it; what its kernel makes for it is computed anew there (`codegen.chain_text`). Any
other code may read everything until it ends. `ir.lifetimes` has a rule of its own for what may share memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from knetc.errors import KnetInternalError
from knetc.ir import uses
from knetc.ir.plan import Buffer, Kernel, Step, Unit
from knetc.ops import base, registry
from knetc.ops.base import Elementwise, Piece
from knetc.record import Record


class Read(Record):
    """A buffer that a unit reads and has not computed itself.

    `own`: whether an element is read by nothing but what computes the element of the same number; `last`: the number
    of the last step that reads it.
    """

    own: bool
    last: int


class Write(Record):
    """A buffer that a unit writes, and the number of the step that does."""

    out: Buffer
    step: int


def accesses(unit: Unit) -> tuple[dict[Buffer, Read], list[Write]]:
    """What a unit reads and writes. KnetInternalError for a kernel that reads a value before it has computed it."""
    steps = unit.steps if isinstance(unit, Kernel) else (unit,)
    outs = {s.out for s in steps}
    made: dict[Buffer, Step] = {}
    for s in steps:
        early = [a.name for a in s.args if (a in outs or a.kind == "register") and a not in made]
        if early:
            raise KnetInternalError(f"a kernel reads {early[0]} before it has computed it", s.instr.span)
        made[s.out] = s
    kinds = [registry()[s.instr.op].cuda for s in steps]
    # In a kernel of others a loss goes through the same elements, each before any of it is written.
    kinds = [k for k in kinds if len(kinds) == 1 or not (isinstance(k, base.Kernel) and k.term)]
    if all(isinstance(k, Elementwise) for k in kinds):
        anew: set[str] = set()
    elif all(isinstance(k, Elementwise | Piece) for k in kinds):
        anew = uses.prologue([s.instr for s in steps])
    else:
        far = {a: Read(False, len(steps)) for s in steps for a in s.args if a not in made}
        return far, _writes(steps, set())
    found: dict[Buffer, Read] = {}
    for k, s in enumerate(steps):
        for a, own in _of_step(s, made) if s.instr.out not in anew else ():
            found[a] = Read(own and found.get(a, Read(True, k)).own, k)
    return found, _writes(steps, anew)


def _of_step(step: Step, made: Mapping[Buffer, Step]) -> Iterator[tuple[Buffer, bool]]:
    """What a step that is computed for each element reads at that time, each with whether at its own place."""
    reach = registry()[step.instr.op].reach
    if not reach:
        yield from ((a, True) for a in step.args if a not in made)
        return
    waiting = list(step.args)
    while waiting:
        a = waiting.pop()
        if a in made:
            waiting += made[a].args
        else:
            yield a, reach == "column"


def _writes(steps: tuple[Step, ...], anew: set[str]) -> list[Write]:
    """What reaches memory: neither a register nor what is only computed anew where it is read."""
    return [Write(s.out, k) for k, s in enumerate(steps) if s.out.kind != "register" and s.instr.out not in anew]


def may_replace(read: Read, write: Write, buffer: Buffer) -> bool:
    """Whether a unit that reads `buffer` may write a result at the very same place.

    Each element must be read for the last time by what writes it: one type, elements that follow each other.
    """
    dense = buffer.base is None and write.out.base is None
    return dense and read.own and read.last <= write.step and buffer.type == write.out.type
