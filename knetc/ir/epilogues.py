"""What may be computed with a matrix product in one call of the library: a bias, a relu, a bias's gradient. And what a
loss may be computed with: its gradient, in one kernel.

`passes.epilogue` puts such instructions into one kernel; `ir.verify`, `codegen.epilogue` and `codegen.chain` read here
what such a kernel is. A back end that runs products and losses by themselves takes the program `without_epilogues`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from knetc import ops
from knetc.ir.program import Instr, Phases, Program, Variant
from knetc.ir.types import Type
from knetc.ops.base import Elementwise, Kernel, Library
from knetc.record import replace

BIAS, RELU, BIAS_GRADIENT = "bias", "relu", "bias_gradient"
# What follows a product in one call, in order.
FORMS = ((BIAS,), (BIAS, RELU), (RELU,), (BIAS_GRADIENT,))


def is_product(instr: Instr) -> bool:
    """Whether the instruction is a matrix product."""
    return ops.registry()[instr.op].cuda == Library("gemm", apart=True)


def is_elementwise(instr: Instr) -> bool:
    """Whether the instruction computes each element of its result by an expression."""
    return isinstance(ops.registry()[instr.op].cuda, Elementwise)


def is_loss(instr: Instr) -> bool:
    """Whether the instruction is a sum over all elements that a kernel over them can compute."""
    cuda = ops.registry()[instr.op].cuda
    return isinstance(cuda, Kernel) and bool(cuda.term)


def fits_loss(loss: Instr, rest: Sequence[Instr]) -> bool:
    """Whether a loss can be computed by the kernel of these instructions, which are elementwise: they read what it
    reads, at the same elements.
    """
    made = {i.out for i in rest}
    read = {a for i in rest for a in i.args}
    return made.isdisjoint(loss.args) and read.issuperset(loss.args)


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
    """The program with every product and loss by itself: what else its kernel computes is one, or one instruction."""
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
        alone = [i for i in members if is_product(i) or is_loss(i)] if kernel else []
        rest = kernel if len(members) - len(alone) > 1 else 0
        found += [replace(i, kernel=0 if i in alone else rest) for i in members]
    return tuple(found)
