"""A list of prepared instructions as one Python function, so that a step costs little more than its NumPy calls.

Part of `prepare.Code`, which runs the list instruction by instruction until it is run again. The function makes the
same NumPy calls in the same order: values stand in local variables, what an operator decides by the shapes of its
arguments is decided once, and its statements (`OpDef.direct`) stand in the function itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.ops import registry

if TYPE_CHECKING:
    from knetc.runtime.prepare import Environment, Step

MOST_STEPS = 400
"""Longer lists stay as they are: Python takes its time to compile them, and their steps are as many calls anyhow."""

Shapes = tuple["tuple[int, ...] | None", ...]
"""The shapes of an instruction's arguments; None for a mask that was not given."""

_FUNCTIONS = {name: getattr(np, name) for name in ("add", "exp", "matmul", "maximum", "multiply")}


def function(steps: Sequence[Step], shapes: Sequence[Shapes]) -> Callable[[Environment], None]:
    """A function that does to an environment what the steps do, for arguments of these shapes."""
    gone = {name for step in steps for name in step.dead}
    variables: dict[str, str] = {}
    space: dict[str, Any] = dict(_FUNCTIONS)
    lines = ["def run(env):"]
    for k, (step, given) in enumerate(zip(steps, shapes, strict=True)):
        for name in step.args:
            if name not in variables:
                variables[name] = f"v{len(variables)}"
                lines.append(f"    {variables[name]} = env[{name!r}]")
        arguments = [variables[name] for name in step.args]
        place = variables[step.place] if step.place else "None"
        variables[step.out] = f"v{len(variables)}"
        text = _statements(k, step, given, variables[step.out], arguments, place, space)
        lines += [f"    {line}" for line in text.strip("\n").split("\n")]
        if step.out not in gone:
            lines.append(f"    env[{step.out!r}] = {variables[step.out]}")
        lines += [f"    del {variables[name]}" for name in step.dead]
    exec(compile("\n".join([*lines, "    return"]), "<a list of the interpreter>", "exec"), space)
    run: Callable[[Environment], None] = space["run"]
    return run


def _statements(
    k: int, step: Step, shapes: Shapes, result: str, arguments: Sequence[str], place: str, space: dict[str, Any]
) -> str:
    """One instruction, whose constants go into `space`."""
    op = registry()[step.op]
    names = {"result": result, "out": place, "out_t": "None" if place == "None" else f"{place}.T"}

    def constant(name: str, value: object) -> None:
        names[name] = f"{name}{k}"
        space[names[name]] = value

    constant("meaning", step.meaning)
    constant("ctx", step.context)
    direct = op.direct(step.context, tuple(s for s in shapes if s is not None)) if op.direct else None
    if direct:
        text, constants = direct
        for name, value in constants.items():
            constant(name, value)
        return text.format(**names, **dict(zip(op.args, arguments, strict=True)))
    call = "{result} = {meaning}(" + ", ".join(["{ctx}", *arguments]) + ")"
    return (call if place == "None" else "{ctx}.out = {out}\n" + call + "\n{ctx}.out = None").format(**names)
