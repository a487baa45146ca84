"""The emitted C++ file for the processor: puts the generator's decisions into the templates.

Before: a `training` program, through `ir.plan` and `codegen.cpu.functions`. After: the C++ compiler (`runtime.cpu`).
The same program gives the same bytes everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from knetc.codegen.cpu.functions import host_module, initial
from knetc.codegen.cpu.lines import Function
from knetc.codegen.cpu.module import CpuModule, is_given
from knetc.codegen.cpu.report import memory_lines
from knetc.codegen.cpu.work import Work
from knetc.codegen.describe import header_lines, where
from knetc.codegen.emit import chosen, emitted, interface_context, literal_table, render
from knetc.codegen.functions import TRAINED
from knetc.codegen.lines import WIDTH, wrapped
from knetc.codegen.names import spell
from knetc.codegen.spec import KernelUse
from knetc.codegen.tables import arrays, buffer_row, frame_name, member_groups, values_name, variant_of
from knetc.ir.plan import MOST_ELEMENTS, Buffer
from knetc.ir.program import LOSSES, Program
from knetc.options import Options


def emit_cpp(program: Program, options: Options) -> str:
    """The C++ source of a `training` program. Raises KnetLimitation for what cannot be emitted yet."""
    return emitted("cpu/module.cpp.j2", _context(*host_module(program, options, render)))


def emit_header(program: Program, options: Options) -> str:
    """The C header of the interface of `emit_cpp`'s source."""
    module, found = host_module(program, options, render)
    name = spell(program.name)
    title = f"Knet model {program.name}, compiled by knetc."
    context = {**_interface(module, found), "title": title, "guard": module.prefix.upper(), "file": name}
    return render("cpu/header.h.j2", context) + "\n"


# What is pasted for a feature, in the order in which the pieces build on each other.
_INCLUDES = {
    "team": "cpu/include/knet_team.h",
    "sink": "cpu/include/knet_sink.h",
    "math": "cpu/include/knet_math.h",
    "windows": "cpu/include/knet_windows.h",
    "move": "cpu/include/knet_move.h",
    "vector": "cpu/include/knet_vector.h",
    "tile": "cpu/include/knet_tile.h",
    "blas": "cpu/include/knet_blas.h",
    "outer": "cpu/include/knet_outer.h",
    "packed": "cpu/include/knet_packed.h",
    "rows": "cpu/include/knet_rows.h",
    "sums": "cpu/include/knet_sums.h",
    "conv": "cpu/include/knet_conv.h",
    "direct": "cpu/include/knet_direct.h",
    "patches": "cpu/include/knet_patches.h",
    "fill": "cpu/include/knet_fill.h",
    "update": "cpu/include/knet_update.h",
    "random": "cpu/include/knet_device.h",
    "word": "knet_random.cuh",
    "uniform": "knet_uniform.cuh",
    "draw_uniform": "cpu/include/knet_draw_uniform.h",
    "normal": "knet_normal.cuh",
    "draw_normal": "cpu/include/knet_draw_normal.h",
}
_NEEDS = {
    "blas": ("vector", "tile", "outer"),
    "packed": ("vector", "tile"),
    "direct": ("vector",),
    "random": ("word",),
    "uniform": ("draw_uniform",),
    "normal": ("draw_normal",),
}


def _context(module: CpuModule, found: Sequence[Function]) -> dict[str, Any]:
    plan = module.plan
    start = list(initial(module))
    features = module.features | {"sink", "team", "math", "windows", "move", "fill", "update"}
    features |= {other for name in features for other in _NEEDS.get(name, ())}
    outside = module.outside
    framed, shared = plan.framed, module.sharing.places
    sequences = any(f.phase for f in found)
    # What is given stands with the caller.
    whole = module.of_all_steps if sequences else frozenset()
    dense = [_read_as_arrays(found, k) for k in range(len(plan.variants))]
    frames = [
        {
            "name": frame_name(k),
            "buffers": [buffer_row(module, b) for b in v.frame if b.kind != "input"],
            "inputs": _flags(b in v.frame for b in plan.inputs),
            "dense": _flags(b in dense[k] for b in plan.inputs),
        }
        for k, v in enumerate(plan.variants)
    ]
    return {
        **_interface(module, found),
        "header": header_lines(module, "C++", memory_lines(module, found)),
        "includes": chosen(features, _INCLUDES),
        "kernels": [_kernel(module, use) for use in module.kernels.values()],
        "convs": ["{" + ", ".join(map(str, fields)) + "}" for fields in module.conv_sizes],
        "tables": [literal_table(module, name, a.elements()) for a, name in module.tables.items()],
        "blas": "blas" in features,
        "worker": list(module.worker.values()),
        "members": member_groups(module, leave_out=module.local | {b for b in outside if is_given(b)}),
        "buffers": [
            buffer_row(module, b) | {"whole": b in whole}
            for b in plan.buffers
            if b not in framed | outside | shared.keys() and not (b.kind == "state" and b.type.batched)
        ],
        "shared": [{"member": module.members[b], "from": at} for b, at in shared.items()],
        "shared_column": module.sharing.column,
        "states": plan.states,
        "frames": frames,
        "frame_size": max((len(f["buffers"]) for f in frames), default=0) or 1,
        "most_elements": MOST_ELEMENTS,
        "largest_column": max((b.type.column for b in plan.buffers if b.type.batched), default=0),
        "arrays": list(arrays(module, module.local)),
        "parameters": plan.params,
        "inputs": plan.inputs,
        "functions": [_function(f) for f in found],
        "variants": [_variant(found, k) | {"table": values_name(k)} for k in range(len(plan.variants))],
        "initial": start,
        "packed": bool(module.packed),
        "device": False,
        "one_hot": sequences and "rows" in features,
        "draws_ahead": any("knet_each_step" in line for f in found for line in f.lines),
        "variant_of": variant_of(plan),
        "mask": any(b.kind == "mask" for b in plan.buffers),
    }


