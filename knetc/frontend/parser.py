"""Source text to AST: `parse`, and `read_source` before it.

Runs the tables of `tables.py` over the tokens of `lexer.py`, calling the actions of `build.py` as each rule is
complete. Definitions are parsed one by one, and after a fault the parser goes on with the next statement, so that one
run reports several.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from knetc.errors import Diagnostics, KnetError, KnetLimitation, KnetSyntaxError, Note, Source
from knetc.frontend import ast
from knetc.frontend.build import ACTIONS, SPANLESS, Builder
from knetc.frontend.lexer import MAX_NESTING, Item, Lexer, Places, Token, opens_block
from knetc.frontend.tables import END, Tables, load

MAX_FAULTS = 20

# Terminals as messages name them; an operand and an operator stand for many.
_OPERAND = frozenset({"NAME", "NUMBER", "STRING", "SYMBOL", "TRUE", "FALSE", "LPAR", "LSQB", "NOT", "SIGN"})
_OPERATOR = frozenset({"SIGN", "DOTSIGN", "TIMES", "POWER", "COMPARE", "ANDAND", "OROR", "COLON"})
_SHOWN = {
    "MACRO": "'@knet'",
    "NAME": "a name",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "COMMA": "','",
    "SEMI": "';'",
    "ROW": "';'",
    "EQUALS": "'='",
    "DOTS": "'...'",
    "SEP": "the end of the line",
    END: "the end of the line",
    "FUNCTION": "'function'",
    "END": "'end'",
    "ELSE": "'else'",
    "ELSEIF": "'elseif'",
}
# Never worth suggesting: zero-width tokens, and what may follow anywhere.
_UNSHOWN = frozenset({"JUXT", "SPACE", "UPDATE", "IF", "RETURN"})
# Rules that make a node above others: how deep they nest is the depth of the tree.
_NESTING = frozenset(
    ("unary", "power", "juxtapose", "chain", "logic", "range", "call", "group", "tuple", "tuple_more", "vector")
    + ("matrix_row", "matrix", "splat")
)

_tables: Tables | None = None


def read_source(path: str) -> Source:
    """The text of a file, or of standard input for `-`.

    Raises KnetError where there is no such file or its bytes are not UTF-8.
    """
    name = "<stdin>" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read() if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
        elif os.path.isdir(path):
            raise KnetError(f"cannot read {path}: it is a folder")
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise KnetError(f"cannot read {name}: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise KnetSyntaxError(f"{name}:{line}: not UTF-8: byte 0x{data[error.start]:02x}") from None
    return Source(name, text)


def parse(source: Source) -> ast.File:
    """The AST of a whole file; of a `.jl` file, its `@knet function` blocks alone.

    Raises KnetSyntaxError with every fault found, KnetLimitation where it nests too deeply.
    """
    reader = _Reader(source)
    with _no_collection():
        if source.name.endswith(".jl"):
            reader.julia()
        else:
            reader.file()
    return reader.result()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Puts off the collection of cycles: it would look through all nodes again and again, and they make none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def parse_block(source: Source, start: int) -> ast.Definition:
    """The one definition of `source` that starts at offset `start`; raises as `parse` does."""
    reader = _Reader(source)
    reader.item(reader.lexer.item(start))
    return reader.result().definitions[0]


def parse_expression_text(source: Source) -> ast.Expr:
    """The one expression that `source` consists of; raises as `parse` does."""
    reader = _Reader(source)
    start = reader.lexer.skip(0)
    item = reader.lexer.item(start)
    rest = reader.lexer.skip(item.end)
    if item.sound and rest < len(source.text):
        reader.lexer.error("one expression expected, found more", rest, len(source.text))
    result: Any = reader.run(item, "expression") if item.sound else None
    reader.problems.raise_if_any()
    return result  # type: ignore[no-any-return]


class _Reader:
    """One source on its way to an AST."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems = Diagnostics(MAX_FAULTS)
        self.places = Places(source)
        self.lexer = Lexer(self.places, self.problems)
        self.definitions: list[ast.Definition] = []
        self.constants: list[ast.Constant] = []
        self._builder = Builder(self.places, self.problems)

    def result(self) -> ast.File:
        """The AST; raises what was found wrong."""
        self.problems.raise_if_any()
        return ast.File(self.source, tuple(self.definitions), tuple(self.constants))

    def julia(self) -> None:
        """Reads the blocks of a Julia file."""
        from knetc.frontend import julia  # imported here, since most sources are Knet files

        found = julia.blocks(self.source.text)
        start = next(found, None)
        while start is not None:
            item = self.lexer.item(start)
            self.item(item)
            try:
                start = found.send(item.end)
            except StopIteration:
                start = None

    def file(self) -> None:
        """Reads the items of a Knet file."""
        position = self.lexer.skip(0)
        while position < len(self.source.text):
            item = self.lexer.item(position)
            position = self.lexer.skip(item.end if self.item(item) else self._next_definition(item.end))

    def item(self, item: Item) -> bool:
        """Parses one top-level item; false where it is nothing that a file may hold."""
        kinds = [token.kind for token in item.tokens[:2]]
        if kinds[:1] == ["MACRO"]:
            node = self.run(item, "definition") if item.sound else None
            if node is not None:
                self.definitions.append(node)
        elif kinds == ["NAME", "EQUALS"]:
            node = self.run(item, "constant") if item.sound else None
            if node is not None:
                self.constants.append(node)
        elif kinds[:1] == ["FUNCTION"]:
            self._error("'@knet' is missing before 'function'", item.tokens[0])
        elif item.sound and item.tokens:
            found = item.tokens[0].text
            self._error(f"'@knet function …' or a constant 'NAME = …' expected, found '{found}'", item.tokens[0])
            return False
        else:
            return False
        return True

    def _next_definition(self, position: int) -> int:
        """Where to go on after text that is no Knet at all."""
        match = re.compile(r"^[ \t]*@knet\b", re.MULTILINE).search(self.source.text, position)
        return match.start() if match else len(self.source.text)

    # --- the LALR machine

    def run(self, item: Item, start: str) -> Any:
        """Runs the tables over an item's tokens; None where it has a fault that leaves nothing to make."""
        machine = _Machine(self._builder, start)
        stream = _Stream(item.tokens, self.source)
        while True:
            fault = machine.run(stream)
            if fault is None:
                return None if machine.broken else machine.result()
            self._report(machine, fault)
            if not machine.recover(stream):
                return None

    def _report(self, machine: _Machine, token: Token) -> None:
        # The state in which the input may end knows no token.
        expected = frozenset(s for s in machine.actions() if s.isupper()) or frozenset((END,))
        self._error(_message(expected, token), token)

    def _error(self, message: str, token: Token, *notes: Note) -> None:
        self.problems.error(message, self.places.span(token.start, token.end), notes, KnetSyntaxError)


