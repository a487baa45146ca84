"""Colours for Knet text: a lexer for Pygments, known to it by the name `knet` and the ending `.knet`.

It runs knetc's own lexer, so it sees the tokens that the compiler sees, and goes on where a text is faulty. After it:
Pygments and what builds on it (notebooks, Sphinx, LaTeX, `pygmentize model.knet`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

from pygments import token as kinds
from pygments.lexer import Lexer as PygmentsLexer

from knetc.errors import Diagnostics, KnetLimitation, Source
from knetc.frontend.consteval import CONSTANTS
from knetc.frontend.lexer import Lexer, Places, Token
from knetc.frontend.resolve import Library
from knetc.ops import registry

_KINDS = {
    **dict.fromkeys(("FUNCTION", "IF", "ELSEIF", "ELSE", "END", "RETURN"), kinds.Keyword),
    **dict.fromkeys(("TRUE", "FALSE"), kinds.Keyword.Constant),
    **dict.fromkeys(("LPAR", "RPAR", "LSQB", "RSQB", "COMMA", "SEMI", "ROW", "SEP"), kinds.Punctuation),
    "RESERVED": kinds.Keyword.Reserved,
    "MACRO": kinds.Name.Decorator,
    "STRING": kinds.String.Double,
    "SYMBOL": kinds.String.Symbol,
}  # every other token is an operator
_NUMBERS = {"0x": kinds.Number.Hex, "0b": kinds.Number.Bin, "0o": kinds.Number.Oct}


class KnetLexer(PygmentsLexer):  # type: ignore[misc]
    """The Knet language."""

    name = "Knet"
    aliases: ClassVar[list[str]] = ["knet"]
    filenames: ClassVar[list[str]] = ["*.knet"]
    mimetypes: ClassVar[list[str]] = ["text/x-knet"]

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, Any, str]]:
        """Every stretch of the text with its offset and kind, comments and blanks too."""
        lexer = Lexer(Places(Source("<text>", text)), Diagnostics())
        tokens = list(_tokens(lexer))
        position = 0
        for n, token in enumerate(tokens):
            yield from _between(lexer, position, token.start)
            yield token.start, _kind(tokens, n), text[token.start : token.end]
            position = token.end
        yield from _between(lexer, position, len(text))


def _tokens(lexer: Lexer) -> Iterator[Token]:
    """The tokens that have a text; brackets beyond the depth that the compiler reads end them."""
    position = lexer.skip(0)
    try:
        while position < len(lexer.text):
            item = lexer.item(position)
            yield from (token for token in item.tokens if token.end > token.start)
            position = lexer.skip(item.end)
    except KnetLimitation:
        return


def _between(lexer: Lexer, position: int, end: int) -> Iterator[tuple[int, Any, str]]:
    """What stands between tokens: blanks, `;`, comments, and characters that start no token."""
    text = lexer.text
    while position < end:
        start, c = position, text[position]
        position += 1
        if text.startswith("#=", start):
            position, kind = min(lexer.comment(start), end), kinds.Comment.Multiline
        elif c == "#":
            newline = text.find("\n", start, end)
            position, kind = newline if newline >= 0 else end, kinds.Comment.Single
        elif c == ";":
            kind = kinds.Punctuation
        else:
            blank = c.isspace()
            while position < end and text[position].isspace() == blank and (blank or text[position] not in "#;"):
                position += 1
            kind = kinds.Whitespace if blank else kinds.Error
        yield start, kind, text[start:position]


def _kind(tokens: list[Token], n: int) -> Any:
    """What a token is to a reader."""
    token = tokens[n]
    if token.kind == "SEP" and token.text != ";":
        return kinds.Whitespace
    if token.kind == "NUMBER":
        whole = token.text.replace("_", "").isdecimal()
        return _NUMBERS.get(token.text[:2], kinds.Number.Integer if whole else kinds.Number.Float)
    if token.kind == "NAME":
        before = tokens[n - 1].kind if n else ""
        after = tokens[n + 1].kind if n + 1 < len(tokens) else ""
        return _name(token.text, before, after)
    return _KINDS.get(token.kind, kinds.Operator)


def _name(name: str, before: str, after: str) -> Any:
    if before == "FUNCTION":
        return kinds.Name.Function
    if name == "nothing":
        return kinds.Keyword.Constant
    if name in CONSTANTS:
        return kinds.Name.Constant
    if after == "LPAR":
        return kinds.Name.Builtin if name in _builtins() else kinds.Name.Function
    if after == "EQUALS" and before in ("LPAR", "COMMA", "SEMI"):
        return kinds.Name.Attribute
    return kinds.Name


@cache
def _builtins() -> frozenset[str]:
    return frozenset(Library(None, registry(), []).names())
