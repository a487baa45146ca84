"""What a picture is made of: boxes, the frames of calls, lines, labels. Made by `layout.py`, written by `svg.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from knetc.drawing import style
from knetc.drawing.graph import Cluster, Graph, Node

ROW, PAD = 16, 8  # the height of a line of text in a box; the room at its sides

Key: TypeAlias = tuple[str, bool]
"""What a line carries: the box that makes the value, and whether it leads back."""
Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Rect:
    """A place in the picture, in px from the top left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Frame:
    """The frame of a call; `depth` is 0 for the whole graph."""

    cluster: Cluster
    rect: Rect
    depth: int


@dataclass(frozen=True, slots=True)
class Route:
    """A piece of line through `points`. `arrow`: it ends at the box that uses the value.

    Of its four points, a `curve` goes straight down from the first to the second and from the third to the fourth, and
    bends between; any other turns at right angles.
    """

    key: Key
    points: tuple[Point, ...]
    curve: bool
    arrow: bool


@dataclass(frozen=True, slots=True)
class Label:
    """The shape of a value, beside the line that leaves its box; `y` is that of its baseline."""

    text: str
    x: float
    y: float


@dataclass(slots=True)
class Picture:
    """A graph with the place of everything; `boxes` by the name of the node."""

    graph: Graph
    width: float = 0.0
    height: float = 0.0
    boxes: dict[str, Rect] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def box_size(node: Node) -> tuple[float, float]:
    """Width and height of a node's box."""
    texts = [node.title, *node.lines, *(held.text for held in node.held)]
    return max(map(style.text_width, texts)) + 2 * PAD, ROW * len(texts) + PAD
