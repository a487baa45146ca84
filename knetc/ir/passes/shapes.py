"""Size inference, in both directions through every operator, the batch symbolic ("Sizes" of docs/language.md).

`ssa` → `typed`. One worklist over all variants: parameters, constant arrays, inputs and state are one cell each in all.
First only what follows strictly; where that stands still with sizes open, an operator may assume (broadcasting lets an
open operand take the other's size). Each cell changes at most a few times, so time is linear in the program's length.
Comes after `state`, before `gradient`; the operators' rules are in `knetc.ops`, the messages in `shape_errors`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from knetc import ops
from knetc.errors import KnetShapeError
from knetc.ir.passes import shape_errors
from knetc.ir.program import Instr, Program, Variant, make_attrs
from knetc.ir.types import UNKNOWN, BatchDim, Dims, N, Partial, PartialDims, Type, show_dims
from knetc.ops.base import AttrMap, ShapeMismatch, ShapeRule
from knetc.ops.shapes import join_shapes, same_shape
from knetc.options import Options
from knetc.record import Record, replace
from knetc.values import Array, Value

SHARED = ("par", "arr")


class Step(Record):
    """An instruction as the inference sees it: its rule over cells, the last of which is the result's."""

    instr: Instr
    variant: int
    rule: ShapeRule
    attrs: AttrMap
    cells: tuple[int, ...]


class Cell:
    """A shape that is being inferred.

    `value` and `variant` say whose it is (`kind`: input, state or value). `users` are the steps that it takes part in.
    `history`: each step that added knowledge (None: it was given), with the shape that it gave.
    """

    __slots__ = ("history", "kind", "shape", "users", "value", "variant")

    def __init__(self, value: str, variant: int, kind: str, shape: Partial) -> None:
        self.value = value
        self.variant = variant
        self.kind = kind
        self.shape = shape
        self.users: list[int] = []
        self.history: list[tuple[int | None, Partial]] = []


def run(program: Program, options: Options) -> Program:
    """The program with every size known.

    Raises KnetShapeError for sizes that contradict each other, that cannot be inferred, or that put the batch where it
    cannot be.
    """
    inference = Inference(program, options.inputs)
    inference.solve()
    shape_errors.report_open(program, inference.cells)
    if inference.assumed is not None and inference.input_dims() != tuple(options.inputs):
        # What is assumed depends on what is known by then: the program is that of its inputs' sizes, however they came.
        inference = Inference(program, inference.input_dims())
        inference.solve()
        shape_errors.report_open(program, inference.cells)
    return _typed(program, inference, options.dtype)


def batch_inputs(program: Program) -> tuple[bool, ...]:
    """For each input of a program of any stage, whether its last dimension is the batch.

    An input that becomes a weight (conv's w, dot's first operand) whose other operand carries an input's batch has no
    batch of its own, as in `conv` compiled as a model.
    """
    # For each variable, a bit for each input that its last dimension comes from.
    carries = {i.name: 1 << k for k, i in enumerate(program.inputs)}
    states = bool(program.states()) or program.stage in ("lowered", "variants")
    static = _static_inputs(program, carries)
    before: dict[str, int] = {}
    while states and carries != before:  # what a state carries is known only once its step has been gone through
        before = dict(carries)
        static = _static_inputs(program, carries)
    return tuple(not static >> k & 1 for k in range(len(program.inputs)))


def _static_inputs(program: Program, carries: dict[str, int]) -> int:
    """One way through the program: a bit for each input without a batch of its own; adds to `carries`."""
    static = 0
    registry = ops.registry()
    for variant in program.variants:
        for instr in variant.forward:
            weights = registry[instr.op].weights if instr.op in registry else ()
            batch = weight = 0
            for index, arg in enumerate(instr.args):
                if index in weights:
                    weight |= carries.get(arg, 0)
                else:
                    batch |= carries.get(arg, 0)
            if instr.op == "state":
                batch = carries.get(_kept(instr), 0)
            if batch:
                static |= weight & ~batch
            out = _kept(instr) if instr.op == "keep" else instr.out
            if out and instr.op not in SHARED:
                carries[out] = carries.get(out, 0) | batch
    return static


def _kept(instr: Instr) -> str:
    """The key of a state variable in `carries`, which is no value's name."""
    return f"state {instr.attr('var')}"


# --- the fixpoint -----------------------------------------------------------------------------------------------------


