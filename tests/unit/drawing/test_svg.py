"""Pictures: well-formed, everything there and in its place, nothing in the way of anything else."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from knetc.drawing.graph import Cluster, graphs
from knetc.drawing.layout import layout
from knetc.drawing.picture import Picture, Point, Rect, Route
from knetc.drawing.svg import svg
from knetc.ir.program import Program
from knetc.ir.types import N

from .support import EXAMPLES, example, random_model, typed

SVG = "{http://www.w3.org/2000/svg}"
SEEDS = range(16)
PROGRAMS = [*EXAMPLES, *SEEDS]


@cache
def program(which: str | int) -> Program:
    return example(which) if isinstance(which, str) else typed(random_model(which), (4, N), (4, N))


@cache
def pictures(which: str | int) -> list[Picture]:
    return [layout(graph) for graph in graphs(program(which))]


def overlap(a: Rect, b: Rect) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


def within(inner: Rect, outer: Rect) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width + 1e-6
        and inner.y + inner.height <= outer.y + outer.height + 1e-6
    )


def strokes(route: Route) -> list[Rect]:
    """What a route is made of: upright and level strokes, and points of the bend."""
    if not route.curve:
        return [stroke(p, q) for p, q in itertools.pairwise(route.points)]
    a, b, c, d = route.points
    middle = (b[1] + c[1]) / 2
    bend = [b, (b[0], middle), (c[0], middle), c]
    found = [stroke(a, b), stroke(c, d)]
    for t in (n / 32 for n in range(33)):
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        x, y = (sum(w * p[k] for w, p in zip(weights, bend, strict=True)) for k in (0, 1))
        found.append(Rect(x, y, 0, 0))
    return found


def stroke(p: Point, q: Point) -> Rect:
    assert p[0] == q[0] or p[1] == q[1], "neither upright nor level"
    return Rect(min(p[0], q[0]), min(p[1], q[1]), abs(p[0] - q[0]), abs(p[1] - q[1]))


@pytest.mark.parametrize("which", PROGRAMS)
def test_no_box_overlaps_another_and_each_lies_in_the_frame_of_its_call(which: str | int) -> None:
    for picture in pictures(which):
        graph = picture.graph
        assert picture.boxes.keys() == graph.nodes.keys()
        for a, b in itertools.combinations(picture.boxes.values(), 2):
            assert not overlap(a, b)
        frames = {id(frame.cluster): frame.rect for frame in picture.frames}

        def check(cluster: Cluster, picture: Picture = picture, frames: dict[int, Rect] = frames) -> None:
            rect = frames[id(cluster)]
            parts = [picture.boxes[name] for name in cluster.nodes] + [frames[id(c)] for c in cluster.inner]
            assert all(within(part, rect) for part in parts)
            assert not any(overlap(a, b) for a, b in itertools.combinations(parts, 2))
            for inner in cluster.inner:
                check(inner)

        check(graph.root)


@pytest.mark.parametrize("which", PROGRAMS)
def test_no_line_runs_through_a_box(which: str | int) -> None:
    for picture in pictures(which):
        boxes = np.array(
            [(b.x + 0.5, b.y + 0.5, b.x + b.width - 0.5, b.y + b.height - 0.5) for b in picture.boxes.values()]
        )
        for part in (part for route in picture.routes for part in strokes(route)):
            assert within(part, Rect(0, 0, picture.width, picture.height))
            beside = (part.x >= boxes[:, 2]) | (part.x + part.width <= boxes[:, 0])
            over = (part.y >= boxes[:, 3]) | (part.y + part.height <= boxes[:, 1])
            assert np.all(beside | over)


@pytest.mark.parametrize("which", PROGRAMS)
def test_lines_lead_from_every_value_to_its_uses_and_nowhere_else(which: str | int) -> None:
    """Followed from its box, a value's line reaches by arrows just the boxes that use it."""
    for picture in pictures(which):
        graph = picture.graph
        keys = {(edge.source, edge.back) for edge in graph.edges}
        assert {route.key for route in picture.routes} == keys
        for key in keys:
            box = picture.boxes[key[0]]
            pieces = [r for r in picture.routes if r.key == key]
            reached = [(box.x + box.width / 2, box.y + box.height)]
            while new := [r for r in pieces if any(math.dist(r.points[0], at) < 1e-6 for at in reached)]:
                pieces = [r for r in pieces if r not in new]
                reached += [r.points[-1] for r in new]
            assert not pieces, "a piece of line hangs in the air"
            ends = {r.points[-1] for r in picture.routes if r.key == key and r.arrow}
            wanted = {e.target for e in graph.edges if (e.source, e.back) == key}
            found = [name for name, b in picture.boxes.items() for x, y in ends if on_top(b, x, y)]
            assert Counter(found) == Counter(wanted)


