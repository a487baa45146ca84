"""Products of matrices in the best order: `a·(b·x)` is `(a·b)·x` where that is less work.

`typed` → `typed`, before `gradient`, so that the gradients follow. `a·b` of parameters alone costs the same however
many columns x has, and is computed once for a whole sequence. Changes the order of sums, so at `-O2` alone. A value
that is no longer computed (`b·x`) can no longer be read by its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from knetc.ir import uses
from knetc.ir.program import Instr, Program, Variant
from knetc.ir.types import Type
from knetc.options import Options
from knetc.record import replace

# The batch size is not known here. What is less work for this many columns is taken for better.
TYPICAL_COLUMNS = 128


def run(program: Program, options: Options) -> Program:
    """The program with its chains of products in the best order."""
    if options.level < 2:
        return program
    return replace(program, variants=tuple(_variant(v) for v in program.variants))


def _variant(variant: Variant) -> Variant:
    chains = _Chains(variant)
    # In order: a product that was formed anew may be the inner one of the next.
    for instr in variant.forward:
        if _is_product(instr):
            chains.without(chains.made[instr.out])
    if not chains.gone:
        return variant
    names = tuple((name, value) for name, value in variant.names if value not in chains.gone)
    return replace(variant, forward=tuple(chains.body()), names=names)


def _is_product(instr: Instr) -> bool:
    return instr.op == "dot" and not instr.attr("ta") and not instr.attr("tb")


class _Chains:
    """The products of a variant. `made`: what computes each value now; `formed`: the products of parameters that come
    before it; `gone`: values that are no longer computed.
    """

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.made = {i.out: i for i in variant.forward}
        self.readers = uses.readers(variant.forward)
        self.formed: dict[str, Instr] = {}
        self.gone: set[str] = set()

    def body(self) -> Iterator[Instr]:
        """The new list of instructions."""
        for instr in self.variant.forward:
            if instr.out in self.formed:
                yield self.formed[instr.out]
            if instr.out not in self.gone:
                yield self.made[instr.out] if instr.out else instr

    def without(self, inner: Instr) -> None:
        """Replaces each a·inner, inner = b·x, by (a·b)·x where that can be and pays."""
        b, x = inner.args
        outer = [self.made[i.out] if i.out else i for i in self.readers.get(inner.out, ())]
        if not outer or inner.out == self.variant.result or not self._fixed(b) or self._fixed(inner.out):
            return
        if not all(_is_product(o) and o.args[1] == inner.out and self._fixed(o.args[0]) for o in outer):
            return
        if not _pays(self._type(b), [self._type(o.args[0]) for o in outer]):
            return
        for o in outer:
            self.formed[o.out] = product = self._product(o, inner)
            self.made[product.out] = product
            self.made[o.out] = replace(o, args=(product.out, x))
        self.gone.add(inner.out)

    def _fixed(self, name: str) -> bool:
        """Whether a value is the same for every column and the batch is not in it."""
        return name in self.made and not self._type(name).batched

    def _type(self, name: str) -> Type:
        found = self.made[name].type
        assert found is not None
        return found

    def _product(self, outer: Instr, inner: Instr) -> Instr:
        """a·b for an outer product a·(b·x)."""
        a, b = self._type(outer.args[0]), self._type(inner.args[0])
        of = Type(a.dtype, (_sizes(a)[0], _sizes(b)[1]))
        return replace(outer, out=f"{outer.out}@product", args=(outer.args[0], inner.args[0]), type=of)


def _pays(b: Type, outer: Sequence[Type]) -> bool:
    """Whether the products in the new order take fewer multiplications for the typical number of columns."""
    k, j = _sizes(b)
    before, after = k * j * TYPICAL_COLUMNS, 0
    for a in outer:
        m, _ = _sizes(a)
        before += m * k * TYPICAL_COLUMNS
        after += m * k * j + m * j * TYPICAL_COLUMNS
    return after < before


def _sizes(matrix: Type) -> tuple[int, int]:
    """Rows and columns of an array without the batch, as an operand of `dot`."""
    sizes = [d for d in matrix.dims if isinstance(d, int)]
    return (math.prod(sizes[:-1]), sizes[-1]) if len(sizes) > 1 else (sizes[0], 1)