def _batch_rule(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """An inferred input: once its number of dimensions is known, the last one is the batch."""
    if out.dims and out.dims[-1] is None:
        return (), Partial((*out.dims[:-1], N))
    return (), out


class Inference:
    """The cells and steps of a program, and the worklist."""

    def __init__(self, program: Program, given: Sequence[PartialDims | None]) -> None:
        self.program = program
        self.cells: list[Cell] = []
        self.steps: list[Step] = []
        self.shared: dict[tuple[str, str], int] = {}
        self.of: list[dict[str, int]] = []  # per variant, the cell of each value
        self._inputs(given)
        for number, variant in enumerate(program.variants):
            self._variant(number, variant)
        self.waiting: deque[int] = deque(range(len(self.steps)))
        self.queued = bytearray(b"\1" * len(self.steps))
        self.open: deque[int] = deque()
        self.assumed: int | None = None  # the last step that was let assume a size
        self.opened = bytearray(b"\1" * len(self.steps))  # until the strict phase is over, none is to be put there
        self.memo: dict[object, tuple[tuple[Partial, ...], Partial]] = {}

    # --- cells and steps ----------------------------------------------------------------------------------------------

    def _cell(self, value: str, variant: int, kind: str, shape: Partial = UNKNOWN) -> int:
        self.cells.append(Cell(value, variant, kind, shape))
        return len(self.cells) - 1

    def _step(self, step: Step) -> None:
        for cell in set(step.cells):
            self.cells[cell].users.append(len(self.steps))
        self.steps.append(step)

    def _inputs(self, given: Sequence[PartialDims | None]) -> None:
        shape_errors.check_inputs(self.program, given)
        batched = batch_inputs(self.program)
        for index, i in enumerate(self.program.inputs):
            dims = given[index] if given else None
            cell = self.shared["input", i.name] = self._cell(i.name, 0, "input", Partial(dims))
            if dims is not None:
                self.cells[cell].history.append((None, Partial(dims)))
            if batched[index] and (dims is None or dims[-1:] == (None,)):
                self._step(Step(Instr(i.name, "input", span=i.span), 0, _batch_rule, {}, (cell,)))

    def _variant(self, number: int, variant: Variant) -> None:
        cells = {i.name: self.shared["input", i.name] for i in self.program.inputs}
        self.of.append(cells)
        registry = ops.registry()
        for instr in variant.forward:
            if instr.op == "state":
                cells[instr.out] = self._state(str(instr.attr("var")))
                continue
            args = [cells[a] for a in instr.args]
            if instr.op == "keep":
                args.append(self._state(str(instr.attr("var"))))
                self._step(Step(instr, number, _keep_rule, {}, tuple(args)))
                continue
            if instr.op in SHARED and (instr.op, instr.out) in self.shared:
                cells[instr.out] = self.shared[instr.op, instr.out]
                continue
            cell = cells[instr.out] = self._cell(instr.out, number, "value")
            if instr.op in SHARED:
                self.shared[instr.op, instr.out] = cell
            self._step(Step(instr, number, registry[instr.op].shape, dict(instr.attrs), (*args, cell)))

    def _state(self, var: str) -> int:
        if ("state", var) not in self.shared:
            self.shared["state", var] = self._cell(var, 0, "state")
        return self.shared["state", var]

    def input_dims(self) -> tuple[Dims, ...]:
        """The dims of the inputs, once all are known."""
        return tuple(_complete(self.cells[self.shared["input", i.name]].shape) for i in self.program.inputs)

    # --- solving ------------------------------------------------------------------------------------------------------

    def solve(self) -> None:
        """Runs until nothing changes. Raises KnetShapeError for a contradiction."""
        self._strict()
        self.open.extend(k for k, step in enumerate(self.steps) if self._is_open(step))
        self.opened = bytearray(len(self.steps))
        for index in self.open:
            self.opened[index] = 1
        certain = [c.shape for c in self.cells] if self.open else []
        try:
            self._assume()
        except KnetShapeError:
            # What was assumed of inputs whose shapes are not given may be wrong: better ask for them.
            if any(c.kind == "input" and not s.known for c, s in zip(self.cells, certain, strict=True)):
                for cell, shape in zip(self.cells, certain, strict=True):
                    cell.shape = shape
                return
            raise

    def _assume(self) -> None:
        while self.open:
            index = self.open.popleft()
            self.opened[index] = 0
            if self._is_open(self.steps[index]):
                self._apply(index, assume=True)
                self._strict()

    def _strict(self) -> None:
        while self.waiting:
            self._apply(self.waiting.popleft(), assume=False)

    def _is_open(self, step: Step) -> bool:
        return any([not self.cells[c].shape.known for c in step.cells])

    def _apply(self, index: int, assume: bool) -> None:
        step = self.steps[index]
        shapes = tuple([self.cells[c].shape for c in step.cells])
        self.queued[index] = 1  # a step does not wake itself, but for what is still open of it
        changed = False
        try:
            args, out = self._rule(step, shapes, assume)
            for operand, new in enumerate((*args, out)):
                if new != shapes[operand]:
                    self._learn(index, operand, new, shapes[operand])
                    changed = True
        except ShapeMismatch as mismatch:
            raise shape_errors.mismatch(self.program, self.steps, self.cells, index, mismatch, self.assumed) from None
        if changed and assume:
            self.assumed = index
        if changed and self._is_open(step):
            self.waiting.append(index)
        else:
            self.queued[index] = 0

    def _rule(self, step: Step, shapes: tuple[Partial, ...], assume: bool) -> tuple[tuple[Partial, ...], Partial]:
        """What the step's rule says; remembered, for layers of one kind repeat."""
        if len(shapes) == 1:
            return step.rule((), shapes[0], step.attrs, assume)
        key = (step.rule, shapes, step.instr.attrs, assume)
        if key not in self.memo:
            self.memo[key] = step.rule(shapes[:-1], shapes[-1], step.attrs, assume)
        return self.memo[key]

    def _learn(self, index: int, operand: int, new: Partial, old: Partial) -> None:
        """Adds what step `index` says about one of its operands; wakes the steps that it takes part in."""
        step = self.steps[index]
        cell = self.cells[step.cells[operand]]
        if cell.shape is not old:  # an operand that stands twice was changed by its first place
            place = operand if operand < len(step.cells) - 1 else -1
            both = f"{show_dims(cell.shape.dims)} and {show_dims(new.dims)} cannot be shapes of one value"
            new = join_shapes(cell.shape, new, both, [place])
        cell.shape = new
        cell.history.append((index, new))
        for user in cell.users:
            if not self.queued[user]:
                self.queued[user] = 1
                self.waiting.append(user)
            if not self.opened[user]:
                self.opened[user] = 1
                self.open.append(user)


def _keep_rule(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """A state variable has one shape: the value that is kept has it too."""
    return same_shape(args, out, attrs, assume)


# --- the typed program ------------------------------------------------------------------------------------------------


def _typed(program: Program, inference: Inference, dtype: str) -> Program:
    types: dict[Dims, Type] = {}

    def type_of(cell: int) -> Type:
        dims = _complete(inference.cells[cell].shape)
        if dims not in types:
            types[dims] = Type(dtype, dims)
        return types[dims]

    inputs = tuple(replace(i, dims=d) for i, d in zip(program.inputs, inference.input_dims(), strict=True))
    variants = tuple(
        replace(v, forward=tuple(_typed_instrs(v.forward, cells, type_of)))
        for v, cells in zip(program.variants, inference.of, strict=True)
    )
    return replace(
        program, stage="typed", inputs=inputs, variants=variants, dtype=dtype, temps=frozenset(), functions=()
    )


def _complete(shape: Partial) -> Dims:
    assert shape.dims is not None
    return tuple(d for d in shape.dims if d is not None)


def _typed_instrs(forward: Iterable[Instr], cells: dict[str, int], type_of: Callable[[int], Type]) -> Iterable[Instr]:
    """The instructions with their types; the sources' attributes with the full dims."""
    for i in forward:
        if not i.out:
            yield i
            continue
        of = type_of(cells[i.out])
        yield Instr(i.out, i.op, i.args, _full_attrs(i, of), of, i.guard, i.span)


def _full_attrs(instr: Instr, of: Type) -> tuple[tuple[str, Value], ...]:
    """par and arr carry their dims complete; rnd carries none, for its type may hold the batch."""
    if instr.op not in (*SHARED, "rnd"):
        return instr.attrs
    attrs = dict(instr.attrs)
    dims = tuple(d for d in of.dims if not isinstance(d, BatchDim))
    init = attrs["init"]
    if isinstance(init, Array) and len(init.dims) != len(of.dims):  # dims=(0,): its use gave the axis
        attrs["init"] = Array(dims, init.data)
    attrs["dims"] = None if instr.op == "rnd" else dims
    return make_attrs(**attrs)
