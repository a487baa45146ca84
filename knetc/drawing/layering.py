"""Places vertices that stand in layers: their order in each layer, then their x. `level.py` says what the vertices are.

The method of Sugiyama, Tagawa and Toda (1981): the order by barycentres, sweeping down and up; the one with the fewest
crossings is kept. The x of a layer is the nearest to what its neighbours want that keeps order and distances: a
least-squares fit by pooling adjacent violators.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_ORDER_SWEEPS = 8
_PLACE_SWEEPS = 12
_LITTLE = 8.0


@dataclass(slots=True, eq=False)
class Vertex:
    """Takes the room from `x - left` to `x + right`. `passing`: only the bend of a line that goes through the layer."""

    layer: int
    left: float = 0.0
    right: float = 0.0
    passing: bool = False
    x: float = 0.0
    place: int = 0
    above: list[Line] = field(default_factory=list)
    below: list[Line] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Line:
    """From a vertex to one of the next layer; `start` and `end` are where it meets them, relative to their x."""

    source: Vertex
    target: Vertex
    start: float = 0.0
    end: float = 0.0

    @property
    def weight(self) -> float:
        """How much it matters that the line is straight: a long one's bends show most."""
        return (1.0, 2.0, 8.0)[self.source.passing + self.target.passing]


def place(vertices: Sequence[Vertex], lines: Iterable[Line], distance: float) -> None:
    """Sets `x` of every vertex. Vertices of a layer keep `distance`; the order given is the one to start from."""
    layers: list[list[Vertex]] = [[] for _ in range(max((v.layer for v in vertices), default=-1) + 1)]
    for v in vertices:
        v.place = len(layers[v.layer])
        layers[v.layer].append(v)
    for line in lines:
        line.source.below.append(line)
        line.target.above.append(line)
    _order(layers)
    for layer in layers:
        x = 0.0
        for v in layer:
            v.x = x + v.left
            x = v.x + v.right + distance
    for sweep in range(_PLACE_SWEEPS):
        last = sweep >= _PLACE_SWEEPS - 4  # then towards the neighbours on both sides
        for layer in layers:
            _align(layer, distance, above=True, below=last)
        for layer in reversed(layers):
            _align(layer, distance, above=last, below=True)
    _straighten(layers, distance)
    for layer in layers[1:]:
        for v in layer:
            _snap(layer, v, distance)


# --- order ------------------------------------------------------------------------------------------------------------


def _order(layers: list[list[Vertex]]) -> None:
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_ORDER_SWEEPS):
        if fewest == 0:
            break
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            wanted = {id(v): _barycentre(v, downwards) for v in layer}
            layer.sort(key=lambda v: wanted[id(v)])
            _number(layer)
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best
    for layer in layers:
        _number(layer)


def _number(layer: Iterable[Vertex]) -> None:
    for place, v in enumerate(layer):
        v.place = place


def _barycentre(v: Vertex, downwards: bool) -> float:
    """The mean place of a vertex's neighbours; its own where it has none on that side."""
    ends = [_start(e) for e in v.above] if downwards else [_end(e) for e in v.below]
    return sum(ends) / len(ends) if ends else float(v.place)


def _start(line: Line) -> float:
    """The place of a line's upper end: that of the vertex, and a fraction for where on it the line stands."""
    return line.source.place + line.start / (2 * max(abs(line.start), line.source.left, line.source.right, 1.0))


def _end(line: Line) -> float:
    return line.target.place + line.end / (2 * max(abs(line.end), line.target.left, line.target.right, 1.0))


def _crossings(layers: Iterable[Iterable[Vertex]]) -> int:
    """How many pairs of lines cross."""
    total = 0
    for layer in layers:
        ends = sorted((_start(line), _end(line)) for v in layer for line in v.below)
        seen: list[float] = []
        for _, end in ends:
            total += len(seen) - bisect_right(seen, end)
            insort(seen, end)
    return total


# --- coordinates ------------------------------------------------------------------------------------------------------


def _align(layer: Sequence[Vertex], distance: float, above: bool, below: bool) -> None:
    """Moves the vertices of a layer towards where their lines to the chosen sides are straight."""
    shift = 0.0  # of a vertex when the layer is packed from 0: positions less their shifts may not fall
    shifts, wanted = [], []
    for n, v in enumerate(layer):
        if n:
            shift += layer[n - 1].right + distance + v.left
        shifts.append(shift)
        pulls = [(e.source.x + e.start - e.end, e.weight) for e in v.above] if above else []
        pulls += [(e.target.x + e.end - e.start, e.weight) for e in v.below] if below else []
        weight = sum(w for _, w in pulls)
        mean = sum(x * w for x, w in pulls) / weight if pulls else v.x
        wanted.append((mean - shift, weight or 0.01))
    for v, x, shift in zip(layer, _rising(wanted), shifts, strict=True):
        v.x = x + shift


def _straighten(layers: Sequence[Sequence[Vertex]], distance: float) -> None:
    """Makes every line that passes through layers straight there, where its neighbours leave room for that."""
    for layer in layers:
        for v in layer:
            if v.passing and not v.above[0].source.passing:
                chain = [v]
                while len(chain[-1].below) == 1 and chain[-1].below[0].target.passing:
                    chain.append(chain[-1].below[0].target)
                rooms = [_room(layers[each.layer], each, distance) for each in chain]
                least, most = max(low for low, _ in rooms), min(high for _, high in rooms)
                ends = (v.above[0].source.x + v.above[0].start, *(e.target.x + e.end for e in chain[-1].below))
                if least <= most:
                    x = min(most, max(least, min(ends, key=lambda end: abs(end - v.x))))
                    for each in chain:
                        each.x = x


def _snap(layer: Sequence[Vertex], v: Vertex, distance: float) -> None:
    """Takes the little bend out of the only line that comes down to a vertex."""
    if len(v.above) == 1:
        line = v.above[0]
        x = line.source.x + line.start - line.end
        low, high = _room(layer, v, distance)
        if abs(x - v.x) < _LITTLE and low <= x <= high:
            v.x = x


def _room(layer: Sequence[Vertex], v: Vertex, distance: float) -> tuple[float, float]:
    """Between which x a vertex can stand beside its neighbours."""
    low, high = float("-inf"), float("inf")
    if v.place > 0:
        before = layer[v.place - 1]
        low = before.x + before.right + distance + v.left
    if v.place + 1 < len(layer):
        after = layer[v.place + 1]
        high = after.x - after.left - distance - v.right
    return low, high


def _rising(wanted: Iterable[tuple[float, float]]) -> list[float]:
    """The never falling sequence nearest to the values, by weighted squares (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for value, weight in wanted:
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, wa, na), (b, wb, nb) = pools[-2:]
            pools[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return [mean for mean, _, many in pools for _ in range(many)]
