"""The plan with the lists over whole sequences: what `passes.timebatch` has split, in buffers and steps.

Before: a `training` program. After: a back end's generator that runs sequences at once. The lists share the buffers of
the single steps: a value has one place in the model, with room for the columns of one step or of all. What a step
leaves for its backward pass (`VariantPlan.frame`), a sequence leaves for all steps side by side, so the two can be
mixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from knetc.ir.memory import make_arena
from knetc.ir.plan import GIVEN, BackwardPlan, Buffer, PhasePlan, Plan, Step, Unit, VariantPlan, flat
from knetc.ir.planner import BackwardPlanner, ListPlanner, Planner, VariantPlanner, make_plan
from knetc.ir.program import Instr, Phases, Program
from knetc.ir.replay import replay
from knetc.options import Options
from knetc.record import replace


def make_sequence_plan(program: Program, options: Options) -> Plan:
    """The plan of a `training` program with its phases. Frames have memory of their own, and what stands in none is in
    the arena, if there is one. Raises as `make_plan`.
    """
    planner = Planner(program, options)
    plan = planner.plan()
    known = {b.name: b for b in planner.inputs} | planner.params
    plan = replace(plan, variants=tuple(_with_results(plan)))
    variants = tuple(_variant(planner, v, known, plan.framed) for v in plan.variants)
    plan = replace(plan, variants=variants, buffers=tuple(planner.buffers))
    if options.arena:
        plan = replace(plan, arena=make_arena(plan, plan.framed))
    replay(plan)
    return plan


def device_plan(program: Program, options: Options) -> Plan:
    """The plan for a device: with its phases where some variant has them, else that of single steps."""
    if all(v.phases is None for v in program.variants):
        return make_plan(program, options)
    return make_sequence_plan(program, options)


def of_all_steps(plan: Plan) -> frozenset[Buffer]:
    """The arrays that need room for the columns of all steps of a sequence: what is given, what the loop has of all of
    them, and what is computed before it and after it.
    """
    lists = (x for v in plan.variants for x in (v.phases, *(b.phases for b in v.backward)) if x is not None)
    given = (b for b in plan.buffers if b.kind in GIVEN and b.type.batched)
    return frozenset({*given, *(b for phases in lists for b in phases.of_all_steps)})


def _with_results(plan: Plan) -> Iterable[VariantPlan]:
    """The variants with the model's values in their frames, where a sequence leaves those of all its steps."""
    sequences = any(v.variant.phases is not None for v in plan.variants)
    results = {v.result.root for v in plan.variants if sequences and v.result is not None}
    for v in plan.variants:
        own = dict.fromkeys((*plan.inputs, *(s.out.root for s in flat(v.forward))))
        yield replace(v, frame=(*v.frame, *(b for b in own if b in results and b not in v.frame)))


def _variant(planner: Planner, v: VariantPlan, known: Mapping[str, Buffer], framed: AbstractSet[Buffer]) -> VariantPlan:
    """The variant with its phases, if those leave the same frame as a single step.

    A value that a step keeps in a register may go from one phase to another in memory. Where it stands in another
    variant's frame, as one of `framed`, it must in this one's too: it has no other memory.
    """
    if v.variant.phases is None:
        return v
    lists = _numbered(v.variant.phases)
    forward = VariantPlanner(planner, replace(v.variant, forward=_joined(lists)), known)
    alive = set(map(id, forward.variant.forward))
    units = [tuple(forward.units([i for i in body if id(i) in alive], forward.step)) for body in lists]
    frame = set(v.frame)
    if _written(units, frame) != _written([v.forward], frame):
        return v
    handed_on = dict.fromkeys(s.out.root for s in _steps(units) if s.out.root in framed - frame)
    v = replace(v, frame=(*v.frame, *handed_on))
    backward = tuple(_backward(planner, v, b, forward) for b in v.backward)
    return replace(v, phases=_phases(units, set(v.frame)), backward=backward)


def _backward(planner: Planner, v: VariantPlan, b: BackwardPlan, forward: ListPlanner) -> BackwardPlan:
    """The backward list with its phases."""
    of = next(x for x in v.variant.backward if x.loss == b.loss)
    if of.phases is None:
        return b
    lists = _numbered(of.phases)
    whole = replace(of, body=_joined(lists))
    back = BackwardPlanner(planner, whole, v.variant, forward.scope)
    units = [tuple(back.units(body, back.step)) for body in lists]
    return replace(b, phases=_phases(units, set(v.frame)))


def _numbered(phases: Phases) -> list[list[Instr]]:
    """The three lists, each kernel with a number that no other list has."""
    found: list[list[Instr]] = []
    last = 0
    for body in phases.lists:
        found.append([replace(i, kernel=i.kernel + last) if i.kernel else i for i in body])
        last = max([last, *(i.kernel for i in found[-1])])
    return found


def _joined(lists: Iterable[Sequence[Instr]]) -> tuple[Instr, ...]:
    return tuple(i for body in lists for i in body)


def _written(lists: Iterable[Iterable[Unit]], frame: set[Buffer]) -> set[tuple[Buffer, int, object]]:
    """Which rows of the frame's arrays the lists write."""
    return {(s.out.root, s.out.first, s.out.type) for s in _steps(lists) if s.out.root in frame}


def _steps(lists: Iterable[Iterable[Unit]]) -> Iterable[Step]:
    return (s for units in lists for s in flat(units))


def _phases(units: Sequence[tuple[Unit, ...]], frame: set[Buffer]) -> PhasePlan:
    """The lists, with the arrays of the loop that have the columns of all steps."""
    before, loop, after = units
    outside = {b.root for s in _steps((before, after)) for b in (s.out, *s.args)}
    touched = dict.fromkeys(b.root for s in flat(loop) for b in (*s.args, s.out))
    whole = (b for b in touched if b.type.batched and (b.kind in GIVEN or b in frame or b in outside))
    return PhasePlan(before, loop, after, tuple(b for b in whole if b.kind in (*GIVEN, "value")))
