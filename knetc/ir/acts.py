"""What `ir.replay` plays: the lists of a variant as lines, what is given to each, and what must be there after it.

Before: the plan, with the program that it is of. Each list's lines are written by `ir.script`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from knetc.errors import KnetInternalError
from knetc.ir import uses
from knetc.ir.contents import Span
from knetc.ir.memory import Layout, Layouts
from knetc.ir.placing import Place, size
from knetc.ir.plan import BackwardPlan, Buffer, PhasePlan, Plan, Unit, VariantPlan, flat
from knetc.ir.program import Instr, Phases
from knetc.ir.script import (
    BACKWARD,
    FIXED,
    FORWARD,
    HANDED,
    Access,
    Accesses,
    Line,
    Parts,
    Script,
    Values,
    handed,
    held,
    meanings,
    whole,
)
from knetc.record import Record


class Due(Record):
    """What must stand in a buffer, or is copied there; `what`: how a message calls it; `wanted`: as a step's."""

    what: str
    access: Access
    parts: Parts
    wanted: frozenset[int] | None = None


class Act(Record):
    """A list: `lists` are one for single steps, for a whole sequence those before, in and after the loop.

    `sided`: the arrays that have the columns of all steps in the loop; `places`: where buffers stand in the arena;
    `given`: what is copied in before; `handed`: what it hands to the next step; `due`: what it leaves to a user.
    """

    lists: tuple[tuple[Line, ...], ...]
    clock: int
    sided: frozenset[int]
    places: Mapping[int, Span]
    given: tuple[Due, ...]
    handed: tuple[str, ...]
    due: tuple[Due, ...]


class Back(Record):
    """A backward list for single steps, and for a whole sequence where there is one."""

    single: Act
    whole: Act | None


class Acts(Record):
    """All lists of a variant.

    `fixed`: parameters and constants; `states`: what static variables hold; `names`: what else can be read by name
    after a forward call and later; `frame`: the numbers of the buffers in its frames.
    """

    forward: Act
    whole: Act | None
    back: tuple[Back, ...]
    fixed: tuple[Due, ...]
    states: tuple[Due, ...]
    names: tuple[Due, ...]
    frame: frozenset[int]


def acts(plan: Plan, v: VariantPlan, layouts: Layouts | None, accesses: Accesses) -> Acts:
    """The lists of a variant; `accesses`: to the buffers of the plan.

    KnetInternalError where the plan has a step that is not the program's, or no place for what must have one.
    """
    maker = _Maker(plan, v, accesses)
    forward, values = maker.forward(v.variant.forward, (v.forward,), layouts.forward if layouts else None)
    all_, known = None, values
    if v.phases is not None:
        layout = layouts.sequence if layouts else None
        all_, known = maker.forward(_joined(v.variant.phases), v.phases.lists, layout, v.phases)
    back = []
    for k, b in enumerate(v.backward):
        of = next(x for x in v.variant.backward if x.loss == b.loss)
        single = maker.backward(of.body, (b.steps,), values, b, layouts.backward[k] if layouts else None)
        sequence = None
        if b.phases is not None:
            layout = layouts.backward_sequence[k] if layouts else None
            sequence = maker.backward(_joined(of.phases), b.phases.lists, known, b, layout, b.phases)
        back.append(Back(single, sequence))
    return Acts(
        forward=forward,
        whole=all_,
        back=tuple(back),
        fixed=maker.fixed(),
        states=tuple(maker.due(b.name, b, whole(held(b.name), b.type, HANDED)) for b in plan.states),
        names=tuple(maker.names(values)),
        frame=frozenset(accesses.of(b).number for b in v.frame),
    )


def _joined(phases: Phases | None) -> tuple[Instr, ...]:
    return tuple(i for body in phases.lists for i in body) if phases else ()


