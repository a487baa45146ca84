"""Epilogues: a bias, a relu or a bias's gradient is computed by the call of the matrix product that it belongs to, and
a loss by the kernel of its gradient.

`training` → `training`, from `-O2` on. After `fuse`, which has made kernels: where all that a kernel does can be the
epilogue of the product that it reads (`ir.epilogues`), the product joins it, and the kernel and a pass over memory are
saved. Where a kernel does more it runs anyway, and reads the product anyway, so the product stays alone. The sum over
the columns of a gradient, a bias's, joins the product that reads the same gradient, the weights'. A loss joins the
kernel that goes through the same prediction and the same desired output, and saves a pass over both.

The library's call may round otherwise than the product alone would, which is why this is not for `-O1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from operator import attrgetter

from knetc.ir import uses
from knetc.ir.epilogues import BIAS_GRADIENT, fits, fits_loss, form, is_elementwise, is_loss, is_product, split
from knetc.ir.program import GOLD, MASK, Instr, Phases, Program, Variant
from knetc.ir.types import Type
from knetc.options import Options
from knetc.record import Record, replace


def run(program: Program, options: Options) -> Program:
    """The program with its epilogues."""
    if options.level < 2:
        return program
    return replace(program, variants=tuple(_variant(program, v) for v in program.variants))


class Reasons(Record):
    """Why products that a bias or a relu follows have no epilogue, by name: in a list, and in its lists over a whole
    sequence, where it has such.
    """

    single: Mapping[str, str]
    whole: Mapping[str, str]


def reasons(program: Program, variant: Variant) -> list[Reasons]:
    """The reasons of the forward and of each backward list."""
    types = _types(program, variant)
    phases = [variant.phases, *(b.phases for b in variant.backward)]
    outside = [_outside(variant), *({uses.LOSS} for _ in variant.backward)]
    whole = [_phase_lists(p, read, types) for p, read in zip(phases, outside, strict=True)]
    return [Reasons(_why([one]), _why(all_)) for one, all_ in zip(_lists(variant, types), whole, strict=True)]


def _why(joiners: Iterable[_Joiner]) -> dict[str, str]:
    found: dict[str, str] = {}
    for joiner in joiners:
        for _ in joiner.result():
            pass
        found |= joiner.reasons
    return found


def _outside(variant: Variant) -> set[str]:
    """The forward values that others than the forward list read."""
    return uses.named(variant) | uses.read_back(variant)


def _variant(program: Program, variant: Variant) -> Variant:
    types = _types(program, variant)
    forward, *backward = (tuple(joiner.result()) for joiner in _lists(variant, types))
    return replace(
        variant,
        forward=forward,
        phases=_phases(variant.phases, _outside(variant), types),
        backward=tuple(
            replace(b, body=body, phases=_phases(b.phases, {uses.LOSS}, types))
            for b, body in zip(variant.backward, backward, strict=True)
        ),
    )


def _lists(variant: Variant, types: Mapping[str, Type | None]) -> Iterator[_Joiner]:
    """The forward list and each backward list."""
    yield _Joiner(variant.forward, [None] * len(variant.forward), _outside(variant), types)
    for b in variant.backward:
        yield _Joiner(b.body, uses.wanted(b.body), {uses.LOSS}, {**types, **_made(b.body)})


def _phases(phases: Phases | None, outside: AbstractSet[str], types: Mapping[str, Type | None]) -> Phases | None:
    """The lists over a sequence with their epilogues."""
    return phases and Phases(*(tuple(joiner.result()) for joiner in _phase_lists(phases, outside, types)))


def _phase_lists(
    phases: Phases | None, outside: AbstractSet[str], types: Mapping[str, Type | None]
) -> Iterator[_Joiner]:
    """The lists over a sequence, each by itself: what another list reads has memory."""
    lists = phases.lists if phases is not None else ()
    known = {**types, **_made(i for body in lists for i in body)}
    for body, read in zip(lists, uses.read_by_others(lists), strict=True):
        yield _Joiner(body, [None] * len(body), outside | read, known)


def _types(program: Program, variant: Variant) -> dict[str, Type | None]:
    """The types of what every list can read: the inputs, what is computed forward, and what a loss is given."""
    inputs = {i.name: Type(program.dtype, tuple(d for d in i.dims or () if d is not None)) for i in program.inputs}
    types = {**inputs, **_made(variant.forward)}
    return {**types, GOLD: types.get(variant.result or ""), MASK: None}


def _made(body: Iterable[Instr]) -> dict[str, Type | None]:
    return {i.out: i.type for i in body}


class _Joiner:
    """One list: its units, which are kernels or single instructions, and what becomes of them.

    `wanted`: for each instruction the inputs whose gradients alone it serves; `outside`: values that others read.
    """

    def __init__(
        self,
        body: Sequence[Instr],
        wanted: Sequence[frozenset[int] | None],
        outside: AbstractSet[str],
        types: Mapping[str, Type | None],
    ) -> None:
        self.units = [unit for k, group in groupby(body, key=attrgetter("kernel")) for unit in _units(k, list(group))]
        self.at = {i.out: k for k, unit in enumerate(self.units) for i in unit if i.out}
        self.readers = uses.readers(body)
        self.places = {id(i): k for k, unit in enumerate(self.units) for i in unit}
        self.wanted = {i.out: need for i, need in zip(body, wanted, strict=True)}
        self.outside = outside
        self.types = types
        self.reasons: dict[str, str] = {}

    def result(self) -> Iterator[Instr]:
        """The instructions in order, those of each kernel of more than one numbered."""
        for k, unit in enumerate(self.units):
            if len(unit) == 1 and is_loss(unit[0]):
                self.join_loss(k)
            elif form(unit) == (BIAS_GRADIENT,):
                self.join_gradient(k)
            elif any(form(unit)) and split(unit)[0] is None:
                self.join_value(k)
        number = 0
        for unit in self.units:
            number += len(unit) > 1
            yield from (replace(i, kernel=number if len(unit) > 1 else 0) for i in unit)

    def join_value(self, k: int) -> None:
        """Moves the product that a kernel reads first into the kernel, if that is the product's epilogue."""
        unit = self.units[k]
        for name in unit[0].args:
            product = self.product(name)
            if product is None:
                continue
            why = fits(product, unit, self.types) or self.needed_elsewhere([product, *unit])
            if not why:
                self.put([product, *unit], k)
                return
            self.reasons[name] = why

    def product(self, name: str) -> Instr | None:
        """The product that computes a value and stands alone, if one does."""
        unit = self.units[self.at[name]] if name in self.at else []
        return unit[0] if len(unit) == 1 and is_product(unit[0]) else None

    def needed_elsewhere(self, chain: Sequence[Instr]) -> str:
        """Why a chain of instructions cannot be one call: a value between them is read by others."""
        for i, reader in zip(chain, chain[1:], strict=False):
            if i.out in self.outside or any(r is not reader for r in self.readers[i.out]):
                return "its value is read elsewhere too" if i is chain[0] else f"{i.out} is read elsewhere too"
        return ""

    def join_gradient(self, k: int) -> None:
        """Lets a sum over the columns of a gradient and the product that reads the gradient first run together."""
        (total,) = self.units[k]
        for reader in self.readers[total.args[0]]:
            product = self.product(reader.out) if reader.out else None
            if product is None or product.args[0] != total.args[0] or not product.attr("tb"):
                continue
            why = fits(product, [total], self.types)
            if not why and self.wanted[total.out] != self.wanted[product.out]:
                why = "one of the two is for the gradient of an input alone"
            place = self.meeting(k, self.at[product.out])
            if not why and place is not None:
                first, last = sorted((k, self.at[product.out]))
                self.put([*self.units[first], *self.units[last]], place)
                return
            self.reasons[product.out] = why or "a value is needed between it and the sum of the columns"

    def join_loss(self, k: int) -> None:
        """Lets a loss, which reads nothing of its own list, run in the kernel of its gradient."""
        (loss,) = self.units[k]
        for reader in self.readers[loss.args[0]]:
            place = self.places[id(reader)]
            unit = self.units[place]
            elementwise = all(is_elementwise(i) for i in unit)
            if place != k and elementwise and self.wanted[reader.out] is None and fits_loss(loss, unit):
                self.put([loss, *unit], place)
                return

    def meeting(self, one: int, other: int) -> int | None:
        """Where two units of one instruction can run together: at the later place, else at the earlier, else None."""
        first, last = sorted((one, other))
        (early,), (late,) = self.units[first], self.units[last]
        if all(self.places[id(r)] >= last for r in self.readers.get(early.out, ())):
            return last
        return first if all(self.at.get(a, -1) < first for a in late.args) else None

    def put(self, members: list[Instr], place: int) -> None:
        """Makes the instructions one unit at a place, where they are not yet."""
        for i in members:
            self.units[self.places[id(i)]] = []
        self.units[place] = members
        for i in members:
            self.places[id(i)] = self.at[i.out] = place


def _units(kernel: int, members: list[Instr]) -> list[list[Instr]]:
    return [members] if kernel else [[i] for i in members]
