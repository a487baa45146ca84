"""Each step of the plan as statements for the processor, with the part of every array that a thread touches.

Before: `ir.plan`. After: `codegen.cpu.functions`. As for CUDA, which form an operator takes is read from its
`OpDef.cuda`, and the builders here go by the name of its template, call or piece, never by that of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import knetc.ops  # noqa: F401  (fills the registry)
from knetc.codegen.chain import structure
from knetc.codegen.cpu.access import ALL, COLUMNS, Access, Action, Columns, Part, share
from knetc.codegen.cpu.chain import CpuChain, write_chain
from knetc.codegen.cpu.fill import fill_call
from knetc.codegen.cpu.images import CALLS as IMAGE_CALLS
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.cpu.products import product
from knetc.codegen.cpu.sums import sumto
from knetc.codegen.index import extent, rows_and_columns
from knetc.codegen.spec import KernelSpec, describe, epsilon
from knetc.errors import KnetInternalError
from knetc.ir.plan import Buffer, Kernel, Step, Unit
from knetc.ir.program import MASK
from knetc.ir.types import N, Type
from knetc.ops import base
from knetc.ops.base import Elementwise, Library, NoCode, Piece, registry

Build = Callable[[CpuModule, Step], "list[Action]"]


def lower_unit(module: CpuModule, unit: Unit) -> list[Action]:
    """The statements that run one step, or several as one function."""
    if isinstance(unit, Kernel):
        return [chain(module, unit)]
    return _lower_step(module, unit)


def _lower_step(module: CpuModule, step: Step) -> list[Action]:
    cuda = registry()[step.instr.op].cuda
    if step.instr.op == "copy" and step.out in module.pitched:
        return [put_columns(module, step)]
    if isinstance(cuda, Elementwise | Piece):
        return [chain(module, Kernel((step,), step.wanted))]
    name = cuda.call if isinstance(cuda, Library) else cuda.template if isinstance(cuda, base.Kernel) else ""
    if name in STEPS:
        return STEPS[name](module, step)
    if isinstance(cuda, NoCode):
        raise KnetInternalError(f"{step.instr.op} is not a step of a plan", step.instr.span)
    raise KnetInternalError(f"{step.instr.op} has no code for the processor", step.instr.span)


# --- chains -----------------------------------------------------------------------------------------------------------


def chain(module: CpuModule, kernel: Kernel) -> Action:
    """The call of a chain's function."""
    key = (structure(kernel), tuple(b in module.gradients for b in kernel.outputs))
    text = module.cpu_chains.get(key)
    if text is None:
        text = module.cpu_chains[key] = write_chain(module, kernel)
    name = module.kernel(text.spec, [s.instr for s in kernel.steps])
    last = next(s for s in reversed(kernel.steps) if s.out.kind != "register")
    inputs = [kernel.inputs[k] for k in text.read]
    batched = last.out.type.batched
    total = rows_and_columns(last.out.type.dims)[1]
    wide, narrow = _chain_accesses(kernel, inputs, text, batched)
    mask = Buffer(MASK, "mask", Type(module.dtype, (N,)))

    def write(columns: Columns) -> str:
        arguments = [module.target(b, columns) for b in kernel.outputs] + [module.at(b, columns) for b in inputs]
        if text.shares:
            number = columns.batch if total == "N" else total
            arguments += [module.at(mask, columns), f"({module.real})(1.0 / {number})"]
        rows = f"t.{'rows' if batched else 'part'}({text.units})"
        arguments.append(rows if text.scale == 1 else f"{rows}.times({text.scale})")
        if text.columns:
            arguments.append(columns.number if batched else total)
        return module.write("call", {"function": name, "arguments": ", ".join(arguments)})

    image = batched and any(len(b.type.dims) >= 4 for b in (*kernel.outputs, *inputs))
    return Action(kernel, write, describe(last), wide, narrow, batched, image)


def _chain_accesses(
    kernel: Kernel, inputs: Sequence[Buffer], text: CpuChain, batched: bool
) -> tuple[tuple[Access, ...], tuple[Access, ...]]:
    """What a chain touches in a wide and in a narrow call. Only arrays of its own dims are read in shares."""
    whole = share(text.units)
    dims = {s.out.type.dims for s in kernel.steps}
    outputs = tuple(Access(b, whole, True) for b in kernel.outputs)

    def read(b: Buffer) -> Part:
        images = len(b.type.dims) >= 4 and b.type.column % text.units == 0 and b.type.dims[-2] == text.units
        return whole if b.type.dims in dims or images else ALL

    narrow = (*(Access(b, read(b)) for b in inputs), *outputs)
    if not batched:
        return narrow, narrow
    wide = (*(Access(b, COLUMNS if b.type.batched else ALL) for b in inputs),)
    return (*wide, *(Access(b, COLUMNS, True) for b in kernel.outputs)), narrow


