"""Kernels over the elements of a value: one operator, or a chain of them that fusion put together.

Before: `ir.plan`, whose `Kernel` is such a chain; `codegen.chain_text` writes its text. After: `codegen.functions`,
which writes the launches.
"""

from __future__ import annotations

from knetc.codegen.chain_text import write_chain
from knetc.codegen.index import count, rows_and_columns
from knetc.codegen.spec import Module, Statement, describe, statement
from knetc.ir.plan import Buffer, Kernel, Step

MAX_THREADS = 256


def chain(module: Module, kernel: Kernel) -> list[Statement]:
    """The launch of a chain: a thread for each element of its last result, or a block for each column."""
    key = structure(kernel)
    text = module.chains.get(key)
    if text is None:
        text = module.chains[key] = write_chain(module, kernel)
    inputs = kernel.inputs
    last = next(s for s in reversed(kernel.steps) if s.out.kind != "register")
    rows, columns = rows_and_columns(last.out.type.dims)
    arguments = [module.ref(b) for b in (*kernel.outputs, *(inputs[k] for k in text.read))]
    if text.shares:
        arguments += ["mask", module.batch if columns == "N" else columns]
    name = module.kernel(text.spec, [s.instr for s in kernel.steps])
    if text.by_column:
        threads = min(MAX_THREADS, (rows + 31) // 32 * 32)
        given = ", ".join((*arguments, str(rows)))
        return [
            statement("launch", kernel=name, blocks=columns, threads=threads, arguments=given, value=describe(last))
        ]
    elements, given = count(last.out.type.dims), ", ".join(arguments)
    return [statement("launch_each", kernel=name, elements=elements, arguments=given, value=describe(last))]


def chain_with_loss(module: Module, kernel: Kernel, loss: Step, formula: str) -> Statement:
    """The launch of a chain whose kernel leaves the partial sums of a loss too; `formula`: what these are."""
    key = structure(Kernel((loss, *kernel.steps)))
    text = module.chains.get(key)
    if text is None:
        text = module.chains[key] = write_chain(module, kernel, loss, formula)
    dims = loss.args[0].type.dims
    columns = rows_and_columns(dims)[1]
    elements = count(dims)
    given = [module.ref(b) for b in (*kernel.outputs, *(kernel.inputs[k] for k in text.read))]
    arguments = ["m->partials", *given, "mask", module.batch if columns == "N" else columns, elements]
    return statement(
        "launch",
        kernel=module.kernel(text.spec, [loss.instr, *(s.instr for s in kernel.steps)]),
        blocks=f"knet_blocks({elements})",
        threads=MAX_THREADS,
        arguments=", ".join(arguments),
        value=", ".join(describe(s) for s in kernel.steps if s.out.kind != "register"),
    )


def structure(kernel: Kernel) -> tuple[object, ...]:
    """What decides whether two such kernels are one: everything but names."""
    number: dict[Buffer, int] = {}
    rows: list[object] = []
    for step in kernel.steps:
        places = tuple([number.setdefault(b, len(number)) for b in (*step.args, step.out)])
        kept = step.out.kind != "register"
        shapes = [(b.type, b.pitch) for b in (*step.args, step.out)]
        rows.append((step.instr.op, step.instr.attrs, places, kept, *shapes))
    return tuple(rows)
