"""Arithmetic of compile-time values: operators and functions as Julia defines them, on the values of `values.py`.

Used by `consteval.py` and `lower.py`, which know where in the source an operation stands; here a fault is a plain
`Fault`. Where Julia would wrap around or go on with NaN or Inf, there is a fault instead: a hyperparameter that is no
number is a mistake.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from typing import TypeAlias

from knetc.values import FILLERS, Array, Range, Symbol, Value, show

MAX_ELEMENTS = 10**6
_LOW, _HIGH = -(2**63), 2**63 - 1

Number: TypeAlias = int | float


class Fault(Exception):
    """What is wrong with an operation; the caller knows where it stands."""


def is_number(value: object) -> bool:
    """Whether a value is a number (true and false are, in Julia)."""
    return isinstance(value, int | float)


# --- operators --------------------------------------------------------------------------------------------------------


def binary(op: str, a: Value, b: Value) -> Value:
    """`a op b` for an arithmetic operator; elementwise where an array takes part."""
    if isinstance(a, Array) or isinstance(b, Array):
        return _elementwise(op, a, b)
    if not is_number(a) or not is_number(b):
        raise Fault(f"'{op}' wants numbers, not {show(a)} and {show(b)}")
    return _scalar(op.removeprefix("."), a, b)  # type: ignore[arg-type]


def _scalar(op: str, a: Number, b: Number) -> Number:
    try:
        return _checked(_SCALAR[op](a, b), op)
    except ZeroDivisionError:
        raise Fault(f"division by zero: {show(a)} {op} {show(b)}") from None
    except OverflowError:
        raise Fault(f"the result of '{op}' is too large") from None


def _power(a: Number, b: Number) -> Number:
    if isinstance(a, int) and isinstance(b, int):
        if b < 0:
            return float(a) ** b
        # Looked at before it is computed: 10^10^10 would fill the memory.
        if abs(a) > 1 and b * (abs(a).bit_length() - 1) >= 64:
            raise OverflowError
        return int(a**b)
    result = a**b
    if isinstance(result, complex):
        raise Fault(f"{show(a)}^{show(b)} is no real number")
    return float(result)


def divide(a: Number, b: Number) -> int:
    """Julia's `div`: the quotient towards zero."""
    if isinstance(a, int) and isinstance(b, int):
        q = abs(a) // abs(b)
        return q if (a < 0) == (b < 0) else -q
    return math.trunc(a / b)


_SCALAR: dict[str, Callable[[Number, Number], Number]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": _power,
    "%": lambda a, b: math.fmod(a, b) if isinstance(a, float) or isinstance(b, float) else a - b * divide(a, b),
    "÷": divide,
}


def _checked(value: Number, op: str) -> Number:
    if isinstance(value, int):
        value = int(value)  # true + true is 2
        if not _LOW <= value <= _HIGH:
            raise Fault(f"the result of '{op}' does not fit into a 64-bit integer")
    elif not math.isfinite(value):
        raise Fault(f"the result of '{op}' is not a finite number")
    return value


def _elementwise(op: str, a: Value, b: Value) -> Array:
    dims = a.dims if isinstance(a, Array) else b.dims if isinstance(b, Array) else ()
    for operand in (a, b):
        if not isinstance(operand, Array) and not is_number(operand):
            raise Fault(f"'{op}' wants numbers or arrays, not {show(a)} and {show(b)}")
        if isinstance(operand, Array) and operand.dims != dims:
            raise Fault(f"'{op}' wants arrays of the same dims, not {show(a)} and {show(b)}")
    if isinstance(a, Array) and isinstance(b, Array) and op in ("*", "/", "^"):
        raise Fault(f"'{op}' of two arrays is not known at compile time; element by element it is '.{op}'")
    if (op == "^" and isinstance(a, Array)) or (op in ("/", "^") and isinstance(b, Array)):
        raise Fault(f"'{op}' of {show(a)} and {show(b)} is not known; element by element it is '.{op}'")
    n = math.prod(dims)
    left = a.elements() if isinstance(a, Array) else [float(a)] * n  # type: ignore[arg-type]
    right = b.elements() if isinstance(b, Array) else [float(b)] * n  # type: ignore[arg-type]
    name = op.removeprefix(".")
    return Array.of(dims, [float(_scalar(name, x, y)) for x, y in zip(left, right, strict=True)])


def unary(op: str, a: Value) -> Value:
    """`-a`, `+a`, `!a`."""
    if op == "!":
        return not boolean(a, "'!'")
    return binary("*", -1 if op == "-" else 1, a) if is_number(a) or isinstance(a, Array) else _no_number(op, a)


def _no_number(op: str, a: Value) -> Value:
    raise Fault(f"'{op}' wants a number, not {show(a)}")


def boolean(value: Value, who: str) -> bool:
    """`value`, which must be true or false, as Julia demands of a condition."""
    if not isinstance(value, bool):
        raise Fault(f"{who} wants true or false, not {show(value)}")
    return value


def compare(op: str, a: Value, b: Value) -> bool:
    """`a op b` for a comparison; only numbers have an order."""
    if op in ("==", "!=", "≠"):
        same = type(a) is type(b) or (is_number(a) and is_number(b))
        return (same and a == b) is (op == "==")
    if not is_number(a) or not is_number(b):
        raise Fault(f"'{op}' wants numbers, not {show(a)} and {show(b)}")
    return _ORDER[op](a, b)  # type: ignore[arg-type]


