"""Random models: the source text of a whole `.knet` file, with the shapes of its inputs and its conditions.

Every model is well typed by construction: dims are tracked, what is read is written on every path or becomes state.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .expressions import Dims, Scope

CONDITIONS = ("one", "two")


@dataclass(frozen=True)
class Made:
    """A model: its text, the dims of each input (of one column; of all of it where `whole` says so)."""

    source: str
    inputs: tuple[Dims, ...]
    whole: tuple[bool, ...]

    def shapes(self, batch: int) -> list[tuple[int, ...]]:
        """The inputs' shapes for so many columns."""
        return [d if whole else (*d, batch) for d, whole in zip(self.inputs, self.whole, strict=True)]


class Body:
    """Writes the statements of one definition."""

    def __init__(
        self, pick: random.Random, inputs: dict[str, Dims], functions: list[tuple[str, tuple[Dims, ...], Dims]]
    ):
        self.pick = pick
        self.scope = Scope(pick, dict(inputs))
        self.scope.functions = functions
        self.inputs = inputs
        self.lines: list[str] = []
        self.depth = 1
        self.count = 0
        self.states: dict[str, Dims] = {}

    def write(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def assign(self, name: str, text: str, dims: Dims) -> None:
        self.write(f"{name} = {text}")
        self.scope.values[name] = dims

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    # --- statements ---------------------------------------------------------------------------------------------------

    def start(self, states: int) -> None:
        """Chooses the variables that are read before they are written."""
        for k in range(states):
            dims = self.pick.choice([(self.scope.rows(),), *self.inputs.values()])
            self.states[f"s{k + 1}"] = self.scope.values[f"s{k + 1}"] = dims or (1,)

    def statement(self) -> None:
        kind = self.pick.randrange(12)
        images = [n for n, d in self.scope.values.items() if len(d) > 2]
        if kind < 4 and images:
            text, dims = self.scope.image(self.pick.choice(images))
            self.assign(self.fresh(), text, dims)
        elif kind == 4 and self.depth < 3:
            self.branch()
        elif kind == 5:
            self.matrix()
        elif kind == 6:
            self.again()
        elif kind == 7:
            old = self.scope.any()
            self.assign(self.fresh(), old, self.scope.values[old])
        else:
            dims = self.scope.values[self.scope.any()]
            dims = dims if self.pick.random() < 0.5 else (self.scope.rows(),)
            self.assign(self.fresh(), self.scope.value(dims, self.pick.randint(1, 3)), dims)

    def again(self) -> None:
        """Writes a variable that has been written, or an input, anew."""
        name = self.scope.any()
        dims = self.scope.values[name]
        if name in self.inputs and self.pick.random() < 0.7:
            return self.assign(self.fresh(), self.scope.value(dims, 2), dims)
        self.assign(name, f"tanh({self.scope.value(dims, 2)})", dims)
        return None

    def matrix(self) -> None:
        text, dims = self.scope.matrix()
        self.count += 1
        self.write(f"w{self.count} = {text}")
        self.scope.matrices[f"w{self.count}"] = dims

    def condition(self) -> str:
        one, two = self.pick.sample(CONDITIONS, 2)
        return self.pick.choice([one, f"!{one}", f"{one} && {two}", f"{one} || !{two}", "dropout"])

    def branch(self) -> None:
        """An `if`; what one side alone writes is mostly not read after it, and becomes state where it is."""
        before = set(self.scope.values), set(self.scope.matrices)
        sides = self.pick.choice([("if",), ("if", "else"), ("if", "else"), ("if", "elseif", "else")])
        for side in sides:
            self.write(f"{side} {self.condition()}" if side != "else" else side)
            self.depth += 1
            for _ in range(self.pick.randint(1, 2)):
                self.statement()
            self.depth -= 1
            self.forget(before, keep=0.2)
        self.write("end")

    def forget(self, before: tuple[set[str], set[str]], keep: float) -> None:
        for name in [n for n in self.scope.values if n not in before[0]]:
            if self.pick.random() >= keep:
                del self.scope.values[name]
        for name in [n for n in self.scope.matrices if n not in before[1]]:
            del self.scope.matrices[name]

    def finish(self) -> None:
        """Writes the state, on some paths at least."""
        for name, dims in self.states.items():
            where = self.condition() if self.pick.random() < 0.3 else ""
            if where:
                self.write(f"if {where}")
                self.depth += 1
            self.assign(name, f"tanh({self.scope.value(dims, 2)}{self.sized(dims)})", dims)
            if where:
                self.depth -= 1
                self.write("end")

    def sized(self, dims: Dims) -> str:
        """A term that says of itself what size it is, so that a state has one; mostly."""
        if self.pick.random() < 0.1:
            return ""
        known = [name for name, d in self.inputs.items() if d == dims]
        if known and (len(dims) != 1 or self.pick.random() < 0.5):
            return f" + {self.pick.choice(known)}"
        wide = [name for name, d in self.inputs.items() if d]
        return f" + wdot({self.pick.choice(wide)}; out={dims[0]})" if wide and len(dims) == 1 else ""

    # --- what is returned ---------------------------------------------------------------------------------------------

    def result(self, dims: Dims) -> None:
        """A return on every path, of these dims."""
        if self.pick.random() < 0.2:
            self.write(f"if {self.condition()}")
            self.write(f"    return {self.scope.value(dims, 2)}")
            self.write("end")
        if self.pick.random() < 0.15:
            self.write(f"r = {self.scope.value(dims, 2)}")
        else:
            f = self.pick.choice(["soft", "soft", "tanh", "", "sigm", "relu"])
            self.write(f"return {f}({self.scope.value(dims, 2)})")

    def model_result(self) -> None:
        """As users write it: mostly a vector, at times of other dims, an old value, or nothing on some paths."""
        kind = self.pick.randrange(12)
        if kind == 0:
            self.write(f"if {self.condition()}")
            self.write(f"    return {self.scope.value((self.scope.rows(),), 2)}")
            self.write("end")
        elif kind == 1:
            self.write(f"return {self.scope.any()}")
        elif kind == 2:
            self.result(self.scope.values[self.scope.any()])
        elif kind == 3:
            self.write(f"if {self.condition()}")
            self.write(f"    return wbf({self.scope.any_wide()}; out=2)")
            self.write("else")
            self.write(f"    return wb({self.scope.any_wide()}; out=4)")
            self.write("end")
        else:
            self.result((self.pick.randint(1, 4),))


class Maker:
    """Writes one file: a few functions and the model, which may call them. All choices come from `pick`."""

    def __init__(self, pick: random.Random) -> None:
        self.pick = pick
        self.functions: list[tuple[str, tuple[Dims, ...], Dims]] = []
        self.texts: list[str] = []

    def dims(self) -> Dims:
        kind = self.pick.randrange(10)
        if kind < 6:
            return (self.pick.randint(1, 5),)
        if kind < 9:
            return (self.pick.randint(2, 6), self.pick.randint(1, 5), self.pick.randint(1, 2))
        if self.pick.random() < 0.6:
            return (*(self.pick.randint(1, 3) for _ in range(3)), self.pick.randint(1, 2))
        return ()

    def function(self, number: int) -> None:
        arguments = {f"a{k}": self.dims() or (2,) for k in range(self.pick.randint(1, 2))}
        body = Body(self.pick, arguments, list(self.functions))
        body.start(self.pick.choice([0, 0, 1]))
        for _ in range(self.pick.randint(0, 3)):
            body.statement()
        body.finish()
        dims = (self.pick.randint(1, 4),) if self.pick.random() < 0.6 else next(iter(arguments.values()))
        body.result(dims)
        self.take(f"f{number}", arguments, body)
        self.functions.append((f"f{number}", tuple(arguments.values()), dims))

    def take(self, name: str, arguments: dict[str, Dims], body: Body) -> None:
        lines = [f"@knet function {name}({', '.join(arguments)})", *body.lines, "end"]
        self.texts.append("\n".join(lines))

    def make(self, length: int) -> Made:
        """A file of a model of about so many statements."""
        for k in range(self.pick.choice([0, 0, 1, 2])):
            self.function(k + 1)
        inputs = {f"x{k + 1}": self.dims() for k in range(self.pick.choice([1, 1, 2, 3]))}
        body = Body(self.pick, inputs, self.functions)
        body.start(self.pick.choice([0, 1, 1, 2]))
        whole = {}
        if self.pick.random() < 0.08:  # an input without the batch: the left operand of a product
            whole = {"k": (self.pick.randint(1, 4), body.scope.rows())}
            first = body.scope.value((whole["k"][1],), 1)
            body.assign("v0", f"k * ({first})", (whole["k"][0],))
        for _ in range(self.pick.randint(1, length)):
            body.statement()
        body.finish()
        body.model_result()
        self.take("m", {**inputs, **whole}, body)
        return Made(
            "\n\n".join(self.texts) + "\n",
            (*inputs.values(), *whole.values()),
            (False,) * len(inputs) + (True,) * len(whole),
        )


def random_model(pick: random.Random, length: int = 7) -> Made:
    """A model of up to about so many statements."""
    return Maker(pick).make(length)
