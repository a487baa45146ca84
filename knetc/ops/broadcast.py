"""Broadcasting sum and product, and the reduction that their gradients need.

Missing trailing dimensions and dimensions of 1 expand, in Knet's order of dimensions: `(10,)` goes with `(10,N)`, and
`(1,1,20,1)` with `(24,24,20,N)`. The batch expands only from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from knetc.ir.types import Dim, N, Partial, PartialDims, show_dims
from knetc.lazy import np
from knetc.ops.base import (
    AttrMap,
    Direct,
    Elementwise,
    EvalContext,
    GradientBuilder,
    Kernel,
    OpDef,
    ShapeMismatch,
    register,
)
from knetc.ops.shapes import batch_last, join, join_dims

if TYPE_CHECKING:
    from knetc.ir.program import Instr
    from knetc.ops.base import Shapes, Statements, Tensor

# --- shapes -----------------------------------------------------------------------------------------------------------


def _open_operand(p: Partial, other: Partial, out: Partial, assume: bool) -> Partial:
    """An operand whose number of dimensions is open, settled from its neighbours where that is possible.

    A vector lies along the rows of a matrix and along the channels of a 4-D or 5-D array. Any other open operand takes
    the result's shape, or the other's where that is open, but only under `assume`: it may still come from elsewhere.
    """
    if p.dims is not None:
        return p
    if not p.vector:
        return _like_neighbours(p, other, out) if assume else p
    shape = other.dims if other.dims is not None else out.dims
    if shape is None:
        return p
    rank = len(shape)
    axis = rank - 2 if rank >= 4 else 0
    size = shape[axis]
    if size is None and out.dims is not None and len(out.dims) == rank:
        size = out.dims[axis]
    if size is None and not assume:
        return p
    return Partial((*(1,) * axis, size, *(1,) * (rank - axis - 1)) if rank >= 4 else (size,))


def _like_neighbours(p: Partial, other: Partial, out: Partial) -> Partial:
    """The shape of the result, or of the other operand where that is not known."""
    if out.dims is None:
        return Partial(other.dims) if other.dims is not None else p
    rank = len(out.dims)
    known = (None,) * rank if other.dims is None else _expanded(other.dims, rank)
    return Partial(tuple(o if o is not None else k for o, k in zip(out.dims, known, strict=False)))


def _batched_result(operand: Partial, out: Partial) -> Partial:
    """The result where the other operand is open: the batch, which is last in both, gives its number of dimensions."""
    if operand.dims is None or N not in operand.dims:
        return out
    found = tuple(None if d == 1 else d for d in operand.dims)
    message = f"{show_dims(operand.dims)} gives a batch in dimension {len(found)}, its use needs {show_dims(out.dims)}"
    return Partial(join_dims(found, out.dims, message, [-1]))


def _join_axis(a: Dim | None, b: Dim | None, out: Dim | None, assume: bool, message: str) -> tuple[Dim | None, ...]:
    """One dimension of both operands and of the result, with what follows for each."""
    if a is not None and b is not None:
        wide = b if a == 1 else a if b == 1 else join(a, b, message, [0, 1])
        wider = f"{message}; the result would be {wide!r}, its use needs {out!r}"
        return a, b, join(wide, out, wider, [0, 1, -1])
    if a is None and b is None:
        return (1, 1, out) if out == 1 else (out, out, out) if assume else (a, b, out)
    known = b if a is None else a
    if known == 1:
        out = 1 if out is None and assume else out
        other = out
    else:
        out = join(known, out, f"{message}; its use needs {out!r}", [1 if a is None else 0, -1])
        other = known if assume else None
    return (other, b, out) if a is None else (a, other, out)


def broadcast_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """Two-way rule of an elementwise operator of two operands that expand."""
    a = _open_operand(args[0], args[1], out, assume)
    b = _open_operand(args[1], a, out, assume)
    if a.dims is None or b.dims is None:
        return (a, b), _batched_result(b if a.dims is None else a, out)
    rank = max(len(a.dims), len(b.dims))
    if out.dims is not None and len(out.dims) != rank:
        text = (
            f"{show_dims(a.dims)} and {show_dims(b.dims)} give {rank} dimensions, its use needs {show_dims(out.dims)}"
        )
        raise ShapeMismatch(text, [0, 1, -1])
    columns = (_expanded(a.dims, rank), _expanded(b.dims, rank), out.dims or (None,) * rank)
    joined = [
        _join_axis(x, y, z, assume, f"{show_dims(a.dims)} and {show_dims(b.dims)} do not fit in dimension {i + 1}")
        for i, (x, y, z) in enumerate(zip(*columns, strict=True))
    ]
    new_a, new_b, new_out = zip(*joined, strict=True) if joined else ((), (), ())
    batch_last(new_out, 0, 1)
    return (Partial(new_a[: len(a.dims)]), Partial(new_b[: len(b.dims)])), Partial(new_out)


def _expanded(dims: PartialDims, rank: int) -> PartialDims:
    return dims + (1,) * (rank - len(dims))


def _sumto_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """Nothing follows for unknown sizes; known ones must be those of an operand that expands to the argument."""
    (dy,) = args
    if dy.dims is not None and out.dims is not None:
        fits = len(out.dims) <= len(dy.dims) and all(
            small in (1, None, big) or big is None
            for small, big in zip(_expanded(out.dims, len(dy.dims)), dy.dims, strict=True)
        )
        if not fits:
            raise ShapeMismatch(f"{show_dims(dy.dims)} cannot be summed to {show_dims(out.dims)}", [0, -1])
    return args, out


# --- NumPy ------------------------------------------------------------------------------------------------------------


def _same_rank(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both arrays with trailing dimensions of 1 added to the one that has fewer; views."""
    if a.ndim < b.ndim:
        return a.reshape(a.shape + (1,) * (b.ndim - a.ndim), order="F"), b
    if b.ndim < a.ndim:
        return a, b.reshape(b.shape + (1,) * (a.ndim - b.ndim), order="F")
    return a, b


