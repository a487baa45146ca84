"""The emitted file: puts the generator's decisions into the templates. The only Jinja environment of the project.

Before: a `training` program, through `ir.plan` and `codegen.kernels`. After: nvcc, or the C++ compiler
(`runtime.build`). The same program gives the same bytes everywhere: no time, no path, nothing in the order of a hash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from jinja2.environment import Environment, Template
from jinja2.loaders import FileSystemLoader
from jinja2.runtime import StrictUndefined

from knetc.codegen.describe import header_lines, step_lines, where
from knetc.codegen.fill import fill
from knetc.codegen.kernels import lower_step
from knetc.codegen.names import spell
from knetc.codegen.spec import KernelSpec, KernelUse, Module, Statement, number
from knetc.errors import KnetInternalError
from knetc.ir.plan import BackwardPlan, Buffer, Plan, Step, VariantPlan, make_plan
from knetc.ir.program import LOSSES, Program
from knetc.ir.types import BatchDim
from knetc.options import Options

WIDTH = 120


def emit_cuda(program: Program, options: Options) -> str:
    """The CUDA source of a `training` program. Raises KnetLimitation for what cannot be emitted yet."""
    module = Module(make_plan(program), options)
    return _template("module.cu.j2").render(_module_context(module), include=_include)


def emit_header(program: Program, options: Options) -> str:
    """The C header of the interface of `emit_cuda`'s source."""
    module = Module(make_plan(program), options)
    name = spell(program.name)
    title = f"Knet model {program.name}, compiled by knetc."
    return _template("header.h.j2").render(_interface_context(module), title=title, guard=name.upper(), file=name)


# --- templates --------------------------------------------------------------------------------------------------------


