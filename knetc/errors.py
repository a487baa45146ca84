"""Positions in a source, diagnostics, and every exception that knetc raises.

Comes before everything else: the front end makes spans, each later stage hands them on, and an error found anywhere
is shown at the Knet text that it is about. Three kinds of fault are kept apart: the user's (`KnetError` and its
subclasses), a limit of this compiler (`KnetLimitation`), and a bug of this compiler (`KnetInternalError`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from knetc.record import Record

TRACKER = "the project's issue tracker"


class Source(Record):
    """A text that was read, by the name shown in messages."""

    name: str
    text: str = ""

    uncompared: ClassVar[frozenset[str]] = frozenset({"text"})
    _lines: ClassVar[list[str]]  # of each source, in a slot of its own
    __slots__ = ("_lines",)

    def __repr__(self) -> str:
        return f"Source({self.name!r})"

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), without its end; empty where there is none."""
        try:
            lines = self._lines
        except AttributeError:
            lines = self.text.split("\n")
            object.__setattr__(self, "_lines", lines)
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


class Span(Record):
    """A stretch of a source: lines and columns from 1, the end exclusive.

    `via` is the call through which an inlined definition was reached, None at the outermost level.
    """

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int
    via: Span | None = None

    def __init__(
        self, source: Source, line: int, column: int, end_line: int, end_column: int, via: Span | None = None
    ) -> None:
        # A source has more of these than of anything else: written out, this takes half the time of Record's.
        mine = self.__dict__
        mine["source"] = source
        mine["line"] = line
        mine["column"] = column
        mine["end_line"] = end_line
        mine["end_column"] = end_column
        mine["via"] = via

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"


class Note(Record):
    """A second place that explains a diagnostic ("defined here", "shape came from here")."""

    message: str
    span: Span | None = None


class Diagnostic(Record):
    """One message about one place. `severity` is `error` or `warning`."""

    message: str
    span: Span | None = None
    notes: tuple[Note, ...] = ()
    severity: str = "error"

    def render(self, color: bool = False) -> str:
        """`file:line:column: error: …`, the source line, a caret line, then the notes in the same form."""
        parts = [_render_one(self.severity, self.message, self.span, color)]
        parts += [_render_one("note", note.message, note.span, color) for note in self.notes]
        return "\n".join(parts)


_COLORS = {"error": "\x1b[1;31m", "warning": "\x1b[1;35m", "note": "\x1b[1;36m"}


def _render_one(severity: str, message: str, span: Span | None, color: bool) -> str:
    label = f"{_COLORS[severity]}{severity}:\x1b[0m" if color else f"{severity}:"
    if span is None:
        return f"{label} {message}"
    head = f"{span}: {label} {message}"
    line = span.source.line(span.line)
    if not line:
        return head
    stop = span.end_column if span.end_line == span.line else len(line) + 1
    line, start, stop = _cropped(line, span.column, stop)
    # A tab before the caret stays a tab, so that the caret stands under the text whatever the tab width.
    lead = "".join(c if c == "\t" else " " for c in line[: start - 1])
    width = max(1, min(stop, len(line) + 1) - start)
    return f"{head}\n  {line}\n  {lead}{'^' * width}"


_WIDEST = 160


def _cropped(line: str, start: int, stop: int) -> tuple[str, int, int]:
    """The part of a long line around columns `start` to `stop`, with those columns in it."""
    if len(line) <= _WIDEST:
        return line, start, stop
    first = max(0, min(start - 1 - _WIDEST // 3, len(line) - _WIDEST))
    before = "…" if first else ""
    after = "…" if first + _WIDEST < len(line) else ""
    shift = len(before) - first
    return before + line[first : first + _WIDEST] + after, start + shift, min(stop, first + _WIDEST + 1) + shift


class KnetError(Exception):
    """A fault in what the user gave. `diagnostics` holds every message with its place."""

    def __init__(self, message: str | Iterable[Diagnostic], span: Span | None = None, notes: Iterable[Note] = ()):
        if isinstance(message, str):
            self.diagnostics: tuple[Diagnostic, ...] = (Diagnostic(message, span, tuple(notes)),)
        else:
            self.diagnostics = tuple(message)
        super().__init__(self.render())

    def render(self, color: bool = False) -> str:
        """All messages, one under the other."""
        return "\n".join(d.render(color) for d in self.diagnostics)


class KnetSyntaxError(KnetError):
    """The text is not Knet."""


class KnetNameError(KnetError):
    """A name that nothing defines, or that is defined wrongly."""


class KnetTypeError(KnetError):
    """A value of the wrong kind: an argument, a keyword, a compile-time expression, an array's dtype."""


class KnetShapeError(KnetError):
    """Sizes that do not fit, or that cannot be inferred."""


class KnetStateError(KnetError):
    """A call out of order: `back` before `forw`, `sback` on an empty stack, a changed batch in mid-sequence."""


class KnetMemoryError(KnetError):
    """No memory is left. The model is as it was, but what the last forward call computed may be gone."""


class KnetLimitation(KnetError):
    """Legal Knet that this compiler does not handle; the message says so."""


class KnetEnvironmentError(KnetError):
    """Something the machine lacks (a compiler, a device, a library); the message says how to get it."""


class KnetInternalError(KnetError):
    """A bug of knetc itself."""

    def __init__(self, message: str, span: Span | None = None, notes: Iterable[Note] = ()):
        text = (
            f"{message}\nThis is a fault of knetc, not of your program. Please report it to {TRACKER} with the source."
        )
        super().__init__(text, span, notes)


class Diagnostics:
    """Collects errors so that one run reports several; `raise_if_any` ends the stage.

    Given a `limit`, the error that reaches it raises all at once.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._found: list[tuple[type[KnetError], Diagnostic]] = []

    def error(
        self, message: str, span: Span | None, notes: Iterable[Note] = (), kind: type[KnetError] = KnetError
    ) -> None:
        """Records one error; the same message at the same place is kept once."""
        entry = (kind, Diagnostic(message, span, tuple(notes)))
        if entry not in self._found:
            self._found.append(entry)
            if len(self._found) == self._limit:
                self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raises what was recorded: the common class of all errors, or KnetError where they differ."""
        if self._found:
            kinds = {kind for kind, _ in self._found}
            kind = kinds.pop() if len(kinds) == 1 else KnetError
            raise kind([d for _, d in self._found])
