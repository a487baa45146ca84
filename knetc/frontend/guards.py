"""Conditions of `if` as guards: what is known at compile time is decided here, the rest tests global conditions.

Used by `inline.py`. A name that is neither a parameter nor a variable nor a constant of the file is a condition of the
run, which `forw` sets ("Conditions" of docs/language.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from knetc.errors import KnetTypeError
from knetc.frontend import ast
from knetc.frontend.consteval import evaluate
from knetc.frontend.scope import Scope
from knetc.ir.program import NEVER, Guard, guard_not
from knetc.values import show


def condition(expr: ast.Expr, scope: Scope, found: set[str]) -> Guard | bool:
    """A condition as a guard, or its value where it is known at compile time; conditions tested are added to `found`.

    Raises KnetTypeError where it is neither.
    """
    if isinstance(expr, ast.Unary) and expr.op == "!":
        inner = condition(expr.operand, scope, found)
        return not inner if isinstance(inner, bool) else guard_not(inner)
    if isinstance(expr, ast.Logic):
        return _logic(expr, scope, found)
    if isinstance(expr, ast.Name) and not scope.is_known(expr.name):
        found.add(expr.name)
        return Guard("cond", (expr.name,))
    if isinstance(expr, ast.Name) and scope.is_array(expr.name):
        raise KnetTypeError(
            f"'{expr.name}' is an array; 'if' tests conditions of the run, which are no variables", expr.span
        )
    value = evaluate(expr, scope.constant)
    if not isinstance(value, bool):
        raise KnetTypeError(f"'if' wants true or false, not {show(value)}", expr.span)
    return value


def _logic(expr: ast.Logic, scope: Scope, found: set[str]) -> Guard | bool:
    stop = expr.op == "||"
    parts: dict[Guard, None] = {}  # in order, without repetition
    for operand in expr.operands:
        part = condition(operand, scope, found)
        if part is stop:
            return stop
        if isinstance(part, Guard):
            parts[part] = None
    return _joined("or" if stop else "and", list(parts)) if parts else not stop


def any_of(guards: Sequence[Guard]) -> Guard:
    """Holds where one of the guards holds; NEVER where there is none."""
    return _joined("or", list(dict.fromkeys(guards))) if guards else NEVER


def _joined(op: str, guards: list[Guard]) -> Guard:
    return guards[0] if len(guards) == 1 else Guard(op, tuple(guards))
