"""The evaluator of compile-time expressions (docs/language.md): AST and named values in, a `Value` out.

Used by `lower.py` for keywords, defaults, constants and dims. No text of a program ever reaches Python's `eval`: the
evaluator knows the nodes of `ast.py` and the operations of `arith.py`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn, TypeAlias

from knetc.errors import KnetNameError, KnetTypeError, Note, Span
from knetc.frontend import arith, ast
from knetc.values import CUDNN_CONSTANTS, Range, Symbol, Value, show

# Looks a name up; raises KnetError where it is no compile-time value.
Lookup: TypeAlias = Callable[[ast.Name], Value]

CONSTANTS: dict[str, Value] = {name: Symbol(name) for name in CUDNN_CONSTANTS}


def evaluate(expr: ast.Expr, lookup: Lookup) -> Value:
    """The value of an expression all of whose operands are known at compile time.

    Raises KnetTypeError for operands that do not fit, a division by zero or an overflow; and what `lookup` raises.
    """
    if isinstance(expr, ast.Literal):
        return expr.value
    if isinstance(expr, ast.Name):
        return lookup(expr)
    try:
        return _EVALUATE[type(expr)](expr, lookup)
    except arith.Fault as fault:
        raise KnetTypeError(str(fault), expr.span) from None


def evaluate_call(call: ast.Call, lookup: Lookup) -> Value:
    """The value of a call to a function of `arith.FUNCTIONS`, or of `isa`."""
    if call.name == "isa":
        return _isa(call, lookup)
    if call.name not in arith.FUNCTIONS:
        raise KnetTypeError(
            f"'{call.name}' works on arrays when the model runs; a compile-time value is needed here", call.name_span
        )
    function, least, most = arith.FUNCTIONS[call.name]
    values: list[Value] = []
    for argument in call.args:
        if argument.name is not None:
            raise KnetTypeError(f"{call.name} takes no keyword arguments", argument.span)
        values += _items((argument.value,), lookup)
    if not least <= len(values) <= most:
        wanted = str(least) if least == most else f"{least} to {most}" if most < 1000 else f"at least {least}"
        count = f"{wanted} argument" if wanted in ("1", "at least 1") else f"{wanted} arguments"
        raise KnetTypeError(f"{call.name} takes {count}, not {len(values)}", call.span)
    try:
        return function(*values)
    except arith.Fault as fault:
        raise KnetTypeError(str(fault), call.span) from None


def _isa(call: ast.Call, lookup: Lookup) -> Value:
    if len(call.args) != 2 or any(a.name is not None or isinstance(a.value, ast.Splat) for a in call.args):
        raise KnetTypeError("isa takes a value and the name of a type", call.span)
    value, kind = call.args[0].value, call.args[1].value
    if not isinstance(kind, ast.Name) or kind.name not in arith.TYPES:
        raise KnetTypeError(f"isa knows the types {', '.join(arith.TYPES)}", call.args[1].span)
    assert not isinstance(value, ast.Splat)
    return arith.is_a(evaluate(value, lookup), kind.name)


# --- one function for each kind of node -------------------------------------------------------------------------------


def _unary(expr: ast.Unary, lookup: Lookup) -> Value:
    return arith.unary(expr.op, evaluate(expr.operand, lookup))


def _binary(expr: ast.Binary, lookup: Lookup) -> Value:
    return arith.binary(expr.op, evaluate(expr.left, lookup), evaluate(expr.right, lookup))


def _chain(expr: ast.Chain, lookup: Lookup) -> Value:
    left = evaluate(expr.first, lookup)
    if expr.rest[0][0] in COMPARISONS:
        for op, operand in expr.rest:  # a < b < c is a < b && b < c
            right = evaluate(operand, lookup)
            if not arith.compare(op, left, right):
                return False
            left = right
        return True
    for op, operand in expr.rest:
        left = arith.binary(op, left, evaluate(operand, lookup))
    return left


COMPARISONS = frozenset({"==", "!=", "≠", "<", ">", "<=", ">=", "≤", "≥"})


def _logic(expr: ast.Logic, lookup: Lookup) -> Value:
    stop = expr.op == "||"
    for operand in expr.operands:
        if arith.boolean(evaluate(operand, lookup), f"'{expr.op}'") is stop:
            return stop
    return not stop


def _range(expr: ast.RangeOf, lookup: Lookup) -> Value:
    start, stop = evaluate(expr.start, lookup), evaluate(expr.stop, lookup)
    if isinstance(start, bool) or isinstance(stop, bool) or not arith.is_number(start) or not arith.is_number(stop):
        raise arith.Fault(f"a range goes from number to number, not from {show(start)} to {show(stop)}")
    return Range(start, stop)  # type: ignore[arg-type]


def _tuple(expr: ast.TupleOf, lookup: Lookup) -> Value:
    return tuple(_items(expr.items, lookup))


def _vector(expr: ast.Vector, lookup: Lookup) -> Value:
    return arith.vector(_items(expr.items, lookup))


def _matrix(expr: ast.Matrix, lookup: Lookup) -> Value:
    return arith.matrix([[evaluate(item, lookup) for item in row] for row in expr.rows])


def _items(items: Iterable[ast.Expr | ast.Splat], lookup: Lookup) -> list[Value]:
    """The values of elements or arguments, splats spread out."""
    values: list[Value] = []
    for item in items:
        if isinstance(item, ast.Splat):
            values += arith.spread(evaluate(item.value, lookup))
        else:
            values.append(evaluate(item, lookup))
    return values


_EVALUATE: dict[type, Callable[..., Value]] = {
    ast.Unary: _unary,
    ast.Binary: _binary,
    ast.Chain: _chain,
    ast.Logic: _logic,
    ast.RangeOf: _range,
    ast.TupleOf: _tuple,
    ast.Vector: _vector,
    ast.Matrix: _matrix,
    ast.Call: evaluate_call,
}

# --- names ------------------------------------------------------------------------------------------------------------


def unknown(name: str, what: str, span: Span, known: Iterable[str], notes: Iterable[Note] = ()) -> NoReturn:
    """Raises KnetNameError for an unknown name, with the known one that is most like it."""
    raise KnetNameError(f"{what} '{name}'{did_you_mean(name, known)}", span, notes)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name most like `name`, else nothing."""
    import difflib

    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def evaluate_alone(expr: ast.Expr) -> Value:
    """The value of an expression that may use no names but the language's constants."""

    def lookup(name: ast.Name) -> Value:
        if name.name in CONSTANTS:
            return CONSTANTS[name.name]
        unknown(name.name, "unknown name", name.span, CONSTANTS)

    return evaluate(expr, lookup)