def _add(ctx: EvalContext, a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = np.add(*_same_rank(a, b), out=ctx.out, order="F")
    return y


def _mul(ctx: EvalContext, a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = np.multiply(*_same_rank(a, b), out=ctx.out, order="F")
    return y


def _direct(name: str) -> Direct:
    """The direct form of NumPy's function of that name, whose operands it knows how to bring to the same rank."""

    def direct(ctx: EvalContext, shapes: Shapes) -> Statements:
        a, b = shapes
        wide = max(len(a), len(b))
        of_a, of_b = a + (1,) * (wide - len(a)), b + (1,) * (wide - len(b))
        if wide == len(a) == 2 and of_b == (a[0], 1):
            # A bias: with columns as rows NumPy needs neither a new shape nor to look for an order.
            return f"{{result}} = {name}({{a}}.T, {{b}}.reshape(-1), out={{out_t}}).T", {}
        first = "{a}" if of_a == a else f"{{a}}.reshape({of_a}, order='F')"
        second = "{b}" if of_b == b else f"{{b}}.reshape({of_b}, order='F')"
        return f"{{result}} = {name}({first}, {second}, out={{out}}, order='F')", {}

    return direct


def _sumto_direct(ctx: EvalContext, shapes: Shapes) -> Statements | None:
    """The sum over the columns of a matrix as one call."""
    (dy,) = shapes
    if len(dy) != 2 or len(ctx.dims) != 1 or _sums(ctx.dims, dy) != [(dy[::-1], 0)]:
        return None
    return "{result} = add.reduce({dy}.T, axis=0)", {}


def _sumto(ctx: EvalContext, dy: Tensor) -> Tensor:
    x = dy.T
    for shape, axis in _sums(ctx.dims, dy.shape):
        x = np.add.reduce(x.reshape(shape), axis=axis)
    return x.reshape(ctx.dims[::-1]).T


@lru_cache(maxsize=4096)
def _sums(small: tuple[int, ...], big: tuple[int, ...]) -> list[tuple[tuple[int, ...], int]]:
    """The sums that take a transposed, C-ordered array of `big` to `small`: to which shape it is brought before each,
    and the axis that is summed.

    Adjacent axes are merged first, and the axes nearest in memory are summed first: NumPy is several times faster on
    few long axes than on many short ones.
    """
    expanded = _expanded(small, len(big))
    axes = sorted(len(big) - 1 - i for i, (s, n) in enumerate(zip(expanded, big, strict=True)) if s == 1 and n != 1)
    shape, sums = big[::-1], []
    for first, last in _runs(axes):
        sums.append((shape[:first] + (math.prod(shape[first : last + 1]),) + shape[last + 1 :], first))
        shape = shape[:first] + shape[last + 1 :]
    return sums


def _runs(axes: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last of each stretch of consecutive numbers, the last stretch first."""
    runs: list[tuple[int, int]] = []
    for axis in axes:
        if runs and runs[0][1] == axis - 1:
            runs[0] = (runs[0][0], axis)
        else:
            runs.insert(0, (axis, axis))
    return runs


# --- gradients --------------------------------------------------------------------------------------------------------


def sum_to(g: GradientBuilder, gradient: str, operand: str) -> str:
    """The gradient summed over the dimensions in which `operand` was expanded."""
    if g.type(gradient).dims == g.type(operand).dims:
        return gradient
    return g.emit("sumto", gradient, like=operand)


def _add_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    return [sum_to(g, dy, x) if g.wanted(i) else None for i, x in enumerate(instr.args)]


def _mul_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    a, b = instr.args
    return [
        sum_to(g, g.emit("mul", dy, other, like=dy), x) if g.wanted(i) else None
        for i, (x, other) in enumerate(((a, b), (b, a)))
    ]


# --- operators --------------------------------------------------------------------------------------------------------

ADD = register(
    OpDef(
        name="add",
        doc="Broadcasting sum, `a .+ b`.",
        args=("a", "b"),
        shape=broadcast_shape,
        numpy=_add,
        cuda=Elementwise("{a} + {b}"),
        gradient=_add_gradient,
        user=True,
        in_place=True,
        direct=_direct("add"),
        epilogue="bias",
    )
)

MUL = register(
    OpDef(
        name="mul",
        doc="Broadcasting product, `a .* b`.",
        args=("a", "b"),
        shape=broadcast_shape,
        numpy=_mul,
        cuda=Elementwise("{a} * {b}"),
        gradient=_mul_gradient,
        reads=("a", "b"),
        user=True,
        in_place=True,
        direct=_direct("multiply"),
    )
)

SUMTO = register(
    OpDef(
        name="sumto",
        doc="Sum over the dimensions in which an operand was expanded. Part of gradients, which have none themselves.",
        args=("dy",),
        shape=_sumto_shape,
        numpy=_sumto,
        cuda=Kernel("sumto", apart=True),
        shares=True,
        direct=_sumto_direct,
        epilogue="bias_gradient",
    )
)
