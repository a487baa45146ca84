"""The functions of an emitted C++ file: forward and backward of every variant, and whole steps of training.

Before: `codegen.cpu.steps`, which turns a step of the plan into statements. After: `codegen.cpu.emit`. Every thread
runs these functions; here their statements are put in order, in blocks of columns where they work on images, with
barriers where `codegen.cpu.access` finds that one thread reads what another writes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from knetc.codegen.cpu.access import MODES, Access, Action, Columns, Epoch, Mode, blocks, ordered, share
from knetc.codegen.cpu.fill import fill_call
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.cpu.steps import lower_unit, moved
from knetc.codegen.cpu.work import Work, work
from knetc.codegen.describe import unit_places
from knetc.codegen.functions import START, bits, laid_out, when
from knetc.codegen.index import extent
from knetc.codegen.names import spell
from knetc.ir.plan import BackwardPlan, Buffer, Step, Unit, VariantPlan
from knetc.ir.program import LOSSES, Instr
from knetc.record import replace
from knetc.values import Array

TRAINED = ("quadloss", "softloss")  # the losses that a step of training can start from
OUTSIDE, INSIDE = Columns("c", "n"), Columns("b", "k")
# Between them, the arrays of a block should stay in a processor's second cache.
_BLOCK_BYTES = 1 << 19
_MOST_COLUMNS = 8


@dataclass
class Function:
    """One function. `groups`: its statements in order, those that are marked run block by block.

    `inputs`: where the gradients of inputs stand in the end. `kind`: forward, backward or train; `variant`, `loss`:
    their numbers.
    """

    name: str
    comment: str
    kind: str
    variant: int
    loss: int
    groups: list[tuple[bool, list[Action]]]
    inputs: tuple[tuple[int, Buffer], ...] = ()
    work: Work = field(default_factory=lambda: Work(0, 0))
    lines: list[str] = field(default_factory=list)

    def actions(self) -> Iterator[Action]:
        """Every statement in order."""
        for _, group in self.groups:
            yield from group


def functions(module: CpuModule) -> list[Function]:
    """All functions with their lines."""
    found: list[Function] = []
    for k, v in enumerate(module.plan.variants):
        found.append(_forward(module, k, v))
        found += [_backward(module, k, v, b) for b in v.backward]
        found += [_train(module, k, v, b) for b in v.backward if b.loss in TRAINED]
    _make_local(module, found)
    for function in found:
        function.lines = list(_lines(module, function))
    return found


def _name(start: str, v: VariantPlan) -> str:
    return "_".join((start, *map(spell, v.label)))


def _forward(module: CpuModule, k: int, v: VariantPlan) -> Function:
    groups = blocks(ordered(_actions(module, v.forward)))
    comment = f"The forward pass{when(v, module.plan)}."
    return Function(_name("forward", v), comment, "forward", k, 0, groups, work=work(v.forward))


def _backward(module: CpuModule, k: int, v: VariantPlan, b: BackwardPlan) -> Function:
    inputs = tuple(b.inputs)
    actions = [*_actions(module, b.steps), *_unreached(module, b), *_given(module, inputs)]
    comment = f"The backward pass from {START[b.loss]}{when(v, module.plan)}."
    name = _name(f"backward_{b.loss}", v)
    groups = blocks(ordered(actions))
    return Function(name, comment, "backward", k, LOSSES.index(b.loss), groups, inputs, work(b.steps))


def _train(module: CpuModule, k: int, v: VariantPlan, b: BackwardPlan) -> Function:
    """Forward and back in one, without the gradients of inputs."""
    units = (*v.forward, *(u for u in b.steps if u.wanted is None))
    actions = _gradients_last(module, [*_actions(module, units), *_unreached(module, b)])
    comment = f"Forward and back from {START[b.loss]}{when(v, module.plan)}: the gradients go where m->sinks says."
    groups = blocks(ordered(actions))
    return Function(_name(f"train_{b.loss}", v), comment, "train", k, LOSSES.index(b.loss), groups, work=work(units))


def _actions(module: CpuModule, units: Iterable[Unit]) -> list[Action]:
    """The statements of the units; what zeroes a thread's sums comes first, so that no block repeats it."""
    found = [a for unit in units for a in lower_unit(module, unit)]
    return [a for a in found if not a.value] + [a for a in found if a.value]


