"""The emitted file: puts the generator's decisions into the templates. The only Jinja environment of the project.

Before: a `training` program, through `ir.plan` and `codegen.kernels`. After: nvcc, or the C++ compiler
(`runtime.build`). The same program gives the same bytes everywhere: no time, no path, nothing in the order of a hash.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.bccache import Bucket, BytecodeCache
from jinja2.environment import Environment
from jinja2.loaders import FileSystemLoader
from jinja2.runtime import StrictUndefined

from knetc.cache import cached, content, entry
from knetc.codegen import buckets
from knetc.codegen.describe import header_lines, memory_lines, where
from knetc.codegen.fill import CLOCK
from knetc.codegen.functions import (
    LOSS_NAMES,
    Functions,
    called_places,
    device_module,
    initial,
    runs_sequences,
    set_clock,
    trained,
    trains,
    when,
)
from knetc.codegen.lines import WIDTH, wrapped
from knetc.codegen.names import condition_labels, spell
from knetc.codegen.spec import KernelUse, Module, number
from knetc.codegen.tables import (
    abridged,
    arena_size,
    arrays,
    buffer_row,
    frame_name,
    member_groups,
    places,
    places_name,
    sequence_places_name,
    values_name,
    variant_of,
)
from knetc.errors import KnetInternalError
from knetc.ir.plan import MOST_ELEMENTS, SHARING, Buffer
from knetc.ir.program import LOSSES, Program
from knetc.ir.sequence_plan import of_all_steps
from knetc.options import Options


def emit_cuda(program: Program, options: Options) -> str:
    """The CUDA source of a `training` program. Raises KnetLimitation for what cannot be emitted yet."""
    return emitted("module.cu.j2", _module_context(*device_module(program, options, render)))


def emit_header(program: Program, options: Options) -> str:
    """The C header of the interface of `emit_cuda`'s source."""
    module, (_, forwards, _) = device_module(program, options, render)
    name = spell(program.name)
    title = f"Knet model {program.name}, compiled by knetc."
    more = {"sequences": runs_sequences(forwards)}
    context = {**interface_context(module), **more, "title": title, "guard": module.prefix.upper(), "file": name}
    return render("header.h.j2", context) + "\n"


# --- templates --------------------------------------------------------------------------------------------------------


