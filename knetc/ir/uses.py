"""What the instructions of a program are for: which are needed, which serve inputs' gradients alone, who reads a value.

Used by the passes from `gradient` on, by the interpreter and by the plan.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from collections.abc import Set as AbstractSet

from knetc import ops
from knetc.errors import KnetInternalError
from knetc.ir.program import Backward, Instr, Variant
from knetc.record import replace

LOSS = "@loss"  # the name of the loss's value in a backward program


def live(body: Sequence[Instr], roots: AbstractSet[str]) -> tuple[Instr, ...]:
    """The instructions that are run for more than their value, and those that they or `roots` need."""
    registry = ops.registry()
    needed = set(roots)
    kept = []
    for instr in reversed(body):
        if instr.out in needed or not registry[instr.op].pure:
            needed.update(instr.args)
            kept.append(instr)
    return tuple(reversed(kept))


def without_inputs(backward: Backward, wanted: Container[int], roots: AbstractSet[str] = frozenset({LOSS})) -> Backward:
    """The backward program without the gradients of inputs other than `wanted`, and what only those need.

    `roots`: values that are kept though no effect needs them.
    """
    body = [i for i in backward.body if i.op != "dinput" or i.attr("index") in wanted]
    return replace(backward, body=live(body, roots))


def wanted(body: Sequence[Instr]) -> list[frozenset[int] | None]:
    """For each instruction, the inputs whose gradients alone it serves: none where it serves nothing at all.

    None where it serves a parameter's gradient or the loss's value.
    """
    serves: dict[str, frozenset[int] | None] = {}
    found: list[frozenset[int] | None] = []
    for instr in reversed(body):
        need = serves.get(instr.out, frozenset())
        if instr.op == "dinput":
            need = frozenset({input_index(instr)})
        elif not instr.out or instr.out == LOSS:
            need = None
        found.append(need)
        for a in instr.args:
            before = serves.get(a, frozenset())
            serves[a] = None if need is None or before is None else before | need
    return found[::-1]


def input_index(instr: Instr) -> int:
    """The number of the input that a `dinput` is about."""
    index = instr.attr("index")
    if not isinstance(index, int):
        raise KnetInternalError(f"dinput of index {index!r}")
    return index


def read_back(variant: Variant) -> set[str]:
    """The values that some backward program of the variant reads."""
    return {arg for b in variant.backward for i in b.body for arg in i.args}
