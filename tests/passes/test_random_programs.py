"""Properties of the pipeline over random programs.

The text form reads back after every pass; simplification changes no bit; gradients of sequences, state and all, equal
central differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from knetc.errors import KnetShapeError
from knetc.ir.pipeline import PIPELINE, run, run_pass
from knetc.ir.printer import print_program
from knetc.ir.program import Program
from knetc.ir.reader import read_program
from knetc.ir.types import N
from knetc.options import Options
from knetc.runtime.interp import Interpreter

from .random_programs import CONDITIONS, random_program

BATCH = 3
SEEDS = range(20)
LOSSES = ("zero", "none", "quadloss", "softloss")


def options(rows: tuple[int, ...], level: int = 2) -> Options:
    return Options(inputs=tuple((r, N) for r in rows), losses=LOSSES, dtype="f64", level=level)


@pytest.mark.parametrize("seed", SEEDS)
def test_reads_back_after_every_pass(seed: int) -> None:
    program, rows = random_program(seed)
    assert read_program(print_program(program)) == program
    for step in PIPELINE:
        program = run_pass(step, program, options(rows))
        assert read_program(print_program(program)) == program
        assert print_program(read_program(print_program(program))) == print_program(program)


@pytest.mark.parametrize("seed", SEEDS)
def test_without_shapes_they_are_inferred_or_asked_for(seed: int) -> None:
    """Where the inputs' shapes are not given, what follows is a correct program, or an error that asks for a size."""
    program, _ = random_program(seed)
    try:
        run(program, Options(losses=LOSSES, dtype="f64"))
    except KnetShapeError as error:
        assert "cannot be inferred" in str(error)


@dataclass
class Sequence:
    """Steps of a program, each with its setting, inputs and gold."""

    program: Program
    settings: list[frozenset[str]]
    inputs: list[list[np.ndarray]]
    golds: list[np.ndarray]

    def interpreter(self) -> Interpreter:
        return Interpreter(self.program, seed=7)

    def loss(self, changes: dict[tuple[str, object], np.ndarray]) -> float:
        """The summed quadratic loss over all steps, by the definition, with arrays replaced."""
        net = self.interpreter()
        for (kind, name), array in changes.items():
            if kind == "par":
                net.write("par", str(name), array)
        total = 0.0
        for t, (setting, inputs, gold) in enumerate(zip(self.settings, self.inputs, self.golds, strict=True)):
            given = [changes.get(("x", (t, k)), x) for k, x in enumerate(inputs)]
            y = net.forward(setting, given, push=True)
            if y is not None:
                total += float(0.5 * np.square(y - gold).sum() / gold.shape[1])
        return total

    def results(self) -> list[np.ndarray | None]:
        net = self.interpreter()
        return [net.forward(s, x, push=True) for s, x in zip(self.settings, self.inputs, strict=True)]

    def gradients(self) -> tuple[Interpreter, dict[tuple[int, int], np.ndarray]]:
        """The interpreter after the steps and their backward passes; the inputs' gradients by step and index."""
        net = self.interpreter()
        returned = [net.forward(s, x, push=True) for s, x in zip(self.settings, self.inputs, strict=True)]
        dinputs = {}
        for t in reversed(range(len(self.settings))):
            loss = "zero" if returned[t] is None else "quadloss"
            gold = None if returned[t] is None else self.golds[t]
            found = net.backward(loss, gold, None, range(len(self.inputs[t])), pop=True)
            dinputs.update({(t, k): d for k, d in found.items()})
        return net, dinputs


def sequence(seed: int, level: int = 2, steps: int = 3) -> Sequence:
    program, rows = random_program(seed)
    rng = np.random.default_rng(seed)
    trained = run(program, options(rows, level))
    settings = [frozenset(c for c in CONDITIONS if rng.random() < 0.5) for _ in range(steps)]
    inputs = [[np.asfortranarray(rng.standard_normal((r, BATCH))) for r in rows] for _ in range(steps)]
    golds = [np.asfortranarray(rng.standard_normal((3, BATCH))) for _ in range(steps)]
    return Sequence(trained, settings, inputs, golds)


@pytest.mark.parametrize("seed", SEEDS)
def test_simplification_changes_no_bit(seed: int) -> None:
    plain, simple = sequence(seed, level=0), sequence(seed, level=1)
    for a, b in zip(plain.results(), simple.results(), strict=True):
        assert (a is None) == (b is None)
        assert a is None or a.tobytes() == b.tobytes()
    (net_a, dx_a), (net_b, dx_b) = plain.gradients(), simple.gradients()
    assert dx_a.keys() == dx_b.keys()
    assert all(dx_a[k].tobytes() == dx_b[k].tobytes() for k in dx_a)
    assert [i.attrs for i in plain.program.update] == [i.attrs for i in simple.program.update]
    for name in (str(i.attr("param")) for i in plain.program.update):
        assert net_a.read("grad", name).tobytes() == net_b.read("grad", name).tobytes()
    for variant_a, variant_b in zip(plain.program.variants, simple.program.variants, strict=True):
        if plain.settings[-1] in variant_a.settings:
            assert [n for n, _ in variant_a.names] == [n for n, _ in variant_b.names]
            for name, _ in variant_a.names:
                assert net_a.read("value", name).tobytes() == net_b.read("value", name).tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_of_sequences_equal_central_differences(seed: int) -> None:
    case = sequence(seed)
    net, dinputs = case.gradients()
    rng = np.random.default_rng(seed + 1)
    targets: dict[tuple[str, object], tuple[np.ndarray, np.ndarray]] = {
        ("x", place): (case.inputs[place[0]][place[1]], d) for place, d in dinputs.items()
    }
    for instr in case.program.update:
        name = str(instr.attr("param"))
        targets["par", name] = (net.read("par", name), net.read("grad", name))
    for key, (value, gradient) in targets.items():
        direction = rng.standard_normal(value.shape)
        step = 1e-6
        high, low = (case.loss({key: np.asfortranarray(value + s * step * direction)}) for s in (1, -1))
        slope = (high - low) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7), key


def test_a_parameter_without_an_update_has_no_influence() -> None:
    """Over all seeds: what the gradient pass leaves out changes no loss."""
    checked = 0
    for seed in SEEDS:
        case = sequence(seed)
        updated = {str(i.attr("param")) for i in case.program.update}
        for name, par in case.program.params().items():
            if name not in updated:
                assert par.type is not None
                before = case.loss({})
                assert case.loss({("par", name): np.full(par.type.concrete(BATCH), 3.0, order="F")}) == before
                checked += 1
    assert checked > 0


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_many_more(seed: int) -> None:
    test_reads_back_after_every_pass(seed)
    test_without_shapes_they_are_inferred_or_asked_for(seed)
    test_simplification_changes_no_bit(seed)
    test_gradients_of_sequences_equal_central_differences(seed)
