"""A list of prepared instructions as one Python function, so that a step costs little more than its NumPy calls.

Part of `prepare.Code`, which runs the list instruction by instruction until it is run again. The function has the same
NumPy calls in the same order: values stand in local variables, and what an operator decides by the shapes of its
arguments (`OpDef.direct`) is decided once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from knetc.ops import registry

if TYPE_CHECKING:
    from knetc.runtime.prepare import Environment, Step

MOST_STEPS = 400
"""Longer lists stay as they are: Python takes its time to compile them, and their steps are as many calls anyhow."""

Shapes = tuple["tuple[int, ...] | None", ...]
"""The shapes of an instruction's arguments; None for a mask that was not given."""


def function(steps: Sequence[Step], shapes: Sequence[Shapes]) -> Callable[[Environment], None]:
    """A function that does to an environment what the steps do, for arguments of these shapes."""
    gone = {name for step in steps for name in step.dead}
    variables: dict[str, str] = {}
    space: dict[str, Any] = {}
    lines = ["def run(env):"]
    for k, (step, given) in enumerate(zip(steps, shapes, strict=True)):
        for name in step.args:
            if name not in variables:
                variables[name] = f"v{len(variables)}"
                lines.append(f"    {variables[name]} = env[{name!r}]")
        arguments = [variables[name] for name in step.args]
        place = variables[step.place] if step.place else "None"
        variables[step.out] = f"v{len(variables)}"
        lines += _call(k, step, given, variables[step.out], arguments, place, space)
        if step.out not in gone:
            lines.append(f"    env[{step.out!r}] = {variables[step.out]}")
        lines += [f"    del {variables[name]}" for name in step.dead]
    exec(compile("\n".join([*lines, "    return"]), "<a list of the interpreter>", "exec"), space)
    run: Callable[[Environment], None] = space["run"]
    return run


def _call(
    k: int, step: Step, shapes: Shapes, out: str, arguments: Sequence[str], place: str, space: dict[str, Any]
) -> list[str]:
    """The lines of one instruction, whose functions go into `space`."""
    find, known = registry()[step.op].direct, tuple(s for s in shapes if s is not None)
    direct = find(step.context, known) if find and len(known) == len(shapes) else None
    if direct:
        space[f"f{k}"] = direct
        return [f"    {out} = f{k}({', '.join([place, *arguments])})"]
    space[f"f{k}"], space[f"c{k}"] = step.meaning, step.context
    call = f"    {out} = f{k}({', '.join([f'c{k}', *arguments])})"
    return [call] if place == "None" else [f"    c{k}.out = {place}", call, f"    c{k}.out = None"]
