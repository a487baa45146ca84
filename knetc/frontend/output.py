"""What `inline.py` writes: instructions, and what is found wrong or odd on the way."""

from __future__ import annotations

from typing import TypeAlias

from knetc.errors import Diagnostic, Diagnostics, KnetError, KnetLimitation, KnetTypeError, Note, Span
from knetc.frontend.consteval import did_you_mean
from knetc.frontend.parser import MAX_FAULTS
from knetc.frontend.scope import Keyword, Scope, Var
from knetc.ir.program import Attrs, Instr, make_attrs
from knetc.ops.base import OpDef
from knetc.values import Value

MAX_INSTRUCTIONS = 500_000
MAX_WARNINGS = 20

Key: TypeAlias = tuple[str, int, int, str]


class Output:
    """The program written so far, and its diagnostics."""

    def __init__(self, warnings: list[Diagnostic]) -> None:
        self.instructions: list[Instr] = []
        self.temps: set[str] = set()
        self.functions: list[tuple[str, str]] = []
        self.conditions: set[str] = set()
        self.problems = Diagnostics(MAX_FAULTS)
        self.warnings = warnings
        self._reported: set[tuple[str, str, int, int]] = set()
        self._streams = 0
        self._collected: dict[Key, tuple[Keyword, set[str]]] = {}
        self._used: set[Key] = set()

    # --- instructions

    def check_size(self, more: int, scope: Scope, span: Span) -> None:
        """Raises KnetLimitation where `more` instructions would be too many."""
        if len(self.instructions) + more > MAX_INSTRUCTIONS:
            message = f"the program is too large: knetc compiles at most {MAX_INSTRUCTIONS} operations"
            raise KnetLimitation(message, span, via_notes(scope))

    def write(self, scope: Scope, out: str, op: str, args: tuple[str, ...], attrs: Attrs, span: Span) -> None:
        """Appends an instruction under the scope's guard. Raises KnetLimitation where there are too many."""
        if len(self.instructions) >= MAX_INSTRUCTIONS:
            self.check_size(1, scope, span)
        if scope.via is not None:
            span = Span(span.source, span.line, span.column, span.end_line, span.end_column, scope.via)
        self.instructions.append(Instr(out, op, args, attrs, None, scope.guard, span))

    def primitive(
        self, scope: Scope, op: OpDef, args: tuple[str, ...], given: dict[str, Value], span: Span, target: str | None
    ) -> Var:
        """Appends a primitive with all its keywords; the result goes into `target` or a temporary."""
        attrs = {name: keyword.default for name, keyword in op.keywords.items()}
        attrs.update(given)
        if "stream" in attrs:
            attrs["stream"] = self._streams
            self._streams += 1
        if target is None:
            target = scope.temp()
            self.temps.add(target)
        self.write(scope, target, op.name, args, make_attrs(**attrs), span)
        return Var(target)

    # --- diagnostics

    def report(self, error: KnetError, scope: Scope) -> None:
        """Records an error with the calls that led there."""
        for found in error.diagnostics:
            span = found.span
            key = (found.message, span.source.name, span.line, span.column) if span else (found.message, "", 0, 0)
            if key not in self._reported:
                self._reported.add(key)
                self.problems.error(found.message, span, [*found.notes, *via_notes(scope)], type(error))

    def warn(self, message: str, span: Span | None) -> None:
        """Records a warning, once at one place."""
        if len(self.warnings) < MAX_WARNINGS:
            warning = Diagnostic(message, span, (), "warning")
            if warning not in self.warnings:
                self.warnings.append(warning)

    # --- keyword arguments

    def collect(self, keyword: Keyword, known: set[str]) -> None:
        """A keyword argument went on into an `o...`, past an operator with the keywords `known`."""
        self._collected.setdefault(keyword.key, (keyword, set()))[1].update(known)

    def use(self, keyword: Keyword) -> None:
        """An operator took a keyword argument."""
        self._used.add(keyword.key)

    def take(self, op: OpDef, keywords: dict[str, Keyword]) -> dict[str, Value]:
        """The keywords of a primitive, checked; unknown ones that came through a splat are passed over."""
        given: dict[str, Value] = {}
        for name, keyword in keywords.items():
            spec = op.keywords.get(name)
            if spec is None or spec.internal:
                known = user_keywords(op)
                if keyword.written:
                    raise unknown_keyword(op.name, name, keyword, known)
                self.collect(keyword, set(known))
                continue
            self.use(keyword)
            wrong = spec.check(keyword.value)
            if wrong is not None:
                notes = [Note("the value was given here", keyword.origin)] if keyword.origin else []
                raise KnetTypeError(f"'{name}' of {op.name} {wrong}", keyword.span, notes)
            given[name] = keyword.value
        return given

    def warn_unused(self) -> None:
        """Warns of keyword arguments that no operator took."""
        unused = [key for key in self._collected if key not in self._used]
        for key in unused[:MAX_WARNINGS]:
            keyword, known = self._collected[key]
            self.warn(f"no operator takes the keyword '{key[3]}'{did_you_mean(key[3], known)}", keyword.span)


def user_keywords(op: OpDef) -> list[str]:
    """The keywords of a primitive that a program may give."""
    return [name for name, keyword in op.keywords.items() if not keyword.internal]


def unknown_keyword(operator: str, name: str, keyword: Keyword, known: list[str], *notes: Note) -> KnetTypeError:
    """The error of a keyword argument that an operator does not have."""
    return KnetTypeError(f"{operator} has no keyword '{name}'{did_you_mean(name, known)}", keyword.span, notes)


def via_notes(scope: Scope) -> list[Note]:
    """The calls that lead to a scope, the nearest first."""
    notes = []
    via = scope.via
    while via is not None:
        notes.append(Note("called from here", via))
        via = via.via
    return notes
