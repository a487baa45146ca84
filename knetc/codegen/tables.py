"""The data of the emitted file: the model's members, where every buffer and every named array stands.

Before: the plan, and the identifiers of `codegen.spec`. After: `codegen.emit`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from knetc.codegen.lines import WIDTH
from knetc.codegen.spec import Module
from knetc.errors import KnetInternalError
from knetc.ir.memory import Arena, Layout, outermost
from knetc.ir.placing import Place
from knetc.ir.plan import BackwardPlan, Buffer, Plan, flat
from knetc.ir.types import BatchDim

_GROUPS = {
    "param": "parameters",
    "grad": "their gradients",
    "const": "constants",
    "state": "state, from call to call, and its gradient, from step to step",
    "dstate": "state, from call to call, and its gradient, from step to step",
    "input": "inputs",
    "value": "values, forward and backward",
    "packed": "matrices as the products of a loop over time read them, rows filled up to whole vectors",
    "gold": "the desired output, the mask, the loss",
    "mask": "the desired output, the mask, the loss",
    "loss": "the desired output, the mask, the loss",
}


def member_groups(module: Module, leave_out: Collection[Buffer] = ()) -> list[dict[str, Any]]:
    """The model's members in groups with a comment each."""
    groups: dict[str, list[dict[str, str]]] = {}
    parts = _parts(module.plan)
    for kind, comment in _GROUPS.items():
        for b in module.plan.buffers:
            if b.kind == kind and b not in leave_out:
                text = f"// {_name_comment(b)}{b.type}"
                if b in parts:
                    before = len(f"  {module.real}* {module.members[b]} = nullptr;  {text}: ")
                    text += f": {abridged(parts[b], WIDTH - before)}" if before < WIDTH - 35 else ""
                groups.setdefault(comment, []).append({"member": module.members[b], "comment": f"  {text}"})
    return [{"comment": comment, "buffers": buffers} for comment, buffers in groups.items()]


def _parts(plan: Plan) -> dict[Buffer, list[str]]:
    """For each block the names of the values that are its rows, from the first down."""
    units = [u for v in plan.variants for units in (v.forward, *(b.steps for b in v.backward)) for u in units]
    views = {b for s in flat(units) for b in (s.out, *s.args)}
    views.update(b for p in plan.params for b in (p.buffer, p.grad) if b is not None)
    found: dict[Buffer, list[str]] = {}
    for b in sorted(
        (b for b in views if b.base is not None and "@part" not in b.name), key=lambda b: (b.first, b.name)
    ):
        found.setdefault(b.root, []).append(b.name)
    return found


def abridged(texts: Sequence[str], width: int = 62) -> str:
    """The texts as far as they fit into `width`, one of them at least, and how many more there are."""
    found = ""
    for count in range(len(texts), 0, -1):
        more = f" and {len(texts) - count} more" if count < len(texts) else ""
        found = ", ".join(texts[:count]) + more
        if len(found) <= width:
            break
    return found


def _name_comment(b: Buffer) -> str:
    """The Knet name where the member's name differs from it."""
    return "" if b.kind not in ("param", "input", "const", "value", "state", "packed") else f"{b.name} "


def buffer_row(module: Module, b: Buffer) -> dict[str, Any]:
    """A buffer's member and its size, fixed or a column."""
    size = b.type.column
    fixed, column = (0, size) if b.type.batched else (size, 0)
    return {"member": module.members[b], "fixed": fixed, "column": column}


def arrays(module: Module, leave_out: Collection[Buffer] = ()) -> Iterator[dict[str, Any]]:
    """The tables of arrays that have a name: parameters, gradients, inputs, and each variant's variables."""
    plan = module.plan
    yield {"name": "parameters", "rows": [_array(module, p.buffer.name, p.buffer) for p in plan.params]}
    yield {"name": "gradients", "rows": [_array(module, p.buffer.name, p.grad) for p in plan.params]}
    yield {"name": "states", "rows": [_array(module, b.name, b) for b in plan.states]}
    yield {"name": "inputs", "rows": [_array(module, b.name, b) for b in plan.inputs]}
    for k, v in enumerate(plan.variants):
        names = {**({"return": v.result} if v.result is not None else {}), **dict(v.names)}
        yield {
            "name": values_name(k),
            "rows": [_array(module, n, b) for n, b in names.items() if b.root not in leave_out],
        }


def frame_name(k: int) -> str:
    """The C name of the table of what variant k's frames hold."""
    return f"frame_{k}"


