"""What a drawing shows: the calls as they stand in the source, the operations, the shapes, the state."""

from __future__ import annotations

import pytest

from knetc.drawing.graph import Cluster, Graph, graphs, when
from knetc.ir.types import N

from .support import EXAMPLES, example, tree, typed


def everything(cluster: Cluster) -> list[str]:
    return cluster.nodes + [name for inner in cluster.inner for name in everything(inner)]


def inside(graph: Graph, title: str) -> list[str]:
    """The titles of the boxes of the call of this title."""
    stack = [graph.root]
    while stack:
        cluster = stack.pop()
        if cluster.title == title:
            return [graph.nodes[name].title for name in cluster.nodes]
        stack += cluster.inner
    raise KeyError(title)


def test_lenet() -> None:
    (graph,) = graphs(example("examples/lenet.knet"))
    assert tree(graph.root) == {"a: cbfp": {}, "b: cbfp": {}, "c: wbf": {}, "wbf": {}}
    assert inside(graph, "a: cbfp") == ["a/c = conv", "add", "relu", "a = pool"]
    assert inside(graph, "wbf") == ["dot", "add", "soft"]
    assert inside(graph, "lenet") == ["x", "return"]
    assert [held.text for node in graph.nodes.values() for held in node.held] == [
        *("a/w (5,5,1,20)", "a/b (1,1,20,1)", "b/w (5,5,20,50)", "b/b (1,1,50,1)"),
        *("c/w (500,800)", "c/b (500,)", "wbf/w (10,500)", "wbf/b (10,)"),
    ]
    shapes = [edge.shape for edge in graph.edges]
    assert shapes[:5] == ["(28,28,1,N)", *3 * ["(24,24,20,N)"], "(12,12,20,N)"] and shapes[-1] == "(10,N)"
    assert graph.nodes["a"].place == (
        "prelude.knet:70: return pool(f(c .+ b; o...); window=pwindow, padding=ppadding, stride=pstride, mode=pmode)\n"
        "lenet.knet:5: a = cbfp(x; out=cout1, cwindow=cwin1, pwindow=pwin1, cinit=Glorot())"
    )


def test_lstm_has_its_gates_and_its_state() -> None:
    plain, dropping = graphs(example("tests/golden/models/charlm.knet"))
    gates = {f"b/{gate}: wbf2": {} for gate in ("input", "forget", "output", "newmem")}
    assert tree(plain.root) == {"a: wdot": {}, "b: lstm": gates, "wbf": {}}
    assert tree(dropping.root) == {"a: wdot": {}, "b: lstm": gates, "c: drop": {}, "wbf": {}}
    assert (plain.root.title, dropping.root.title) == ("charlm when not dropout", "charlm when dropout")
    for graph in (plain, dropping):
        assert inside(graph, "b: lstm")[:2] == ["b/h", "b/cell"]  # the state stands where it belongs
        back = {(e.source, e.target) for e in graph.edges if e.back}
        assert back == {("b/h", "b/h@prev"), ("b/cell", "b/cell@prev")}
    (mask,) = [held for node in dropping.nodes.values() for held in node.held if held.kind == "rnd"]
    assert mask.text == "Bernoulli(0.8, 1.25) (64,N)"


def test_every_call_of_a_repetition_is_one() -> None:
    graph, _ = graphs(example("tests/golden/models/gru2.knet"))
    gru = [{f"h/{k}/gru/{gate}: wbf2": {} for gate in ("reset", "update", "newmem")} for k in (1, 2)]
    assert tree(graph.root) == {f"h/{k}: layer": {f"h/{k}/gru": gru[k - 1]} for k in (1, 2)}


ACT = "@knet function act(x)\n return relu(x)\nend\n"


def test_calls_of_a_single_operation_are_told_apart() -> None:
    text = ACT + "@knet function m(x)\n y = repeat(x; frepeat=:act, nrepeat=3)\n z = act(y)\n return act(z)\nend\n"
    (graph,) = graphs(typed(text, (4, N)))
    assert list(tree(graph.root)) == ["y/1: act", "y/2: act", "y/3: act", "z: act", "act"]
    assert all(len(cluster.nodes) == 1 for cluster in graph.root.inner)


