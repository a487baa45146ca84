"""Matrix products, convolutions and poolings: calls of cuBLAS and cuDNN, and pooling kernels where cuDNN has none.

Before: `codegen.kernels` asks for the form of a step. After: `codegen.emit`. Knet's column-major (W,H,C,N) is the
memory layout that cuDNN calls NCHW, so sizes are handed over in reverse order and no data move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from knetc.codegen.index import count
from knetc.codegen.spec import FieldValue, KernelSpec, Module, Statement, statement
from knetc.errors import KnetInternalError
from knetc.ir.plan import Buffer, Step
from knetc.ir.program import Instr
from knetc.ir.types import BatchDim, Dims
from knetc.record import Record
from knetc.values import Value

Build = Callable[[Module, Step], "list[Statement]"]


# --- matrix products --------------------------------------------------------------------------------------------------


def _matrix(dims: Dims) -> tuple[str, str]:
    """Rows and columns of an operand as C text: more than two dimensions are a matrix (prod(d[:-1]), d[-1])."""
    return count(dims[:-1]), count(dims[-1:])


def gemm(module: Module, step: Step) -> list[Statement]:
    """`dot`: a matrix product, written straight to the result."""
    ta, tb = bool(step.instr.attr("ta")), bool(step.instr.attr("tb"))
    a, b = (_matrix(x.type.dims) for x in step.args)
    m, k = reversed(a) if ta else a
    n = b[0] if tb else b[1]
    module.features.add("cublas")
    return [
        statement(
            "gemm",
            ta="T" if ta else "N",
            tb="T" if tb else "N",
            m=m,
            n=n,
            k=k,
            a=module.ref(step.args[0]),
            b=module.ref(step.args[1]),
            out=module.ref(step.out),
            value=f"{step.instr.out} {step.out.type}",
        )
    ]


# --- convolution ------------------------------------------------------------------------------------------------------


def _each(value: Value, spatial: int) -> tuple[int, ...]:
    """A keyword that is a number or a tuple, as one number a spatial dimension in Knet's order."""
    if isinstance(value, tuple):
        return tuple(int(v) for v in value if isinstance(v, int))
    if not isinstance(value, int):
        raise KnetInternalError(f"a window keyword holds {value!r}")
    return (value,) * spatial


def _sizes(dims: Dims) -> tuple[int, ...]:
    """Sizes in cuDNN's order, 0 for the batch."""
    return tuple(0 if isinstance(d, BatchDim) else d for d in reversed(dims))


