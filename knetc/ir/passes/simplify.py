"""Simplification that keeps every value to the bit: equal values, copies, identities, and what nothing needs.

`training` → `training`. What a Knet variable stands for after the call stays available. Does nothing at `-O0`. Comes
after `gradient`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from knetc import ops
from knetc.errors import KnetInternalError
from knetc.ir import uses
from knetc.ir.program import Backward, Instr, Program, Variant
from knetc.ir.types import Type
from knetc.ir.uses import LOSS
from knetc.options import Options
from knetc.record import replace

MOST_ROUNDS = 8


def run(program: Program, options: Options) -> Program:
    """The program simplified until nothing changes. Raises KnetInternalError where that does not come to an end."""
    if options.level == 0:
        return program
    inputs = {i.name: Type(program.dtype, tuple(d for d in i.dims or () if d is not None)) for i in program.inputs}
    return replace(program, variants=tuple(_to_the_end(v, inputs) for v in program.variants))


def _to_the_end(variant: Variant, inputs: Mapping[str, Type]) -> Variant:
    for _ in range(MOST_ROUNDS):
        simpler = uses.without_unused(_renamed(variant, inputs))
        if simpler == variant:
            return variant
        variant = simpler
    raise KnetInternalError(f"pass 'simplify' does not come to an end after {MOST_ROUNDS} rounds")


# --- equal values -----------------------------------------------------------------------------------------------------


class _Merger:
    """Goes through a list of instructions in order, each value replaced by the first that is equal to it."""

    def __init__(self, types: dict[str, Type | None], stands: dict[str, str], copies: AbstractSet[str]) -> None:
        self.types = types
        self.stands = stands
        self.copies = copies
        self.known: dict[object, str] = {}
        self.registry = ops.registry()

    def body(self, body: Iterable[Instr]) -> tuple[Instr, ...]:
        """The list without the values that equal an earlier one; `stands` gets what takes their place."""
        kept = []
        for instr in body:
            if any(a in self.stands for a in instr.args):
                instr = replace(instr, args=tuple(self.stands.get(a, a) for a in instr.args))
            same = self.same(instr)
            if same is not None:
                self.stands[instr.out] = same
                continue
            self.types[instr.out] = instr.type
            kept.append(instr)
        return tuple(kept)

    def same(self, instr: Instr) -> str | None:
        """The earlier value that is equal to the instruction's result."""
        op = self.registry[instr.op]
        if op.effect or not op.pure or instr.out == LOSS:
            return None
        if self.is_identity(instr):
            return None if instr.out in self.copies else instr.args[0]
        if instr.op in ("arr", "state", "dstate"):
            return None
        key = (instr.op, instr.args, instr.attrs, instr.type)
        first = self.known.setdefault(key, instr.out)
        return None if first == instr.out else first

    def is_identity(self, instr: Instr) -> bool:
        """Whether the result is the argument, to the bit."""
        if instr.op == "axpb":
            return tuple(instr.attr(k) for k in "apb") == (1, 1, 0)
        return instr.op in ("copy", "sumto") and self.types.get(instr.args[0]) == instr.type


def _renamed(variant: Variant, inputs: Mapping[str, Type]) -> Variant:
    """The variant with equal values merged."""
    forward = _Merger(dict(inputs), {}, _copies(variant, inputs))
    body = forward.body(variant.forward)
    stands = forward.stands
    backward = []
    for b in variant.backward:
        merger = _Merger(dict(forward.types), dict(stands), frozenset())
        backward.append(Backward(b.loss, merger.body(b.body)))
    names = tuple((name, stands.get(value, value)) for name, value in variant.names)
    result = None if variant.result is None else stands.get(variant.result, variant.result)
    return replace(variant, forward=body, result=result, names=names, backward=tuple(backward))


def _copies(variant: Variant, inputs: Mapping[str, Type]) -> set[str]:
    """Copies that a variable stands for, of arrays that are overwritten later: they must stay copies."""
    overwritten = set(inputs) | {i.out for i in variant.forward if i.op in ("par", "state")}
    named = {value for _, value in variant.names}
    return {i.out for i in variant.forward if i.out in named and not overwritten.isdisjoint(i.args)}
