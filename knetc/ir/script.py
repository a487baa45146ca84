"""What the instructions of a program say that the units of its plan read and write: the lines that `ir.replay` plays.

Here stands what each name means, from the program alone: a value that is computed, or rows of such. `stack`, `rows` and
`copy` compute nothing. A unit's buffers come from the plan; whether they hold what the names mean shows in the replay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from knetc.errors import KnetInternalError, Span
from knetc.ir.accesses import Read, Write, accesses, may_replace
from knetc.ir.plan import Buffer, Kernel, Step, Unit
from knetc.ir.program import Instr
from knetc.ir.types import Type
from knetc.ir.views import height
from knetc.record import Record

# When a value is computed anew: never but by an update; by a forward call; by a backward pass; or one that a step hands
# to the next one, which has the stamp of the step that did.
FIXED, FORWARD, BACKWARD, HANDED = range(4)


class Part(NamedTuple):
    """Rows of a value, from row `offset` on. `each`: whether each step of a sequence has its own."""

    value: str
    offset: int
    height: int
    clock: int
    each: bool


Parts: TypeAlias = "tuple[Part, ...]"
Values: TypeAlias = "dict[str, Parts]"
"""What each name means: parts of values, one above the other."""


def whole(name: str, type: Type | None, clock: int) -> Parts:
    """All rows of a value of its own."""
    if type is None:
        raise KnetInternalError(f"value {name} has no type")
    return (Part(name, 0, _rows(type), clock, type.batched and clock in (FORWARD, BACKWARD)),)


def _rows(type: Type) -> int:
    rows = type.dims[0] if type.dims else 1
    return rows if isinstance(rows, int) else 1


def meanings(body: Iterable[Instr], known: Mapping[str, Parts], clock: int) -> Values:
    """What the names of a list mean, beside those that are known before it."""
    found = dict(known)
    for i in body:
        if i.op == "stack":
            found[i.out] = _joined([p for a in i.args for p in found[a]])
        elif i.op == "rows":
            found[i.out] = cut(found[i.args[0]], int(str(i.attr("first"))), height(i))
        elif i.op == "copy":
            found[i.out] = found[i.args[0]]
        elif i.out:
            found[i.out] = whole(i.out, i.type, FIXED if i.op in ("par", "arr") else clock)
    return found


def cut(parts: Sequence[Part], first: int, rows: int) -> Parts:
    """So many rows from row `first` on."""
    found, at = [], 0
    for p in parts:
        start, end = max(first, at), min(first + rows, at + p.height)
        if start < end:
            found.append(p._replace(offset=p.offset + start - at, height=end - start))
        at += p.height
    return tuple(found)


def _joined(parts: Sequence[Part]) -> Parts:
    found: list[Part] = []
    for p in parts:
        if found and p == found[-1]._replace(offset=found[-1].offset + found[-1].height, height=p.height):
            found[-1] = found[-1]._replace(height=found[-1].height + p.height)
        else:
            found.append(p)
    return tuple(found)


def handed(instr: Instr) -> str:
    """The name of what `keep` and `dkeep` hand to the next step, and `state` and `dstate` take."""
    return held(f"{'d:' if instr.op.startswith('d') else ''}{instr.attr('var')}")


def held(var: str) -> str:
    """The name of what a static variable holds between two steps."""
    return f"{var} from step to step"


class Access(Record):
    """Rows of a buffer; `number`: that of the buffer which has the memory; `batched`: whether each step has its own."""

    buffer: Buffer
    number: int
    height: int
    batched: bool

    def meets(self, other: Access) -> bool:
        """Whether two accesses are about the same rows of one buffer, in part."""
        one, two = self.buffer.first, other.buffer.first
        return self.number == other.number and one < two + other.height and two < one + self.height


class Accesses:
    """The access to each buffer of a plan."""

    def __init__(self) -> None:
        self._numbers: dict[Buffer, int] = {}
        self._found: dict[Buffer, Access] = {}

    def of(self, b: Buffer, parts: Parts | None = None) -> Access:
        """All rows of a buffer. KnetInternalError where they are not as many as those of `parts`, if that is given."""
        found = self._found.get(b)
        if found is None:
            number = self._numbers.setdefault(b.root, len(self._numbers))
            found = self._found[b] = Access(b, number, _rows(b.type), b.type.batched)
        if parts is not None and sum([p.height for p in parts]) != found.height:
            raise KnetInternalError(f"{b.name} has not the rows of {', '.join(p.value for p in parts)}")
        return found


class Look(Record):
    """What a line reads, and what must stand there; None for what is only copied, whatever it is."""

    access: Access
    parts: Parts | None
    read: Read


class Put(Record):
    """What a line writes, and what stands there then; None for a copy of what the line reads."""

    access: Access
    parts: Parts | None
    write: Write


class Line(Record):
    """A unit. `effect`: `dstate` or `dkeep` for one of those, which do nothing but in a sequence, else empty."""

    looks: tuple[Look, ...]
    puts: tuple[Put, ...]
    wanted: frozenset[int] | None
    effect: str
    span: Span | None


class Script:
    """Writes the lines of lists of one body of instructions."""

    def __init__(self, body: Sequence[Instr], values: Values, clock: int, accesses: Accesses) -> None:
        self.values = values
        self.clock = clock
        self.accesses = accesses
        self.made = {i.out: i for i in body if i.out}
        self.effects = {(i.op, i.args, i.attrs) for i in body if not i.out}

    def lines(self, units: Iterable[Unit]) -> tuple[Line, ...]:
        """The lines of a list. KnetInternalError for a step that is not in the program, or not about its values."""
        return tuple(self._line(u) for u in units)

    def _line(self, unit: Unit) -> Line:
        steps = unit.steps if isinstance(unit, Kernel) else (unit,)
        copies = {s.out for s in steps if not self._is_of_program(s)}
        reads, writes = accesses(unit)
        made: dict[Buffer, Step] = {}
        meant: dict[tuple[Buffer, Parts | None], None] = {}
        for s in steps:
            for a, parts in zip(s.args, self._read(s) if s.out not in copies else (None,), strict=True):
                if a not in made:
                    meant[a, parts] = None
                elif made[a] is not s and self._written(made[a]) != parts:
                    raise KnetInternalError(f"{s.instr.out} reads {a.name}, which is another value", s.instr.span)
            made[s.out] = s
        # Where a prologue is left out since nothing reads it, neither is what it would read.
        looks = [Look(self.accesses.of(a, p), p, reads[a]) for a, p in meant if a in reads]
        of = {s.out: s for s in steps}
        puts = []
        for w in writes:
            parts = None if w.out in copies else self._written(of[w.out])
            puts.append(Put(self.accesses.of(w.out, parts), parts, w))
        _check_rows(looks, puts, steps[0])
        effect = steps[0].instr.op if steps[0].instr.op in ("dstate", "dkeep") else ""
        return Line(tuple(looks), tuple(puts), unit.wanted, effect, steps[0].instr.span)

    def _is_of_program(self, step: Step) -> bool:
        """Whether a step is an instruction of the program, of its type, and not a copy that the plan adds."""
        i = step.instr
        known = self.made.get(i.out)
        same = known is not None and (known.op, known.args, known.attrs) == (i.op, i.args, i.attrs)
        if not i.out:
            same = (i.op, i.args, i.attrs) in self.effects
        if not same and (i.op != "copy" or step.args[0].type.dims != step.out.type.dims):
            raise KnetInternalError(f"{i.out or i.op} is not a step of the program", i.span)
        if same and known is not None and known.type != step.out.type:
            raise KnetInternalError(f"{i.out} of type {known.type} would stand in {step.out.type}", i.span)
        return same

    def _read(self, step: Step) -> Sequence[Parts]:
        """What an instruction reads, by the program."""
        i = step.instr
        if i.op in ("state", "dstate"):
            return [whole(handed(i), i.type, HANDED)]
        return [self.values[a] for a in i.args]

    def _written(self, step: Step) -> Parts:
        """What an instruction writes, by the program."""
        i = step.instr
        if i.op in ("keep", "dkeep"):
            return whole(handed(i), step.out.type, self.clock)
        return self.values[i.out]


def _check_rows(looks: Sequence[Look], puts: Sequence[Put], step: Step) -> None:
    """Rows that a unit reads, and writes too, must be read for the last time where they are written."""
    for look in looks:
        for put in puts:
            if look.access.meets(put.access) and not may_replace(look.read, put.write, look.access.buffer):
                b = look.access.buffer
                raise KnetInternalError(f"{b.name} is overwritten while it is read", step.instr.span)
