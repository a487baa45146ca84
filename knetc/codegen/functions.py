"""The functions of the emitted file: forward and backward of every variant, the start values, the update.

Before: `codegen.kernels`, which turns a step into statements. After: `codegen.emit`, which pastes the lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from knetc.codegen.describe import step_lines
from knetc.codegen.fill import fill
from knetc.codegen.index import extent
from knetc.codegen.kernels import lower_unit
from knetc.codegen.names import Names, spell
from knetc.codegen.spec import KernelSpec, Module, Statement
from knetc.codegen.tables import buffer_row, places_name
from knetc.errors import KnetLimitation
from knetc.ir.plan import BackwardPlan, Buffer, Plan, Unit, VariantPlan, flat
from knetc.ir.program import LOSSES

WIDTH = 120
# For each parameter: blocks of an update, and of a sum of squares, each of which leaves a number.
MOST_UPDATE_BLOCKS, MOST_SQUARE_BLOCKS = 1024, 32


def wrapped(words: Iterable[str], width: int) -> Iterator[str]:
    """Words in lines of at most `width` where the words allow it."""
    line = ""
    for word in words:
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield line


def functions(module: Module) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The forward and backward functions in order, and the table by which a backward pass is found.

    Variants whose backward passes are the same share one function.
    """
    names = Names()
    functions = [_forward(module, v, names) for v in module.plan.variants]
    written: dict[tuple[str, ...], dict[str, Any]] = {}
    backwards: list[dict[str, Any]] = []
    for k, v in enumerate(module.plan.variants):
        for b in v.backward:
            new = _backward(module, v, b, names)
            function = written.setdefault((new["parameters"], *new["lines"]), new)
            if function is new:
                functions.append(function)
            else:
                function["comment"] = f"{function['comment'][:-1]}, and{when(v, module.plan)[1:]}."
            gold = _gold(b)
            backwards.append(
                {
                    "variant": k,
                    "loss": LOSSES.index(b.loss),
                    "name": function["name"],
                    "places": places_name(k, b.loss),
                    "gold": "nullptr, 0, 0"
                    if gold is None
                    else "&knet_model::{member}, {fixed}, {column}".format(**buffer_row(module, gold)),
                }
            )
    return functions, backwards


def _name(names: Names, start: str, v: VariantPlan) -> str:
    """The C name of a variant's function: `forward_dropout`; two variants may be spelled alike, as θ and theta are."""
    return names.unique("_".join((start, *map(spell, v.label))))


def when(v: VariantPlan, plan: Plan) -> str:
    """What a comment says of the conditions under which a variant runs."""
    if len(plan.variants) == 1:
        return ""
    return f", under {' and '.join(v.label)}" if v.label else ", under no condition"


def _forward(module: Module, v: VariantPlan, names: Names) -> dict[str, Any]:
    lines = list(_lines(module, v.forward))
    return {
        "name": _name(names, "forward", v),
        "comment": f"The forward pass{when(v, module.plan)}.",
        "parameters": "knet_model* m",
        "lines": [*_locals(lines), *lines] if lines else ["(void)m;"],
    }


def _backward(module: Module, v: VariantPlan, b: BackwardPlan, names: Names) -> dict[str, Any]:
    lines = list(_lines(module, b.steps))
    lines += _input_gradients(module, b, lines)
    reached = frozenset(b.params)
    for p in module.plan.params:
        if p.grad is not None and p.buffer.name not in reached:
            size = ", ".join(map(str, extent(p.grad)))
            lines.append(f"TRY(knet_zero({module.ref(p.grad)}, {size}, m->stream));  // not reached")
    text = "\n".join(lines)
    parameters = [
        "knet_model* m",
        f"const {module.real}*{' mask' if ' mask,' in text else ''}",
        f"unsigned long long{' want' if '(want &' in text else ''}",
    ]
    return {
        "name": _name(names, f"backward_{b.loss}", v),
        "comment": f"The backward pass from {START[b.loss]}{when(v, module.plan)}.",
        "parameters": ", ".join(parameters),
        "lines": [*_locals(lines), *lines] if lines else ["(void)m;"],
    }