@cache
def template_folder() -> str:
    """Where the templates are: in a checkout beside the package, in an installed wheel inside it."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (os.path.join(package, "_templates"), os.path.join(os.path.dirname(package), "templates")):
        if os.path.isfile(os.path.join(folder, "module.cu.j2")):
            return folder
    raise KnetInternalError("the templates are not where the package was installed")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        auto_reload=False,
        cache_size=-1,
    )


@cache
def _template(name: str) -> Template:
    return _environment().get_template(name)


@cache
def _include(name: str) -> str:
    """The text of a plain helper of `templates/include`."""
    with open(os.path.join(template_folder(), "include", name), encoding="utf-8") as f:
        return f.read().rstrip("\n")


# --- the module -------------------------------------------------------------------------------------------------------


def _module_context(module: Module) -> dict[str, Any]:
    plan = module.plan
    functions, backwards = _functions(module)
    initial = list(_initial(module))
    trained = _trained(module)
    kernels = [_kernel(module, use) for use in module.kernels.values()]
    features = module.features
    return {
        **_interface_context(module),
        **trained,
        "header": header_lines(module),
        "kernels": kernels,
        "device_includes": _chosen(features, _DEVICE_INCLUDES),
        "host_includes": ["knet_host.h", *_chosen(features, _HOST_INCLUDES)],
        "libraries": _chosen(features, {"cublas": "cublas_v2.h", "cudnn": "cudnn.h"}),
        "convs": [_shape(c.fields, c.comment) for c in module.convs.values()],
        "pools": [_shape(p.fields, p.comment) for p in module.pools.values()],
        "tables": [_table(module, name, a.elements()) for a, name in module.tables.items()],
        "features": features,
        "members": _member_groups(module),
        "buffers": [_buffer(module, b) for b in plan.buffers],
        "largest_column": max((b.type.column for b in plan.buffers if b.type.batched), default=0),
        "arrays": list(_arrays(module)),
        "parameters": plan.params,
        "inputs": plan.inputs,
        "variants": [{"forward": _forward_name(v), "table": _values_name(k)} for k, v in enumerate(plan.variants)],
        "functions": functions,
        "backwards": backwards,
        "initial": initial,
        "variant_of": _variant_of(plan),
        "cudnn_type": "CUDNN_DATA_FLOAT" if module.dtype == "f32" else "CUDNN_DATA_DOUBLE",
        "cudnn_math": "CUDNN_DEFAULT_MATH" if module.options.math == "tf32" else "CUDNN_FMA_MATH",
        "cublas_math": "CUBLAS_TF32_TENSOR_OP_MATH" if module.options.math == "tf32" else "CUBLAS_DEFAULT_MATH",
        "mask": any(b.kind == "mask" for b in plan.buffers),
        "loss": any(b.kind == "loss" for b in plan.buffers),
    }


# What is pasted for a feature, in the order in which the pieces build on each other.
_DEVICE_INCLUDES = {
    "math": "knet_math.cuh",
    "reduce": "knet_reduce.cuh",
    "random": "knet_random.cuh",
    "normal": "knet_normal.cuh",
}
_HOST_INCLUDES = {"cublas": "knet_cublas.h", "cudnn": "knet_cudnn.h", "conv": "knet_conv.h", "pool": "knet_pool.h"}


def _chosen(features: set[str], pieces: dict[str, str]) -> list[str]:
    return [text for feature, text in pieces.items() if feature in features]


def _interface_context(module: Module) -> dict[str, Any]:
    plan = module.plan
    result = {v.result.type for v in plan.variants if v.result is not None}
    return {
        "real": module.real,
        "conditions": [
            {"name": name, "label": spell(name).upper().strip("_"), "bit": 1 << k}
            for k, name in enumerate(plan.program.conditions)
        ],
        "parameter_names": _listing([f'"{p.buffer.name}"' for p in plan.params]) or "there is none",
        "input_text": _listing([f"{b.name} {_dims_text(b)}" for b in plan.inputs]) or "none",
        "output_text": " or ".join(sorted(f"[{','.join(map(repr, t.dims))}]" for t in result)) or "there is none",
    }


def _listing(texts: list[str], most: int = 8) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _dims_text(b: Buffer) -> str:
    return f"[{','.join(map(repr, b.type.dims))}]"


def _shape(fields: tuple[tuple[str, Any], ...], comment: str) -> dict[str, str]:
    parts = ["{" + ", ".join(map(str, value)) + "}" if isinstance(value, tuple) else str(value) for _, value in fields]
    return {"text": "{" + ", ".join(parts) + "}", "comment": comment}


def _table(module: Module, name: str, elements: list[float]) -> dict[str, Any]:
    texts = [number(e, module.dtype) + "," for e in elements]
    return {"name": name, "size": len(elements), "lines": list(_wrapped(texts, WIDTH - 4))}


def _wrapped(words: Iterable[str], width: int) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    if line:
        yield line


# --- kernels ----------------------------------------------------------------------------------------------------------


def _kernel(module: Module, use: KernelUse) -> dict[str, Any]:
    spec = use.spec
    body = _template(f"kernels/{spec.template}.cu.j2").render(dict(spec.fields))
    restricted = ", ".join(p.replace("* ", "* __restrict__ ") for p in spec.signature)
    head = f"__global__ void __launch_bounds__(256) {use.name}_kernel({restricted}) {{"
    return {
        "name": use.name,
        "comment": [spec.formula, *where(use.instrs)],
        "head": "\n    ".join(_wrapped(head.replace(", ", ",\n").split("\n"), WIDTH - 4)),
        "signature": ", ".join(spec.signature),
        "body": body,
    }


# --- functions --------------------------------------------------------------------------------------------------------


def _functions(module: Module) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The forward and backward functions in order, and the table by which a backward pass is found."""
    functions: list[dict[str, Any]] = []
    backwards: list[dict[str, Any]] = []
    for v in module.plan.variants:
        functions.append(_forward(module, v))
    for k, v in enumerate(module.plan.variants):
        for b in v.backward:
            functions.append(_backward(module, v, b))
            backwards.append({"number": 4 * k + LOSSES.index(b.loss), "name": functions[-1]["name"]})
    return functions, backwards


def _forward_name(v: VariantPlan) -> str:
    return "_".join(("forward", *map(spell, v.label)))