def places(module: Module, used: Collection[str]) -> Iterator[dict[str, Any]]:
    """The tables of those names of where a function's buffers stand in the arena; none where there is no arena."""
    plan = module.plan
    for k, found in enumerate(plan.arena.variants if plan.arena else ()):
        layouts = {places_name(k): found.forward, sequence_places_name(k): found.sequence}
        for b, single, whole in zip_longest(plan.variants[k].backward, found.backward, found.backward_sequence):
            single = _without_forward(single, b, plan) if plan.arena and plan.arena.apart else single
            layouts |= {places_name(k, b.loss): single, sequence_places_name(k, b.loss): whole}
        for name, layout in layouts.items():
            if name in used and layout is not None:
                rows = [
                    {"member": module.members[b], "fixed": at.fixed, "column": at.column, "later": at.later}
                    for b, at in layout.places
                ]
                yield {"name": name, "rows": rows}


def _without_forward(layout: Layout, b: BackwardPlan, plan: Plan) -> Layout:
    """The layout without what only the forward list touches."""
    touched = {x.root for s in flat(b.steps) for x in (*s.args, s.out)} | {at.root for _, at in b.inputs}
    return Layout(tuple(place for place in layout.places if place[0] in touched))


def arena_size(arena: Arena | None, sequences: bool) -> dict[str, Any]:
    """The function that returns how many elements the arena has: its parameters, its lines, and whether they choose the
    largest of several numbers. `sequences`: whether it is asked about whole sequences too.
    """
    lines = _arena_lines(arena)
    text = "\n".join(lines)
    steps = ", int steps" if "steps" in text else ", int"  # without a name where no place depends on it
    return {
        "parameters": f"int batch{steps if sequences else ''}",
        "lines": lines,
        "largest": "std::max" in text,
    }


def _arena_lines(arena: Arena | None) -> list[str]:
    """The lines of the function that returns how many elements the arena has for `batch` columns, of so many `steps`
    where it knows of whole sequences.
    """
    if arena is None:
        return ["return 0;"]
    single, all_ = arena.ends or (Place(0, 0),), outermost((*arena.ends, *arena.sequence_ends))
    if set(all_) == set(arena.ends):
        return _largest(single)
    later = ["  const size_t later = (size_t)batch * (steps - 1);  // the columns of the further steps"]
    later = later if any(end.later for end in all_) else []
    return ["if (steps > 1) {", *later, *(f"  {line}" for line in _largest(all_)), "}", *_largest(single)]


def _largest(ends: Sequence[Place]) -> list[str]:
    """The lines that return how far the places reach."""
    terms = [_end(end) for end in ends]
    if len(terms) == 1:
        return [f"return {terms[0]};"]
    return ["return std::max<size_t>({", *(f"    {term}," for term in terms), "});"]


def _end(end: Place) -> str:
    terms = [str(end.fixed)] if end.fixed or not (end.column or end.later) else []
    terms += [f"{end.column} * (size_t)batch"] if end.column else []
    return " + ".join([*terms, f"{end.later} * later"] if end.later else terms)


def places_name(k: int, loss: str = "") -> str:
    """The C name of the table of where the buffers of variant k stand, going forward or back from a loss."""
    return f"places_{k}_{loss}" if loss else f"places_{k}"


def sequence_places_name(k: int, loss: str = "") -> str:
    """The C name of the same table for a whole sequence."""
    return f"sequence_{places_name(k, loss)}"


def values_name(k: int) -> str:
    """The C name of the table of variant k's variables."""
    return f"values_{k}"


def _array(module: Module, name: str, b: Buffer | None) -> str:
    if b is None:
        return f"{_string(name)}, nullptr, 0, 0, 0, {{}}"
    dims = ", ".join("-1" if isinstance(d, BatchDim) else str(d) for d in b.type.dims)
    if len(b.type.dims) > 8:
        raise KnetInternalError(f"{name} has {len(b.type.dims)} dimensions")
    place = f"&knet_model::{module.members[b.root]}, {b.first}, {b.pitch or 0}"
    return f"{_string(name)}, {place}, {len(b.type.dims)}, {{{dims}}}"


def _string(text: str) -> str:
    """A C string literal; a name of Knet may hold any letter, UTF-8 as it is."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def variant_of(plan: Plan) -> str:
    """For every setting of the conditions, as a number whose bits they are, the variant that it runs."""
    bits = {name: 1 << k for k, name in enumerate(plan.program.conditions)}
    found = {sum(bits[c] for c in s): k for k, v in enumerate(plan.variants) for s in v.variant.settings}
    return ", ".join(str(found.get(setting, len(plan.variants))) for setting in range(1 << len(bits)))
