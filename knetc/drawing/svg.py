"""A program as a picture (`--emit svg`), each variant by itself.

Before it: `layout.py`, which places everything. Nothing is needed to make it but Python, and every machine makes the
same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from knetc.drawing import style
from knetc.drawing.graph import Node, graphs
from knetc.drawing.layout import layout
from knetc.drawing.picture import PAD, ROW, Frame, Picture, Point, Rect, Route
from knetc.ir.program import Program

_MARGIN, _BETWEEN = 12, 36
_CORNER = 6.0

_STYLE = f"""\
text {{ font-family: {style.FONT}; font-size: {style.SIZE}px; fill: {style.INK}; }}
.title {{ font-size: {style.TITLE}px; fill: {style.FAINT}; }}
.shape {{ font-size: {style.SMALL}px; fill: {style.FAINT}; }}
.operation {{ text-anchor: middle; }}
.box {{ stroke: {style.LINE}; }}
.line {{ fill: none; stroke: {style.LINE}; stroke-width: 1.1; }}
.back {{ stroke-dasharray: 5 3; }}"""


def svg(program: Program) -> str:
    """The picture of a `typed` program; the same program gives the same text."""
    pictures = [layout(graph) for graph in graphs(program)]
    places, width, height = _arranged(pictures)
    size = f'width="{_n(width)}" height="{_n(height)}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {_n(width)} {_n(height)}">',
        f"<title>{escape(program.name)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        '<marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0.8 L8,4 L0,7.2 Z" fill="{style.LINE}"/></marker>',
        f'<rect {size} fill="{style.PAPER}"/>',
    ]
    for picture, (x, y) in zip(pictures, places, strict=True):
        lines += [f'<g class="graph" transform="translate({_n(x)},{_n(y)})">', *_picture(picture), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _arranged(pictures: list[Picture]) -> tuple[list[Point], float, float]:
    """Where each picture stands, and the size of them all: in a row or a column, whichever is less long."""
    sizes = [(p.width, p.height) for p in pictures]
    wide, high = (sum(size[k] for size in sizes) + _BETWEEN * (len(sizes) - 1) for k in (0, 1))
    widest, highest = (max(size[k] for size in sizes) for k in (0, 1))
    row = max(wide, highest) <= max(widest, high)
    places, at = [], float(_MARGIN)
    for width, height in sizes:
        places.append((at, float(_MARGIN)) if row else (float(_MARGIN), at))
        at += _BETWEEN + (width if row else height)
    return places, (wide if row else widest) + 2 * _MARGIN, (highest if row else high) + 2 * _MARGIN


def _picture(picture: Picture) -> Iterator[str]:
    for frame in picture.frames:
        yield from _frame(frame)
    for route in picture.routes:
        yield _route(route)
    for label in picture.labels:
        yield _text("shape", label.x, label.y, label.text)
    for name, rect in picture.boxes.items():
        yield from _box(picture.graph.nodes[name], rect)


def _frame(frame: Frame) -> Iterator[str]:
    rect = frame.rect
    yield f'<g class="call">{_place(frame.cluster.place)}'
    if frame.depth:
        fill = style.CLUSTERS[(frame.depth - 1) % len(style.CLUSTERS)]
        yield _rect(rect, f'rx="8" fill="{fill}" stroke="{style.EDGE}"')
    yield _text("title", rect.x + PAD, rect.y + 17, frame.cluster.title) + "</g>"


def _box(node: Node, rect: Rect) -> Iterator[str]:
    kind = node.kind
    dashed = ' stroke-dasharray="5 3"' if kind == "state" else ""
    corner = 3 if kind == "op" else 10
    yield f'<g class="node" data-name={quoteattr(node.name)}>{_place(node.place)}'
    yield _rect(rect, f'class="box" rx="{corner}" fill="{style.fill(kind)}"{dashed}')
    middle, y = rect.x + rect.width / 2, rect.y + PAD / 2
    for text in (node.title, *node.lines):
        yield _text("operation", middle, y + 12, text)
        y += ROW
    for held in node.held:
        strip = Rect(rect.x + 1, y + 1, rect.width - 2, ROW)
        yield _rect(strip, f'fill="{style.fill(held.kind)}"')
        yield _text("operation", middle, y + 13, held.text)
        y += ROW
    yield "</g>"


def _route(route: Route) -> str:
    if route.curve:
        (x, y), (_, a), (to, b), (_, end) = route.points
        bend = f" C{_n(x)},{_n((a + b) / 2)} {_n(to)},{_n((a + b) / 2)} {_n(to)},{_n(b)}" if to != x else ""
        path = f"M{_n(x)},{_n(y)}" + (f" V{_n(a)}{bend}" if bend else "") + f" V{_n(end)}"
    else:
        path = _rounded(route.points)
    back = " back" if route.key[1] else ""
    arrow = ' marker-end="url(#arrow)"' if route.arrow else ""
    return f'<path class="line{back}" d="{path}"{arrow}/>'


def _rounded(points: tuple[Point, ...]) -> str:
    """A path that turns at right angles, with round corners."""
    parts = [f"M{_n(points[0][0])},{_n(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        (ax, ay), (bx, by) = _towards(corner, before), _towards(corner, after)
        parts.append(f"L{_n(ax)},{_n(ay)} Q{_n(corner[0])},{_n(corner[1])} {_n(bx)},{_n(by)}")
    return " ".join([*parts, f"L{_n(points[-1][0])},{_n(points[-1][1])}"])


def _towards(corner: Point, other: Point) -> Point:
    """The point at which the rounding of a corner starts on the side of `other`."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = abs(dx) + abs(dy)
    share = min(_CORNER, length / 2) / length if length else 0.0
    return corner[0] + dx * share, corner[1] + dy * share


def _rect(rect: Rect, more: str) -> str:
    place = f'x="{_n(rect.x)}" y="{_n(rect.y)}" width="{_n(rect.width)}" height="{_n(rect.height)}"'
    return f"<rect {place} {more}/>"


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>'


def _place(text: str) -> str:
    """What a viewer shows when the pointer rests on the thing: the Knet lines."""
    return f"<title>{escape(text)}</title>" if text else ""


def _n(value: float) -> str:
    """A coordinate to a tenth of a px: the last bits of a sum are not the same on every machine."""
    return f"{round(value + 0.0, 1):g}"
