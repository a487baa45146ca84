"""Conditions: one straight-line list of instructions for each distinct setting of the condition variables.

`lowered` → `variants`. Settings that run the same instructions share a variant. Comes after lowering, before `state`.
"""

from __future__ import annotations

from collections.abc import Sequence

from knetc.errors import KnetLimitation
from knetc.ir.program import ALWAYS, Guard, Instr, Program, Variant
from knetc.options import Options
from knetc.record import replace

MOST_CONDITIONS = 12


def run(program: Program, options: Options) -> Program:
    """The program with a variant for each class of settings, in the order in which the settings count up in binary.

    Raises KnetLimitation for more than 12 conditions: there are 2^n settings.
    """
    count = len(program.conditions)
    if count > MOST_CONDITIONS:
        raise KnetLimitation(
            f"{program.name} tests {count} conditions ({', '.join(program.conditions)}); "
            f"at most {MOST_CONDITIONS} are handled, since every setting of them may be a program of its own"
        )
    forward = program.variants[0].forward
    guards, index = _guards(forward)
    classes: dict[tuple[bool, ...], list[frozenset[str]]] = {}
    for number in range(1 << count):
        setting = frozenset(c for bit, c in enumerate(program.conditions) if number >> bit & 1)
        classes.setdefault(tuple(g.holds(setting) for g in guards), []).append(setting)
    variants = tuple(Variant(tuple(settings), _body(forward, index, truth)) for truth, settings in classes.items())
    return replace(program, stage="variants", variants=variants)


def _guards(forward: Sequence[Instr]) -> tuple[list[Guard], list[int]]:
    """The distinct guards, and for each instruction the number of its own among them."""
    numbers: dict[Guard, int] = {}
    seen: dict[int, int] = {}  # by identity: guards are shared objects, and hashing one walks the whole tree
    index = []
    for instr in forward:
        key = id(instr.guard)
        if key not in seen:
            seen[key] = numbers.setdefault(instr.guard, len(numbers))
        index.append(seen[key])
    return list(numbers), index


def _body(forward: Sequence[Instr], index: Sequence[int], truth: Sequence[bool]) -> tuple[Instr, ...]:
    """The instructions whose guards hold, the guards taken off."""
    return tuple(
        i if i.guard is ALWAYS else replace(i, guard=ALWAYS) for i, n in zip(forward, index, strict=True) if truth[n]
    )