class _Stream:
    """The tokens of an item, then END for ever."""

    def __init__(self, tokens: list[Token], source: Source) -> None:
        if tokens and tokens[-1].kind == "SEP":
            tokens = tokens[:-1]
        end = tokens[-1].end if tokens else len(source.text)
        self.tokens = [*tokens, Token(END, "the end of the line", end, end + 1)]
        self.next = 0


class _Machine:
    """The stacks of an LALR parse: states, values, and for each value its stretch of text and depth of nesting."""

    def __init__(self, builder: Builder, start: str) -> None:
        global _tables
        if _tables is None:
            _tables = load()
        self._tables = _tables
        self._builder = builder
        self._end = _tables.ends[start]
        self._states = [_tables.starts[start]]
        self._values: list[tuple[Any, int, int, int]] = []  # value, start, end, depth
        self.broken = False
        self._fault_at = -1

    def actions(self) -> dict[str, int]:
        """What the state on top knows."""
        return self._tables.state(self._states[-1])

    def result(self) -> Any:
        """The value of the start symbol, after a run without fault."""
        return self._values[0][0]

    def run(self, stream: _Stream) -> Token | None:
        """Goes on to the end (None) or to a token that does not fit, which is returned."""
        states, values, state_of = self._states, self._values, self._tables.state
        tokens, position = stream.tokens, stream.next
        while True:
            token = tokens[position]
            kind = token.kind
            action = state_of(states[-1]).get(kind)
            if action is None:
                stream.next = position
                return token
            if action >= 0:
                states.append(action)
                values.append((token, token.start, token.end, 0))
                position += 1
            else:
                self._reduce(-action - 1, token)
                if states[-1] == self._end and kind == END:
                    return None

    def _reduce(self, number: int, token: Token) -> None:
        origin, length, action = self._tables.rules[number]
        values, states = self._values, self._states
        if length == 0:
            value = ACTIONS[action](self._builder, None)
            values.append((value, token.start, token.start, 0))
        elif action:
            parts = values[-length:]
            del values[-length:], states[-length:]
            start, end, depth = parts[0][1], parts[-1][2], 0
            for part in parts:
                if part[3] > depth:
                    depth = part[3]
            span = None if action in SPANLESS else self._builder.places.span(start, end)
            if action in _NESTING:
                depth += 1
                if depth > MAX_NESTING:
                    raise KnetLimitation(f"nested too deeply: knetc reads at most {MAX_NESTING} levels", span)
            value = ACTIONS[action](self._builder, span, *[part[0] for part in parts])
            values.append((value, start, end, depth))
        else:
            del values[len(values) - length + 1 :], states[-length:]
        states.append(self._tables.goto(states[-1], origin, token.kind))

    def recover(self, stream: _Stream) -> bool:
        """Gives up the statement at fault: back to where it began, on to its end. False where it is in no statement."""
        open_blocks = 0
        state_of = self._tables.state
        while self._states and "statement" not in state_of(self._states[-1]):
            self._states.pop()
            if self._values and self._states:
                value = self._values.pop()[0]
                open_blocks += isinstance(value, Token) and value.kind == "IF"
        if not self._states:
            return False
        self.broken = True
        if stream.next == self._fault_at:  # a second fault at one token: it has to go
            stream.next += 1
        self._fault_at = stream.next
        while True:
            token = stream.tokens[stream.next]
            if token.kind == END:
                return False
            if open_blocks == 0 and token.kind in ("SEP", "END", "ELSE", "ELSEIF"):
                break
            open_blocks += opens_block(token) + (token.kind == "FUNCTION") - (token.kind == "END")
            stream.next += 1
        self._states.append(state_of(self._states[-1])["statement"])
        self._values.append((None, token.start, token.start, 0))
        return True


