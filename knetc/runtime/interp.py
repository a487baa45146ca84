"""The reference interpreter: what a program means, one NumPy call an instruction.

Before it: a `training` program with every input's dims known. It implements `executable.Executable`, so `model.Model`
drives it like the emitted code, which is tested against it. For each variant and batch size the instructions are
prepared once (their sizes filled in), so that a step costs little more than its NumPy calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from knetc.ir.passes.gradient import live
from knetc.ir.program import GOLD, MASK, Instr, Program, Variant
from knetc.ir.types import N
from knetc.ops import registry
from knetc.ops.base import AttrMap, Meaning
from knetc.ops.fillers import fill
from knetc.ops.update import Slots, apply_update, gradient_scale
from knetc.runtime.check import DTYPES
from knetc.values import Array, Filler

if TYPE_CHECKING:
    from knetc.runtime.executable import Tensor, TrainingOptions

Environment: TypeAlias = "dict[str, Tensor | None]"
"""Values by name; None stands for a mask that was not given."""

HELD = frozenset({"par", "arr"})
"""Sources whose value is made once and lives as long as the model."""

CODES = 256
"""How many prepared lists of instructions are kept."""


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
        """Computes every value into `env`."""
        get = env.__getitem__
        for meaning, context, args, out, dead in self.steps:
            env[out] = meaning(context, *map(get, args))
            for name in dead:
                del env[name]


@dataclass(slots=True)
class Record:
    """What one forward call leaves for the backward pass."""

    variant: Variant
    batch: int
    env: Environment


class Interpreter:
    """Runs a program with NumPy; the methods are those of `executable.Executable`."""

    def __init__(self, program: Program, seed: int = 0) -> None:
        self.program = program
        self._dtype = DTYPES[program.dtype]
        self._clock = Clock(seed)
        self._held: dict[int, Tensor] = {}  # the value of each par and arr, by random stream
        for variant in program.variants:
            for i in variant.forward:
                if i.op in HELD:
                    self._held.setdefault(i.attr("stream"), self._make(i))  # type: ignore[arg-type]
        self._params = {name: self._held[i.attr("stream")] for name, i in program.params().items()}  # type: ignore[index]
        self._sources = {id(v): self._sources_of(v) for v in program.variants}
        self._names = {id(v): dict(v.names) for v in program.variants}
        self._variants = {setting: v for v in program.variants for setting in v.settings}
        self._trained = tuple(str(i.attr("param")) for i in program.update)
        self._slots: dict[str, Slots] = {name: {} for name in self._trained}
        self._codes: dict[Any, Code] = {}
        self._saved: dict[int, frozenset[str]] = {}
        self._state: dict[str, Tensor] = {}
        self._dstate: dict[str, Tensor] = {}
        self._grads: dict[str, Tensor] = {}
        self._own = False  # whether the gradients are arrays of our own, to be added to in place
        self._last: Record | None = None  # of the last forward, whatever kind
        self._record: Record | None = None  # what `back` uses
        self._stack: list[Record] = []

    # --- calls ---

    def forward(self, setting: frozenset[str], inputs: Sequence[Tensor], push: bool) -> Tensor | None:
        """One call of the model (see `Executable.forward`)."""
        self._last = None  # its memory can serve this call
        if not push:
            self._record = None
        elif not self._stack:
            self._dstate.clear()  # a new sequence: no gradient comes from a later step
        self._clock.call += 1
        variant = self._variants[setting]
        batch = self._batch(inputs)
        code = self._forward_code(variant, batch)
        env: Environment = dict(self._sources[id(variant)])
        for declared, array in zip(self.program.inputs, inputs, strict=True):
            # What outlives the call must be our own: users fill their arrays anew.
            env[declared.name] = array.copy(order="F") if push or code.effects else array
        for out, var, dims in code.loads:
            come = self._state.get(var)
            env[out] = np.zeros(dims, self._dtype, order="F") if come is None else come
        code.run(env)
        for _, var, value in code.effects:
            self._state[var] = env[value]  # type: ignore[assignment]
        self._last = Record(variant, batch, env)
        if push:
            self._stack.append(self._pushed(variant, batch, env))
        else:
            self._record = self._last
        result = env[variant.result] if variant.result else None
        return None if result is None else result.copy(order="F")

    def backward(
        self, loss: str, gold: Tensor | None, mask: Tensor | None, dinputs: Sequence[int], pop: bool
    ) -> dict[int, Tensor]:
        """Gradients of the last call or of the newest on the stack (see `Executable.backward`)."""
        record = self._stack.pop() if pop else self._record
        assert record is not None, "the model calls backward after forward only"
        code = self._backward_code(record.variant, loss, frozenset(dinputs), record.batch)
        env = dict(record.env)
        env[GOLD], env[MASK] = gold, mask
        for out, var, dims in code.loads:
            come = self._dstate.get(var) if pop else None
            env[out] = np.zeros(dims, self._dtype, order="F") if come is None else come
        code.run(env)
        if not pop:
            self._grads.clear()
        elif not self._own:
            self._grads = {name: g.copy(order="F") for name, g in self._grads.items()}
        self._own = pop
        wanted: dict[int, Tensor] = {}
        for op, about, name in code.effects:
            value: Tensor = env[name]  # type: ignore[assignment]
            if op == "dpar":
                self._add_gradient(about, value)
            elif op == "dinput":
                wanted[about] = value.copy(order="F")
            elif pop:
                self._dstate[about] = value
        for name in self._trained:
            if name not in self._grads:
                self._grads[name] = np.zeros_like(self._params[name])
        return wanted

    def update(self, options: Mapping[str, TrainingOptions], gclip: float, gscale: float) -> None:
        """Changes the parameters (see `Executable.update`)."""
        norm = 0.0
        if gclip > 0 or any(options[name].gclip > 0 for name in self._trained):
            norm = self._gradient_norm()
        for name in self._trained:
            o = options[name]
            scale = gradient_scale(norm, gclip or o.gclip, gscale * o.gscale)
            apply_update(o, self._params[name], self._grads[name], self._slots[name], scale)

    def reset(self, keepstate: bool) -> None:
        """Empties the stack and zeroes gradients, and the state unless `keepstate`."""
        self._stack.clear()
        self._dstate.clear()
        self._grads.clear()
        if not keepstate:
            self._state.clear()

    # --- data ---

    def read(self, kind: str, name: str) -> Tensor:
        """A copy of an array (see `Executable.read`)."""
        if kind == "value":
            return self._value(name).copy(order="F")
        if kind == "grad":
            return self._grads[name].copy(order="F")
        return (self._params if kind == "par" else self._state)[name].copy(order="F")

    def write(self, kind: str, name: str, array: Tensor) -> None:
        """Overwrites a parameter or state."""
        if kind == "par":
            self._params[name][...] = array
        else:
            self._state[name] = array.copy(order="F")

    def clean(self) -> None:
        """Frees the stack, the gradients and the values of the last call."""
        self.reset(keepstate=True)
        self._last = self._record = None

    def stack_depth(self) -> int:
        """The number of records on the stack."""
        return len(self._stack)

    def set_seed(self, seed: int) -> None:
        """Random draws are keyed by `seed`, call numbers from 1 again."""
        self._clock.seed, self._clock.call = seed, 0

    def close(self) -> None:
        """Nothing to free: the arrays go with the object."""

    # --- inside ---

    def _make(self, instr: Instr) -> Tensor:
        return registry()[instr.op].numpy(self._context(instr, batch=0))

    def _context(self, instr: Instr, batch: int) -> Context:
        dims = instr.type.concrete(batch) if instr.type else ()
        return Context(dict(instr.attrs), dims, self._dtype, self._clock)

    def _sources_of(self, variant: Variant) -> Environment:
        return {i.out: self._held[i.attr("stream")] for i in variant.forward if i.op in HELD}  # type: ignore[index]

    def _batch(self, inputs: Sequence[Tensor]) -> int:
        for declared, array in zip(self.program.inputs, inputs, strict=True):
            if declared.dims and declared.dims[-1] is N:
                return int(array.shape[-1])
        return 1

    def _pushed(self, variant: Variant, batch: int, env: Environment) -> Record:
        """The values that any backward program of the variant reads."""
        if id(variant) not in self._saved:
            read = {arg for b in variant.backward for i in b.body for arg in i.args}
            self._saved[id(variant)] = frozenset(read & env.keys())
        return Record(variant, batch, {name: env[name] for name in self._saved[id(variant)]})

    def _value(self, name: str) -> Tensor:
        if self._last is None:
            raise KeyError(name)
        value = self._last.env[self._names[id(self._last.variant)].get(name, name)]
        if value is None:
            raise KeyError(name)
        return value

    def _add_gradient(self, name: str, value: Tensor) -> None:
        if name not in self._grads:
            self._grads[name] = value.copy(order="F") if self._own else value
        elif self._own:
            self._grads[name] += value
        else:
            self._grads[name] = self._grads[name] + value

    def _gradient_norm(self) -> float:
        return float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in self._grads.values())))

    def _forward_code(self, variant: Variant, batch: int) -> Code:
        key = (id(variant), batch)
        if key not in self._codes:
            self._keep_code(key, self._prepare(variant.forward, batch, keep=True))
        return self._codes[key]

    def _backward_code(self, variant: Variant, loss: str, dinputs: frozenset[int], batch: int) -> Code:
        key = (id(variant), batch, loss, dinputs)
        if key not in self._codes:
            body = next(b.body for b in variant.backward if b.loss == loss)
            asked = [i for i in body if i.op != "dinput" or i.attr("index") in dinputs]
            self._keep_code(key, self._prepare(live(asked, frozenset()), batch, keep=False))
        return self._codes[key]

    def _keep_code(self, key: object, code: Code) -> None:
        if len(self._codes) >= CODES:
            self._codes.clear()  # batches of ever new sizes must not fill the memory
        self._codes[key] = code

    def _prepare(self, body: Sequence[Instr], batch: int, keep: bool) -> Code:
        """The instructions for `batch` columns. Unless `keep`, a value goes when nothing reads it any more."""
        loads, steps, effects = [], [], []
        dead = {} if keep else _last_reads(body)
        for i in body:
            if i.op in ("state", "dstate"):
                assert i.type is not None
                loads.append((i.out, str(i.attr("var")), i.type.concrete(batch)))
            elif not i.out:
                effects.append((i.op, i.attrs[0][1], i.args[0]))
            elif i.op not in HELD:
                steps.append((registry()[i.op].numpy, self._context(i, batch), i.args, i.out, dead.get(i.out, ())))
        return Code(tuple(loads), tuple(steps), tuple(effects))


def _last_reads(body: Sequence[Instr]) -> dict[str, tuple[str, ...]]:
    """For each instruction, by its result, the results of earlier ones that no later instruction reads."""
    made = {i.out for i in body}
    seen: set[str] = set()
    dead: dict[str, tuple[str, ...]] = {}
    for i in reversed(body):
        if i.out:
            dead[i.out] = tuple(a for a in dict.fromkeys(i.args) if a in made and a not in seen)
        seen.update(i.args)
    return dead
