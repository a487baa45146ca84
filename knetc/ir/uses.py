"""What the instructions of a program are for: which are needed, which serve inputs' gradients alone, who reads a value.

Used by the passes from `gradient` on, by the interpreter and by the plan.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush

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


def without_unused(variant: Variant) -> Variant:
    """The variant without the values that no effect, variable or backward program needs."""
    variant = replace(variant, backward=tuple(replace(b, body=live(b.body, {LOSS})) for b in variant.backward))
    roots = {value for _, value in variant.names} | {variant.result or ""} | read_back(variant)
    roots |= {i.out for i in variant.forward if i.op == "state"}  # by its reading a state variable is known
    return replace(variant, forward=live(variant.forward, roots))


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


def readers(body: Iterable[Instr]) -> dict[str, list[Instr]]:
    """The instructions that read each value, in order."""
    found: dict[str, list[Instr]] = {}
    for instr in body:
        for a in dict.fromkeys(instr.args):
            found.setdefault(a, []).append(instr)
    return found


def named(variant: Variant) -> set[str]:
    """The values that are read by name after a forward call: the model's value and the variables of its definition.

    Those of a definition that the model calls (`h/cell`) may have no memory of their own.
    """
    found = {value for name, value in variant.names if "/" not in name}
    return found if variant.result is None else found | {variant.result}


def way_through(instr: Instr) -> tuple[object, ...]:
    """What an operator with a reach goes through, and how: one way serves two operators only where it is the same."""
    return ops.registry()[instr.op].reach, instr.args, instr.attrs


def read_by_others(lists: Sequence[Sequence[Instr]]) -> list[set[str]]:
    """For each of several lists the values that the others read."""
    read = [{a for i in body for a in i.args} for body in lists]
    return [set().union(*(r for j, r in enumerate(read) if j != k)) for k in range(len(lists))]


def prologue(kernel: Sequence[Instr]) -> set[str]:
    """The values that a kernel computes anew wherever an operator with a reach reads them: no other reads those."""
    registry = ops.registry()
    found: set[str] = set()
    for instr in reversed(kernel):
        reads = [i for i in kernel if instr.out in i.args]
        if reads and all(registry[i.op].reach or i.out in found for i in reads):
            found.add(instr.out)
    return found


def in_order(body: Sequence[Instr]) -> tuple[Instr, ...] | None:
    """The instructions so that each value is computed before it is read; otherwise as near to their order as can be.

    None where they read each other's values in a circle.
    """
    own = {i.out: k for k, i in enumerate(body) if i.out}
    waits = [len({a for a in i.args if a in own}) for i in body]
    feeds: dict[str, list[int]] = {}
    for k, i in enumerate(body):
        for a in dict.fromkeys(i.args):
            feeds.setdefault(a, []).append(k)
    ready = [k for k, count in enumerate(waits) if not count]
    found = []
    while ready:
        instr = body[heappop(ready)]
        found.append(instr)
        for k in feeds.get(instr.out, ()) if instr.out else ():
            waits[k] -= 1
            if not waits[k]:
                heappush(ready, k)
    return tuple(found) if len(found) == len(body) else None
