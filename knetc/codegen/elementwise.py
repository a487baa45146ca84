"""Kernels of one thread an element: one elementwise operator, or a chain of them that fusion put together.

Before: `ir.plan`, whose `Kernel` is such a chain. After: the template `kernels/elementwise.cu.j2`, which pastes the
lines. Broadcast arguments are read by index arithmetic; what only the kernel itself reads is a variable of it.
"""

from __future__ import annotations

from collections import Counter

from knetc.codegen.index import collapse, count, operand_index, rows_and_columns
from knetc.codegen.names import Names
from knetc.codegen.spec import KernelSpec, Module, Statement, describe, epsilon, spell_type, statement
from knetc.ir.plan import Buffer, Kernel, Step
from knetc.ir.program import Instr
from knetc.ops.base import Elementwise, registry

_TAKEN = ("i", "n", "T", "mask", "columns", "part", "share")
_MOST_OPS = 3


def elementwise(module: Module, kernel: Kernel) -> list[Statement]:
    """The launch of a kernel of elementwise steps over the same dims."""
    key = _structure(kernel)
    found = module.elementwise.get(key)
    if found is None:
        found = module.elementwise[key] = _Writer(module, kernel).spec()
    spec, read, shares = found
    inputs = kernel.inputs
    refs = [module.ref(b) for b in (*kernel.outputs, *(inputs[k] for k in read))]
    if shares:
        refs += ["mask", rows_and_columns(kernel.steps[0].out.type.dims)[1]]
    name = module.kernel(spec, [s.instr for s in kernel.steps])
    last = next(s for s in reversed(kernel.steps) if s.out.kind != "register")
    elements = count(last.out.type.dims)
    return [statement("launch_each", kernel=name, elements=elements, arguments=", ".join(refs), value=describe(last))]


def call_text(instr: Instr) -> str:
    """The operator as a call, with the names of its parameters and its attributes: `axpb(x; a=2.0)`."""
    op = registry()[instr.op]
    attrs = [
        f"{key}={value!r}" for key, value in instr.attrs if key in op.keywords and value != op.keywords[key].default
    ]
    return f"{instr.op}({', '.join(op.args)}{'; ' if attrs else ''}{', '.join(attrs)})"


def _structure(kernel: Kernel) -> tuple[object, ...]:
    """What decides whether two such kernels are one: everything but names."""
    number: dict[Buffer, int] = {}
    rows: list[object] = []
    for step in kernel.steps:
        places = tuple([number.setdefault(b, len(number)) for b in (*step.args, step.out)])
        kept = step.out.kind != "register"
        rows.append((step.instr.op, step.instr.attrs, places, kept, *[b.type for b in step.args], step.out.type))
    return tuple(rows)


