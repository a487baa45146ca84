"""Matrix products and convolutions: calls of cuBLAS and cuDNN.

Before: `codegen.kernels` asks for the form of a step. After: `codegen.emit`. Knet's column-major (W,H,C,N) is the
memory layout that cuDNN calls NCHW, so sizes are handed over in reverse order and no data move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from knetc.codegen.index import count
from knetc.codegen.spec import FieldValue, Module, Statement, statement
from knetc.errors import KnetInternalError
from knetc.ir.plan import Buffer, Step
from knetc.ir.program import Instr
from knetc.ir.types import BatchDim, Dims
from knetc.values import Value

Build = Callable[[Module, Step], "list[Statement]"]


# --- matrix products --------------------------------------------------------------------------------------------------


def matrix(dims: Dims) -> tuple[str, str]:
    """Rows and columns of an operand as C text: more than two dimensions are a matrix (prod(d[:-1]), d[-1]), a single
    one is a column, or a row where it is the batch.
    """
    if len(dims) == 1 and not isinstance(dims[0], BatchDim):
        return count(dims), "1"
    return count(dims[:-1]), count(dims[-1:])


def gemm(module: Module, step: Step) -> list[Statement]:
    """`dot`: a matrix product, written straight to the result."""
    module.features.add("cublas")
    return [statement("gemm", **product_fields(module, step, step.out), value=f"{step.instr.out} {step.out.type}")]


def product_fields(module: Module, step: Step, out: Buffer) -> dict[str, FieldValue]:
    """What a call for a matrix product is given, the result in `out`."""
    ta, tb = bool(step.instr.attr("ta")), bool(step.instr.attr("tb"))
    a, b = (matrix(x.type.dims) for x in step.args)
    m, k = reversed(a) if ta else a
    n = b[0] if tb else b[1]
    lda, ldb, ldc = (x.pitch or rows for x, (rows, _) in zip((*step.args, out), (a, b, (m, n)), strict=True))
    return {
        "ta": "T" if ta else "N",
        "tb": "T" if tb else "N",
        "m": m,
        "n": n,
        "k": k,
        "a": module.ref(step.args[0]),
        "lda": lda,
        "b": module.ref(step.args[1]),
        "ldb": ldb,
        "out": module.ref(out),
        "ldc": ldc,
    }


# --- convolution ------------------------------------------------------------------------------------------------------


def each(value: Value, spatial: int) -> tuple[int, ...]:
    """A keyword that is a number or a tuple, as one number a spatial dimension in Knet's order."""
    if isinstance(value, tuple):
        return tuple(int(v) for v in value if isinstance(v, int))
    if not isinstance(value, int):
        raise KnetInternalError(f"a window keyword holds {value!r}")
    return (value,) * spatial


def sizes(dims: Dims) -> tuple[int, ...]:
    """Sizes in cuDNN's order, 0 for the batch."""
    return tuple(0 if isinstance(d, BatchDim) else d for d in reversed(dims))


def _conv(module: Module, instr: Instr, x: Buffer, w: Buffer, y: Buffer) -> str:
    spatial = len(x.type.dims) - 2
    fields: tuple[tuple[str, FieldValue], ...] = (
        ("nd", spatial + 2),
        ("x", sizes(x.type.dims)),
        ("w", sizes(w.type.dims)),
        ("y", sizes(y.type.dims)),
        *((key, each(instr.attr(key), spatial)[::-1]) for key in ("padding", "stride", "upscale")),
        ("mode", str(instr.attr("mode"))),
    )
    comment = f"x {x.type}, w {w.type}, y {y.type}"
    return module.library("conv", fields, comment)


def conv(module: Module, step: Step) -> list[Statement]:
    """y = conv(w, x)."""
    w, x = step.args
    return [_conv_call(module, step, "conv", _conv(module, step.instr, x, w, step.out), w, x)]


def conv_back_w(module: Module, step: Step) -> list[Statement]:
    """dw = conv_back_w(x, dy)."""
    x, dy = step.args
    return [_conv_call(module, step, "conv_back_w", _conv(module, step.instr, x, step.out, dy), x, dy)]


def conv_back_x(module: Module, step: Step) -> list[Statement]:
    """dx = conv_back_x(w, dy)."""
    w, dy = step.args
    return [_conv_call(module, step, "conv_back_x", _conv(module, step.instr, step.out, w, dy), w, dy)]


def _conv_call(module: Module, step: Step, call: str, shape: str, first: Buffer, second: Buffer) -> Statement:
    return statement(
        call,
        shape=shape,
        first=module.ref(first),
        second=module.ref(second),
        out=module.ref(step.out),
        value=f"{step.instr.out} {step.out.type}",
    )


LIBRARY: Mapping[str, Build] = {
    "gemm": gemm,
    "conv": conv,
    "conv_back_w": conv_back_w,
    "conv_back_x": conv_back_x,
}
