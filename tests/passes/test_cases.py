"""Every text file of `cases/`: what a pass, or a stretch of them, makes of a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runner import CASES, UPDATE, outcome, read_case


@pytest.mark.parametrize("path", sorted(CASES.glob("*.txt")), ids=lambda p: p.stem)
def test_case(path: Path) -> None:
    case = read_case(path)
    head, text = outcome(case)
    if UPDATE:
        case.write(head, text)
    assert (head, text) == (case.sections[-1][0], case.sections[-1][2])
