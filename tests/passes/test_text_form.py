"""The text form: what is printed reads back equal, and what is no program is refused with its place."""

from __future__ import annotations

import math

import pytest

from knetc.errors import KnetSyntaxError, Source, Span
from knetc.ir.printer import print_instr, print_program
from knetc.ir.program import (
    ALWAYS,
    NEVER,
    Backward,
    Guard,
    Input,
    Instr,
    Program,
    Variant,
    guard_not,
    make_attrs,
)
from knetc.ir.reader import read_program
from knetc.ir.types import N, Type
from knetc.values import FILLERS, Array, Bernoulli, Constant, Gaussian, Range, Symbol, Value

VALUES: list[Value] = [
    *(0, 7, -3, 10**30, True, False, None),
    *(1.5, 0.1, -0.0, 1e-300, 1e22, 5e-324, math.inf, -math.inf),
    *("", "plain", 'quotes " and \\ and %', "new\nline\ttab", "Ünï → 𝛼", "# no comment", " < a:1:2-3:4"),
    *(Symbol("relu"), Symbol("CUDNN_POOLING_MAX"), Symbol("a b"), Symbol("!x"), Symbol("None"), Symbol("σ")),
    *((), (1,), (1, 2), (1, (2.5, (None,)), "x"), ((),)),
    *(Range(1.0, 4.0), Range(-1, 3)),
    *(Array.of((2, 2), [1.0, -0.0, math.inf, 1e-9]), Array.of((0,), []), Array.of((1, 1, 1, 1), [3.0])),
    *(maker() for maker in FILLERS.values()),
    *(Constant(-1e-9), Gaussian(0, 0.1), Bernoulli(1 - 0.3, 1 / 0.7), Constant(math.inf)),
]
NAMES = ["x", "c1/w", "h/2/b#3", "h@prev", "@gold", "@mask", "d:c1/w#2", "Ünï", "σ!", "a b", 'q"uote', "1", "%", "x,y"]


def program(*instrs: Instr, **more: object) -> Program:
    return Program("m", "lowered", (Input("x"),), (), (Variant((), instrs),), **more)  # type: ignore[arg-type]


def check(p: Program) -> None:
    text = print_program(p)
    assert read_program(text) == p
    assert print_program(read_program(text)) == text


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_attribute_values(value: Value) -> None:
    p = program(Instr("y", "par", (), make_attrs(a=value, b=(value, value))))
    check(p)
    found = read_program(print_program(p)).variants[0].forward[0].attr("a")
    assert type(found) is type(value) and repr(found) == repr(value)  # 1, 1.0 and True compare equal


def test_not_a_number() -> None:
    p = program(Instr("y", "par", (), make_attrs(init=Constant(math.nan))))
    assert "Constant(nan)" in print_program(p)
    assert print_program(read_program(print_program(p))) == print_program(p)


def test_an_array_keeps_every_bit() -> None:
    """The payload of a NaN has no decimal form; such an array is written as its bytes."""
    data = bytes.fromhex("010000000000f87f") + bytes.fromhex("000000000000f03f")
    check(program(Instr("y", "par", (), make_attrs(init=Array((2,), data)))))


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    check(
        Program(
            name,
            "ssa",
            (Input(name),),
            (),
            (Variant((frozenset(),), (Instr(name, "relu", (name, name)),), name, ((name, name),)),),
            temps=frozenset({name}),
            functions=((name, name),),
        )
    )


def test_guards() -> None:
    a, b, true = Guard("cond", ("a",)), Guard("cond", ("b c",)), Guard("cond", ("true",))
    guards = [
        *(ALWAYS, NEVER, a, b, true, guard_not(b)),
        Guard("and", (a, guard_not(Guard("or", (b, true))))),
        Guard("or", (a, Guard("or", (b, a)), Guard("and", (b, a)))),
        Guard("or", (a, b, true)),
        Guard("not", (Guard("not", (a,)),)),
    ]
    check(program(*(Instr("y", "relu", ("x",), guard=g) for g in guards)))


