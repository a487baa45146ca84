"""The grammar's actions: each makes a node of `ast.py` from its parts, while the parser runs.

`parser.py` calls `ACTIONS[name](builder, span, *parts)` when a rule of `knet.lark` is complete; a part is a `Token` or
what an earlier action made. Faults that a grammar of tokens cannot see (a positional parameter after the `;`, a string
with an interpolation) are recorded here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from knetc.errors import Diagnostics, KnetSyntaxError, Note, Span
from knetc.frontend import ast
from knetc.frontend.lexer import Places, Token
from knetc.values import Symbol

Parts: TypeAlias = "tuple[Any, ...]"
MAX_INT = 2**63 - 1


class Builder:
    """What the actions share: positions, and where faults go."""

    def __init__(self, places: Places, problems: Diagnostics) -> None:
        self.places = places
        self._problems = problems

    def span(self, token: Token) -> Span:
        """The span of a token."""
        return self.places.span(token.start, token.end)

    def error(self, message: str, span: Span, *notes: Note) -> None:
        """Records a fault."""
        self._problems.error(message, span, notes, KnetSyntaxError)


def identifier(token: Token) -> str:
    """A name as Julia compares names: in Unicode's composed form."""
    if token.text.isascii():
        return token.text
    import unicodedata

    return unicodedata.normalize("NFC", token.text)


# --- lists ------------------------------------------------------------------------------------------------------------
# Lists grow in place, since the parser holds the only reference.


def _one(b: Builder, span: Span, item: Any) -> list[Any]:
    return [item]


def _more(b: Builder, span: Span, items: list[Any], separator: Token, item: Any) -> list[Any]:
    items.append(item)
    return items


def _empty(b: Builder, span: Span, *parts: Any) -> list[Any]:
    return []


def _second(b: Builder, span: Span, *parts: Any) -> Any:
    return parts[1]


# --- definitions ------------------------------------------------------------------------------------------------------


def _definition(b: Builder, span: Span, *parts: Any) -> ast.Definition:
    name, (before, after), body = parts[2], parts[4], parts[6]
    rests = [p for p in after if p.default is REST]
    keywords = tuple(p for p in after if p.default is not REST)
    for p in before:
        if p.default is REST:
            b.error(f"'{p.name}...' collects keyword arguments: it stands after a ';'", p.span)
        elif p.default is not None:
            b.error(f"the parameter '{p.name}' has a default, so it stands after a ';'", p.span)
    for p in keywords:
        if p.default is None:
            b.error(f"the keyword parameter '{p.name}' needs a default: '{p.name}=value'", p.span)
    for p in rests[1:] or [p for p in rests if after[-1] is not p]:
        b.error(f"'{p.name}...' must be the last parameter, and there is one at most", p.span)
    rest = ast.Param(rests[0].name, None, rests[0].span) if rests else None
    return ast.Definition(identifier(name), b.span(name), tuple(before), keywords, rest, tuple(body), span)


# Marks `name...` among parameters until the definition is made.
REST: Any = object()


def _parameter(b: Builder, span: Span, name: Token) -> ast.Param:
    return ast.Param(identifier(name), None, span)


def _parameter_default(b: Builder, span: Span, name: Token, _: Token, default: ast.Expr) -> ast.Param:
    return ast.Param(identifier(name), default, span)


def _parameter_rest(b: Builder, span: Span, name: Token, _: Token) -> ast.Param:
    return ast.Param(identifier(name), REST, span)


def _parameters(b: Builder, span: Span, *parts: Any) -> tuple[list[ast.Param], list[ast.Param]]:
    """Positional parameters and, after the `;`, keyword parameters."""
    before: list[ast.Param] = []
    after: list[ast.Param] = []
    now = before
    for part in parts:
        if isinstance(part, Token):
            now = after if part.kind == "SEMI" else now
        else:
            now += part
    return before, after


def _constant(b: Builder, span: Span, name: Token, _: Token, value: ast.Expr) -> ast.Constant:
    return ast.Constant(identifier(name), b.span(name), value, span)


# --- statements -------------------------------------------------------------------------------------------------------


def _assign(b: Builder, span: Span, name: Token, _: Token, value: ast.Expr) -> ast.Assign:
    return ast.Assign(identifier(name), b.span(name), value, span)


def _update(b: Builder, span: Span, name: Token, operator: Token, value: ast.Expr) -> ast.Assign:
    """`x += y` is `x = x + y`."""
    target = ast.Name(identifier(name), b.span(name))
    op = operator.text[:-1]
    power = op.endswith("^")
    joined: ast.Expr = ast.Binary(op, target, value, span) if power else ast.Chain(target, ((op, value),), span)
    return ast.Assign(target.name, target.span, joined, span)


