"""What a person reads in the emitted file: the head comment, and the Knet lines above kernels and statements.

Before: the plan and its instructions' positions in the source. After: `codegen.emit`. Nothing here says where or when
the file was made.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from knetc.codegen.spec import Module
from knetc.errors import Span
from knetc.ir.footprint import bound_bytes, peak_bytes, step_bytes, unshared_bytes, whole_bound_bytes, whole_bytes
from knetc.ir.plan import REPORT_BATCH, Buffer, Plan, Unit, flat
from knetc.ir.program import Instr
from knetc.values import show

_MOST_PLACES = 6
_MOST_BUFFERS = 40


def outermost(span: Span | None) -> Span | None:
    """The place in the user's own text: the call through which inlined definitions were reached."""
    while span is not None and span.via is not None:
        span = span.via
    return span


def place_text(span: Span) -> str:
    """`lenet.knet:4: x1 = …`, without the folder."""
    return _place_text(_file(span), span.line, span.source.line(span.line))


@lru_cache(maxsize=4096)
def _place_text(file: str, number: int, line: str) -> str:
    return comment_text(f"{file}:{number}: {line.strip()}")


def comment_text(text: str) -> str:
    """Text that can stand in a `//` comment: no control characters, and no backslash at the end to join lines."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return f"{text}." if text.endswith(("\\", "??/")) else text


def _file(span: Span) -> str:
    return os.path.basename(span.source.name)


def where(instrs: Iterable[Instr]) -> list[str]:
    """The Knet lines that a kernel runs for, each once, the first few of many."""
    places: dict[str, None] = {}
    for instr in instrs:
        span = outermost(instr.span)
        if span is not None:
            places.setdefault(place_text(span))
    lines = list(places)
    if len(lines) > _MOST_PLACES:
        lines[_MOST_PLACES:] = [f"and {len(lines) - _MOST_PLACES} more"]
    return [f"  {line}" for line in lines]


def step_lines(units: Sequence[Unit]) -> Iterator[tuple[list[str], frozenset[int] | None, list[Unit]]]:
    """Units in groups of the same Knet lines and one condition on the wanted input gradients.

    Yields the comment (a line each; none where the lines go on), the condition and the units.
    """
    shown: list[str] = []
    for (lines, wanted), group in groupby(units, key=lambda u: (unit_places(u), u.wanted)):
        comment = [line for line in lines if line not in shown]
        yield [f"// {line}" for line in comment], wanted, list(group)
        shown = lines or shown


def unit_places(unit: Unit) -> list[str]:
    """The Knet lines that a unit runs for."""
    spans = [outermost(s.instr.span) for s in flat([unit])]
    return list(dict.fromkeys(place_text(span) for span in spans if span is not None))


# --- the head ---------------------------------------------------------------------------------------------------------


def header_lines(module: Module, language: str, memory: Iterable[str]) -> list[str]:
    """The comment at the head of the file: what it is, its source, its keywords, and the lines about its memory."""
    program = module.plan.program
    lines = [f"Knet model {program.name}, compiled by knetc to {language} ({module.dtype}, {module.options.math})."]
    if program.source is not None:
        lines += ["", f"Source, {os.path.basename(program.source.name)}:", ""]
        lines += [f"  {line.rstrip()}".rstrip() for line in program.source.text.rstrip("\n").split("\n")]
    if program.keywords:
        lines += ["", "Keywords: " + ", ".join(f"{key}={show(value)}" for key, value in program.keywords)]
    lines += ["", *memory]
    return [comment_text(line) for line in lines]


_MARKS = {
    "d:": "d:v is the gradient of v",
    "@prev": "v@prev what v was in the call before",
    "@next": "d:v@next the gradient that the step after hands back",
    "@block": "v@block several values, one above the other, from v on",
}


def buffer_lines(buffers: Sequence[Buffer]) -> list[str]:
    """A table of the first buffers, and what the marks in their names mean."""
    rows = [(b.kind, b.name, str(b.type), size_text(b.bytes(REPORT_BATCH))) for b in buffers[:_MOST_BUFFERS]]
    widths = [max((len(r[k]) for r in rows), default=0) for k in range(4)]
    lines = [
        f"  {kind:<{widths[0]}}  {name:<{widths[1]}}  {type:<{widths[2]}}  {size:>{widths[3]}}"
        for kind, name, type, size in rows
    ]
    if len(buffers) > len(rows):
        lines.append(f"  and {len(buffers) - len(rows)} more")
    marks = [text for mark, text in _MARKS.items() if any(mark in b.name for b in buffers)]
    return lines + (textwrap.wrap(f"{'; '.join(marks)}.", 110) if marks else [])


def memory_lines(plan: Plan) -> list[str]:
    """The memory table: the peak, what it would be without sharing and at the least, and every buffer's size."""
    peak, unshared, bound = (f(plan, REPORT_BATCH) for f in (peak_bytes, unshared_bytes, bound_bytes))
    lines = [
        f"Peak memory with a batch of {REPORT_BATCH}: {size_text(peak)} for {len(plan.buffers)} buffers",
        f"(without sharing {size_text(unshared)}; lower bound, the largest set live at once, {size_text(bound)}).",
        *buffer_lines(plan.buffers),
    ]
    if plan.states:
        lines.append(f"Each step on the stack takes {size_text(step_bytes(plan, REPORT_BATCH))} more.")
    whole = whole_bytes(plan, REPORT_BATCH)
    if whole:
        least = f"; lower bound {size_text(whole_bound_bytes(plan, REPORT_BATCH))}" if plan.arena else ""
        lines.append(f"A sequence that runs at once takes {size_text(whole)} for each of its steps{least}.")
    return lines


def size_text(size: int) -> str:
    """A size for people: `1.2 kB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns as wide as they need to be."""
    widths = [max(len(r[k]) for r in (head, *rows)) for k in range(len(head))]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
