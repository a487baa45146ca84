"""Pooling by itself: calls of cuDNN where it has Knet's geometry, kernels of our own elsewhere.

Before: `codegen.kernels` asks for the form of a step. After: `codegen.emit`. Pooling that is fused with its neighbours
is written by `codegen.chain_text`. Sizes are handed to cuDNN in reverse order: Knet's (W,H,C,N) is what it calls NCHW.
"""

from __future__ import annotations

from knetc.codegen.index import count
from knetc.codegen.library import sizes
from knetc.codegen.spec import FieldValue, KernelSpec, Module, Statement, describe, statement
from knetc.codegen.window import Pooling
from knetc.ir.plan import Buffer, Step
from knetc.ops.pool import MAX

_POOL_MODES = {
    "CUDNN_POOLING_MAX": "CUDNN_POOLING_MAX_DETERMINISTIC",
    "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING": "CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING",
    "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING": "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING",
}


def pool(module: Module, step: Step) -> list[Statement]:
    """y = pool(x) by cuDNN; empty where that has not its geometry."""
    (x,) = step.args
    p = Pooling(step.instr, x.type.dims, step.out.type.dims)
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
    """dx = pool_back(dy, x, y) by cuDNN, or by a kernel of our own."""
    dy, x, y = step.args
    p = Pooling(step.instr, x.type.dims, y.type.dims)
    if not p.in_cudnn():
        return _pool_back_kernel(module, step, p)
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


def _pool_shape(module: Module, p: Pooling, x: Buffer, y: Buffer) -> str:
    fields: tuple[tuple[str, FieldValue], ...] = (
        ("nd", len(p.dims)),
        ("x", sizes(p.dims)),
        ("y", sizes(p.out_dims)),
        ("window", tuple(p.window[::-1])),
        ("padding", tuple(p.padding[::-1])),
        ("stride", tuple(p.stride[::-1])),
        ("mode", _POOL_MODES[p.mode]),
    )
    return module.library("pool", fields, f"x {x.type}, y {y.type}")


def _pool_back_kernel(module: Module, step: Step, p: Pooling) -> list[Statement]:
    """One thread an element of dx, over the windows that it is in."""
    largest = p.mode == MAX
    names = ("dx", "dy", "x", "y") if largest else ("dx", "dy")
    real = module.real
    spec = KernelSpec(
        template=f"pool_{'max' if largest else 'average'}_back",
        stem=f"pool_back_{p.names()}",
        signature=(*(f"{'const ' if k else ''}{real}* {n}" for k, n in enumerate(names)), "int n"),
        formula=f"dx = pool_back(dy, x, y; {p})",
        fields=(("real", real), *p.fields()),
    )
    refs = ", ".join(module.ref(b) for b in (step.out, *step.args)[: len(names)])
    return [
        statement(
            "launch_each",
            kernel=module.kernel(spec, (step.instr,)),
            elements=count(step.out.type.dims),
            arguments=refs,
            value=describe(step),
        )
    ]
