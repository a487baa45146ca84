"""The plan: which buffer holds each value, in which order the instructions run, and what memory that takes.

Before: a `training` program. After: `codegen.kernels`, which turns each step into a kernel launch or a library call.
Every value that does not stay within its kernel has a buffer of its own for now; a value that becomes a parameter's
gradient is written straight into it.
A buffer's size is fixed or so many elements a column, so memory is known for every batch size before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias

from knetc.errors import KnetInternalError, KnetLimitation
from knetc.ir import uses
from knetc.ir.program import GOLD, MASK, Backward, Instr, Program, Variant
from knetc.ir.types import BatchDim, N, Type
from knetc.ir.uses import LOSS
from knetc.record import Record, replace

# Kernels count elements in 32 bits, and their last stride (2^24 threads) must not run over.
MOST_ELEMENTS = 2**31 - 2**24
_ELEMENT_BYTES = {"f32": 4, "f64": 8}


class Buffer(Record):
    """Memory of one value. `kind`: `param`, `grad`, `const` (arr), `input`, `value`, `gold`, `mask`, `loss`, `state`
    (what a static variable holds between calls), `dstate` (its gradient, between the steps of a backward pass), or
    `register` (a variable of the kernel that computes it, without memory).

    `name` is the Knet name of the value; that of a parameter's or state's gradient is `d:` and its name.
    """

    name: str
    kind: str
    type: Type

    def elements(self, batch: int) -> int:
        """The number of elements for `batch` columns."""
        return self.type.column * (batch if self.type.batched else 1)

    def bytes(self, batch: int) -> int:
        """The size for `batch` columns."""
        return self.elements(batch) * _ELEMENT_BYTES[self.type.dtype]

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


class BackwardPlan(Record):
    """A backward program in order.

    `inputs`: where each input's gradient stands afterwards; `params`: the parameters that get a gradient.
    `loss_value`: where the loss's value stands, None where the loss has none.
    """

    loss: str
    steps: tuple[Unit, ...]
    inputs: tuple[tuple[int, Buffer], ...]
    params: tuple[str, ...]
    loss_value: Buffer | None


class VariantPlan(Record):
    """A variant in order. `label` tells variants apart: the conditions of its smallest setting, empty for none.

    `result`: the model's value, None where it returns nothing; `names`: Knet variables that can be read afterwards.
    `frame`: the inputs and forward values that stand in a step's frame, which `sforw` pushes: those that a backward
    pass reads (of some variant; one buffer serves a value in all of them).
    """

    variant: Variant
    label: tuple[str, ...]
    forward: tuple[Unit, ...]
    backward: tuple[BackwardPlan, ...]
    result: Buffer | None
    names: tuple[tuple[str, Buffer], ...]
    frame: tuple[Buffer, ...]


class Param(Record):
    """A trained parameter: its `par` instruction, its buffer, and its gradient's where one is ever computed."""

    instr: Instr
    buffer: Buffer
    grad: Buffer | None


class Plan(Record):
    """The whole program with its buffers, all in a fixed order."""

    program: Program
    buffers: tuple[Buffer, ...]
    variants: tuple[VariantPlan, ...]
    params: tuple[Param, ...]
    constants: tuple[tuple[Instr, Buffer], ...]
    inputs: tuple[Buffer, ...]
    states: tuple[Buffer, ...]

    @property
    def framed(self) -> frozenset[Buffer]:
        """The buffers that stand in a frame of some variant."""
        return frozenset(b for v in self.variants for b in v.frame)

    def total_bytes(self, batch: int) -> int:
        """Memory of all buffers for `batch` columns, without running averages and library workspaces."""
        return sum(b.bytes(batch) for b in self.buffers)

    def step_bytes(self, batch: int) -> int:
        """What each step on the stack holds for `batch` columns: the largest frame of any variant."""
        return max((sum(b.bytes(batch) for b in v.frame) for v in self.variants), default=0)

    def bound_bytes(self, batch: int) -> int:
        """The largest set of buffers that are live at once: no sharing of buffers could need less."""
        always = sum(b.bytes(batch) for b in self.buffers if b.kept)
        runs = [(v.forward, b.steps) for v in self.variants for b in v.backward] or [
            (v.forward, ()) for v in self.variants
        ]
        return always + max((_peak((*flat(f), *flat(b)), batch) for f, b in runs), default=0)


