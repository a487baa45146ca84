"""The matrix product.

An operand of more than two dimensions is the matrix (product of all dimensions but the last, last dimension): the same
elements in the same order. One of a single dimension is a column, or, where that dimension is the batch, a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knetc.ir.types import Dim, N, Partial, PartialDims, show_dims
from knetc.lazy import np
from knetc.ops import checks
from knetc.ops.base import AttrMap, EvalContext, GradientBuilder, Keyword, Library, OpDef, ShapeMismatch, register
from knetc.ops.shapes import batch_last, join, product

if TYPE_CHECKING:
    from knetc.ir.program import Instr
    from knetc.ops.base import Shapes, Statements, Tensor

# --- shapes -----------------------------------------------------------------------------------------------------------


def matrix_dims(dims: PartialDims) -> tuple[Dim | None, Dim | None]:
    """Rows and columns of an array as an operand of `dot`."""
    if len(dims) == 1:
        return (1, dims[0]) if dims[0] is N else (dims[0], 1)
    return product(dims[:-1]), dims[-1]


def _fill(p: Partial, rows: Dim | None, cols: Dim | None, operand: int) -> Partial:
    """The operand's shape with what its size as a matrix says about it; the matrix sizes have been checked."""
    if p.dims is None:
        return p
    dims = list(p.dims)
    if len(dims) == 1:
        dims[0] = cols if dims[0] is N else rows
    else:
        dims[-1] = cols
        unknown = [i for i, d in enumerate(dims[:-1]) if d is None]
        known = product([1 if d is None else d for d in dims[:-1]])
        if len(unknown) == 1 and isinstance(rows, int) and isinstance(known, int):
            if rows % known:
                raise ShapeMismatch(f"{rows} elements a column do not fit {show_dims(p.dims)}", [operand])
            dims[unknown[0]] = rows // known
        elif len(unknown) == 1 and rows is N and known == 1:
            dims[unknown[0]] = N
    if any(d is N for d in dims[:-1]):
        raise ShapeMismatch(
            f"the product would sum over the batch: the shape would be {show_dims(tuple(dims))}, "
            "and a parameter's size would depend on the batch",
            [0, 1],
        )
    return Partial(tuple(dims))


def _matrix(p: Partial, transposed: bool) -> tuple[Dim | None, Dim | None]:
    if p.dims is None:
        return None, None
    rows, cols = matrix_dims(p.dims)
    return (cols, rows) if transposed else (rows, cols)


def _open(p: Partial, assume: bool) -> Partial:
    """An operand with no dims of its own is taken for a matrix, a vector for a column, once nothing else helps."""
    if p.dims is not None or not assume:
        return p
    return Partial((None,)) if p.vector else Partial((None, None))


def _dot_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    """(m,k)·(k,n) = (m,n), operands transposed by `ta`, `tb`; the result has more dimensions where its use says so."""
    ta, tb = attrs.get("ta") is True, attrs.get("tb") is True
    a, b = _open(args[0], assume), _open(args[1], assume)
    (m, ka), (kb, n) = _matrix(a, ta), _matrix(b, tb)
    shapes = f"{show_dims(a.dims)} and {show_dims(b.dims)}"
    message = f"{ka!r} columns and {kb!r} rows do not match in the matrix product of {shapes}"
    k = join(ka, kb, message, [0, 1])
    if out.dims is not None:
        rows, cols = matrix_dims(out.dims)
        needed = f"the matrix product of {shapes} is ({m!r},{n!r}), its use needs {show_dims(out.dims)}"
        m, n = join(m, rows, needed, [0, 1, -1]), join(n, cols, needed, [0, 1, -1])
    a = _fill(a, *((k, m) if ta else (m, k)), 0)
    b = _fill(b, *((n, k) if tb else (k, n)), 1)
    out = _fill(out, m, n, -1) if out.dims is not None else Partial((m, n))
    batch_last(out.dims, -1)
    return (a, b), out


# --- NumPy ------------------------------------------------------------------------------------------------------------


def matrix(x: Tensor) -> Tensor:
    """A Fortran-ordered array as an operand of `dot`, one of a single dimension as a column; a view."""
    if x.ndim == 2:
        return x
    return x.reshape(-1, x.shape[-1] if x.ndim > 1 else 1, order="F")


def _dot(ctx: EvalContext, a: Tensor, b: Tensor) -> Tensor:
    ma, mb = matrix(a), matrix(b)
    if ctx.attrs["ta"]:
        ma = ma.T
    if ctx.attrs["tb"]:
        mb = mb.T
    if ma.shape[1] != mb.shape[0]:
        # b's one dimension is the batch, so it is a row, where `matrix` made a column.
        mb = mb.T
    # The transposed product comes out C-ordered, so its transpose has the Fortran order that is wanted.
    product_t: Tensor = np.matmul(mb.T, ma.T)
    return product_t.T if len(ctx.dims) == 2 else product_t.reshape(ctx.dims[::-1]).T


def _dot_direct(ctx: EvalContext, shapes: Shapes) -> Statements | None:
    """The product of two matrices as one call."""
    if len(ctx.dims) != 2 or [len(s) for s in shapes] != [2, 2]:
        return None
    first, second = "{b}" if ctx.attrs["tb"] else "{b}.T", "{a}" if ctx.attrs["ta"] else "{a}.T"
    return f"{{result}} = matmul({first}, {second}).T", {}


# --- gradient ---------------------------------------------------------------------------------------------------------


def _dot_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    """da = dy·b' and db = a'·dy, or their transposes where the operand was transposed."""
    (a, b), ta, tb = instr.args, bool(instr.attr("ta")), bool(instr.attr("tb"))
    da = db = None
    if g.wanted(0):
        da = g.emit("dot", b, dy, like=a, ta=tb, tb=True) if ta else g.emit("dot", dy, b, like=a, ta=False, tb=not tb)
    if g.wanted(1):
        db = g.emit("dot", dy, a, like=b, ta=True, tb=ta) if tb else g.emit("dot", a, dy, like=b, ta=not ta, tb=False)
    return [da, db]


DOT = register(
    OpDef(
        name="dot",
        doc="Matrix product, `a * b`.",
        args=("a", "b"),
        keywords={
            "ta": Keyword(False, checks.boolean, internal=True),
            "tb": Keyword(False, checks.boolean, internal=True),
        },
        shape=_dot_shape,
        numpy=_dot,
        cuda=Library("gemm", apart=True),
        gradient=_dot_gradient,
        reads=("a", "b"),
        user=True,
        weights=(0,),
        direct=_dot_direct,
    )
)
