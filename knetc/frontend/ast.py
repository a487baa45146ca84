"""The abstract syntax tree of a Knet file: frozen nodes, each with the span of source that it stands for.

Made by `build.py` while the parser runs, read by `resolve.py`, `consteval.py` and `lower.py`. A chain of operators of
one precedence (`a + b - c`) is one flat node, so the tree is only as deep as brackets, calls and blocks nest in the
text, which the parser limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeAlias, dataclass_transform

from knetc.errors import Source, Span
from knetc.values import Value


@dataclass_transform(frozen_default=True)
class Node:
    """A node: its fields are its annotations, given in order. Declared far faster than a dataclass is."""

    fields: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        cls.fields = tuple(cls.__annotations__)

    def __init__(self, *values: Any) -> None:
        fields = self.fields
        if len(values) != len(fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields)}")
        self.__dict__.update(zip(fields, values))  # noqa: B905 (strict=True would take as long as all the rest)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"

    def children(self) -> dict[str, object]:
        """Field values by name."""
        return dict(self.__dict__)


# --- expressions ------------------------------------------------------------------------------------------------------


class Literal(Node):
    """A number, boolean, string, symbol or `nothing` written out."""

    value: Value
    span: Span


class Name(Node):
    """A variable, parameter or constant."""

    name: str
    span: Span


class Unary(Node):
    """`-x`, `+x`, `!x`."""

    op: str
    operand: Expr
    span: Span


class Binary(Node):
    """`a ^ b`, `a .^ b`."""

    op: str
    left: Expr
    right: Expr
    span: Span


class Chain(Node):
    """Operators of one precedence from left to right: `a + b .- c`, `a * b ./ c`, and comparisons `a < b <= c`."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]
    span: Span


class Logic(Node):
    """`a && b && c` or `a || b || c`."""

    op: str
    operands: tuple[Expr, ...]
    span: Span


class RangeOf(Node):
    """`start:stop`."""

    start: Expr
    stop: Expr
    span: Span


class Splat(Node):
    """`value...` inside a tuple, an array or a call."""

    value: Expr
    span: Span


class TupleOf(Node):
    """`(a, b)`, `(a,)`, `()`."""

    items: tuple[Expr | Splat, ...]
    span: Span


class Vector(Node):
    """`[a, b, c]`."""

    items: tuple[Expr | Splat, ...]
    span: Span


class Matrix(Node):
    """`[a b; c d]`, by rows."""

    rows: tuple[tuple[Expr, ...], ...]
    span: Span


class Arg(Node):
    """An argument of a call: positional (name None), `name=value`, or a splat."""

    name: str | None
    value: Expr | Splat
    span: Span


class Call(Node):
    """`name(args)`; `name_span` is the callee's name alone."""

    name: str
    args: tuple[Arg, ...]
    name_span: Span
    span: Span


Expr: TypeAlias = Literal | Name | Unary | Binary | Chain | Logic | RangeOf | TupleOf | Vector | Matrix | Call

# --- statements -------------------------------------------------------------------------------------------------------


class Assign(Node):
    """`target = value`."""

    target: str
    target_span: Span
    value: Expr
    span: Span


class Return(Node):
    """`return value`; value None for a bare `return`."""

    value: Expr | None
    span: Span


class If(Node):
    """`if` with its `elseif` branches in order, and the `else` block (None where there is none)."""

    branches: tuple[tuple[Expr, tuple[Stmt, ...]], ...]
    orelse: tuple[Stmt, ...] | None
    span: Span


class Evaluate(Node):
    """An expression that stands as a statement; as the last one it is the function's value."""

    value: Expr
    span: Span


Stmt: TypeAlias = Assign | Return | If | Evaluate

# --- definitions ------------------------------------------------------------------------------------------------------


class Param(Node):
    """A parameter; `default` is set for keyword parameters alone."""

    name: str
    default: Expr | None
    span: Span


class Definition(Node):
    """`@knet function name(positional; keywords, rest...) body end`."""

    name: str
    name_span: Span
    positional: tuple[Param, ...]
    keywords: tuple[Param, ...]
    rest: Param | None
    body: tuple[Stmt, ...]
    span: Span


class Constant(Node):
    """`NAME = compile-time expression` at the top level of a file."""

    name: str
    name_span: Span
    value: Expr
    span: Span


class File(Node):
    """A whole file, definitions and constants in the order of the text."""

    source: Source
    definitions: tuple[Definition, ...]
    constants: tuple[Constant, ...]


# --- text -------------------------------------------------------------------------------------------------------------


def show(file: File) -> str:
    """The tree as indented text, one node a line with its position, for `--emit ast`."""
    items: list[Definition | Constant] = [*file.definitions, *file.constants]
    items.sort(key=lambda item: (item.span.line, item.span.column))
    return "".join(line + "\n" for item in items for line in _lines(item, 0))


def _lines(node: object, depth: int) -> Iterator[str]:
    """One line for the node's own scalars, then its child nodes, deeper."""
    if isinstance(node, Literal):
        yield f"{'  ' * depth}Literal {node.value!r} @{node.span.line}:{node.span.column}"
        return
    scalars: list[str] = []
    below: list[tuple[str, object]] = []
    fields = node.children() if isinstance(node, Node) else {}
    for name, value in fields.items():
        if isinstance(value, Span) or value is None or value is False or value == ():
            continue
        if isinstance(value, Node):
            below.append((name, value))
        elif isinstance(value, tuple):
            below += [(name, item) for item in value]
        else:
            scalars.append(value if isinstance(value, str) and name != "value" else repr(value))
    span = fields["span"]
    assert isinstance(span, Span)
    yield " ".join(["  " * depth + type(node).__name__, *scalars, f"@{span.line}:{span.column}"])
    for name, child in below:
        yield from _child_lines(name, child, depth + 1)


def _child_lines(name: str, child: object, depth: int) -> Iterator[str]:
    if isinstance(child, Node):
        yield from _lines(child, depth)
        return
    # An operator with its operand, a condition with its block, a row of a matrix.
    yield "  " * depth + (name if name != "rest" else "then")
    for item in child if isinstance(child, tuple) else (child,):
        for part in item if isinstance(item, tuple) and not isinstance(item, Node) else (item,):
            if isinstance(part, Node):
                yield from _lines(part, depth + 1)
            else:
                yield "  " * (depth + 1) + str(part)
