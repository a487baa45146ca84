"""Sums over dimensions for the processor.

Before: `codegen.cpu.steps` asks for the form of a step. After: the template `cpu/kernels/sumto`. A sum over the columns
alone is made row by row, once all columns are there; one over more than those by each thread over its own columns, and
then over the threads, in their order.
"""

from __future__ import annotations

from knetc.codegen.cpu.access import ALL, COLUMNS, OWN, Access, Action, Columns, share
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.index import Group, collapse, column_stride, extent
from knetc.codegen.spec import KernelSpec, describe
from knetc.errors import KnetLimitation
from knetc.ir.plan import Buffer, Step
from knetc.ir.types import BatchDim, N

_VARIABLES = ("i", "j", "k", "l", "o", "p", "q", "r")
_FEWEST_ROWS = 8  # with fewer rows than this, a sum over the columns is made by columns


def sumto(module: CpuModule, step: Step) -> list[Action]:
    """`sumto`."""
    (x,), out = step.args, step.out
    groups = collapse(x.type.dims, [out.type.dims])
    module.features.add("sums")
    if x.type.batched and not out.type.batched:
        rows = out.type.column
        alone = _over_columns_alone(groups, rows) and not (x.pitch and len(x.type.dims) > 2)
        return [_rows(module, step, rows)] if alone else _parts(module, step)
    return [_direct(module, step)]


def _over_columns_alone(groups: list[Group], rows: int) -> bool:
    return rows >= _FEWEST_ROWS and len(groups) == 2 and groups[0].kept[0] and groups[1].size == 1


def _rows(module: CpuModule, step: Step, rows: int) -> Action:
    """Over all columns: each thread some rows."""
    (x,) = step.args

    def write(columns: Columns) -> str:
        fields = {"out": module.sink(step.out), "x": module.at(x, columns.every), "pitch": x.pitch or rows}
        return module.write("sum_columns", {**fields, "part": f"t.part({rows})"})

    wide = (Access(x, ALL), Access(step.out, share(rows), True))
    return Action(step, write, describe(step), wide, (Access(x, share(rows)), wide[1]))


def _parts(module: CpuModule, step: Step) -> list[Action]:
    """Over rows and columns: each thread its own columns, then all that they have."""
    (x,), out = step.args, step.out
    size = out.type.column
    _check(out)
    member = module.own_array((step.instr.op, out), f"sum_{out.name}", size, f"its part of {out.name}")
    name = _function(module, step, zero=False)

    def add(columns: Columns) -> str:
        arguments = f"s.{member}, {module.at(x, columns)}, t.rows(1), {columns.number}"
        return module.write("call", {"function": name, "arguments": arguments})

    image = len(x.type.dims) >= 4
    wide = (Access(x, COLUMNS), Access(member, OWN, True))
    narrow = (Access(x, ALL), Access(member, share(1), True))
    added = Action(step, add, f"{out.name}, of these columns", wide, narrow, True, image)
    return [zeroed(module, step, member, size, 1), added, gathered(module, step, member, size, size)]


def zeroed(module: CpuModule, step: Step, member: str, size: int, units: int) -> Action:
    """Zeroes an array that each thread has, before anything is added to it. With few columns, all threads share one."""

    def write(columns: Columns) -> str:
        rows = f"t.rows({units})" + (f".times({size // units})" if size != units else "")
        return module.write("zero", {"target": f"s.{member}", "size": size, "rows": rows, "columns": "1"})

    module.features.add("move")
    narrow = (Access(member, share(units), True),)
    return Action(step, write, "", (Access(member, OWN, True),), narrow, True)


def gathered(module: CpuModule, step: Step, member: str, size: int, units: int) -> Action:
    """Adds up what the threads have."""

    def write(columns: Columns) -> str:
        part = f"t.part({units})" + (f".times({size // units})" if size != units else "")
        return module.write("sum_parts", {"out": module.sink(step.out), "member": member, "part": part})

    module.features.add("sums")
    written = Access(step.out, share(units), True)
    return Action(step, write, describe(step), (Access(member, ALL), written), (Access(member, share(units)), written))