def _input_gradients(module: Module, b: BackwardPlan, lines: list[str]) -> list[str]:
    """The lines that say where the gradients of inputs are; one goes into the block that `lines` end in, if it can."""
    found: list[str] = []
    for index, at in b.inputs:
        head, told = f"if (want & {bits({index})})", f"m->input_gradients[{index}] = {module.ref(at)};"
        if not found and lines and lines[-1] == "}" and _block_head(lines) == f"{head} {{":
            lines.pop()
            found += [f"  {told}", "}"]
        else:
            found.append(f"{head} {told}")
    return found


def _block_head(lines: list[str]) -> str:
    """The line that opens the block that ends in the last line; blocks of functions are not nested."""
    return next(line for line in reversed(lines) if line.startswith("if "))


def _gold(b: BackwardPlan) -> Buffer | None:
    """Where the backward program reads what was wanted, if it does."""
    gold = next((a for s in flat(b.steps) for a in s.args if a.kind == "gold"), None)
    return gold or next((buffer for _, buffer in b.inputs if buffer.kind == "gold"), None)


def bits(inputs: Iterable[int]) -> str:
    """Inputs as bits of a number."""
    bits = sum(1 << i for i in inputs)
    if bits >= 1 << 64:
        raise KnetLimitation("emitted code for the gradients of more than 64 inputs")
    return str(bits) if bits < 1 << 31 else f"{bits}ull"


START = {
    "zero": "a zero gradient of the output",
    "none": "a given gradient of the output",
    "quadloss": "quadloss",
    "softloss": "softloss",
}


def _locals(lines: list[str]) -> list[str]:
    """The batch, where a statement needs it."""
    return ["const int N = m->batch;"] if any(_mentions_batch(line) for line in lines) else []


_BATCH = re.compile(r"(?<![\w>.])N\b")


def _mentions_batch(line: str) -> bool:
    return not line.startswith("//") and _BATCH.search(line.split("  //")[0]) is not None


def _lines(module: Module, steps: tuple[Unit, ...]) -> Iterator[str]:
    """A function's statements under the Knet lines that they compute, those for input gradients alone under an if."""
    for comment, wanted, group in step_lines(steps):
        yield from comment
        indent = ""
        if wanted is not None:
            yield f"if (want & {bits(wanted)}) {{"
            indent = "  "
        for unit in group:
            for statement in lower_unit(module, unit):
                yield from _statement(module, statement, indent)
        if wanted is not None:
            yield "}"


def _statement(module: Module, statement: Statement, indent: str = "") -> Iterator[str]:
    """The lines of one statement."""
    fields = dict(statement.fields)
    module.features.add(statement.template)
    text = module.paste(f"host/{statement.template}.cu.j2", fields)
    return laid_out(text, str(fields.get("value") or ""), indent)


def laid_out(text: str, value: str, indent: str = "") -> Iterator[str]:
    """A statement in lines, with the value that it computes as a comment at the end or above."""
    if value and len(indent) + len(text) + len(value) + 4 > WIDTH - 4:
        yield f"{indent}// {value}"
        value = ""
    width = WIDTH - 8 - len(indent)
    lines = [text] if 0 < len(text) <= width else list(wrapped(text.replace(", ", ",\n").split("\n"), width))
    for k, line in enumerate(lines):
        last = f"  // {value}" if value and k == len(lines) - 1 else ""
        yield f"{indent}{'    ' if k else ''}{line}{last}"


def initial(module: Module) -> Iterator[str]:
    """Statements that fill parameters and constants."""
    for p in module.plan.params:
        yield from _statement(module, fill(module, p.instr, p.buffer))
    for instr, buffer in module.plan.constants:
        yield from _statement(module, fill(module, instr, buffer))


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
    module.features.update(("math", "reduce", "partials"))
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
