"""Convolutions, and the way back of a pooling that no pass has made simpler, for the processor.

Before: `codegen.cpu.steps` asks for the form of a step. After: `codegen.cpu.functions`. The images of a batch are apart
from each other, so all but the gradient of the filters is by columns; that is added up by each thread over its own
columns, and then over the threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from knetc.codegen.cpu.access import ALL, COLUMNS, OWN, Access, Action, Columns, share
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.cpu.sums import gathered, zeroed
from knetc.codegen.library import each
from knetc.codegen.spec import FieldValue, KernelSpec, describe
from knetc.codegen.window import Pooling
from knetc.ir.plan import Buffer, Step
from knetc.ops.pool import MAX
from knetc.record import Record

Build = Callable[[CpuModule, Step], "list[Action]"]
_TILE = 4  # the most channels that are computed together
_PATCHES = 1 << 16  # the elements of the patches that are made at a time, at most, unless one line has more


def conv(module: CpuModule, step: Step) -> list[Action]:
    """y = conv(w, x)."""
    w, x = step.args
    return [_call(module, step, "forward", _convolution(module, step, x, w, step.out), w, x, _channels(step.out))]


def conv_back_x(module: CpuModule, step: Step) -> list[Action]:
    """dx = conv_back_x(w, dy)."""
    w, dy = step.args
    return [_call(module, step, "back_x", _convolution(module, step, step.out, w, dy), w, dy, _channels(step.out))]


def conv_back_w(module: CpuModule, step: Step) -> list[Action]:
    """dw = conv_back_w(x, dy)."""
    (x, dy), out = step.args, step.out
    conv, units, size = _convolution(module, step, x, out, dy), _channels(dy), out.type.column
    member = module.own_array((step.instr.op, out), f"sum_{out.name}", size, f"its part of {out.name}")
    batched = x.type.batched

    def write(columns: Columns) -> str:
        count = columns.number if batched else str(x.type.dims[-1])
        fields = {**vars(conv), "call": "back_w", "first": module.at(x, columns)}
        fields |= {"second": module.at(dy, columns), "out": f"s.{member}", "columns": count}
        return module.write("conv", {**fields, "rows": f"t.{'rows' if batched else 'part'}({units})"})

    narrow = (Access(x, ALL), Access(dy, share(units)), Access(member, share(units), True))
    wide = (Access(x, COLUMNS), Access(dy, COLUMNS), Access(member, OWN, True)) if batched else narrow
    added = Action(step, write, f"{out.name}, of these columns", wide, narrow, batched, batched)
    return [zeroed(module, step, member, size, units), added, gathered(module, step, member, size, units)]


def _call(module: CpuModule, step: Step, call: str, conv: _Conv, w: Buffer, x: Buffer, units: int) -> Action:
    """A convolution by columns; with few columns, some channels of all."""
    out, batched = step.out, step.out.type.batched

    def write(columns: Columns) -> str:
        count = columns.number if batched else str(out.type.dims[-1])
        fields = {**vars(conv), "call": call, "first": module.at(w, columns), "second": module.at(x, columns)}
        fields |= {"out": module.at(out, columns), "columns": count}
        return module.write("conv", {**fields, "rows": f"t.{'rows' if batched else 'part'}({units})"})

    narrow = (Access(w, ALL), Access(x, ALL), Access(out, share(units), True))
    wide = (Access(w, ALL), Access(x, COLUMNS), Access(out, COLUMNS, True)) if batched else narrow
    return Action(step, write, describe(step), wide, narrow, batched, batched)


def _channels(image: Buffer) -> int:
    channels = image.type.dims[-2]
    assert isinstance(channels, int)
    return channels


class _Conv(Record):
    """How a convolution is computed: the start of its functions' names, their template arguments, and its sizes."""

    kind: str
    vector: str
    shape: str