def _return_value(b: Builder, span: Span, _: Token, value: ast.Expr) -> ast.Return:
    return ast.Return(value, span)


def _return_nothing(b: Builder, span: Span, _: Token) -> ast.Return:
    return ast.Return(None, span)


def _evaluate(b: Builder, span: Span, value: ast.Expr) -> ast.Evaluate:
    return ast.Evaluate(value, span)


def _if_statement(b: Builder, span: Span, *parts: Any) -> ast.If:
    condition, block, (branches, orelse) = parts[1], parts[2], parts[3]
    # The branches after the first were collected from the last to the first.
    return ast.If(((condition, tuple(block)), *reversed(branches)), orelse, span)


def _no_branches(b: Builder, span: Span) -> Parts:
    return [], None


def _else_branch(b: Builder, span: Span, _: Token, block: list[ast.Stmt]) -> Parts:
    return [], tuple(block)


def _elseif_branch(b: Builder, span: Span, _: Token, condition: ast.Expr, block: list[ast.Stmt], more: Parts) -> Parts:
    more[0].append((condition, tuple(block)))
    return more


# --- operators --------------------------------------------------------------------------------------------------------


def _chain_two(b: Builder, span: Span, first: ast.Expr, op: Token, second: ast.Expr) -> Parts:
    return first, [(op.text, second)]


def _chain_more(b: Builder, span: Span, chain: Parts, op: Token, operand: ast.Expr) -> Parts:
    chain[1].append((op.text, operand))
    return chain


def _chain(b: Builder, span: Span, chain: Parts) -> ast.Chain:
    return ast.Chain(chain[0], tuple(chain[1]), span)


def _logic_two(b: Builder, span: Span, first: ast.Expr, op: Token, second: ast.Expr) -> Parts:
    return op.text, [first, second]


def _logic_more(b: Builder, span: Span, chain: Parts, op: Token, operand: ast.Expr) -> Parts:
    chain[1].append(operand)
    return chain


def _logic(b: Builder, span: Span, chain: Parts) -> ast.Logic:
    return ast.Logic(chain[0], tuple(chain[1]), span)


def _range(b: Builder, span: Span, start: ast.Expr, _: Token, stop: ast.Expr) -> ast.RangeOf:
    return ast.RangeOf(start, stop, span)


def _unary(b: Builder, span: Span, op: Token, operand: ast.Expr) -> ast.Expr:
    return ast.Unary(op.text, operand, span)


def _power(b: Builder, span: Span, base: ast.Expr, op: Token, exponent: ast.Expr) -> ast.Binary:
    return ast.Binary(op.text, base, exponent, span)


def _juxtapose(b: Builder, span: Span, number: Token, _: Token, factor: ast.Expr) -> ast.Chain:
    """`2x` is `2 * x`, bound more tightly than any product written out."""
    return ast.Chain(_number(b, b.span(number), number), (("*", factor),), span)


# --- atoms ------------------------------------------------------------------------------------------------------------


def _number(b: Builder, span: Span, token: Token) -> ast.Literal:
    text = token.text.replace("_", "")
    if text.isdecimal() or text[:2] in ("0x", "0b", "0o"):
        # The length is looked at first: turning a million digits into a number takes very long.
        value = int(text, 0 if text[:1] == "0" and not text.isdecimal() else 10) if len(text) < 70 else MAX_INT + 1
        if value > MAX_INT:
            b.error("this integer does not fit into 64 bits", span)
        return ast.Literal(value, span)
    number = float(text.replace("f", "e"))
    if number == float("inf"):
        b.error("this number is too large for a 64-bit floating point number", span)
    return ast.Literal(number, span)


_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{1,4}|U[0-9a-fA-F]{1,8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "\\": "\\", '"': '"', "$": "$", "'": "'"}


def _string(b: Builder, span: Span, token: Token) -> ast.Literal:
    def decode(match: re.Match[str]) -> str:
        code = match.group(1)
        if code in _ESCAPES:
            return _ESCAPES[code]
        number = int(code[1:], 16) if len(code) > 1 else -1
        if 0 <= number <= 0x10FFFF and not 0xD800 <= number < 0xE000:
            return chr(number)
        b.error(f"unknown escape '\\{code}' in a string", span)
        return ""

    inside = token.text[1:-1]
    if re.search(r"(?<!\\)(?:\\\\)*\$", inside):
        b.error("'$' in a string: interpolation is not part of Knet", span)
    return ast.Literal(_ESCAPE.sub(decode, inside), span)


def _symbol(b: Builder, span: Span, token: Token) -> ast.Literal:
    return ast.Literal(Symbol(identifier(token)), span)