def _when(v: VariantPlan, plan: Plan) -> str:
    if len(plan.variants) == 1:
        return ""
    return f" where {' and '.join(v.label)}" if v.label else " where no condition holds"


def _forward(module: Module, v: VariantPlan) -> dict[str, Any]:
    lines = list(_lines(module, v.forward))
    return {
        "name": _forward_name(v),
        "comment": f"The forward pass{_when(v, module.plan)}.",
        "parameters": "knet_model* m",
        "lines": [*_locals(lines), *lines] if lines else ["(void)m;"],
    }


def _backward(module: Module, v: VariantPlan, b: BackwardPlan) -> dict[str, Any]:
    lines = []
    gold = next((a for s in b.steps for a in s.args if a.kind == "gold"), None)
    gold = gold or next((buffer for _, buffer in b.inputs if buffer.kind == "gold"), None)
    if gold is not None:
        size = f"{_count(gold)} * sizeof({module.real})"
        lines.append(f"TRY(cudaMemcpyAsync({module.ref(gold)}, gold, {size}, cudaMemcpyDefault, m->stream));")
    lines += _lines(module, b.steps)
    lines += [f"if (want & {1 << index}) m->input_gradients[{index}] = {module.ref(at)};" for index, at in b.inputs]
    for p in module.plan.params:
        if p.grad is not None and p.buffer.name not in b.params:
            size = f"{_count(p.grad)} * sizeof({module.real})"
            lines.append(f"TRY(cudaMemsetAsync({module.ref(p.grad)}, 0, {size}, m->stream));  // not reached")
    text = "\n".join(lines)
    parameters = [
        "knet_model* m",
        f"const {module.real}*{' gold' if gold is not None else ''}",
        f"const {module.real}*{' mask' if ' mask,' in text else ''}",
        f"unsigned{' want' if '(want &' in text else ''}",
    ]
    return {
        "name": "_".join(("backward", b.loss, *map(spell, v.label))),
        "comment": f"The backward pass from {_START[b.loss]}{_when(v, module.plan)}.",
        "parameters": ", ".join(parameters),
        "lines": [*_locals(lines), *lines] if lines else ["(void)m;"],
    }


