"""When each buffer of a plan is needed: from the unit that computes it to the last that reads it.

Before: the plan. After: `ir.placing`, which lets buffers share memory that are not needed at the same time. The order
of a list is the order of time. A forward call leaves what its backward pass reads; that goes on from there. What stands
in frames that have memory of their own (`apart`) is left out; then a list over a whole sequence leaves nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from knetc.ir.carried import lasting
from knetc.ir.epilogues import is_elementwise, is_loss
from knetc.ir.plan import SHARING, BackwardPlan, Buffer, Kernel, PhasePlan, Plan, Step, Unit, VariantPlan, flat
from knetc.ir.uses import prologue
from knetc.ops import registry

_FOREVER = 1 << 60


@dataclass
class Timeline:
    """A forward list alone, or with one of its backward lists after it.

    `spans`: the first and the last unit, both included, at which the memory of a slot is needed. `slots`: which slot
    each buffer has; a result that takes the place of an argument has the argument's. `turn`: where the backward list
    begins; the end where there is none.
    """

    turn: int
    spans: dict[Buffer, tuple[int, int]] = field(default_factory=dict)
    slots: dict[Buffer, Buffer] = field(default_factory=dict)
    pairs: set[tuple[Buffer, Buffer]] = field(default_factory=set)


def timelines(plan: Plan, variant: VariantPlan, apart: AbstractSet[Buffer] = frozenset()) -> list[Timeline]:
    """The forward list's timeline, then one with each backward list. `apart`: what has memory elsewhere.

    Without state a forward call can be repeated from its inputs, so its values need not outlast the backward pass; the
    inputs and what can be read by name do.
    """
    always = {b.root for _, b in variant.names} | set(plan.inputs)
    kept = always | set(variant.frame) | ({variant.result.root} if variant.result is not None else set())
    forward, turn = variant.forward, len(variant.forward)
    given = {b: (0, 0) for b in plan.inputs if b not in apart}
    found = [_timeline(forward, turn, given, kept, apart)]
    for b in variant.backward:
        wanted = _wanted(b)
        stays = always | wanted | (kept if plan.states else set())
        # Inputs and gold are there before the forward list runs: a training step is given both. An input's gradient may
        # be @gold itself, which no unit reads then.
        gold = {x: (0, turn) for x in wanted if x.kind == "gold"}
        found.append(_timeline((*forward, *b.steps), turn, gold | given, stays, apart))
    _share_slots(found)
    return found


def sequence_timelines(
    plan: Plan, variant: VariantPlan, apart: AbstractSet[Buffer] = frozenset()
) -> list[tuple[PhasePlan, Timeline] | None]:
    """The timelines of the lists over a whole sequence, the forward one first, each with its list; None for a list that
    goes step by step. They leave nothing but their frame.
    """
    if variant.phases is None:
        return [None] * (1 + len(variant.backward))
    # What is desired is there before the forward list runs, and stays: a step of training is given both.
    desired = dict.fromkeys(x for b in variant.backward if b.phases for x in _given(b) if x.kind == "gold")
    given = dict.fromkeys(plan.inputs, (0, 0)) | dict.fromkeys(desired, (0, _FOREVER))
    forward = _sequence(variant.phases, given, apart, back=False)
    forward.slots = {b: slot for b, slot in forward.slots.items() if b not in desired}
    found: list[tuple[PhasePlan, Timeline] | None] = [(variant.phases, forward)]
    for b in variant.backward:
        given = dict.fromkeys(_given(b), (0, 0))
        found.append((b.phases, _sequence(b.phases, given, apart, back=True)) if b.phases else None)
    return found


def _sequence(
    phases: PhasePlan, given: Mapping[Buffer, tuple[int, int]], apart: AbstractSet[Buffer], back: bool
) -> Timeline:
    """The timeline of a list over a whole sequence; `given`: the spans of what is copied in before.

    All that its loop touches of what has the columns of all steps, has no columns, or goes from one step to the next,
    is needed from the loop's beginning to its end. Only within one step may a result take the place of an argument.
    """
    units = [u for units in phases.lists for u in units]
    start, end = len(phases.before), len(phases.before) + len(phases.loop)
    found = _timeline(units, 0 if back else len(units), {b: s for b, s in given.items() if b not in apart}, (), apart)
    whole = phases.having_all_steps(found.spans)
    carried = lasting(phases, back)
    needed = (b for b in _touched(phases.loop) if b in whole or b in carried or not b.type.batched)
    through = {b for b in needed if b in found.spans}
    for b in through:
        first, last = found.spans[b]
        found.spans[b] = (min(first, start), max(last, end - 1))
    found.pairs = {p for p in found.pairs if through.isdisjoint(p) and (p[0] in whole) == (p[1] in whole)}
    _share_slots([found])
    return found


def _given(back: BackwardPlan) -> Iterable[Buffer]:
    """What a backward pass is given, for single steps or all: the mask, and what is desired, which may be an input's
    gradient and be read by nothing.
    """
    return (b for b in dict.fromkeys((*_touched(back.steps), *_wanted(back))) if b.kind in ("gold", "mask"))


def _touched(units: Iterable[Unit]) -> dict[Buffer, None]:
    return dict.fromkeys(b.root for s in flat(units) for b in (*s.args, s.out))


def _wanted(backward: BackwardPlan) -> set[Buffer]:
    """Where a backward list leaves the gradients of inputs."""
    return {at.root for _, at in backward.inputs if at.root.kind in SHARING}


def _timeline(
    units: Sequence[Unit],
    turn: int,
    given: Mapping[Buffer, tuple[int, int]],
    stays: Container[Buffer],
    apart: Container[Buffer],
) -> Timeline:
    """The timeline of units; `given`: the spans of what is there before them; `stays`: what is needed after them."""
    timeline = Timeline(turn)
    spans = dict(given)
    for k, unit in enumerate(units):
        for b in _touched([unit]):
            if b.kind in SHARING and b not in apart:
                # What is desired is there from the first unit on, and a mask is filled at the turn.
                first, _ = spans.get(b, ({"gold": 0, "mask": turn}.get(b.kind, k), 0))
                spans[b] = (first, k)
    timeline.spans = {b: (first, _FOREVER if b in stays else last) for b, (first, last) in spans.items()}
    for k, unit in enumerate(units):
        dying = {b for b in _read(unit) if timeline.spans.get(b, (0, _FOREVER))[1] == k and b.kind != "input"}
        timeline.pairs.update((out, a) for out, a in in_place(unit, dying, apart) if timeline.spans[out][0] == k)
    timeline.slots = {b: b for b in timeline.spans}
    return timeline


def _read(unit: Unit) -> list[Buffer]:
    return [a.root for s in flat([unit]) for a in s.args]


def in_place(unit: Unit, dying: Container[Buffer], apart: Container[Buffer]) -> list[tuple[Buffer, Buffer]]:
    """Results of a unit, each with an argument whose place it may take; `dying` are read here for the last time."""
    return one_each([(out, a) for out, a in may_share(unit) if a in dying and out not in apart])


def one_each(pairs: Sequence[tuple[Buffer, Buffer]]) -> list[tuple[Buffer, Buffer]]:
    """Of pairs as many as can be without one buffer in two, the first ones first."""
    found: dict[Buffer, Buffer] = {}
    for out, a in pairs:
        if out not in found and a not in found.values():
            found[out] = a
    return list(found.items())


def may_share(unit: Unit) -> list[tuple[Buffer, Buffer]]:
    """The results of a unit that may stand where an argument stands that nothing reads any more.

    They must be elementwise and of one shape; the unit must read the argument at the element's own place alone, and at
    no step after the result's. What is computed anew all over a window reads its arguments there too; a column is read
    to its end before any of it is written.
    """
    steps: tuple[Step, ...] = unit.steps if isinstance(unit, Kernel) else (unit,)
    together = (s for s in steps if not (len(steps) > 1 and is_loss(s.instr)))
    if not all(is_elementwise(s.instr) or registry()[s.instr.op].reach for s in together):
        return []
    anew = prologue([s.instr for s in steps]) if any(registry()[s.instr.op].reach == "window" for s in steps) else ()
    far = {a for s in steps if registry()[s.instr.op].reach or s.instr.out in anew for a in s.args}
    read = {a: k for k, s in enumerate(steps) for a in s.args if a.base is None and a not in far}
    outs = [(k, s.out) for k, s in enumerate(steps) if s.out.kind in SHARING and s.out.base is None]
    return [(out, a) for k, out in outs for a, last in read.items() if a.type == out.type and last <= k]


# --- slots ------------------------------------------------------------------------------------------------------------


def _share_slots(times: Sequence[Timeline]) -> None:
    """Gives results the slots of the arguments whose places they take, where that is right in every timeline."""
    members: dict[Buffer, list[Buffer]] = {}
    slot: dict[Buffer, Buffer] = {}
    for t in times:
        for b in t.spans:
            slot.setdefault(b, b)
            members.setdefault(b, [b])
    for out, a in dict.fromkeys(pair for t in times for pair in sorted(t.pairs, key=lambda p: t.spans[p[0]])):
        one, other = slot[a], slot[out]
        if one is not other and all(_follow(t, members[one], members[other]) for t in times):
            members[one] += members[other]
            slot.update(dict.fromkeys(members.pop(other), one))
    for t in times:
        spans: dict[Buffer, tuple[int, int]] = {}
        for b, (first, last) in t.spans.items():
            start, end = spans.get(slot[b], (first, last))
            spans[slot[b]] = (min(start, first), max(end, last))
        t.slots = {b: slot[b] for b in t.spans}
        t.spans = spans


def _follow(t: Timeline, ones: Sequence[Buffer], others: Sequence[Buffer]) -> bool:
    """Whether the buffers of two slots are never needed together in a timeline, but where one takes another's place."""
    for a in ones:
        for b in others:
            if a not in t.spans or b not in t.spans:
                continue
            (start, end), (first, last) = t.spans[a], t.spans[b]
            apart = end < first or last < start
            handed = (end == first and (b, a) in t.pairs) or (last == start and (a, b) in t.pairs)
            if not apart and not handed:
                return False
    return True
