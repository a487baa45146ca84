"""What Knet's operators mean for arrays: the table of "Expressions" in docs/language.md as primitive operators.

Used by `lower.py`. Each function takes operands of which at least one is an array, and writes instructions through an
`Emitter`.
"""

from __future__ import annotations

from typing import Protocol

from knetc.errors import KnetTypeError, Span
from knetc.frontend.scope import Nothing, Operand, Var
from knetc.values import Array, Value, show


class Emitter(Protocol):
    """Writes one instruction of a primitive; `target` None: into a temporary."""

    def __call__(self, op: str, args: tuple[str, ...], given: dict[str, Value], span: Span, target: str | None) -> Var:
        """The variable that holds the result."""


def unary(emit: Emitter, op: str, a: Var, span: Span, target: str | None) -> Operand:
    """`-a`, `+a`."""
    if op == "!":
        raise KnetTypeError("'!' wants true or false, not an array", span)
    return emit("axpb", (a.name,), {"a": -1}, span, target) if op == "-" else a


def binary(emit: Emitter, op: str, a: Operand, b: Operand, span: Span, b_span: Span, target: str | None) -> Operand:
    """`a op b` where one operand at least is an array; `b_span` is where b stands.

    Raises KnetTypeError where there is no such operation.
    """
    if isinstance(a, Var) and isinstance(b, Var):
        return _arrays(emit, op, a, b, span, b_span, target)
    if isinstance(a, Var):
        return _array_number(emit, op, a, _number(op, b, span), span, target)
    assert isinstance(b, Var)
    return _number_array(emit, op, _number(op, a, span), b, span, target)


def _number(op: str, value: Operand, span: Span) -> int | float:
    """A compile-time operand beside an array: a number."""
    assert not isinstance(value, Var | Nothing)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    advice = (
        "; an array of the model is made by par or arr, as in arr(init=[1.0,2.0])" if isinstance(value, Array) else ""
    )
    raise KnetTypeError(f"'{op}' of a run-time array and {show(value)} is not known{advice}", span)


_DIRECT = {"*": "dot", ".*": "mul", "+": "add", ".+": "add"}


def _arrays(emit: Emitter, op: str, a: Var, b: Var, span: Span, b_span: Span, target: str | None) -> Var:
    if op in _DIRECT:
        return emit(_DIRECT[op], (a.name, b.name), {}, span, target)
    if op in ("-", ".-"):
        return emit("add", (a.name, emit("axpb", (b.name,), {"a": -1}, b_span, None).name), {}, span, target)
    if op == "./":
        return emit("mul", (a.name, emit("axpb", (b.name,), {"p": -1}, b_span, None).name), {}, span, target)
    if op == "/":
        raise KnetTypeError("'/' divides by a number; two arrays are divided element by element with './'", span)
    if op in ("^", ".^"):
        raise KnetTypeError(f"'{op}' wants a compile-time number as its exponent, not an array", span)
    raise KnetTypeError(f"'{op}' is known for compile-time numbers, not for arrays", span)


def _array_number(emit: Emitter, op: str, a: Var, n: int | float, span: Span, target: str | None) -> Var:
    if op in ("*", ".*"):
        given: dict[str, Value] = {"a": n}
    elif op in ("+", ".+"):
        given = {"b": n}
    elif op in ("-", ".-"):
        given = {"b": -n}
    elif op in ("/", "./"):
        if n == 0:
            raise KnetTypeError("division by zero", span)
        given = {"a": 1 / n}
    elif op == ".^":
        given = {"p": n}
    elif op == "^":
        raise KnetTypeError("'^' is the power of a matrix, which Knet has not; element by element it is '.^'", span)
    else:
        raise KnetTypeError(f"'{op}' is known for compile-time numbers, not for arrays", span)
    return emit("axpb", (a.name,), given, span, target)


def _number_array(emit: Emitter, op: str, n: int | float, b: Var, span: Span, target: str | None) -> Var:
    if op in ("*", ".*"):
        given: dict[str, Value] = {"a": n}
    elif op in ("+", ".+"):
        given = {"b": n}
    elif op in ("-", ".-"):
        given = {"a": -1, "b": n}
    elif op == "./":
        given = {"a": n, "p": -1}
    elif op == "/":
        raise KnetTypeError("a number is divided by an array element by element, with './'", span)
    elif op in ("^", ".^"):
        raise KnetTypeError(f"'{op}' wants a compile-time number as its exponent, not an array", span)
    else:
        raise KnetTypeError(f"'{op}' is known for compile-time numbers, not for arrays", span)
    return emit("axpb", (b.name,), given, span, target)
