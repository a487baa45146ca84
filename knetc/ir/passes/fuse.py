"""Fusion: elementwise instructions over the same dimensions run as one kernel, perhaps around one with a reach.

`training` → `training`. Gives such instructions one number (`Instr.kernel`) and puts them side by side; it changes no
value. What only its own kernel reads then needs no memory. Comes last, before `ir.plan`; does nothing at `-O0`.

One way through each list, in order: an instruction joins the last kernel over its dimensions where everything that it
reads is computed by then. Earlier kernels that it reads from are moved down into that kernel where nothing in between
needs them (the gates of an LSTM). An operator with a reach (a pooling) begins a kernel; what it alone reads moves into
that kernel and is computed anew for every element in reach. Time is linear in the program's length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from knetc import ops
from knetc.ir import uses
from knetc.ir.epilogues import is_elementwise
from knetc.ir.program import MASK, Instr, Phases, Program, Variant
from knetc.ir.types import Dims
from knetc.options import Options
from knetc.record import replace

# A kernel's members and the arrays that it reads and writes: registers and parameters are few.
MOST_MEMBERS = 64
MOST_ARRAYS = 32
# How much is computed anew for every element that an operator reaches.
MOST_PROLOGUE = 2

Key: TypeAlias = "tuple[Dims, frozenset[int] | None]"
"""What the members of one kernel have in common: their dims, and the input gradients that alone they serve."""


def run(program: Program, options: Options) -> Program:
    """The program with its kernels."""
    if options.level == 0:
        return program
    return replace(program, variants=tuple(_variant(v) for v in program.variants))


def _variant(variant: Variant) -> Variant:
    outside = uses.named(variant) | uses.read_back(variant)
    return replace(
        variant,
        forward=_fused(variant.forward, [None] * len(variant.forward), outside),
        phases=_phases(variant.phases, outside),
        backward=tuple(
            replace(b, body=_fused(b.body, uses.wanted(b.body), {uses.LOSS}), phases=_phases(b.phases, {uses.LOSS}))
            for b in variant.backward
        ),
    )


def _phases(phases: Phases | None, outside: AbstractSet[str]) -> Phases | None:
    """The lists over a sequence fused, each by itself: what another list reads has memory."""
    if phases is None:
        return None
    others = zip(phases.lists, uses.read_by_others(phases.lists), strict=True)
    return Phases(*(_fused(body, [None] * len(body), outside | read) for body, read in others))


def _fused(
    body: Sequence[Instr], wanted: Sequence[frozenset[int] | None], outside: AbstractSet[str]
) -> tuple[Instr, ...]:
    """The instructions of one list in an order in which each kernel's stand together, and with its number.

    `wanted`: for each, the inputs whose gradients alone it serves (`uses.wanted`). `outside`: values that others read.
    """
    fuser = _Fuser(uses.readers(body), outside)
    for instr, need in zip(body, wanted, strict=True):
        fuser.add(instr, (instr.type.dims, need) if instr.type and _can_join(instr) else None)
    return tuple(fuser.result())


def _can_join(instr: Instr) -> bool:
    return is_elementwise(instr) or bool(_reach(instr))


def _reach(instr: Instr) -> str:
    return ops.registry()[instr.op].reach


class _Unit:
    """What runs at one place: a kernel's members, or one instruction that joins none (`key` None).

    `place`: its number in the order. `anchor`: its first operator with a reach. `readers`: the places of the units that
    read a value of it.
    """

    __slots__ = ("anchor", "key", "members", "place", "readers")

    def __init__(self, key: Key | None, place: int) -> None:
        self.key = key
        self.place = place
        self.members: list[Instr] = []
        self.anchor: Instr | None = None
        self.readers: set[int] = set()


class _Fuser:
    """Goes through a list of instructions and puts each into a unit."""

    def __init__(self, readers: Mapping[str, list[Instr]], outside: AbstractSet[str]) -> None:
        self.readers = readers
        self.outside = outside
        self.units: list[_Unit] = []
        self.of: dict[str, _Unit] = {}  # the unit that computes each value
        self.open: dict[Key, _Unit] = {}  # the last kernel of each kind

    def add(self, instr: Instr, key: Key | None) -> None:
        """Takes the next instruction; `key` None: it joins no kernel."""
        unit = self.home(instr, key) if key is not None else None
        if unit is None:
            unit = _Unit(key, len(self.units))
            self.units.append(unit)
            if key is not None:
                self.open[key] = unit
                unit.anchor = instr if _reach(instr) else None
        self.put(instr, unit)
        if key is not None and unit.anchor is None:
            for source in self.sources(instr):
                self.pull_down(source, unit)

    def home(self, instr: Instr, key: Key) -> _Unit | None:
        """The kernel that the instruction can join: the last of its kind, if what it reads is computed by then.

        One with a reach joins only a kernel that reaches over the same values in the same way already.
        """
        ready = max((u.place for u in self.sources(instr)), default=-1)
        unit = self.open.get(key)
        if unit is None or unit.place < ready or not self.has_room(unit, [instr]):
            return None
        if _reach(instr):
            anchor = unit.anchor
            return unit if anchor and uses.way_through(anchor) == uses.way_through(instr) else None
        return unit

    def sources(self, instr: Instr) -> list[_Unit]:
        """The units that compute what the instruction reads."""
        return [self.of[a] for a in dict.fromkeys(instr.args) if a in self.of]

    def has_room(self, unit: _Unit, more: Sequence[Instr]) -> bool:
        """Whether the kernel stays within the limits with `more` members."""
        members = [*unit.members, *more]
        arrays = {name for i in members for name in (i.out, *i.args)}
        return len(members) <= MOST_MEMBERS and len(arrays) <= MOST_ARRAYS

    def put(self, instr: Instr, unit: _Unit) -> None:
        """Makes the instruction a member."""
        for source in self.sources(instr):
            if source is not unit:
                source.readers.add(unit.place)
        unit.members.append(instr)
        if instr.out:
            self.of[instr.out] = unit

    def pull_down(self, source: _Unit, unit: _Unit) -> None:
        """Moves an earlier kernel of the same kind into `unit`, where nothing that runs before `unit` reads of it."""
        if source is unit or source.anchor or source.key != unit.key or min(source.readers) != unit.place:
            return
        if not self.has_room(unit, source.members):
            return
        unit.members[:0] = source.members
        for i in source.members:
            self.of[i.out] = unit
        source.members = []
        unit.readers |= source.readers - {unit.place}  # they keep `unit` from being moved down past them in its turn

    # --- what an operator with a reach alone reads --------------------------------------------------------------------

    def take_prologue(self, unit: _Unit) -> None:
        """Moves what only the reaching members of a kernel read into it, and what only that reads."""
        taken: list[Instr] = []
        waiting = list(unit.anchor.args) if unit.anchor else []
        while waiting and len(taken) < MOST_PROLOGUE:
            name = waiting.pop()
            home = self.of.get(name)
            instr = next((i for i in home.members if i.out == name), None) if home else None
            if home is None or instr is None or not self.serves_alone(instr, unit, taken):
                continue
            if not self.has_room(unit, [instr]):
                continue
            home.members.remove(instr)
            self.of[name] = unit
            unit.members.insert(0, instr)
            taken.append(instr)
            waiting += instr.args

    def serves_alone(self, instr: Instr, unit: _Unit, taken: Sequence[Instr]) -> bool:
        """Whether an elementwise instruction has no readers but reaching members of `unit` and those taken so far.

        A loss's gradient reads what its column counts, which is known at its own element alone.
        """
        if not is_elementwise(instr) or instr.out in self.outside or MASK in instr.args:
            return False
        return all(r in taken or (_reach(r) and self.of.get(r.out) is unit) for r in self.readers.get(instr.out, ()))

    def result(self) -> Iterable[Instr]:
        """The instructions in order, those of each kernel of more than one numbered."""
        for unit in self.units:
            self.take_prologue(unit)
        number = 0
        for unit in self.units:
            number += len(unit.members) > 1
            for i in unit.members:
                yield replace(i, kernel=number) if len(unit.members) > 1 else i
