"""Makes the plan of a program: a buffer for every value, the steps of every list in order.

Before: a `training` program. After: the `Plan` of `ir.plan`. A value that stays within its kernel has no memory, one
that becomes a parameter's gradient is written straight into that, one that is rows of a block stands in it (`views`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from operator import attrgetter

from knetc.errors import KnetInternalError, KnetLimitation
from knetc.ir import uses
from knetc.ir.memory import make_arena
from knetc.ir.plan import MOST_ELEMENTS, BackwardPlan, Buffer, Kernel, Param, Plan, Step, Unit, VariantPlan, flat
from knetc.ir.program import GOLD, MASK, Backward, Instr, Program, Variant
from knetc.ir.replay import replay
from knetc.ir.types import BatchDim, N, Type
from knetc.ir.uses import LOSS
from knetc.ir.views import Views, height, parameter_blocks, views
from knetc.options import Options
from knetc.record import replace


def make_plan(program: Program, options: Options) -> Plan:
    """The plan of a `training` program. KnetLimitation for a value that emitted code cannot hold."""
    if program.stage != "training":
        raise KnetInternalError(f"a plan is made of a training program, not of one at stage {program.stage}")
    plan = Planner(program, options).plan()
    if options.level and options.arena:
        plan = replace(plan, arena=make_arena(plan))
    replay(plan)
    return plan


class Planner:
    """Makes a plan. Buffers by (name, kind, type), in the order in which they are first met."""

    def __init__(self, program: Program, options: Options) -> None:
        self.program = program
        self.options = options
        self.buffers: dict[Buffer, None] = {}
        self.pars = program.params()
        self.grads: dict[str, Buffer] = {}
        self.constants: dict[str, tuple[Instr, Buffer]] = {}
        self.states = {var: self.buffer(var, "state", type) for var, type in program.states().items()}
        self.inputs = tuple(self.input(i.name, i.dims) for i in program.inputs)
        self.blocks: dict[tuple[str, ...], Buffer] = {}
        self.params = self.place_parameters()

    def plan(self) -> Plan:
        """The whole plan."""
        known = {b.name: b for b in self.inputs} | self.params
        variants = tuple(VariantPlanner(self, v, known).plan() for v in self.program.variants)
        for instr in self.program.update:
            self.grad(str(instr.attr("param")))  # zero where no backward pass reaches it
        return Plan(
            program=self.program,
            buffers=tuple(self.buffers),
            variants=_framed(variants, self.inputs),
            params=tuple(Param(i, self.params[name], self.grads.get(name)) for name, i in self.pars.items()),
            constants=tuple(self.constants.values()),
            inputs=self.inputs,
            states=tuple(self.states.values()),
        )

    def buffer(self, name: str, kind: str, type: Type | None) -> Buffer:
        """A buffer with memory of its own, but for a register's."""
        if type is None:
            raise KnetInternalError(f"value {name} has no type")
        if sum(isinstance(d, BatchDim) for d in type.dims) > 1:
            raise KnetLimitation(f"emitted code for a value whose size grows with the square of the batch: {name}")
        if type.column > MOST_ELEMENTS:
            raise KnetLimitation(
                f"emitted code cannot have an array of {type.column} elements, as {name} would be; "
                f"the most is {MOST_ELEMENTS}"
            )
        buffer = Buffer(name, kind, type)
        if kind != "register":
            self.buffers.setdefault(buffer)
        return buffer

    def input(self, name: str, dims: object) -> Buffer:
        """The buffer of an input."""
        if not isinstance(dims, tuple) or None in dims:
            raise KnetInternalError(f"the size of input {name} is not known")
        return self.buffer(name, "input", Type(self.program.dtype, dims))

    def place_parameters(self) -> dict[str, Buffer]:
        """The buffers of all parameters, those of a block as its rows."""
        placed: dict[str, Buffer] = {}
        for names, stack in parameter_blocks(self.program).items():
            block = self.blocks[names] = self.buffer(stack.out, "param", stack.type)
            placed |= dict(zip(names, _rows_of(block, [(n, self.pars[n]) for n in names]), strict=True))
        return {name: placed.get(name) or self.buffer(name, "param", i.type) for name, i in self.pars.items()}

    def grad(self, param: str) -> Buffer:
        """The gradient's buffer of a parameter."""
        if param not in self.grads:
            self.grads[param] = self.buffer(f"d:{param}", "grad", self.pars[param].type)
        return self.grads[param]

    def grad_block(self, instr: Instr, params: tuple[str, ...]) -> Buffer | None:
        """The buffer of a value all rows of which are gradients, in order; None where some stand elsewhere already."""
        held = [self.grads.get(p) for p in params]
        parts = [(f"d:{p}", self.pars[p]) for p in params]
        if not any(held):
            block = self.buffer(f"d:{params[0]}@block", "grad", instr.type)
            self.grads |= dict(zip(params, _rows_of(block, parts), strict=True))
            return block
        root = held[0].root if held[0] else None
        return root if root and root.type == instr.type and held == _rows_of(root, parts) else None

    def dstate(self, var: str) -> Buffer:
        """The buffer of a state's gradient between steps."""
        return self.buffer(f"d:{var}", "dstate", self.states[var].type)