# --- messages ---------------------------------------------------------------------------------------------------------


def _message(expected: frozenset[str], token: Token) -> str:
    """What is wrong with a token where only `expected` ones may stand."""
    if token.kind == "RESERVED":
        return f"'{token.text}' is not part of Knet"
    if token.kind == "EQUALS" and "COMPARE" in expected:
        return "only a name can stand on the left of '='; to compare, write '=='"
    if token.kind == "COLON" and "COLON" not in expected and "COMPARE" in expected:
        return "a range has the form 'start:stop'; ranges with a step are not part of Knet"
    if token.kind == "FUNCTION":
        return "a function cannot be defined inside another"
    found = token.text if token.kind in ("SEP", END) and token.text != ";" else f"'{token.text}'"
    return f"{_list(expected)} expected, found {found}"


def _list(expected: frozenset[str]) -> str:
    """The expected tokens in words: groups first, then single ones."""
    words = []
    rest = set(expected - _UNSHOWN)
    if rest & {"SEP", "NAME"}:  # where a statement may end or begin, a block may end too: not worth saying
        rest -= {"ELSE", "ELSEIF", "END"}
    if {"NAME", "NUMBER", "LPAR"} <= rest:
        words.append("an expression")
        rest -= _OPERAND
    if {"TIMES", "COMPARE"} <= rest:
        words.append("an operator")
        rest -= _OPERATOR | {"LPAR"}
    elif "SIGN" in rest and "TIMES" not in rest:
        rest.discard("SIGN")
    words += sorted({_SHOWN.get(symbol, symbol.lower()) for symbol in rest})
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
