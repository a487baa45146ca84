"""The functions of the emitted file: forward and backward of every variant, the start values, the update.

Before: `codegen.kernels`, which turns a step into statements. After: `codegen.emit`, which pastes the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from knetc.codegen import buckets
from knetc.codegen.fill import fill
from knetc.codegen.lines import bits, bucket_lines, declared, statement_lines, unit_lines, unreached
from knetc.codegen.names import Names, spell
from knetc.codegen.sequences import sequence_lines
from knetc.codegen.spec import KernelSpec, Module
from knetc.codegen.tables import buffer_row, places_name, sequence_places_name
from knetc.ir.plan import BackwardPlan, Buffer, Plan, VariantPlan, flat
from knetc.ir.planner import make_plan
from knetc.ir.program import LOSSES, Program
from knetc.ir.sequence_plan import device_plan
from knetc.options import Options

# For each parameter: blocks of an update, and of a sum of squares, each of which leaves a number.
MOST_UPDATE_BLOCKS, MOST_SQUARE_BLOCKS = 1024, 32


Render: TypeAlias = "Callable[[str, Mapping[str, object]], str]"
Functions: TypeAlias = "tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]"


def device_module(program: Program, options: Options, render: Render) -> tuple[Module, Functions]:
    """What the file is made of, and its functions: without whole sequences where none of them can be emitted so."""
    module = Module(device_plan(program, options), options, render)
    found = functions(module)
    if any(v.phases is not None for v in module.plan.variants) and not runs_sequences(found[1]):
        module = Module(make_plan(program, options), options, render)
        found = functions(module)
    return module, found


def functions(module: Module) -> Functions:
    """All functions in order; of each variant its forward functions; and the table by which a way back is found.

    Variants whose backward passes are the same share one function.
    """
    names = Names()
    plan = module.plan
    single = [_forward(module, v, names) for v in plan.variants]
    whole = [_forward_sequence(module, v, names) for v in plan.variants]
    found = [*single, *filter(None, whole)]
    forwards = [{"run": f["name"], "sequence": _called(s)} for f, s in zip(single, whole, strict=True)]
    written: dict[tuple[str, ...], dict[str, Any]] = {}
    backwards: list[dict[str, Any]] = []
    for k, v in enumerate(plan.variants):
        for b in v.backward:
            one = _once(written, _backward(module, v, b, names), when(v, plan))
            all_ = _backward_sequence(module, v, b, names) if whole[k] else None
            all_ = all_ and _once(written, all_, when(v, plan))
            gold = _gold(b)
            backwards.append(
                {
                    "variant": k,
                    "loss_name": LOSS_NAMES[b.loss],
                    "run": one["name"],
                    "sequence": _called(all_),
                    "places": places_name(k, b.loss),
                    "sequence_places": called_places(_called(all_), sequence_places_name(k, b.loss)),
                    "masked": "true" if any(a.kind == "mask" for s in flat(b.steps) for a in s.args) else "false",
                    "gold": "nullptr, 0, 0"
                    if gold is None
                    else "&knet_model::{member}, {fixed}, {column}".format(**buffer_row(module, gold)),
                }
            )
    return [*found, *written.values()], forwards, backwards


def runs_sequences(forwards: Sequence[dict[str, Any]]) -> bool:
    """Whether some forward function has one for a whole sequence beside it."""
    return any(f["sequence"] != "nullptr" for f in forwards)


def called_places(function: str, table: str) -> str:
    """The table of where the buffers of a function over a whole sequence stand; NULL where there is none."""
    return "nullptr" if function == "nullptr" else table


def _called(function: dict[str, Any] | None) -> str:
    return function["name"] if function else "nullptr"


def _name(names: Names, start: str, v: VariantPlan) -> str:
    """The C name of a variant's function: `forward_dropout`; two variants may be spelled alike, as θ and theta are."""
    return names.unique("_".join((start, *map(spell, v.label))))


def when(v: VariantPlan, plan: Plan) -> str:
    """What a comment says of the conditions under which a variant runs."""
    if len(plan.variants) == 1:
        return ""
    return f", under {' and '.join(v.label)}" if v.label else ", under no condition"


def _forward(module: Module, v: VariantPlan, names: Names) -> dict[str, Any]:
    lines = list(unit_lines(module, v.forward))
    return {
        "name": _name(names, "forward", v),
        "comment": f"The forward pass{when(v, module.plan)}.",
        "parameters": "knet_model* m",
        "lines": [*declared(lines), *lines] if lines else ["(void)m;"],
    }


def _forward_sequence(module: Module, v: VariantPlan, names: Names) -> dict[str, Any] | None:
    """The same for a whole sequence; None where that goes step by step."""
    lines = sequence_lines(
        module, v.phases, read={b.root for b in (v.result, *dict(v.names).values()) if b is not None}
    )
    if not lines:
        return None
    return {
        "name": _name(names, "forwseq", v),
        "comment": f"The forward pass through a whole sequence{when(v, module.plan)}.",
        "parameters": "knet_model* m",
        "lines": lines,
    }


def _backward(module: Module, v: VariantPlan, b: BackwardPlan, names: Names) -> dict[str, Any]:
    final = buckets.final(module.plan, b.steps)
    last = final.pop(len(b.steps), ())
    lines = _with_input_gradients(module, b, list(unit_lines(module, b.steps, final)))
    lines += [*unreached(module, b), *bucket_lines(last)]
    return {
        "name": _name(names, f"backward_{b.loss}", v),
        "comment": f"The backward pass from {START[b.loss]}{when(v, module.plan)}.",
        "parameters": _way_back(module, lines),
        "lines": [*declared(lines), *lines] if lines else ["(void)m;"],
    }


