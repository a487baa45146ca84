"""What may be computed with a matrix product in one call of the library: a bias, a relu, a bias's gradient.

`passes.epilogue` puts such instructions into one kernel with their product; `ir.verify` and `codegen.epilogue` read
here what a kernel with a product is. A back end that runs products by themselves takes the program
`without_epilogues`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from knetc import ops
from knetc.ir.program import Instr, Phases, Program, Variant
from knetc.ir.types import Type
from knetc.ops.base import Library
from knetc.record import replace

BIAS, RELU, BIAS_GRADIENT = "bias", "relu", "bias_gradient"
# What follows a product in one call, in order.
FORMS = ((BIAS,), (BIAS, RELU), (RELU,), (BIAS_GRADIENT,))


def is_product(instr: Instr) -> bool:
    """Whether the instruction is a matrix product."""
    return ops.registry()[instr.op].cuda == Library("gemm", apart=True)


def form(rest: Iterable[Instr]) -> tuple[str, ...]:
    """What the instructions are to a product, in order; empty for one that an epilogue has no word for."""
    return tuple(ops.registry()[i.op].epilogue for i in rest)


def split(kernel: Sequence[Instr]) -> tuple[Instr | None, list[Instr]]:
    """The product of a kernel, None where it has none, and the other members."""
    found = next((i for i in kernel if is_product(i)), None)
    return found, [i for i in kernel if i is not found]


def bias_of(rest: Sequence[Instr], product: str) -> str | None:
    """The value that the first of the members adds to the product, if it adds one."""
    first = rest[0]
    if form([first]) != (BIAS,) or product not in first.args:
        return None
    return first.args[1] if first.args[0] == product else first.args[0]


def is_vector(of: Type | None, rows: object) -> bool:
    """Whether a value has one number for each of `rows` rows, whatever the column."""
    return of is not None and not of.batched and of.dims[:1] == (rows,) and of.column == rows


def fits(product: Instr, rest: Sequence[Instr], types: Mapping[str, Type | None]) -> str:
    """Why the members cannot be the product's epilogue by their operators, shapes and operands; empty where they can.

    One row is left out: the vector is a single number then, and libraries have had faults there.
    """
    kinds = form(rest)
    if kinds not in FORMS:
        return "more is computed in the kernel that reads it"
    of = types[rest[0].args[0]] if kinds == (BIAS_GRADIENT,) else product.type
    if of is None or len(of.dims) != 2 or of.dims[0] == 1 or not isinstance(of.dims[0], int):
        return "it is no matrix of several rows"
    if kinds == (BIAS_GRADIENT,):
        straight = product.args[0] == rest[0].args[0] and not product.attr("ta") and product.attr("tb")
        return "" if straight and is_vector(rest[0].type, of.dims[0]) else "no sum of the columns goes with it"
    bias = bias_of(rest, product.out)
    if kinds[0] == BIAS and (bias in (None, product.out) or not is_vector(types[str(bias)], of.dims[0])):
        return "what is added is not a number for each row"
    before = product.out
    for i in rest:
        if before not in i.args:
            return "more is computed in the kernel that reads it"
        before = i.out
    return ""


def without_epilogues(program: Program) -> Program:
    """The program with every product by itself: what its epilogue would compute is a kernel, or one instruction."""
    return replace(program, variants=tuple(_apart(v) for v in program.variants))


def _apart(variant: Variant) -> Variant:
    backward = tuple(replace(b, body=_each_apart(b.body), phases=_phases_apart(b.phases)) for b in variant.backward)
    forward = _each_apart(variant.forward)
    return replace(variant, forward=forward, phases=_phases_apart(variant.phases), backward=backward)


def _phases_apart(phases: Phases | None) -> Phases | None:
    return phases and Phases(*map(_each_apart, phases.lists))


def _each_apart(body: Sequence[Instr]) -> tuple[Instr, ...]:
    found: list[Instr] = []
    for kernel, group in groupby(body, key=attrgetter("kernel")):
        members = list(group)
        product, rest = split(members) if kernel else (None, members)
        if product is None:
            found += members
        else:
            found += [replace(i, kernel=kernel if i is not product and len(rest) > 1 else 0) for i in members]
    return tuple(found)
