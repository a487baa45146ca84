"""Maximum pooling by its winners: the way back needs to know which element of each window won, not the images.

`training` → `training`. The forward program keeps the winner of each window (`winner`), small as the result, and the
backward program hands it the window's gradient (`unpool`): the image before pooling need not be kept. A relu before the
pooling moves behind it, where there is less to do, and so does its gradient; to the bit the same. At `-O2` a bias's
gradient is summed over the windows instead of the images. Comes after `simplify`, before `fuse`; nothing at `-O0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from knetc.ir import uses
from knetc.ir.program import Instr, Program, Variant
from knetc.ir.types import Dims
from knetc.ops.pool import MAX
from knetc.ops.window import pool_window
from knetc.options import Options
from knetc.record import replace


def run(program: Program, options: Options) -> Program:
    """The program with every maximum pooling that is gone back through by its winners."""
    if options.level == 0:
        return program
    return replace(program, variants=tuple(_variant(v, options.level) for v in program.variants))


def _variant(variant: Variant, level: int) -> Variant:
    back = {i.args[2] for b in variant.backward for i in b.body if i.op == "pool_back"}
    pools = [i for i in variant.forward if i.op == "pool" and i.attr("mode") == MAX and i.out in back]
    if not pools:
        return variant
    moved = _movable(variant, pools)
    relus = {relu.out for relu in moved.values()}
    by_name = {p.out: p for p in pools}
    forward = [new for i in variant.forward if i.out not in relus for new in _forward(i, by_name, moved)]
    backward = tuple(replace(b, body=tuple(_backward(b.body, by_name, moved, level))) for b in variant.backward)
    names = tuple((name, value) for name, value in variant.names if value not in relus)
    return replace(variant, forward=tuple(forward), backward=backward, names=names)


# --- a relu before the pooling ----------------------------------------------------------------------------------------


def _movable(variant: Variant, pools: Sequence[Instr]) -> dict[str, Instr]:
    """The relus that can follow the pooling that reads them, since nothing else needs their results; by pooling."""
    relus = {i.out: i for i in variant.forward if i.op == "relu"}
    readers = uses.readers(variant.forward)
    backward = [uses.readers(b.body) for b in variant.backward]
    named = uses.named(variant)
    return {
        p.out: relus[x]
        for p in pools
        for x in p.args
        if x in relus and readers[x] == [p] and x not in named and all(_only_through(r, x, p) for r in backward)
    }


def _only_through(readers: Mapping[str, list[Instr]], x: str, pool: Instr) -> bool:
    """Whether a backward program reads the relu's result x only to go back through the pooling and then the relu."""
    found = readers.get(x, [])
    if not found:
        return True
    if [(i.op, i.args[1:]) for i in found] != [("pool_back", (x, pool.out)), ("relu_back", (x,))]:
        return False
    pool_back, relu_back = found
    return relu_back.args[0] == pool_back.out and readers[pool_back.out] == [relu_back]


# --- the new programs -------------------------------------------------------------------------------------------------


def _winner(pool: str) -> str:
    return f"{pool}@winner"


def _pooled(pool: str) -> str:
    """The pooled value before the relu that has moved behind it."""
    return f"{pool}@pool"


def _forward(instr: Instr, pools: Mapping[str, Instr], moved: Mapping[str, Instr]) -> Iterable[Instr]:
    """An instruction of the forward program; a pooling with its winners, and the relu behind it."""
    if instr.out not in pools:
        return [instr]
    relu = moved.get(instr.out)
    pool = instr if relu is None else replace(instr, out=_pooled(instr.out), args=relu.args)
    winner = Instr(_winner(instr.out), "winner", pool.args, instr.attrs, instr.type, span=instr.span)
    behind = [] if relu is None else [replace(relu, out=instr.out, args=(pool.out,), type=instr.type)]
    return [pool, winner, *behind]


def _backward(
    body: Iterable[Instr], pools: Mapping[str, Instr], moved: Mapping[str, Instr], level: int
) -> Iterable[Instr]:
    """A backward program by the winners."""
    behind: dict[str, Instr] = {}  # pool_backs whose relu goes first, by the gradient that the relu_back reads
    unpools: dict[str, Instr] = {}
    for instr in body:
        pool = pools.get(instr.args[2]) if instr.op == "pool_back" else None
        if pool is not None and pool.out in moved:
            first = Instr(f"d:{_pooled(pool.out)}", "relu_back", (instr.args[0], pool.out), type=pool.type)
            behind[instr.out] = pool
            yield replace(first, span=moved[pool.out].span)
            continue
        if pool is not None:
            instr = _unpool(instr, instr.args[0], pool)
        elif instr.op == "relu_back" and instr.args[0] in behind:
            pool = behind[instr.args[0]]
            instr = _unpool(instr, f"d:{_pooled(pool.out)}", pool)
        elif instr.op == "sumto" and level >= 2 and _sums_windows(instr, unpools.get(instr.args[0])):
            instr = replace(instr, args=(unpools[instr.args[0]].args[0],))
        if instr.op == "unpool":
            unpools[instr.out] = instr
        yield instr


def _unpool(instr: Instr, dy: str, pool: Instr) -> Instr:
    return Instr(instr.out, "unpool", (dy, _winner(pool.out)), pool.attrs, instr.type, span=pool.span)


def _sums_windows(instr: Instr, unpool: Instr | None) -> bool:
    """Whether a sum is over whole images of an `unpool`, each window of which has a winner: then it is over windows."""
    if unpool is None or instr.type is None or unpool.type is None:
        return False
    spatial = len(unpool.type.dims) - 2
    return all(d == 1 for d in instr.type.dims[:spatial]) and _all_have_winners(unpool, unpool.type.dims[:spatial])


def _all_have_winners(unpool: Instr, sizes: Dims) -> bool:
    """Whether no window lies in the padding alone, before the image or behind it."""
    w = pool_window(dict(unpool.attrs), len(sizes))
    for x, size, padding, stride in zip(sizes, w.size, w.padding, w.stride, strict=True):
        assert isinstance(x, int)
        last = -((size - x - 2 * padding) // stride) * stride - padding  # where the last window begins
        if padding >= size or last >= x:
            return False
    return True
