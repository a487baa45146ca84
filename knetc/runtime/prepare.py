"""A variant of a program made ready for one batch size: its instructions with their sizes filled in, as NumPy calls.

Part of the interpreter (`interp.py`), which prepares each variant and batch size once, so that a step costs little more
than its NumPy calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from knetc.ir.program import GOLD, MASK, Instr, Phases, Program, Variant
from knetc.ir.types import N
from knetc.ir.uses import named, read_back, without_inputs
from knetc.ops import registry
from knetc.ops.base import AttrMap, Meaning
from knetc.ops.fillers import fill, resolve
from knetc.runtime.check import DTYPES
from knetc.runtime.direct import MOST_STEPS, Shapes, function
from knetc.runtime.executable import Tensor
from knetc.values import Array, Filler

if TYPE_CHECKING:
    from knetc.runtime.sequence import Timed

Environment: TypeAlias = "dict[str, Tensor | None]"
"""Values by name; None stands for a mask that was not given."""

HELD = frozenset({"par", "arr"})
"""Sources whose value is made once and lives as long as the model."""

FLOWING = frozenset({"state", "dstate"})
"""Sources whose value comes from another step."""


@dataclass(slots=True)
class Clock:
    """What random draws are keyed by, besides the instruction: the seed and the number of the call.

    `first`, `whole`: where the columns of a call begin in the minibatch, and how many that has; 0: no more than these.
    """

    seed: int
    call: int = 0
    first: int = 0
    whole: int = 0


@dataclass(slots=True)
class Context:
    """What an instruction's NumPy meaning is given besides its arguments (`ops.base.EvalContext`)."""

    attrs: AttrMap
    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    clock: Clock
    steps: int = 1
    out: Tensor | None = None
    batched: bool = False

    @classmethod
    def of(cls, instr: Instr, batch: int, dtype: np.dtype[Any], clock: Clock, steps: int = 1) -> Context:
        """The context of an instruction for `batch` columns, which are those of so many steps."""
        type_ = instr.type
        dims, batched = (type_.concrete(batch), type_.batched) if type_ else ((), False)
        return cls(dict(instr.attrs), dims, dtype, clock, steps, batched=batched)

    def draw(self, filler: Filler | Array, stream: int) -> Tensor:
        """An array of `dims` for this call; each step's columns for a call of its own."""
        clock, dims = self.clock, self.dims
        if self.steps > 1:
            dims = (*dims[:-1], dims[-1] // self.steps)
        column = 0
        if self.batched and clock.whole:
            column = clock.first
            filler = resolve(filler, (*dims[:-1], clock.whole)) if isinstance(filler, Filler) else filler
        calls = range(clock.call, clock.call + self.steps)
        parts = [fill(filler, dims, self.dtype, clock.seed, stream, call, column) for call in calls]
        return parts[0] if self.steps == 1 else np.asfortranarray(np.concatenate(parts, axis=-1))


class Step(NamedTuple):
    """An instruction: its operator with its meaning, context, arguments and result, the values that nothing reads after
    it, and that of them in whose memory the result may stand (empty for none).
    """

    op: str
    meaning: Meaning
    context: Context
    args: tuple[str, ...]
    out: str
    dead: tuple[str, ...]
    place: str


@dataclass(slots=True)
class Code:
    """A list of instructions prepared for one batch size.

    `loads`: values that come from elsewhere, with the variable (`state`, `dstate`) and the dims of each. `steps`: the
    computation. `effects`: (operator, what it is about, value) in order; a value that an effect takes is final.
    """

    loads: tuple[tuple[str, str, tuple[int, ...]], ...]
    steps: tuple[Step, ...]
    effects: tuple[tuple[str, Any, str], ...]
    _runs: int = 0
    _function: Callable[[Environment], None] | None = None

    def run(self, env: Environment) -> None:
        """Computes every value into `env`. An overflow is a value like any other, as it is in emitted code."""
        with np.errstate(all="ignore"):
            if self._function:
                self._function(env)
                return
            shapes = [self._step(step, env) for step in self.steps]
        self._runs += 1
        if self._runs > 1 and len(self.steps) <= MOST_STEPS:
            self._function = function(self.steps, shapes)

    @staticmethod
    def _step(step: Step, env: Environment) -> Shapes:
        """Computes one value; the shapes of its arguments."""
        arguments = [env[name] for name in step.args]
        step.context.out = env[step.place] if step.place else None
        env[step.out] = step.meaning(step.context, *arguments)
        step.context.out = None
        for name in step.dead:
            del env[name]
        return tuple(None if a is None else a.shape for a in arguments)


@dataclass(slots=True)
class Prepared:
    """A variant for `batch` columns.

    `held`: parameters and constants by name. `names`: the value of each Knet variable. `saved`: what any backward
    program reads, for the stack. `moving`: inputs and forward values that have the batch. What else there is (backward
    programs by loss and wanted inputs, whole sequences by their steps) is prepared when first asked for.
    """

    variant: Variant
    batch: int
    dtype: np.dtype[Any]
    clock: Clock
    held: Environment
    names: Mapping[str, str]
    saved: frozenset[str]
    moving: frozenset[str]
    forward: Code
    _backward: dict[tuple[str, tuple[int, ...]], Code] = field(default_factory=dict)
    _timed: dict[tuple[str, int], Timed | None] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, variant: Variant, batch: int, held: Mapping[int, Tensor], clock: Clock) -> Prepared:
        """Prepares `variant`; `held` has the value of each `par` and `arr` by its random stream."""
        dtype = DTYPES[program.dtype]
        made = {i.name for i in program.inputs} | {i.out for i in variant.forward}
        saved = frozenset(made & read_back(variant))
        listed = {i.out for i in variant.forward if i.span is not None and i.span.via is None}
        kept = saved | named(variant) | {value for _, value in variant.names} | listed
        return cls(
            variant,
            batch,
            dtype,
            clock,
            {i.out: held[stream(i)] for i in variant.forward if i.op in HELD},
            dict(variant.names),
            saved,
            frozenset(i.name for i in program.inputs if i.dims and i.dims[-1] is N)
            | {i.out for i in variant.forward if i.type and i.type.batched},
            code(variant.forward, batch, dtype, clock, kept),
        )

    def backward(self, loss: str, dinputs: tuple[int, ...]) -> Code:
        """The backward program from `loss`, with the gradients of the inputs `dinputs` and no others."""
        key = (loss, dinputs)
        if key not in self._backward:
            whole = next(b for b in self.variant.backward if b.loss == loss)
            body = without_inputs(whole, dinputs, roots=frozenset()).body
            self._backward[key] = code(body, self.batch, self.dtype, self.clock, frozenset())
        return self._backward[key]

    def timed(self, steps: int) -> Timed | None:
        """The forward program for so many steps at once; None where only single steps run."""
        wanted = self.saved | named(self.variant)
        return self._sequence("", steps, self.variant.phases, wanted, frozenset())

    def timed_backward(self, loss: str, steps: int) -> Timed | None:
        """The backward program from `loss` for so many steps at once; None where only single steps run."""
        whole = next(b for b in self.variant.backward if b.loss == loss)
        handed = {i.args[0] for body in (whole.phases.lists if whole.phases else ()) for i in body if i.op == "dpar"}
        return self._sequence(loss, steps, whole.phases, handed, self.moving | {GOLD, MASK})

    def _sequence(
        self, loss: str, steps: int, phases: Phases | None, wanted: AbstractSet[str], moving: AbstractSet[str]
    ) -> Timed | None:
        from knetc.runtime.sequence import Timed

        if phases is None:
            return None
        if (loss, steps) not in self._timed:
            moves = moving or self.moving
            self._timed[loss, steps] = Timed.of(phases, self.batch, steps, self.dtype, self.clock, wanted, moves)
        return self._timed[loss, steps]


