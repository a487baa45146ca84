"""Operators of one argument: axpb, copy, the activations, softmax; and the operators of their gradients.

All work in the element type of the argument. `soft` normalises a column: all dimensions but the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from knetc.lazy import np
from knetc.ops import checks
from knetc.ops.base import AttrMap, Elementwise, EvalContext, GradientBuilder, Keyword, OpDef, Piece, register
from knetc.ops.shapes import same_shape
from knetc.values import Value

if TYPE_CHECKING:
    from knetc.ir.program import Instr
    from knetc.ops.base import Gradient, Shapes, Statements, Tensor

# --- axpb: a x^p + b --------------------------------------------------------------------------------------------------


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _power(ctx: EvalContext, x: Tensor, p: float) -> Tensor:
    """x^p in the element type; the common powers by the operation that is exact for them."""
    if p == 1:
        return x
    if p == 2:
        return x * x
    y: Tensor
    if p == -1:
        y = ctx.dtype.type(1) / x
    elif p == 0.5:
        y = np.sqrt(x)
    else:
        y = np.ones_like(x) if p == 0 else np.power(x, ctx.dtype.type(p))
    return y


def _axpb(ctx: EvalContext, x: Tensor) -> Tensor:
    a, p, b = (_number(ctx.attrs[k]) for k in "apb")
    y = _power(ctx, x, p)
    if a != 1:
        y = y * ctx.dtype.type(a)
    if b != 0:
        y = y + ctx.dtype.type(b)
    return y


def _axpb_back(ctx: EvalContext, dy: Tensor, x: Tensor) -> Tensor:
    a, p = (_number(ctx.attrs[k]) for k in "ap")
    dx: Tensor = dy * (_power(ctx, x, p - 1) * ctx.dtype.type(a * p))
    return dx


def literal(value: float) -> str:
    """A number as C++ text in the element type."""
    return f"T({value!r})"


def _power_text(x: str, p: float) -> str:
    special = {0.0: "T(1)", 1.0: x, 2.0: f"{x} * {x}", -1.0: f"T(1) / {x}", 0.5: f"knet_sqrt({x})"}
    return special[p] if p in special else f"knet_pow({x}, {literal(p)})"


def _axpb_text(attrs: AttrMap) -> str:
    a, p, b = (_number(attrs[k]) for k in "apb")
    text = _power_text("{x}", p)
    if a != 1:
        text = f"{literal(a)} * ({text})"
    return text if b == 0 else f"{text} + {literal(b)}"


def _axpb_back_text(attrs: AttrMap) -> str:
    a, p = (_number(attrs[k]) for k in "ap")
    return f"{{dy}} * ({literal(a * p)} * ({_power_text('{x}', p - 1)}))"


def _axpb_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    """a·p·x^(p−1)·dy; without x where p is 1, and nothing where p is 0: then the result does not depend on x."""
    a, p = (_number(instr.attr(k)) for k in "ap")
    if not g.wanted(0) or p == 0 or a == 0:
        return [None]
    if p == 1:
        return [dy if a == 1 else g.emit("axpb", dy, like=dy, a=a, p=1, b=0)]
    return [g.emit("axpb_back", dy, instr.args[0], like=instr.args[0], a=a, p=p)]


# --- activations ------------------------------------------------------------------------------------------------------


def _copy(ctx: EvalContext, x: Tensor) -> Tensor:
    return x.copy(order="F")


def _relu(ctx: EvalContext, x: Tensor) -> Tensor:
    y: Tensor = np.maximum(x, ctx.dtype.type(0), out=ctx.out)
    return y


def _sigm(ctx: EvalContext, x: Tensor) -> Tensor:
    one = ctx.dtype.type(1)
    # exp overflows to infinity for a very negative x, and 1/(1+inf) is the right 0.
    with np.errstate(over="ignore"):
        y: Tensor = one / (np.exp(-x) + one)
    return y


def _tanh(ctx: EvalContext, x: Tensor) -> Tensor:
    y: Tensor = np.tanh(x, out=ctx.out)
    return y


def _relu_back(ctx: EvalContext, dy: Tensor, y: Tensor) -> Tensor:
    dx: Tensor = np.multiply(dy, y > 0, out=ctx.out)
    return dx


def _sigm_back(ctx: EvalContext, dy: Tensor, y: Tensor) -> Tensor:
    dx: Tensor = np.multiply(dy, y * (ctx.dtype.type(1) - y), out=ctx.out)
    return dx


def _tanh_back(ctx: EvalContext, dy: Tensor, y: Tensor) -> Tensor:
    one = ctx.dtype.type(1)
    # (1−y)(1+y) keeps its digits where y is near ±1; 1−y² would not.
    dx: Tensor = np.multiply(dy, (one - y) * (one + y), out=ctx.out)
    return dx


def _from_output(back: str) -> Gradient:
    """The gradient of an operator whose slope is a function of its result."""

    def gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
        return [g.emit(back, dy, instr.out, like=instr.args[0]) if g.wanted(0) else None]

    return gradient


# --- softmax ----------------------------------------------------------------------------------------------------------


def columns(x: Tensor) -> Tensor:
    """A Fortran-ordered array as a C-ordered matrix with one row for each column of Knet; a view."""
    return x.T.reshape(x.shape[-1] if x.ndim else 1, -1)


def _soft(ctx: EvalContext, x: Tensor) -> Tensor:
    rows = columns(x)
    y: Tensor = rows - rows.max(axis=1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)
    return y.reshape(x.T.shape).T


def _soft_back(ctx: EvalContext, dy: Tensor, y: Tensor) -> Tensor:
    dys, ys = columns(dy), columns(y)
    inner = (dys * ys).sum(axis=1, keepdims=True)
    dx: Tensor = ys * (dys - inner)
    return dx.reshape(y.T.shape).T


def _relu_direct(ctx: EvalContext, shapes: Shapes) -> Statements:
    return "{result} = maximum({x}, {zero}, out={out})", {"zero": ctx.dtype.type(0)}


def _relu_back_direct(ctx: EvalContext, shapes: Shapes) -> Statements:
    return "{result} = multiply({dy}, {y} > 0, out={out})", {}


_SOFT = """
{result} = {x}.T - maximum.reduce({x}.T, axis=1, keepdims=True)
exp({result}, out={result})
{result} /= add.reduce({result}, axis=1, keepdims=True)
{result} = {result}.T"""


def _soft_direct(ctx: EvalContext, shapes: Shapes) -> Statements | None:
    """Of a matrix, whose columns are rows of its transpose."""
    return (_SOFT, {}) if len(shapes[0]) == 2 else None


_DIRECT = {"relu": _relu_direct, "relu_back": _relu_back_direct, "soft": _soft_direct}

# Whose NumPy meaning writes to `ctx.out`.
_IN_PLACE = frozenset({"relu", "tanh", "relu_back", "sigm_back", "tanh_back"})

# --- operators --------------------------------------------------------------------------------------------------------


def _unary(
    name: str,
    doc: str,
    numpy: Callable[[EvalContext, Tensor], Tensor],
    cuda: Elementwise | Piece,
    gradient: Gradient,
    reads: tuple[str, ...] = (),
    keywords: dict[str, Keyword] | None = None,
) -> OpDef:
    return register(
        OpDef(
            name=name,
            doc=doc,
            args=("x",),
            shape=same_shape,
            numpy=numpy,
            cuda=cuda,
            gradient=gradient,
            reads=reads,
            keywords=keywords or {},
            user=True,
            in_place=name in _IN_PLACE,
            direct=_DIRECT.get(name),
            shares=name == "axpb",  # which may be the identity
            epilogue="relu" if name == "relu" else "",
        )
    )


def _back(
    name: str,
    of: str,
    numpy: Callable[[EvalContext, Tensor, Tensor], Tensor],
    cuda: Elementwise | Piece,
    second: str = "y",
    keywords: dict[str, Keyword] | None = None,
) -> OpDef:
    return register(
        OpDef(
            name=name,
            doc=f"Gradient of `{of}`. Second derivatives are not computed, so it has no gradient itself.",
            args=("dy", second),
            shape=same_shape,
            numpy=numpy,
            cuda=cuda,
            keywords=keywords or {},
            in_place=name in _IN_PLACE,
            direct=_DIRECT.get(name),
        )
    )


def _copy_gradient(g: GradientBuilder, instr: Instr, dy: str) -> list[str | None]:
    return [dy if g.wanted(0) else None]


_A, _P, _B = Keyword(1, checks.number), Keyword(1, checks.number), Keyword(0, checks.number)

AXPB = _unary(
    "axpb",
    "a·x^p + b.",
    _axpb,
    Elementwise(_axpb_text),
    _axpb_gradient,
    reads=("x",),
    keywords={"a": _A, "p": _P, "b": _B},
)
COPY = _unary("copy", "The argument itself.", _copy, Elementwise("{x}"), _copy_gradient)
RELU = _unary(
    "relu",
    "x where x is over 0, else 0. Its slope is 0 where the result is 0.",
    _relu,
    # This way round a NaN stays a NaN, as in NumPy.
    Elementwise("{x} < T(0) ? T(0) : {x}"),
    _from_output("relu_back"),
    reads=("out",),
)
SIGM = _unary(
    "sigm",
    "1/(1 + exp(−x)).",
    _sigm,
    Elementwise("T(1) / (T(1) + knet_exp(-{x}))"),
    _from_output("sigm_back"),
    reads=("out",),
)
TANH = _unary(
    "tanh", "Hyperbolic tangent.", _tanh, Elementwise("knet_tanh({x})"), _from_output("tanh_back"), reads=("out",)
)
SOFT = _unary(
    "soft",
    "Softmax over each column, over all dimensions but the last.",
    _soft,
    Piece("soft", "column", "knet_exp({x} - top) / sum"),
    _from_output("soft_back"),
    reads=("out",),
)

AXPB_BACK = _back(
    "axpb_back", "axpb", _axpb_back, Elementwise(_axpb_back_text), second="x", keywords={"a": _A, "p": _P}
)
RELU_BACK = _back("relu_back", "relu", _relu_back, Elementwise("{y} > T(0) ? {dy} : T(0)"))
SIGM_BACK = _back("sigm_back", "sigm", _sigm_back, Elementwise("{dy} * ({y} * (T(1) - {y}))"))
TANH_BACK = _back("tanh_back", "tanh", _tanh_back, Elementwise("{dy} * ((T(1) - {y}) * (T(1) + {y}))"))
SOFT_BACK = _back("soft_back", "soft", _soft_back, Piece("soft_back", "column", "{y} * ({dy} - sum)"))