def _rows_of(block: Buffer, parts: Iterable[tuple[str, Instr]]) -> list[Buffer]:
    """The views of a block that hold these values, one above the other."""
    found, first = [], 0
    for name, instr in parts:
        assert instr.type is not None
        found.append(Buffer(name, block.kind, instr.type, block, first))
        first += height(instr)
    return found


class ListPlanner:
    """Plans one list of instructions: `scope` has the buffer of each value so far."""

    def __init__(self, planner: Planner, scope: dict[str, Buffer], found: Views, registers: AbstractSet[str]) -> None:
        self.planner = planner
        self.scope = scope
        self.views = found
        self.registers = registers
        self.types: dict[str, Type | None] = {}

    def units(self, body: Iterable[Instr], plan: Callable[[Instr], list[Step]]) -> Iterator[Unit]:
        """The steps that `plan` makes of the instructions, those of a kernel together."""
        for kernel, group in groupby(body, key=attrgetter("kernel")):
            steps = [step for instr in group for step in plan(instr)]
            if kernel and steps:
                yield Kernel(tuple(steps), steps[0].wanted)
            else:
                yield from steps

    def computed(self, instr: Instr, buffer: Buffer, wanted: frozenset[int] | None = None) -> list[Step]:
        """The step that computes a value into its buffer."""
        args = tuple(self.scope[a] for a in instr.args)
        self.scope[instr.out] = buffer
        return [Step(instr, buffer, args, wanted)]

    def place(self, instr: Instr) -> Buffer:
        """Where a value stands: in a register, in a block, or in memory of its own."""
        if instr.out in self.registers:
            return self.planner.buffer(instr.out, "register", instr.type)
        if instr.out in self.views.parts and instr.type is not None:
            block, first = self.views.parts[instr.out]
            return Buffer(instr.out, "value", instr.type, self.block(block), first)
        return self.planner.buffer(instr.out, "value", instr.type)

    def block(self, name: str) -> Buffer:
        """The buffer of a stack, into which its parts are computed."""
        if name not in self.scope:
            self.scope[name] = self.planner.buffer(name, "value", self.types[name])
        return self.scope[name]

    def view(self, instr: Instr, wanted: frozenset[int] | None) -> list[Step]:
        """`stack` and `rows`: nothing runs for what stands where it should, the rest is copied."""
        assert instr.type is not None
        if instr.op == "rows":
            base = self.scope[instr.args[0]]
            first = base.first + int(str(instr.attr("first")))
            rows = Buffer(instr.out, base.kind, instr.type, base.root, first)
            if instr.out in self.views.rows:
                self.scope[instr.out] = rows
                return []
            return self.copied(instr, self.place(instr), rows, wanted)
        held = self.planner.blocks.get(instr.args)
        if held is not None:
            self.scope[instr.out] = held
            return []
        block, first = self.block(instr.out), 0
        steps: list[Step] = []
        for a in instr.args:
            of = self.scope[a]
            if (of.base, of.first) != (block, first):  # a value that is two parts stands in one of them
                part = Buffer(f"{instr.out}/{a}", "value", of.type, block, first)
                steps.append(self.copy(instr, part, of, wanted))
            first += of.type.dims[0] if isinstance(of.type.dims[0], int) else 1
        return steps

    def copied(self, instr: Instr, to: Buffer, source: Buffer, wanted: frozenset[int] | None) -> list[Step]:
        """A value as a copy of another."""
        self.scope[instr.out] = to
        return [self.copy(instr, to, source, wanted)]

    def copy(self, instr: Instr, to: Buffer, source: Buffer, wanted: frozenset[int] | None) -> Step:
        """The step that copies one buffer to another."""
        return Step(Instr(to.name, "copy", instr.args[:1], type=to.type, span=instr.span), to, (source,), wanted)


