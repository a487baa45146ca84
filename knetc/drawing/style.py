"""The look that `dot.py`, `layout.py` and `svg.py` share: colours, the typeface, the room that text takes."""

from __future__ import annotations

import math
import unicodedata

FONT = "DejaVu Sans Mono, Menlo, Consolas, Liberation Mono, monospace"
SIZE, TITLE, SMALL = 12, 11, 10  # of the text in boxes, of the titles of calls, beside edges; px
INK = "#1f2328"
LINE = "#57606a"
FAINT = "#5c6670"
EDGE = "#c3cad1"
PAPER = "#ffffff"
FILLS = {"par": "#d8e6fd", "arr": "#e7e7ea", "rnd": "#fde8c4", "state": "#dcf2dd"}
CLUSTERS = ("#f3f5f7", "#e6eaee")  # by depth, in turns

_ADVANCE = 0.61  # of a character, in sizes of the text: the widest of the faces in FONT


def fill(kind: str) -> str:
    """The colour of a box, or of a line of a box, of this kind."""
    return FILLS.get(kind, PAPER)


def text_width(text: str, size: int = SIZE) -> int:
    """The room for a line of text in whole px; an ideograph takes two cells, a combining mark none."""
    cells = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return math.ceil(_ADVANCE * size * cells)