def _convolution(module: CpuModule, step: Step, x: Buffer, w: Buffer, y: Buffer) -> _Conv:
    """A convolution's sizes, which the model keeps; how much room the functions need is known then."""
    spatial = len(x.type.dims) - 2
    three = [_three(b.type.dims[:spatial], 1) for b in (x, w, y)]
    keywords = [_three(each(step.instr.attr(key), spatial), fill) for key, fill in _KEYWORDS]
    flip = "true" if str(step.instr.attr("mode")) == "CUDNN_CONVOLUTION" else "false"
    line = three[2][0] * math.prod(three[1]) * _channels(x)
    lines = min(max(1, _PATCHES // line), three[2][1] * three[2][2])
    lanes = _lanes(module.dtype, three[2][0]) if keywords[1][0] == 1 else 0
    padded = math.prod(n + 2 * p for n, p in zip(three[0], keywords[0], strict=True))
    room = max(padded * _channels(x), _TILE * padded) if lanes else line * lines
    fields = (*map(_braces, (*three, *keywords)), str(_channels(x)), str(_channels(y)), flip, str(lines), str(lanes))
    kind = "direct" if lanes else "patches"
    module.features.update(("conv", kind) if lanes else ("conv", "blas", kind))
    module.own_array("room", "room", room, "windows or padded images")
    number = module.conv_sizes.setdefault(fields, len(module.conv_sizes))
    covered = "true" if lanes and three[2][0] % lanes else "false"
    tile, vectors = _tile(_channels(y), -(-three[2][0] // max(1, lanes)) * three[2][1] * three[2][2])
    bytes_ = lanes * (4 if module.dtype == "f32" else 8)
    vector = f"<{bytes_}, {tile}, {vectors}, {covered}>" if lanes else ""
    return _Conv(kind, vector, f"m->conv[{number}]")


def _tile(channels: int, vectors: int) -> tuple[int, int]:
    """How many channels, and how many vectors of each, are computed together: twelve sums, with the least left over."""

    def made(size: tuple[int, int]) -> int:
        return math.prod(-(-n // s) * s for n, s in zip((channels, vectors), size, strict=True))

    return min(((4, 3), (3, 4)), key=made)


def _lanes(dtype: str, line: int) -> int:
    """The elements of a vector, for lines of that length: 32 or 16 bytes; 0 where the lines are too short."""
    for lanes in (8, 4) if dtype == "f32" else (4, 2):
        if line >= lanes:
            return lanes
    return 0


_KEYWORDS = (("padding", 0), ("stride", 1), ("upscale", 1))


def _three(sizes: tuple[object, ...], fill: int) -> tuple[int, int, int]:
    """Sizes of three dimensions, filled up."""
    a, b, c = (*(int(str(s)) for s in sizes), *(fill,) * (3 - len(sizes)))
    return a, b, c


def _braces(sizes: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, sizes)) + "}"


# --- pooling ----------------------------------------------------------------------------------------------------------


def pool_back(module: CpuModule, step: Step) -> list[Action]:
    """dx = pool_back(dy, x, y)."""
    dy, x, y = step.args
    p = Pooling(step.instr, x.type.dims, y.type.dims)
    largest = p.mode == MAX
    names, real = ("dy", "x", "y") if largest else ("dy",), module.real
    read = (dy, x, y)[: len(names)]
    out, batched, units = step.out, step.out.type.batched, _channels(step.out)
    fields: tuple[tuple[str, FieldValue], ...] = (("real", real), ("channels", units), *p.fields())
    spec = KernelSpec(
        f"cpu/kernels/pool_{'max' if largest else 'average'}_back",
        f"pool_back_{p.names()}",
        (f"{real}* dx", *(f"const {real}* {n}" for n in names), "knet_range rows", "int columns"),
        f"dx = pool_back(dy, x, y; {p})",
        fields,
    )
    name = module.kernel(spec, (step.instr,))

    def write(columns: Columns) -> str:
        arguments = [module.at(b, columns) for b in (out, *read)]
        arguments.append(f"t.{'rows' if batched else 'part'}({units})")
        arguments.append(columns.number if batched else str(out.type.dims[-1]))
        return module.write("call", {"function": name, "arguments": ", ".join(arguments)})

    narrow = (*(Access(b, share(units)) for b in read), Access(out, share(units), True))
    wide = tuple(Access(a.what, COLUMNS, a.writes) for a in narrow) if batched else narrow
    return [Action(step, write, describe(step), wide, narrow, batched, batched)]


CALLS: Mapping[str, Build] = {
    "conv": conv,
    "conv_back_w": conv_back_w,
    "conv_back_x": conv_back_x,
    "pool_back": pool_back,
}