class VariantPlanner(ListPlanner):
    """Plans the forward list of a variant, and then its backward lists."""

    def __init__(self, planner: Planner, variant: Variant, known: Mapping[str, Buffer]) -> None:
        outside = uses.named(variant) | uses.read_back(variant)
        if planner.options.level:
            # If nothing reads it, a variable of a definition that the model calls is for the interpreter alone.
            constants = {i.out for i in variant.forward if i.op == "arr"}
            variant = replace(variant, forward=uses.live(variant.forward, outside | constants))
        registers = _registers(variant.forward, outside)
        readers = [*variant.forward, *(i for b in variant.backward for i in b.body)]
        dense = {variant.result} if variant.result is not None else set()
        super().__init__(planner, dict(known), views(variant.forward, readers, dense, registers), registers)
        self.variant = variant
        self.types = {i.out: i.type for i in variant.forward}

    def plan(self) -> VariantPlan:
        """The plan of the variant, its frame still empty."""
        variant, scope = self.variant, self.scope
        forward = tuple(self.units(variant.forward, self.step))
        # Variables of the definitions that the model calls may be overwritten: at -O0 alone they can be read by name.
        named = uses.named(variant) if self.planner.options.level else {v for _, v in variant.names}
        held = {v for _, v in variant.names if v in named or (v in scope and scope[v].kind in ("param", "const"))}
        names = tuple((n, scope[v]) for n, v in variant.names if v in held)
        return VariantPlan(
            variant=variant,
            label=min((tuple(sorted(s)) for s in variant.settings), key=lambda s: (len(s), s)),
            forward=forward,
            backward=tuple(BackwardPlanner(self.planner, b, variant, scope).plan() for b in variant.backward),
            result=scope[variant.result] if variant.result is not None else None,
            names=names,
            frame=(),
        )

    def step(self, instr: Instr) -> list[Step]:
        """The steps of a forward instruction."""
        planner, scope = self.planner, self.scope
        if instr.op == "par":
            return []
        if instr.op == "keep":
            return [Step(instr, planner.states[_var(instr)], (scope[instr.args[0]],))]
        if instr.op == "arr":
            scope[instr.out] = planner.buffer(instr.out, "const", instr.type)
            planner.constants.setdefault(instr.out, (instr, scope[instr.out]))
            return []
        if instr.op in ("stack", "rows"):
            return self.view(instr, None)
        if instr.op == "state":
            scope[instr.out] = self.place(instr)
            return [Step(instr, scope[instr.out], (planner.states[_var(instr)],))]
        return self.computed(instr, self.place(instr))


