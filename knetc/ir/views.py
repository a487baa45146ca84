"""Which values are rows of others: views within a block instead of memory and copies of their own.

Part of `ir.planner`: what is said here of one list of instructions, it turns into buffers. The parts of a `stack` are
written into the block by whatever computes them, `rows` are read where they stand, if the code of all who read and
write them can do with columns that lie apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from knetc import ops
from knetc.ir.program import Instr, Program
from knetc.record import Record


class Views(Record):
    """For one list: `parts`, values that are computed into a block, with the block and their first row in it; `rows`,
    results of `rows` that are views; `graded`, values all rows of which are gradients, of these parameters in order.
    """

    parts: Mapping[str, tuple[str, int]]
    rows: AbstractSet[str]
    graded: Mapping[str, tuple[str, ...]]


def views(
    body: Sequence[Instr], readers: Iterable[Instr], dense: AbstractSet[str], registers: AbstractSet[str]
) -> Views:
    """The views of a list. `readers`: the instructions that may read its values; `dense`: values that are read as they
    stand by others (the model's value); `registers`: those that have no memory.
    """
    made = {i.out: i for i in body if i.out}
    plain = set(dense) | {a for i in readers if not _apart(i) for a in i.args}
    rows = {i.out for i in body if i.op == "rows" and i.out not in plain}
    parts: dict[str, tuple[str, int]] = {}
    for stack in body:
        if stack.op != "stack" or not all(a in made for a in stack.args):
            continue
        first = 0
        for part in [made[a] for a in stack.args]:
            # A value stands in one block at most, and in none where others read it as it stands.
            if _apart(part) and part.op != "rows" and part.out not in parts and part.out not in plain | registers:
                parts[part.out] = (stack.out, first)
            first += height(part)
    return Views(parts, rows, _graded(body, rows, parts))


def _graded(
    body: Sequence[Instr], rows: AbstractSet[str], parts: Mapping[str, tuple[str, int]]
) -> dict[str, tuple[str, ...]]:
    """The values all rows of which are gradients of parameters."""
    params = {i.args[0]: str(i.attr("param")) for i in body if i.op == "dpar"}
    cuts: dict[str, list[Instr]] = {}
    for i in body:
        if i.op == "rows":
            cuts.setdefault(i.args[0], []).append(i)
    found = {}
    for i in body:
        mine = sorted(cuts.get(i.out, ()), key=lambda r: _first(r)) if i.out and i.out not in parts else []
        whole = [_first(r) for r in mine] == _starts(mine) and sum(map(height, mine)) == (height(i) if mine else -1)
        if whole and all(r.out in params and r.out in rows for r in mine):
            found[i.out] = tuple(params[r.out] for r in mine)
    return found


def _starts(parts: Sequence[Instr]) -> list[int]:
    starts = [0]
    for p in parts:
        starts.append(starts[-1] + height(p))
    return starts[: len(parts)]


def height(instr: Instr) -> int:
    """The rows of an instruction's result."""
    rows = instr.type.dims[0] if instr.type and instr.type.dims else 1
    return rows if isinstance(rows, int) else 1


def _first(rows: Instr) -> int:
    first = rows.attr("first")
    assert isinstance(first, int)
    return first


def _apart(instr: Instr) -> bool:
    """Whether the code of an instruction can read and write columns that lie apart in memory."""
    return ops.registry()[instr.op].apart


def parameter_blocks(program: Program) -> dict[tuple[str, ...], Instr]:
    """The blocks of parameters, by what stands in them, each with a `stack` that makes it."""
    pars = program.params()
    found: dict[tuple[str, ...], Instr] = {}
    for variant in program.variants:
        for i in variant.forward:
            if i.op == "stack" and all(a in pars for a in i.args):
                found.setdefault(i.args, i)
    return found