def _gradients_last(module: CpuModule, actions: Sequence[Action]) -> list[Action]:
    """The statements with those last that write gradients, which may change the parameters: no other reads of them."""
    params = {p.grad: p.buffer for p in module.plan.params if p.grad is not None}

    def with_parameters(accesses: tuple[Access, ...]) -> tuple[Access, ...]:
        written = [a.what for a in accesses if a.writes and isinstance(a.what, Buffer) and a.what in params]
        return (*accesses, *(replace(a, what=params[b]) for a in accesses for b in written if a.what == b))

    last = [a for a in actions if any(x.what in params for x in a.wide)]
    writing = [dataclasses.replace(a, wide=with_parameters(a.wide), narrow=with_parameters(a.narrow)) for a in last]
    return [a for a in actions if a not in last] + writing


def _unreached(module: CpuModule, b: BackwardPlan) -> Iterator[Action]:
    """Zeroes the gradients that the backward pass does not reach."""
    reached = frozenset(b.params)
    for k, p in enumerate(module.plan.params):
        if p.grad is not None and p.buffer.name not in reached:
            rows, columns, _ = extent(p.grad)
            size = columns if module.is_pitched(p.grad) else rows * columns
            template = "zero_columns" if module.is_pitched(p.grad) else "zero_gradient"
            text = module.write(template, {"number": k, "rows": rows, "size": size})
            accesses = (Access(p.grad, share(size), True),)
            yield Action(None, _always(text), f"{p.grad.name}, not reached", accesses, accesses)


def _always(text: str) -> Callable[[Columns], str]:
    """A statement that is the same for all columns."""
    return lambda columns: text


def _given(module: CpuModule, inputs: Sequence[tuple[int, Buffer]]) -> Iterator[Action]:
    """Copies what was given as the gradient of the output where it is that of an input too."""
    for index, buffer in inputs:
        if buffer.kind == "gold":
            step = Step(Instr(buffer.name, "copy", type=buffer.type), buffer, (buffer,), frozenset({index}))
            (action,) = moved("copy", "")(module, step)
            member = module.ref(buffer)

            def write(columns: Columns, action: Action = action, member: str = member) -> str:
                return action.text(columns).replace("(gold", f"({member}", 1)

            yield Action(step, write, f"d:input {index}", (), (), action.by_columns)


# --- values within a block --------------------------------------------------------------------------------------------


def _make_local(module: CpuModule, found: Sequence[Function]) -> None:
    """Gives values that only one block of columns needs an array of the thread's own."""
    outside = {b.root for v in module.plan.variants for b in (*v.frame, v.result) if b is not None}
    outside |= {b.root for f in found for _, b in f.inputs} | set(_named(module))
    homes: dict[Buffer, set[tuple[int, int]]] = {}
    for k, f in enumerate(found):
        for j, (together, group) in enumerate(f.groups):
            for a in group:
                for access in (*a.wide, *a.narrow):
                    if isinstance(access.root, Buffer) and access.root.kind == "value":
                        homes.setdefault(access.root, set()).add((k, j if together else -1))
    for b, places in homes.items():
        if b.type.batched and b not in outside and all(j >= 0 for _, j in places) and _once(places):
            module.local.add(b)
    for f in found:
        for together, group in f.groups:
            if together:
                _give_memory(module, group)


def _once(places: Iterable[tuple[int, int]]) -> bool:
    """Whether there is one place a function."""
    functions = [k for k, _ in places]
    return len(functions) == len(set(functions))


def _give_memory(module: CpuModule, group: Sequence[Action]) -> None:
    columns = block_columns(module, group)
    for b in _arrays(group):
        if b in module.local:
            module.own_array(b, module.members[b], columns * b.type.column, f"{b.name} {b.type}, of a block")


def _named(module: CpuModule) -> Iterator[Buffer]:
    """The values of variables, which can be read after a call."""
    for v in module.plan.variants:
        yield from (b.root for _, b in v.names)


def _arrays(group: Sequence[Action]) -> dict[Buffer, None]:
    """The batched arrays of a group."""
    accesses = (a.root for action in group for a in action.wide)
    return dict.fromkeys(b for b in accesses if isinstance(b, Buffer) and b.type.batched)


