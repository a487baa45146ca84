"""Matrix products for the processor: by columns where the batch is their columns, else a share of the result.

Before: `codegen.cpu.steps` asks for the form of a step. After: `codegen.cpu.functions`.
"""

from __future__ import annotations

from dataclasses import replace

from knetc.codegen.cpu.access import ALL, COLUMNS, Access, Action, Columns, share, strips
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.cpu.packed import COLUMNS as MOST
from knetc.codegen.cpu.packed import DEPTH, by_columns, key
from knetc.codegen.library import matrix
from knetc.codegen.spec import describe
from knetc.errors import KnetLimitation
from knetc.ir.plan import Buffer, Step


def product(module: CpuModule, step: Step) -> list[Action]:
    """`dot`."""
    module.features.add("blas")
    return [_by_columns(module, step) if by_columns(step) else _whole(module, step)]


def _may_be_one_hot(module: CpuModule, b: Buffer) -> bool:
    """Whether a one-hot matrix may stand there: an input that is a matrix of columns."""
    if b.kind != "input" or b.base is not None or len(b.type.dims) != 2 or not b.type.batched:
        return False
    module.features.add("rows")
    return True


def _input(module: CpuModule, b: Buffer) -> dict[str, str]:
    """An input that may be one-hot: its array, and where the rows of its 1s are."""
    return {"ones": f"m->rows[{module.plan.inputs.index(b)}]", "b": module.ref(b)}


def _sizes(step: Step) -> tuple[bool, bool, str, str, str]:
    """Whether the operands are transposed, and the sizes m, n, k of (m x k)(k x n) as C text."""
    ta, tb = bool(step.instr.attr("ta")), bool(step.instr.attr("tb"))
    a, b = (matrix(x.type.dims) for x in step.args)
    m, k = reversed(a) if ta else a
    return ta, tb, m, b[0] if tb else b[1], k


def _pitches(step: Step) -> dict[str, str]:
    """How far apart the columns of the operands and of the result are."""
    if any(x.pitch and len(x.type.dims) > 2 for x in (*step.args, step.out)):
        raise KnetLimitation("code for the processor that multiplies rows of a block of images", step.instr.span)
    a, b, out = (x.pitch or matrix(x.type.dims)[0] for x in (*step.args, step.out))
    return {"lda": str(a), "ldb": str(b), "ldc": str(out)}


def _column_fields(module: CpuModule, step: Step, columns: Columns) -> dict[str, str]:
    """What a product by columns is told."""
    a, b = step.args
    ta, _, m, _, k = _sizes(step)
    places = {"a": module.at(a, columns), "b": module.at(b, columns), "out": module.at(step.out, columns)}
    return {"ta": _flag(ta), "m": m, "n": columns.number, "k": k, **places, **_pitches(step)}


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _by_columns(module: CpuModule, step: Step) -> Action:
    """Each column of the result from the same one of the operand; with few columns, some rows of all."""
    a, b = step.args
    ta, _, m, _, _ = _sizes(step)
    one_hot = not ta and _may_be_one_hot(module, b)

    def write(columns: Columns) -> str:
        fields = _column_fields(module, step, columns)
        if not one_hot:
            return module.write("product", fields)
        return module.write("input_product", {**fields, **_input(module, b), "column": columns.of(b)})

    narrow = (Access(a, ALL), Access(b, ALL), Access(step.out, share(int(m)), True))
    wide = (Access(a, ALL), Access(b, COLUMNS), Access(step.out, COLUMNS, True))
    return Action(step, write, describe(step), wide, narrow, by_columns=True, dense=not one_hot)


def packed_product(module: CpuModule, step: Step) -> Action:
    """A product by columns in a loop over time, with its first operand as `pack` has laid it out."""
    packed = module.packed[key(step)]
    module.features.update(("blas", "packed"))
    room = min(DEPTH, int(_sizes(step)[4])) * MOST
    own = module.own_array(("columns",), "columns", room, "columns that packed matrices are multiplied by")

    def write(columns: Columns) -> str:
        fields = {"packed": module.ref(packed), "room": f"w.{own}", "depth": str(DEPTH), "most": str(MOST)}
        return module.write("packed_product", _column_fields(module, step, columns) | fields)

    action = _by_columns(module, step)
    read = Access(packed, ALL)
    return replace(action, text=write, wide=(*action.wide, read), narrow=(*action.narrow, read))


def pack(module: CpuModule, step: Step) -> Action:
    """Lays out the first operand of a product of a loop, before it."""
    a, packed = step.args[0], module.packed[key(step)]
    ta, _, m, _, k = _sizes(step)
    fields = {"ta": _flag(ta), "m": m, "k": k, "a": module.ref(a), "lda": _pitches(step)["lda"]}
    text = module.write("pack", {**fields, "packed": module.ref(packed), "depth": str(DEPTH)})
    accesses = (Access(a, ALL), Access(packed, share(int(m)), True))
    return Action(None, lambda columns: text, packed.name, accesses, accesses)


def _whole(module: CpuModule, step: Step) -> Action:
    """A product that takes all columns, or none: each thread computes some columns of the result, or some rows."""
    a, b = step.args
    ta, tb, m, n, k = _sizes(step)
    one_hot = tb and not ta and a.type.batched and _may_be_one_hot(module, b)
    by_rows = n == "N" or (m != "N" and int(m) > int(n) and not one_hot)
    split = (m if by_rows else n).replace("N", "1")

    def write(columns: Columns) -> str:
        fields = {
            "ta": _flag(ta),
            "tb": _flag(tb),
            "m": m,
            "n": n,
            "k": k,
            "a": module.at(a, columns.every),
            "b": module.at(b, columns.every),
            "out": module.sink(step.out),
            "split": "rows" if by_rows else "columns",
            "part": f"t.part({m if by_rows else n})",
            **_pitches(step),
        }
        if not one_hot:
            return module.write("whole_product", fields)
        return module.write("input_product_back", {**fields, **_input(module, b)})

    part = strips(int(split)) if by_rows else share(int(split))
    accesses = (Access(a, ALL), Access(b, ALL), Access(step.out, part, True))
    return Action(step, write, describe(step), accesses, accesses, dense=not one_hot)
