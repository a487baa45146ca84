"""The inside of one call in a picture, in coordinates of its frame.

Made by `layout.py` from the inside out. Everything stands in layers (`layering.py`), the ports at the top in the first
and those at the bottom in the last; a line runs straight down through a layer and bends in the gap below it, so no line
runs through a box. A line that leads back to a state variable goes round at the right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from knetc.drawing import style
from knetc.drawing.graph import Cluster, Node
from knetc.drawing.layering import Line, Vertex, place
from knetc.drawing.picture import PAD, Key, Label, Rect, Route, box_size
from knetc.errors import KnetInternalError

_FRAME = 14.0  # the room inside a frame
_HEAD = 26.0  # the height of its title
_APART = 22.0  # between boxes
_LANE = 7.0  # between lines that lead back
_ARROW = 12.0  # the room for the head of one of them
_LABEL = 15.0  # the height of a line of labels
_MOST_ROOM = 30.0  # by which a frame may be wider so that a line comes straight down beside its title
_BEND = (18.0, 56.0)  # the least and the most height for the bends of lines between two layers

IN, OUT = "@in", "@out"  # the ends of a link at the frame around it
End: TypeAlias = "str | int"
"""An end of a link: the name of a box, the identity of an inner call, IN or OUT."""
Link: TypeAlias = "tuple[Key, End, End]"


def identity(cluster: Cluster) -> int:
    """What stands for an inner call at the end of a link."""
    return id(cluster)


@dataclass(slots=True, eq=False)
class _Item:
    """A box or the frame of an inner call; `top` is its y, the middle of it the x of its vertex."""

    thing: Node | Level
    width: float
    height: float
    label: str
    vertex: Vertex
    first: bool  # nothing leads to it
    top: float = 0.0

    @property
    def left(self) -> float:
        return self.vertex.x - self.width / 2

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def entry(self, key: Key) -> float:
        """Where a line that carries `key` enters, from the middle."""
        return self.thing.entries[key].x - self.width / 2 if isinstance(self.thing, Level) else 0.0

    def exit(self, key: Key) -> float:
        """Where a line that carries `key` leaves, from the middle."""
        return self.thing.exits[key].x - self.width / 2 if isinstance(self.thing, Level) else 0.0


class Level:
    """A call laid out. `first`: the place of its first box in the program.

    `nodes`: its own boxes with their place in the program and the shape of each one's value. `entries`, `exits`: the
    ports. `routes`: the lines.
    """

    def __init__(
        self,
        cluster: Cluster,
        first: int,
        nodes: Iterable[tuple[int, Node, str]],
        inner: Iterable[Level],
        links: Sequence[Link],
    ) -> None:
        self.cluster, self.first = cluster, first
        self.entries: dict[Key, Vertex] = {}
        self.exits: dict[Key, Vertex] = {}
        self.routes: list[Route] = []
        self._lines: list[tuple[Key, Line]] = []
        self._back: list[Link] = []
        self._items = self._make_items(nodes, inner, links)
        self._last = 1 + max(item.vertex.layer for item in self._items.values())
        bends = self._make_lines(links)
        vertices = [item.vertex for item in self._items.values()]
        lines = [line for _, line in self._lines]
        place([*self.entries.values(), *vertices, *bends, *self.exits.values()], lines, _APART)
        self.width = self._across([*vertices, *bends])
        self._spread()
        self.height = self._down()
        self._route()

    # --- what there is

    def _make_items(
        self, nodes: Iterable[tuple[int, Node, str]], inner: Iterable[Level], links: Sequence[Link]
    ) -> dict[End, _Item]:
        """The boxes and inner calls in the order of the program."""
        things: list[tuple[int, Node | Level, str]] = [*nodes, *((level.first, level, "") for level in inner)]
        things.sort(key=lambda entry: entry[0])
        layers, fed = _layers([_end(thing) for _, thing, _ in things], links)
        items: dict[End, _Item] = {}
        for _, thing, label in things:
            width, height = (thing.width, thing.height) if isinstance(thing, Level) else box_size(thing)
            right = max(width / 2, style.text_width(label, style.SMALL) + PAD if label else 0.0)
            end = _end(thing)
            items[end] = _Item(thing, width, height, label, Vertex(layers[end], width / 2, right), end not in fed)
        return items

    def _make_lines(self, links: Iterable[Link]) -> list[Vertex]:
        """Each link as lines from layer to layer; those that carry one value share the way as far as it goes.

        Returns the bends in the layers between.
        """
        bends: dict[tuple[Key, int], Vertex] = {}
        drawn: set[tuple[Key, Vertex, Vertex]] = set()
        for key, source, target in links:
            if self._leads_back(source, target):
                self._back.append((key, source, target))
                continue
            vertex, start = self._source(key, source)
            last, end = self._target(key, target)
            for layer in range(vertex.layer + 1, last.layer + 1):
                bend = layer < last.layer
                below = bends.setdefault((key, layer), Vertex(layer, 4, 4, passing=True)) if bend else last
                if (key, vertex, below) not in drawn:
                    drawn.add((key, vertex, below))
                    self._lines.append((key, Line(vertex, below, start, 0.0 if bend else end)))
                vertex, start = below, 0.0
        return list(bends.values())

    def _leads_back(self, source: End, target: End) -> bool:
        if source == IN or target == OUT:
            return False
        return self._items[source].vertex.layer >= self._items[target].vertex.layer

    def _source(self, key: Key, end: End) -> tuple[Vertex, float]:
        """The vertex that a link starts from, and where on it."""
        if end == IN:
            return self.entries.setdefault(key, Vertex(0, 4, 4)), 0.0
        return self._items[end].vertex, self._items[end].exit(key)

    def _target(self, key: Key, end: End) -> tuple[Vertex, float]:
        if end == OUT:
            return self.exits.setdefault(key, Vertex(self._last, 4, 4)), 0.0
        return self._items[end].vertex, self._items[end].entry(key)

    # --- where it is

    def _across(self, inside: Sequence[Vertex]) -> float:
        """Moves everything so that the frame's left is 0; returns its width."""
        vertices = [*self.entries.values(), *inside, *self.exits.values()]
        title = style.text_width(self.cluster.title, style.TITLE) + 2 * PAD
        least, most = min(v.x - v.left for v in inside), max(v.x + v.right for v in inside)
        self._back.sort(key=self._span)  # the shortest run innermost
        self._leftwards = {link for link in self._back if self._items[link[2]].vertex.x < (least + most) / 2}
        left = least - _FRAME - _LANE * len(self._leftwards)
        ports = sorted(self.entries.values(), key=lambda v: v.x)
        if ports:  # they enter beside the title
            left = min(left, max(left - _MOST_ROOM, ports[0].x - ports[0].left - title))
        edge = left + title
        for port in ports:
            port.x = max(port.x, edge + port.left)
            edge = port.x + port.right + _LANE
        self._sides = (least - left, max(v.x + v.right for v in vertices) - left)
        for v in vertices:
            v.x -= left
        return max(self._sides[1] + _FRAME + _LANE * (len(self._back) - len(self._leftwards)), title)

    def _span(self, link: Link) -> int:
        """How many layers a line goes back."""
        return self._items[link[1]].vertex.layer - self._items[link[2]].vertex.layer

    def _spread(self) -> None:
        """Lines that end at one box end side by side, in the order in which they come."""
        for item in self._items.values():
            lines = item.vertex.above
            if isinstance(item.thing, Node) and len(lines) > 1:
                step = min(26.0, item.width / len(lines))
                for n, line in enumerate(sorted(lines, key=lambda line: line.source.x + line.start)):
                    line.end = (n - (len(lines) - 1) / 2) * step

    def _down(self) -> float:
        """The y of every layer and gap, from the top; returns the height of the frame.

        `_bands`: top and bottom of each layer. `_bends`: between which y the lines below a layer bend.
        """
        items: list[list[_Item]] = [[] for _ in range(self._last + 1)]
        for item in self._items.values():
            items[item.vertex.layer].append(item)
        bending = [0.0] * self._last
        for _, line in self._lines:
            across = abs(line.target.x + line.end - line.source.x - line.start)
            bending[line.source.layer] = max(bending[line.source.layer], min(_BEND[1], _BEND[0] + across / 8))
        self._bands, self._bends = [], []
        y = 0.0
        for layer, here in enumerate(items):
            height = max((item.height for item in here), default=_HEAD if layer == 0 else 0.0)
            for item in here:  # what nothing leads to stands low, near to its use
                item.top = y + height - item.height if item.first else y
            self._bands.append((y, y + height))
            y += height
            if layer < self._last:
                leaving = sum(1 for _, source, _ in self._back if self._items[source].vertex.layer == layer)
                coming = sum(1 for _, _, target in self._back if self._items[target].vertex.layer == layer + 1)
                start = y + (_LABEL if any(item.label for item in here) else 0.0) + _LANE * leaving
                stop = start + bending[layer]
                self._bends.append((start, stop))
                y = stop + (_ARROW + _LANE * coming if coming else 0.0)
                if not bending[layer]:
                    y = max(y, self._bands[-1][1] + (0.0 if layer == 0 else _FRAME))
        return y

    # --- lines

    def _route(self) -> None:
        items = {item.vertex: item for item in self._items.values()}
        for key, line in self._lines:
            source, target = line.source, line.target
            above, below = items.get(source), items.get(target)
            top = above.bottom if above else self._bands[source.layer][0]
            bottom = below.top if below else self._bands[target.layer][0]
            start, stop = self._bends[source.layer]
            x, to = source.x + line.start, target.x + line.end
            arrow = below is not None and isinstance(below.thing, Node)
            self.routes.append(Route(key, ((x, top), (x, start), (to, stop), (to, bottom)), True, arrow))
        below_layer, above_layer, beside = Counter[int](), Counter[int](), Counter[bool]()
        for link in self._back:
            key, source_item, target_item = link[0], self._items[link[1]], self._items[link[2]]
            layer, to_layer, left = source_item.vertex.layer, target_item.vertex.layer, link in self._leftwards
            beside[left] += 1
            x = source_item.vertex.x + source_item.exit(key)
            to = target_item.vertex.x + target_item.entry(key)
            lane = self._sides[0] - _LANE * beside[left] if left else self._sides[1] + _LANE * beside[left]
            y = self._bends[layer][0] - _LANE * below_layer[layer] - _LANE / 2
            above_layer[to_layer] += 1
            below_layer[layer] += 1
            free = target_item is self._outermost(to_layer, left)
            up = (target_item.top if free else self._bands[to_layer][0]) - _ARROW - _LANE * (above_layer[to_layer] - 1)
            points = ((x, source_item.bottom), (x, y), (lane, y), (lane, up), (to, up), (to, target_item.top))
            self.routes.append(Route(key, points, False, isinstance(target_item.thing, Node)))

    def _outermost(self, layer: int, left: bool) -> _Item:
        """The first or the last box of a layer: nothing stands between it and the frame."""
        here = [item for item in self._items.values() if item.vertex.layer == layer]
        return min(here, key=lambda item: item.left) if left else max(here, key=lambda item: item.left)

    # --- what there is to draw

    def boxes(self) -> Iterator[tuple[str, Rect]]:
        """The boxes of the call itself."""
        for item in self._items.values():
            if isinstance(item.thing, Node):
                yield item.thing.name, Rect(item.left, item.top, item.width, item.height)

    def labels(self) -> Iterator[Label]:
        """The shape of each box's value."""
        for item in self._items.values():
            if item.label:
                yield Label(item.label, item.vertex.x + PAD / 2, item.bottom + _LABEL - 4)

    def inner(self) -> Iterator[tuple[Level, float, float]]:
        """The calls in this one, and where."""
        for item in self._items.values():
            if isinstance(item.thing, Level):
                yield item.thing, item.left, item.top


def _end(thing: Node | Level) -> End:
    return thing.name if isinstance(thing, Node) else identity(thing.cluster)


def _layers(things: Sequence[End], links: Sequence[Link]) -> tuple[dict[End, int], set[End]]:
    """The layer of each thing, below all that it uses; and the things that use anything.

    What uses nothing stands just above its first use. State edges do not count.
    """
    above: dict[End, dict[End, None]] = {thing: {} for thing in things}
    below: dict[End, dict[End, None]] = {thing: {} for thing in things}
    for (_, back), source, target in links:
        if not back and target != OUT:
            above[target][source] = None
            if source != IN:
                below[source][target] = None
    waiting = {thing: sum(source != IN for source in above[thing]) for thing in things}
    ready = [thing for thing in reversed(things) if not waiting[thing]]
    layers: dict[End, int] = {}
    while ready:
        thing = ready.pop()
        layers[thing] = 1 + max((layers.get(source, 0) for source in above[thing]), default=0)
        for target in below[thing]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(layers) < len(things):
        raise KnetInternalError("the calls to draw form a cycle")
    for thing in things:
        if not above[thing] and below[thing]:
            layers[thing] = max(1, min(layers[target] for target in below[thing]) - 1)
    return layers, {thing for thing in things if above[thing]}
