"""What the generator decides, as data: kernels and the statements that use them.

Before: `codegen.kernels` and `codegen.library`, which make these from the plan's steps. After: `codegen.emit`, which
hands them to the templates. A template only pastes fields; everything that could be decided has been.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from knetc.codegen.index import column_stride
from knetc.codegen.names import Names, interface_prefix
from knetc.ir.plan import Buffer, Plan, Step
from knetc.ir.program import Instr
from knetc.options import Options
from knetc.record import Record
from knetc.values import Array

if TYPE_CHECKING:
    from knetc.codegen.chain_text import ChainText

FieldValue: TypeAlias = "str | int | tuple[object, ...]"
REAL = {"f32": "float", "f64": "double"}
# Members of the model's struct and locals of its functions that no value may be called.
_TAKEN = """stream own_stream device blas dnn conv pool workspace workspace_bytes partials squares gold mask loss
    seed call batch described capacity variant gradients input_gradients input_batch training last record stack spare
    state_batch state_room unwinding later sums clock memory graphs updates sent event search deterministic
    blas_workspace captured refused steps whole_capacity columns_before arena blas_lt blas_workspace_bytes product"""
TAKEN = tuple(_TAKEN.split())


class KernelSpec(Record):
    """One kernel: `templates/kernels/<template>.cu.j2` with `fields`.

    `stem`: the name it would like; `signature`: its parameters; `formula`: what it computes, for the comment above it;
    `result`: what a function for the processor returns. Two specs that differ in `stem` and `formula` alone are one
    kernel.
    """

    template: str
    stem: str
    signature: tuple[str, ...]
    formula: str
    fields: tuple[tuple[str, FieldValue], ...] = ()
    result: str = "void"

    @property
    def content(self) -> tuple[object, ...]:
        """What decides whether two kernels are one."""
        return (self.template, self.signature, self.fields)


class KernelUse:
    """A kernel of the module with its final name and the instructions that it runs for."""

    def __init__(self, name: str, spec: KernelSpec) -> None:
        self.name = name
        self.spec = spec
        self.instrs: list[Instr] = []


class Statement(Record):
    """One statement of the host code: `templates/host/<template>.cu.j2` with `fields`."""

    template: str
    fields: tuple[tuple[str, FieldValue], ...]


class Part(Record):
    """Which columns statements are about: in a whole sequence those of `all` steps or of one `step`, else those of the
    call. `whole`: the arrays that have the columns of all steps, where those of the step begin at `at`. `names`: local
    variables that stand for arrays.
    """

    kind: str = ""
    whole: frozenset[Buffer] = frozenset()
    names: Mapping[Buffer, str] = MappingProxyType({})


class LibraryShape(Record):
    """A convolution or pooling that cuDNN is told about: the member of the model that holds its descriptors."""

    member: str
    fields: tuple[tuple[str, FieldValue], ...]
    comment: str


def statement(template: str, **fields: FieldValue) -> Statement:
    """A statement of the host code."""
    return Statement(template, tuple(fields.items()))


def describe(step: Step) -> str:
    """The value that a step computes, for the comment after the statement."""
    return f"{step.instr.out} {step.out.type}"


def number(value: float, dtype: str) -> str:
    """A C literal of the element type."""
    value = float(value)
    if math.isnan(value):
        text = "NAN"
    elif math.isinf(value):
        text = "INFINITY" if value > 0 else "-INFINITY"
    else:
        text = f"{value!r}f" if dtype == "f32" else repr(value)
    return f"({text})" if text.startswith("-") else text


def epsilon(dtype: str) -> str:
    """The type's epsilon as a C literal."""
    return number({"f32": 2.0**-23, "f64": 2.0**-52}[dtype], dtype)


_MARK = "\0"  # stands around the name of a field where its value will
_LITERAL = re.compile(r"\bT\(\s*(-?[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?|-?inf|nan)\s*\)")
_TYPE = re.compile(r"\bT\b")


def spell_type(expr: str, dtype: str) -> str:
    """An operator's expression with `T(0.5)` written as a literal and `T` as the element type."""
    expr = _LITERAL.sub(lambda found: number(float(found[1]), dtype), expr)
    return _TYPE.sub(REAL[dtype], expr)


