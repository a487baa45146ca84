"""Text files of pass tests: a program before, the passes that run, the program or the whole error after.

A file is a few lines that say what it shows, then sections, each headed `=== NAME VALUE`:

    === passes state            the pass that runs, or the first and the last of a stretch of them
    === options losses=zero inputs=5,N
    === knet                    a Knet source, lowered by the front end; or
    === before                  a program as text
    === after                   the program expected; or
    === error                   the whole text of the error expected

`KNETC_UPDATE=1 pytest tests/passes` writes what came into the files; read the difference before you keep it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from knetc.errors import KnetError, Source
from knetc.ir.pipeline import PIPELINE, run_pass
from knetc.ir.printer import print_program
from knetc.ir.program import Program
from knetc.ir.reader import read_program
from knetc.ir.types import N, PartialDims
from knetc.ir.verify import verify
from knetc.options import Options
from knetc.record import replace

CASES = Path(__file__).parent / "cases"
UPDATE = os.environ.get("KNETC_UPDATE") == "1"


@dataclass
class Case:
    """One file, as its sections: (head, value, text)."""

    path: Path
    intro: str
    sections: list[tuple[str, str, str]]

    def get(self, head: str) -> tuple[str, str] | None:
        return next(((value, text) for h, value, text in self.sections if h == head), None)

    def write(self, head: str, text: str) -> None:
        """The file with its last section replaced."""
        self.sections[-1] = (head, "", text)
        parts = [f"=== {h} {v}".rstrip() + "\n" + t for h, v, t in self.sections]
        self.path.write_text(self.intro + "".join(parts), encoding="utf-8")


def read_case(path: Path) -> Case:
    intro, *parts = path.read_text(encoding="utf-8").split("=== ")
    sections = []
    for part in parts:
        first, _, text = part.partition("\n")
        head, _, value = first.partition(" ")
        sections.append((head, value, text))
    return Case(path, intro, sections)


def dims(text: str) -> PartialDims | None:
    if text == "?":
        return None
    return tuple(N if d == "N" else None if d == "?" else int(d) for d in text.split(","))


def options(text: str) -> Options:
    """`inputs=28,28,1,N;10,N losses=zero,softloss level=0 dtype=f64`; `?` leaves an input's shape open."""
    found = Options()
    for word in text.split():
        key, _, value = word.partition("=")
        if key == "inputs":
            found = replace(found, inputs=tuple(dims(d) for d in value.split(";")))
        elif key == "losses":
            found = replace(found, losses=tuple(value.split(",")))
        elif key == "level":
            found = replace(found, level=int(value))
        else:
            assert key == "dtype", f"unknown option {word}"
            found = replace(found, dtype=value)
    return found


def before(case: Case) -> Program:
    knet = case.get("knet")
    if knet is None:
        return read_program(case.get("before")[1], case.path.name)  # type: ignore[index]
    from knetc.frontend.lower import lower

    return lower(Source(case.path.stem + ".knet", knet[1]), None, {})


def outcome(case: Case) -> tuple[str, str]:
    """What running the case gives: (`after`, the program) or (`error`, the message)."""
    names = [p.name for p in PIPELINE]
    passes = (case.get("passes") or ("", ""))[0].split() or [names[0], names[-1]]
    chosen = PIPELINE[names.index(passes[0]) : names.index(passes[-1]) + 1]
    found = options((case.get("options") or ("", ""))[0])
    try:
        program = before(case)
        verify(program)
        for step in chosen:
            program = run_pass(step, program, found)
            assert read_program(print_program(program)) == program
    except KnetError as error:
        return "error", error.render() + "\n"
    return "after", print_program(program)
