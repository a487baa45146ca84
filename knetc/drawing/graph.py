"""A program as a graph to draw: boxes, edges with the shapes of what flows, a cluster for every call.

Before it: a `typed` program, whose instructions are still those of the source. After it: `dot.py`, which writes the
graph for Graphviz, and `layout.py` with `svg.py`, which draw it.

A parameter, constant or random array that one operation alone uses stands in that operation's box; otherwise it has a
box of its own. A state variable's box holds its value of the call before; a dashed edge leads back to it from the value
that it takes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from knetc.drawing.scopes import Scope, Scopes, definition
from knetc.errors import Span
from knetc.ir.passes.state import RESULT
from knetc.ir.printer import print_value
from knetc.ir.program import Instr, Program, Variant
from knetc.ir.types import show_dims
from knetc.ops import registry
from knetc.values import Filler

OUTPUT = "@output"
_MOST_PLACE = 200  # characters of a line that are shown


@dataclass(frozen=True, slots=True)
class Held:
    """An array that stands in the box of the operation that uses it. `kind`: `par`, `arr` or `rnd`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Node:
    """A box. `kind`: `input`, `output`, `state`, `par`, `arr`, `rnd`, or `op` for what computes.

    `title` and `lines` are its text, `place` the Knet line that it comes from.
    """

    name: str
    kind: str
    title: str
    lines: tuple[str, ...] = ()
    held: tuple[Held, ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """From the box that makes a value to one that uses it; `back`: what a state variable takes for the next call."""

    source: str
    target: str
    shape: str
    back: bool = False


@dataclass(slots=True)
class Cluster:
    """A call with the names of the boxes in it and the calls that it makes in turn; the whole graph is one too."""

    title: str
    place: str = ""
    nodes: list[str] = field(default_factory=list)
    inner: list[Cluster] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Graph:
    """One variant of a program. Boxes by name, in the order of the program; edges in the order of their targets."""

    nodes: dict[str, Node]
    edges: tuple[Edge, ...]
    root: Cluster


def graphs(program: Program) -> list[Graph]:
    """The graph of each variant of a `typed` program; the titles say the conditions under which each runs."""
    return [_Builder(program, variant).graph() for variant in program.variants]


class _Builder:
    """Makes the graph of one variant."""

    def __init__(self, program: Program, variant: Variant) -> None:
        self.program = program
        self.variant = variant
        self.names = variant.variables()
        self.shapes = {i.name: show_dims(i.dims) for i in program.inputs}
        self.shapes |= {i.out: show_dims(i.type.dims) for i in variant.forward if i.type}
        self.folded = _folded(variant)
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []
        self.clusters: dict[Scope, Cluster] = {}

    def graph(self) -> Graph:
        program, variant = self.program, self.variant
        title = program.name + when(program.conditions, variant.settings)
        self.clusters[()] = Cluster(title)
        for i in program.inputs:
            self._add(Node(i.name, "input", i.name, place=_place(i.span)), ())
        scopes = Scopes(variant.forward)
        for instr in variant.forward:
            if instr.out and instr.out not in self.folded:
                self._add(self._node(instr), scopes.of(instr), instr.span)
                self.edges += self._edges(instr.args, instr.out)
        if variant.result is not None:
            self._add(Node(OUTPUT, "output", RESULT), ())
            self.edges += self._edges((variant.result,), OUTPUT)
        self.edges += self._back()
        return Graph(self.nodes, tuple(self.edges), self.clusters[()])

    def _add(self, node: Node, scope: Scope, span: Span | None = None) -> None:
        self.nodes[node.name] = node
        self._cluster(scope, span).nodes.append(node.name)

    def _cluster(self, scope: Scope, span: Span | None) -> Cluster:
        """The cluster of a scope, made with those around it where it is new; `span` lies in its definition's text."""
        if scope not in self.clusters:
            path = "/".join(name for name, _ in scope)
            while span is not None and _depth(span) > len(scope):  # a state variable is first read in a call further in
                span = span.via
            name = definition(span) if span else ""
            title = f"{path}: {name}" if name not in ("", scope[-1][0]) else path
            call = scope[-1][1]
            made = self.clusters[scope] = Cluster(title, _place(call))
            self._cluster(scope[:-1], call).inner.append(made)
        return self.clusters[scope]

    def _node(self, instr: Instr) -> Node:
        name = self.names.get(instr.out, "")
        if not instr.args:
            return self._source(instr)
        title = f"{name} = {instr.op}" if name and name != RESULT else instr.op
        held = tuple(self._held(self.folded[a]) for a in dict.fromkeys(instr.args) if a in self.folded)
        return Node(instr.out, "op", title, tuple(_settings(instr)), held, _place(instr.span))

    def _source(self, instr: Instr) -> Node:
        """A box for what comes from nowhere: a state variable, or an array that several operations use."""
        if instr.op == "state":
            return Node(instr.out, "state", str(instr.attr("var")), ("of the call before",), place=_place(instr.span))
        held = self._held(instr)
        return Node(instr.out, instr.op, held.text, place=_place(instr.span))

    def _held(self, instr: Instr) -> Held:
        shape = self.shapes[instr.out]
        if instr.op == "rnd" and isinstance(init := instr.attr("init"), Filler):
            return Held("rnd", f"{print_value(init)} {shape}")
        return Held(instr.op, f"{self.names.get(instr.out, instr.op)} {shape}")

    def _edges(self, args: tuple[str, ...], target: str) -> Iterator[Edge]:
        for arg in dict.fromkeys(args):
            if arg not in self.folded:
                yield Edge(arg, target, self.shapes[arg])

    def _back(self) -> Iterator[Edge]:
        """The edges from what each state variable takes to the box where it is read."""
        read = {str(i.attr("var")): i.out for i in self.variant.forward if i.op == "state"}
        for i in self.variant.forward:
            if i.op == "keep" and (var := str(i.attr("var"))) in read:
                yield Edge(i.args[0], read[var], self.shapes[i.args[0]], back=True)


def when(conditions: Sequence[str], settings: Sequence[frozenset[str]]) -> str:
    """The conditions under which a variant runs: ` when dropout`; empty where it always does."""
    chosen = set(settings)
    telling = [c for c in conditions if any(setting ^ {c} not in chosen for setting in chosen)]
    kept = dict.fromkeys(tuple(c if c in s else f"not {c}" for c in telling) for s in settings)
    return f" when {', or '.join(map(' and '.join, kept))}" if telling else ""


def _depth(span: Span) -> int:
    """The number of calls through which a position was reached."""
    return 0 if span.via is None else 1 + _depth(span.via)


def _folded(variant: Variant) -> dict[str, Instr]:
    """The arrays that stand in the box of their only user."""
    uses = Counter(arg for i in variant.forward for arg in set(i.args))
    uses.update(arg for i in variant.forward if not i.out for arg in i.args)  # an effect has no box
    if variant.result is not None:
        uses[variant.result] += 2
    sources = (i for i in variant.forward if i.out and not i.args and i.op != "state")
    return {i.out: i for i in sources if uses[i.out] == 1}


def _settings(instr: Instr) -> Iterator[str]:
    """What an operation was asked for that differs from its defaults. A default of None stands for another keyword."""
    keywords = registry()[instr.op].keywords
    values = [value for key, value in instr.attrs if not keywords[key].internal]
    for key, value in instr.attrs:
        keyword = keywords[key]
        usual = value == keyword.default or (keyword.default is None and values.count(value) > 1)
        if not keyword.internal and not usual:
            yield f"{key}={print_value(value)}"


def _place(span: Span | None) -> str:
    """`lenet.knet:5: a = cbfp(…)`, and below it the calls through which it was reached."""
    lines = []
    while span is not None:
        line = f"{os.path.basename(span.source.name)}:{span.line}: {span.source.line(span.line).strip()}"
        line = "".join(c if c.isprintable() else " " for c in line)  # XML has no place for a form feed
        lines.append(line if len(line) <= _MOST_PLACE else f"{line[:_MOST_PLACE]}…")
        span = span.via
    return "\n".join(lines)