def on_top(box: Rect, x: float, y: float) -> bool:
    return box.x <= x <= box.x + box.width and abs(box.y - y) < 1e-5


@pytest.mark.parametrize("which", PROGRAMS)
def test_labels_keep_clear_of_boxes_and_of_each_other(which: str | int) -> None:
    for picture in pictures(which):
        graph = picture.graph
        labels = [Rect(label.x, label.y - 8, 6.1 * len(label.text), 9) for label in picture.labels]
        assert len(labels) == len({edge.source for edge in graph.edges})
        for label in labels:
            assert not any(overlap(label, box) for box in picture.boxes.values())
        assert not any(overlap(a, b) for a, b in itertools.combinations(labels, 2))


@pytest.mark.parametrize("which", EXAMPLES)
def test_the_file_is_well_formed_and_holds_every_box(which: str) -> None:
    made = program(which)
    root = ElementTree.fromstring(svg(made))
    groups = [g for g in root.iter(f"{SVG}g") if g.get("class") == "graph"]
    for group, graph in zip(groups, graphs(made), strict=True):
        names = [g.get("data-name") for g in group.iter(f"{SVG}g") if g.get("class") == "node"]
        assert sorted(map(str, names)) == sorted(graph.nodes)
        dashed = [p for p in group.iter(f"{SVG}path") if p.get("class") == "line back"]
        assert bool(dashed) == any(edge.back for edge in graph.edges)
    width, height = (float(str(root.get(side))) for side in ("width", "height"))
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(str(text.get("x"))) <= width and 0 <= float(str(text.get("y"))) <= height


@pytest.mark.parametrize("which", EXAMPLES)
def test_no_text_leaves_its_box(which: str) -> None:
    """Measured in the first face of the list, which matplotlib brings along."""
    paths = pytest.importorskip("matplotlib.textpath", reason="matplotlib, of the dev extra, has the font to measure")
    fonts = pytest.importorskip("matplotlib.font_manager")
    font = fonts.FontProperties(family="DejaVu Sans Mono")
    for node in ElementTree.fromstring(svg(program(which))).iter(f"{SVG}g"):
        if node.get("class") == "node":
            box = next(iter(node.iter(f"{SVG}rect")))
            left, top, width, height = (float(str(box.get(k))) for k in ("x", "y", "width", "height"))
            for text in node.iter(f"{SVG}text"):
                extent = paths.TextPath((0, 0), str(text.text), size=12, prop=font, usetex=False).get_extents()
                middle, baseline = float(str(text.get("x"))), float(str(text.get("y")))
                assert left < middle - extent.width / 2 and middle + extent.width / 2 < left + width
                assert top < baseline - extent.y1 and baseline - extent.y0 < top + height


def test_what_xml_cannot_hold_is_escaped_or_left_out() -> None:
    text = "@knet function m(x)\n θ! = x .* x # <&\f\x01>\n return relu(θ!)\nend\n"
    made = svg(typed(text, (4, N), name='<&"\udcff.knet'))
    made.encode()
    titles = [title.text for title in ElementTree.fromstring(made).iter(f"{SVG}title")]
    assert '<&" .knet:2: θ! = x .* x # <&  >' in titles


@pytest.mark.parametrize(
    "text",
    [
        "@knet function m(x)\n return x\nend\n",
        "@knet function m()\n return par(dims=(3,1))\nend\n",
        "@knet function m(x)\n w = par(dims=(3,3))\n return x\nend\n",
        "@knet function w()\n return par(dims=(4,4))\nend\n@knet function m(x)\n return w() * x\nend\n",
    ],
)
def test_models_without_operations(text: str) -> None:
    made = typed(text, *[(4, N)] * text.count("m(x)"))
    (graph,) = graphs(made)
    names = [g.get("data-name") for g in ElementTree.fromstring(svg(made)).iter(f"{SVG}g") if g.get("class") == "node"]
    assert sorted(map(str, names)) == sorted(graph.nodes)


def test_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "tests" / "golden" / "models" / "gru2.knet"
    for kind in ("svg", "dot"):
        made = {
            subprocess.run(
                [sys.executable, "-m", "knetc.cli", str(path), "--emit", kind, "-o", "-"],
                env={**os.environ, "PYTHONHASHSEED": seed},
                check=True,
                capture_output=True,
            ).stdout
            for seed in ("0", "1", "4711")
        }
        assert len(made) == 1
