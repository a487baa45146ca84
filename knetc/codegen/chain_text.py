"""The text of a kernel that computes a chain of steps.

Before: `codegen.chain`, which asks for it once for every kind of chain. After: the templates `kernels/elementwise` and
`kernels/column`, which paste the lines. Broadcast arguments are read by index arithmetic; what only the kernel itself
reads is a variable of it. A pooling reads its argument in a window, a softmax in its column; what comes before them in
the chain is computed anew for each element that they read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from knetc.codegen.index import buffer_index, collapse, rows_and_columns
from knetc.codegen.names import Names
from knetc.codegen.spec import FieldValue, KernelSpec, Module, epsilon, spell_type
from knetc.codegen.window import Pooling
from knetc.ir import uses
from knetc.ir.plan import Buffer, Kernel, Step
from knetc.ir.program import Instr
from knetc.ir.types import Dims
from knetc.ops.base import Elementwise, Piece, registry
from knetc.ops.base import Kernel as CudaKernel
from knetc.ops.pool import MAX
from knetc.record import Record
from knetc.values import show

# The names that the lines and the pasted pieces use themselves.
_RESERVED = (
    "i",
    "n",
    "T",
    "mask",
    "columns",
    "part",
    "share",
    "image",
    "o",
    "first",
    "top",
    "sum",
    "element",
    "column",
    "rows",
    "r",
    "row",
    "weight",
    "partials",
    *(f"{name}{axis}" for name in ("x", "y", "z", "start", "stop", "low", "high") for axis in range(3)),
)
_MOST_OPS = 4


class ChainText(Record):
    """A kernel, and how it is launched: which of the chain's inputs are its parameters, whether a mask and the number
    of columns follow, and whether it takes a block for each column and the number of rows, or any for n elements.
    """

    spec: KernelSpec
    read: tuple[int, ...]
    shares: bool
    by_column: bool


def write_chain(module: Module, kernel: Kernel, loss: Step | None = None, formula: str = "") -> ChainText:
    """The kernel of a chain of steps, with the names of the chain that it is first met for.

    `loss`: a loss whose partial sums the kernel leaves too, and `formula` what these are.
    """
    writer = Writer(module, kernel)
    return writer.text() if loss is None else writer.text_with_loss(loss, formula)


def loss_term(module: Module, loss: Step, reads: Mapping[str, str]) -> str:
    """What an element adds to a loss, as C++; `reads`: how its prediction and what is desired are read."""
    cuda = registry()[loss.instr.op].cuda
    assert isinstance(cuda, CudaKernel)
    return spell_type(cuda.term, module.dtype).format(**reads, epsilon=epsilon(module.dtype))


def call_text(instr: Instr, given: Sequence[str] = ()) -> str:
    """The operator as a call of what is given, or of its parameters, with its attributes: `axpb(x; a=2.0)`."""
    op = registry()[instr.op]
    attrs = [
        f"{key}={show(value)}" for key, value in instr.attrs if key in op.keywords and value != op.keywords[key].default
    ]
    return f"{instr.op}({', '.join(given or op.args)}{'; ' if attrs else ''}{', '.join(attrs)})"


class Writer:
    """Writes the text of one chain. `reserved`: names that the lines use themselves; `pieces`: where templates are."""

    reserved: tuple[str, ...] = _RESERVED
    pieces = "pieces/{}.cu.j2"

    def __init__(self, module: Module, kernel: Kernel) -> None:
        self.module = module
        self.kernel = kernel
        self.real = module.real
        self.single = len(kernel.steps) == 1
        self.made = {s.out: s for s in kernel.steps}
        before = uses.prologue([s.instr for s in kernel.steps])
        self.steps = [s for s in kernel.steps if s.instr.out not in before]
        self.dims = self.steps[0].out.type.dims
        self.by_column = any(registry()[s.instr.op].reach == "column" for s in self.steps)
        self.at_i: Counter[Buffer] = Counter()  # how often each array from outside is read at the thread's own element
        self.elsewhere: dict[Buffer, None] = {}  # those that are read at other places
        self._count_reads()
        self.inputs = [b for b in kernel.inputs if b in self.at_i or b in self.elsewhere]
        self.groups = collapse(self.dims, [b.type.dims for b in self.at_i])
        # The piece of a window has an `at` of its own.
        windows = any(registry()[s.instr.op].reach == "window" for s in self.steps)
        self.taken = Names((*self.reserved, "at") if windows else self.reserved)
        self.names = self._names()
        self.places: dict[Buffer, str] = {}  # how the element i of a value or array is read
        self.shares = any("{share}" in self._expression(s) for s in self.steps if not registry()[s.instr.op].reach)

    def text(self) -> ChainText:
        """The kernel with what belongs to its launch."""
        template = "column" if self.by_column else "elementwise"
        return self._launched(KernelSpec(template, self._stem(), self._parameters(), self._formula(), self._fields()))

    def text_with_loss(self, loss: Step, formula: str) -> ChainText:
        """The same, with the partial sums of a loss whose arrays the chain reads too; `formula`: what they are.

        Each element is added before anything is written, which may stand where what is desired stood.
        """
        self.at_i.update(loss.args[:2])  # so that a variable holds each
        variables = self._variables(single=True)
        p, gold = (self.places[b] for b in loss.args[:2])
        term = loss_term(self.module, loss, {"p": p, "gold": gold})
        mask = f"const {self.real} weight = {self._weight()}, share = weight * part;"
        lines = [mask, *variables, f"if (weight != 0) sum += {term} * weight;", *self._values()]
        return self._launched(
            KernelSpec(
                template="elementwise_loss",
                stem=f"{loss.instr.op}_and_back" if self.single else f"{loss.instr.op}_with_{self._stem()}",
                signature=("double* partials", *self._parameters()),
                formula=f"{self._formula()}; {formula}",
                fields=(("before", self._before_all()), ("lines", tuple(self._with_indices(lines)))),
            )
        )

    def _launched(self, spec: KernelSpec) -> ChainText:
        read = tuple(k for k, b in enumerate(self.kernel.inputs) if b in self.inputs)
        return ChainText(spec, read, self.shares, self.by_column)

    def _parameters(self) -> tuple[str, ...]:
        real = self.real
        return (
            *(f"{real}* {self.names[b]}" for b in self.kernel.outputs),
            *(f"const {real}* {self.names[b]}" for b in self.inputs),
            *((f"const {real}* mask", "int columns") if self.shares else ()),
            "int rows" if self.by_column else "int n",
        )

    def _before_all(self) -> tuple[str, ...]:
        """What stands before the loop over the elements."""
        return (f"const {self.real} part = ({self.real})(1.0 / columns);",) if self.shares else ()

    def _fields(self) -> tuple[tuple[str, FieldValue], ...]:
        before = self._before_all()
        if not self.by_column:
            return (("before", before), ("lines", tuple(self._with_indices(self._lines()))))
        lines, reductions = self._by_row(self._lines()), self._by_row(self._reductions())
        return (("before", before), ("lines", lines), ("reductions", reductions))

    # --- what is read -------------------------------------------------------------------------------------------------

    def _count_reads(self) -> None:
        for step in self.steps:
            if registry()[step.instr.op].reach:
                for b in step.args:
                    self.elsewhere.update(dict.fromkeys(self._sources(b)))
                continue
            for name, b in self._arguments(step):
                times = self._expression(step).count(f"{{{name}}}")
                if times and b not in self.made:
                    self.at_i[b] += times

    def _sources(self, b: Buffer) -> Iterable[Buffer]:
        """The arrays from outside that a value of the prologue is computed from."""
        if b not in self.made:
            yield b
            return
        for name, a in self._arguments(self.made[b]):
            if f"{{{name}}}" in self._expression(self.made[b]):
                yield from self._sources(a)

    def _arguments(self, step: Step) -> Iterable[tuple[str, Buffer]]:
        return zip(registry()[step.instr.op].args, step.args, strict=True)

    def _expression(self, step: Step) -> str:
        """The operator's expression in the element type, `{name}` for each argument."""
        cuda = registry()[step.instr.op].cuda
        assert isinstance(cuda, Elementwise)
        return spell_type(cuda.expr(dict(step.instr.attrs)) if callable(cuda.expr) else cuda.expr, self.module.dtype)

    # --- names --------------------------------------------------------------------------------------------------------

    def _names(self) -> dict[Buffer, str]:
        """A name for each array: the operator's own where there is one step, else from Knet's names."""
        names = self.taken
        found: dict[Buffer, str] = {}
        if self.single:
            (step,) = self.kernel.steps
            for name, b in self._arguments(step):
                found.setdefault(b, names.fresh(name))
            wished = {step.out: "dx" if "dy" in found.values() else "y"}
        else:
            wished = {b: _short(b, "x") for b in self.inputs}
            wished |= {s.out: _short(s.out, "y") for s in self.steps}
        return found | {b: names.fresh(name) for b, name in wished.items()}

    def _stem(self) -> str:
        ops = [s.instr.op for s in self.kernel.steps]
        few = len(ops) <= _MOST_OPS
        what = "_".join(dict.fromkeys(ops)) if few else f"fused_{_short(self.kernel.outputs[-1], 'y')}"
        windows = [s for s in self.steps if registry()[s.instr.op].reach == "window"]
        if windows:
            return f"{what}_{self._pooling(windows[0]).names()}"
        shapes = "x".join(map(str, self.groups)) if not all(all(g.kept) for g in self.groups) else ""
        return f"{what}_{shapes}" if shapes else what

    def _formula(self) -> str:
        """The values as calls of operators where they are few, else which operators make them, and how many of each."""
        outputs = self.kernel.outputs
        if len(self.kernel.steps) <= _MOST_OPS:
            return "; ".join(f"{self.names[b]} = {self._call(self.made[b])}" for b in outputs)
        counts = Counter(s.instr.op for s in self.kernel.steps)
        ops = ", ".join(f"{count} {op}" if count > 1 else op for op, count in counts.items())
        return f"{', '.join(self.names[b] for b in outputs)} in one pass: {ops}"

    def _call(self, step: Step) -> str:
        """The operator as a call, with calls in it for values that are the kernel's own."""
        own = {a: self.made[a] for a in step.args if a in self.made and a.kind == "register"}
        read = {a: self.names[a] for a in self.inputs}
        given = [self._call(own[a]) if a in own else read.get(a, name) for name, a in self._arguments(step)]
        return call_text(step.instr, given)

    # --- lines --------------------------------------------------------------------------------------------------------

    def _lines(self) -> list[str]:
        """The statements for element i."""
        return [*([self._share()] if self.shares else ()), *self._variables(), *self._values()]

    def _variables(self, single: bool = False) -> list[str]:
        """Variables for the arrays that are read more than once; `single`: even where there is one step."""
        lines = []
        for b, times in self.at_i.items():
            self.places[b] = self._read(b, self.dims, "i")
            if times > 1 and (single or not self.single):
                variable = self.taken.unique(f"{self.names[b]}_i")
                lines.append(f"const {self.real} {variable} = {self.places[b]};")
                self.places[b] = variable
        return lines

    def _values(self) -> list[str]:
        """The statements for each value in order."""
        lines: list[str] = []
        for step in self.steps:
            lines += self._window(step) if registry()[step.instr.op].reach == "window" else self._value(step)
        return lines

    def _with_indices(self, lines: list[str]) -> list[str]:
        """The lines, with a variable for each index but `i` that they hold more than once."""
        arrays = (*self.at_i, *self.kernel.outputs)
        texts = dict.fromkeys(buffer_index(self.dims, b, "i") for b in arrays)
        rows, _ = rows_and_columns(self.dims)
        row = re.compile(rf"\bi % {rows}\b")
        used = {text: sum(line.count(f"[{text}]") for line in lines) for text in texts if row.search(text)}
        before = []
        if sum(used.values()) > 1:
            before.append(f"const int row = i % {rows};")
        if any(registry()[s.instr.op].reach == "window" for s in self.steps):  # which has an `at` of its own
            used = {text: 1 for text in used}
        for text, count in used.items() if before else ():
            name = by_row = row.sub("row", text)
            if count > 1 and by_row != "row":
                name = self.taken.unique("at")
                before.append(f"const int {name} = {by_row};")
            lines = [line.replace(f"[{text}]", f"[{name}]") for line in lines]
        return before + lines

    def _by_row(self, lines: Iterable[str]) -> tuple[str, ...]:
        """The lines of a kernel that goes through a column with its rows counted by `r`."""
        rows, _ = rows_and_columns(self.dims)
        return tuple(line.replace(f"[i % {rows}]", "[r]") for line in lines)

    def _share(self) -> str:
        """What the element's column counts in a loss's average."""
        return f"const {self.real} share = mask ? mask[{self._column_of_i()}] * part : part;"

    def _weight(self) -> str:
        """What the mask says of the element's column."""
        return f"mask ? mask[{self._column_of_i()}] : 1"

    def _column_of_i(self) -> str:
        rows, _ = rows_and_columns(self.dims)
        return "i" if rows == 1 else f"i / {rows}"

    def _read(self, b: Buffer, dims: Dims, index: str) -> str:
        """An array, broadcast to `dims`, at element `index` of those."""
        return f"{self.names[b]}[{buffer_index(dims, b, index)}]"

    def _fill(self, step: Step, reads: dict[str, str]) -> str:
        return self._expression(step).format(**reads, epsilon=epsilon(self.module.dtype), share="share")

    def _value(self, step: Step) -> list[str]:
        """The statements for one value of an elementwise operator, or of one whose column has been gone through."""
        cuda = registry()[step.instr.op].cuda
        if isinstance(cuda, Piece):
            text = cuda.value.format(**self._column(step))
        else:
            text = self._fill(step, {name: self.places.get(b, "0") for name, b in self._arguments(step)})
        name = self.names[step.out]
        if step.out.kind == "register":
            self.places[step.out] = name
            return [f"const {self.real} {name} = {text};"]
        if not any(step.out in s.args for s in self.steps):
            return [self._put(step.out, text)]
        variable = self.places[step.out] = self.taken.unique(f"{name}_i")
        return [f"const {self.real} {variable} = {text};", self._put(step.out, variable)]

    def _put(self, b: Buffer, value: str) -> str:
        """Writes element i of a value to memory."""
        return f"{self._read(b, self.dims, 'i')} = {value};"

    def _at(self, b: Buffer, dims: Dims, index: str) -> str:
        """A value before a window, or an array, at element `index` of `dims`."""
        if b not in self.made:
            return self._read(b, dims, index)
        step = self.made[b]
        given = ((n, a) for n, a in self._arguments(step) if f"{{{n}}}" in self._expression(step))
        return self._fill(step, {n: self._operand(a, dims, index) for n, a in given})

    def _operand(self, b: Buffer, dims: Dims, index: str) -> str:
        """As `_at`, where it is a part of an expression."""
        return f"({self._at(b, dims, index)})" if b in self.made else self._read(b, dims, index)

    # --- columns ------------------------------------------------------------------------------------------------------

    def _reductions(self) -> Iterable[str]:
        """The ways through the column that come before the values."""
        for step in self.steps:
            if registry()[step.instr.op].reach == "column":
                yield from self._piece(step, self._column(step))

    def _column(self, step: Step) -> dict[str, str]:
        """How an operator over the column reads element i of its arguments: within an expression, and alone."""
        found: dict[str, str] = {}
        for name, b in self._arguments(step):
            found[name] = self._operand(b, self.dims, "i")
            found[f"{name}_alone"] = self._at(b, self.dims, "i")
        return found

    def _piece(self, step: Step, fields: Mapping[str, object], variant: str = "") -> list[str]:
        cuda = registry()[step.instr.op].cuda
        assert isinstance(cuda, Piece)
        name = self.pieces.format(cuda.piece + variant)
        return self.module.render(name, {**fields, "real": self.real}).rstrip("\n").split("\n")

    # --- windows ------------------------------------------------------------------------------------------------------

    def _pooling(self, step: Step) -> Pooling:
        if step.instr.op == "unpool":
            return Pooling(step.instr, step.out.type.dims, step.args[0].type.dims)
        return Pooling(step.instr, step.args[0].type.dims, step.out.type.dims)

    def _window(self, step: Step) -> list[str]:
        """The lines of a pooling, together with its winners where they are wanted, or of its way back."""
        if step.out in self.places:  # its piece stands there already
            return []
        p = self._pooling(step)
        fields: dict[str, object] = dict(p.fields())
        if step.instr.op == "unpool":
            dy, winner = step.args
            fields |= {"value": self._at(dy, dy.type.dims, "o"), "winner": self._read(winner, winner.type.dims, "o")}
            return self._piece(step, fields) + self._store(step)
        (x,) = step.args
        both = [s for s in self.steps if registry()[s.instr.op].reach and s.args == step.args]
        wanted = "yes" if any(s.instr.op == "winner" for s in both) else ""
        fields |= {"value": self._at(x, x.type.dims, "at"), "winner": wanted}
        lines = self._piece(step, fields, "_max" if p.mode == MAX else "_average")
        return lines + [line for s in both for line in self._store(s)]

    def _store(self, step: Step) -> list[str]:
        """Takes note of the value that a piece has found, and writes it to memory where it is wanted there."""
        cuda = registry()[step.instr.op].cuda
        assert isinstance(cuda, Piece)
        self.places[step.out] = cuda.value
        return [] if step.out.kind == "register" else [self._put(step.out, cuda.value)]


def _short(b: Buffer, otherwise: str) -> str:
    """The end of a nested Knet name: `h/input` gives `input`, `h/input/tmp1` `input_tmp1`, `h/cell@prev` `cell_prev`, a
    gradient `d_` before it; `otherwise` for the variables of the model itself, which differ from layer to layer.
    """
    name, _, number = b.name.partition("#")
    gradient = "d_" if name.startswith("d:") else ""
    path = name.removeprefix("d:").replace("@", "_").split("/")
    words = [word for word in path[1:] if not word.isdigit()]
    if not words:
        return f"{gradient}{name.partition('@')[2] or otherwise}"
    # A result without a name of its own, or a parameter of one letter, says little without what it belongs to.
    both = len(words) > 1 and (words[-1].startswith("tmp") or len(words[-1]) == 1)
    return gradient + "_".join(words[-2:] if both else words[-1:])
