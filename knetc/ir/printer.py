"""The text form of a program, at any stage; `ir.reader` reads it back.

One instruction a line, in the order in which the passes keep them. Used by `--emit ir`, `--print-after`, and the tests
of the passes. Grammar, by example:

    program "lenet"
    stage typed
    dtype f32
    conditions dropout
    input %x : (28,28,1,N)  @ lenet.knet:3:23-3:24
    temps %tmp1
    function %tmp1 = "drop"

    variant {} {dropout}
      %c1/w = par(dims=(5,5,1,20), init=Xavier(), stream=0) : f32[5,5,1,20]  @ lenet.knet:3:5-3:20 < lenet.knet:9:3-9:20
      %h = relu(%c1/w) if (a && !b) : f32[5,5,1,20]
      keep(%h; var="h")
      result %h
      name %h = %h#2
    backward softloss
      kernel {
        %d:tmp1 = relu_back(%d:h, %h) : f32[10,N]
        %d:c1/w = mul(%d:tmp1, %c1/c) : f32[10,N]
      }
      dpar(%d:c1/w; param="c1/w")
    before
      …                          over a whole sequence: before the loop over time, in it, after it
    loop
      …
    after
      …

    update
      update(; param="c1/w")

A name that is not letters, digits and `_!/#:@` is quoted: `%"a b"`. After `<` stands the call through which an inlined
definition was reached.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable

from knetc.errors import Span
from knetc.ir.program import ALWAYS, Guard, Input, Instr, Phases, Program, Variant
from knetc.ir.types import PartialDims, Type
from knetc.values import Array, Filler, Range, Symbol, Value

NAME_MARKS = "_!/#:@"


def print_program(program: Program) -> str:
    """The text form of the whole program, ending in a newline."""
    lines = [f"program {_string(program.name)}", f"stage {program.stage}", f"dtype {program.dtype}"]
    if program.conditions:
        lines.append("conditions " + " ".join(_word(c) for c in program.conditions))
    lines += [_input(i) for i in program.inputs]
    if program.temps:
        lines.append("temps " + " ".join(_name(t) for t in sorted(program.temps)))
    lines += [f"function {_name(temp)} = {_string(function)}" for temp, function in program.functions]
    for variant in program.variants:
        lines += _variant(variant)
    if program.update:
        lines += ["", "update"]
        lines += _body(program.update)
    return "\n".join(lines) + "\n"


def print_instr(instr: Instr) -> str:
    """One instruction with its guard, type and place."""
    inside = ", ".join(_name(a) for a in instr.args)
    attrs = ", ".join(f"{_word(key)}={print_value(value)}" for key, value in instr.attrs)
    if attrs:
        inside += ("; " if instr.args or not instr.out else "") + attrs
    text = f"{instr.op}({inside})"
    if instr.out:
        text = f"{_name(instr.out)} = {text}"
    if instr.guard != ALWAYS:
        text += f" if {_guard(instr.guard)}"
    if instr.type is not None:
        text += f" : {print_type(instr.type)}"
    return text + _span(instr.span)


def print_type(t: Type) -> str:
    """`f32[5,5,1,N]`."""
    return str(t)


def print_value(value: Value) -> str:
    """A compile-time value, so that `read_program` gives an equal one."""
    if isinstance(value, Symbol):
        return f":{_word(value)}"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, tuple):
        return "(" + ",".join(map(print_value, value)) + (",)" if len(value) == 1 else ")")
    if isinstance(value, Array):
        return f"Array({print_value(value.dims)}, {_elements(value)})"
    if isinstance(value, Range):
        return f"Range({value.start!r}, {value.stop!r})"
    if isinstance(value, Filler):
        arguments = ", ".join(print_value(getattr(value, name)) for name in value.field_names)
        return f"{type(value).__name__}({arguments})"
    return repr(value)


def print_dims(dims: PartialDims) -> str:
    """`(28,28,1,N)`, `?` for an unknown dimension, `(10,)` for one dimension."""
    inside = ",".join("?" if d is None else repr(d) for d in dims)
    return f"({inside},)" if len(dims) == 1 else f"({inside})"


def _input(i: Input) -> str:
    dims = "" if i.dims is None else f" : {print_dims(i.dims)}"
    return f"input {_name(i.name)}{dims}{_span(i.span)}"


def _variant(variant: Variant) -> list[str]:
    settings = ["{" + " ".join(_word(c) for c in sorted(s)) + "}" for s in variant.settings]
    lines = ["", " ".join(["variant", *settings]), *_body(variant.forward)]
    if variant.result is not None:
        lines.append(f"  result {_name(variant.result)}")
    lines += [f"  name {_name(name)} = {_name(value)}" for name, value in variant.names]
    lines += _phases(variant.phases)
    for backward in variant.backward:
        lines += [f"backward {backward.loss}", *_body(backward.body), *_phases(backward.phases)]
    return lines


def _phases(phases: Phases | None) -> list[str]:
    if phases is None:
        return []
    return ["before", *_body(phases.before), "loop", *_body(phases.loop), "after", *_body(phases.after)]


def _body(instrs: Iterable[Instr]) -> list[str]:
    lines: list[str] = []
    inside = 0
    for i in instrs:
        if i.kernel != inside:
            lines += ["  }"] * (inside > 0) + ["  kernel {"] * (i.kernel > 0)
            inside = i.kernel
        lines.append(f"{'    ' if inside else '  '}{print_instr(i)}")
    return lines + ["  }"] * (inside > 0)


def _plain(text: str, marks: str) -> bool:
    return bool(text) and all(c.isalnum() or c in marks for c in text)


def _name(name: str) -> str:
    return "%" + (name if _plain(name, NAME_MARKS) else _string(name))


def _word(text: str) -> str:
    """An attribute's, a symbol's or a condition's name; `true` is quoted, for a guard has it as a constant."""
    plain = _plain(text, "_!") and not text[0].isdigit() and text[0] != "!" and text != "true"
    return text if plain else _string(text)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _elements(value: Array) -> str:
    """The elements as numbers, or the bytes where numbers would lose some (the payload of a NaN)."""
    text = [repr(e) for e in value.elements()]
    if array("d", map(float, text)).tobytes() == value.data:
        return "[" + ",".join(text) + "]"
    return _string(value.data.hex())


def _guard(guard: Guard) -> str:
    if guard.op == "cond":
        return _word(str(guard.args[0]))
    if guard.op == "true":
        return "true"
    inside = [_guard(g) for g in guard.args if isinstance(g, Guard)]
    if guard.op == "not":
        return "!" + inside[0]
    return "(" + {"and": " && ", "or": " || "}[guard.op].join(inside) + ")"


def _span(span: Span | None) -> str:
    parts = []
    while span is not None:
        name = span.source.name
        shown = name if _plain(name, "_./+-") else _string(name)
        parts.append(f"{shown}:{span.line}:{span.column}-{span.end_line}:{span.end_column}")
        span = span.via
    return "  @ " + " < ".join(parts) if parts else ""
