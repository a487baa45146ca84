"""The gradient as a program: backward instructions for each variant and loss, and the update of the parameters.

`typed` → `training`. Reverse accumulation over the values that depend on a parameter, an input or state; each operator
writes its own part (`OpDef.gradient`). What flows into and out of state: `dstate` is the gradient that the step after
hands back, `dkeep` the one handed to the step before. Comes after `shapes`, before `simplify`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from knetc import ops
from knetc.errors import Span
from knetc.ir.program import GOLD, LOSSES, MASK, Backward, Instr, Program, Variant, make_attrs
from knetc.ir.types import Type
from knetc.ir.uses import LOSS
from knetc.ops.base import OpDef
from knetc.options import Options
from knetc.record import replace
from knetc.values import Value

ROOTS = frozenset({"par", "state"})


def run(program: Program, options: Options) -> Program:
    """The program with a backward program for each loss in `options.losses`, and its update.

    A variant that returns nothing has the backward program `zero` alone.
    """
    states = {var: t for var, t in program.states().items() if t is not None}
    variants = []
    for variant in program.variants:
        losses = [loss for loss in LOSSES if loss in options.losses] if variant.result is not None else ["zero"]
        active = _active(program, variant)
        backward = tuple(_Builder(program, variant, states, active, loss).run() for loss in losses)
        variants.append(replace(variant, backward=backward))
    trained = {str(i.attr("param")) for v in variants for b in v.backward for i in b.body if i.op == "dpar"}
    update = tuple(
        Instr("", "update", attrs=make_attrs(param=name), span=par.span)
        for name, par in program.params().items()
        if name in trained
    )
    return replace(program, stage="training", variants=tuple(variants), update=update)


def _active(program: Program, variant: Variant) -> set[str]:
    """The values through which a gradient may flow to a parameter, an input or state."""
    registry = ops.registry()
    active = {i.name for i in program.inputs}
    for instr in variant.forward:
        flows = registry[instr.op].gradient is not None and not active.isdisjoint(instr.args)
        if flows or instr.op in ROOTS:
            active.add(instr.out)
    return active


class _Builder:
    """Builds one backward program; the `GradientBuilder` through which operators write."""

    def __init__(
        self, program: Program, variant: Variant, states: Mapping[str, Type], active: AbstractSet[str], loss: str
    ) -> None:
        self.program = program
        self.variant = variant
        self.states = states
        self.active = active
        self.loss = loss
        self.registry = ops.registry()
        self.types: dict[str, Type] = {i.name: _input_type(program, index) for index, i in enumerate(program.inputs)}
        self.types |= {i.out: i.type for i in variant.forward if i.type is not None}
        self.body: list[Instr] = []
        self.grads: dict[str, list[str]] = {}
        self.numbers: dict[str, int] = {}
        self.current: Instr | None = None
        self.span: Span | None = None
        self.emitted: list[Instr] = []

    # --- GradientBuilder ----------------------------------------------------------------------------------------------

    def emit(self, op: str, *args: str, like: str, **attrs: Value) -> str:
        """Appends an instruction whose result has the type of value `like`; returns the new value's name."""
        return self._emit(op, args, self.types[like], attrs)

    def type(self, name: str) -> Type:
        """The type of a forward or backward value."""
        return self.types[name]

    def wanted(self, index: int) -> bool:
        """Whether the gradient of argument `index` of the current instruction is needed at all."""
        assert self.current is not None
        return self.current.args[index] in self.active

    # --- the program --------------------------------------------------------------------------------------------------

    def run(self) -> Backward:
        """The backward program."""
        self._start()
        incoming = self._states_in()
        for instr in reversed(self.variant.forward):
            if instr.out:
                self.span = instr.span
                self._through(instr)
        self._states_out(incoming)
        for index, i in enumerate(self.program.inputs):
            self.span = i.span
            total = self._total(i.name) or self._named(i.name, "zeros", (), self.types[i.name])
            self._effect("dinput", total, index=index)
        return Backward(self.loss, tuple(self.body))

    def _start(self) -> None:
        """The gradient at the output, and the loss."""
        result = self.variant.result
        if result is None or self.loss == "zero":
            return
        self.types[GOLD] = self.types[result]
        if self.loss == "none":
            self._add(result, GOLD)
            return
        at = next((i for i in reversed(self.variant.forward) if i.out == result), None)
        self.span = at.span if at else None
        operands = (result, GOLD, MASK)
        self._append(LOSS, self.loss, operands, Type(self.program.dtype, ()), {})
        if self.loss == "softloss" and at is not None and at.op == "soft":
            # Together with soft the gradient is p - gold, never through 1/p: it goes to the argument of soft.
            target, op = at.args[0], "softmax_softloss_back"
        else:
            target, op = result, f"{self.loss}_back"
        if target in self.active:
            self._add(target, self._named(target, op, operands, self.types[target]))

    def _states_in(self) -> dict[str, str]:
        """Reads each state's gradient from the step after; it flows into the value that this step keeps."""
        incoming = {}
        keeps = {str(i.attr("var")): i for i in self.variant.forward if i.op == "keep"}
        for var, of in self.states.items():
            self.span = keeps[var].span if var in keeps else None
            incoming[var] = self._append(f"d:{var}@next", "dstate", (), of, {"var": var})
        for var, instr in keeps.items():
            self._add(instr.args[0], incoming[var])
        return incoming

    def _through(self, instr: Instr) -> None:
        """Hands the gradient of an instruction's result on to its arguments."""
        op = self.registry[instr.op]
        if instr.op == "state" or instr.out not in self.active or instr.out not in self.grads:
            return
        dy = self._total(instr.out)
        assert dy is not None
        if instr.op == "par":
            self._effect("dpar", dy, param=instr.out)
            return
        self._apply(instr, op, dy)

    def _apply(self, instr: Instr, op: OpDef, dy: str) -> None:
        self.current = instr
        self.emitted = []
        assert op.gradient is not None
        results = op.gradient(self, instr, dy)
        self._name_emitted(instr, results)
        self.current = None

    def _name_emitted(self, instr: Instr, results: Sequence[str | None]) -> None:
        """Names what an operator emitted: the gradient of an argument after it, what lies between after the result."""
        owner = {r: a for a, r in zip(instr.args, results, strict=True) if r is not None}
        names: dict[str, str] = {}
        for new in self.emitted:
            name = names[new.out] = self._gradient_name(owner.get(new.out, instr.out))
            self.types[name] = self.types.pop(new.out)
            args = tuple([names.get(a, a) for a in new.args])
            self.body.append(Instr(name, new.op, args, new.attrs, new.type, span=new.span))
        for arg, result in zip(instr.args, results, strict=True):
            if result is not None and arg in self.active:
                self._add(arg, names.get(result, result))
        self.emitted = []

    def _states_out(self, incoming: Mapping[str, str]) -> None:
        """Hands each state's gradient to the step before."""
        written = {str(i.attr("var")) for i in self.variant.forward if i.op == "keep"}
        read = {str(i.attr("var")): i for i in self.variant.forward if i.op == "state"}
        for var, of in self.states.items():
            self.span = read[var].span if var in read else None
            # The name under which what flows to the state before is summed up.
            before = read[var].out if var in read else f"{var}@prev"
            self.types.setdefault(before, of)
            if var not in written:
                self._add(before, incoming[var])
            total = self._total(before) or self._named(before, "zeros", (), of)
            self._effect("dkeep", total, var=var)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _add(self, value: str, contribution: str) -> None:
        self.grads.setdefault(value, []).append(contribution)

    def _total(self, value: str) -> str | None:
        """The sum of what flows into a value; None where nothing does."""
        parts = self.grads.get(value)
        if not parts:
            return None
        total = parts[0]
        for part in parts[1:]:
            total = self._named(value, "add", (total, part), self.types[value])
        self.grads[value] = [total]
        return total

    def _emit(self, op: str, args: Iterable[str], of: Type, attrs: Mapping[str, Value]) -> str:
        """An instruction whose name is given when its operator is done."""
        name = f"?{len(self.emitted)}"
        full = {key: keyword.default for key, keyword in self.registry[op].keywords.items()} | dict(attrs)
        self.emitted.append(Instr(name, op, tuple(args), make_attrs(**full), of, span=self.span))
        self.types[name] = of
        return name

    def _named(self, value: str, op: str, args: tuple[str, ...], of: Type) -> str:
        return self._append(self._gradient_name(value), op, args, of, {})

    def _append(self, name: str, op: str, args: tuple[str, ...], of: Type, attrs: Mapping[str, Value]) -> str:
        self.body.append(Instr(name, op, args, make_attrs(**attrs), of, span=self.span))
        self.types[name] = of
        return name

    def _effect(self, op: str, value: str, **attrs: Value) -> None:
        self.body.append(Instr("", op, (value,), make_attrs(**attrs), span=self.span))

    def _gradient_name(self, value: str) -> str:
        """`d:x`, then `d:x#2`, `d:x#3`."""
        number = self.numbers[value] = self.numbers.get(value, 0) + 1
        name = f"d:{value}" if number == 1 else f"d:{value}#{number}"
        return name if name not in self.types else self._gradient_name(value)


def _input_type(program: Program, index: int) -> Type:
    dims = program.inputs[index].dims
    assert dims is not None
    return Type(program.dtype, tuple(d for d in dims if d is not None))