class _Writer:
    """Writes the kernel of a chain of steps, with the names of the chain that it is first met for."""

    def __init__(self, module: Module, kernel: Kernel) -> None:
        self.module = module
        self.kernel = kernel
        self.real = module.real
        self.single = len(kernel.steps) == 1
        self.exprs = [_expression(module, s) for s in kernel.steps]
        own = {s.out for s in kernel.steps}
        # How often each array from outside is read: what no expression reads (x in 0·x^p) is no parameter.
        self.reads = Counter(
            b
            for step, expr in zip(kernel.steps, self.exprs, strict=True)
            for name, b in zip(registry()[step.instr.op].args, step.args, strict=True)
            for _ in range(expr.count(f"{{{name}}}"))
            if b not in own
        )
        self.inputs = [b for b in kernel.inputs if self.reads[b]]
        self.groups = collapse(kernel.steps[0].out.type.dims, [b.type.dims for b in self.inputs])
        self.names = self._names()

    def spec(self) -> tuple[KernelSpec, tuple[int, ...], bool]:
        """The kernel, which of the chain's inputs are its parameters, and whether a mask and the columns follow."""
        real = self.real
        shares = any("{share}" in expr for expr in self.exprs)
        spec = KernelSpec(
            template="elementwise",
            stem=self._stem(),
            signature=(
                *(f"{real}* {self.names[b]}" for b in self.kernel.outputs),
                *(f"const {real}* {self.names[b]}" for b in self.inputs),
                *((f"const {real}* mask", "int columns") if shares else ()),
                "int n",
            ),
            formula=self._formula(),
            fields=(("before", self._before() if shares else ()), ("lines", tuple(self._lines()))),
        )
        return spec, tuple(k for k, b in enumerate(self.kernel.inputs) if self.reads[b]), shares

    def _before(self) -> tuple[str, ...]:
        return (f"const {self.real} part = ({self.real})(1.0 / columns);",)

    def _share(self) -> str:
        """What the element's column counts in a loss's average."""
        rows, _ = rows_and_columns(self.kernel.steps[0].out.type.dims)
        return f"const {self.real} share = mask ? mask[{'i' if rows == 1 else f'i / {rows}'}] * part : part;"

    def _names(self) -> dict[Buffer, str]:
        """A name for each array: the operator's own where there is one step, else from Knet's names."""
        names = Names(_TAKEN)
        found: dict[Buffer, str] = {}
        if self.single:
            (step,) = self.kernel.steps
            for name, b in zip(registry()[step.instr.op].args, step.args, strict=True):
                found.setdefault(b, names.fresh(name))
            wished = {step.out: "dx" if "dy" in found.values() else "y"}
        else:
            wished = {b: _short(b, "x") for b in self.inputs}
            wished |= {s.out: _short(s.out, "y") for s in self.kernel.steps}
        return found | {b: names.fresh(name) for b, name in wished.items()}

    def _stem(self) -> str:
        ops = list(dict.fromkeys(s.instr.op for s in self.kernel.steps))
        shapes = "x".join(map(str, self.groups)) if not all(all(g.kept) for g in self.groups) else ""
        what = "_".join(ops) if len(ops) <= _MOST_OPS else f"fused_{_short(self.kernel.outputs[-1], 'y')}"
        return f"{what}_{shapes}" if shapes else what

    def _formula(self) -> str:
        if not self.single:
            ops = [s.instr.op for s in self.kernel.steps]
            return f"{', '.join(ops) if len(ops) <= _MOST_OPS else f'{len(ops)} operations'}, element by element"
        (step,) = self.kernel.steps
        return f"{self.names[step.out]} = {call_text(step.instr)}"

    def _lines(self) -> list[str]:
        """The statements for element i: arrays that are read more than once first, then each value."""
        places = {b: f"{self.names[b]}[{operand_index(self.groups, k, 'i')}]" for k, b in enumerate(self.inputs)}
        lines = [self._share()] if any("{share}" in expr for expr in self.exprs) else []
        for b, times in self.reads.items():
            if times > 1 and not self.single:
                variable = f"{self.names[b]}_i"
                lines.append(f"const {self.real} {variable} = {places[b]};")
                places[b] = variable
        for step, expr in zip(self.kernel.steps, self.exprs, strict=True):
            lines += self._value(step, expr, places)
        return lines

    def _value(self, step: Step, expr: str, places: dict[Buffer, str]) -> list[str]:
        """The statements for one value; `places` says how each value is read, and learns about this one."""
        args = registry()[step.instr.op].args
        text = expr.format(
            **{name: places.get(b, "0") for name, b in zip(args, step.args, strict=True)},
            epsilon=epsilon(self.module.dtype),
            share="share",
        )
        name = self.names[step.out]
        if step.out.kind == "register":
            places[step.out] = name
            return [f"const {self.real} {name} = {text};"]
        later = any(step.out in s.args for s in self.kernel.steps)
        if not later:
            return [f"{name}[i] = {text};"]
        places[step.out] = f"{name}_i"
        return [f"const {self.real} {name}_i = {text};", f"{name}[i] = {name}_i;"]


def _expression(module: Module, step: Step) -> str:
    """The operator's expression in the element type, `{name}` for each argument."""
    cuda = registry()[step.instr.op].cuda
    assert isinstance(cuda, Elementwise)
    expr = spell_type(cuda.expr(dict(step.instr.attrs)) if callable(cuda.expr) else cuda.expr, module.dtype)
    if "knet_" in expr:
        module.features.add("math")
    return expr


def _short(b: Buffer, otherwise: str) -> str:
    """The end of a nested Knet name: `h/input` gives `input`, `h/input/tmp1` `input_tmp1`, `h/cell@prev` `cell_prev`, a
    gradient `d_` before it; `otherwise` for the variables of the model itself, which differ from layer to layer.
    """
    name, _, number = b.name.partition("#")
    if name.startswith("@d"):  # a state's gradient from the step after
        name = f"d:{name[2:]}_next"
    gradient = "d_" if name.startswith("d:") else ""
    path = name.removeprefix("d:").replace("@prev", "_prev").split("/")
    words = [word for word in path[1:] if not word.isdigit()]
    if not words:
        return f"{gradient}{otherwise}"
    # A result without a name of its own, or a parameter of one letter, says little without what it belongs to.
    both = len(words) > 1 and (words[-1].startswith("tmp") or len(words[-1]) == 1)
    return gradient + "_".join(words[-2:] if both else words[-1:])