def test_places() -> None:
    """The calls through which an inlined definition was reached follow in order; sources compare by name."""
    outer = Span(Source("my model (1).knet", "text"), 9, 3, 9, 20)
    inner = Span(Source("pre/lude.knet"), 3, 5, 4, 20, Span(Source("a.knet"), 5, 6, 7, 8, outer))
    p = program(Instr("y", "relu", ("x",), span=inner), Instr("z", "relu", ("x",), span=outer))
    check(p)
    span = read_program(print_program(p)).variants[0].forward[0].span
    assert span is not None and span.via is not None and span.via.via == outer


def test_every_part() -> None:
    body = (
        Instr("d:h@next", "dstate", (), make_attrs(var="h"), Type("f64", (2, N))),
        Instr("@loss", "quadloss", ("y", "@gold", "@mask"), (), Type("f64", ())),
        Instr("", "dpar", ("g",), make_attrs(param="c1/w")),
        Instr("", "bare"),
    )
    variants = (
        Variant((frozenset(), frozenset({"b"})), body, None, (), (Backward("zero", body), Backward("none", ()))),
        Variant((frozenset({"a"}), frozenset({"a", "b"})), (), "y", (("y", "y#2"), ("return", "y"))),
    )
    inputs = (Input("x", (28, None, N)), Input("z", ()), Input("u", (4,)), Input("v"))
    check(Program("m", "training", inputs, ("a", "b"), variants, "f64", update=body[2:]))


def test_one_line_reads_as_the_design_shows_it() -> None:
    call = Span(Source("lenet.knet"), 9, 3, 9, 20)
    instr = Instr(
        "c1/w",
        "par",
        (),
        make_attrs(dims=(5, 5, 1, 20), init=FILLERS["Xavier"](), stream=0),
        Type("f32", (5, 5, 1, 20)),
        span=Span(Source("prelude.knet"), 3, 5, 3, 20, call),
    )
    assert print_instr(instr) == (
        "%c1/w = par(dims=(5,5,1,20), init=Xavier(), stream=0) : f32[5,5,1,20]"
        "  @ prelude.knet:3:5-3:20 < lenet.knet:9:3-9:20"
    )


HEAD = 'program "m"\nstage lowered\ndtype f32\ninput %x\n'
FAULTS = {
    "": "<ir>:1:1: error: expected 'program'",
    "module x": "<ir>:1:1: error: expected 'program'",
    'program "m"\nstage raised\n': "<ir>:2:7: error: expected one of lowered, variants, ssa, typed, training",
    HEAD + "\nnonsense\n": "<ir>:6:1: error: expected another part of a program, or its end",
    HEAD + "variant\n  %y = relu(%x": "<ir>:6:15: error: expected ',' or ')'",
    HEAD + "variant\n  %y relu(%x)": "<ir>:6:6: error: expected '='",
    HEAD + "variant\n  %y = relu(%x) : f16[2]": "<ir>:6:22: error: expected a type such as f32[10,N] before this",
    HEAD + "variant\n  %y = par(init=Gauss(1))": "<ir>:6:25: error: there is no value Gauss(…)",
    HEAD + "variant\n  %y = par(init=Xavier(1))": "<ir>:6:26: error: wrong number of values before this for Xavier(…)",
    HEAD + "variant\n  %y = relu(%x) if (a & b)": "<ir>:6:23: error: expected '&&' or '||'",
    HEAD + "variant\n  %y = relu(%x)  @ m.knet:1": "<ir>:6:20: error: expected file:line:column-line:column",
    HEAD + "variant\n  %y = relu(%x) junk": "<ir>:6:17: error: expected the end of the line",
    HEAD + "variant\n  result %x\n  %y = relu(%x)": "<ir>:7:3: error: expected another part of a program, or its end",
    HEAD + 'variant\n  %y = par(init=Array((1,), "xy"))': "<ir>:6:33: error: expected hexadecimal digits before this",
    HEAD + 'variant\n  %y = par(init="\\q")': "<ir>:6:17: error: expected a word",
    HEAD + "variant {a\n": "<ir>:5:11: error: expected a word",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_named_with_their_place(text: str) -> None:
    with pytest.raises(KnetSyntaxError) as caught:
        read_program(text)
    assert str(caught.value).split("\n")[0] == FAULTS[text]
