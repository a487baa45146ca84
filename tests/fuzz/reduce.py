"""Makes a random model smaller whose builds differ, so that a person can see why.

Before: `compare.draw`, for a seed that failed. After: a test in `test_found.py`, once what was at fault is mended.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from .compare import Levels, Trial, builds, refused
from .programs import Made
from .twins import Difference, Twins

TRIES = 4
_OPERATORS = re.compile(r"[,;]| \.?[-*+/^] ")


def reduced(trial: Trial) -> Trial | None:
    """The smallest model that was found by leaving out statements and terms, and differs still; None if none does."""
    made, ends = trial.made, (trial.levels[0], trial.levels[-1])
    levels = next((levels for levels in (ends, trial.levels) if _differs(made, levels)), None)
    if levels is None:
        return None
    tried = {made.source}
    while True:
        for source in smaller(made.source):
            found = Made(source, made.inputs, made.whole)
            if source not in tried and _differs(found, levels):
                made = found
                break
            tried.add(source)
        else:
            return trial._replace(made=made, levels=levels)


def _differs(made: Made, levels: Levels) -> bool:
    """Whether a model compiles, and its builds differ in some of a few runs."""
    try:
        if refused(made):
            return False
        for seed in range(TRIES):
            Twins(made, builds(made, levels, seed), random.Random(seed)).run(2)
    except Difference:
        return True
    except Exception:  # other models fail in other ways
        return False
    return False


def smaller(source: str) -> Iterator[str]:
    """The source without one definition, `if`, statement or term, the largest first."""
    lines = source.split("\n")
    for at, line in enumerate(lines):
        if re.match(r"@knet function (?!m\()|\s+if ", line):
            depth = len(line) - len(line.lstrip())
            end = next(k for k in range(at + 1, len(lines)) if lines[k] == " " * depth + "end")
            yield _without(lines, at, end + 1)
            if depth:
                inside = [x for x in lines[at + 1 : end] if not re.match(rf" {{{depth}}}else", x)]
                yield "\n".join([*lines[:at], *inside, *lines[end + 1 :]])
    for at, line in enumerate(lines):
        if line.startswith(" ") and not re.match(r"\s+(if|else|end)", line):
            yield _without(lines, at, at + 1)
    for at, line in enumerate(lines):
        for text in _shorter(line) if re.match(r"\s+(\w+ = |return )", line) else ():
            yield "\n".join([*lines[:at], text, *lines[at + 1 :]])


def _without(lines: Sequence[str], start: int, end: int) -> str:
    return "\n".join([*lines[:start], *lines[end:]])


def _shorter(line: str) -> Iterator[str]:
    """The line with a call, or what stands in brackets, replaced by one of the terms in it."""
    for opening in re.finditer(r"\w*\(", line):
        inside = _inside(line, opening.end())
        for term in _terms(inside):
            if "=" not in term and len(term) + 2 < len(opening[0]) + len(inside) + 1:
                yield f"{line[: opening.start()]}({term}){line[opening.end() + len(inside) + 1 :]}"


def _inside(line: str, start: int) -> str:
    """What stands from `start` to the bracket that closes there."""
    depth = 1
    for at in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[at], 0)
        if not depth:
            return line[start:at]
    return line[start:]


def _terms(text: str) -> Iterator[str]:
    """The arguments and operands in a text, those in brackets as a whole."""
    start = at = 0
    while at < len(text):
        found = _OPERATORS.match(text, at)
        if found:
            yield text[start:at].strip()
            start = found.end()
        step = len(_inside(text, at + 1)) + 2 if text[at] == "(" else len(found[0]) if found else 1
        at += step
    yield text[start:].strip()