def stream(instr: Instr) -> int:
    """The random stream of a `par`, `arr` or `rnd`."""
    number = instr.attr("stream")
    assert isinstance(number, int)
    return number


def code(
    body: Sequence[Instr], batch: int, dtype: np.dtype[Any], clock: Clock, kept: AbstractSet[str], steps: int = 1
) -> Code:
    """The instructions for `batch` columns, those of so many steps. A value not in `kept` goes after its last use."""
    loads, calls, effects = [], [], []
    dead = _last_reads(body, kept)
    places = _places(body, dead)
    meanings = registry()
    for i in body:
        if i.op in FLOWING:
            assert i.type is not None
            loads.append((i.out, str(i.attr("var")), i.type.concrete(batch)))
        elif not i.out:
            effects.append((i.op, i.attrs[0][1], i.args[0]))
        elif i.op not in HELD:
            context = Context.of(i, batch, dtype, clock, steps)
            place = places.get(i.out, "")
            calls.append(Step(i.op, meanings[i.op].numpy, context, i.args, i.out, dead[i.out], place))
    return Code(tuple(loads), tuple(calls), tuple(effects))


def _last_reads(body: Sequence[Instr], kept: AbstractSet[str]) -> dict[str, tuple[str, ...]]:
    """For each instruction, by its result, the results of earlier ones that no later instruction reads.

    What an effect takes stays, wherever the effect stands: effects come when all is computed.
    """
    made = {i.out for i in body if i.op not in HELD} - kept
    seen = {arg for i in body if not i.out for arg in i.args}
    dead: dict[str, tuple[str, ...]] = {}
    for i in reversed(body):
        if i.out:
            dead[i.out] = tuple(a for a in dict.fromkeys(i.args) if a in made and a not in seen)
        seen.update(i.args)
    return dead


def _places(body: Sequence[Instr], dead: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """For results that may take the memory of an argument that nothing reads any more, that argument.

    The memory must be the argument's alone: it is fresh, and no other value is a view of it.
    """
    meanings = registry()
    fresh = {i.out: i.type for i in body if i.op not in (*HELD, *FLOWING) and not meanings[i.op].shares}
    for i in body:
        if meanings[i.op].shares:
            for a in i.args:
                fresh.pop(a, None)
    found = {}
    for i in body:
        mine = [a for a in dead.get(i.out, ()) if fresh.get(a) == i.type and i.args.count(a) == 1]
        if mine and meanings[i.op].in_place:
            found[i.out] = mine[0]
    return found