class Module:
    """What one emitted file holds besides its plan: identifiers, kernels, library shapes, and what is pasted in."""

    def __init__(self, plan: Plan, options: Options, render: Callable[[str, Mapping[str, object]], str]) -> None:
        self.plan = plan
        self.render = render
        self.options = options
        self.dtype = plan.program.dtype
        self.real = REAL[self.dtype]
        self.prefix = options.prefix or interface_prefix(plan.program.name)
        self.kernels: dict[tuple[object, ...], KernelUse] = {}
        self.convs: dict[tuple[object, ...], LibraryShape] = {}
        self.pools: dict[tuple[object, ...], LibraryShape] = {}
        self.products: dict[tuple[object, ...], tuple[int, str]] = {}  # by call: its number and what it computes
        self.tables: dict[Array, str] = {}
        self.features: set[str] = set()
        self.chains: dict[tuple[object, ...], ChainText] = {}
        self._pieces: dict[str, list[str]] = {}
        self._kernel_names = Names()
        self._table_names = Names()
        self.members = members(plan)
        self.part = Part()

    def kernel(self, spec: KernelSpec, instrs: Iterable[Instr] = ()) -> str:
        """How a statement names the kernel `spec`, which is added where it is new."""
        use = self.kernels.get(spec.content)
        if use is None:
            use = self.kernels[spec.content] = KernelUse(self._kernel_names.fresh(spec.stem), spec)
        use.instrs.extend(instrs)
        return f"kernels.{use.name}"

    def product(self, call: tuple[object, ...], text: str) -> int:
        """The number of a call of a product with an epilogue. `call`: all that it is given; `text`: what it computes.

        Calls that are the same share one number and its plans, so that functions that differ in nothing else are one.
        """
        return self.products.setdefault(call, (len(self.products), text))[0]

    def paste(self, name: str, fields: Mapping[str, object]) -> str:
        """A template that only pastes its fields, rendered once and then filled in: there may be many thousands."""
        pieces = self._pieces.get(name)
        if pieces is None:
            text = self.render(name, {key: f"{_MARK}{key}{_MARK}" for key in fields})
            pieces = self._pieces[name] = text.split(_MARK)
        filled = pieces.copy()
        filled[1::2] = [str(fields[key]) for key in pieces[1::2]]
        return "".join(filled)

    def about(self, part: Part) -> Module:
        """The same module for statements about a part of a sequence: they name the same kernels and buffers."""
        found = copy(self)
        found.part = part
        return found

    def ref(self, buffer: Buffer) -> str:
        """How host code names a buffer; a view by its place in its block."""
        first = f" + {buffer.first}" if buffer.first else ""
        if (local := self.part.names.get(buffer.root)) is not None:
            return local + first
        name = f"m->{self.members[buffer.root]}" + first
        if buffer.root not in self.part.whole:
            return name
        stride = column_stride(buffer)
        return f"{name} + at" if stride == 1 else f"{name} + {stride} * at"

    @property
    def batch(self) -> str:
        """How many columns a call or a step has, as C text; there are `N` columns that statements are about."""
        return "m->batch" if self.part.kind == "all" else "N"

    def table(self, name: str, array: Array) -> str:
        """How host code names an array that the source gives; a table of the file."""
        return self.tables.setdefault(array, f"{self._table_names.fresh(name)}_table")

    def library(self, kind: str, fields: tuple[tuple[str, FieldValue], ...], comment: str) -> str:
        """How host code names the descriptors of a convolution (`conv`) or pooling (`pool`)."""
        shapes = self.convs if kind == "conv" else self.pools
        shape = shapes.get(fields)
        if shape is None:
            shape = shapes[fields] = LibraryShape(f"{kind}[{len(shapes)}]", fields, comment)
        self.features.add("cudnn")
        self.features.add(kind)
        return f"m->{shape.member}"


_ORDER = ("param", "input", "const", "grad", "value", "state", "dstate", "packed")


def members(plan: Plan, taken: tuple[str, ...] = TAKEN) -> dict[Buffer, str]:
    """The struct's member for each buffer: parameters first, so that they keep their plain names."""
    names = Names(taken)
    found: dict[Buffer, str] = {}
    golds = 0
    for b in plan.buffers:
        if b.kind in ("mask", "loss"):
            found[b] = b.kind
        elif b.kind == "gold":
            golds += 1
            found[b] = "gold" if golds == 1 else names.fresh(f"gold_{golds}")
    for kind in _ORDER:
        for b in plan.buffers:
            if b.kind == kind:
                found[b] = names.fresh(f"{b.name}_state" if b.kind in ("state", "dstate") else b.name)
    return found