def _conv(module: Module, instr: Instr, x: Buffer, w: Buffer, y: Buffer) -> str:
    spatial = len(x.type.dims) - 2
    fields: tuple[tuple[str, FieldValue], ...] = (
        ("nd", spatial + 2),
        ("x", _sizes(x.type.dims)),
        ("w", _sizes(w.type.dims)),
        ("y", _sizes(y.type.dims)),
        *((key, _each(instr.attr(key), spatial)[::-1]) for key in ("padding", "stride", "upscale")),
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


# --- pooling ----------------------------------------------------------------------------------------------------------

_POOL_MODES = {
    "CUDNN_POOLING_MAX": "CUDNN_POOLING_MAX_DETERMINISTIC",
    "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING": "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING",
    "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING": "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING",
}


class _Pool:
    """The sizes of a pooling, in Knet's order."""

    def __init__(self, instr: Instr, x: Dims, y: Dims) -> None:
        spatial = len(x) - 2
        self.dims = x
        self.out_dims = y
        self.x: list[int] = [d for d in x[:spatial] if not isinstance(d, BatchDim)]
        self.y: list[int] = [d for d in y[:spatial] if not isinstance(d, BatchDim)]
        self.window = _each(instr.attr("window"), spatial)
        stride = instr.attr("stride")
        self.stride = self.window if stride is None else _each(stride, spatial)
        self.padding = _each(instr.attr("padding"), spatial)
        self.mode = str(instr.attr("mode"))

    def in_cudnn(self) -> bool:
        """Whether cuDNN's geometry is Knet's: no last partial window, and no window of padding alone."""
        return 2 <= len(self.x) <= 3 and all(
            (x + 2 * p - w) % s == 0 and p < w
            for x, w, s, p in zip(self.x, self.window, self.stride, self.padding, strict=True)
        )


def pool(module: Module, step: Step) -> list[Statement]:
    """y = pool(x) by cuDNN; empty where it needs a kernel of our own."""
    (x,) = step.args
    p = _Pool(step.instr, x.type.dims, step.out.type.dims)
    if not p.in_cudnn():
        return []
    call = statement(
        "pool",
        shape=_pool_shape(module, p, x, step.out),
        x=module.ref(x),
        y=module.ref(step.out),
        value=f"{step.instr.out} {step.out.type}",
    )
    return [call]


def pool_back(module: Module, step: Step) -> list[Statement]:
    """dx = pool_back(dy, x, y) by cuDNN; empty where it needs a kernel of our own."""
    dy, x, y = step.args
    p = _Pool(step.instr, x.type.dims, y.type.dims)
    if not p.in_cudnn():
        return []
    call = statement(
        "pool_back",
        shape=_pool_shape(module, p, x, y),
        dy=module.ref(dy),
        x=module.ref(x),
        y=module.ref(y),
        dx=module.ref(step.out),
        value=f"{step.instr.out} {step.out.type}",
    )
    return [call]


def _pool_shape(module: Module, p: _Pool, x: Buffer, y: Buffer) -> str:
    fields: tuple[tuple[str, FieldValue], ...] = (
        ("nd", len(p.dims)),
        ("x", _sizes(p.dims)),
        ("y", _sizes(p.out_dims)),
        ("window", tuple(p.window[::-1])),
        ("padding", tuple(p.padding[::-1])),
        ("stride", tuple(p.stride[::-1])),
        ("mode", _POOL_MODES[p.mode]),
    )
    return module.library("pool", fields, f"x {x.type}, y {y.type}")


def pool_kernel(module: Module, step: Step) -> Statement:
    """A pooling that cuDNN does not have: one thread an element of the result, looping over windows."""
    back = len(step.args) == 3
    x, y = (step.args[1], step.args[2]) if back else (step.args[0], step.out)
    p = _Pool(step.instr, x.type.dims, y.type.dims)
    largest = p.mode == "CUDNN_POOLING_MAX"
    names = ("y", "x") if not back else ("dx", "dy", "x", "y") if largest else ("dx", "dy")
    real = module.real
    sizes = ["x".join(map(str, v)) for v in (p.x, p.y)]
    spec = KernelSpec(
        template=f"pool_{'max' if largest else 'average'}{'_back' if back else ''}",
        stem=f"pool{'_back' if back else ''}_{sizes[0]}_to_{sizes[1]}",
        signature=(*(f"{'const ' if k else ''}{real}* {n}" for k, n in enumerate(names)), "int n"),
        formula=_pool_text(p, back),
        fields=(("real", real), *_pool_fields(p)),
    )
    module.features.add("math")
    refs = ", ".join(module.ref(b) for b in (step.out, *step.args)[: len(names)])
    return statement(
        "launch_each",
        kernel=module.kernel(spec, (step.instr,)),
        elements=count(step.out.type.dims),
        arguments=refs,
        value=f"{step.instr.out} {step.out.type}",
    )


class PoolAxis(Record):
    """One spatial dimension of a pooling kernel, mostly as C text.

    `from_y`, `from_i`: where the window of output y, or of the thread's element, begins. `x_digit`: the position along
    this axis of element `at` of an image. `y_low`, `y_high`: the outputs whose windows hold position x.
    """

    k: int
    x: int
    window: int
    from_y: str
    from_i: str
    x_digit: str
    y_low: str
    y_high: str


def _pool_fields(p: _Pool) -> tuple[tuple[str, FieldValue], ...]:
    """What the pooling templates paste: an entry for each axis, positions in an image, the divisor of an average."""
    axes: list[PoolAxis] = []
    x_step = y_step = 1
    for k, (x, y, w, s, pad) in enumerate(zip(p.x, p.y, p.window, p.stride, p.padding, strict=True)):
        last = k == len(p.x) - 1
        reach = w - pad
        axes.append(
            PoolAxis(
                k=k,
                x=x,
                window=w,
                from_y=_from_text(f"y{k}", s, pad),
                from_i=_from_text(_digit("i", y_step, y, False), s, pad),
                x_digit=_digit("at", x_step, x, last),
                y_low=f"max(x{k} - {reach - 1}, 0)" if s == 1 else f"x{k} < {reach} ? 0 : (x{k} - {reach}) / {s} + 1",
                y_high=f"min((x{k} + {pad}) / {s}, {y - 1})",
            )
        )
        x_step, y_step = x_step * x, y_step * y
    spread = " * ".join(f"(stop{a.k} - from{a.k})" for a in axes)
    empty = [
        f"from{k} >= stop{k}"
        for k, (x, y, w, s, pad) in enumerate(zip(p.x, p.y, p.window, p.stride, p.padding, strict=True))
        if pad >= w or (y - 1) * s - pad >= x
    ]
    include = "INCLUDE" in p.mode
    return (
        ("axes", tuple(axes)),
        ("x_at", _position("x", p.x)),
        ("y_at", _position("y", p.y)),
        ("z_at", _position("z", p.x)),
        ("x_size", x_step),
        ("y_size", y_step),
        ("divisor", str(_product(p.window)) if include else f"max({spread}, 1)" if empty else f"({spread})"),
        ("empty", " || ".join(empty)),
        ("shares", "" if include else "yes"),
    )


def _digit(index: str, step: int, size: int, last: bool) -> str:
    text = index if step == 1 else f"{index} / {step}"
    return text if last else f"{text} % {size}"


def _from_text(y: str, stride: int, padding: int) -> str:
    """Where the window of output `y` begins."""
    return f"{y}{f' * {stride}' if stride != 1 else ''}{f' - {padding}' if padding else ''}"


def _position(name: str, sizes: Sequence[int]) -> str:
    """The position of element (name0, name1, …) in an image of `sizes`."""
    terms = []
    step = 1
    for k, size in enumerate(sizes):
        terms.append(f"{name}{k}" if step == 1 else f"{name}{k} * {step}")
        step *= size
    return " + ".join(terms)


def _pool_text(p: _Pool, back: bool) -> str:
    name = "dx = pool_back(dy, x, y" if back else "y = pool(x"
    return f"{name}; window={p.window}, stride={p.stride}, padding={p.padding}, mode={p.mode})"


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for s in sizes:
        product *= s
    return product


LIBRARY: Mapping[str, Build] = {
    "gemm": gemm,
    "conv": conv,
    "conv_back_w": conv_back_w,
    "conv_back_x": conv_back_x,
    "pool": pool,
    "pool_back": pool_back,
}
