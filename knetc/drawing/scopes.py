"""Which call of a compound operator each instruction stands in, read off its position and its name.

Before it: a program whose calls are inlined. After it: `graph.py`, which draws every call as a cluster. An inlined
instruction's span has the calls through which it was reached (`Span.via`), the outermost last; its name has the names
of these calls (`h/1/gru/reset`), except where it is the value that a call hands on (`return relu(…)` in `a = f(x)` is
called `a`). `repeat` makes several calls of one place: there the number after its name tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from knetc.errors import Span
from knetc.ir.passes.state import RESULT
from knetc.ir.program import Instr

Scope: TypeAlias = "tuple[tuple[str, Span], ...]"
"""The calls around an instruction from the outside in: the name under which each was inlined, and where it stands."""

_MARK = re.compile(r"[#@].*")  # of a value: `h#2`, `h@prev`
_NAMES = re.compile(r"[^/]+(?:/[0-9]+(?=/))?")
_DEFINITION = re.compile(r"\s*@knet\s+function\s+([^\s(]+)")


class Scopes:
    """The scopes of a list of instructions."""

    def __init__(self, instrs: Iterable[Instr]) -> None:
        self._known: dict[tuple[Span, ...], dict[tuple[str, ...], None]] = {}
        self._ended: set[tuple[str, ...]] = set()  # calls whose value is a temporary of their own
        for i in instrs:
            calls, names = _calls(i), _split(i.out)
            if len(names) == len(calls) + 1:
                for k in range(1, len(calls) + 1):
                    self._known.setdefault(calls[:k], {})[tuple(names[:k])] = None
                if names[-1] == RESULT:
                    self._ended.add(tuple(names[:-1]))

    def of(self, instr: Instr) -> Scope:
        """The scope of an instruction; a `state` stands where its variable is assigned to."""
        calls = _calls(instr)
        names = _split(instr.out)
        path = tuple(names[:-1])
        if instr.op == "state":
            calls = calls[: len(path)]
        for k in range(len(path), len(calls)):
            found = [p for p in self._known.get(calls[: k + 1], ()) if p[:-1] == path]
            path = self._last(found) if found else (*path, _unnamed(names[-1], (*calls, instr.span)[k + 1]))
        return tuple(zip(path, calls, strict=False))

    def _last(self, found: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Of the calls that `repeat` makes of one place, the one that hands its value on: the last.

        Where the last has no other instruction it is in no name: it comes after one that ended with a temporary.
        """
        last = found[-1]
        name, slash, number = last[-1].partition("/")
        return (*last[:-1], f"{name}/{int(number) + 1}") if slash and last in self._ended else last


def _unnamed(variable: str, inside: Span | None) -> str:
    """What to call a call of which no name tells: by the variable that takes its value, else by its definition."""
    return variable if variable != RESULT or inside is None else definition(inside) or variable


def _calls(instr: Instr) -> tuple[Span, ...]:
    """The calls through which an instruction was reached, from the outside in."""
    calls = []
    via = instr.span.via if instr.span else None
    while via is not None:
        calls.append(via)
        via = via.via
    return tuple(reversed(calls))


def _split(name: str) -> list[str]:
    """`h/1/gru/reset#2` as `h/1`, `gru`, `reset`."""
    return _NAMES.findall(_MARK.sub("", name))


def definition(span: Span) -> str:
    """The name of the definition in whose text a position lies; empty where the text is not there."""
    for number in range(span.line, 0, -1):
        if found := _DEFINITION.match(span.source.line(number)):
            return found.group(1)
    return ""
