"""Finds the `@knet function` blocks in the text of a Julia file.

Comes before `parser.py` for `.jl` files. Only what can hide the word from a reader of Julia matters: comments, strings
with their interpolations, character literals, commands. How the Julia text around nests is of no interest, since a
block's own end is found by `lexer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Generator

_NEXT = re.compile(r"#=|#|\"\"\"|\"|```|`|'|@knet(?=[ \t]+function\b)|[^\W\d][\w!]*")
_COMMENT = re.compile(r"#=|=#")
_IN_STRING = re.compile(r"\\.|\$\(|\"\"\"|\"|```|`", re.DOTALL)
_CHARACTER = re.compile(r"'(?:\\(?:x[0-9a-fA-F]{1,2}|[uU][0-9a-fA-F]{1,8}|[0-7]{1,3}|.)|[^'\\\n])'")
_IN_PARENTHESES = re.compile(r"[()]|#=|#|\"\"\"|\"|```|`|'")


def blocks(text: str) -> Generator[int, int | None, None]:
    """The offsets of `@knet` in front of `function`; send the offset where the block ends to go on from there.

    Text inside comments and strings is passed over; an unclosed one hides the rest of the file, as it does in Julia.
    """
    position = 0
    while match := _NEXT.search(text, position):
        found = match.group()
        if found == "@knet":
            position = (yield match.start()) or match.end()
        else:
            position = _past(text, found, match.start(), match.end())


def _past(text: str, found: str, start: int, end: int) -> int:
    """The offset after what starts with `found`."""
    if found == "#":
        newline = text.find("\n", end)
        return len(text) if newline < 0 else newline
    if found == "#=":
        return _past_comment(text, start)
    if found[0] in '"`':
        return _past_string(text, found, end)
    if found == "'":
        return _past_quote(text, start)
    return end


def _past_comment(text: str, start: int) -> int:
    depth = 0
    for match in _COMMENT.finditer(text, start):
        depth += 1 if match.group() == "#=" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _past_quote(text: str, start: int) -> int:
    """A quote is a transpose after an operand, else it starts a character literal."""
    before = text[start - 1] if start else ""
    if before.isalnum() or before in ("_", ")", "]", "}", "'", "!", "."):
        return start + 1
    match = _CHARACTER.match(text, start)
    return match.end() if match else start + 1


def _past_string(text: str, quote: str, position: int) -> int:
    """The offset after the string whose opening quote ends at `position`; `$( )` inside may hold strings again."""
    open_quotes: list[str] = [quote]  # a quote, or "(" within an interpolation
    while open_quotes:
        inside = open_quotes[-1]
        pattern = _IN_PARENTHESES if inside == "(" else _IN_STRING
        match = pattern.search(text, position)
        if match is None:
            return len(text)
        found, position = match.group(), match.end()
        if inside != "(":
            if found == "$(":
                open_quotes.append("(")
            elif found == inside:
                open_quotes.pop()
            elif found.startswith(inside):  # """ inside a plain string: its first quote closes it
                open_quotes.pop()
                position = match.start() + len(inside)
        elif found == "(":
            open_quotes.append("(")
        elif found == ")":
            open_quotes.pop()
        elif found[0] in '"`':
            open_quotes.append(found)
        else:
            position = _past(text, found, match.start(), match.end())
    return position
