"""The plan: which buffer holds each value, in which order the instructions run, and what memory that takes.

Before: `ir.planner`, which makes it of a `training` program. After: `codegen.kernels`, which turns each step into a
kernel launch or a library call. A buffer's size is fixed or so many elements a column, so memory is known for every
batch size before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from knetc.ir.program import Instr, Program, Variant
from knetc.ir.types import Type
from knetc.record import Record

if TYPE_CHECKING:
    from knetc.ir.memory import Arena

# Kernels count elements in 32 bits, and their last stride (2^24 threads) must not run over.
MOST_ELEMENTS = 2**31 - 2**24
ELEMENT_BYTES = {"f32": 4, "f64": 8}
SHARING = ("input", "value", "gold", "mask")  # the kinds of buffers that can share memory with others
GIVEN = ("input", "gold", "mask")  # and of them those that a call copies in
REPORT_BATCH = 100  # the batch for which reports count memory
REPORT_STEPS = 100  # and the steps of a sequence


class Buffer(Record):
    """Memory of one value. `kind`: `param`, `grad`, `const` (arr), `input`, `value`, `gold`, `mask`, `loss`, `state`
    (what a static variable holds between calls), `dstate` (its gradient, between the steps of a backward pass), or
    `register` (a variable of the kernel that computes it, without memory).

    `name` is the Knet name of the value; that of a parameter's or state's gradient is `d:` and its name. A view is rows
    of another buffer, its `base`, from row `first` on, and has no memory of its own.
    """

    name: str
    kind: str
    type: Type
    base: Buffer | None = None
    first: int = 0

    @property
    def root(self) -> Buffer:
        """The buffer that has the memory."""
        return self if self.base is None else self.base

    @property
    def pitch(self) -> int | None:
        """How far apart a view's columns are, in elements; None where they follow each other."""
        part = self.base is not None and len(self.type.dims) > 1 and self.type != self.base.type
        rows = self.root.type.dims[0] if part else None
        return rows if isinstance(rows, int) else None

    def elements(self, batch: int) -> int:
        """The number of elements for `batch` columns."""
        return self.type.column * (batch if self.type.batched else 1)

    def bytes(self, batch: int) -> int:
        """The size for `batch` columns."""
        return self.elements(batch) * ELEMENT_BYTES[self.type.dtype]

    @property
    def kept(self) -> bool:
        """Whether the buffer lives as long as the model, whatever runs."""
        return self.kind in ("param", "grad", "const", "state", "dstate")


class Step(Record):
    """One instruction with the buffers that it reads and writes.

    `wanted`: the inputs whose gradients need this step; None where it always runs.
    """

    instr: Instr
    out: Buffer
    args: tuple[Buffer, ...]
    wanted: frozenset[int] | None = None


class Kernel(Record):
    """Steps that run as one kernel, element by element, in order. A buffer of kind `register` is a variable of it."""

    steps: tuple[Step, ...]
    wanted: frozenset[int] | None = None

    @property
    def outputs(self) -> tuple[Buffer, ...]:
        """What the kernel leaves in memory, in order."""
        return tuple(s.out for s in self.steps if s.out.kind != "register")

    @property
    def inputs(self) -> tuple[Buffer, ...]:
        """What the kernel reads from memory and does not compute itself, in order."""
        own = {s.out for s in self.steps}
        return tuple(dict.fromkeys(a for s in self.steps for a in s.args if a not in own))


Unit: TypeAlias = Step | Kernel


def flat(units: Iterable[Unit]) -> Iterator[Step]:
    """Every step of the units, in order."""
    for unit in units:
        if isinstance(unit, Kernel):
            yield from unit.steps
        else:
            yield unit


class PhasePlan(Record):
    """A list over a whole sequence (`ir.program.Phases`), by `ir.sequence_plan`.

    `before` and `after` are about the columns of all steps, `loop` about those of one. `whole`: the arrays of the loop
    that have the columns of all steps side by side; others have those of one step.
    """

    before: tuple[Unit, ...]
    loop: tuple[Unit, ...]
    after: tuple[Unit, ...]
    whole: tuple[Buffer, ...]

    @property
    def lists(self) -> tuple[tuple[Unit, ...], ...]:
        """The three lists in order."""
        return (self.before, self.loop, self.after)

    @property
    def of_all_steps(self) -> frozenset[Buffer]:
        """Every array of the lists that has the columns of all steps: those of the loop, and what the others touch."""
        outside = {b.root for s in flat((*self.before, *self.after)) for b in (*s.args, s.out)}
        return frozenset({*self.whole, *(b for b in outside if b.type.batched and b.kind in SHARING)})

    def having_all_steps(self, buffers: Iterable[Buffer]) -> frozenset[Buffer]:
        """Those of the buffers that have the columns of all steps in these lists, or are given for all steps."""
        touched = self.of_all_steps
        return frozenset(b for b in buffers if b in touched or (b.kind in GIVEN and b.type.batched))


class BackwardPlan(Record):
    """A backward program in order.

    `inputs`: where each input's gradient stands afterwards; `params`: the parameters that get a gradient.
    `loss_value`: where the loss's value stands, None where the loss has none. `phases`: the program over a whole
    sequence, where it was asked for.
    """

    loss: str
    steps: tuple[Unit, ...]
    inputs: tuple[tuple[int, Buffer], ...]
    params: tuple[str, ...]
    loss_value: Buffer | None
    phases: PhasePlan | None = None


class VariantPlan(Record):
    """A variant in order. `label` tells variants apart: the conditions of its smallest setting, empty for none.

    `result`: the model's value, None where it returns nothing; `names`: Knet variables that can be read afterwards.
    `frame`: the inputs and forward values that stand in a step's frame, which `sforw` pushes: those that a backward
    pass reads (of some variant; one buffer serves a value in all of them). `phases`: the forward list over a whole
    sequence, where it was asked for.
    """

    variant: Variant
    label: tuple[str, ...]
    forward: tuple[Unit, ...]
    backward: tuple[BackwardPlan, ...]
    result: Buffer | None
    names: tuple[tuple[str, Buffer], ...]
    frame: tuple[Buffer, ...]
    phases: PhasePlan | None = None


class Param(Record):
    """A trained parameter: its `par` instruction, its buffer, and its gradient's where one is ever computed."""

    instr: Instr
    buffer: Buffer
    grad: Buffer | None


class Plan(Record):
    """The whole program with its buffers, all in a fixed order. `arena`: None where every buffer has its own memory."""

    program: Program
    buffers: tuple[Buffer, ...]
    variants: tuple[VariantPlan, ...]
    params: tuple[Param, ...]
    constants: tuple[tuple[Instr, Buffer], ...]
    inputs: tuple[Buffer, ...]
    states: tuple[Buffer, ...]
    arena: Arena | None = None

    @property
    def framed(self) -> frozenset[Buffer]:
        """The buffers that stand in a frame of some variant."""
        return frozenset(b for v in self.variants for b in v.frame)