def _peak(steps: tuple[Step, ...], batch: int) -> int:
    """The largest sum, over the steps, of the sizes of the buffers that are live there."""
    born: dict[Buffer, int] = {}
    dies: dict[Buffer, int] = {}
    for at, step in enumerate(steps):
        for b in (*step.args, step.out):
            # Inputs, gold and mask come from outside: they are there from the start.
            born.setdefault(b, at if b.kind in ("value", "loss") else 0)
            dies[b] = at
    change = [0] * (len(steps) + 1)
    for b, at in born.items():
        if not b.kept and b.kind != "register":
            change[at] += b.bytes(batch)
            change[dies[b] + 1] -= b.bytes(batch)
    live = peak = 0
    for delta in change:
        live += delta
        peak = max(peak, live)
    return peak


# --- making it --------------------------------------------------------------------------------------------------------


def make_plan(program: Program) -> Plan:
    """The plan of a `training` program. KnetLimitation for a value that emitted code cannot hold."""
    if program.stage != "training":
        raise KnetInternalError(f"a plan is made of a training program, not of one at stage {program.stage}")
    return _Planner(program).plan()


class _Planner:
    """Buffers by (name, kind, type), in the order in which they are first met."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.buffers: dict[Buffer, None] = {}
        self.pars = program.params()
        self.grads: dict[str, Buffer] = {}
        self.constants: dict[str, tuple[Instr, Buffer]] = {}
        self.states = {var: self._buffer(var, "state", type) for var, type in program.states().items()}

    def plan(self) -> Plan:
        inputs = tuple(self._input(i.name, i.dims) for i in self.program.inputs)
        outside = {b.name: b for b in inputs}
        params = {name: self._buffer(name, "param", i.type) for name, i in self.pars.items()}
        variants = _framed(tuple(self._variant(v, {**outside, **params}) for v in self.program.variants), inputs)
        for instr in self.program.update:
            self._grad(str(instr.attr("param")))  # zero where no backward pass reaches it
        return Plan(
            program=self.program,
            buffers=tuple(self.buffers),
            variants=variants,
            params=tuple(Param(i, params[name], self.grads.get(name)) for name, i in self.pars.items()),
            constants=tuple(self.constants.values()),
            inputs=inputs,
            states=tuple(self.states.values()),
        )

    def _buffer(self, name: str, kind: str, type: Type | None) -> Buffer:
        if type is None:
            raise KnetInternalError(f"value {name} has no type")
        if sum(isinstance(d, BatchDim) for d in type.dims) > 1:
            raise KnetLimitation(f"emitted code for a value whose size grows with the square of the batch: {name}")
        if type.column > MOST_ELEMENTS:
            raise KnetLimitation(
                f"emitted code for {name} with its {type.column} elements; the most is {MOST_ELEMENTS}"
            )
        buffer = Buffer(name, kind, type)
        if kind != "register":
            self.buffers.setdefault(buffer)
        return buffer

    def _input(self, name: str, dims: object) -> Buffer:
        if not isinstance(dims, tuple) or None in dims:
            raise KnetInternalError(f"the size of input {name} is not known")
        return self._buffer(name, "input", Type(self.program.dtype, dims))

    def _variant(self, variant: Variant, known: dict[str, Buffer]) -> VariantPlan:
        scope = dict(known)
        registers = _registers(variant.forward, uses.named(variant) | uses.read_back(variant))
        forward = tuple(self._units(variant.forward, lambda i: self._forward(i, scope, registers)))
        names = tuple((n, scope[v]) for n, v in variant.names if scope[v].kind != "register")
        return VariantPlan(
            variant=variant,
            label=min((tuple(sorted(s)) for s in variant.settings), key=lambda s: (len(s), s)),
            forward=forward,
            backward=tuple(self._backward(b, variant, scope) for b in variant.backward),
            result=scope[variant.result] if variant.result is not None else None,
            names=names,
            frame=(),
        )

    def _units(self, body: Iterable[Instr], plan: Callable[[Instr], Step | None]) -> Iterator[Unit]:
        """The steps that `plan` makes of the instructions, those of a kernel together."""
        for kernel, group in groupby(body, key=attrgetter("kernel")):
            steps = [step for step in map(plan, group) if step]
            if kernel and steps:
                yield Kernel(tuple(steps), steps[0].wanted)
            else:
                yield from steps

    def _forward(self, instr: Instr, scope: dict[str, Buffer], registers: AbstractSet[str]) -> Step | None:
        """The step of a forward instruction; None where nothing runs. Adds its result to `scope`."""
        if instr.op == "par":
            return None
        if instr.op == "keep":
            return Step(instr, self.states[_var(instr)], (scope[instr.args[0]],))
        if instr.op == "arr":
            scope[instr.out] = self._buffer(instr.out, "const", instr.type)
            self.constants.setdefault(instr.out, (instr, scope[instr.out]))
            return None
        args = (self.states[_var(instr)],) if instr.op == "state" else tuple(scope[a] for a in instr.args)
        scope[instr.out] = self._buffer(instr.out, "register" if instr.out in registers else "value", instr.type)
        return Step(instr, scope[instr.out], args)

    # --- backward -----------------------------------------------------------------------------------------------------

    def _backward(self, backward: Backward, variant: Variant, forward: Mapping[str, Buffer]) -> BackwardPlan:
        scope = dict(forward)
        if variant.result is not None:
            scope[GOLD] = self._buffer(GOLD, "gold", forward[variant.result].type)
        scope[MASK] = self._buffer(MASK, "mask", Type(self.program.dtype, (N,)))
        places = self._places(backward.body)
        needs = dict(zip(map(id, backward.body), uses.wanted(backward.body), strict=True))
        registers = _registers(backward.body, {LOSS})
        inputs: list[tuple[int, Buffer]] = []
        params: list[str] = []

        def plan(instr: Instr) -> Step | None:
            need = needs[id(instr)]
            if instr.op == "dpar":
                name = str(instr.attr("param"))
                params.append(name)
                placed = places.get(instr.args[0]) == name
                return None if placed else self._copy(instr, scope[instr.args[0]], self._grad(name))
            if instr.op == "dinput":
                inputs.append((uses.input_index(instr), scope[instr.args[0]]))
                return None
            if instr.op == "dkeep":
                return Step(instr, self._dstate(_var(instr)), (scope[instr.args[0]],))
            if need is not None and not need:
                return None
            scope[instr.out] = self._place(instr, places, registers)
            args = (self._dstate(_var(instr)),) if instr.op == "dstate" else tuple(scope[a] for a in instr.args)
            return Step(instr, scope[instr.out], args, need)

        steps = tuple(self._units(backward.body, plan))
        return BackwardPlan(backward.loss, steps, tuple(inputs), tuple(params), scope.get(LOSS))

    def _places(self, body: Iterable[Instr]) -> dict[str, str]:
        """Values of the body that can be written straight into a parameter's gradient, with that parameter."""
        own: set[str] = set()
        places: dict[str, str] = {}
        for instr in body:
            if instr.out:
                own.add(instr.out)
            if instr.op == "dpar" and instr.args[0] in own:
                places.setdefault(instr.args[0], str(instr.attr("param")))
        return places

    def _place(self, instr: Instr, places: Mapping[str, str], registers: AbstractSet[str]) -> Buffer:
        if instr.out in places:
            return self._grad(places[instr.out])
        kind = "loss" if instr.out == LOSS else "register" if instr.out in registers else "value"
        return self._buffer(instr.out, kind, instr.type)

    def _grad(self, param: str) -> Buffer:
        if param not in self.grads:
            self.grads[param] = self._buffer(f"d:{param}", "grad", self.pars[param].type)
        return self.grads[param]

    def _dstate(self, var: str) -> Buffer:
        return self._buffer(f"d:{var}", "dstate", self.states[var].type)

    def _copy(self, instr: Instr, source: Buffer, grad: Buffer) -> Step:
        return Step(Instr(grad.name, "copy", instr.args, type=grad.type, span=instr.span), grad, (source,))


def _registers(body: Iterable[Instr], outside: AbstractSet[str]) -> set[str]:
    """The values that only their own kernel reads; `outside` are read by others than this list."""
    kernels = {i.out: i.kernel for i in body if i.kernel and i.out not in outside}
    for i in body:
        for a in i.args:
            if kernels.get(a, i.kernel) != i.kernel:
                del kernels[a]
    return set(kernels)


def _var(instr: Instr) -> str:
    """The static variable that a `state`, `keep`, `dstate` or `dkeep` is about."""
    return str(instr.attr("var"))


def _framed(variants: tuple[VariantPlan, ...], inputs: tuple[Buffer, ...]) -> tuple[VariantPlan, ...]:
    """The variants with their frames."""
    made = [dict.fromkeys((*inputs, *(s.out for s in flat(v.forward) if s.out.kind == "value"))) for v in variants]
    read = {
        b
        for v, own in zip(variants, made, strict=True)
        for back in v.backward
        for b in (*(a for s in flat(back.steps) for a in s.args), *(at for _, at in back.inputs))
        if b in own
    }
    return tuple(replace(v, frame=tuple(b for b in own if b in read)) for v, own in zip(variants, made, strict=True))
