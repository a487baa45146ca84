"""Where everything of a graph stands in a picture.

Before it: `graph.py`. After it: `svg.py`. A call is laid out on its own, from the inside out (`level.py`), and is then
one box of the call around it. What comes into a call enters its frame through a port at the top, what leaves it does so
at the bottom.
"""

from __future__ import annotations

from knetc.drawing.graph import Cluster, Graph
from knetc.drawing.level import IN, OUT, End, Level, Link, identity
from knetc.drawing.picture import Frame, Key, Label, Picture, Rect, Route


def layout(graph: Graph) -> Picture:
    """Lays a graph out."""
    level = _level(graph, graph.root, _lifted(graph), {name: n for n, name in enumerate(graph.nodes)})
    picture = Picture(graph, level.width, level.height)
    _emit(level, picture, 0.0, 0.0, 0)
    return picture


def _lifted(graph: Graph) -> dict[int, dict[Link, None]]:
    """Every edge as links inside the calls that it goes through, by the identity of the call; each link once."""
    around: dict[str, list[Cluster]] = {}
    stack = [[graph.root]]
    while stack:
        path = stack.pop()
        around.update(dict.fromkeys(path[-1].nodes, path))
        stack += [[*path, inner] for inner in path[-1].inner]
    found: dict[int, dict[Link, None]] = {}

    def add(cluster: Cluster, key: Key, source: End, target: End) -> None:
        found.setdefault(id(cluster), {})[key, source, target] = None

    for edge in graph.edges:
        key = (edge.source, edge.back)
        start, stop = around[edge.source], around[edge.target]
        common = sum(1 for a, b in zip(start, stop, strict=False) if a is b)
        source: End = edge.source
        for cluster in reversed(start[common:]):
            add(cluster, key, source, OUT)
            source = identity(cluster)
        target: End = edge.target
        for cluster in reversed(stop[common:]):
            add(cluster, key, IN, target)
            target = identity(cluster)
        add(start[common - 1], key, source, target)
    return found


def _level(graph: Graph, cluster: Cluster, links: dict[int, dict[Link, None]], order: dict[str, int]) -> Level:
    """The inside of a call, with the calls in it laid out before."""
    shapes = {edge.source: edge.shape for edge in graph.edges}

    def make(cluster: Cluster) -> Level:
        inner = [make(each) for each in cluster.inner]
        first = min([order[name] for name in cluster.nodes] + [level.first for level in inner])
        nodes = [(order[name], graph.nodes[name], shapes.get(name, "")) for name in cluster.nodes]
        return Level(cluster, first, nodes, inner, list(links.get(id(cluster), {})))

    return make(cluster)


def _emit(level: Level, picture: Picture, dx: float, dy: float, depth: int) -> None:
    """Adds what a level has laid out, moved to its place in the picture."""
    picture.frames.append(Frame(level.cluster, Rect(dx, dy, level.width, level.height), depth))
    for name, rect in level.boxes():
        picture.boxes[name] = Rect(rect.x + dx, rect.y + dy, rect.width, rect.height)
    for route in level.routes:
        points = tuple((x + dx, y + dy) for x, y in route.points)
        picture.routes.append(Route(route.key, points, route.curve, route.arrow))
    picture.labels += [Label(label.text, label.x + dx, label.y + dy) for label in level.labels()]
    for inner, x, y in level.inner():
        _emit(inner, picture, x + dx, y + dy, depth + 1)