class BackwardPlanner(ListPlanner):
    """Plans one backward list."""

    def __init__(self, planner: Planner, backward: Backward, variant: Variant, forward: Mapping[str, Buffer]) -> None:
        registers = _registers(backward.body, {LOSS})
        dense = {i.args[0] for i in backward.body if i.op == "dinput"}
        super().__init__(planner, dict(forward), views(backward.body, backward.body, dense, registers), registers)
        self.backward = backward
        self.types = {i.out: i.type for i in backward.body}
        self.needs = dict(zip(map(id, backward.body), uses.wanted(backward.body), strict=True))
        self.grads = self.gradients()
        self.inputs: list[tuple[int, Buffer]] = []
        self.params: list[str] = []
        if variant.result is not None:
            self.scope[GOLD] = planner.buffer(GOLD, "gold", forward[variant.result].type)
        self.scope[MASK] = planner.buffer(MASK, "mask", Type(planner.program.dtype, (N,)))

    def plan(self) -> BackwardPlan:
        """The plan of the list."""
        steps = tuple(self.units(self.backward.body, self.step))
        loss = self.scope.get(LOSS)
        return BackwardPlan(self.backward.loss, steps, tuple(self.inputs), tuple(self.params), loss)

    def gradients(self) -> dict[str, str]:
        """Values that can be written straight into a parameter's gradient, with that parameter."""
        own = {i.out for i in self.backward.body}
        found: dict[str, str] = {}
        for i in self.backward.body:
            if i.op == "dpar" and i.args[0] in own:
                found.setdefault(i.args[0], str(i.attr("param")))
        return found

    def step(self, instr: Instr) -> list[Step]:
        """The steps of a backward instruction."""
        need = self.needs[id(instr)]
        if instr.op == "dpar":
            return self.hand_out(instr)
        if instr.op == "dinput":
            self.inputs.append((uses.input_index(instr), self.scope[instr.args[0]]))
            return []
        if instr.op == "dkeep":
            return [Step(instr, self.planner.dstate(_var(instr)), (self.scope[instr.args[0]],))]
        if need is not None and not need:
            return []
        if instr.op in ("stack", "rows"):
            return self.view(instr, need)
        if instr.op == "dstate":
            self.scope[instr.out] = self.place(instr)
            return [Step(instr, self.scope[instr.out], (self.planner.dstate(_var(instr)),), need)]
        return self.computed(instr, self.place(instr), need)

    def hand_out(self, instr: Instr) -> list[Step]:
        """A parameter's gradient: nothing runs where it has been written straight to its place."""
        param = str(instr.attr("param"))
        self.params.append(param)
        value, grad = self.scope[instr.args[0]], self.planner.grad(param)
        same = (value.root, value.first, value.type) == (grad.root, grad.first, grad.type)
        return [] if same else [self.copy(instr, grad, value, None)]

    def place(self, instr: Instr) -> Buffer:
        """Where a value stands; a gradient of a parameter, or several in one block, in its place."""
        if instr.out == LOSS:
            return self.planner.buffer(LOSS, "loss", instr.type)
        if instr.out in self.views.graded:
            block = self.planner.grad_block(instr, self.views.graded[instr.out])
            if block is not None:
                return block
        if instr.out in self.grads and instr.op != "rows":
            return self.planner.grad(self.grads[instr.out])
        return super().place(instr)


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
    """The variants with their frames: what backward passes read, and what can be read by name."""
    made = [dict.fromkeys((*inputs, *(s.out.root for s in flat(v.forward) if s.out.kind == "value"))) for v in variants]
    read = {b.root for v in variants for _, b in v.names} | {
        b.root
        for v, own in zip(variants, made, strict=True)
        for back in v.backward
        for b in (*(a for s in flat(back.steps) for a in s.args), *(at for _, at in back.inputs))
        if b.root in own
    }
    return tuple(replace(v, frame=tuple(b for b in own if b in read)) for v, own in zip(variants, made, strict=True))
