"""Text to tokens, one top-level item (definition or constant) at a time.

Comes before `parser.py`. The lexer knows what a grammar of tokens cannot: where a newline ends a statement, where a
space parts the elements of `[1 -2; 3 4]`, nesting comments, and which brackets and blocks belong together. So faults of
pairing (`end` or `)` missing) are found here, with the place where the open one stands, and the grammar sees balanced
text only.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

from knetc.errors import Diagnostics, KnetLimitation, KnetSyntaxError, Note, Source, Span

MAX_NESTING = 200

_NAME = r"(?:[^\W\d]|[∂∇])(?:[\w∂∇′\u0300-\u036f]|!(?!=))*"
_TOKEN = re.compile(
    rf"""
    (?P<BLANK>[ \t\r\f\v]+)
  | (?P<NEWLINE>\n)
  | (?P<COMMENT>\#=|\#[^\n]*)
  | (?P<NAME>(?:Knet\.)?{_NAME})
  | (?P<NUMBER>0x[0-9a-fA-F]+|0b[01]+|0o[0-7]+
      |(?:[0-9][0-9_]*(?:\.(?![.*/^+\-])[0-9]*)?|\.[0-9]+)(?:[eEf][+-]?[0-9]+)?)
  | (?P<STRING>"(?:[^"\\\n]|\\.)*")
  | (?P<DOTS>\.\.\.)
  | (?P<UPDATE>\.?[-+*/^]=(?!=))
  | (?P<COMPARE>[=!<>]=|[<>≤≥≠])
  | (?P<ANDAND>&&)
  | (?P<OROR>\|\|)
  | (?P<POWER>\.?\^)
  | (?P<DOTSIGN>\.[+-])
  | (?P<SIGN>[+-])
  | (?P<TIMES>\.?[*/]|[%÷])
  | (?P<NOT>!)
  | (?P<EQUALS>=)
  | (?P<OPEN>[(\[])
  | (?P<CLOSE>[)\]])
  | (?P<COMMA>,)
  | (?P<SEMI>;)
  | (?P<COLON>:)
  | (?P<MACRO>@knet\b)
    """,
    re.VERBOSE,
)
_SYMBOL = re.compile(_NAME)
_BLOCK_COMMENT = re.compile(r"#=|=#")

_KEYWORDS = {
    "function": "FUNCTION",
    "if": "IF",
    "elseif": "ELSEIF",
    "else": "ELSE",
    "end": "END",
    "return": "RETURN",
    "true": "TRUE",
    "false": "FALSE",
}
# Julia's other reserved words: never names, and each gets a message of its own from the parser.
RESERVED = frozenset(
    ("baremodule", "begin", "break", "catch", "const", "continue", "do", "export", "finally", "for", "global")
    + ("import", "let", "local", "macro", "module", "quote", "struct", "try", "using", "while")
)
_WORDS = {**dict.fromkeys(RESERVED, "RESERVED"), **_KEYWORDS}
# Of these, the ones that an `end` closes.
_OTHER_BLOCKS = frozenset(("begin", "do", "for", "let", "macro", "module", "quote", "struct", "try", "while"))
_BRACKETS = {"(": "LPAR", ")": "RPAR", "[": "LSQB", "]": "RSQB"}
_PAIR = {"(": ")", "[": "]"}
_STRUCTURE = frozenset({"FUNCTION", "IF", "ELSEIF", "ELSE", "END", "RETURN", "MACRO"})
# After these a newline does not end the statement.
_CONTINUES = frozenset(
    {"SIGN", "DOTSIGN", "TIMES", "POWER", "COMPARE", "ANDAND", "OROR", "NOT", "EQUALS", "UPDATE", "COMMA", "COLON"}
)
_ENDS_OPERAND = frozenset({"NAME", "NUMBER", "STRING", "SYMBOL", "TRUE", "FALSE", "RPAR", "RSQB", "DOTS"})
_STARTS_OPERAND = frozenset({"NAME", "NUMBER", "STRING", "SYMBOL", "TRUE", "FALSE", "LPAR", "LSQB", "SIGN", "NOT"})


class Token(NamedTuple):
    """A token: its terminal in the grammar, its text, and the offsets of its first character and past its last."""

    kind: str
    text: str
    start: int
    end: int


# Makes a Token in half the time of its own constructor, which is written in Python.
_new = tuple.__new__


def opens_block(token: Token) -> bool:
    """Whether the token, inside a definition and outside brackets, waits for an `end`."""
    return token.kind == "IF" or (token.kind == "RESERVED" and token.text in _OTHER_BLOCKS)


class Item(NamedTuple):
    """The tokens of one top-level item, the offset after it, and whether its brackets and blocks pair up."""

    tokens: list[Token]
    end: int
    sound: bool


class Places:
    """Turns offsets of a source into spans."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._starts = [0, *(m.end() for m in re.finditer("\n", source.text))]

    def span(self, start: int, end: int) -> Span:
        """The span from offset `start` up to `end`."""
        starts = self._starts
        line = bisect_right(starts, start)
        last = line if line == len(starts) or end < starts[line] else bisect_right(starts, end)
        return Span(self.source, line, start - starts[line - 1] + 1, last, end - starts[last - 1] + 1, None)


