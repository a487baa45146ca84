"""The losses and their gradients at the model's output p, against the desired output gold (docs/operators.md).

A column is one instance: everything but the last dimension. `mask` has one entry a column and multiplies the column's
loss and gradient; the average stays over all columns. The loss is a scalar, summed in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from knetc.ir.types import Partial, show_dims
from knetc.lazy import np
from knetc.ops.activation import columns
from knetc.ops.base import AttrMap, Elementwise, EvalContext, Kernel, OpDef, ShapeMismatch, register
from knetc.ops.shapes import join, same_shape

if TYPE_CHECKING:
    from knetc.ops.base import Direct, Shapes, Statements, Tensor

# --- shapes -----------------------------------------------------------------------------------------------------------


def _loss_operands(args: tuple[Partial, ...], attrs: AttrMap) -> tuple[Partial, ...]:
    """p and gold have one shape; the mask has as many entries as they have columns."""
    p, gold, mask = args
    (p, gold), _ = same_shape((p, gold), Partial(), attrs, False)
    if p.dims and mask.dims is None:
        mask = Partial((p.dims[-1],))
    elif p.dims and mask.dims:
        text = f"the mask {show_dims(mask.dims)} must have one entry for each column of {show_dims(p.dims)}"
        last = join(p.dims[-1], mask.dims[-1], text, [0, 2])
        mask = Partial((*(join(1, d, text, [0, 2]) for d in mask.dims[:-1]), last))
    return p, gold, mask


def _loss_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    if out.dims:
        raise ShapeMismatch(f"a loss is a scalar, its use needs {show_dims(out.dims)}", [-1])
    return _loss_operands(args, attrs), Partial(())


def _loss_back_shape(
    args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
) -> tuple[tuple[Partial, ...], Partial]:
    (p, out), _ = same_shape((args[0], out), Partial(), attrs, assume)
    return _loss_operands((p, *args[1:]), attrs), out


# --- NumPy ------------------------------------------------------------------------------------------------------------


def _average(ctx: EvalContext, per_column: Tensor, mask: Tensor | None) -> Tensor:
    """The masked sum of the columns' losses over the number of all columns, those of several steps too."""
    weighted = per_column if mask is None else _masked(per_column, mask.reshape(-1))
    return np.asarray(weighted.sum(dtype=np.float64) / per_column.size, ctx.dtype)


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    """x times the mask; 0 where the mask is 0, whatever stands there, be it NaN or infinity."""
    with np.errstate(invalid="ignore"):
        masked: Tensor = np.where(mask == 0, x.dtype.type(0), x * mask)
    return masked


