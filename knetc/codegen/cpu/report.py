"""`--report` of an emitted C++ file: its functions, and the memory that it takes, as tables.

Before: `codegen.cpu.functions`, whose module has the names. After: `codegen.cpu.emit`, the command and `net.report()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from knetc.codegen.cpu.functions import host_module, initial
from knetc.codegen.cpu.lines import Function
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.describe import buffer_lines, size_text, table
from knetc.ir.footprint import step_bytes
from knetc.ir.plan import ELEMENT_BYTES, REPORT_BATCH, Buffer
from knetc.ir.program import Program
from knetc.options import Options


def report(program: Program, options: Options) -> str:
    """A table of functions over elements, and one of arrays with the memory that they take."""
    module, found = host_module(program, options, lambda name, fields: "")
    list(initial(module))
    kernels = [(k.name, str(len(k.instrs)), k.spec.formula) for k in module.kernels.values()]
    lines = [f"{program.name}, as C++: {len(module.plan.variants)} variant(s), {len(kernels)} kernels", ""]
    lines += table(("kernel", "used by", "computes"), kernels)
    lines += ["", *memory_lines(module, found)]
    fixed, column = model_bytes(module, 0), model_bytes(module, 1) - model_bytes(module, 0)
    lines.append(f"Of it whatever the batch: {size_text(fixed)}; for each column: {size_text(column)}.")
    return "\n".join(lines)


def memory_lines(module: CpuModule, found: Sequence[Function]) -> Iterator[str]:
    """What a model takes by itself, with every array that it has; and what for each thread."""
    held = [b for b in module.plan.buffers if b not in module.outside]
    threads = sum(w.elements for w in module.worker.values()) * ELEMENT_BYTES[module.dtype]
    more = f", and {size_text(threads)} for each thread" if threads else ""
    yield f"Memory with a batch of {REPORT_BATCH}: {size_text(model_bytes(module, REPORT_BATCH))}{more}."
    yield "What a call is given stands with the caller; steps on the stack have copies of inputs that are read back."
    yield from buffer_lines(held)
    if module.plan.states:
        yield f"Each step on the stack takes {size_text(step_bytes(module.plan, REPORT_BATCH))} more."
    if any(f.phase for f in found):
        alone = module.of_all_steps - module.sharing.places.keys()
        step = step_bytes(module.plan, REPORT_BATCH) + sum(b.bytes(REPORT_BATCH) for b in alone)
        step += shared_bytes(module, REPORT_BATCH)
        yield f"A sequence that runs at once takes {size_text(step)} for each of its steps."


def model_bytes(module: CpuModule, batch: int) -> int:
    """The bytes of the arrays that a model has with room for `batch` columns: all by themselves, those of the frame of
    the variant whose frame is the largest.
    """
    framed = module.plan.framed
    apart = module.outside | framed | module.sharing.places.keys()
    fixed = sum(b.bytes(batch) for b in module.plan.buffers if b not in apart)
    return fixed + _frame_bytes(module, batch) + shared_bytes(module, batch)


def shared_bytes(module: CpuModule, columns: int) -> int:
    """The bytes of the memory that values over whole sequences share, with room for so many columns."""
    return module.sharing.column * columns * ELEMENT_BYTES[module.dtype]


def _frame_bytes(module: CpuModule, batch: int) -> int:
    return max((sum(_held(b, batch) for b in v.frame) for v in module.plan.variants), default=0)


def _held(b: Buffer, batch: int) -> int:
    return 0 if b.kind == "input" else b.bytes(batch)
