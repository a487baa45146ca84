"""The reference interpreter: what a program means, one NumPy call an instruction.

Before it: a `training` program with every input's dims known, each variant of which `prepare.py` makes ready for a
batch size. It implements `executable.Executable`, so `model.Model` drives it like the emitted code, which is tested
against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knetc.ir.program import GOLD, MASK, Instr, Program
from knetc.ir.types import N
from knetc.ops import registry
from knetc.ops.update import TEMPORARIES, Slots, apply_update, gradient_scale, make_slots
from knetc.runtime.check import DTYPES
from knetc.runtime.executable import Tensor, TrainingOptions, into
from knetc.runtime.prepare import HELD, Clock, Code, Context, Environment, Prepared, stream
from knetc.runtime.sequence import Block, backward_steps, forward_steps

MOST_PREPARED = 64
"""How many prepared variants are kept: batches of ever new sizes must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a forward call leaves: the variant that ran, and its values by name.

    `block`: those of all steps, where the call was part of a whole sequence.
    """

    prepared: Prepared
    env: Environment
    block: Block | None = None


class Interpreter:
    """Runs a program with NumPy; the methods are those of `executable.Executable`."""

    def __init__(self, program: Program, seed: int = 0) -> None:
        self.program = program
        self._dtype = DTYPES[program.dtype]
        self._clock = Clock(seed)
        self._inputs = tuple(i.name for i in program.inputs)
        self._batched = next((k for k, i in enumerate(program.inputs) if i.dims and i.dims[-1] is N), None)
        self._held: dict[int, Tensor] = {}  # the value of each par and arr, by random stream
        for variant in program.variants:
            for i in variant.forward:
                if i.op in HELD and stream(i) not in self._held:
                    self._held[stream(i)] = self._make(i)
        self._make_blocks()
        self._params = {name: self._held[stream(i)] for name, i in program.params().items()}
        self._trained = tuple(str(i.attr("param")) for i in program.update)
        self._slots: dict[str, Slots] = {name: {} for name in self._trained}
        self._scratch: dict[str, Tensor] = {}  # what an update overwrites, by parameter; made by the first update
        self._made: list[TrainingOptions] = []  # the options that these were last made for:
        self._changes: list[tuple[str, TrainingOptions, Tensor, Slots, Tensor]] = []
        self._clips = False
        self._largest = max((self._params[name].size for name in self._trained), default=0)
        self._prepared: dict[tuple[frozenset[str], int], Prepared] = {}
        self._state: dict[str, Tensor] = {}
        self._dstate: dict[str, Tensor] = {}
        self._grads: dict[str, Tensor] = {}
        self._own = False  # whether the gradients are arrays of our own, to be added to in place
        self._last: Record | None = None  # of the last forward, whatever kind
        self._record: Record | None = None  # what `back` uses
        self._stack: list[Record] = []

    # --- calls --------------------------------------------------------------------------------------------------------

    def forward(
        self, setting: frozenset[str], inputs: Sequence[Tensor], push: bool, out: Tensor | None = None
    ) -> Tensor | None:
        """One call of the model (see `Executable.forward`)."""
        self._last = None  # its memory can serve this call
        if not push:
            self._record = None
        elif not self._stack:
            self._dstate.clear()  # a new sequence: no gradient comes from a later step
        self._clock.call += 1
        try:
            return self._forward(setting, inputs, push, out)
        except MemoryError:
            self._clock.call -= 1
            raise

    def _forward(
        self, setting: frozenset[str], inputs: Sequence[Tensor], push: bool, out: Tensor | None
    ) -> Tensor | None:
        batch = 1 if self._batched is None else inputs[self._batched].shape[-1]
        prepared = self._prepared.get((setting, batch)) or self._prepare(setting, batch)
        code = prepared.forward
        if push or code.effects:
            # What outlives the call must be our own: users fill their arrays anew.
            inputs = [array.copy(order="F") for array in inputs]
        env: Environment = dict(prepared.held)
        env.update(zip(self._inputs, inputs, strict=True))
        self._load(code, self._state, env)
        code.run(env)
        result = prepared.variant.result
        value = None if result is None else _result(env[result], out)
        # Nothing takes memory any more: a call that finds none has left the state as it was.
        for _, var, kept in code.effects:
            self._state[var] = _array(env[kept])
        self._last = Record(prepared, env)
        if push:
            self._stack.append(Record(prepared, {name: env[name] for name in prepared.saved}))
        else:
            self._record = self._last
        return value

    def backward(
        self,
        loss: str,
        gold: Tensor | None,
        mask: Tensor | None,
        dinputs: Sequence[int],
        pop: bool,
        out: Mapping[int, Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """Gradients of the last call or of the newest on the stack (see `Executable.backward`)."""
        record = self._stack[-1] if pop else self._record
        assert record is not None, "the model calls backward after forward only"
        code = record.prepared.backward(loss, tuple(dinputs))
        env = dict(record.env)
        env[GOLD], env[MASK] = gold, mask
        self._load(code, self._dstate if pop else {}, env)
        if not pop:
            self._grads.clear()  # their memory can serve this pass
        code.run(env)
        room = out or {}
        wanted = {i: _result(env[name], room.get(i)) for op, i, name in code.effects if op == "dinput"}
        grads, added = self._gradients(code.effects, env, add=pop)
        # Nothing takes memory any more: a call that finds none has left the stack and its gradients as they were.
        if pop:
            self._stack.pop()
            self._dstate.update((about, _array(env[name])) for op, about, name in code.effects if op == "dkeep")
        self._take(grads, added, add=pop)
        return wanted

    def _gradients(
        self, effects: Iterable[tuple[str, Any, str]], env: Environment, add: bool
    ) -> tuple[dict[str, Tensor], list[tuple[str, Tensor]]]:
        """The parameters' gradients after a pass, which is added to those that there are or takes their place; and what
        is still to be added to them in place.
        """
        grads = dict(self._grads)
        if add and not self._own:
            grads = {name: g.copy(order="F") for name, g in grads.items()}
        before, added = set(grads), []
        for op, about, name in effects:
            if op != "dpar":
                continue
            value = _array(env[name])
            if about in before:
                added.append((about, value))
            elif about in grads:
                grads[about] = grads[about] + value
            else:
                grads[about] = value.copy(order="F") if add else value
        for name in self._trained:
            if name not in grads:
                grads[name] = np.zeros_like(self._params[name])
        return grads, added

    def _take(self, grads: dict[str, Tensor], added: Iterable[tuple[str, Tensor]], add: bool) -> None:
        """Takes what `_gradients` found."""
        for name, value in added:
            grads[name] += value
        self._grads, self._own = grads, add

    # --- whole sequences ----------------------------------------------------------------------------------------------

    def forward_sequence(
        self, setting: frozenset[str], inputs: Sequence[Tensor], steps: int, out: Tensor | None = None
    ) -> Tensor | None:
        """Several calls with `push` (see `Executable.forward_sequence`), batched over time where that can be."""
        batch = 1 if self._batched is None else inputs[self._batched].shape[-1] // steps
        prepared = self._prepared.get((setting, batch)) or self._prepare(setting, batch)
        timed = prepared.timed(steps)
        if timed is None:
            values: Tensor | None = forward_steps(self, setting, inputs, steps, out)
            return values
        self._last = self._record = None
        if not self._stack:
            self._dstate.clear()
        env: Environment = dict(prepared.held)
        env.update(zip(self._inputs, [a.copy(order="F") for a in inputs], strict=True))
        flowing, call = dict(self._state), self._clock.call
        self._clock.call += 1
        try:
            timed.run(env, flowing, self._clock)
            result = prepared.variant.result
            value = None if result is None else _result(env[result], out)
        except MemoryError:
            self._clock.call = call
            raise
        self._state = flowing
        block = Block({name: env[name] for name in prepared.saved}, prepared.moving, batch, steps)
        self._stack += [Record(prepared, block.step(t), block) for t in range(steps)]
        self._last = Record(prepared, Block(env, prepared.moving, batch, steps).step(steps - 1))
        return value

    def backward_sequence(self, loss: str, gold: Tensor | None, mask: Tensor | None, steps: int) -> None:
        """Several calls with `pop` (see `Executable.backward_sequence`), batched over time for a whole sequence."""
        record = self._stack[-1]
        block = record.block
        whole = block is not None and block.steps == steps and all(r.block is block for r in self._stack[-steps:])
        timed = record.prepared.timed_backward(loss, steps) if whole else None
        if block is None or timed is None:
            backward_steps(self, loss, gold, mask, steps)
            return
        env = {**block.env, GOLD: gold, MASK: mask}
        flowing = dict(self._dstate)
        timed.run(env, flowing, self._clock, backward=True)
        grads, added = self._gradients((*timed.before.effects, *timed.after.effects), env, add=True)
        del self._stack[-steps:]
        self._dstate = flowing
        self._take(grads, added, add=True)

    def update(self, options: Mapping[str, TrainingOptions], gclip: float, gscale: float) -> None:
        """Changes the parameters (see `Executable.update`)."""
        self._make_room(options)
        norm = 0.0
        if gclip > 0 or self._clips:
            norm = float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in self._grads.values())))
        grads = self._grads
        with np.errstate(all="ignore"):
            for name, o, w, slots, scratch in self._changes:
                scale = gradient_scale(norm, gclip or o.gclip, gscale * o.gscale)
                apply_update(o, w, grads[name], slots, scale, scratch)

    def _make_room(self, options: Mapping[str, TrainingOptions]) -> None:
        """Takes all the memory that an update needs before anything changes, so that what fails changes nothing."""
        if self._made != [options[name] for name in self._trained]:
            for name in self._trained:
                make_slots(options[name], self._slots[name], self._params[name])
                if name not in self._scratch:
                    self._scratch[name] = np.empty_like(self._params[name])
            self._made = [options[name] for name in self._trained]
            self._clips = any(o.gclip > 0 for o in self._made)
            self._changes = [
                (name, options[name], self._params[name], self._slots[name], self._scratch[name])
                for name in self._trained
            ]
        np.empty(TEMPORARIES * self._largest, self._dtype)  # what comes and goes

    def reset(self, keepstate: bool) -> None:
        """Empties the stack and zeroes gradients, and the state unless `keepstate`."""
        self._stack.clear()
        self._dstate.clear()
        self._grads.clear()
        if not keepstate:
            self._state.clear()

    # --- data ---------------------------------------------------------------------------------------------------------

    def read(self, kind: str, name: str) -> Tensor:
        """A copy of an array (see `Executable.read`)."""
        if kind == "value":
            return self._value(name).copy(order="F")
        arrays = {"par": self._params, "grad": self._grads, "state": self._state}[kind]
        return arrays[name].copy(order="F")

    def write(self, kind: str, name: str, array: Tensor) -> None:
        """Overwrites a parameter or state."""
        if kind == "par":
            self._params[name][...] = array
        else:
            self._state[name] = array.copy(order="F")

    def take_columns(self, first: int, whole: int) -> None:
        """Whose columns the next calls are given (see `sums.Splittable`)."""
        self._clock.first, self._clock.whole = first, whole

    def read_gradient(self, name: str, to: Tensor) -> None:
        """Copies a parameter's gradient (see `sums.GivesGradients`)."""
        to[...] = self._grads[name]

    def write_gradient(self, name: str, array: Tensor) -> None:
        """Overwrites a parameter's gradient (see `sums.GivesGradients`)."""
        self._grads[name] = array

    def averages(self, parameter: str) -> dict[str, Tensor]:
        """Copies of a parameter's running averages (see `Executable.averages`)."""
        return {name: average.copy(order="F") for name, average in self._slots.get(parameter, {}).items()}

    def set_averages(self, parameter: str, averages: Mapping[str, Tensor]) -> None:
        """Overwrites running averages of a parameter, which `update` changes."""
        self._slots[parameter].update({name: average.copy(order="F") for name, average in averages.items()})

    def clean(self) -> None:
        """Frees the stack, the gradients and the values of the last call."""
        self.reset(keepstate=True)
        self._last = self._record = None

    def stack_depth(self) -> int:
        """The number of records on the stack."""
        return len(self._stack)

    def set_seed(self, seed: int, calls: int = 0) -> None:
        """Random draws are keyed by `seed`, as after so many `calls`."""
        self._clock.seed, self._clock.call = seed, calls

    def calls(self) -> int:
        """The number of the last `forward`."""
        return self._clock.call

    def close(self) -> None:
        """Nothing to free: the arrays go with the object."""

    # --- inside -------------------------------------------------------------------------------------------------------

    def _make(self, instr: Instr) -> Tensor:
        return registry()[instr.op].numpy(Context.of(instr, 0, self._dtype, self._clock))

    def _make_blocks(self) -> None:
        """Lets the parameters that stand in one block be views of it, so that stacking them copies nothing."""
        for variant in self.program.variants:
            held = {i.out: stream(i) for i in variant.forward if i.op in HELD}
            for i in variant.forward:
                if i.op == "stack" and all(a in held for a in i.args):
                    parts = [self._held[held[a]] for a in i.args]
                    block = np.asfortranarray(np.concatenate(parts))
                    ends = np.cumsum([len(p) for p in parts])
                    views = [block[end - len(p) : end] for end, p in zip(ends, parts, strict=True)]
                    self._held.update(zip([held[a] for a in i.args], views, strict=True))

    def _prepare(self, setting: frozenset[str], batch: int) -> Prepared:
        if len(self._prepared) >= MOST_PREPARED:
            self._prepared.clear()
        prepared = Prepared.of(self.program, self.program.variant(setting), batch, self._held, self._clock)
        self._prepared[setting, batch] = prepared
        return prepared

    def _load(self, code: Code, source: Mapping[str, Tensor], env: Environment) -> None:
        """State, or its gradient, into `env`; zero where there is none."""
        for out, var, dims in code.loads:
            found = source.get(var)
            env[out] = np.zeros(dims, self._dtype, order="F") if found is None else found

    def _value(self, name: str) -> Tensor:
        if self._last is None:
            raise KeyError(name)
        return _array(self._last.env[self._last.prepared.names.get(name, name)])


def _result(value: Any, out: Tensor | None) -> Tensor:
    """A value as the user gets it: in `out`, or in memory of its own."""
    array: Tensor = _array(value).copy(order="F") if out is None else into(_array(value), out)
    return array


def _array(value: Any) -> Tensor:
    """A value that is an array; only `@mask` may be None, which no effect and no variable is."""
    assert value is not None
    array: Tensor = value
    return array