class _Maker:
    """Makes the acts of one variant."""

    def __init__(self, plan: Plan, v: VariantPlan, accesses: Accesses) -> None:
        self.plan = plan
        self.v = v
        self.accesses = accesses
        self.held = [*((p.instr, p.buffer) for p in plan.params), *plan.constants]
        self.spans: dict[tuple[Buffer, Place, bool], Span] = {}

    def fixed(self) -> tuple[Due, ...]:
        """What stands in the buffers of parameters and constants."""
        return tuple(self.due(i.out, b, whole(i.out, i.type, FIXED)) for i, b in self.held)

    def due(self, what: str, b: Buffer | None, parts: Parts, wanted: frozenset[int] | None = None) -> Due:
        """What must stand in a buffer, which must be there."""
        if b is None:
            raise KnetInternalError(f"{what} has no place")
        return Due(what, self.accesses.of(b, parts), parts, wanted)

    def places(self, layout: Layout | None, phases: PhasePlan | None) -> dict[int, Span]:
        """Where the buffers of a list stand in the arena, each with the room that the list needs."""
        found = {}
        whole = phases.having_all_steps(b for b, _ in layout.places) if phases and layout else ()
        for b, begin in layout.places if layout else ():
            key = (b, begin, b in whole)
            known = self.spans.get(key)
            if known is None:
                known = self.spans[key] = self.span(*key, phases is not None)
            found[self.accesses.of(b).number] = known
        return found

    def span(self, b: Buffer, begin: Place, whole: bool, sequence: bool) -> Span:
        """Where a buffer begins and ends, which must be in the arena."""
        end = begin + size(b, whole)
        arena = self.plan.arena
        ends = () if arena is None else arena.sequence_ends if sequence else arena.ends
        if not Place(0, 0).below(begin) or not any(end.below(e) for e in ends):
            raise KnetInternalError(f"{b.name} does not stand in the arena")
        return Span(begin.elements(1), begin, end)

    def forward(
        self,
        body: Sequence[Instr],
        lists: Sequence[Sequence[Unit]],
        layout: Layout | None,
        phases: PhasePlan | None = None,
    ) -> tuple[Act, Values]:
        """The forward list, and what its names mean."""
        inputs = {b.name: whole(b.name, b.type, FORWARD) for b in self.plan.inputs}
        params = {p.instr.out: whole(p.instr.out, p.instr.type, FIXED) for p in self.plan.params}
        values = meanings(body, {**inputs, **params}, FORWARD)
        due = list(self.names(values))
        if self.v.variant.result is not None:
            due.append(self.due("the result", self.v.result, values[self.v.variant.result]))
        given = [self.due(b.name, b, inputs[b.name]) for b in self.plan.inputs]
        return self.act(body, lists, values, FORWARD, given, due, layout, phases), values

    def names(self, values: Values) -> Iterator[Due]:
        """The variables that can be read by name, each with the value that it has at the end; but for what is fixed."""
        of = dict(self.v.variant.names)
        fixed = {i.out: b for i, b in self.held}
        return (self.due(n, b, values[of[n]]) for n, b in self.v.names if fixed.get(of[n]) != b)

    def backward(
        self,
        body: Sequence[Instr],
        lists: Sequence[Sequence[Unit]],
        known: Values,
        b: BackwardPlan,
        layout: Layout | None,
        phases: PhasePlan | None = None,
    ) -> Act:
        """A backward list; `known`: what the names of the forward list mean."""
        read = (*(a for units in (*lists, b.steps) for s in flat(units) for a in s.args), *(at for _, at in b.inputs))
        self.check_frame(lists, b)
        filled = {a: whole(a.name, a.type, BACKWARD) for a in read if a.kind in ("gold", "mask")}
        values = meanings(body, {**known, **{a.name: parts for a, parts in filled.items()}}, BACKWARD)
        given = [self.due(a.name, a, parts) for a, parts in filled.items()]
        due = list(self._gradients(body, values, b))
        if any(i.out == uses.LOSS for i in body):
            due.append(self.due("the loss", b.loss_value, values[uses.LOSS]))
        return self.act(body, lists, values, BACKWARD, given, due, layout, phases)

    def check_frame(self, lists: Sequence[Sequence[Unit]], b: BackwardPlan) -> None:
        """Where frames stand apart, a way back reads of the forward call what stands in its frame, and nothing else."""
        arena = self.plan.arena
        own = {s.out.root for units in lists for s in flat(units)} | set(self.v.frame)
        for s in flat(u for units in lists for u in units) if arena is not None and arena.apart else ():
            for a in s.args:
                if a.root.kind in ("input", "value") and a.root not in own:
                    raise KnetInternalError(f"{a.name} is read on the way back from {b.loss} and stands in no frame")

    def _gradients(self, body: Iterable[Instr], values: Values, b: BackwardPlan) -> Iterator[Due]:
        """What a backward list leaves: the gradients of parameters and inputs."""
        grads = {p.instr.out: p.grad for p in self.plan.params}
        inputs = dict(b.inputs)
        for i in body:
            if i.op == "dpar":
                param = str(i.attr("param"))
                yield self.due(f"the gradient of {param}", grads[param], values[i.args[0]])
            elif i.op == "dinput":
                index = uses.input_index(i)
                what = f"the gradient of input {index}"
                yield self.due(what, inputs.get(index), values[i.args[0]], frozenset({index}))

    def act(
        self,
        body: Sequence[Instr],
        lists: Sequence[Sequence[Unit]],
        values: Values,
        clock: int,
        given: Iterable[Due],
        due: Iterable[Due],
        layout: Layout | None,
        phases: PhasePlan | None,
    ) -> Act:
        """A list with its lines."""
        script = Script(body, values, clock, self.accesses)
        return Act(
            lists=tuple(map(script.lines, lists)),
            clock=clock,
            sided=frozenset(self.accesses.of(b).number for b in (phases.whole if phases else ())),
            places=self.places(layout, phases),
            given=tuple(given),
            handed=tuple(handed(i) for i in body if i.op in ("keep", "dkeep")),
            due=tuple(due),
        )