_ORDER: dict[str, Callable[[Number, Number], bool]] = {
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    "≤": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "≥": lambda a, b: a >= b,
}

# --- arrays -----------------------------------------------------------------------------------------------------------


def vector(items: Sequence[Value]) -> Array:
    """`[a, b, c]`."""
    return Array((len(items),), array("d", [_element(item) for item in items]).tobytes())


def matrix(rows: Sequence[Sequence[Value]]) -> Array:
    """`[a b; c d]`, given by rows, kept by columns."""
    if any(len(row) != len(rows[0]) for row in rows):
        raise Fault(f"the rows of a matrix must be equally long, not {', '.join(str(len(row)) for row in rows)}")
    return Array.of((len(rows), len(rows[0])), [_element(row[j]) for j in range(len(rows[0])) for row in rows])


def _element(item: Value) -> float:
    if isinstance(item, Range):
        raise Fault(f"an array holds numbers; the elements of a range are written [{show(item)}...]")
    if isinstance(item, Array):
        raise Fault("an array holds numbers, not arrays; a matrix is written [1 2; 3 4]")
    if not is_number(item):
        raise Fault(f"an array holds numbers, not {show(item)}")
    return float(item)  # type: ignore[arg-type]


def spread(value: Value) -> Sequence[Value]:
    """The elements of `value...`."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, Range):
        return _range_elements(value)
    if isinstance(value, Array):
        return value.elements()
    if is_number(value):
        return (value,)
    raise Fault(f"{show(value)} has no elements for '...'")


def _range_elements(value: Range) -> Sequence[Number]:
    count = max(0, math.floor(value.stop - value.start) + 1)
    _limit(count)
    if isinstance(value.start, int):
        return range(value.start, value.start + count)
    return [value.start + i for i in range(count)]


def _limit(count: int) -> None:
    if count > MAX_ELEMENTS:
        raise Fault(f"an array of {count} elements is too large to write into a program; the limit is {MAX_ELEMENTS}")


def _dims(values: Sequence[Value]) -> tuple[int, ...]:
    """Dims given as a tuple or one by one."""
    dims = values[0] if len(values) == 1 and isinstance(values[0], tuple) else tuple(values)
    for d in dims:
        if not isinstance(d, int) or isinstance(d, bool) or d < 0:
            raise Fault(f"dims are numbers from 0 on, not {show(d)}")
    _limit(math.prod(dims))  # type: ignore[arg-type]
    return dims  # type: ignore[return-value]


def reshape(a: Value, *dims: Value) -> Array:
    """`reshape(a, dims)`: the same elements in column-major order."""
    if isinstance(a, Range):
        a = vector(spread(a))
    if not isinstance(a, Array):
        raise Fault(f"reshape wants an array, not {show(a)}")
    new = _dims(dims)
    if math.prod(new) != math.prod(a.dims):
        raise Fault(f"reshape cannot make {show(new)} of the {math.prod(a.dims)} elements of dims {show(a.dims)}")
    return Array(new, a.data)


def _filled(number: float) -> Callable[..., Value]:
    def fill(*dims: Value) -> Array:
        new = _dims(dims)
        return Array(new, array("d", [number]).tobytes() * math.prod(new))

    return fill


# --- functions --------------------------------------------------------------------------------------------------------


def _numeric(name: str, function: Callable[..., Number]) -> Callable[..., Value]:
    def call(*values: Value) -> Value:
        for value in values:
            if not is_number(value):
                raise Fault(f"{name} wants a number, not {show(value)}")
        try:
            return _checked(function(*values), name)
        except ValueError:
            raise Fault(f"{name}({show(values[0])}) is no real number") from None
        except ZeroDivisionError:
            raise Fault(f"division by zero in {name}") from None
        except OverflowError:
            raise Fault(f"the result of '{name}' is too large") from None

    return call


def _filler(name: str) -> Callable[..., Value]:
    def make(*values: Value) -> Value:
        for value in values:
            if not is_number(value) or isinstance(value, bool):
                raise Fault(f"{name} wants numbers, not {show(value)}")
        return FILLERS[name](*(float(v) for v in values))  # type: ignore[arg-type]

    return make


def is_a(value: Value, type_name: str) -> bool:
    """Julia's `isa(value, Type)` for the types of TYPES."""
    return TYPES[type_name](value)


TYPES: dict[str, Callable[[Value], bool]] = {
    "Number": is_number,
    "Integer": lambda v: isinstance(v, int),
    "Bool": lambda v: isinstance(v, bool),
    "Tuple": lambda v: isinstance(v, tuple),
    "Array": lambda v: isinstance(v, Array),
    "Symbol": lambda v: isinstance(v, Symbol),
    "Nothing": lambda v: v is None,
}

# Name: function, fewest and most arguments.
FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {
    "div": (_numeric("div", divide), 2, 2),
    "min": (_numeric("min", lambda *v: min(v)), 1, 1000),
    "max": (_numeric("max", lambda *v: max(v)), 1, 1000),
    "sqrt": (_numeric("sqrt", math.sqrt), 1, 1),
    "abs": (_numeric("abs", abs), 1, 1),
    "log": (_numeric("log", math.log), 1, 1),
    "exp": (_numeric("exp", math.exp), 1, 1),
    "reshape": (reshape, 2, 1000),
    "zeros": (_filled(0.0), 1, 1000),
    "ones": (_filled(1.0), 1, 1000),
    **{name: (_filler(name), 0, len(cls.field_names)) for name, cls in FILLERS.items()},
}