_START = {
    "zero": "no gradient of the output",
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


def _count(b: Buffer) -> str:
    size = b.type.column
    return (f"{size} * N" if size != 1 else "N") if b.type.batched else str(size)


def _lines(module: Module, steps: tuple[Step, ...]) -> Iterator[str]:
    """A function's statements under the Knet lines that they compute, those for input gradients alone under an if."""
    for text, wanted, group in step_lines(steps):
        if text:
            yield text
        indent = ""
        if wanted is not None:
            yield f"if (want & {sum(1 << i for i in wanted)}) {{"
            indent = "  "
        for step in group:
            for statement in lower_step(module, step):
                yield from _statement(module, statement, indent)
        if wanted is not None:
            yield "}"


def _statement(module: Module, statement: Statement, indent: str = "") -> Iterator[str]:
    """The lines of one statement, with the value that it computes as a comment at the end or above."""
    fields = dict(statement.fields)
    module.features.add(statement.template)
    text = _template(f"host/{statement.template}.cu.j2").render(fields)
    value = fields.get("value")
    if value and len(indent) + len(text) + len(str(value)) + 4 > WIDTH - 2:
        yield f"{indent}// {value}"
        value = None
    lines = list(_wrapped(text.replace(", ", ",\n").split("\n"), WIDTH - 8 - len(indent)))
    for k, line in enumerate(lines):
        last = f"  // {value}" if value and k == len(lines) - 1 else ""
        yield f"{indent}{'    ' if k else ''}{line}{last}"


def _initial(module: Module) -> Iterator[str]:
    """Statements that fill parameters and constants."""
    for p in module.plan.params:
        yield from _statement(module, fill(module, p.instr, p.buffer, "0u"))
    for instr, buffer in module.plan.constants:
        yield from _statement(module, fill(module, instr, buffer, "0u"))


def _trained(module: Module) -> dict[str, Any]:
    """What the update function is made of."""
    trained = [
        {
            "index": k,
            "value": module.ref(p.buffer),
            "gradient": module.ref(p.grad),
            "elements": p.buffer.elements(1),
        }
        for k, p in enumerate(module.plan.params)
        if p.grad is not None
    ]
    kernels = {}
    if trained:
        real = module.real
        module.features.update(("math", "reduce", "partials"))
        fields = (("real", real),)
        kernels["update"] = module.kernel(
            KernelSpec(
                "update",
                "update",
                (f"{real}* w", f"const {real}* dw", "const double* squares", "knet_training t", "int n"),
                "w -= lr * dw, where dw goes through the training options that t has",
                fields,
            )
        )
        kernels["square_sum"] = module.kernel(
            KernelSpec(
                "square_sum",
                "square_sum",
                ("double* partials", f"const {real}* dw", "int n"),
                "partial sums of dw^2",
                fields,
            )
        )
        kernels["add_total"] = module.kernel(
            KernelSpec(
                "add_total",
                "add_total",
                ("double* squares", "const double* partials", "int blocks"),
                "squares += the sum of the partial sums",
                fields,
            )
        )
    return {"trained": trained, **kernels}


# --- the model's data -------------------------------------------------------------------------------------------------

_GROUPS = {
    "param": "parameters",
    "grad": "their gradients",
    "const": "constants",
    "input": "inputs",
    "value": "values, forward and backward",
    "gold": "the desired output, the mask, the loss",
    "mask": "the desired output, the mask, the loss",
    "loss": "the desired output, the mask, the loss",
}


def _member_groups(module: Module) -> list[dict[str, Any]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for kind, comment in _GROUPS.items():
        for b in module.plan.buffers:
            if b.kind == kind:
                text = {"member": module.members[b], "comment": f"  // {_name_comment(b)}{b.type}"}
                groups.setdefault(comment, []).append(text)
    return [{"comment": comment, "buffers": buffers} for comment, buffers in groups.items()]


def _name_comment(b: Buffer) -> str:
    """The Knet name where the member's name differs from it."""
    return "" if b.kind not in ("param", "input", "const", "value") else f"{b.name} "


def _buffer(module: Module, b: Buffer) -> dict[str, Any]:
    size = b.type.column
    fixed, column = (0, size) if b.type.batched else (size, 0)
    return {"member": module.members[b], "fixed": fixed, "column": column}


def _arrays(module: Module) -> Iterator[dict[str, Any]]:
    plan = module.plan
    yield {"name": "parameters", "rows": [_array(module, p.buffer.name, p.buffer) for p in plan.params]}
    yield {"name": "gradients", "rows": [_array(module, p.buffer.name, p.grad) for p in plan.params]}
    yield {"name": "inputs", "rows": [_array(module, b.name, b) for b in plan.inputs]}
    for k, v in enumerate(plan.variants):
        names = {**({"return": v.result} if v.result is not None else {}), **dict(v.names)}
        yield {"name": _values_name(k), "rows": [_array(module, name, b) for name, b in names.items()]}


def _values_name(k: int) -> str:
    return f"values_{k}"


def _array(module: Module, name: str, b: Buffer | None) -> str:
    if b is None:
        return f"{_string(name)}, nullptr, 0, {{}}"
    dims = ", ".join("-1" if isinstance(d, BatchDim) else str(d) for d in b.type.dims)
    if len(b.type.dims) > 8:
        raise KnetInternalError(f"{name} has {len(b.type.dims)} dimensions")
    return f"{_string(name)}, &knet_model::{module.members[b]}, {len(b.type.dims)}, {{{dims}}}"


def _string(text: str) -> str:
    """A C string literal; a name of Knet may hold any letter, UTF-8 as it is."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _variant_of(plan: Plan) -> str:
    bits = {name: 1 << k for k, name in enumerate(plan.program.conditions)}
    found = {sum(bits[c] for c in s): k for k, v in enumerate(plan.variants) for s in v.variant.settings}
    return ", ".join(str(found.get(setting, len(plan.variants))) for setting in range(1 << len(bits)))
