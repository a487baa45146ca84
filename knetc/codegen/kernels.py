"""Each step of the plan as a kernel launch or a library call: every decision of the generator.

Before: `ir.plan`. After: `codegen.emit`. Which form an operator takes is read from its `OpDef.cuda`; the builders here
are by the name of the template, never of the operator. No reduction uses atomics: the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import knetc.ops  # noqa: F401  (fills the registry)
from knetc.codegen.chain import MAX_THREADS, chain, chain_with_loss
from knetc.codegen.chain_text import loss_term
from knetc.codegen.epilogue import product
from knetc.codegen.fill import fill
from knetc.codegen.index import Group, buffer_index, collapse, count, part_count, part_index, rows_and_columns
from knetc.codegen.library import LIBRARY
from knetc.codegen.pooling import pool, pool_back
from knetc.codegen.spec import FieldValue, KernelSpec, Module, Statement, describe, statement
from knetc.errors import KnetInternalError
from knetc.ir.epilogues import is_loss, is_product
from knetc.ir.plan import Kernel, Step, Unit
from knetc.ops import base
from knetc.ops.base import Elementwise, Library, NoCode, Piece, registry

Build = Callable[[Module, Step], "list[Statement]"]


def lower_unit(module: Module, unit: Unit) -> list[Statement]:
    """The statements that run one step, or several as one kernel."""
    if not isinstance(unit, Kernel):
        return _lower_step(module, unit)
    if any(is_product(s.instr) for s in unit.steps):
        return product(module, unit, lower_unit)
    first, *rest = unit.steps
    if is_loss(first.instr):
        return _loss_with(module, first, Kernel(tuple(rest), unit.wanted))
    return chain(module, unit)


def _lower_step(module: Module, step: Step) -> list[Statement]:
    cuda = registry()[step.instr.op].cuda
    if isinstance(cuda, Elementwise | Piece):
        call = pool(module, step) if isinstance(cuda, Piece) and step.instr.op == "pool" else []
        return call or chain(module, Kernel((step,)))
    if isinstance(cuda, Library):
        return CALLS[cuda.call](module, step)
    if isinstance(cuda, base.Kernel):
        if cuda.template not in KERNELS:
            raise KnetInternalError(f"no kernel is known for {cuda.template}", step.instr.span)
        return KERNELS[cuda.template](module, step)
    if isinstance(cuda, NoCode):
        raise KnetInternalError(f"{step.instr.op} is not a step of a plan", step.instr.span)
    raise KnetInternalError(f"{step.instr.op} has no code", step.instr.span)


def launch_each(module: Module, step: Step, spec: KernelSpec, elements: str, *arguments: str) -> Statement:
    """A launch over `elements` elements, which the kernel takes as its last parameter."""
    return statement(
        "launch_each",
        kernel=module.kernel(spec, (step.instr,)),
        elements=elements,
        arguments=", ".join(arguments),
        value=describe(step),
    )


def launch(
    module: Module, step: Step, spec: KernelSpec, blocks: str, threads: int, *arguments: str, value: str | None = None
) -> Statement:
    """A launch of so many blocks of so many threads."""
    return statement(
        "launch",
        kernel=module.kernel(spec, (step.instr,)),
        blocks=blocks,
        threads=threads,
        arguments=", ".join(arguments),
        value=describe(step) if value is None else value,
    )


# --- sums over dimensions ---------------------------------------------------------------------------------------------


_BY_THREAD = 1024  # rows from which a thread sums up each


def sumto(module: Module, step: Step) -> list[Statement]:
    """Sums over the dimensions that the result does not have: a block an element of the result, or a thread."""
    (dy,) = step.args
    groups = collapse(dy.type.dims, [step.out.type.dims], dy.pitch is not None)
    if [g.kept[0] for g in groups] == [True, False] and step.out.pitch is None and groups[0].size < _BY_THREAD:
        return [_sum_columns(module, step, groups)]
    elements = part_count(groups, True)
    summed = part_count(groups, False)
    # With many results whose neighbours are neighbours in memory, a thread each reads memory in order.
    by_thread = bool(groups) and groups[0].kept[0] and (groups[0].size >= _BY_THREAD or groups[0].batched)
    shape = "x".join(f"{g}" if g.kept[0] else f"sum{g}" for g in groups)
    real = module.real
    spec = KernelSpec(
        template="sumto_thread" if by_thread else "sumto_block",
        stem=f"sumto_{shape}" if shape else "sumto",
        signature=(f"{real}* y", f"const {real}* dy", "int summed", *(("int n",) if by_thread else ())),
        formula="y = sumto(dy): the sum over dimensions along which a value was repeated",
        fields=(
            ("real", real),
            ("base", part_index(groups, True, "o", dy.pitch, dy.type.dims[:1] != (1,))),
            ("offset", part_index(groups, False, "r", dy.pitch, dy.type.dims[:1] != (1,))),
            ("place", buffer_index(step.out.type.dims, step.out, "o")),
        ),
    )
    arguments = (module.ref(step.out), module.ref(step.args[0]), summed)
    if by_thread:
        return [launch_each(module, step, spec, elements, *arguments)]
    return [launch(module, step, spec, elements, 128, *arguments)]


def _sum_columns(module: Module, step: Step, groups: Sequence[Group]) -> Statement:
    """The most common sum, that over all columns: a block for each row."""
    (dy,) = step.args
    real = module.real
    spec = KernelSpec(
        template="sum_columns",
        stem="sum_columns",
        signature=(f"{real}* y", f"const {real}* dy", "int pitch", "int columns"),
        formula="y = sumto(dy): the sum over all columns, which are a pitch apart",
        fields=(("real", real),),
    )
    pitch = str(dy.pitch or groups[0].size)
    arguments = (module.ref(step.out), module.ref(dy), pitch, part_count(groups, False))
    return launch(module, step, spec, part_count(groups, True), 128, *arguments)


# --- losses -----------------------------------------------------------------------------------------------------------

# For each operator of a loss: its template and what it computes.
_LOSS_KERNELS: Mapping[str, tuple[str, str]] = {
    "quadloss": ("loss", "partial sums of mask * (p - gold)^2 / 2"),
    "softloss": ("loss", "partial sums of -mask * gold * log(p)"),
    "zeroone": ("zeroone", "partial sums of mask over the columns whose largest elements stand in different rows"),
}


def _loss_spec(module: Module, step: Step, out: str, counts: tuple[str, ...]) -> KernelSpec:
    """A loss's kernel over prediction, gold and mask, which may be absent."""
    template, formula = _LOSS_KERNELS[step.instr.op]
    real = module.real
    signature = (out, *(f"const {real}* {name}" for name in ("p", "gold", "mask")), *counts)
    # Under this bound a prediction counts as the bound (docs/operators.md): the type's epsilon.
    fields: tuple[tuple[str, FieldValue], ...] = (("real", real),)
    if template == "loss":
        fields += (("term", loss_term(module, step, {"p": "p[i]", "gold": "gold[i]"})),)
    return KernelSpec(template, step.instr.op, signature, formula, fields)