def _once(written: dict[tuple[str, ...], dict[str, Any]], new: dict[str, Any], under: str) -> dict[str, Any]:
    """The function, or the one with the same statements that another variant has, whose comment says so then."""
    known = written.setdefault((new["parameters"], *new["lines"]), new)
    if known is not new:
        known["comment"] = f"{known['comment'][:-1]}, and{under[1:]}."
    return known


def _with_input_gradients(module: Module, b: BackwardPlan, lines: list[str]) -> list[str]:
    """The lines of a backward function, and where the gradients of inputs are; that goes into the last block if the
    block is for the same input.
    """
    last = b.steps[-1].wanted if b.steps else None
    ends: list[str] = []
    for index, at in b.inputs:
        told = f"m->input_gradients[{index}] = {module.ref(at)};"
        if last == frozenset({index}):
            lines = [*lines[:-1], f"  {told}", "}"]
        else:
            ends.append(f"if (want & {bits({index})}) {told}")
    return lines + ends


def _backward_sequence(module: Module, v: VariantPlan, b: BackwardPlan, names: Names) -> dict[str, Any] | None:
    """The same for a whole sequence, without gradients of inputs; None where that goes step by step."""
    lines = sequence_lines(module, b.phases, b)
    if not lines:
        return None
    return {
        "name": _name(names, f"backseq_{b.loss}", v),
        "comment": f"The backward pass through a whole sequence from {START[b.loss]}{when(v, module.plan)}.",
        "parameters": _way_back(module, lines),
        "lines": lines,
    }


def _way_back(module: Module, lines: Sequence[str]) -> str:
    """The parameters of a backward function, named where the lines use them."""
    text = "\n".join(lines)
    mask, want = " mask" if " mask," in text else "", " want" if "(want &" in text else ""
    return f"knet_model* m, const {module.real}*{mask}, unsigned long long{want}"


def _gold(b: BackwardPlan) -> Buffer | None:
    """Where the backward program reads what was wanted, if it does."""
    gold = next((a for s in flat(b.steps) for a in s.args if a.kind == "gold"), None)
    return gold or next((buffer for _, buffer in b.inputs if buffer.kind == "gold"), None)


TRAINED = ("quadloss", "softloss")  # the losses that a step of training can start from


def trains(plan: Plan) -> bool:
    """Whether emitted CUDA has a function for steps of training."""
    return any(p.grad is not None for p in plan.params) and any(
        b.loss in TRAINED for v in plan.variants for b in v.backward
    )


# The losses as the C interface names them (templates/host/kinds.h.j2).
LOSS_NAMES = dict(zip(LOSSES, ("KNET_ZERO", "KNET_GRADIENT", "KNET_QUADLOSS", "KNET_SOFTLOSS"), strict=True))
START = {
    "zero": "a zero gradient of the output",
    "none": "a given gradient of the output",
    "quadloss": "quadloss",
    "softloss": "softloss",
}


def initial(module: Module) -> Iterator[str]:
    """Statements that fill parameters and constants."""
    for p in module.plan.params:
        yield from statement_lines(module, fill(module, p.instr, p.buffer))
    for instr, buffer in module.plan.constants:
        yield from statement_lines(module, fill(module, instr, buffer))


def set_clock(module: Module) -> str | None:
    """The kernel that sets what random draws are keyed by; None where nothing is drawn."""
    if "random" not in module.features:
        return None
    signature = ("knet_clock* clock", "unsigned long long seed", "unsigned call", "unsigned first")
    return module.kernel(KernelSpec("set_clock", "set_clock", signature, "*clock = {seed, call, first}"))


def trained(module: Module) -> dict[str, Any]:
    """What the update function is made of: how many parameters have a gradient, its kernels, and their grids."""
    sizes = [p.buffer.elements(1) for p in module.plan.params if p.grad is not None]
    if not sizes:
        return {"trained": False}
    real, options = module.real, f"{module.prefix}_training"
    module.features.add("partials")
    fields = (("real", real),)
    table = f"const {options}* training"
    kernels = [
        ("update", (table, "const double* squares"), "w -= lr * dw for every parameter, dw by the parameter's options"),
        ("square_sum", ("double* partials", table), "partial sums of dw^2 for every parameter"),
        ("all_squares", ("double* squares", "const double* partials", "int blocks"), "squares = the sum of them all"),
        ("set_training", (f"{options}* to", f"{options} t"), "*to = t"),
        (
            "count_adam",
            (f"{options}* training", "int n"),
            "one step more of each parameter that Adam trains, and the corrections for it",
        ),
        ("accumulate", (f"{real}* sum", f"const {real}* dw", "int n"), "sum += dw"),
    ]
    return {
        "trained": True,
        "update_blocks": min(_blocks(max(sizes)), MOST_UPDATE_BLOCKS),
        "square_blocks": min(_blocks(max(sizes)), MOST_SQUARE_BLOCKS),
        **{name: module.kernel(KernelSpec(name, name, given, formula, fields)) for name, given, formula in kernels},
    }


def _blocks(elements: int) -> int:
    """Blocks of 256 threads for so many elements."""
    return (elements + 255) // 256
