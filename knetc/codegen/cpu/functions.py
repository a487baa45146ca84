"""The functions of an emitted C++ file: forward and backward of every variant, and whole steps of training.

Before: `codegen.cpu.steps`, which turns a step of the plan into statements. After: `codegen.cpu.emit`. Every thread
runs these functions; here their statements are put in order, in blocks of columns where they work on images, with
barriers where `codegen.cpu.access` finds that one thread reads what another writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from knetc.codegen.cpu.access import Access, Action, Columns, blocks, ordered, share
from knetc.codegen.cpu.fill import fill_call
from knetc.codegen.cpu.gradients import separated
from knetc.codegen.cpu.lines import Function, arrays, block_columns, lines
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.cpu.packed import key, products_of
from knetc.codegen.cpu.products import pack, packed_product
from knetc.codegen.cpu.sharing import share_memory
from knetc.codegen.cpu.steps import lower_unit, moved
from knetc.codegen.cpu.work import work
from knetc.codegen.functions import START, TRAINED, when
from knetc.codegen.index import extent
from knetc.codegen.lines import laid_out
from knetc.codegen.names import spell
from knetc.errors import KnetLimitation
from knetc.ir.epilogues import without_epilogues
from knetc.ir.plan import BackwardPlan, Buffer, PhasePlan, Plan, Step, Unit, VariantPlan
from knetc.ir.program import LOSSES, Instr, Program
from knetc.ir.sequence_plan import make_sequence_plan
from knetc.options import Options
from knetc.record import replace
from knetc.values import Array


def host_module(
    program: Program, options: Options, render: Callable[[str, Mapping[str, object]], str]
) -> tuple[CpuModule, list[Function]]:
    """The names and kernels of an emitted file, and its functions."""
    module = CpuModule(separated(host_plan(program, options)), options, render)
    return module, functions(module)


def host_plan(program: Program, options: Options) -> Plan:
    """The plan, every buffer with memory of its own: what a block of columns needs stands in the cache.

    Products run by themselves: a BLAS has no epilogues, and each thread goes on with what its product left there.
    """
    return make_sequence_plan(without_epilogues(program), replace(options, arena=False))


def functions(module: CpuModule) -> list[Function]:
    """All functions with their lines."""
    found: list[Function] = []
    for k, v in enumerate(module.plan.variants):
        found += [_forward(module, k, v), *_sequence(module, k, v, None)]
        for b in v.backward:
            found += [_backward(module, k, v, b), *_sequence(module, k, v, b)]
        if not module.plan.states:  # else a minibatch is trained on by the calls that a user would make
            found += [_train(module, k, v, b) for b in v.backward if b.loss in TRAINED]
    _make_local(module, found)
    _share(module, found)
    for function in found:
        function.lines = list(lines(module, function))
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


_PHASES = {"before": "before the loop over time", "loop": "at each step of a sequence", "after": "after the loop"}


def _sequence(module: CpuModule, k: int, v: VariantPlan, b: BackwardPlan | None) -> list[Function]:
    """What runs a whole sequence forward, or back from a loss; nothing where that goes step by step."""
    phases = b.phases if b else v.phases
    try:
        return [] if phases is None else list(_phases(module, k, v, b, phases))
    except KnetLimitation:  # of kernels that are fused otherwise than those of a step
        return []


def _phases(module: CpuModule, k: int, v: VariantPlan, b: BackwardPlan | None, phases: PhasePlan) -> Iterator[Function]:
    """The functions before the loop over time, in it, and after it."""
    kind, start = ("backward", f"_{b.loss}") if b else ("forward", "")
    what = f"Back from {START[b.loss]}" if b else "Forward"
    loss = LOSSES.index(b.loss) if b else 0
    packed = {id(step): step for step in products_of(phases)}
    for phase, units in zip(_PHASES, phases.lists, strict=True):
        actions = _actions(module, units, packed if phase == "loop" else ())
        if phase == "before":
            actions += [pack(module, step) for step in {key(step): step for step in packed.values()}.values()]
        if b and phase == "after":
            actions += _unreached(module, b)
        comment = f"{what}{when(v, module.plan)}, {_PHASES[phase]}."
        groups = blocks(ordered(actions))
        function = Function(_name(f"{phase}_{kind}{start}", v), comment, kind, k, loss, groups, work=work(units))
        function.phase = phase
        function.whole = frozenset(phases.whole if phase == "loop" else ())
        yield function


def _actions(module: CpuModule, units: Iterable[Unit], packed: Collection[int] = ()) -> list[Action]:
    """The statements of the units; what zeroes a thread's sums comes first, so that no block repeats it. `packed`: the
    ids of the steps that multiply by packed matrices.
    """
    found = [a for unit in units for a in _statements(module, unit, packed)]
    return [a for a in found if not a.value] + [a for a in found if a.value]


def _statements(module: CpuModule, unit: Unit, packed: Collection[int]) -> list[Action]:
    if id(unit) in packed and isinstance(unit, Step):
        return [packed_product(module, unit)]
    return lower_unit(module, unit)


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
    outside = _outlasting(module, found) | _handed_on(found)
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


def _outlasting(module: CpuModule, found: Iterable[Function]) -> set[Buffer]:
    """The values that are read after the call that computes them: by the way back, or by name."""
    frames = {b.root for v in module.plan.variants for b in (*v.frame, v.result) if b is not None}
    return frames | {b.root for f in found for _, b in f.inputs} | set(_named(module))


def _share(module: CpuModule, found: Sequence[Function]) -> None:
    """Lets the values over whole sequences share memory."""
    outlasting = _outlasting(module, found)
    whole = module.of_all_steps if any(f.phase for f in found) else ()
    module.sharing = share_memory(found, [b for b in whole if b not in outlasting and b not in module.local])


def _handed_on(found: Iterable[Function]) -> set[Buffer]:
    """The values that go from one part of a sequence to another."""
    phases: dict[tuple[Buffer, int, str, int], set[str]] = {}
    for f in found:
        for a in f.actions() if f.phase else ():
            for root in (access.root for access in a.wide):
                if isinstance(root, Buffer):
                    phases.setdefault((root, f.variant, f.kind, f.loss), set()).add(f.phase)
    return {root for (root, *_), names in phases.items() if len(names) > 1}


def _once(places: Iterable[tuple[int, int]]) -> bool:
    """Whether there is one place a function."""
    functions = [k for k, _ in places]
    return len(functions) == len(set(functions))


def _give_memory(module: CpuModule, group: Sequence[Action]) -> None:
    columns = block_columns(module, group)
    for b in arrays(group):
        if b in module.local:
            module.own_array(b, module.members[b], columns * b.type.column, f"{b.name} {b.type}, of a block")


def _named(module: CpuModule) -> Iterator[Buffer]:
    """The values of variables, which can be read after a call."""
    for v in module.plan.variants:
        yield from (b.root for _, b in v.names)


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
