"""Proves a plan by playing it: its lists run in order, call after call, on names of values in place of numbers.

After `ir.planner`, `ir.memory` and `ir.sequence_plan`, whose mistakes it is meant to find. It knows nothing of
lifetimes. What a name means comes from the program (`ir.script`), where it stands from the plan. A read must find what
the program reads, computed by the call and for the step that are meant. A write leaves nothing of what it overlaps
(`ir.contents`), so that its own kernel may read from there only what `ir.accesses` allows. The calls are those that
emitted code can be asked for (`templates/host/calls.cu.j2`): a call and its backward passes, an update, steps of a
sequence that are pushed and popped, and whole sequences. After each all that a user can read must be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from knetc.errors import KnetInternalError
from knetc.ir.accesses import may_replace
from knetc.ir.acts import Act, Acts, Due, acts
from knetc.ir.contents import Cell, Held, Memory, Span
from knetc.ir.plan import SHARING, Plan
from knetc.ir.script import BACKWARD, FIXED, FORWARD, HANDED, Access, Accesses, Line, Look, Part, Parts, Put
from knetc.record import Record

STEPS = 3  # of a whole sequence: the first, the last, and one with a step before it and one after it
_CALL = 8  # the stamps of a call, one for each of its steps, of which there are fewer


def replay(plan: Plan) -> None:
    """Raises KnetInternalError where a list reads what is not there, or what a user can read is lost."""
    accesses = Accesses()
    for k, v in enumerate(plan.variants):
        layouts = plan.arena.variants[k] if plan.arena else None
        player = _Player(plan, acts(plan, v, layouts, accesses))
        player.single_calls()
        player.training()
        player.steps()
        player.sequences()


class _Frame(Record):
    """A forward call: the number of its frame, 0 where its values stand in the arena; its steps and stamp."""

    number: int
    steps: int
    stamp: int


class _Player:
    """Plays the lists of one variant. `handed`: the stamp of what a step has handed to the next, by name.

    `apart`: whether every frame has memory of its own; `sided`: the arrays in which each step has columns of its own,
    None for all that have the batch; `step`: the step that runs, or whose columns are read; `popped`: whether the step
    after has been, in a sequence.
    """

    def __init__(self, plan: Plan, found: Acts) -> None:
        self.plan = plan
        self.apart = plan.arena is None or bool(plan.arena.apart)
        self.acts = found
        self.memory = Memory()
        self.now = self.frames = 0
        self.clocks = [0, 0, 0]
        self.handed = {part.value: 0 for due in found.states for part in due.parts}
        self.frame = self.last = _Frame(0, 1, 0)
        self.act = found.forward
        self.sided: AbstractSet[int] | None = frozenset()
        self.step = 0
        self.popping = self.popped = False
        self.give((*found.fixed, *found.states))

    # --- calls --------------------------------------------------------------------------------------------------------

    def single_calls(self) -> None:
        """A forward call, the backward passes from it, and an update.

        Where values need not outlast a backward pass the forward call is repeated before the next one.
        """
        frame = self.forward()
        lasting = self.apart or bool(self.plan.states)
        for k, back in enumerate(self.acts.back * (2 if lasting else 1)):
            if k and not lasting:
                self.enter(self.acts.forward, frame)
                self.play(self.acts.forward)
            self.backward(back.single, frame)
        if not lasting:
            self.enter(self.acts.forward, frame)
            self.check(self.acts.forward.given)
        self.check(self.acts.fixed)
        self.now += _CALL
        self.clocks[FIXED] = self.now
        self.give(self.acts.fixed)

    def training(self) -> None:
        """A step of training from each loss, and one over a whole sequence."""
        for back in self.acts.back:
            self.train(back.single)
            if back.whole is not None:
                self.train(back.whole, STEPS)

    def train(self, back: Act, steps: int = 1) -> None:
        """A step of training: what is desired is there before the forward list runs."""
        self.clocks[BACKWARD] = self.now + 2 * _CALL
        self.enter(back, _Frame(self.frames + 1 if self.apart else 0, steps, self.now + _CALL))
        desired = [due for due in back.given if due.access.buffer.kind == "gold"]
        self.give(desired)
        self.popped = False
        frame = self.forward(steps=steps)
        self.backward(back, frame, pop=steps > 1, given=desired)
        self.check(self.acts.fixed)

    def steps(self) -> None:
        """Steps of a sequence that are pushed, and popped with one loss after the other."""
        backs = (*self.acts.back, *self.acts.back[:1])
        self.popped = False
        frames = [self.forward(push=True) for _ in backs]
        for back in backs:
            self.backward(back.single, frames.pop(), pop=True)
        self.check(self.acts.fixed)

    def sequences(self) -> None:
        """A whole sequence with a step behind it, which is popped; then the sequence at once, and another by steps."""
        for back in self.acts.back if self.acts.whole is not None else ():
            self.popped = False
            frame, behind = self.forward(push=True, steps=STEPS), self.forward(push=True)
            self.backward(back.single, behind, pop=True)
            if back.whole is not None:
                self.backward(back.whole, frame, pop=True)
                self.popped = False
                frame = self.forward(push=True, steps=STEPS)
            for step in reversed(range(STEPS)):
                self.backward(back.single, frame, pop=True, step=step)
            self.check(self.acts.fixed)

    def forward(self, push: bool = False, steps: int = 1) -> _Frame:
        """A forward call of so many steps, and what must be there after it."""
        act = self.acts.whole if steps > 1 and self.acts.whole is not None else self.acts.forward
        self.now += _CALL
        own = push or self.apart
        self.frames += own
        self.last = _Frame(self.frames if own else 0, steps, self.now)
        self.enter(act, self.last)
        self.give(act.given)
        self.play(act)
        for step in range(steps):
            self.see(act, self.last, step)
            self.check(act.due)
        self.check(self.acts.states)
        return self.last

    def backward(self, act: Act, frame: _Frame, pop: bool = False, step: int = 0, given: Sequence[Due] = ()) -> None:
        """A backward pass through a call, or a step of it, and what must be there after it. `given`: what is there."""
        self.now += _CALL
        self.clocks[BACKWARD] = self.now
        self.popping = pop
        self.enter(act, frame, step)
        self.give(due for due in act.given if due not in given)
        self.play(act)
        self.check(act.due)
        self.popped = self.popped or pop
        self.see(self.acts.forward, self.last, self.last.steps - 1)
        self.check(self.acts.names)
        self.check(self.acts.states)

    def enter(self, act: Act, frame: _Frame, step: int = 0) -> None:
        """Lets a list run in a frame, one for single steps at one of its steps."""
        self.see(act, frame, step)
        if len(act.lists) > 1:
            self.sided = None

    def see(self, act: Act, frame: _Frame, step: int) -> None:
        """Turns to a step of a frame, as a list for single steps sees it."""
        self.act, self.frame, self.step = act, frame, step
        self.clocks[FORWARD] = frame.stamp
        self.sided = self.acts.frame if frame.number else frozenset()

    def play(self, act: Act) -> None:
        """Runs a list, or the three of a whole sequence, whose loop goes back from the last step in a backward pass."""
        if len(act.lists) == 1:
            self.run(act.lists[0], self.popping and self.popped)
            self.hand(act)
            return
        before, loop, after = act.lists
        self.run(before, False)
        self.sided = act.sided
        for self.step in range(STEPS) if act.clock == FORWARD else reversed(range(STEPS)):
            self.run(loop, self.popped or self.step + 1 < STEPS)
            self.hand(act)
        self.sided = None
        self.run(after, False)

    def hand(self, act: Act) -> None:
        """Says what the program has handed to the next step."""
        if act.clock == FORWARD or self.popping:
            self.handed.update(dict.fromkeys(act.handed, self.clocks[act.clock] + self.step))

    # --- lines --------------------------------------------------------------------------------------------------------

    def run(self, lines: Iterable[Line], taking: bool) -> None:
        """Runs lines in order. `taking`: whether the gradient of a state comes from the step after, or is zero."""
        for line in lines:
            looks = line.looks if taking or line.effect != "dstate" else ()
            for look in looks:
                self.look(look.access, look.parts, line.wanted)
            if self.popping or line.effect != "dkeep":
                self.write(line, looks)

    def write(self, line: Line, looks: Sequence[Look]) -> None:
        """Writes the results of a line."""
        written: list[Cell] = []
        for put in line.puts:
            first = put.access.buffer.first
            for _ in self.each(put.access):
                if put.parts is None:
                    pieces = _moved(self.held(looks[0].access), first, line.wanted)
                else:
                    pieces = self.pieces(put.parts, first, line.wanted)
                self.memory.write(self.place(line, put, looks, written), pieces)

    def place(self, line: Line, put: Put, looks: Sequence[Look], written: list[Cell]) -> Cell:
        """The cell that a line writes, which what it overlaps must not stand in the way of."""
        cell, span = self.where(put.access)
        for lost in self.memory.claim(cell, span) if span is not None else ():
            if lost in written:
                raise KnetInternalError(f"{put.access.buffer.name} overlaps another result of its kernel", line.span)
            for look in looks:
                b = look.access.buffer
                other, there = self.where(look.access)
                if other == lost and not (there == span and may_replace(look.read, put.write, b)):
                    raise KnetInternalError(f"{put.access.buffer.name} overwrites {b.name} while it is read", line.span)
        written.append(cell)
        return cell

    def where(self, access: Access) -> tuple[Cell, Span | None]:
        """The cell of a buffer for the columns of the step, and its place where that is in the arena."""
        number, frame = access.number, self.frame.number
        step = self.step if access.batched and (self.sided is None or number in self.sided) else 0
        if frame and number in self.acts.frame:
            return (frame, number, step), None
        if self.plan.arena is None or access.buffer.root.kind not in SHARING:
            return (0, number, step), None
        if number not in self.act.places:
            raise KnetInternalError(f"{access.buffer.name} has no place in the arena")
        return (0, number, step), self.act.places[number]

    def each(self, access: Access) -> Iterable[int]:
        """Turns to each step whose columns are meant, one after the other."""
        return (self.step,) if self.sided is not None or not access.batched else self.all_steps()

    def all_steps(self) -> Iterator[int]:
        """Turns to one step of a whole sequence after the other."""
        for self.step in range(STEPS):
            yield self.step
        self.step = 0

    def look(self, access: Access, parts: Parts | None, wanted: frozenset[int] | None, what: str = "") -> None:
        """What is meant must stand in a buffer, and be computed whenever it is read; None for any value, but whole."""
        for _ in self.each(access):
            held = self.held(access)
            if parts is None:
                right = sum(p.height for p in held) == access.height
            elif len(held) == len(parts) == 1:
                right = self.is_meant(held[0], parts[0])
            else:
                right = len(held) == len(parts) and all(map(self.is_meant, held, parts))
            if not right or not all([p.wanted is None or _serves(p.wanted, wanted) for p in held]):
                self.fail(access, what, held)

    def held(self, access: Access) -> Sequence[Held]:
        """What stands in a buffer."""
        cell, span = self.where(access)
        return self.memory.read(cell, access.buffer.first, access.height, span)

    def is_meant(self, held: Held, part: Part) -> bool:
        """Whether the rows that a buffer holds are those of a value, from the right call and step."""
        return held[1:4] == (part.height, part.value, part.offset) and held.stamp == self.stamp(part)

    def stamp(self, part: Part) -> int:
        """The stamp of the call and step that computed what is meant."""
        if part.clock == HANDED:
            return self.handed.get(part.value, -1)
        return self.clocks[part.clock] + (self.step if part.each else 0)

    def fail(self, access: Access, what: str, held: Sequence[Held]) -> None:
        """Reports a value that is not where it is read."""
        name = access.buffer.name
        instead = ", ".join(p.value for p in held) or "nothing that is whole"
        of = f"{what} is not in {name}" if what and what != name else f"{name} is not there"
        raise KnetInternalError(f"{of} when it is read: there is {instead}, perhaps of another call")

    def pieces(self, parts: Parts, first: int, wanted: frozenset[int] | None) -> list[Held]:
        """Parts of values as they stand in a buffer from a row on."""
        found = []
        for part in parts:
            found.append(Held(first, part.height, part.value, part.offset, self.stamp(part), wanted))
            first += part.height
        return found

    def give(self, dues: Iterable[Due]) -> None:
        """Copies in what a call is given."""
        for due in dues:
            for _ in self.each(due.access):
                cell, span = self.where(due.access)
                if span is not None:
                    self.memory.claim(cell, span)
                self.memory.write(cell, self.pieces(due.parts, due.access.buffer.first, None))

    def check(self, dues: Iterable[Due]) -> None:
        """Looks whether all is there that must be."""
        for due in dues:
            self.look(due.access, due.parts, due.wanted, due.what)


def _moved(held: Sequence[Held], first: int, wanted: frozenset[int] | None) -> list[Held]:
    """What a buffer holds as it stands in another from a row on."""
    return [p._replace(first=p.first - held[0].first + first, wanted=wanted) for p in held]


def _serves(computed: frozenset[int], wanted: frozenset[int] | None) -> bool:
    """Whether what is computed for the gradients of some inputs alone is there whenever others want it."""
    return wanted is not None and wanted <= computed
