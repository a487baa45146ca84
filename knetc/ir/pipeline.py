"""The passes in their order, and what runs them: each result is verified, and observers may print or time.

A pass is a pure function `(Program, Options) -> Program`. Comes after lowering, before the interpreter and `codegen`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol, cast

from knetc.errors import KnetInternalError
from knetc.ir.passes import (
    conditions,
    epilogue,
    fuse,
    gradient,
    merge,
    reassociate,
    shapes,
    simplify,
    state,
    timebatch,
    winners,
)
from knetc.ir.program import Program
from knetc.ir.verify import verify
from knetc.options import Options
from knetc.record import Record


class Pass(Record):
    """A pass: the stage of the programs that it takes and of those that it gives."""

    name: str
    takes: str
    gives: str
    run: Callable[[Program, Options], Program]
    doc: str


PIPELINE: tuple[Pass, ...] = (
    Pass("conditions", "lowered", "variants", conditions.run, "one straight list for each setting of the conditions"),
    Pass("state", "variants", "ssa", state.run, "static-state analysis; each value defined once"),
    Pass("shapes", "ssa", "typed", shapes.run, "infers every size, the batch symbolic"),
    Pass("reassociate", "typed", "typed", reassociate.run, "chains of matrix products in the cheapest order"),
    Pass("gradient", "typed", "training", gradient.run, "appends the backward programs and the update"),
    Pass("simplify", "training", "training", simplify.run, "equal and unused values, copies; exact to the bit"),
    Pass("winners", "training", "training", winners.run, "maximum pooling goes back by each window's winner"),
    Pass("merge", "training", "training", merge.run, "matrix products that share an operand as one over a block"),
    Pass("timebatch", "training", "training", timebatch.run, "sequences: what no state stands between, for all steps"),
    Pass("fuse", "training", "training", fuse.run, "elementwise values over the same dims as one kernel"),
    Pass("epilogue", "training", "training", epilogue.run, "bias, relu and bias gradient in the matrix product's call"),
)


class Observer(Protocol):
    """What is told of every pass (`Options.observers`)."""

    def before(self, pass_name: str, program: Program) -> None:
        """Called with the program that the pass takes."""

    def after(self, pass_name: str, program: Program, seconds: float) -> None:
        """Called with the verified program that the pass gave, and the time that the pass alone took."""


def run(program: Program, options: Options, stop_after: str | None = None) -> Program:
    """Runs the passes that a program of its stage has before it, up to the one named `stop_after` if that is given.

    A `lowered` program goes through all of them; one that an earlier run stopped goes on from there. Raises the passes'
    KnetErrors, and KnetInternalError where a pass gives a program that breaks a rule.
    """
    if stop_after is not None and stop_after not in [p.name for p in PIPELINE]:
        raise ValueError(f"there is no pass '{stop_after}'")
    first = next(n for n, p in enumerate(PIPELINE) if p.takes == program.stage)
    verify(program, PIPELINE[first - 1].name if first else "lowering")
    for step in PIPELINE[first:]:
        program = run_pass(step, program, options)
        if step.name == stop_after:
            break
    return program


def run_pass(step: Pass, program: Program, options: Options) -> Program:
    """One pass, its verification, and the observers. Raises as `run`."""
    observers = [cast(Observer, o) for o in options.observers]
    if program.stage != step.takes:
        raise KnetInternalError(f"pass '{step.name}' takes a program of stage {step.takes}, not {program.stage}")
    for observer in observers:
        observer.before(step.name, program)
    start = perf_counter()
    program = step.run(program, options)
    seconds = perf_counter() - start
    if program.stage != step.gives:
        raise KnetInternalError(f"pass '{step.name}' gave a program of stage {program.stage}, not {step.gives}")
    verify(program, step.name)
    for observer in observers:
        observer.after(step.name, program, seconds)
    return program
