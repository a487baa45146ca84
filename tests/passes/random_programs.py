"""Random small lowered programs: matrices of a few rows, parameters, state, guards, nested reuse of values.

Every program is correct: sizes fit by construction (rows are tracked), every path defines what is read.
"""

from __future__ import annotations

import random

from knetc.ir.program import ALWAYS, Guard, Input, Instr, Program, Variant, guard_and, guard_not, make_attrs
from knetc.values import Array, Bernoulli, Gaussian, Value, Xavier

CONDITIONS = ("a", "b")
UNARY = ("relu", "sigm", "tanh", "soft", "copy", "axpb")


class Maker:
    """Writes one program; all choices come from the seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.instrs: list[Instr] = []
        self.rows: dict[str, int] = {}  # of every variable that is defined on all paths
        self.temps: set[str] = set()
        self.stream = 0
        self.guard = ALWAYS

    def make(self, length: int) -> Program:
        pick = self.random
        inputs = [Input(f"x{k}") for k in range(pick.randint(1, 2))]
        self.rows = {i.name: pick.randint(1, 4) for i in inputs}
        self.input_rows = tuple(self.rows.values())
        states = {f"s{k}": pick.randint(1, 4) for k in range(pick.randint(0, 2))}
        self.rows |= states
        for k in range(length):
            self.statement(k)
        for name, rows in states.items():
            if pick.random() < 0.7:
                self.guard = self.condition()
            # The product with an input says what size the state is, whatever else it is computed from.
            w = self.source("par", (rows, 0), Gaussian(0.0, 0.5))
            product = self.write("dot", (w, "x0"), self.temp(), ta=False, tb=False)
            total = self.write("add", (self.sized(rows), product), self.temp())
            self.write("tanh", (total,), name)
            self.guard = ALWAYS
        self.result()
        return Program(
            "random",
            "lowered",
            tuple(inputs),
            CONDITIONS,
            (Variant((), tuple(self.instrs)),),
            temps=frozenset(self.temps),
        )

    def condition(self) -> Guard:
        guards = [Guard("cond", (c,)) for c in CONDITIONS]
        one, other = self.random.sample(guards, 2)
        return self.random.choice([one, guard_not(one), guard_and(one, guard_not(other))])

    def write(self, op: str, args: tuple[str, ...], out: str, **attrs: Value) -> str:
        self.instrs.append(Instr(out, op, args, make_attrs(**attrs), guard=self.guard))
        return out

    def temp(self) -> str:
        name = f"tmp{len(self.temps) + 1}"
        self.temps.add(name)
        return name

    def source(self, op: str, dims: tuple[int, ...] | None, init: Value) -> str:
        self.stream += 1
        return self.write(op, (), self.temp(), dims=dims, init=init, stream=self.stream)

    def any(self) -> str:
        return self.random.choice(list(self.rows))

    def sized(self, rows: int) -> str:
        """A variable of so many rows, made by a matrix product where there is none."""
        fitting = [name for name, r in self.rows.items() if r == rows]
        if fitting and self.random.random() < 0.7:
            return self.random.choice(fitting)
        w = self.source("par", (rows, 0), Gaussian(0.0, 0.5))
        return self.write("dot", (w, self.any()), self.temp(), ta=False, tb=False)

    def statement(self, number: int) -> None:
        pick = self.random
        old = self.any()
        rows = self.rows[old]
        if pick.random() < 0.25:  # a variable written again on some paths keeps its rows
            self.guard, out = self.condition(), old
            if old.startswith("x"):
                self.guard, out = ALWAYS, f"v{number}"
        else:
            out = f"v{number}"
        kind = pick.randrange(8)
        if kind < 2:
            op = pick.choice(UNARY)
            attrs = {"a": pick.choice([1, -1, 2.5]), "p": pick.choice([1, 2]), "b": pick.choice([0, 0.5])}
            self.write(op, (old,), out, **(attrs if op == "axpb" else {}))
        elif kind == 2:
            b = self.source("par", pick.choice([(0,), (rows, 1)]), Gaussian(0.0, 0.5))
            self.write(pick.choice(["add", "mul"]), pick.choice([(old, b), (b, old)]), out)
        elif kind == 3:
            self.write("mul", (old, self.source("rnd", None, Bernoulli(0.5, 2.0))), out)
        elif kind == 4:
            array = Array.of((rows, 1), [pick.uniform(-1, 1) for _ in range(rows)])
            self.write("mul", (old, self.source("arr", None, array)), out)
        elif kind == 5:
            self.write("let", (old,), out)
        else:
            self.write(pick.choice(["add", "mul"]), (old, self.sized(rows)), out)
        self.guard = ALWAYS
        self.rows[out] = rows

    def result(self) -> None:
        pick = self.random
        if pick.random() < 0.3:
            self.guard = Guard("cond", ("a",))
        w = self.source("par", (3, 0), Xavier())
        product = self.write("dot", (w, self.any()), self.temp(), ta=False, tb=False)
        self.write(pick.choice(["soft", "tanh"]), (product,), "return")
        self.temps.add("return")
        self.guard = ALWAYS


def random_program(seed: int, length: int = 8) -> tuple[Program, tuple[int, ...]]:
    """A program and the rows of its inputs."""
    maker = Maker(seed)
    return maker.make(length), maker.input_rows
