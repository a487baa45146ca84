"""Matrix products with an epilogue: one call of cuBLASLt, and what runs where that has no algorithm for the call.

Before: `codegen.kernels` asks for the form of a kernel with a product in it (`ir.epilogues`). After: `codegen.emit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from knetc.codegen.library import product_fields
from knetc.codegen.spec import Module, Statement, describe, statement
from knetc.errors import KnetInternalError
from knetc.ir.epilogues import BIAS, BIAS_GRADIENT, RELU, bias_of, form, is_product
from knetc.ir.plan import Buffer, Kernel, Step, Unit
from knetc.record import replace

# What cuBLASLt calls each form. In BGRADA the vector is a result: the sum over the columns of the first operand.
EPILOGUES: Mapping[tuple[str, ...], str] = {
    (BIAS,): "BIAS",
    (BIAS, RELU): "RELU_BIAS",
    (RELU,): "RELU",
    (BIAS_GRADIENT,): "BGRADA",
}

Lower = Callable[[Module, Unit], "list[Statement]"]


def product(module: Module, kernel: Kernel, lower: Lower) -> list[Statement]:
    """The call of a kernel with a product, and behind a condition the rest of it, lowered by `lower`."""
    of = next(s for s in kernel.steps if is_product(s.instr))
    rest = [s for s in kernel.steps if s is not of]
    kinds = form(s.instr for s in rest)
    if kinds not in EPILOGUES:
        raise KnetInternalError(f"no epilogue is {', '.join(kinds)}", of.instr.span)
    gradient = kinds == (BIAS_GRADIENT,)
    out = of.out if gradient else rest[-1].out
    module.features.update(("cublas", "epilogue"))
    fields = {"epilogue": EPILOGUES[kinds], "vector": _vector(module, of, rest), **product_fields(module, of, out)}
    number = module.product(tuple(fields.values()), f"{_text(of, rest)}: {EPILOGUES[kinds]}")
    call = statement(
        "product",
        number=number,
        **fields,
        value=", ".join(describe(s) for s in (of, *rest) if s.out.kind != "register"),
    )
    return [call, *_otherwise(module, number, rest if gradient else _in_place(of, rest), lower)]


def _vector(module: Module, of: Step, rest: list[Step]) -> str:
    """The bias, or where its gradient goes."""
    if form([rest[0].instr]) == (BIAS_GRADIENT,):
        return module.ref(rest[0].out)
    bias = bias_of([rest[0].instr], of.instr.out)
    return "nullptr" if bias is None else module.ref(rest[0].args[rest[0].instr.args.index(bias)])


def _in_place(of: Step, rest: list[Step]) -> list[Step]:
    """The steps after a product alone: it stands where the last of them leaves its result, and they read it there."""
    out = rest[-1].out
    alone = replace(out, name=of.out.name, base=out.root)
    changed: dict[Buffer, Buffer] = {of.out: alone}
    return [replace(s, args=tuple(changed.get(a, a) for a in s.args)) for s in rest]


def _otherwise(module: Module, number: int, rest: list[Step], lower: Lower) -> list[Statement]:
    """The rest as statements that run where the call was of the product alone."""
    unit = rest[0] if len(rest) == 1 else Kernel(tuple(rest), rest[0].wanted)
    texts = [(s, dict(s.fields)) for s in lower(module, unit)]
    for s, _ in texts:
        module.features.add(s.template)
    return [
        statement("otherwise", number=number, statement=module.paste(f"host/{s.template}.cu.j2", fields))
        for s, fields in texts
    ]


def _text(of: Step, rest: list[Step]) -> str:
    """What is computed, by the names of the values."""
    a, b = (x.name for x in of.args)
    text = f"{a} * {b}"
    for s in rest:
        if form([s.instr]) == (BIAS_GRADIENT,):
            return f"{of.out.name} = {text}' with {s.out.name}"
        bias = bias_of([s.instr], of.instr.out)
        text = f"relu({text})" if bias is None else f"{text} .+ {bias}"
    return f"{rest[-1].out.name} = {text}"
