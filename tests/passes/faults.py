"""Faults in plans: each a function that gives copies of a plan with one mistake of its kind, as many as it finds.

For `test_replay.py`. Every one of the plans that come out is wrong: a value would be lost or another one read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from knetc.ir.memory import Layout, Layouts
from knetc.ir.placing import Place
from knetc.ir.plan import SHARING, BackwardPlan, Buffer, Kernel, PhasePlan, Plan, Step, Unit, VariantPlan, flat
from knetc.ops import registry
from knetc.ops.base import Library
from knetc.record import replace

Fault = Callable[[Plan], Iterator[Plan]]
Units = tuple[Unit, ...]


# --- changing plans ---------------------------------------------------------------------------------------------------


def with_variant(plan: Plan, old: VariantPlan, **changes: object) -> Plan:
    return replace(plan, variants=tuple(replace(v, **changes) if v is old else v for v in plan.variants))


def with_back(plan: Plan, v: VariantPlan, old: BackwardPlan, **changes: object) -> Plan:
    return with_variant(plan, v, backward=tuple(replace(b, **changes) if b is old else b for b in v.backward))


def lists(plan: Plan) -> Iterator[tuple[Units, Callable[[Units], Plan]]]:
    """Every list for single steps, and how the plan is with another in its place."""
    for v in plan.variants:
        yield v.forward, lambda new, v=v: with_variant(plan, v, forward=new)
        for b in v.backward:
            yield b.steps, lambda new, v=v, b=b: with_back(plan, v, b, steps=new)


def phased(plan: Plan) -> Iterator[tuple[PhasePlan, Callable[[PhasePlan], Plan]]]:
    """The same of lists over whole sequences."""
    for v in plan.variants:
        if v.phases is not None:
            yield v.phases, lambda new, v=v: with_variant(plan, v, phases=new)
        for b in v.backward:
            if b.phases is not None:
                yield b.phases, lambda new, v=v, b=b: with_back(plan, v, b, phases=new)


def with_step(unit: Unit, old: Step, new: Step) -> Unit:
    if isinstance(unit, Kernel):
        return replace(unit, steps=tuple(new if s is old else s for s in unit.steps))
    return new


def steps(plan: Plan) -> Iterator[tuple[Step, Unit, Callable[[Step], Plan]]]:
    """Every step in its unit, and how the plan is with another in its place."""
    for units, changed in lists(plan):
        for k, unit in enumerate(units):
            for step in flat([unit]):

                def put(new: Step, k=k, unit=unit, step=step, units=units, changed=changed) -> Plan:
                    return changed((*units[:k], with_step(unit, step, new), *units[k + 1 :]))

                yield step, unit, put


def with_places(plan: Plan, k: int, forward: dict[Buffer, Place], backward: dict[Buffer, Place]) -> Plan:
    """The plan with other places in the layouts of a variant."""
    assert plan.arena is not None
    old = plan.arena.variants[k]
    new = replace(old, forward=_moved(old.forward, forward), backward=tuple(_moved(x, backward) for x in old.backward))
    return with_layouts(plan, k, new)


def with_layouts(plan: Plan, k: int, new: Layouts) -> Plan:
    """The plan with other layouts of a variant."""
    assert plan.arena is not None
    variants = (*plan.arena.variants[:k], new, *plan.arena.variants[k + 1 :])
    return replace(plan, arena=replace(plan.arena, variants=variants))


def _moved(layout: Layout, to: dict[Buffer, Place]) -> Layout:
    return Layout(tuple((b, to.get(b, place)) for b, place in layout.places))


def in_arena(plan: Plan) -> Iterator[tuple[int, VariantPlan, dict[Buffer, Place]]]:
    """Each variant of a plan with an arena, and where its buffers stand in its last backward list."""
    for k, v in enumerate(plan.variants if plan.arena else ()):
        yield k, v, dict(plan.arena.variants[k].backward[-1].places)  # type: ignore[union-attr]


def in_arena_back(plan: Plan) -> Iterator[tuple[PhasePlan, dict[Buffer, Place], Callable[[dict[Buffer, Place]], Plan]]]:
    """Each backward list over a whole sequence, where its buffers stand, and how the plan is with others moved."""
    for k, v in enumerate(plan.variants if plan.arena else ()):
        old = plan.arena.variants[k]  # type: ignore[union-attr]
        for j, (b, layout) in enumerate(zip(v.backward, old.backward_sequence, strict=False)):
            if b.phases is not None and layout is not None:

                def moved(to: dict[Buffer, Place], k=k, j=j, old=old, layout=layout) -> Plan:
                    several = (*old.backward_sequence[:j], _moved(layout, to), *old.backward_sequence[j + 1 :])
                    return with_layouts(plan, k, replace(old, backward_sequence=several))

                yield b.phases, dict(layout.places), moved


def shared(b: Buffer) -> bool:
    return b.kind in SHARING


# --- the arena --------------------------------------------------------------------------------------------------------


def two_operands_in_one_place(plan: Plan) -> Iterator[Plan]:
    for k, v, places in in_arena(plan):
        for unit in (*v.forward, *v.backward[-1].steps):
            own = {s.out for s in flat([unit])}
            args = (a for s in flat([unit]) for a in s.args if a not in own)
            roots = list(dict.fromkeys(a.root for a in args if a.root in places))
            if len(roots) > 1:
                to = {roots[1]: places[roots[0]]}
                yield with_places(plan, k, to, to)


def one_element_further(plan: Plan) -> Iterator[Plan]:
    """Every other buffer stands one element further on: it ends where its neighbour begins."""
    for k, v, places in in_arena(plan):
        order = sorted((b for b in places if shared(b)), key=lambda b: places[b].elements(1))
        for unit in v.forward:
            read = {a.root for s in flat([unit]) for a in s.args if a.root in places}
            for one, other in zip(order, order[1:], strict=False):
                begin = places[one]
                touch = begin + Place(*((0, one.type.column) if one.type.batched else (one.type.column, 0)))
                if touch == places[other] and {one, other} <= read:
                    to = {one: begin + Place(1, 0)}
                    yield with_places(plan, k, to, to)


def moved_on_the_way_back(plan: Plan) -> Iterator[Plan]:
    for k, v, places in in_arena(plan):
        for b in v.frame:
            free = [p for other, p in places.items() if p != places.get(b, p) and other.type == b.type]
            if any(b.root == a.root for s in flat(v.backward[-1].steps) for a in s.args):
                yield from (with_places(plan, k, {}, {b: p}) for p in free)


def desired_where_the_forward_list_writes(plan: Plan) -> Iterator[Plan]:
    """Which a training step is given before that list runs."""
    for k, v, places in in_arena(plan):
        for gold in [b for b in places if b.kind == "gold"]:
            for b in dict.fromkeys(s.out.root for s in flat(v.forward) if s.out.root in places):
                yield with_places(plan, k, {}, {gold: places[b]})


def desired_where_a_forward_sequence_writes(plan: Plan) -> Iterator[Plan]:
    """As for a single step."""
    for v, layouts in zip(plan.variants, plan.arena.variants if plan.arena else (), strict=False):
        forward = dict(layouts.sequence.places) if layouts.sequence else {}
        written = (
            dict.fromkeys(s.out.root for s in flat(u for units in v.phases.lists for u in units)) if v.phases else {}
        )
        for phases, places, moved in in_arena_back(plan):
            for gold in [b for b in places if b.kind == "gold" and any(phases is b.phases for b in v.backward)]:
                yield from (moved({gold: forward[b]}) for b in written if b in forward)


def beyond_the_end(plan: Plan) -> Iterator[Plan]:
    for k, _, places in in_arena(plan):
        for b in places:
            yield with_places(plan, k, {b: Place(1 << 40, 0)}, {b: Place(1 << 40, 0)})
            yield with_places(plan, k, {b: Place(-1, 0)}, {b: Place(-1, 0)})


def a_product_over_its_operand(plan: Plan) -> Iterator[Plan]:
    for k, v, places in in_arena(plan):
        for s in flat((*v.forward, *v.backward[-1].steps)):
            if isinstance(registry()[s.instr.op].cuda, Library) and s.out in places:
                for a in s.args:
                    if a.root in places and a.root is not s.out:
                        to = {s.out: places[a.root]}
                        yield with_places(plan, k, to, to)


def two_results_in_one_place(plan: Plan) -> Iterator[Plan]:
    for k, v, places in in_arena(plan):
        for unit in (*v.forward, *v.backward[-1].steps):
            outs = [s.out for s in flat([unit]) if s.out in places]
            if len(outs) > 1:
                to = {outs[0]: places[outs[1]]}
                yield with_places(plan, k, to, to)


def over_what_the_loop_still_reads(plan: Plan) -> Iterator[Plan]:
    """A result of a step stands where the loop reads the columns of all steps."""
    for phases, places, moved in in_arena_back(plan):
        whole = phases.of_all_steps
        read = dict.fromkeys(a.root for s in flat(phases.loop) for a in s.args if a.root in places and a.root in whole)
        for out in dict.fromkeys(s.out.root for s in flat(phases.loop) if s.out.root in places):
            yield from (moved({out: places[b]}) for b in read if b is not out)


def room_for_one_step_alone(plan: Plan) -> Iterator[Plan]:
    """What stands above the columns of all steps, and is there while they are, stands where those of the first end."""
    for phases, places, moved in in_arena_back(plan):
        whole, loop = phases.of_all_steps, dict.fromkeys(s.out.root for s in flat(phases.loop))
        for b in loop:
            if b in places and places[b].later and any(a in whole and a in places for a in loop):
                yield moved({b: Place(places[b].fixed, places[b].column)})


# --- the order --------------------------------------------------------------------------------------------------------


def read_before_it_is_written(plan: Plan) -> Iterator[Plan]:
    for units, changed in lists(plan):
        for k, (one, other) in enumerate(zip(units, units[1:], strict=False)):
            written = {s.out.root for s in flat([one])}
            if any(a.root in written for s in flat([other]) for a in s.args):
                yield changed((*units[:k], other, one, *units[k + 2 :]))


def a_kernel_in_the_wrong_order(plan: Plan) -> Iterator[Plan]:
    for units, changed in lists(plan):
        for k, unit in enumerate(units):
            if isinstance(unit, Kernel) and any(s.out in t.args for s in unit.steps for t in unit.steps):
                yield changed((*units[:k], replace(unit, steps=unit.steps[::-1]), *units[k + 1 :]))


def a_unit_left_out(plan: Plan) -> Iterator[Plan]:
    for units, changed in lists(plan):
        for k in range(len(units)):
            yield changed((*units[:k], *units[k + 1 :]))


def run_for_an_input_alone(plan: Plan) -> Iterator[Plan]:
    for v in plan.variants:
        for b in v.backward:
            for k, unit in enumerate(b.steps):
                if unit.wanted is None:
                    only = replace(unit, wanted=frozenset({0}))
                    yield with_back(plan, v, b, steps=(*b.steps[:k], only, *b.steps[k + 1 :]))


# --- buffers ----------------------------------------------------------------------------------------------------------


def another_operand(plan: Plan) -> Iterator[Plan]:
    for step, _, put in steps(plan):
        for k, a in enumerate(step.args):
            others = [b for b in plan.buffers if b.type == a.type and b != a.root and b.kind == a.kind]
            yield from (put(replace(step, args=(*step.args[:k], b, *step.args[k + 1 :]))) for b in others[:1])


def two_results_in_one_buffer(plan: Plan) -> Iterator[Plan]:
    for step, _, put in steps(plan):
        if step.out.base is None and step.out.kind == "value":
            others = (b for b in step.args if b.type == step.out.type and b.kind == "value" and b.base is None)
            yield from (put(replace(step, out=b)) for b in others)


def other_rows_of_a_block(plan: Plan) -> Iterator[Plan]:
    for step, _, put in steps(plan):
        if step.out.base is not None and step.out.type != step.out.base.type:
            first = step.out.first + 1 if step.out.first == 0 else step.out.first - 1
            yield put(replace(step, out=replace(step.out, first=first)))


def a_row_too_few(plan: Plan) -> Iterator[Plan]:
    for step, _, put in steps(plan):
        dims = step.out.type.dims
        if step.out.kind == "value" and dims and isinstance(dims[0], int) and dims[0] > 1:
            less = replace(step.out.type, dims=(dims[0] - 1, *dims[1:]))
            yield put(replace(step, out=replace(step.out, type=less)))


# --- what is left for others ------------------------------------------------------------------------------------------


def a_shorter_frame(plan: Plan) -> Iterator[Plan]:
    for v in plan.variants:
        read = {a.root for b in v.backward for s in flat(b.steps) for a in s.args}
        for b in v.frame:
            if b in read:
                yield with_variant(plan, v, frame=tuple(x for x in v.frame if x is not b))


def two_gradients_exchanged(plan: Plan) -> Iterator[Plan]:
    for k, one in enumerate(plan.params):
        for other in plan.params[k + 1 :]:
            if one.grad and other.grad and one.grad.type == other.grad.type:
                new = {one.buffer: other.grad, other.buffer: one.grad}
                params = tuple(replace(p, grad=new.get(p.buffer, p.grad)) for p in plan.params)
                yield replace(plan, params=params)


def no_gradient_of_an_input(plan: Plan) -> Iterator[Plan]:
    for v in plan.variants:
        for b in v.backward:
            if b.inputs:
                yield with_back(plan, v, b, inputs=b.inputs[1:])
                yield with_back(plan, v, b, inputs=((0, v.frame[0]), *b.inputs[1:]))


def another_result(plan: Plan) -> Iterator[Plan]:
    for v in plan.variants:
        for s in flat(v.forward):
            if v.result is not None and s.out.type == v.result.type and s.out not in (v.result, *v.frame):
                yield with_variant(plan, v, result=s.out)


def another_variable(plan: Plan) -> Iterator[Plan]:
    for v in plan.variants:
        for k, (name, b) in enumerate(v.names):
            if b.kind not in ("param", "const"):
                names = (*v.names[:k], (name, plan.params[0].buffer), *v.names[k + 1 :])
                yield with_variant(plan, v, names=names)


def no_loss(plan: Plan) -> Iterator[Plan]:
    for v in plan.variants:
        for b in v.backward:
            if b.loss_value is not None:
                yield with_back(plan, v, b, loss_value=None)


# --- state and sequences ----------------------------------------------------------------------------------------------


def state_kept_before_it_is_read(plan: Plan) -> Iterator[Plan]:
    for units, changed in lists(plan):
        keeps = [u for u in units if isinstance(u, Step) and u.instr.op in ("keep", "dkeep")]
        reads = [k for k, u in enumerate(units) if isinstance(u, Step) and u.instr.op in ("state", "dstate")]
        for keep in keeps:
            rest = [u for u in units if u is not keep]
            if reads:
                yield changed((keep, *rest))


def columns_of_one_step_alone(plan: Plan) -> Iterator[Plan]:
    for phases, changed in phased(plan):
        for b in phases.whole:
            yield changed(replace(phases, whole=tuple(x for x in phases.whole if x is not b)))


def out_of_the_loop(plan: Plan) -> Iterator[Plan]:
    for phases, changed in phased(plan):
        if phases.loop:
            yield changed(replace(phases, loop=phases.loop[1:], before=(*phases.before, phases.loop[0])))
            yield changed(replace(phases, loop=phases.loop[:-1], after=(phases.loop[-1], *phases.after)))


def after_in_place_of_before(plan: Plan) -> Iterator[Plan]:
    for phases, changed in phased(plan):
        outs = {s.out.root for s in flat(phases.before)}
        if any(a.root in outs for s in flat(phases.loop) for a in s.args):
            yield changed(replace(phases, before=(), after=(*phases.before, *phases.after)))


FAULTS: tuple[Fault, ...] = (
    two_operands_in_one_place,
    one_element_further,
    moved_on_the_way_back,
    desired_where_the_forward_list_writes,
    desired_where_a_forward_sequence_writes,
    beyond_the_end,
    a_product_over_its_operand,
    two_results_in_one_place,
    over_what_the_loop_still_reads,
    room_for_one_step_alone,
    read_before_it_is_written,
    a_kernel_in_the_wrong_order,
    a_unit_left_out,
    run_for_an_input_alone,
    another_operand,
    two_results_in_one_buffer,
    other_rows_of_a_block,
    a_row_too_few,
    a_shorter_frame,
    two_gradients_exchanged,
    no_gradient_of_an_input,
    another_result,
    another_variable,
    no_loss,
    state_kept_before_it_is_read,
    columns_of_one_step_alone,
    out_of_the_loop,
    after_in_place_of_before,
)
