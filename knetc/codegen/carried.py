"""What a loop over time hands from step to step without copies: state, and its gradient on the way back.

Before: `ir.carried`, which says of which variables. After: `codegen.sequences`, which leaves out of the loop the steps
that take and keep them, and puts what is here around it. In a CUDA graph a copy takes about as long as a small kernel:
with them the loop of an LSTM would have six nodes a step, and it has two. A step reads a value where the step before
has written it; the copies that are left stand once before the loop and once after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from knetc.codegen.index import count
from knetc.codegen.lines import statement_lines
from knetc.codegen.spec import Module, statement
from knetc.ir.carried import pairs
from knetc.ir.plan import Buffer, PhasePlan, Step


@dataclass
class Carried:
    """How a loop carries values. `left_out`: the steps of the loop that are not needed, by their ids. `names`: what the
    loop calls an array, in place of the model's member. Lines stand `before` the loop, at the `top` of each step, at
    its `end`, and `after` the loop.
    """

    left_out: set[int] = field(default_factory=set)
    names: dict[Buffer, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    top: list[str] = field(default_factory=list)
    end: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def carried(module: Module, phases: PhasePlan, back: bool, read: Collection[Buffer]) -> Carried:
    """What the loop of the phases carries. `read`: the values that can be read by name after the call."""
    found = Carried()
    for take, keep in pairs(phases, back):
        if back:
            _gradient(found, module, phases, take, keep)
        elif take.out in phases.whole or take.out not in read:
            _state(found, module, phases, take, keep, read)
    return found


def _state(found: Carried, module: Module, phases: PhasePlan, take: Step, keep: Step, read: Collection[Buffer]) -> None:
    """A static variable: p is what the step before kept, v what this one keeps."""
    p, state, v = take.out, take.args[0], keep.args[0]
    text = f"{take.instr.attr('var')} {p.type}"
    ref, size, here = module.ref, v.type.column, _local(module, p)
    if v in phases.whole:
        found.names[p] = here
        found.top.append(f"const {module.real}* const {here} = step > 0 ? {_at(module, v, '(at - N)')} : {ref(state)};")
        if p in phases.whole:
            found.after += _copy(module, ref(p), ref(state), p, f"{text}, as the call before left it")
            rest = f"{size} * m->batch * (m->steps - 1) * sizeof({module.real})"
            first = f"{ref(p)} + {size} * m->batch"
            found.after += _lines(module, first, ref(v), rest, f"{text}, as the step before left it")
        last = f"{ref(v)} + {size} * m->batch * (m->steps - 1)"
        found.after += _copy(module, ref(state), last, v, f"{text}, for the next call")
    elif p in phases.whole:
        found.names[v] = here = _local(module, v)
        found.before += _copy(module, ref(p), ref(state), p, f"{text}, as the call before left it")
        place = f"step + 1 < m->steps ? {_at(module, p, '(at + N)')} : {ref(state)}"
        found.top.append(f"{module.real}* const {here} = {place};")
    else:
        _swap(found, module, p, v)
        found.before += _copy(module, here, ref(state), p, f"{text}, as the call before left it")
        found.after += _copy(module, ref(state), here, p, f"{text}, for the next call")
    if v in read and v not in phases.whole:
        found.after += _copy(module, ref(v), ref(state), v, f"{text}, to be read by name")
    found.left_out |= {id(take), id(keep)}


def _gradient(found: Carried, module: Module, phases: PhasePlan, take: Step, keep: Step) -> None:
    """A variable's gradient: p is what the step after hands back, v what this one hands to the step before."""
    p, state, v = take.out, take.args[0], keep.args[0]
    if p in phases.whole:
        return
    text = f"d:{take.instr.attr('var')} {p.type}"
    here = _local(module, p)
    if v in phases.whole:
        found.names[p] = here
        later = f"step + 1 < m->steps ? {_at(module, v, '(at + N)')} : {module.ref(p)}"
        found.top.append(f"const {module.real}* const {here} = {later};")
        first, last = module.ref(p), module.ref(v)
    else:
        _swap(found, module, p, v)
        first = last = here
    size = _bytes(module, p)
    taken = {"later": "m->later", "target": first, "source": module.ref(state), "bytes": size}
    taking = statement("take_state_gradient", **taken, value=f"{text}, from the step after")
    found.before += statement_lines(module, taking)
    handed = {"target": module.ref(state), "source": last, "bytes": size}
    handing = statement("hand_state_gradient", **handed, value=f"{text}, for the step before")
    found.after += statement_lines(module, handing)
    found.left_out |= {id(take), id(keep)}


def _swap(found: Carried, module: Module, p: Buffer, v: Buffer) -> None:
    """Two arrays that change places after every step: what one writes is what the next one reads."""
    names = [_local(module, b) for b in (p, v)]
    found.names |= dict(zip((p, v), names, strict=True))
    found.before.append(f"{module.real} *{names[0]} = {module.ref(p)}, *{names[1]} = {module.ref(v)};")
    found.end.append(f"knet_swap({names[0]}, {names[1]});")


def _local(module: Module, b: Buffer) -> str:
    """A local variable for an array; no local of the templates ends so."""
    return f"{module.members[b]}_here"


def _at(module: Module, b: Buffer, column: str) -> str:
    size = b.type.column
    return f"{module.ref(b)} + {f'{size} * {column}' if size > 1 else column}"


def _bytes(module: Module, b: Buffer) -> str:
    """The bytes of a step's columns, outside of the loop."""
    return f"{count(b.type.dims).replace('N', 'm->batch')} * sizeof({module.real})"


def _copy(module: Module, target: str, source: str, b: Buffer, value: str) -> Iterator[str]:
    return _lines(module, target, source, _bytes(module, b), value)


def _lines(module: Module, target: str, source: str, size: str, value: str) -> Iterator[str]:
    return statement_lines(module, statement("copy", target=target, source=source, bytes=size, value=value))
