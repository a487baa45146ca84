"""`--report` and `--emit plan`: what the emitted file is made of, as tables.

Before: a `training` program. After: the command, which prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from knetc.codegen.describe import memory_lines, size_text, table
from knetc.codegen.functions import device_module, initial, trained
from knetc.ir.footprint import bound_bytes, peak_bytes, unshared_bytes
from knetc.ir.passes.epilogue import Reasons, reasons
from knetc.ir.plan import REPORT_BATCH, Kernel, PhasePlan, Plan, Step, Unit
from knetc.ir.program import Program
from knetc.options import Options


def report(program: Program, options: Options) -> str:
    """A table of kernels, one of library calls, and one of buffers with the peak memory and its lower bound."""
    module, _ = device_module(program, options, lambda name, fields: "")
    plan = module.plan
    list(initial(module))
    trained(module)
    kernels = [(f"{k.name}_kernel", str(len(k.instrs)), k.spec.formula) for k in module.kernels.values()]
    steps = [s for v in plan.variants for s in (*v.forward, *(t for b in v.backward for t in b.steps))]
    epilogues = [tuple(text.rsplit(": ", 1)) for _, text in module.products.values()]
    library = [(c.comment,) for c in (*module.convs.values(), *module.pools.values())]
    lines = [f"{program.name}: {len(plan.variants)} variant(s), {len(steps)} steps, {len(kernels)} kernels", ""]
    lines += table(("kernel", "used by", "computes"), kernels)
    if epilogues:
        lines += ["", *table(("product with an epilogue", "cuBLASLt's"), epilogues)]
    if library:
        lines += ["", *table(("cuDNN shapes",), library)]
    lines += ["", *memory_lines(plan)]
    fixed, column = peak_bytes(plan, 0), peak_bytes(plan, 1) - peak_bytes(plan, 0)
    lines.append(f"Of it whatever the batch: {size_text(fixed)}; for each column: {size_text(column)}.")
    return "\n".join(lines)


def show_plan(program: Program, options: Options) -> str:
    """The plan as text: buffers, then the steps of every function in order."""
    module, _ = device_module(program, options, lambda name, fields: "")
    plan = module.plan
    lines = [f"plan {program.name}", ""]
    lines += table(("kind", "buffer", "type"), [(b.kind, b.name, str(b.type)) for b in plan.buffers])
    for v in plan.variants:
        label = " ".join(v.label) or "no condition"
        none = [Reasons({}, {})] * (1 + len(v.backward))
        alone, *backs = reasons(program, v.variant) if options.level >= 2 else none
        lines += ["", f"forward ({label})", *chain(*(_unit(u, alone.single) for u in v.forward))]
        lines += _phases(v.phases, f"forwseq ({label})", alone.whole)
        for b, why in zip(v.backward, backs, strict=True):
            lines += ["", f"backward from {b.loss} ({label})", *chain(*(_unit(u, why.single) for u in b.steps))]
            lines += [f"  gradient of input {index}: {at.name}" for index, at in b.inputs]
            lines += _phases(b.phases, f"backseq from {b.loss} ({label})", why.whole)
    lines += ["", *_sizes(plan)]
    return "\n".join(lines) + "\n"


def _phases(phases: PhasePlan | None, title: str, alone: Mapping[str, str]) -> Iterator[str]:
    """The lists over a whole sequence; `alone`: as for a unit."""
    for where, units in zip(("before the loop", "the loop", "after it"), phases.lists if phases else (), strict=False):
        yield from ("", f"{title}, {where}", *chain(*(_unit(u, alone) for u in units)))


def _unit(unit: Unit, alone: Mapping[str, str]) -> list[str]:
    """A unit in lines; `alone`: why a product has no epilogue."""
    if isinstance(unit, Kernel):
        return ["  kernel {", *(f"  {_step(s)}" for s in unit.steps), "  }"]
    why = alone.get(unit.instr.out)
    return [_step(unit) + (f"  # no epilogue: {why}" if why else "")]


def _step(step: Step) -> str:
    wanted = "" if step.wanted is None else f"  for input {', '.join(map(str, sorted(step.wanted)))}"
    mark = " (register)" if step.out.kind == "register" else ""
    return f"  {step.out.name}{mark} = {step.instr.op}({', '.join(b.name for b in step.args)}){wanted}"


def _sizes(plan: Plan) -> list[str]:
    peak, unshared, bound = (f(plan, REPORT_BATCH) for f in (peak_bytes, unshared_bytes, bound_bytes))
    return [f"batch {REPORT_BATCH}: {peak} bytes, {unshared} without sharing, live at once {bound}"]
