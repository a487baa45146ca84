"""One call of a definition while it is inlined: what its names stand for at the point that lowering has reached.

Made and used by `lower.py`. A name is a compile-time value (a keyword parameter, a local that was given one, a constant
of the file), an array of the caller (a positional parameter), or a variable of this call.
"""

from __future__ import annotations

from typing import NoReturn, TypeAlias

from knetc.errors import KnetLimitation, KnetNameError, KnetTypeError, Note, Span
from knetc.frontend import ast
from knetc.frontend.consteval import CONSTANTS, did_you_mean
from knetc.frontend.resolve import Function, Library
from knetc.ir.program import ALWAYS, Guard
from knetc.values import Value, show


class Var:
    """A run-time array, by the name of its variable."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Nothing:
    """The result of a call that returns no value."""


NOTHING = Nothing()
Operand: TypeAlias = "Var | Nothing | Value"


class Keyword:
    """A keyword argument on its way to the operator that takes it.

    `span` is where it stands in a call, `origin` where its value was written, if that is elsewhere. `written`: it
    stands in the call itself rather than coming through `o...`. `key` tells arguments apart for the warning that one
    was never used.
    """

    __slots__ = ("key", "origin", "span", "value", "written")

    def __init__(
        self,
        value: Value,
        span: Span | None,
        key: tuple[str, int, int, str],
        origin: Span | None = None,
        written: bool = True,
    ) -> None:
        self.value = value
        self.span = span
        self.key = key
        self.origin = origin
        self.written = written

    def passed_on(self) -> Keyword:
        """The same argument, come through a splat."""
        return Keyword(self.value, self.span, self.key, self.origin, written=False)


class Poisoned(Exception):
    """A use of what an error was reported for already; nothing more is said of it."""


class Scope:
    """The names of one inlined call.

    `path` stands before the names of its variables (`c1/`), `via` is the span of the call. `guard` is the condition
    under which the current statement runs. `result` is the variable that takes the value returned.
    """

    def __init__(self, function: Function, library: Library, path: str, via: Span | None) -> None:
        self.function = function
        self.path = path
        self.via = via
        self.guard: Guard = ALWAYS
        self.result = ""
        self.returned = False
        self.failed = False
        self.constants: dict[str, Value] = {}
        self.origins: dict[str, Span] = {}
        self.varying: dict[str, Span] = {}
        self.arrays: dict[str, str] = {}
        self.rest: dict[str, Keyword] = {}
        self.read: dict[str, Span] = {}
        self.written: set[str] = set()
        self.itself: dict[str, Span] = {}  # where a variable is assigned to itself
        self.poisoned: set[str] = set()
        self._library = library
        self._taken: set[str] = set()
        self._temps = 0

    # --- what a name stands for

    def operand(self, name: ast.Name) -> Operand:
        """The value of a name in an expression; raises KnetError where it has none."""
        text = name.name
        if text in self.constants:
            return self.constants[text]
        if text in self.arrays:
            return Var(self.arrays[text])
        if text in self.poisoned:
            raise Poisoned
        if text in self.varying:
            self._varies(name)
        if text in self.function.assigned:
            self.read.setdefault(text, name.span)
            return Var(self.path + text)
        return self.global_constant(name)

    def constant(self, name: ast.Name) -> Value:
        """The compile-time value of a name; raises KnetError where it has none."""
        text = name.name
        if self.is_array(text):
            raise KnetTypeError(
                f"'{text}' is an array, known only when the model runs; a compile-time value is needed here", name.span
            )
        value = self.operand(name)
        assert not isinstance(value, Var | Nothing)
        return value

    def _special(self, text: str) -> bool:
        return text in self.constants or text in self.poisoned or text in self.varying

    def global_constant(self, name: ast.Name) -> Value:
        """A constant of the file or of the language."""
        if name.name in self._file_constants():
            return self._file_constants()[name.name]
        if name.name in CONSTANTS:
            return CONSTANTS[name.name]
        self._unknown(name)

    def _file_constants(self) -> dict[str, Value]:
        return {} if self.function.builtin else self._library.constants

    def is_local(self, name: str) -> bool:
        """Whether a name is a parameter or a local variable."""
        f = self.function
        return name in self.constants or name in self.arrays or name in f.assigned or name in f.positional

    def is_array(self, name: str) -> bool:
        """Whether a name stands for an array, or will."""
        return name in self.arrays or (name in self.function.assigned and not self._special(name))

    def is_known(self, name: str) -> bool:
        """Whether a name is local or a constant, so that it is no condition of the run."""
        return self.is_local(name) or name in self._file_constants() or name in CONSTANTS

    def _varies(self, name: ast.Name) -> NoReturn:
        raise KnetLimitation(
            f"'{name.name}' has a compile-time value that depends on a condition of the run, which knetc cannot follow",
            name.span,
            [Note("it gets a value here", self.varying[name.name])],
        )

    def _unknown(self, name: ast.Name) -> NoReturn:
        text, f = name.name, self.function
        notes: list[Note] = []
        if text == f.rest:
            raise KnetTypeError(f"'{text}' holds keyword arguments; they are handed on with '{text}...'", name.span)
        if text in f.keywords:
            raise KnetNameError(
                f"'{text}' is used before it is defined; a default may use the parameters before it",
                name.span,
                [Note("it is defined here", f.keywords[text].span)],
            )
        file = self._library.file
        if file is not None and file.source.name.endswith(".jl"):
            notes.append(Note("of a .jl file only the @knet functions are read; give the value as a keyword"))
        if self._library.find(text, f.builtin) is not None:
            raise KnetNameError(
                f"'{text}' is an operator; write '{text}(…)' to call it, ':{text}' to name it", name.span
            )
        known = {*self.constants, *self.arrays, *f.assigned, *self._file_constants(), *CONSTANTS}
        raise KnetNameError(f"'{text}' is not defined{did_you_mean(text, known)}", name.span, notes)

    # --- assignments

    def assign_array(self, name: str) -> None:
        """`name` is a variable from here on."""
        self.constants.pop(name, None)
        self.varying.pop(name, None)
        self.poisoned.discard(name)
        self.written.add(name)

    def assign_constant(self, statement: ast.Assign, value: Value) -> None:
        """`name` is a compile-time value from here on."""
        name = statement.target
        if name in self.written or name in self.read:
            raise KnetLimitation(
                f"'{name}' is an array in one place and the compile-time value {show(value)} here",
                statement.target_span,
            )
        self.varying.pop(name, None)
        self.poisoned.discard(name)
        self.constants[name] = value

    def merge(self, before: dict[str, Value], ends: list[dict[str, Value]]) -> None:
        """The compile-time values after branches that each end with `ends`, of which one runs."""
        ends = ends or [before]
        merged = {}
        for name in {name for end in ends for name in end}:
            values = [end[name] for end in ends if name in end]
            if len(values) == len(ends) and all(type(v) is type(values[0]) and v == values[0] for v in values):
                merged[name] = values[0]
            elif name in self.function.assigned:
                self.varying[name] = self.function.assigned[name]
        self.constants = merged

    # --- names of variables

    def call_name(self, name: str, assigned: bool) -> str:
        """The scope of a call: the variable that takes its value, else its operator; numbered where that is taken."""
        found, number = name, 1
        while found in self._taken or (self._is_variable(found) and not (assigned and number == 1)):
            number += 1
            found = f"{name}{number}"
        self._taken.add(found)
        return self.path + found

    def temp(self) -> str:
        """A variable for the value of a subexpression."""
        while True:
            self._temps += 1
            name = f"tmp{self._temps}"
            if not self._is_variable(name):
                return self.path + name

    def _is_variable(self, name: str) -> bool:
        return name in self.function.assigned or name in self.function.positional