def block_columns(module: CpuModule, group: Sequence[Action]) -> int:
    """How many columns a block has."""
    size = 4 if module.dtype == "f32" else 8
    column = sum(b.type.column for b in _arrays(group)) * size
    return max(1, min(_MOST_COLUMNS, _BLOCK_BYTES // max(1, column)))


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(module: CpuModule, function: Function) -> Iterator[str]:
    body = list(_body(module, function))
    body += [f"if (want & {bits({i})}) m->input_gradients[{i}] = {module.ref(b)};" for i, b in function.inputs]
    yield from _locals(body)
    yield from body


_LOCALS = (
    ("N", "const int N = m->batch;", ()),
    ("c", "const int c = t.columns(N).from;", ("N",)),
    ("n", "const int n = t.columns(N).size();", ("N",)),
    ("w", "knet_worker& w = m->workers[t.index];", ()),
    ("s", "knet_worker& s = m->workers[t.wide ? t.index : 0];", ()),
)


def _locals(lines: Sequence[str]) -> Iterator[str]:
    """The declarations of what the lines use."""
    text = "\n".join(line.split("  //")[0] for line in lines if not line.lstrip().startswith("//"))
    used = {name for name, _, _ in _LOCALS if re.search(rf"(?<![\w>.]){name}\b", text)}
    used |= {other for name, _, others in _LOCALS if name in used for other in others}
    yield from (declaration for name, declaration, _ in _LOCALS if name in used)


def _body(module: CpuModule, function: Function) -> Iterator[str]:
    epochs: dict[Mode, Epoch] = {mode: Epoch() for mode in MODES}
    shown: list[str] = []
    for together, group in function.groups:
        indent, columns = "", OUTSIDE
        lines: list[str] = []
        if together:
            indent, columns = "  ", INSIDE
            size = block_columns(module, group)
            lines += [f"for (int b = c; b < c + n; b += {size}) {{", f"  const int k = min({size}, c + n - b);"]
        for action in group:
            lines += [f"{indent}{line}" for line in _wait(action, epochs)]
            places = unit_places(action.unit) if action.unit else []
            lines += [f"{indent}// {line}" for line in places if line not in shown]
            shown = places or shown
            lines += _guarded(action, action.text(columns), indent)
        if together:
            lines += ["  t.wait_narrow();", "}"]
            epochs["narrow"] = Epoch()
        yield from lines


def _wait(action: Action, epochs: dict[Mode, Epoch]) -> Iterator[str]:
    """The barrier before a statement, where there is one."""
    waits = []
    for mode in MODES:
        accesses = action.accesses(mode)
        if epochs[mode].conflicts(accesses):
            waits.append(mode)
            epochs[mode] = Epoch()
        epochs[mode].add(accesses)
    if waits:
        yield f"t.wait{'' if len(waits) == len(MODES) else '_' + waits[0]}();"


def _guarded(action: Action, text: str, indent: str) -> Iterator[str]:
    """The statement, under an if where only gradients of inputs need it."""
    wanted = action.unit.wanted if action.unit else None
    if wanted is None:
        yield from laid_out(text, action.value, indent)
    else:
        yield f"{indent}if (want & {bits(wanted)}) {{"
        yield from laid_out(text, action.value, indent + "  ")
        yield f"{indent}}}"


def initial(module: CpuModule) -> Iterator[str]:
    """Statements that fill parameters and constants, each thread its part."""
    arrays = [(p.instr, p.buffer) for p in module.plan.params]
    arrays += list(module.plan.constants)
    for instr, buffer in arrays:
        rows, columns, pitch = extent(buffer)
        if pitch != rows and columns > 1:  # column by column
            part = f"t.part({columns})"
            text = fill_call(
                module, instr, buffer, f"{module.ref(buffer)} + {pitch} * j", f"{rows} * j", f"{rows}", "0u"
            )
            text = f"for (int j = {part}.from; j < {part}.to; j++) {text}"
        else:
            part = f"t.part({rows * columns})"
            place = f"{module.ref(buffer)} + {part}.from"
            text = fill_call(module, instr, buffer, place, f"{part}.from", f"{part}.size()", "0u")
        init = instr.attr("init")
        filled = "as given" if isinstance(init, Array) else repr(init)
        yield from laid_out(text, f"{instr.out} {buffer.type}, {filled}")