def _name(b: Builder, span: Span, token: Token) -> ast.Expr:
    name = identifier(token)
    return ast.Literal(None, span) if name == "nothing" else ast.Name(name, span)


def _true(b: Builder, span: Span, token: Token) -> ast.Literal:
    return ast.Literal(True, span)


def _false(b: Builder, span: Span, token: Token) -> ast.Literal:
    return ast.Literal(False, span)


def _splat(b: Builder, span: Span, value: ast.Expr, _: Token) -> ast.Splat:
    return ast.Splat(value, span)


def _empty_tuple(b: Builder, span: Span, *parts: Token) -> ast.TupleOf:
    return ast.TupleOf((), span)


def _tuple(b: Builder, span: Span, *parts: Any) -> ast.TupleOf:
    return ast.TupleOf(tuple(parts[1]), span)


def _tuple_more(b: Builder, span: Span, *parts: Any) -> ast.TupleOf:
    return ast.TupleOf((*parts[1], parts[3]), span)


def _empty_vector(b: Builder, span: Span, *parts: Token) -> ast.Vector:
    return ast.Vector((), span)


def _vector(b: Builder, span: Span, *parts: Any) -> ast.Vector:
    return ast.Vector(tuple(parts[1]), span)


def _two(b: Builder, span: Span, first: Any, _: Token, second: Any) -> list[Any]:
    return [first, second]


def _matrix_row(b: Builder, span: Span, *parts: Any) -> ast.Expr:
    """One row: `[1 2]`; with a single element and a `;`, a vector: `[1;]`."""
    row = tuple(parts[1])
    return ast.Matrix((row,), span) if len(row) > 1 else ast.Vector(row, span)


def _matrix(b: Builder, span: Span, *parts: Any) -> ast.Expr:
    rows = tuple(map(tuple, parts[1]))
    if all(len(row) == 1 for row in rows):
        return ast.Vector(tuple(row[0] for row in rows), span)
    return ast.Matrix(rows, span)


# --- calls ------------------------------------------------------------------------------------------------------------


def _call(b: Builder, span: Span, name: Token, _: Token, arguments: list[ast.Arg], __: Token) -> ast.Call:
    return ast.Call(identifier(name), tuple(arguments), b.span(name), span)


def _arguments_after(b: Builder, span: Span, *parts: Any) -> list[ast.Arg]:
    """Arguments with a `;` before the last list: what follows it must be keywords or a splat."""
    lists = [part for part in parts if not isinstance(part, Token)]
    for argument in lists[-1]:
        if argument.name is None and not isinstance(argument.value, ast.Splat):
            b.error("after ';' an argument has the form 'name=value' or 'name...'", argument.span)
    return [argument for items in lists for argument in items]


def _positional(b: Builder, span: Span, value: ast.Expr | ast.Splat) -> ast.Arg:
    return ast.Arg(None, value, span)


def _keyword(b: Builder, span: Span, name: Token, _: Token, value: ast.Expr) -> ast.Arg:
    return ast.Arg(identifier(name), value, span)


ACTIONS: dict[str, Callable[..., Any]] = {
    "one": _one,
    "more": _more,
    "second": _second,
    "empty": _empty,
    "group": _second,
    "parameters": _parameters,
    "definition": _definition,
    "parameter": _parameter,
    "parameter_default": _parameter_default,
    "parameter_rest": _parameter_rest,
    "constant": _constant,
    "assign": _assign,
    "update": _update,
    "return_value": _return_value,
    "return_nothing": _return_nothing,
    "if_statement": _if_statement,
    "no_branches": _no_branches,
    "else_branch": _else_branch,
    "elseif_branch": _elseif_branch,
    "evaluate": _evaluate,
    "chain_two": _chain_two,
    "chain_more": _chain_more,
    "chain": _chain,
    "logic_two": _logic_two,
    "logic_more": _logic_more,
    "logic": _logic,
    "range": _range,
    "unary": _unary,
    "power": _power,
    "juxtapose": _juxtapose,
    "number": _number,
    "string": _string,
    "symbol": _symbol,
    "name": _name,
    "true": _true,
    "false": _false,
    "splat": _splat,
    "empty_tuple": _empty_tuple,
    "tuple": _tuple,
    "tuple_more": _tuple_more,
    "empty_vector": _empty_vector,
    "vector": _vector,
    "wide_two": _two,
    "tall_two": _two,
    "matrix_row": _matrix_row,
    "matrix": _matrix,
    "call": _call,
    "arguments_after": _arguments_after,
    "positional": _positional,
    "keyword": _keyword,
}

# Those that make no node and do without a span: making one takes longer than they do.
SPANLESS = frozenset({"one", "more", "second", "parameters", "arguments_after", "chain_two", "chain_more"})