def _interface(module: CpuModule, found: Sequence[Function]) -> dict[str, Any]:
    """What the templates of the interface paste."""
    context, sequences = interface_context(module), any(f.phase for f in found)
    more = {"sequences": sequences, "over_time": sequences and context["trains"]}
    return {**context, **more, "trains": any(b.loss in TRAINED for v in module.plan.variants for b in v.backward)}


def _flags(values: Iterable[bool]) -> list[str]:
    return [*("true" if value else "false" for value in values), "false"]


def _read_as_arrays(found: Sequence[Function], k: int) -> set[Buffer | str]:
    """What training variant k reads as arrays, even where an input is given as the rows of a one-hot matrix."""
    trained = [f for f in found if f.variant == k and not f.phase and f.kind == "train"]
    by_calls = [f for f in found if f.variant == k and not f.phase and f.kind in ("forward", "backward")]
    actions = (a for f in trained or by_calls for a in f.actions() if a.dense)
    return {access.root for a in actions for access in a.wide}


def _function(f: Function) -> dict[str, Any]:
    text = "\n".join(f.lines)
    used = {name: f" {name}" if re.search(rf"\b{name}\b", text) else "" for name in ("gold", "mask", "want", "step")}
    last = f"int{used['step']}" if f.phase else f"unsigned long long{used['want']}"
    return {
        "name": f.name,
        "comment": f.comment,
        "head": f"void {f.name}(knet_model* m, const knet_team& t",
        "parameters": ""
        if f.kind == "forward" and not f.phase
        else f",\n    const knet_real*{used['gold']}, const knet_real*{used['mask']}, {last}",
        "lines": f.lines,
    }


def _variant(found: Sequence[Function], k: int) -> dict[str, Any]:
    """The row of a variant in the table of functions."""
    of = [f for f in found if f.variant == k and not f.phase]
    forward = next(f for f in of if f.kind == "forward")
    named = {(f.kind, f.loss): f for f in of}
    backward = [named.get(("backward", n)) for n in range(len(LOSSES))]
    return {
        "forward": forward.name,
        "forward_work": _work(forward),
        "backward": [f.name if f else "nullptr" for f in backward],
        "backward_work": [_work(f) for f in backward],
        "train": [f.name if f else "nullptr" for f in (named.get(("train", n)) for n in range(len(LOSSES)))],
        "sequences": [_sequence(found, k, "forward", 0), *(_sequence(found, k, "backward", n) for n in range(4))],
    }


def _sequence(found: Sequence[Function], k: int, kind: str, loss: int) -> str:
    """The functions that run a sequence of variant k, as a C value."""
    of = [f for f in found if (f.variant, f.kind, f.loss) == (k, kind, loss) and f.phase]
    if not of:
        return "{nullptr, nullptr, nullptr, {0, 0}, {0, 0}, false}"
    work = Work(sum(f.work.column for f in of), sum(f.work.fixed for f in of))
    loop = next(f for f in of if f.phase == "loop")
    waits = any(line.lstrip().startswith(("t.wait()", "t.wait_wide()")) for line in loop.lines)
    names = ", ".join(f.name for f in of)
    return f"{{{names}, {{{work.column}, {work.fixed}}}, {_work(loop)}, {'true' if waits else 'false'}}}"


def _work(f: Function | None) -> str:
    return f"{{{f.work.column}, {f.work.fixed}}}" if f else "{0, 0}"


def _kernel(module: CpuModule, use: KernelUse) -> dict[str, Any]:
    spec = use.spec
    restricted = ", ".join(p.replace("* ", "* __restrict ") for p in spec.signature)
    head = f"KNET_LOOPS {spec.result} {use.name}({restricted}) {{"
    return {
        "comment": [spec.formula, *where(use.instrs)],
        "head": "\n    ".join(wrapped(head.replace(", ", ",\n").split("\n"), WIDTH - 4)),
        "body": render(f"{spec.template}.j2", dict(spec.fields)),
    }
