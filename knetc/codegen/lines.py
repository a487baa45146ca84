"""The lines of a function of the emitted file: the plan's units as statements, laid out, with what they use declared.

Before: `codegen.kernels`, which turns a unit into statements. After: `codegen.functions` and `codegen.sequences`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from knetc.codegen.describe import step_lines
from knetc.codegen.index import extent
from knetc.codegen.kernels import lower_unit
from knetc.codegen.spec import Module, Statement
from knetc.errors import KnetLimitation
from knetc.ir.plan import BackwardPlan, Unit

WIDTH = 120
Final = Mapping[int, Sequence[int]]
"""The buckets of gradients that are final after so many units."""
NONE_FINAL: Final = {}


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


def bits(inputs: Iterable[int]) -> str:
    """Inputs as bits of a number."""
    bits = sum(1 << i for i in inputs)
    if bits >= 1 << 64:
        raise KnetLimitation("emitted code for the gradients of more than 64 inputs")
    return str(bits) if bits < 1 << 31 else f"{bits}ull"


def declared(lines: Sequence[str], columns: str = "m->batch") -> Iterator[str]:
    """What the lines use: the number of columns, and in a loop over time where those of its step begin."""
    at = any(_mentions("at", line) for line in lines)
    if at or any(_mentions("N", line) for line in lines):
        yield f"const int N = {columns}{', at = N * step' if at else ''};"


def _mentions(name: str, line: str) -> bool:
    """Whether a statement uses a local of that name."""
    code = "" if line.lstrip().startswith("//") else line.split("  //")[0]
    return re.search(rf"(?<![\w>.]){name}\b", code) is not None


def unit_lines(module: Module, units: Sequence[Unit], final: Final = NONE_FINAL) -> Iterator[str]:
    """The units' statements under the Knet lines that they compute, those for input gradients alone under an if; and
    the sums of the buckets of gradients that are final after so many units.
    """
    done, ready = 0, list[int]()
    for comment, wanted, group in step_lines(units):
        yield from comment
        indent = ""
        if wanted is not None:
            yield f"if (want & {bits(wanted)}) {{"
            indent = "  "
        for unit in group:
            for statement in lower_unit(module, unit):
                yield from statement_lines(module, statement, indent)
            done += 1
            ready += final.get(done, ())
            if wanted is None:
                yield from bucket_lines(ready)
                ready.clear()
        if wanted is not None:
            yield "}"
            yield from bucket_lines(ready)
            ready.clear()


def bucket_lines(buckets: Iterable[int]) -> Iterator[str]:
    """Begins the sums of these buckets over several devices."""
    return (f"TRY(finish_bucket(m, {bucket}));" for bucket in buckets)


def statement_lines(module: Module, statement: Statement, indent: str = "") -> Iterator[str]:
    """The lines of one statement."""
    fields = dict(statement.fields)
    module.features.add(statement.template)
    text = module.paste(f"host/{statement.template}.cu.j2", fields)
    return laid_out(text, str(fields.get("value") or ""), indent)


def laid_out(text: str, value: str, indent: str = "") -> Iterator[str]:
    """A statement in lines, with the value that it computes as a comment at the end or above."""
    if value and len(indent) + len(text) + len("  // ") + len(value) > WIDTH - 4:
        yield f"{indent}// {value}"
        value = ""
    width = WIDTH - 8 - len(indent)
    lines = [text] if 0 < len(text) <= width else list(wrapped(text.replace(", ", ",\n").split("\n"), width))
    for k, line in enumerate(lines):
        last = f"  // {value}" if value and k == len(lines) - 1 else ""
        yield f"{indent}{'    ' if k else ''}{line}{last}"


def unreached(module: Module, b: BackwardPlan) -> Iterator[str]:
    """Zeroes the gradients that a backward program does not reach."""
    for p in module.plan.params:
        if p.grad is not None and p.buffer.name not in b.params:
            size = ", ".join(map(str, extent(p.grad)))
            yield f"TRY(knet_zero({module.ref(p.grad)}, {size}, m->stream));  // not reached"
