"""Typed programs for the tests of drawings: from text, and random ones with nested calls and state."""

from __future__ import annotations

import random
from pathlib import Path

from knetc import driver
from knetc.drawing.graph import Cluster
from knetc.errors import Source
from knetc.ir.program import Program
from knetc.ir.types import N, PartialDims
from knetc.options import Options

ROOT = Path(__file__).parents[3]
EXAMPLES: dict[str, tuple[PartialDims, ...]] = {
    "examples/lenet.knet": ((28, 28, 1, N),),
    "examples/lenet_dropout.knet": ((28, 28, 1, N),),
    "examples/adding.knet": ((2, N),),
    "tests/golden/models/charlm.knet": ((65, N),),
    "tests/golden/models/gru2.knet": ((10, N),),
    "tests/golden/models/rnn1.knet": ((3, N),),
    "tests/golden/models/two.knet": ((4, N), (6, N)),
}


def typed(text: str, *dims: PartialDims, name: str = "m.knet") -> Program:
    """The program of the last definition of `text`, its sizes known."""
    lowered = driver.lower(Source(name, text), None, {})
    return driver.optimise(lowered, Options(inputs=dims), stop_after="shapes")


def example(path: str) -> Program:
    return typed((ROOT / path).read_text(), *EXAMPLES[path], name=path)


def tree(cluster: Cluster) -> dict[str, object]:
    """The calls in a call, by title, and theirs in turn."""
    return {inner.title: tree(inner) for inner in cluster.inner}


def random_model(seed: int) -> str:
    """A file of definitions over matrices of four rows that call one another, repeat, and keep state."""
    pick = random.Random(seed)
    lines: list[str] = []
    for k in range(5):
        names = ["x", "y"]
        lines.append(f"@knet function f{k}(x, y)")
        if pick.random() < 0.5:
            names.append("s")
        for n in range(pick.randint(2, 6)):
            lines.append(f"    v{n} = {_expression(pick, names, k)}")
            names.append(f"v{n}")
        if "s" in names:
            lines.append(f"    s = wdot({pick.choice(names)} .* x; out=4)")  # the input says what size it is
        lines += [f"    return {_expression(pick, names, k)}", "end"]
    return "\n".join(lines) + "\n"


def _expression(pick: random.Random, names: list[str], k: int) -> str:
    a, b = pick.choice(names), pick.choice(names)
    calls = [f"f{pick.randrange(k)}({a}, {b})"] * 3 if k else []
    once = [f"repeat({a}; frepeat=:wbf, nrepeat={pick.randint(1, 3)}, out=4)", f"wbf2({a}, {b}; out=4)"]
    return pick.choice([*calls, *once, f"{a} .* {b}", f"tanh({a}) .+ {b}", f"relu({a})"])
