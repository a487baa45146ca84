"""Whole sequences on the interpreter: the lists before, in and after the loop over time (`ir.program.Phases`).

Part of `interp.py`. Outside the loop an array has the columns of all steps side by side; in it, a step works on its own
columns, which are a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np

from knetc.ir.program import Phases
from knetc.ir.types import N
from knetc.runtime.device import DeviceArray
from knetc.runtime.executable import Executable, Given, Tensor
from knetc.runtime.prepare import Clock, Code, Environment, code


@dataclass(frozen=True, slots=True)
class Timed:
    """The lists of a sequence prepared for `batch` columns a step and so many steps.

    `collected`: values of the loop that others read, whose steps are put side by side, with their dims for all steps.
    `reads`: what the loop reads from outside, and whether that has the columns of all steps.
    """

    batch: int
    steps: int
    dtype: np.dtype[Any]
    before: Code
    loop: Code
    after: Code
    collected: Mapping[str, tuple[int, ...]]
    reads: Mapping[str, bool]

    @classmethod
    def of(
        cls,
        phases: Phases,
        batch: int,
        steps: int,
        dtype: np.dtype[Any],
        clock: Clock,
        wanted: AbstractSet[str],
        moving: AbstractSet[str],
    ) -> Timed:
        """Prepares the lists.

        `wanted`: the values that are read after the sequence; `moving`: those from outside that have the batch.
        """
        columns = batch * steps
        outside = wanted | {a for body in (phases.before, phases.after) for i in body for a in i.args}
        moving = moving | {i.out for body in phases.lists for i in body if i.type and i.type.batched}
        own = {i.out for i in phases.loop}
        reads = [a for i in phases.loop for a in i.args if a not in own]
        return cls(
            batch,
            steps,
            dtype,
            code(phases.before, columns, dtype, clock, outside | set(reads), steps),
            code(phases.loop, batch, dtype, clock, outside),
            code(phases.after, columns, dtype, clock, wanted, steps),
            {i.out: i.type.concrete(columns) for i in phases.loop if i.type and i.out in outside},
            {a: a in moving for a in reads},
        )

    def run(self, env: Environment, flowing: dict[str, Tensor], clock: Clock, backward: bool = False) -> None:
        """Computes the values of a sequence into `env`, which has the inputs or the forward values of all steps.

        `flowing` has what comes into the loop by static variable (`state` or its gradient; zero where there is none),
        and afterwards what leaves it. Forward, the call's number is the first step's, and afterwards the last one's; a
        backward pass draws nothing and leaves it.
        """
        first = clock.call
        self.before.run(env)
        for name, dims in self.collected.items():
            env[name] = np.empty(dims, self.dtype, order="F")
        order = range(self.steps - 1, -1, -1) if backward else range(self.steps)
        for t in order:
            if not backward:
                clock.call = first + t
            self._step(t, env, flowing)
        clock.call = first
        self.after.run(env)
        if not backward:
            clock.call = first + self.steps - 1

    def _step(self, t: int, env: Environment, flowing: dict[str, Tensor]) -> None:
        at = slice(t * self.batch, (t + 1) * self.batch)
        mine: Environment = {name: columns(env[name], at) if moves else env[name] for name, moves in self.reads.items()}
        for out, var, dims in self.loop.loads:
            mine[out] = flowing.get(var, np.zeros(dims, self.dtype, order="F"))
        self.loop.run(mine)
        for name in self.collected:
            whole, value = env[name], mine[name]
            assert whole is not None
            whole[..., at] = value
        for _, about, name in self.loop.effects:
            value = mine[name]
            assert value is not None
            flowing[about] = value


def columns(array: Tensor | None, at: slice) -> Tensor | None:
    """One step's columns of an array that has those of all steps; a view."""
    return None if array is None else array[..., at]


@dataclass(frozen=True, slots=True)
class Block:
    """What a whole sequence leaves: the values of all its steps by name, and which of them have the batch."""

    env: Environment
    moving: frozenset[str]
    batch: int
    steps: int

    def step(self, t: int) -> Environment:
        """The values of one step."""
        at = slice(t * self.batch, (t + 1) * self.batch)
        return {name: columns(a, at) if name in self.moving else a for name, a in self.env.items()}


# --- step by step -----------------------------------------------------------------------------------------------------


def forward_steps(
    executable: Executable, setting: frozenset[str], inputs: Sequence[Given], steps: int, out: Given | None = None
) -> Any:
    """`Executable.forward_sequence` as so many calls of `forward`."""
    moving = [i.dims is not None and i.dims[-1:] == (N,) for i in executable.program.inputs]
    values = []
    for t in range(steps):
        mine = [_own(a, t, steps) if moves else a for a, moves in zip(inputs, moving, strict=True)]
        values.append(executable.forward(setting, mine, True, None if out is None else _columns(out, t, steps)))
    found = [v for v in values if v is not None]
    if out is not None or not found:
        return out
    return np.asfortranarray(np.concatenate(found, axis=-1))


def backward_steps(executable: Executable, loss: str, gold: Given | None, mask: Given | None, steps: int) -> None:
    """`Executable.backward_sequence` as so many calls of `backward`, the last step first."""
    for t in reversed(range(steps)):
        mine, masked = (None if a is None else _own(a, t, steps) for a in (gold, mask))
        executable.backward(loss, mine, masked, (), pop=True)


def _own(array: Given, t: int, steps: int) -> Given:
    """The columns of step t, of an array in host memory as an array of their own."""
    found = _columns(array, t, steps)
    return found if isinstance(found, DeviceArray) else np.asfortranarray(found)


def _columns(array: Given, t: int, steps: int) -> Given:
    """The columns of step t: the same memory."""
    batch = array.shape[-1] // steps
    start, stop = t * batch, (t + 1) * batch
    return array.columns(start, stop) if isinstance(array, DeviceArray) else array[..., start:stop]
