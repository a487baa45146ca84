"""Kernels of one thread an element: one operator, or a chain of them that fusion put together.

Before: `ir.plan`, whose `Kernel` is such a chain; `codegen.chain` writes its text. After: `codegen.functions`, which
writes the launches.
"""

from __future__ import annotations

from knetc.codegen.chain import write_chain
from knetc.codegen.index import count, rows_and_columns
from knetc.codegen.spec import Module, Statement, describe, statement
from knetc.ir.plan import Buffer, Kernel


def elementwise(module: Module, kernel: Kernel) -> list[Statement]:
    """The launch of a kernel over the elements of its last result."""
    key = _structure(kernel)
    chain = module.chains.get(key)
    if chain is None:
        chain = module.chains[key] = write_chain(module, kernel)
    inputs = kernel.inputs
    refs = [module.ref(b) for b in (*kernel.outputs, *(inputs[k] for k in chain.read))]
    last = next(s for s in reversed(kernel.steps) if s.out.kind != "register")
    if chain.shares:
        refs += ["mask", rows_and_columns(last.out.type.dims)[1]]
    name = module.kernel(chain.spec, [s.instr for s in kernel.steps])
    elements = count(last.out.type.dims)
    return [statement("launch_each", kernel=name, elements=elements, arguments=", ".join(refs), value=describe(last))]


def _structure(kernel: Kernel) -> tuple[object, ...]:
    """What decides whether two such kernels are one: everything but names."""
    number: dict[Buffer, int] = {}
    rows: list[object] = []
    for step in kernel.steps:
        places = tuple([number.setdefault(b, len(number)) for b in (*step.args, step.out)])
        kept = step.out.kind != "register"
        rows.append((step.instr.op, step.instr.attrs, places, kept, *[b.type for b in step.args], step.out.type))
    return tuple(rows)
