"""Chains of steps as functions for the processor: plain loops over rows and columns, which the compiler vectorises.

Before: `codegen.cpu.steps`. After: the templates `cpu/kernels/chain` and `cpu/kernels/column`. The expressions, names
and the order of values are those of `codegen.chain_text`; what differs is how elements are counted: by nested loops,
one for each group of dimensions, so that no index needs a division.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from knetc.codegen.chain_text import Writer
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.index import Group, collapse, column_stride
from knetc.codegen.spec import FieldValue, KernelSpec
from knetc.errors import KnetLimitation
from knetc.ir.plan import Buffer, Kernel, Step
from knetc.ir.types import BatchDim, Dims
from knetc.ops.base import registry
from knetc.ops.pool import MAX
from knetc.record import Record

_VARIABLES = ("i", "j", "k", "l", "o", "p", "q", "r")
_AXES = tuple(f"{name}{k}" for name in ("x", "y", "start", "stop", "low", "high") for k in range(3))
_MOST_UNROLLED = 16


class CpuChain(Record):
    """A function, and how it is called.

    `read`: which of the chain's inputs are its parameters. `shares`: whether a mask and a column's share follow.
    `units`: into how many stretches a column can be split among threads (the whole array, where there are no columns);
    `scale`: how many rows of the function's own count are one of them. `columns`: whether the function takes a number
    of columns.
    """

    spec: KernelSpec
    read: tuple[int, ...]
    shares: bool
    units: int
    scale: int
    columns: bool


def write_chain(module: CpuModule, kernel: Kernel) -> CpuChain:
    """The function of a chain of steps, with the names of the chain that it is first met for."""
    return _Writer(module, kernel).chain()


class _Writer(Writer):
    reserved = (*_VARIABLES, *_AXES, "c", "rows", "columns", "mask", "part", "share", "T", "first", "top", "sum",
                "element", "e")  # fmt: skip
    pieces = "cpu/pieces/{}.j2"

    def __init__(self, module: CpuModule, kernel: Kernel) -> None:
        super().__init__(module, kernel)
        self.sinks = module.gradients.keys() & set(kernel.outputs)
        self.windows = [s for s in self.steps if registry()[s.instr.op].reach == "window"]
        self.columns = self.by_column or bool(self.windows) or _batched(self.dims)
        self.scatter = self._can_scatter()
        self.row_dims = self.dims[:-1] if self.columns else self.dims
        arrays = [*self.at_i, *(self.elsewhere if self.by_column else ())]
        self.apart = any(b.pitch for b in (*self.inputs, *kernel.outputs))
        if self.apart and self.windows:
            raise KnetLimitation("code for the processor that pools rows of a block", self.windows[0].instr.span)
        groups = collapse(self.row_dims, [b.type.dims[: len(self.row_dims)] for b in arrays], self.apart)
        self.grouped = groups or [Group(1, False, tuple(True for _ in arrays))]
        self.kept = {b: [g.kept[k] for g in self.grouped] for k, b in enumerate(arrays)}
        self.window: dict[int, str] = {}  # where an unrolled window has the element in hand, by axis

    def chain(self) -> CpuChain:
        """The function with what belongs to its call."""
        heads, units, scale = self._loops()
        lines = tuple(self._lines())
        fields: tuple[tuple[str, FieldValue], ...] = (
            ("heads", heads),
            ("lines", lines),
            ("reductions", tuple(self._reductions())),
            ("before", self._before()),
            ("flat", self._flat()),
            ("simd", "yes" if not any("for (" in line for line in lines) else ""),
            ("columns", "yes" if self.columns else ""),
            ("share", self._share() if self.shares else ""),
        )
        template = f"cpu/kernels/{'column' if self.by_column else 'chain'}"
        spec = KernelSpec(template, self._stem(), self._signature(), self._formula(), fields)
        read = tuple(k for k, b in enumerate(self.kernel.inputs) if b in self.inputs)
        return CpuChain(spec, read, self.shares, units, scale, self.columns)

    def _signature(self) -> tuple[str, ...]:
        real = self.real
        outputs = (
            f"const knet_sink<{real}>& {self.names[b]}" if b in self.sinks else f"{real}* {self.names[b]}"
            for b in self.kernel.outputs
        )
        inputs = (f"const {real}* {self.names[b]}" for b in self.inputs)
        shares = (f"const {real}* mask", f"{real} part") if self.shares else ()
        return (*outputs, *inputs, *shares, "knet_range rows", *(("int columns",) if self.columns else ()))

    # --- loops --------------------------------------------------------------------------------------------------------

    def _loops(self) -> tuple[tuple[str, ...], int, int]:
        """The heads of the loops inside the one over columns, slowest first; the units and their scale."""
        if self.windows:
            return self._window_loops()
        groups = self.grouped
        heads = [f"for (int {v} = 0; {v} < {g.size}; {v}++)" for v, g in zip(_VARIABLES, groups, strict=False)]
        if self.by_column:
            return tuple(reversed(heads)), 1, 1
        v, size = _VARIABLES[len(groups) - 1], groups[-1].size
        heads[-1] = f"for (int {v} = rows.from; {v} < rows.to; {v}++)"
        channels = self.dims[-2] if len(self.dims) >= 4 else None
        if isinstance(channels, int) and size % channels == 0:  # as convolutions split their images
            return tuple(reversed(heads)), channels, size // channels
        return tuple(reversed(heads)), size, 1

    def _window_loops(self) -> tuple[tuple[str, ...], int, int]:
        """Loops over the images that the values have, or, where a gradient is scattered, over the smaller ones."""
        dims = self.windows[0].args[0].type.dims if self.scatter else self.dims
        channels = dims[-2]
        assert isinstance(channels, int)
        letter = "x" if self._goes_back() and not self.scatter else "y"
        heads = [f"for (int {letter}{k} = 0; {letter}{k} < {d}; {letter}{k}++)" for k, d in enumerate(dims[:-2])]
        return ("for (int j = rows.from; j < rows.to; j++)", *reversed(heads)), channels, 1

    def _goes_back(self) -> bool:
        return self.windows[0].instr.op == "unpool"

    def _flat(self) -> int:
        """The rows of a column where the columns can be gone through as one run of memory, else 0."""
        if not self.columns or self.windows or self.by_column or self.sinks or self.shares or self.apart:
            return 0
        rows = _size(self.row_dims)
        return rows if all(b.type.column == rows and self._in_column(b) for b in self.kept) else 0

    # --- places -------------------------------------------------------------------------------------------------------

    def _read(self, b: Buffer, dims: Dims, index: str) -> str:
        """An array at the element that the loops are at; for `at` and `o` at another one, of a window or under it."""
        return f"{self.names[b]}[{self._index(b, index)}]"

    def _index(self, b: Buffer, index: str) -> str:
        terms: list[str] = []
        step = 1
        flat = self._flat()  # then the rows' variable counts columns too
        for k, (variable, size, has) in enumerate(self._places(b, index)):
            if b.pitch and k == int(self.dims[0] != 1):  # after its rows
                step = b.pitch
            if has and (size > 1 or flat):
                whole = variable if step == 1 or variable.isidentifier() else f"({variable})"
                terms.append(whole if step == 1 else f"{step} * {whole}")
                step *= size
        if self._in_column(b):
            step = column_stride(b) if b.pitch else step
            terms.append("c" if step == 1 else f"{step} * c")
        return " + ".join(reversed(terms)) or "0"

    def _places(self, b: Buffer, index: str) -> Sequence[tuple[str, int, bool]]:
        """For each group of dimensions without the columns: what counts it, its size, whether the array has it."""
        if not self.windows:
            kept = self.kept.get(b, [True] * len(self.grouped))
            return [(v, g.size, k) for v, g, k in zip(_VARIABLES, self.grouped, kept, strict=False)]
        images = b.type.dims[:-2] if len(b.type.dims) == len(self.dims) else b.type.dims
        x = index == "at" or (index == "i" and self._goes_back())
        counted = [self.window.get(k, f"x{k}") if x else f"y{k}" for k in range(len(self.dims) - 2)]
        sizes = [1 if isinstance(d, BatchDim) else d for d in (*images, *b.type.dims[len(images) : len(self.dims) - 1])]
        return [(v, d, True) for v, d in zip([*counted, "j"], sizes, strict=False)]

    def _in_column(self, b: Buffer) -> bool:
        """Whether the array has a column for each of the function's."""
        dims = b.type.dims
        return self.columns and len(dims) == len(self.dims) and dims[-1] == self.dims[-1]

    def _put(self, b: Buffer, value: str) -> str:
        name, index = self.names[b], self._index(b, "i")
        return f"{name}.put({index}, {value});" if b in self.sinks else f"{name}[{index}] = {value};"

    def _share(self) -> str:
        column = "c" if self.columns else "0"  # a value without columns is one
        return f"const {self.real} share = mask ? mask[{column}] * part : part;"

    def _lines(self) -> list[str]:
        if self.scatter:
            return self._scattered()
        lines = super()._lines()
        return lines[1:] if self.shares and self.columns else lines  # the share stands in the loop over columns

    # --- columns ------------------------------------------------------------------------------------------------------

    def _piece(self, step: Step, fields: Mapping[str, object], variant: str = "") -> list[str]:
        if self.by_column:
            return super()._piece(step, {**fields, "heads": self._loops()[0]}, variant)
        return super()._piece(step, {**fields, "elements": self._elements(step)}, variant)

    # --- windows ------------------------------------------------------------------------------------------------------

    def _elements(self, step: Step) -> list[str]:
        """How each element of a small window is read, in order; none where the window has to be gone through."""
        p = self._pooling(step)
        if self._goes_back() or not p.inside() or _size(p.window) > _MOST_UNROLLED:
            return []
        read = self._at if p.mode == MAX else self._operand  # a mean's are terms of a sum
        found = []
        for offset in p.offsets():
            self.window = self._offset(p.stride, offset)
            found.append(read(step.args[0], step.args[0].type.dims, "at"))
        self.window = {}
        return found

    def _offset(self, stride: Sequence[int], offset: Sequence[int]) -> dict[int, str]:
        """The position in the larger image of an element of the window of the position in the smaller one, by axis."""
        starts = (f"y{k}" if s == 1 else f"{s} * y{k}" for k, s in enumerate(stride))
        return {k: f"{start} + {o}" if o else start for k, (start, o) in enumerate(zip(starts, offset, strict=True))}

    def _can_scatter(self) -> bool:
        """Whether the way back of a pooling can write each window once: windows apart, all inside the image."""
        if len(self.steps) != 1 or not self.windows or not self._goes_back() or self.sinks:
            return False
        p = self._pooling(self.steps[0])
        return p.inside() and all(s >= w for s, w in zip(p.stride, p.window, strict=True))

    def _before(self) -> tuple[str, ...]:
        """What comes before the loops: zeroes where a gradient that is scattered leaves gaps."""
        if not self.scatter:
            return ()
        p = self._pooling(self.steps[0])
        if all(y * w == x for x, y, w in zip(p.x, p.y, p.window, strict=True)):
            return ()
        name, image = self.names[self.steps[0].out], _size(p.x)
        return (f"knet_zero({name}, {_size(self.row_dims)}, rows.times({image}), columns);",)

    def _scattered(self) -> list[str]:
        """Hands a window's gradient to its winner, and zero to all others."""
        (step,) = self.steps
        dy, winner = step.args
        p = self._pooling(step)
        gradient, first = self._at(dy, dy.type.dims, "o"), self._read(winner, winner.type.dims, "o")
        lines = [f"const {self.real} element = {gradient};", f"const {self.real} first = {first};"]
        for rank, offset in enumerate(p.offsets()):
            self.window = self._offset(p.stride, offset)
            lines.append(f"{self._read(step.out, self.dims, 'at')} = first == {rank} ? element : 0;")
        self.window = {}
        return lines


def _batched(dims: Dims) -> bool:
    return any(isinstance(d, BatchDim) for d in dims)


def _size(sizes: Sequence[object]) -> int:
    """The product of the sizes, without the batch."""
    size = 1
    for d in sizes:
        size *= d if isinstance(d, int) else 1
    return size