def loss(module: Module, step: Step) -> list[Statement]:
    """A loss's value in two launches: partial sums of so many blocks, then their total."""
    rows, columns = rows_and_columns(step.args[0].type.dims)
    by_column = step.instr.op == "zeroone"
    elements = columns if by_column else count(step.args[0].type.dims)
    spec = _loss_spec(module, step, "double* partials", ("int rows", "int columns" if by_column else "int n"))
    module.features.add("partials")
    p, gold = (module.ref(b) for b in step.args[:2])
    blocks = f"knet_blocks({elements})"
    arguments = ("m->partials", p, gold, "mask", str(rows), elements)
    first = launch(module, step, spec, blocks, MAX_THREADS, *arguments, value="")
    return [first, total(module, step, module.ref(step.out), elements, f"1.0 / {columns}")]


def _loss_with(module: Module, step: Step, kernel: Kernel) -> list[Statement]:
    """A loss's value in two launches, of which the first computes a chain that reads the same elements too."""
    module.features.add("partials")
    elements, columns = count(step.args[0].type.dims), rows_and_columns(step.args[0].type.dims)[1]
    first = chain_with_loss(module, kernel, step, _LOSS_KERNELS[step.instr.op][1])
    return [first, total(module, step, module.ref(step.out), elements, f"1.0 / {columns}")]


def total(module: Module, step: Step, target: str, elements: str, factor: str) -> Statement:
    """Adds up the partial sums that a kernel over `elements` elements left."""
    real = module.real
    spec = KernelSpec(
        "total",
        "total",
        (f"{real}* y", "const double* partials", "int blocks", "double factor"),
        "y = factor * the sum of the partial sums",
        (("real", real),),
    )
    return launch(module, step, spec, "1", MAX_THREADS, target, "m->partials", f"knet_blocks({elements})", factor)


# --- the rest ---------------------------------------------------------------------------------------------------------


def random(module: Module, step: Step) -> list[Statement]:
    """`rnd`: filled anew at every call, keyed by the call's number."""
    return [fill(module, step.instr, step.out)]


def zeros(module: Module, step: Step) -> list[Statement]:
    """A value of zeros."""
    size = f"{count(step.out.type.dims)} * sizeof({module.real})"
    return [statement("zeros", target=module.ref(step.out), bytes=size, value=describe(step))]


def copied(module: Module, step: Step) -> list[Statement]:
    """`state` and `keep`: what a static variable holds, read before and written after everything else."""
    return [_moved(module, step, "copy", f"{_var(step)} {step.out.type}, {_MOVES[step.instr.op]}")]


def state_gradient(module: Module, step: Step) -> list[Statement]:
    """`dstate` and `dkeep`: a state's gradient from the step after, and for the step before."""
    value = f"d:{_var(step)} {step.out.type}, {_MOVES[step.instr.op]}"
    if step.instr.op == "dkeep":
        return [_moved(module, step, "hand_state_gradient", value)]
    later = "m->later || step + 1 < m->steps" if module.part.kind else "m->unwinding && m->later"
    return [_moved(module, step, "take_state_gradient", value, later=later)]


_MOVES: Mapping[str, str] = {
    "state": "as the call before left it",
    "keep": "for the next call",
    "dstate": "from the step after",
    "dkeep": "for the step before",
}


def _var(step: Step) -> str:
    return str(step.instr.attr("var"))


def _moved(module: Module, step: Step, template: str, value: str, **more: str) -> Statement:
    size = f"{count(step.out.type.dims)} * sizeof({module.real})"
    target, source = module.ref(step.out), module.ref(step.args[0])
    return statement(template, target=target, source=source, bytes=size, value=value, **more)


CALLS: Mapping[str, Build] = {**LIBRARY, "pool_back": pool_back}
KERNELS: Mapping[str, Build] = {
    "sumto": sumto,
    "quadloss": loss,
    "softloss": loss,
    "zeroone": loss,
    "rnd": random,
    "zeros": zeros,
    "state": copied,
    "keep": copied,
    "dstate": state_gradient,
    "dkeep": state_gradient,
}
