"""A program as text for Graphviz (`--emit dot`): one `digraph`, in it a cluster for each variant and each call."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import count

from knetc.drawing import style
from knetc.drawing.graph import Cluster, Graph, Node, graphs
from knetc.ir.program import Program

_HEAD = f"""\
  graph [fontname="monospace", fontsize=11, fontcolor="{style.FAINT}", labeljust=l, nodesep=0.3, ranksep=0.35];
  node [fontname="monospace", fontsize=11, fontcolor="{style.INK}", color="{style.LINE}", fillcolor="{style.PAPER}",
        shape=box, style=filled, height=0.3, margin="0.1,0.05"];
  edge [fontname="monospace", fontsize=9, fontcolor="{style.FAINT}", color="{style.LINE}", arrowsize=0.6];
"""


def dot(program: Program) -> str:
    """The text for a `typed` program; the same program gives the same text."""
    drawn = graphs(program)
    clusters = count(1)
    lines = [f"digraph {_quoted(program.name)} {{", _HEAD.rstrip("\n")]
    for number, graph in enumerate(drawn, 1):
        prefix = f"{number}:" if len(drawn) > 1 else ""  # the names of boxes are the same in every variant
        lines += _cluster(graph, graph.root, prefix, 1, clusters)
        lines += _edges(graph, prefix)
    return "\n".join([*lines, "}", ""])


def _cluster(graph: Graph, cluster: Cluster, prefix: str, depth: int, number: Iterator[int]) -> Iterator[str]:
    pad = "  " * depth
    yield f"{pad}subgraph cluster_{next(number)} {{"
    color = style.PAPER if depth == 1 else style.CLUSTERS[depth % 2]
    place = f", tooltip={_quoted(cluster.place)}" if cluster.place else ""
    yield f'{pad}  graph [label={_quoted(cluster.title)}, style="rounded,filled", fillcolor="{color}", ' + (
        f'color="{style.LINE if depth > 1 else style.PAPER}"{place}];'
    )
    for name in cluster.nodes:
        yield f"{pad}  {_quoted(prefix + name)} {_node(graph.nodes[name])};"
    for inner in cluster.inner:
        yield from _cluster(graph, inner, prefix, depth + 1, number)
    yield f"{pad}}}"


def _node(node: Node) -> str:
    settings = [f"label={_label(node)}"]
    if node.held:
        settings.append("shape=plain, style=solid")
    elif node.kind != "op":
        settings.append(f'style="filled,rounded", fillcolor="{style.fill(node.kind)}"')
    if node.place:
        settings.append(f"tooltip={_quoted(node.place)}")
    return f"[{', '.join(settings)}]"


def _label(node: Node) -> str:
    """The text of a box; a table with a coloured row for each array that stands in it, where there are any."""
    text = [node.title, *node.lines]
    if not node.held:
        return _quoted("\n".join(text))
    rows = [("", "<br/>".join(map(escape, text)))]
    rows += [(f' bgcolor="{style.fill(held.kind)}"', escape(held.text)) for held in node.held]
    cells = "".join(f"<tr><td{color}>{text}</td></tr>" for color, text in rows)
    table = f'border="1" cellborder="0" cellspacing="0" color="{style.LINE}" bgcolor="{style.PAPER}"'
    return f"<<table {table}>{cells}</table>>"


def _edges(graph: Graph, prefix: str) -> Iterator[str]:
    for edge in graph.edges:
        ends = f"{_quoted(prefix + edge.source)} -> {_quoted(prefix + edge.target)}"
        more = ", style=dashed, constraint=false" if edge.back else ""
        yield f"  {ends} [label={_quoted(edge.shape)}{more}];"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