def _share(ctx: EvalContext, rows: Tensor, mask: Tensor | None, p: Tensor) -> Tensor:
    """The gradient of each column's loss, a row each, as gradient of the masked average in the shape of p."""
    dp: Tensor = rows * ctx.dtype.type(1 / (len(rows) // ctx.steps))
    if mask is not None:
        dp = _masked(dp, mask.reshape(-1, 1))
    return dp.reshape(p.T.shape).T


def _quadloss(ctx: EvalContext, p: Tensor, gold: Tensor, mask: Tensor | None) -> Tensor:
    difference = columns(p) - columns(gold)
    return _average(ctx, 0.5 * np.square(difference).sum(axis=1, dtype=np.float64), mask)


def _quadloss_back(ctx: EvalContext, p: Tensor, gold: Tensor, mask: Tensor | None) -> Tensor:
    rows = columns(p) - columns(gold)
    return _share(ctx, rows, mask, p)


def _softloss(ctx: EvalContext, p: Tensor, gold: Tensor, mask: Tensor | None) -> Tensor:
    bounded = np.maximum(columns(p), np.finfo(ctx.dtype).eps)
    return _average(ctx, -(columns(gold) * np.log(bounded)).sum(axis=1, dtype=np.float64), mask)


def _softloss_back(ctx: EvalContext, p: Tensor, gold: Tensor, mask: Tensor | None) -> Tensor:
    """−gold/p where p is over the bound; below it the loss does not depend on p."""
    rows, eps = columns(p), np.finfo(ctx.dtype).eps
    slope = np.where(rows > eps, -columns(gold) / np.maximum(rows, eps), ctx.dtype.type(0))
    return _share(ctx, slope, mask, p)


def _softmax_softloss_back(ctx: EvalContext, p: Tensor, gold: Tensor, mask: Tensor | None) -> Tensor:
    rows = columns(p) - columns(gold)
    return _share(ctx, rows, mask, p)


_SOFTMAX_SOFTLOSS_BACK = """
if {mask} is None:
    {result} = {p}.T - {gold}.T
    {result} *= {share}
    {result} = {result}.T
else:
    {result} = {meaning}({ctx}, {p}, {gold}, {mask})"""


def _softmax_softloss_back_direct(ctx: EvalContext, shapes: Shapes) -> Statements | None:
    """Of matrices; what comes with a mask is left to the meaning."""
    if len(shapes[0]) != 2 or len(shapes[1]) != 2:
        return None
    return _SOFTMAX_SOFTLOSS_BACK, {"share": ctx.dtype.type(1 / (shapes[0][1] // ctx.steps))}


def _zeroone(ctx: EvalContext, p: Tensor, gold: Tensor, mask: Tensor | None) -> Tensor:
    differs = columns(p).argmax(axis=1) != columns(gold).argmax(axis=1)
    return _average(ctx, differs.astype(ctx.dtype), mask)


# --- operators --------------------------------------------------------------------------------------------------------


def _loss(
    name: str, doc: str, numpy: Callable[[EvalContext, Tensor, Tensor, Tensor | None], Tensor], term: str = ""
) -> OpDef:
    """`term`: what an element adds to the sum, as CUDA."""
    return register(
        OpDef(
            name=name,
            doc=doc,
            args=("p", "gold", "mask"),
            shape=_loss_shape,
            numpy=numpy,
            cuda=Kernel(name, term=term),
        )
    )


def _loss_back(
    name: str,
    doc: str,
    numpy: Callable[[EvalContext, Tensor, Tensor, Tensor | None], Tensor],
    slope: str,
    direct: Direct | None = None,
) -> OpDef:
    """`slope`: the gradient of a column's loss by one of its elements, as CUDA. A column of mask 0 has none at all,
    whatever stands there, be it NaN or infinity.
    """
    return register(
        OpDef(
            name=name,
            doc=doc + " Second derivatives are not computed, so it has no gradient itself.",
            args=("p", "gold", "mask"),
            shape=_loss_back_shape,
            numpy=numpy,
            cuda=Elementwise(f"{{share}} != T(0) ? ({slope}) * {{share}} : T(0)"),
            direct=direct,
        )
    )


_START = " The backward pass starts from `{}`, so it has no gradient rule."

QUADLOSS = _loss(
    "quadloss",
    "½·E[(gold − p)²]." + _START.format("quadloss_back"),
    _quadloss,
    "0.5 * (({p} - {gold}) * ({p} - {gold}))",
)
SOFTLOSS = _loss(
    "softloss",
    "−E[gold·log p], p bounded away from 0 by the type's epsilon."
    + _START.format("softloss_back or softmax_softloss_back"),
    _softloss,
    "-{gold} * knet_log(knet_max({p}, {epsilon}))",
)
ZEROONE = _loss("zeroone", "Share of columns whose first maximum differs. It has no gradient.", _zeroone)

QUADLOSS_BACK = _loss_back(
    "quadloss_back", "Gradient of `quadloss` by p: (p − gold)/columns.", _quadloss_back, "{p} - {gold}"
)
SOFTLOSS_BACK = _loss_back(
    "softloss_back",
    "Gradient of `softloss` by p: −gold/(p·columns), 0 where p is at or under the bound.",
    _softloss_back,
    "{p} > {epsilon} ? -{gold} / {p} : T(0)",
)
SOFTMAX_SOFTLOSS_BACK = _loss_back(
    "softmax_softloss_back",
    "Gradient of `softloss` after `soft`, by the argument of `soft`: (p − gold)/columns; gold's columns sum to 1.",
    _softmax_softloss_back,
    "{p} - {gold}",
    _softmax_softloss_back_direct,
)
