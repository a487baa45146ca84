"""The plan: which buffer holds each value, in which order the instructions run, and what memory that takes.

Before: a `training` program. After: `codegen.kernels`, which turns each step into a kernel launch or a library call.
Every value has a buffer of its own for now; a value that becomes a parameter's gradient is written straight into it.
A buffer's size is fixed or so many elements a column, so memory is known for every batch size before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from knetc.errors import KnetInternalError, KnetLimitation
from knetc.ir.program import GOLD, MASK, Backward, Instr, Program, Variant
from knetc.ir.types import BatchDim, N, Type
from knetc.record import Record, replace

LOSS = "@loss"
# Kernels count elements in 32 bits, and their last stride (2^24 threads) must not run over.
MOST_ELEMENTS = 2**31 - 2**24
_ELEMENT_BYTES = {"f32": 4, "f64": 8}


class Buffer(Record):
    """Memory of one value. `kind`: `param`, `grad`, `const` (arr), `input`, `value`, `gold`, `mask`, `loss`, `state`
    (what a static variable holds between calls) or `dstate` (its gradient, between the steps of a backward pass).

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


class BackwardPlan(Record):
    """A backward program in order.

    `inputs`: where each input's gradient stands afterwards; `params`: the parameters that get a gradient.
    `loss_value`: where the loss's value stands, None where the loss has none.
    """

    loss: str
    steps: tuple[Step, ...]
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
    forward: tuple[Step, ...]
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
        return always + max((_peak((*f, *b), batch) for f, b in runs), default=0)


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
        if not b.kept:
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
        self.buffers.setdefault(buffer)
        return buffer

    def _input(self, name: str, dims: object) -> Buffer:
        if not isinstance(dims, tuple) or None in dims:
            raise KnetInternalError(f"the size of input {name} is not known")
        return self._buffer(name, "input", Type(self.program.dtype, dims))

    def _variant(self, variant: Variant, known: dict[str, Buffer]) -> VariantPlan:
        scope = dict(known)
        forward: list[Step] = []
        for instr in variant.forward:
            if instr.op == "par":
                continue
            if instr.op == "keep":
                forward.append(Step(instr, self.states[_var(instr)], (scope[instr.args[0]],)))
                continue
            if instr.op == "arr":
                scope[instr.out] = self._buffer(instr.out, "const", instr.type)
                self.constants.setdefault(instr.out, (instr, scope[instr.out]))
                continue
            args = (self.states[_var(instr)],) if instr.op == "state" else tuple(scope[a] for a in instr.args)
            scope[instr.out] = self._buffer(instr.out, "value", instr.type)
            forward.append(Step(instr, scope[instr.out], args))
        return VariantPlan(
            variant=variant,
            label=min((tuple(sorted(s)) for s in variant.settings), key=lambda s: (len(s), s)),
            forward=tuple(forward),
            backward=tuple(self._backward(b, variant, scope) for b in variant.backward),
            result=scope[variant.result] if variant.result is not None else None,
            names=tuple((name, scope[value]) for name, value in variant.names),
            frame=(),
        )

    # --- backward -----------------------------------------------------------------------------------------------------

    def _backward(self, backward: Backward, variant: Variant, forward: Mapping[str, Buffer]) -> BackwardPlan:
        scope = dict(forward)
        if variant.result is not None:
            scope[GOLD] = self._buffer(GOLD, "gold", forward[variant.result].type)
        scope[MASK] = self._buffer(MASK, "mask", Type(self.program.dtype, (N,)))
        places = self._places(backward.body)
        wanted = _wanted(backward.body)
        steps: list[Step] = []
        inputs: list[tuple[int, Buffer]] = []
        params: list[str] = []
        for instr, need in zip(backward.body, wanted, strict=True):
            if instr.op == "dpar":
                name = str(instr.attr("param"))
                params.append(name)
                if places.get(instr.args[0]) != name:
                    steps.append(self._copy(instr, scope[instr.args[0]], self._grad(name)))
            elif instr.op == "dinput":
                inputs.append((_index(instr), scope[instr.args[0]]))
            elif instr.op == "dkeep":
                steps.append(Step(instr, self._dstate(_var(instr)), (scope[instr.args[0]],)))
            elif need is None or need:
                scope[instr.out] = self._place(instr, places)
                args = (self._dstate(_var(instr)),) if instr.op == "dstate" else tuple(scope[a] for a in instr.args)
                steps.append(Step(instr, scope[instr.out], args, need))
        return BackwardPlan(backward.loss, tuple(steps), tuple(inputs), tuple(params), scope.get(LOSS))

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

    def _place(self, instr: Instr, places: Mapping[str, str]) -> Buffer:
        if instr.out in places:
            return self._grad(places[instr.out])
        return self._buffer(instr.out, "loss" if instr.out == LOSS else "value", instr.type)

    def _grad(self, param: str) -> Buffer:
        if param not in self.grads:
            self.grads[param] = self._buffer(f"d:{param}", "grad", self.pars[param].type)
        return self.grads[param]

    def _dstate(self, var: str) -> Buffer:
        return self._buffer(f"d:{var}", "dstate", self.states[var].type)

    def _copy(self, instr: Instr, source: Buffer, grad: Buffer) -> Step:
        return Step(Instr(grad.name, "copy", instr.args, type=grad.type, span=instr.span), grad, (source,))


def _index(instr: Instr) -> int:
    index = instr.attr("index")
    if not isinstance(index, int):
        raise KnetInternalError(f"dinput of index {index!r}")
    return index


def _var(instr: Instr) -> str:
    """The static variable that a `state`, `keep`, `dstate` or `dkeep` is about."""
    return str(instr.attr("var"))


def _framed(variants: tuple[VariantPlan, ...], inputs: tuple[Buffer, ...]) -> tuple[VariantPlan, ...]:
    """The variants with their frames."""
    made = [dict.fromkeys((*inputs, *(s.out for s in v.forward if s.out.kind == "value"))) for v in variants]
    read = {
        b
        for v, own in zip(variants, made, strict=True)
        for back in v.backward
        for b in (*(a for s in back.steps for a in s.args), *(at for _, at in back.inputs))
        if b in own
    }
    return tuple(replace(v, frame=tuple(b for b in own if b in read)) for v, own in zip(variants, made, strict=True))


def _wanted(body: tuple[Instr, ...]) -> list[frozenset[int] | None]:
    """For each instruction, the inputs whose gradients alone it serves: none where it serves nothing at all.

    None where it serves a parameter's gradient or the loss's value.
    """
    serves: dict[str, frozenset[int] | None] = {}
    found: list[frozenset[int] | None] = []
    for instr in reversed(body):
        need = serves.get(instr.out, frozenset())
        if instr.op == "dinput":
            need = frozenset({_index(instr)})
        elif not instr.out or instr.out == LOSS:
            need = None
        found.append(need)
        for a in instr.args:
            before = serves.get(a, frozenset())
            serves[a] = None if need is None or before is None else before | need
    return found[::-1]
