"""The lines of a function of an emitted C++ file: its statements in order, with barriers where they are needed.

Before: `codegen.cpu.functions`, which makes the functions. After: `codegen.cpu.emit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from knetc.codegen.cpu.access import MODES, Action, Columns, Epoch, Mode, barriers
from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.cpu.work import Work
from knetc.codegen.describe import unit_places
from knetc.codegen.lines import bits, laid_out
from knetc.ir.plan import Buffer

# Between them, the arrays of a block should stay in a processor's second cache.
_BLOCK_BYTES = 1 << 19
_MOST_COLUMNS = 8


@dataclass
class Function:
    """One function. `groups`: its statements in order, those that are marked run block by block.

    `inputs`: where the gradients of inputs stand in the end. `kind`: forward, backward or train; `variant`, `loss`:
    their numbers. `phase`: of a sequence, whether it is the part before the loop over time, the loop, or the part
    after it, and `whole` the arrays that have the columns of all steps.
    """

    name: str
    comment: str
    kind: str
    variant: int
    loss: int
    groups: list[tuple[bool, list[Action]]]
    inputs: tuple[tuple[int, Buffer], ...] = ()
    work: Work = field(default_factory=lambda: Work(0, 0))
    lines: list[str] = field(default_factory=list)
    phase: str = ""
    whole: frozenset[Buffer] = frozenset()

    def actions(self) -> Iterator[Action]:
        """Every statement in order."""
        for _, group in self.groups:
            yield from group

    def columns(self, inside: bool) -> Columns:
        """The columns of a thread, or those of a block of them."""
        part = "step" if self.phase == "loop" else "all" if self.phase else ""
        return Columns(*(("b", "k") if inside else ("c", "n")), part, self.whole)


def arrays(group: Sequence[Action]) -> dict[Buffer, None]:
    """The batched arrays of a group."""
    accesses = (a.root for action in group for a in action.wide)
    return dict.fromkeys(b for b in accesses if isinstance(b, Buffer) and b.type.batched)


def block_columns(module: CpuModule, group: Sequence[Action]) -> int:
    """How many columns a block has."""
    size = 4 if module.dtype == "f32" else 8
    column = sum(b.type.column for b in arrays(group)) * size
    return max(1, min(_MOST_COLUMNS, _BLOCK_BYTES // max(1, column)))


def lines(module: CpuModule, function: Function) -> Iterator[str]:
    """The lines of a function: what it declares, then its statements."""
    body = list(_body(module, function))
    body += [f"if (want & {bits({i})}) m->input_gradients[{i}] = {module.ref(b)};" for i, b in function.inputs]
    yield from _locals(body, function.phase)
    yield from body


_LOCALS = (
    ("N", "const int N = m->batch;", ()),
    ("at", "const int at = N * step;", ("N",)),
    ("c", "const int c = t.columns(N).from;", ("N",)),
    ("n", "const int n = t.columns(N).size();", ("N",)),
    ("w", "knet_worker& w = m->workers[t.index];", ()),
    ("s", "knet_worker& s = m->workers[t.wide ? t.index : 0];", ()),
)
_ALL_STEPS = "const int N = m->batch * m->steps;"


def _locals(lines: Sequence[str], phase: str) -> Iterator[str]:
    """The declarations of what the lines use."""
    text = "\n".join(line.split("  //")[0] for line in lines if not line.lstrip().startswith("//"))
    used = {name for name, _, _ in _LOCALS if re.search(rf"(?<![\w>.]){name}\b", text)}
    used |= {other for name, _, others in _LOCALS if name in used for other in others}
    for name, declaration, _ in _LOCALS:
        if name in used:
            yield _ALL_STEPS if name == "N" and phase in ("before", "after") else declaration


def _body(module: CpuModule, function: Function) -> Iterator[str]:
    epochs: dict[Mode, Epoch] = {mode: Epoch() for mode in MODES}
    shown: list[str] = []
    for together, group in function.groups:
        indent, columns = "", function.columns(together)
        lines: list[str] = []
        if together:
            indent = "  "
            size = block_columns(module, group)
            lines += [f"for (int b = c; b < c + n; b += {size}) {{", f"  const int k = min({size}, c + n - b);"]
        for action in group:
            lines += [f"{indent}{line}" for line in _wait(action, epochs)]
            places = unit_places(action.unit) if action.unit else []
            lines += [f"{indent}// {line}" for line in places if line not in shown]
            shown = places or shown
            lines += _guarded(action, action.text(columns), indent)
        if together:
            lines += ["  t.wait_narrow();", "}"]
            epochs["narrow"] = Epoch()
        yield from lines
    if function.phase == "loop":
        yield from _turn(function, epochs)


def _turn(function: Function, epochs: dict[Mode, Epoch]) -> Iterator[str]:
    """The barrier between one step and the next, where there is one; `epochs` as the step leaves them."""
    needed = []
    for mode in MODES:
        waits = barriers(list(function.actions()), mode)
        for action, known in zip(function.actions(), waits, strict=True):
            if known:
                break  # all that comes after has been ordered within the step
            if epochs[mode].conflicts(action.accesses(mode)):
                needed.append(mode)
                break
    yield from _waiting(needed)


def _wait(action: Action, epochs: dict[Mode, Epoch]) -> Iterator[str]:
    """The barrier before a statement, where there is one."""
    waits = []
    for mode in MODES:
        accesses = action.accesses(mode)
        if epochs[mode].conflicts(accesses):
            waits.append(mode)
            epochs[mode] = Epoch()
        epochs[mode].add(accesses)
    yield from _waiting(waits)


def _waiting(modes: Sequence[Mode]) -> Iterator[str]:
    if modes:
        yield f"t.wait{'' if len(modes) == len(MODES) else '_' + modes[0]}();"


def _guarded(action: Action, text: str, indent: str) -> Iterator[str]:
    """The statement, under an if where only gradients of inputs need it."""
    wanted = action.unit.wanted if action.unit else None
    if wanted is None:
        yield from laid_out(text, action.value, indent)
    else:
        yield f"{indent}if (want & {bits(wanted)}) {{"
        yield from laid_out(text, action.value, indent + "  ")
        yield f"{indent}}}"