@cache
def template_folder() -> str:
    """Where the templates are: in a checkout beside the package, in an installed wheel inside it."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (os.path.join(package, "_templates"), os.path.join(os.path.dirname(package), "templates")):
        if os.path.isfile(os.path.join(folder, "module.cu.j2")):
            return folder
    raise KnetInternalError("the templates are not where the package was installed")


class _Compiled(BytecodeCache):
    """Compiled templates in the user's cache: compiling them anew would be half of the command's run time."""

    def _key(self, bucket: Bucket) -> tuple[str, ...]:
        return ("template", bucket.key, bucket.checksum, sys.version, jinja2.__version__)

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fills the bucket where there is a whole entry."""
        found = content(entry(self._key(bucket), ".tpl"))
        if found is not None:
            bucket.bytecode_from_string(found)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keeps what Jinja compiled; a cache that cannot be written is no error."""
        with contextlib.suppress(OSError):
            cached(self._key(bucket), ".tpl", lambda path: _write(path, bucket.bytecode_to_string()))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@cache
def _environment() -> Environment:
    return Environment(
        bytecode_cache=_Compiled(),
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
        auto_reload=False,
        cache_size=-1,
    )


def render(name: str, fields: Mapping[str, object]) -> str:
    """A template of `templates/` with its fields filled in."""
    return _environment().get_template(name).render(fields)


def emitted(name: str, context: Mapping[str, object]) -> str:
    """A whole file from its template. What is left out at a place leaves no second blank line there."""
    return re.sub("\n{3,}", "\n\n", without_unused(render(name, {**context, "include": include}))) + "\n"


_HELPER = re.compile(r"^//\? ([^\n]+)\n(.*?)^//\.\n", re.MULTILINE | re.DOTALL)
_HELPER_NAME = re.compile(r"\bknet_\w+")


def without_unused(text: str) -> str:
    """The text without the helpers that nothing else in it calls.

    In a template a helper stands between the lines `//? NAME …`, with the names that call for it, and `//.`.
    """
    uses = Counter(_HELPER_NAME.findall(_HELPER.sub("", text)))
    left = {found.span(): found for found in _HELPER.finditer(text)}
    while used := [span for span, found in left.items() if any(name in uses for name in found[1].split())]:
        for span in used:
            uses.update(_HELPER_NAME.findall(left.pop(span)[2]))
    unused = {found[0] for found in left.values()}
    return _HELPER.sub(lambda found: "" if found[0] in unused else found[2], text)


@cache
def include(name: str) -> str:
    """The text of a plain helper of `templates/include`, or of another folder of `templates`."""
    path = name if "/" in name else os.path.join("include", name)
    with open(os.path.join(template_folder(), path), encoding="utf-8") as f:
        return f.read().rstrip("\n")


# --- the module -------------------------------------------------------------------------------------------------------


def _module_context(module: Module, found: Functions) -> dict[str, Any]:
    plan = module.plan
    bodies, forwards, backwards = found
    start = list(initial(module))
    training = trained(module)
    clock = set_clock(module)
    kernels = [_kernel(module, use) for use in module.kernels.values()]
    features = module.features
    framed = plan.framed
    sequences = runs_sequences(forwards)
    variants = [_variant(k, f, bodies[k]["lines"]) for k, f in enumerate(forwards)]
    whole = of_all_steps(plan) if sequences and plan.arena is None else frozenset()
    used = {name for f in (*variants, *backwards) for name in (f["places"], f["sequence_places"])}
    return {
        **interface_context(module),
        **training,
        "partials": max(KNET_BLOCKS, training.get("square_blocks", 0) * len(plan.params)),
        "set_clock": clock,
        "header": header_lines(module, "CUDA", memory_lines(plan)),
        "kernels": kernels,
        "device_includes": chosen(features, _DEVICE_INCLUDES),
        "host_includes": ["knet_host.h", *chosen(features, _HOST_INCLUDES)],
        "libraries": chosen(features, {"cublas": "cublas_v2.h", "epilogue": "cublasLt.h", "cudnn": "cudnn.h"}),
        "convs": [_shape(c.fields, c.comment) for c in module.convs.values()],
        "pools": [_shape(p.fields, p.comment) for p in module.pools.values()],
        "products": module.products,
        "tables": [literal_table(module, name, a.elements()) for a, name in module.tables.items()],
        "features": features,
        "members": member_groups(module),
        # The arena, frames and batched state have memory of their own.
        "buffers": [
            buffer_row(module, b) | {"whole": b in whole}
            for b in plan.buffers
            if b not in framed
            and not (b.kind == "state" and b.type.batched)
            and not (plan.arena is not None and b.kind in SHARING)
        ],
        "arena": plan.arena,
        "arena_size": arena_size(plan.arena, sequences),
        "places": list(places(module, used)),
        "states": plan.states,
        "frames": [
            {
                "name": frame_name(k),
                "buffers": [buffer_row(module, b) for b in v.frame],
                "when": f"  //{when(v, plan)[1:]}" if len(plan.variants) > 1 else "",
            }
            for k, v in enumerate(plan.variants)
        ],
        "frame_size": max((len(v.frame) for v in plan.variants), default=0) or 1,
        "gradient_buffers": [buffer_row(module, b) for b in buckets.gradients(plan)],
        "bucket_ends": buckets.ends(plan),
        "most_elements": MOST_ELEMENTS,
        "largest_column": max((b.type.column for b in plan.buffers if b.type.batched), default=0),
        "arrays": list(arrays(module)),
        "parameters": plan.params,
        "inputs": plan.inputs,
        "variants": variants,
        "sequences": sequences,
        "device": True,
        "functions": bodies,
        "draws": any(CLOCK in line for f in bodies for line in f["lines"]),
        "backwards": backwards,
        "initial": start,
        "variant_of": variant_of(plan),
        "cudnn_type": "CUDNN_DATA_FLOAT" if module.dtype == "f32" else "CUDNN_DATA_DOUBLE",
        # TF32 concerns float alone; for double the default is exact, and all that every cuDNN supports.
        "cudnn_math": "CUDNN_FMA_MATH"
        if (module.dtype, module.options.math) == ("f32", "fp32")
        else "CUDNN_DEFAULT_MATH",
        "cublas_math": "CUBLAS_TF32_TENSOR_OP_MATH" if module.options.math == "tf32" else "CUBLAS_DEFAULT_MATH",
        "lt_compute": _LT_COMPUTE[module.dtype, module.options.math],
        "nccl_type": "ncclFloat" if module.dtype == "f32" else "ncclDouble",
        "lt_type": "CUDA_R_32F" if module.dtype == "f32" else "CUDA_R_64F",
        "mask": any(b.kind == "mask" for b in plan.buffers),
        "loss": any(b.kind == "loss" for b in plan.buffers),
    }


def _variant(k: int, functions: dict[str, Any], lines: Sequence[str]) -> dict[str, Any]:
    """The row of a variant in the table of forward functions; `lines`: of that for a single step."""
    return {
        **functions,
        "table": values_name(k),
        "draws": any(CLOCK in line for line in lines),
        "places": places_name(k),
        "sequence_places": called_places(functions["sequence"], sequence_places_name(k)),
    }


# In which numbers cuBLASLt computes, as `cublas_math` says it to cuBLAS.
_LT_COMPUTE = {
    ("f32", "fp32"): "CUBLAS_COMPUTE_32F",
    ("f32", "tf32"): "CUBLAS_COMPUTE_32F_FAST_TF32",
    ("f64", "fp32"): "CUBLAS_COMPUTE_64F",
    ("f64", "tf32"): "CUBLAS_COMPUTE_64F",
}
KNET_BLOCKS = 256  # of templates/include/knet_blocks.h
# What is pasted for a feature, in the order in which the pieces build on each other.
_DEVICE_INCLUDES = {
    "random": "knet_random.cuh",
    "uniform": "knet_uniform.cuh",
    "normal": "knet_normal.cuh",
}
_HOST_INCLUDES = {
    "partials": "knet_blocks.h",
    "cublas": "knet_cublas.h",
    "epilogue": "knet_epilogue.h",
    "cudnn": "knet_cudnn.h",
    "conv": "knet_conv.h",
    "pool": "knet_pool.h",
}


def chosen(features: set[str], pieces: dict[str, str]) -> list[str]:
    """The pieces that the features need, in order."""
    return [text for feature, text in pieces.items() if feature in features]


def _entry(member: str, name: str, signature: str) -> str:
    """A kernel in the list of kernels, a macro, so that a line that goes on ends in a backslash."""
    lines = wrapped(f"K({member}, {name}, ({signature}))".replace(", ", ",\n").split("\n"), WIDTH - 8)
    return " \\\n    ".join(lines)


def interface_context(module: Module) -> dict[str, Any]:
    """What the templates of the interface paste."""
    plan = module.plan
    result = {v.result.type for v in plan.variants if v.result is not None}
    losses = {b.loss for v in plan.variants for b in v.backward}
    return {
        "real": module.real,
        "prefix": module.prefix,
        "conditions": [
            {"name": name, "label": label, "bit": 1 << k}
            for k, (name, label) in enumerate(condition_labels(module.prefix, plan.program.conditions))
        ],
        "parameter_names": abridged([f'"{p.buffer.name}"' for p in plan.params]) or "there is none",
        "state_names": abridged([b.name for b in plan.states]) or "there is none",
        "trains": trains(plan),
        "input_text": abridged([f"{b.name} {_dims_text(b)}" for b in plan.inputs]) or "none",
        "loss_text": " or ".join(LOSS_NAMES[loss] for loss in LOSSES if loss in losses) or "there is none",
        "output_text": " or ".join(sorted(f"[{','.join(map(repr, t.dims))}]" for t in result)) or "there is none",
    }


def _dims_text(b: Buffer) -> str:
    return f"[{','.join(map(repr, b.type.dims))}]"


def _shape(fields: tuple[tuple[str, Any], ...], comment: str) -> dict[str, str]:
    parts = ["{" + ", ".join(map(str, value)) + "}" if isinstance(value, tuple) else str(value) for _, value in fields]
    return {"text": "{" + ", ".join(parts) + "}", "comment": comment}


def literal_table(module: Module, name: str, elements: list[float]) -> dict[str, Any]:
    """A table of an array that the source gives."""
    texts = [number(e, module.dtype) + "," for e in elements]
    return {"name": name, "size": len(elements), "lines": list(wrapped(texts, WIDTH - 4))}


# --- kernels ----------------------------------------------------------------------------------------------------------


def _kernel(module: Module, use: KernelUse) -> dict[str, Any]:
    spec = use.spec
    body = render(f"kernels/{spec.template}.cu.j2", dict(spec.fields))
    # A chain may write where it reads: the planner lets a result take the memory of a value that ends there.
    alone = spec.template not in ("elementwise", "elementwise_loss", "column")
    signature = [p.replace("* ", "* __restrict__ ") if alone else p for p in spec.signature]
    name = f"{module.prefix}_{use.name}_kernel"
    head = f"__global__ void __launch_bounds__(256) {name}({', '.join(signature)}) {{"
    return {
        "comment": [*wrapped(spec.formula.split(" "), WIDTH - 3), *where(use.instrs)],
        "head": "\n    ".join(wrapped(head.replace(", ", ",\n").split("\n"), WIDTH - 4)),
        "entry": _entry(use.name, name, ", ".join(spec.signature)),
        "body": body,
    }
