"""Gradients of parameters, each written by itself, once, and read by no other step.

Before: the plan, which lets a step write a parameter's gradient, or a block of several, in place of a value of its own.
After: `codegen.cpu.steps`. In a step of training a gradient may never stand in an array by itself, but go straight into
the parameter (`knet_sink`), and in a sequence it is added to what is there. So a block is computed gradient by
gradient; and what another step reads, or whose step can only write arrays, or reads parameters, which other gradients
have changed then, is computed as a value, and then copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from knetc.codegen.cpu.module import is_pitched
from knetc.codegen.index import extent
from knetc.ir.plan import BackwardPlan, Buffer, Kernel, Param, Plan, Step, Unit, flat
from knetc.ir.program import Instr
from knetc.ops.base import Elementwise, registry
from knetc.record import replace


def separated(plan: Plan) -> Plan:
    """The plan with a step for each gradient, and a copy after each step that must not write one itself."""
    apart = _Apart(plan.params)
    variants = tuple(replace(v, backward=tuple(map(apart.backward, v.backward))) for v in plan.variants)
    lists = (units for v in variants for b in v.backward for units in (b.steps, *(b.phases.lists if b.phases else ())))
    made = (s.out.root for units in lists for s in flat(units) if s.out.kind != "register")
    return replace(plan, variants=variants, buffers=tuple(dict.fromkeys((*plan.buffers, *made))))


class _Apart:
    def __init__(self, params: Sequence[Param]) -> None:
        self.pitched = {p.grad for p in params if is_pitched(p)}
        self.blocks: dict[Buffer, list[Buffer]] = {}  # the gradients in each block
        for p in params:
            if p.grad is not None:
                self.blocks.setdefault(p.grad.root, []).append(p.grad)

    def backward(self, b: BackwardPlan) -> BackwardPlan:
        """A backward program, its lists taken apart."""
        (steps,) = self.lists([b.steps])
        if b.phases is None:
            return replace(b, steps=steps)
        before, loop, after = self.lists(b.phases.lists)
        return replace(b, steps=steps, phases=replace(b.phases, before=before, loop=loop, after=after))

    def lists(self, lists: Sequence[Sequence[Unit]]) -> list[tuple[Unit, ...]]:
        """Lists that run one after the other, the units of each taken apart."""
        read = {a.root for units in lists for s in flat(units) for a in s.args if a.kind == "grad"}
        values: dict[Buffer, Buffer] = {}
        return [tuple(self._steps(units, read, values)) for units in lists]

    def _steps(self, units: Iterable[Unit], read: AbstractSet[Buffer], values: dict[Buffer, Buffer]) -> Iterator[Unit]:
        """The units of a list. `read`: the gradients that some step reads; `values`: what has become a value so far."""
        for given in units:
            unit = _reading(given, values)
            steps = unit.steps if isinstance(unit, Kernel) else (unit,)
            written = [s.out for s in steps if s.out.kind == "grad"]
            if isinstance(unit, Step) and written and unit.out.root not in read:
                parts = self._parts(unit)
                if all(self._can_put(s) for s in parts):
                    yield from parts
                    continue
            moved = [b for b in written if b.root in read or not self._can_put(unit)]
            values |= {b: Buffer(f"{b.name}@value", "value", b.type) for b in moved}
            # A kernel may read what it has written itself.
            yield _reading(_writing(unit, values), values)
            for b in moved:
                for part in self._gradients(b):
                    source = values[b] if part == b else _rows(values[b], part)
                    instr = Instr(part.name, "copy", (source.name,), type=part.type, span=steps[-1].instr.span)
                    yield Step(instr, part, (source,))

    def _gradients(self, b: Buffer) -> list[Buffer]:
        """The gradients in a buffer: it alone, or those of its rows."""
        parts = self.blocks[b.root]
        return [b] if b in parts else parts

    def _parts(self, step: Step) -> list[Step]:
        """A step that writes a block as steps for each gradient in it, where that can be."""
        parts, first = self._gradients(step.out), step.args[0]
        product = step.instr.op == "dot" and not step.instr.attr("ta")
        if parts == [step.out]:
            return [step]
        if not (product or step.instr.op == "sumto") or len(first.type.dims) != 2:
            return [step]
        return [
            replace(
                step, instr=replace(step.instr, out=p.name, type=p.type), out=p, args=(_rows(first, p), *step.args[1:])
            )
            for p in parts
        ]

    def _can_put(self, unit: Unit) -> bool:
        """Whether the unit's results can go anywhere: products and sums over columns, and elementwise chains, of values
        that are no parameters.
        """
        outs = [s.out for s in flat([unit]) if s.out.kind == "grad"]
        if any(b not in self.blocks[b.root] for b in outs):
            return False  # a block of gradients
        if any(a.kind == "param" for s in flat([unit]) for a in s.args):
            return False
        if isinstance(unit, Step) and unit.instr.op in ("dot", "conv_back_w"):
            return True
        if any(b in self.pitched for b in outs):
            return False
        if isinstance(unit, Kernel):
            return all(isinstance(registry()[s.instr.op].cuda, Elementwise) for s in unit.steps)
        if isinstance(registry()[unit.instr.op].cuda, Elementwise):
            return True
        return unit.instr.op == "sumto" and unit.args[0].type.batched


def _rows(of: Buffer, like: Buffer) -> Buffer:
    """The rows of a matrix where `like` has its own in its block."""
    height, *_ = extent(like)
    type = replace(of.type, dims=(height, *of.type.dims[1:]))
    return Buffer(f"{of.name}@{like.name}", of.kind, type, of.root, of.first + like.first)


def _writing(unit: Unit, values: dict[Buffer, Buffer]) -> Unit:
    """The unit with what has become a value written as one."""
    return _changed(unit, lambda s: replace(s, out=values.get(s.out, s.out)))


def _reading(unit: Unit, values: dict[Buffer, Buffer]) -> Unit:
    """The unit with what has become a value read as one: the gradient itself holds the steps before too."""
    return _changed(unit, lambda s: replace(s, args=tuple(_moved(a, values) for a in s.args)))


def _changed(unit: Unit, change: Callable[[Step], Step]) -> Unit:
    return replace(unit, steps=tuple(map(change, unit.steps))) if isinstance(unit, Kernel) else change(unit)


def _moved(arg: Buffer, values: dict[Buffer, Buffer]) -> Buffer:
    """An argument where it stands now, if it is a gradient, or rows of a block, that has become a value."""
    if arg in values:
        return values[arg]
    if arg.kind == "grad" and arg.root in values:
        return replace(arg, kind="value", base=values[arg.root])
    return arg