class Lexer:
    """Reads a source item by item; faults go to `problems`."""

    def __init__(self, places: Places, problems: Diagnostics) -> None:
        self.places = places
        self.text = places.source.text
        self._problems = problems

    def skip(self, position: int) -> int:
        """The offset of the next token from `position`, past blanks, newlines, comments and `;`."""
        while match := _TOKEN.match(self.text, position):
            if match.lastgroup == "COMMENT" and match.group() == "#=":
                position = self.comment(match.start())
            elif match.lastgroup in ("BLANK", "NEWLINE", "COMMENT", "SEMI"):
                position = match.end()
            else:
                break
        return position

    def comment(self, start: int) -> int:
        """The offset after the nesting comment that starts at `start`."""
        depth = 0
        for match in _BLOCK_COMMENT.finditer(self.text, start):
            depth += 1 if match.group() == "#=" else -1
            if depth == 0:
                return match.end()
        self.error("this comment is never closed; '=#' is missing", start, start + 2)
        return len(self.text)

    def item(self, position: int) -> Item:
        """The item that starts at `position`: a definition up to its `end`, anything else up to the end of its line."""
        return _ItemLexer(self, position).run()

    def error(self, message: str, start: int, end: int, notes: tuple[Note, ...] = ()) -> None:
        """Records a syntax error at the stretch of text."""
        self._problems.error(message, self.places.span(start, end), notes, KnetSyntaxError)