def _direct(module: CpuModule, step: Step) -> Action:
    """Within each column, or where there are no columns: straight into the result."""
    (x,), out = step.args, step.out
    batched = out.type.batched
    _check(out)
    name = _function(module, step, zero=True)

    def write(columns: Columns) -> str:
        arguments = f"{module.at(out, columns)}, {module.at(x, columns)}, t.{'rows' if batched else 'part'}(1)"
        return module.write(
            "call", {"function": name, "arguments": f"{arguments}, {columns.number if batched else '1'}"}
        )

    narrow = (Access(x, ALL), Access(out, share(1), True))
    wide = (Access(x, COLUMNS), Access(out, COLUMNS, True)) if batched else narrow
    return Action(step, write, describe(step), wide, narrow, batched, batched and len(x.type.dims) >= 4)


def _function(module: CpuModule, step: Step, zero: bool) -> str:
    """The function that adds the elements of some columns to the sums."""
    (x,), out, real = step.args, step.out, module.real
    groups = _row_groups(x, out)
    heads = [f"for (int {v} = 0; {v} < {g.size}; {v}++)" for v, g in zip(_VARIABLES, groups, strict=False)]
    sums, step_size = [], 1
    for v, g in zip(_VARIABLES, groups, strict=False):
        if g.kept[0]:
            sums.append(v if step_size == 1 else f"{step_size} * {v}")
            step_size *= g.size
    if out.type.batched:
        step_size = column_stride(out) if out.pitch else step_size
        sums.append("c" if step_size == 1 else f"{step_size} * c")
    terms, stride = [], 1
    for k, (v, g) in enumerate(zip(_VARIABLES, groups, strict=False)):
        stride = x.pitch if x.pitch and k == int(x.type.dims[0] != 1) else stride
        terms.append(v if stride == 1 else f"{stride} * {v}")
        stride *= g.size
    if N in x.type.dims:
        stride = column_stride(x) if x.pitch else stride
        terms.append("c" if stride == 1 else f"{stride} * c")
    inner = bool(groups) and not groups[0].kept[0]
    fields = (
        ("real", real),
        ("heads", tuple(reversed(heads[1:] if inner else heads))),
        ("inner", heads[0] if inner else ""),
        ("sum", " + ".join(reversed(sums)) or "0"),
        ("element", " + ".join(reversed(terms)) or "0"),
        ("size", out.type.column),
        ("pitch", column_stride(out)),
        ("zero", "yes" if zero else ""),
        ("batched", "yes" if out.type.batched else ""),
    )
    shape = "x".join(f"{g.size}" if g.kept[0] else f"sum{g.size}" for g in groups) or "1"
    if N in x.type.dims:
        shape += "xN" if out.type.batched else "xsumN"
    signature = (f"{real}* sum", f"const {real}* x", "knet_range rows", "int columns")
    formula = "sum = sumto(x): the sum over dimensions along which a value was repeated"
    if not zero:
        formula = "sum += sumto(x): adds up along dimensions along which a value was repeated"
    spec = KernelSpec("cpu/kernels/sumto", f"sumto_{shape}", signature, formula, fields)
    return module.kernel(spec, (step.instr,))


def _row_groups(x: Buffer, out: Buffer) -> list[Group]:
    """The groups of the dimensions other than the columns, fastest first."""
    dims = x.type.dims[:-1] if isinstance(x.type.dims[-1], BatchDim) else x.type.dims
    return collapse(dims, [out.type.dims[: len(dims)]], x.pitch is not None)


def _check(out: Buffer) -> None:
    """KnetLimitation for a sum written to rows of a block, unless these follow each other within a column."""
    if out.pitch and (len(out.type.dims) > 2 if out.type.batched else extent(out)[1] > 1):
        raise KnetLimitation(f"code for the processor that sums to {out.name}, rows of a block")
