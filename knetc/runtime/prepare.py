"""A variant of a program made ready for one batch size: its instructions with their sizes filled in, as NumPy calls.

Part of the interpreter (`interp.py`), which prepares each variant and batch size once, so that a step costs little more
than its NumPy calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from knetc.ir.program import Instr, Program, Variant
from knetc.ir.uses import read_back, without_inputs
from knetc.ops import registry
from knetc.ops.base import AttrMap, Meaning
from knetc.ops.fillers import fill
from knetc.runtime.check import DTYPES
from knetc.runtime.executable import Tensor
from knetc.values import Array, Filler

Environment: TypeAlias = "dict[str, Tensor | None]"
"""Values by name; None stands for a mask that was not given."""

HELD = frozenset({"par", "arr"})
"""Sources whose value is made once and lives as long as the model."""


@dataclass(slots=True)
class Clock:
    """What random draws are keyed by, besides the instruction: the seed and the number of the call."""

    seed: int
    call: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What an instruction's NumPy meaning is given besides its arguments (`ops.base.EvalContext`)."""

    attrs: AttrMap
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    clock: Clock

    @classmethod
    def of(cls, instr: Instr, batch: int, dtype: np.dtype[Any], clock: Clock) -> Context:
        """The context of an instruction for `batch` columns."""
        return cls(dict(instr.attrs), instr.type.concrete(batch) if instr.type else (), dtype, clock)

    def draw(self, filler: Filler | Array, stream: int) -> Tensor:
        """An array of `dims` for this call."""
        return fill(filler, self.dims, self.dtype, self.clock.seed, stream, self.clock.call)


Step: TypeAlias = tuple[Meaning, Context, tuple[str, ...], str, tuple[str, ...]]
"""An instruction: its meaning, context, arguments and result, and the values that nothing reads after it."""


@dataclass(frozen=True, slots=True)
class Code:
    """A list of instructions prepared for one batch size.

    `loads`: values that come from elsewhere, with the variable (`state`, `dstate`) and the dims of each. `steps`: the
    computation. `effects`: (operator, what it is about, value) in order; a value that an effect takes is final.
    """

    loads: tuple[tuple[str, str, tuple[int, ...]], ...]
    steps: tuple[Step, ...]
    effects: tuple[tuple[str, Any, str], ...]

    def run(self, env: Environment) -> None:
        """Computes every value into `env`. An overflow is a value like any other, as it is in emitted code."""
        get = env.__getitem__
        with np.errstate(all="ignore"):
            for meaning, context, args, out, dead in self.steps:
                env[out] = meaning(context, *map(get, args))
                for name in dead:
                    del env[name]


@dataclass(slots=True)
class Prepared:
    """A variant for `batch` columns.

    `held`: parameters and constants by name. `names`: the value of each Knet variable. `saved`: what any backward
    program reads, for the stack. `backward`: by loss and wanted inputs, prepared when first asked for.
    """

    variant: Variant
    batch: int
    dtype: np.dtype[Any]
    clock: Clock
    held: Environment
    names: Mapping[str, str]
    saved: frozenset[str]
    forward: Code
    _backward: dict[tuple[str, tuple[int, ...]], Code] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, variant: Variant, batch: int, held: Mapping[int, Tensor], clock: Clock) -> Prepared:
        """Prepares `variant`; `held` has the value of each `par` and `arr` by its random stream."""
        dtype = DTYPES[program.dtype]
        made = {i.name for i in program.inputs} | {i.out for i in variant.forward}
        return cls(
            variant,
            batch,
            dtype,
            clock,
            {i.out: held[stream(i)] for i in variant.forward if i.op in HELD},
            dict(variant.names),
            frozenset(made & read_back(variant)),
            _code(variant.forward, batch, dtype, clock, keep=True),
        )

    def backward(self, loss: str, dinputs: tuple[int, ...]) -> Code:
        """The backward program from `loss`, with the gradients of the inputs `dinputs` and no others."""
        key = (loss, dinputs)
        if key not in self._backward:
            whole = next(b for b in self.variant.backward if b.loss == loss)
            body = without_inputs(whole, dinputs, roots=frozenset()).body
            self._backward[key] = _code(body, self.batch, self.dtype, self.clock, keep=False)
        return self._backward[key]


def stream(instr: Instr) -> int:
    """The random stream of a `par`, `arr` or `rnd`."""
    number = instr.attr("stream")
    assert isinstance(number, int)
    return number


def _code(body: Sequence[Instr], batch: int, dtype: np.dtype[Any], clock: Clock, keep: bool) -> Code:
    """The instructions for `batch` columns. Unless `keep`, a value goes when nothing reads it any more."""
    loads, steps, effects = [], [], []
    dead = {} if keep else _last_reads(body)
    meanings = registry()
    for i in body:
        if i.op in ("state", "dstate"):
            assert i.type is not None
            loads.append((i.out, str(i.attr("var")), i.type.concrete(batch)))
        elif not i.out:
            effects.append((i.op, i.attrs[0][1], i.args[0]))
        elif i.op not in HELD:
            context = Context.of(i, batch, dtype, clock)
            steps.append((meanings[i.op].numpy, context, i.args, i.out, dead.get(i.out, ())))
    return Code(tuple(loads), tuple(steps), tuple(effects))


def _last_reads(body: Sequence[Instr]) -> dict[str, tuple[str, ...]]:
    """For each instruction, by its result, the results of earlier ones that no later instruction reads.

    What an effect takes stays, wherever the effect stands: effects come when all is computed.
    """
    made = {i.out for i in body}
    seen = {arg for i in body if not i.out for arg in i.args}
    dead: dict[str, tuple[str, ...]] = {}
    for i in reversed(body):
        if i.out:
            dead[i.out] = tuple(a for a in dict.fromkeys(i.args) if a in made and a not in seen)
        seen.update(i.args)
    return dead