# --- losses -----------------------------------------------------------------------------------------------------------

_LOSSES: Mapping[str, str] = {
    "quadloss": "the sum of mask * (p - gold)^2 / 2",
    "softloss": "the sum of -mask * gold * log(p)",
    "zeroone": "the sum of mask over the columns whose largest elements stand in different rows",
}


def loss(module: CpuModule, step: Step) -> list[Action]:
    """A loss's value: each thread's sum, which the call adds up at its end."""
    p, gold, mask = step.args
    rows, columns = rows_and_columns(p.type.dims)
    template, real = step.instr.op, module.real
    signature = (*(f"const {real}* {name}" for name in ("p", "gold", "mask")), "knet_range rows", "int columns")
    fields = (("real", real), ("epsilon", epsilon(module.dtype)), ("size", rows))
    spec = KernelSpec(f"cpu/kernels/{template}", template, signature, _LOSSES[template], fields, "double")
    name = module.kernel(spec, (step.instr,))
    batched = p.type.batched

    def write(at: Columns) -> str:
        arguments = [*(module.at(b, at) for b in (p, gold, mask)), f"t.{'rows' if batched else 'part'}(1)"]
        arguments.append(at.number if batched else columns)
        return module.write("loss", {"function": name, "arguments": ", ".join(arguments)})

    arrays = (p, gold, mask)
    one = tuple(Access(b, ALL if b.type.batched or not batched else share(1)) for b in arrays)
    wide = tuple(Access(b, COLUMNS) for b in arrays) if batched else one
    return [Action(step, write, describe(step), wide, one, batched)]


# --- moving -----------------------------------------------------------------------------------------------------------


def moved(template: str, value: str) -> Build:
    """A statement that copies or zeroes an array, row by row."""

    def build(module: CpuModule, step: Step) -> list[Action]:
        out, batched = step.out, step.out.type.batched
        size = out.type.column
        part = share(size)
        narrow = (*(Access(b, part) for b in step.args), Access(out, part, True))
        wide = tuple(Access(a.what, COLUMNS, a.writes) for a in narrow) if batched else narrow
        text = value.format(**dict(step.instr.attrs)) or describe(step)

        def write(columns: Columns) -> str:
            fields = {
                "target": module.at(out, columns),
                "source": module.at(step.args[0], columns) if step.args else "",
                "size": size,
                "rows": f"t.{'rows' if batched else 'part'}({size})",
                "columns": columns.number if batched else "1",
                "later": "(m->later || step + 1 < m->steps)" if columns.part else "m->later",
            }
            return module.write(template, fields)

        module.features.add("move")
        return [Action(step, write, text, wide, narrow, batched)]

    return build


def put_columns(module: CpuModule, step: Step) -> Action:
    """A gradient whose columns lie apart, from the value that has been computed for it."""
    (source,) = step.args
    rows, columns, pitch = extent(source)
    fields = {"out": module.sink(step.out), "source": module.ref(source), "rows": rows, "columns": columns}
    text = module.write("put_columns", {**fields, "pitch": pitch})
    accesses = (Access(source, ALL), Access(step.out, share(columns), True))
    module.features.add("sink")
    return Action(step, lambda columns: text, describe(step), accesses, accesses)


def random(module: CpuModule, step: Step) -> list[Action]:
    """`rnd`: filled anew at every call, keyed by the call's number and by where the columns stand in the minibatch."""
    out, batched = step.out, step.out.type.batched
    size = out.type.column

    def fill(to: Columns, first: str, call: str) -> str:
        at = f"{size} * (m->columns_before + {first})" if batched else "0"
        count = f"t.rows(1).size() * {size} * {to.number}" if batched else f"t.part(1).size() * {size}"
        return fill_call(module, step.instr, out, module.at(out, to), at, count, call)

    def write(columns: Columns) -> str:
        if columns.part != "all":
            return fill(columns, columns.first, "m->call + step" if columns.part else "m->call")
        one = fill(Columns("from", "count"), "first", "call")
        return module.write("each_step", {"columns": f"{columns.first}, {columns.number}", "fill": one})

    write(Columns("c", "n"))  # so that the features are known
    narrow = (Access(out, share(1), True),)
    return [Action(step, write, describe(step), (Access(out, COLUMNS, True),) if batched else narrow, narrow, batched)]


STEPS: Mapping[str, Build] = {
    **IMAGE_CALLS,
    "gemm": product,
    "sumto": sumto,
    "quadloss": loss,
    "softloss": loss,
    "zeroone": loss,
    "rnd": random,
    "zeros": moved("zero", ""),
    "state": moved("copy", "{var}, as the call before left it"),
    "keep": moved("copy", "{var} for the next call"),
    "dstate": moved("take_state_gradient", "d:{var} from the step after"),
    "dkeep": moved("hand_state_gradient", "d:{var} for the step before"),
}