def test_the_last_of_a_repetition_keeps_its_own_calls() -> None:
    text = (
        ACT + "@knet function two(x)\n t = act(x)\n return act(t .* t)\nend\n"
        "@knet function m(x)\n return repeat(x; frepeat=:two, nrepeat=2)\nend\n"
    )
    (graph,) = graphs(typed(text, (4, N)))
    both = [{f"repeat/{k}/t: act": {}, f"repeat/{k}/act": {}} for k in (1, 2)]
    assert tree(graph.root) == {f"repeat/{k}: two": both[k - 1] for k in (1, 2)}


def test_a_variable_that_is_written_twice_has_two_calls() -> None:
    text = ACT + "@knet function m(x)\n y = act(x)\n y = act(y)\n return y\nend\n"
    (graph,) = graphs(typed(text, (4, N)))
    assert [len(cluster.nodes) for cluster in graph.root.inner] == [1, 1]


def test_an_array_that_two_operations_use_has_a_box_of_its_own() -> None:
    text = "@knet function m(x)\n w = par(dims=(4,4))\n a = arr(dims=(4,1), init=Constant(2))\n"
    (graph,) = graphs(typed(text + " return w * (w * x .* a)\nend\n", (4, N)))
    assert graph.nodes["w"].kind == "par" and graph.nodes["w"].title == "w (4,4)"
    assert [(held.kind, held.text) for n in graph.nodes.values() for held in n.held] == [("arr", "a (4,1)")]
    assert sum(edge.source == "w" for edge in graph.edges) == 2


def test_settings_that_differ_from_the_defaults_are_shown() -> None:
    text = (
        "@knet function m(x)\n y = wconv(x; out=2, window=3, padding=1, mode=CUDNN_CROSS_CORRELATION)\n"
        " z = pool(y; window=3)\n return pool(z; window=2, stride=1, mode=CUDNN_POOLING_MAX) .* -2\nend\n"
    )
    (graph,) = graphs(typed(text, (9, 9, 1, N)))
    shown = [node.lines for node in graph.nodes.values() if node.kind == "op"]
    assert shown == [("mode=:CUDNN_CROSS_CORRELATION", "padding=1"), ("window=3",), ("stride=1",), ("a=-2",)]


def test_a_state_may_take_an_input() -> None:
    (graph,) = graphs(typed("@knet function m(x)\n y = x .+ h\n h = x\n return y\nend\n", (4, N)))
    assert [(e.source, e.target) for e in graph.edges if e.back] == [("x", "h@prev")]


def test_a_model_may_return_nothing_or_its_input() -> None:
    text = "@knet function m(x)\n h = relu(x)\n if a\n return x\n end\nend\n"
    nothing, something = graphs(typed(text, (4, N)))
    assert "@output" not in nothing.nodes
    assert [(e.source, e.target) for e in something.edges] == [("x", "h"), ("x", "@output")]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["", "a", "b", "ab"], ""),
        (["a", "ab"], " when a"),
        (["", "b"], " when not a"),
        (["ab"], " when a and b"),
        (["a", "b", "ab"], " when a and not b, or not a and b, or a and b"),
    ],
)
def test_when_a_variant_runs(settings: list[str], text: str) -> None:
    assert when(("a", "b"), [frozenset(s) for s in settings]) == text


@pytest.mark.parametrize("path", EXAMPLES)
def test_every_operation_of_the_program_is_there_once(path: str) -> None:
    program = example(path)
    for graph, variant in zip(graphs(program), program.variants, strict=True):
        assert sorted(everything(graph.root)) == sorted(graph.nodes)
        operations = [i.out for i in variant.forward if i.out and i.args]
        assert [name for name, node in graph.nodes.items() if node.kind == "op"] == operations
        held = sum(len(node.held) for node in graph.nodes.values())
        boxes = sum(node.kind in ("par", "arr", "rnd", "state") for node in graph.nodes.values())
        assert held + boxes == sum(1 for i in variant.forward if i.out and not i.args)
