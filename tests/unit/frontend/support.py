"""Helpers of the front end's tests: programs as short text, diagnostics as the user sees them."""

from __future__ import annotations

from collections.abc import Mapping

from knetc.errors import Diagnostic, KnetError, Source
from knetc.frontend.lower import lower
from knetc.ir.program import Instr, Program
from knetc.ops.base import registry
from knetc.values import Value, show


def program(text: str, model: str | None = None, name: str = "m.knet", **keywords: Value) -> Program:
    return lower(Source(name, text), model, keywords)


def short(instr: Instr) -> str:
    """`out = op(args; changed keywords) if guard`."""
    defaults = {k: v.default for k, v in registry()[instr.op].keywords.items()} if instr.op != "let" else {}
    attrs = [f"{k}={show(v)}" for k, v in instr.attrs if k != "stream" and defaults[k] != v]
    inside = ", ".join(instr.args) + ("; " + ", ".join(attrs) if attrs else "")
    guard = "" if str(instr.guard) == "true" else f" if {instr.guard}"
    return f"{instr.out} = {instr.op}({inside}){guard}"


def lines(text: str, model: str | None = None, **keywords: Value) -> list[str]:
    """The lowered instructions of a program, each as short text."""
    return [short(i) for i in program(text, model, **keywords).variants[0].forward]


def body(*statements: str, head: str = "f(x)", **keywords: Value) -> list[str]:
    """The same for one definition with these statements."""
    return lines(f"@knet function {head}\n" + "\n".join(statements) + "\nend\n", None, **keywords)


def messages(text: str | None, model: str | None = None, name: str = "m.knet", **keywords: Value) -> str:
    """The whole text of the errors that a source gets."""
    return failure(text, model, name, keywords).render()


def failure(text: str | None, model: str | None, name: str, keywords: Mapping[str, Value]) -> KnetError:
    try:
        lower(None if text is None else Source(name, text), model, keywords)
    except KnetError as error:
        return error
    raise AssertionError("no error was reported")


def warnings(text: str, **keywords: Value) -> str:
    """The whole text of the warnings that a source gets."""
    found: list[Diagnostic] = []
    lower(Source("m.knet", text), None, keywords, warnings=found)
    return "\n".join(w.render() for w in found)