class _ItemLexer:
    """The state while one item is read."""

    def __init__(self, lexer: Lexer, position: int) -> None:
        self.lexer = lexer
        self.text = lexer.text
        self.position = position
        self.tokens: list[Token] = []
        self.brackets: list[Token] = []
        self.blocks: list[Token] = []
        self.suspect: Token | None = None  # a block whose `end` does not stand under it
        self.told = 0  # closing brackets before this place belong to one that was told to be never closed
        self.sound = True
        self.definition = False
        self.spaced = False
        self.newline = False

    def run(self) -> Item:
        """Reads tokens until the item is complete."""
        match, text = _TOKEN.match, self.text
        while self.position < len(text):
            found = match(text, self.position)
            if found is None:
                self._stray()
                continue
            kind = found.lastgroup or ""
            start, self.position = found.span()
            if kind == "BLANK" or kind == "COMMENT":
                self.spaced = True
                if found.group() == "#=":
                    self.position = self.lexer.comment(start)
            elif kind == "NEWLINE" or kind == "SEMI":
                if self._separator(kind, start):
                    break
            elif self._token(kind, found.group(), start):
                break
        else:
            self._unfinished(None)
        return Item(self.tokens, self.position, self.sound)

    # --- single tokens

    def _token(self, kind: str, text: str, start: int) -> bool:
        """Adds a token; true where the item ends with it (or before it)."""
        if kind == "NAME":
            kind = _WORDS.get(text, "NAME")
            text = text.removeprefix("Knet.")
        elif kind == "OPEN" or kind == "CLOSE":
            kind = _BRACKETS[text]
        previous = self.tokens[-1].kind if self.tokens else ""
        if kind == "COLON":
            kind, text = self._colon(previous, start)
        if kind in _STRUCTURE:
            if self._structure(Token(kind, text, start, self.position)):
                return True
        elif not self.brackets:
            token = Token(kind, text, start, self.position)
            if opens_block(token):
                self.blocks.append(token)
        elif self.brackets[-1].kind == "LSQB":
            self._part_elements(previous, kind, start)
        if previous == "NUMBER" and not self.spaced and kind in ("NAME", "LPAR"):
            self.tokens.append(Token("JUXT", "", start, start))
        self._add(kind, text, start)
        if kind == "LPAR" or kind == "LSQB":
            self._open()
        elif kind == "RPAR" or kind == "RSQB":
            self._close()
        return self.definition and not self.blocks

    def _add(self, kind: str, text: str, start: int) -> None:
        self.tokens.append(_new(Token, (kind, text, start, self.position)))
        self.spaced = self.newline = False

    def _colon(self, previous: str, start: int) -> tuple[str, str]:
        """`:` of a range, or of a symbol: where no operand stands before it, or a blank in `[:a :b]`."""
        apart = self.spaced and bool(self.brackets) and self.brackets[-1].kind == "LSQB"
        name = _SYMBOL.match(self.text, self.position)
        if name is None or (previous in _ENDS_OPERAND and not apart):
            return "COLON", ":"
        self.position = name.end()
        return "SYMBOL", self.text[start + 1 : self.position]

    def _separator(self, kind: str, start: int) -> bool:
        """A newline or `;`; true where it ends the item."""
        if self.brackets:
            inside = self.brackets[-1].kind
            if kind == "NEWLINE":
                self.spaced = self.newline = True
            elif inside == "LSQB":
                self._add("ROW", ";", start)
            else:
                self._add("SEMI", ";", start)
            return False
        if not self.tokens or (kind == "NEWLINE" and self.tokens[-1].kind in _CONTINUES):
            return False
        if not self.blocks:
            return True
        if self.tokens[-1].kind != "SEP":
            self._add("SEP", "end of line" if kind == "NEWLINE" else ";", start)
        return False

    def _part_elements(self, previous: str, kind: str, start: int) -> None:
        """Inside `[]` a newline before an operand starts a row, a blank before one an element of the row."""
        if previous not in _ENDS_OPERAND or kind not in _STARTS_OPERAND or not self.spaced:
            return
        if self.newline:
            self.tokens.append(Token("ROW", "end of line", start, start))
        elif kind != "SIGN" or not self.text[self.position : self.position + 1].isspace():
            self.tokens.append(Token("SPACE", "", start, start))

    # --- pairs

    def _open(self) -> None:
        if len(self.brackets) >= MAX_NESTING:
            raise _too_deep(self.lexer.places, self.tokens[-1])
        self.brackets.append(self.tokens[-1])

    def _close(self) -> None:
        token = self.tokens[-1]
        if not self.brackets:
            if token.start >= self.told:
                self._fault(f"'{token.text}' closes nothing", token)
            return
        opened = self.brackets.pop()
        if _PAIR[opened.text] != token.text:
            note = Note(f"the '{opened.text}' stands here", self._span(opened))
            self._fault(f"'{_PAIR[opened.text]}' expected, found '{token.text}'", token, note)

    def _structure(self, token: Token) -> bool:
        """Keeps account of blocks; true where the token belongs to the next item already."""
        if token.kind == "MACRO" and self.tokens:
            self._unfinished(token)
            self.position = token.start
            return True
        if self.brackets:
            self._unclosed_bracket(token)
        if token.kind == "FUNCTION" and not self.blocks:
            self.definition = True
        if token.kind in ("FUNCTION", "IF"):
            if len(self.blocks) > MAX_NESTING:
                raise _too_deep(self.lexer.places, token)
            self.blocks.append(token)
        elif token.kind == "END":
            if self.blocks:
                opened = self.blocks.pop()
                if self._indent(opened) != self._indent(token) and self.suspect is None:
                    self.suspect = opened
            else:
                self._fault("'end' closes nothing", token)
        elif token.kind in ("ELSE", "ELSEIF") and (not self.blocks or self.blocks[-1].kind != "IF"):
            self._fault(f"'{token.text}' belongs to no 'if'", token)
        return False

    def _indent(self, token: Token) -> str:
        """The blanks before the first token of a token's line."""
        line = self.text[self.text.rfind("\n", 0, token.start) + 1 : token.start]
        return line[: len(line) - len(line.lstrip())]

    def _unclosed_bracket(self, found: Token | None) -> None:
        opened = self.brackets[0]
        notes = [Note(f"'{found.text}' comes first", self._span(found))] if found else []
        self._fault(f"this '{opened.text}' is never closed; '{_PAIR[opened.text]}' is missing", opened, *notes)
        if found:  # what closes brackets in the rest of the line is told of with this
            end = self.text.find("\n", found.start)
            self.told = len(self.text) if end < 0 else end
        self.brackets.clear()

    def _unfinished(self, found: Token | None) -> None:
        """The text, or the next definition, comes before everything open is closed."""
        if self.brackets:
            self._unclosed_bracket(found)
        elif self.blocks:
            opened = self.blocks[-1]
            what = "definition" if opened.kind == "FUNCTION" else f"'{opened.text}'"
            notes = [Note("the next definition starts here", self._span(found))] if found else []
            if self.suspect is not None:
                notes.append(Note("indented otherwise than the 'end' that closes it", self._span(self.suspect)))
            self._fault(f"this {what} is never closed; 'end' is missing", opened, *notes)
        self.blocks.clear()

    def _stray(self) -> None:
        """A character that starts no token."""
        character = self.text[self.position]
        token = Token("", character, self.position, self.position + 1)
        self.position += 1
        if character == '"':
            end = self.text.find("\n", self.position)
            self.position = len(self.text) if end < 0 else end
            self._fault("this string is never closed", Token("", character, token.start, self.position))
        elif character == "@":
            self._fault("only the macro @knet is known here", token)
        elif character == "'":
            self._fault('\' is neither a quote nor a transpose in Knet; strings stand in "…"', token)
        else:
            shown = f"'{character}'" if character.isprintable() and character != " " else f"U+{ord(character):04X}"
            self._fault(f"unexpected character {shown}", token)
        self.spaced = False

    def _fault(self, message: str, token: Token, *notes: Note) -> None:
        self.sound = False
        self.lexer.error(message, token.start, token.end, notes)

    def _span(self, token: Token) -> Span:
        return self.lexer.places.span(token.start, token.end)


def _too_deep(places: Places, token: Token) -> KnetLimitation:
    message = f"nested too deeply: knetc reads at most {MAX_NESTING} levels of brackets and blocks"
    return KnetLimitation(message, places.span(token.start, token.end))
