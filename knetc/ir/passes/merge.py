"""Merging of matrix products: several that share an operand become one over a block.

`training` → `training`. `a·x`, `b·x` become rows of `stack(a,b)·x` (the gates of an LSTM, from the input and from the
state); on the way back the gradients of the results are stacked too, so that the weights' gradients are one product,
what flows into x another, and the biases' gradients one sum. A parameter stands in one block at most, and keeps its
name. Changes the order of sums, so at `-O2` alone. Comes after `winners`, before `fuse`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from knetc.ir import uses
from knetc.ir.program import Instr, Program, Variant, make_attrs
from knetc.ir.types import BatchDim, Type
from knetc.options import Options
from knetc.record import replace

Parts = tuple[str, ...]


def run(program: Program, options: Options) -> Program:
    """The program with its products merged."""
    if options.level < 2:
        return program
    blocks: dict[str, Parts] = {}  # the block that each parameter stands in
    return replace(program, variants=tuple(_variant(v, blocks) for v in program.variants))


def _variant(variant: Variant, blocks: dict[str, Parts]) -> Variant:
    """The variant merged, `blocks` with what its parameters stand in.

    One product can be computed from another with the same right operand, as in w2 = w·w, w2·w. That shows when the
    list that comes of it cannot be put in order; then only what nothing can be computed from in between is merged.
    """
    for careful in (False, True):
        taken = dict(blocks)
        merged = _merged(variant, taken, careful)
        if merged is not None:
            blocks.update(taken)
            return merged
    return variant


def _merged(variant: Variant, blocks: dict[str, Parts], careful: bool) -> Variant | None:
    """The same, None where a list of it has no order."""
    forward = _Merger(variant.forward, blocks, careful)
    for group in forward.sharing_right(tb=False):
        forward.merge_products(group)
    if not forward.changed:
        return variant
    body = forward.result()
    if body is None:
        return None
    backward = []
    for b in variant.backward:
        merger = _Merger(b.body, blocks, careful, forward)
        merger.merge_ways_back()
        found = merger.result()
        if found is None:
            return None
        backward.append(replace(b, body=found))
    return uses.without_unused(replace(variant, forward=body, backward=tuple(backward)))


class _Merger:
    """Merges within one list of instructions. `outer`: what was done to the forward list, for a backward one;
    `careful`: leaves alone what might make the list one that cannot be put in order.
    """

    def __init__(
        self, body: Sequence[Instr], blocks: dict[str, Parts], careful: bool, outer: _Merger | None = None
    ) -> None:
        self.body = body
        self.blocks = blocks
        self.careful = careful
        self.changed = False
        self.new: dict[str, list[Instr]] = {}  # what takes the place of each instruction, by its result
        self.ahead: dict[str, list[Instr]] = {}  # what is put before it, whether or not it is replaced
        self.stands: dict[str, str] = {}  # sums that one product has made superfluous, with what stands for them
        self.made: dict[str, Instr] = {} if outer is None else dict(outer.made)
        self.made |= {i.out: i for i in body if i.out}
        # Where a value is rows of a block: the block, its first row, how many.
        self.rows: dict[str, tuple[str, int, int]] = {} if outer is None else dict(outer.rows)
        self.parts: dict[str, Parts] = {} if outer is None else dict(outer.parts)  # of each block
        self.stacks: dict[Parts, str] = {} if outer is None else dict(outer.stacks)
        self.readers = uses.readers(body)
        self.places = {i.out: k for k, i in enumerate(body) if i.out}

    def result(self) -> tuple[Instr, ...] | None:
        """The list with what was merged, in an order in which every value is computed before it is read, if any."""
        if not self.changed:
            return tuple(self.body)
        found = []
        for instr in self.body:
            if instr.out in self.stands:
                continue
            after = self.new.get(instr.out, [instr]) if instr.out else [instr]
            for i in [*self.ahead.get(instr.out, []), *after]:
                found.append(replace(i, args=tuple([self.standing(a) for a in i.args])))
        return uses.in_order(found)

    def standing(self, value: str) -> str:
        """What stands for a value now."""
        while value in self.stands:
            value = self.stands[value]
        return value

    # --- products that share their right operand ----------------------------------------------------------------------

    def sharing_right(self, tb: bool) -> Iterable[list[Instr]]:
        """The products a·b (or a·b') with the same b, those of two or more, in order."""
        groups: dict[str, list[Instr]] = {}
        for i in self.body:
            if i.op == "dot" and not i.attr("ta") and i.attr("tb") is tb and self.is_matrix(i.args[0]):
                groups.setdefault(i.args[1], []).append(i)
        found = [g for g in groups.values() if len({i.args[0] for i in g}) == len(g) > 1]
        return [g for g in found if not self.careful or self.is_apart(g)]

    def is_apart(self, group: Sequence[Instr]) -> bool:
        """Whether no product of a group can be computed from another: parameters are multiplied, or none is read."""
        read = any(self.readers.get(i.out) for i in group)
        return not read or all(i.args[0] in self.made and self.made[i.args[0]].op == "par" for i in group)

    def is_matrix(self, value: str) -> bool:
        """Whether a value has two dimensions, of which the first is not the batch."""
        of = self.type(value)
        return of is not None and len(of.dims) == 2 and not isinstance(of.dims[0], BatchDim)

    def type(self, value: str) -> Type | None:
        """The type of a value of this list or of the forward one; None for an input or gold."""
        instr = self.made.get(value)
        return instr.type if instr else None

    def merge_products(self, group: Sequence[Instr]) -> None:
        """Replaces products that share their right operand by rows of one, where their left operands can be a block."""
        block = self.block_of([i.args[0] for i in group], group[0])
        if block is None or any(i.type is None or len(i.type.dims) != 2 for i in group):
            return
        self.split(group, replace(group[0], out=self.fresh(f"{group[0].out}@block"), args=(block, group[0].args[1])))

    def split(self, group: Sequence[Instr], whole: Instr) -> None:
        """Puts one instruction in the place of several whose results, one above the other, are its result."""
        heights = [_rows(i.type) for i in group]
        of = group[0].type
        assert of is not None
        whole = replace(whole, type=Type(of.dtype, (sum(heights), *of.dims[1:])))
        self.made[whole.out] = whole
        self.parts[whole.out] = tuple(i.out for i in group)
        self.stacks[self.parts[whole.out]] = whole.out
        first = 0
        for k, (i, height) in enumerate(zip(group, heights, strict=True)):
            part = self.cut(i, whole.out, first, height)
            self.new[i.out] = [whole, part] if k == 0 else [part]
            first += height
        self.changed = True

    def cut(self, instr: Instr, block: str, first: int, count: int) -> Instr:
        """The instruction that gives a value of `instr`'s name from a block."""
        self.rows[instr.out] = (block, first, count)
        return Instr(instr.out, "rows", (block,), make_attrs(first=first, count=count), instr.type, span=instr.span)

    # --- blocks -------------------------------------------------------------------------------------------------------

    def block_of(self, parts: Sequence[str], at: Instr) -> str | None:
        """The block of these values, made before `at` where it is new; None where they cannot be one."""
        key = tuple(parts)
        if key in self.stacks:
            return self.stacks[key]
        if all(p in self.rows for p in parts):
            return self.same_block(parts, at)
        if any(p in self.rows for p in parts) or not all(self.is_matrix(p) for p in parts):
            return None
        types = [self.type(p) for p in parts]
        if len({t.dims[1:] for t in types if t}) != 1:
            return None
        if any(self.made[p].op == "par" for p in parts) and not self.take(key):
            return None
        return self.stack(key, at)

    def take(self, key: Parts) -> bool:
        """Whether parameters can stand in this block: none stands in another, and they are parameters all."""
        if any(self.made[p].op != "par" or self.blocks.get(p, key) != key for p in key):
            return False
        self.blocks.update(dict.fromkeys(key, key))
        return True

    def same_block(self, parts: Sequence[str], at: Instr) -> str | None:
        """The block of which these values are all the rows or some that follow each other."""
        block, first, _ = self.rows[parts[0]]
        reached = first
        for p in parts:
            if self.rows[p][0] != block or self.rows[p][1] != reached:
                return None
            reached += self.rows[p][2]
        of = self.type(block)
        assert of is not None
        if (first, reached) == (0, of.dims[0]):
            return block
        rows = Type(of.dtype, (reached - first, *of.dims[1:]))
        some = Instr(self.fresh(f"{at.out}@part"), "rows", type=rows, span=at.span)
        self.before(at, self.cut(some, block, first, reached - first))
        self.stacks[tuple(parts)] = some.out
        return some.out

    def stack(self, key: Parts, at: Instr) -> str:
        """A new block of values that are in none."""
        types = [t for p in key if (t := self.type(p)) is not None]
        of = Type(types[0].dtype, (sum(_rows(t) for t in types), *types[0].dims[1:]))
        block = Instr(self.fresh(f"{key[0]}@block"), "stack", key, type=of, span=at.span)
        self.before(at, block)
        self.stacks[key] = block.out
        self.parts[block.out] = key
        first = 0
        for p, t in zip(key, types, strict=True):
            self.rows[p] = (block.out, first, _rows(t))
            first += _rows(t)
        return block.out

    def fresh(self, name: str) -> str:
        """The name, or with a number where it is taken: a value can be the result of one merged product and the first
        part of a block too.
        """
        found, number = name, 1
        while found in self.made:
            number += 1
            found = f"{name}#{number}"
        return found

    def before(self, at: Instr, instr: Instr) -> None:
        """Puts an instruction before another."""
        self.made[instr.out] = instr
        self.ahead.setdefault(at.out, []).append(instr)
        self.changed = True

    # --- the way back -------------------------------------------------------------------------------------------------

    def merge_ways_back(self) -> None:
        """Merges what a backward list does with the blocks of the forward list, and with those that it makes itself."""
        sums = list(self.sharing_block())
        # The order of the forward block is that of the gradients too, whichever product meets them first.
        orders = {frozenset(i.args[1] for i in g): [i.args[1] for i in g] for g in sums}
        for group in sorted([*sums, *self.sharing_right(tb=True)], key=lambda g: (self.place(g), -len(g))):
            if group[0].attr("ta"):
                self.merge_sum(group)
            else:
                self.merge_products(self.ordered(group, orders))
        for parts in [p for b, p in self.parts.items() if self.made[b].op in ("stack", "dot")]:
            self.merge_sums_of_rows(parts)

    def ordered(self, group: list[Instr], orders: Mapping[frozenset[str], list[str]]) -> list[Instr]:
        """The products of a group in the order in which their left operands stand, or shall stand, in a block."""
        lefts = {i.args[0] for i in group}
        order = orders.get(frozenset(lefts))
        if order is None and lefts <= self.rows.keys():
            order = sorted(lefts, key=lambda left: self.rows[left])
        return group if order is None else sorted(group, key=lambda i: order.index(i.args[0]))

    def place(self, group: Sequence[Instr]) -> int:
        """Where the first of a group stands."""
        return min(self.places[i.out] for i in group)

    def sharing_block(self) -> Iterable[list[Instr]]:
        """The products a'·dy whose left operands are all the parts of one block, in the block's order."""
        by_left: dict[str, list[Instr]] = {}
        for i in self.body:
            if i.op == "dot" and i.attr("ta") and not i.attr("tb"):
                by_left.setdefault(i.args[0], []).append(i)
        groups = [[i for p in parts for i in by_left.get(p, [])] for parts in self.parts.values()]
        sizes = [len(parts) for parts in self.parts.values()]
        return [g for g, size in zip(groups, sizes, strict=True) if size == len({i.args[0] for i in g}) == len(g) > 1]

    def merge_sum(self, group: Sequence[Instr]) -> None:
        """Replaces a1'·dy1 + a2'·dy2 + … by one product of the blocks.

        The results of one product can be parts of a larger block too; then both groups have those terms, and the
        first takes them.
        """
        if any(i.out in self.new for i in group):
            return
        terms = sorted(group, key=lambda i: self.places[i.out])
        adds = self.adds_of([i.out for i in terms])
        if adds is None:
            return
        left = self.block_of([i.args[0] for i in group], terms[0])
        right = self.block_of([i.args[1] for i in group], terms[0])
        if left is None or right is None:
            return
        # The product stands where the first term stood, and the additions of the others fall away.
        first, *others = terms
        self.new[first.out] = [replace(first, args=(left, right))]
        for i, add in zip(others, adds[1:], strict=True):
            self.new[i.out] = []
            self.stands[add.out] = next(a for a in add.args if a != i.out)
        self.changed = True

    def adds_of(self, values: Sequence[str]) -> list[Instr] | None:
        """The additions, one for each value in order, that sum them and nothing else reads before all are summed."""
        found = []
        for value in values:
            add = self.only_add(value)
            if add is None or add.type != self.type(value):
                return None
            found.append(add)
        chain: set[str] = set()
        last: str | None = values[0]
        while last is not None:
            add = self.only_add(last)
            last = add.out if add else None
            chain.add(last or "")
        apart = len({add.out for add in found[1:]}) == len(found) - 1
        return found if apart and all(add.out in chain for add in found) else None

    def only_add(self, value: str) -> Instr | None:
        """The addition that alone reads a value, and once: not x + x."""
        readers = self.readers.get(value, [])
        once = len(readers) == 1 and readers[0].op == "add" and readers[0].args.count(value) == 1
        return readers[0] if once else None

    def merge_sums_of_rows(self, parts: Parts) -> None:
        """Replaces the sums over the batch of all parts of a block by rows of one sum."""
        if len(set(parts)) < len(parts):  # a value that stands in it twice has one sum
            return
        sums = []
        for p in parts:
            mine = [i for i in self.readers.get(p, []) if i.op == "sumto" and i.out not in self.new]
            height = self.rows[p][2]
            mine = [i for i in mine if i.type and i.type.dims[0] == height and all(d == 1 for d in i.type.dims[1:])]
            if len(mine) != 1:
                return
            sums += mine
        if len({len(i.type.dims) for i in sums if i.type}) == 1:
            self.split(sums, replace(sums[0], out=self.fresh(f"{sums[0].out}@block"), args=(self.stacks[parts],)))


def _rows(of: Type | None) -> int:
    assert of is not None and isinstance(of.dims[0], int)
    return of.dims[0]
