"""The messages of size inference: which operands, which shapes, and where each shape came from.

Used by `passes.shapes` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from knetc import ops
from knetc.errors import Diagnostic, KnetShapeError, Note, Source, Span
from knetc.ir.program import Instr, Program
from knetc.ir.types import BatchDim, Partial, PartialDims, show_dims
from knetc.ops.base import ShapeMismatch

if TYPE_CHECKING:
    from knetc.ir.passes.shapes import Cell, Step

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
LONGEST = 40  # how much of an expression's text names its value


def check_inputs(program: Program, given: Sequence[PartialDims | None]) -> None:
    """Raises KnetShapeError for shapes that no input can have."""
    if given and len(given) != len(program.inputs):
        raise KnetShapeError(
            f"{program.name} has {_count(len(program.inputs), 'input')}, {len(given)} shapes are given"
        )
    for i, dims in zip(program.inputs, given, strict=False):
        if dims is not None and any(isinstance(d, BatchDim) for d in dims[:-1]):
            text = f"the batch N must be the last dimension of input '{i.name}', not as in {show_dims(dims)}"
            raise KnetShapeError(text, i.span)


# --- sizes that contradict each other ---------------------------------------------------------------------------------


def mismatch(
    program: Program,
    steps: Sequence[Step],
    cells: Sequence[Cell],
    index: int,
    found: ShapeMismatch,
    assumed: int | None,
) -> KnetShapeError:
    """The error for what the rule of step `index` found, after step `assumed` was let assume a size."""
    step = steps[index]
    operands = list(dict.fromkeys(step.cells[o] for o in found.operands)) or list(dict.fromkeys(step.cells[:-1]))
    shown = [f"{_name(program, cells[c], steps)}, {_shape(cells[c])}," for c in operands]
    verb = "do not fit" if len(shown) > 1 else "does not fit"
    notes = [note for c in operands for note in _origin(program, steps, cells, c)]
    span = located(step.instr.span, program.source)
    notes += _calls(span)
    if assumed is not None:
        place = located(steps[assumed].instr.span, program.source)
        notes.append(Note("nothing says a size here, so that it was assumed to fit", place))
    return KnetShapeError(f"{_listed(shown)} {verb}: {found.message}", span, list(dict.fromkeys(notes)))


def _origin(program: Program, steps: Sequence[Step], cells: Sequence[Cell], number: int) -> Iterable[Note]:
    """Where a cell's shape came from: the step that gave it, followed through operators that keep the shape."""
    cell = cells[number]
    what = _name(program, cell, steps)
    if not cell.history:
        return
    cause, shape = cell.history[-1]
    yield Note(f"shape of {what}, {show_dims(shape.dims)}, came from here", _place(program, steps, cells, number))
    first = cell.history[0][0]
    if first is not None and first != cause and steps[first].instr.op in ("par", "arr", "rnd"):
        yield Note(f"{what} is declared here", located(steps[first].instr.span, program.source))


def _place(program: Program, steps: Sequence[Step], cells: Sequence[Cell], number: int) -> Span | None:
    seen: set[int] = set()
    while number not in seen:
        seen.add(number)
        cause, shape = cells[number].history[-1]
        if cause is None:
            return _input_span(program, cells[number].value)
        source = _same_shape_operand(steps[cause], cells, number, cause, shape)
        if source is None:
            return located(steps[cause].instr.span, program.source)
        number = source
    return None


def _same_shape_operand(step: Step, cells: Sequence[Cell], number: int, cause: int, shape: Partial) -> int | None:
    """The operand that handed its shape on unchanged, if the step is of that kind."""
    op = ops.registry().get(step.instr.op)
    if op is not None and op.weights:
        return None
    for other in step.cells:
        history = cells[other].history
        if other != number and history and history[-1][0] != cause and history[-1][1].dims == shape.dims:
            return other
    return None


# --- sizes that stay open ---------------------------------------------------------------------------------------------


def report_open(program: Program, cells: Sequence[Cell]) -> None:
    """Raises KnetShapeError where a size is unknown still: for the inputs, else for arrays, else for one value."""
    left = [c for c in cells if not c.shape.known]
    if not left:
        return
    sources = _sources(program)
    inputs = [c for c in left if c.kind == "input"]
    arrays = [c for c in left if c.kind == "value" and c.value in sources]
    chosen = inputs or arrays or left[:1]
    raise KnetShapeError([_open(program, cell, sources.get(cell.value)) for cell in chosen[:10]])


def _open(program: Program, cell: Cell, source: Instr | None) -> Diagnostic:
    dims = cell.shape.dims
    if cell.kind == "input":
        what, span = f"input '{cell.value}'", _input_span(program, cell.value)
        cure = f"give the shape of {what}"
    elif source is not None:
        what = f"'{cell.value}'" if cell.value not in program.temps else f"this {source.op}"
        span = located(source.span, program.source)
        cure = "give it in dims" if span == source.span else "give it in the call, as with out=10"
    else:
        of = "state " if cell.kind == "state" else ""
        what, cure = f"{of}'{cell.value}'", "give dims to what it is computed from"
        span = located(_definition(program, cell.value), program.source)
    if dims is None or all(d is None for d in dims):
        text = f"the shape of {what} cannot be inferred; {cure}"
    else:
        which = _listed([ORDINALS[k] if k < len(ORDINALS) else f"{k + 1}th" for k, d in enumerate(dims) if d is None])
        plural = "s" if dims.count(None) > 1 else ""
        text = f"the {which} dimension{plural} of {what}, {show_dims(dims)}, cannot be inferred; {cure}"
    return Diagnostic(text, span, tuple(_calls(span)))


def _sources(program: Program) -> dict[str, Instr]:
    """The arrays that a program may give dims to."""
    return {i.out: i for v in program.variants for i in v.forward if i.op in ("par", "arr", "rnd")}


def _definition(program: Program, value: str) -> Span | None:
    for variant in program.variants:
        for instr in variant.forward:
            if instr.out == value or (instr.op == "state" and instr.attr("var") == value):
                return instr.span
    return None


# --- names and places -------------------------------------------------------------------------------------------------


def located(span: Span | None, source: Source | None) -> Span | None:
    """The place in the user's own source: out of inlined built-in operators, to the call of the outermost of them."""
    while span is not None and span.via is not None and source is not None and span.source != source:
        span = span.via
    return span


def _calls(span: Span | None) -> list[Note]:
    """The calls through which an inlined definition was reached, innermost first."""
    notes: list[Note] = []
    while span is not None and span.via is not None and len(notes) < 5:
        span = span.via
        notes.append(Note("in the call here", span))
    return notes


def _name(program: Program, cell: Cell, steps: Sequence[Step]) -> str:
    """What the user calls a value: its variable, or the text of the expression that computes it."""
    if cell.kind != "value":
        return cell.value
    for name, value in program.variants[cell.variant].names:
        if value == cell.value:
            return name
    if cell.value not in program.temps:
        return cell.value.split("#")[0]
    definition = next((steps[u].instr for u in cell.users if steps[u].instr.out == cell.value), None)
    span = located(definition.span, program.source) if definition else None
    text = ""
    if span is not None and span.line == span.end_line:
        text = span.source.line(span.line)[span.column - 1 : span.end_column - 1]
    if len(text) > LONGEST:
        text = text[: LONGEST - 3] + "..."
    return text or f"the result of {definition.op if definition else 'a call'}"


def _input_span(program: Program, name: str) -> Span | None:
    return next((i.span for i in program.inputs if i.name == name), None)


def _shape(cell: Cell) -> str:
    return show_dims(cell.shape.dims)


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
