"""AST to lowered IR: operators, calls, keywords, conditions, names of variables, places."""

from __future__ import annotations

import pytest

from knetc.frontend.lower import lower
from knetc.values import Gaussian, Symbol, Value

from .support import body, lines, program

# --- operators (the table of LANGUAGE.md §4) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "instructions"),
    [
        ("x * y", ["return = dot(x, y)"]),
        ("x .* y", ["return = mul(x, y)"]),
        ("x + y", ["return = add(x, y)"]),
        ("x .+ y", ["return = add(x, y)"]),
        ("x - y", ["tmp1 = axpb(y; a=-1)", "return = add(x, tmp1)"]),
        ("x .- y", ["tmp1 = axpb(y; a=-1)", "return = add(x, tmp1)"]),
        ("x ./ y", ["tmp1 = axpb(y; p=-1)", "return = mul(x, tmp1)"]),
        ("-x", ["return = axpb(x; a=-1)"]),
        ("+x", ["return = let(x)"]),
        ("2 * x", ["return = axpb(x; a=2)"]),
        ("x * 2", ["return = axpb(x; a=2)"]),
        ("2x", ["return = axpb(x; a=2)"]),
        ("x .* 2.5", ["return = axpb(x; a=2.5)"]),
        ("x + 2", ["return = axpb(x; b=2)"]),
        ("2 .+ x", ["return = axpb(x; b=2)"]),
        ("x - 2", ["return = axpb(x; b=-2)"]),
        ("2 - x", ["return = axpb(x; a=-1, b=2)"]),
        ("x / 4", ["return = axpb(x; a=0.25)"]),
        ("x ./ 4", ["return = axpb(x; a=0.25)"]),
        ("2 ./ x", ["return = axpb(x; a=2, p=-1)"]),
        ("x .^ 3", ["return = axpb(x; p=3)"]),
        ("x .^ -0.5", ["return = axpb(x; p=-0.5)"]),
        ("x * y .+ z", ["tmp1 = dot(x, y)", "return = add(tmp1, z)"]),
        ("1 + 2 * 3 * x", ["tmp1 = axpb(x; a=6)", "return = axpb(tmp1; b=1)"]),
        ("x .+ y .* z .^ 2", ["tmp1 = axpb(z; p=2)", "tmp2 = mul(y, tmp1)", "return = add(x, tmp2)"]),
        ("-x .^ 2", ["tmp1 = axpb(x; p=2)", "return = axpb(tmp1; a=-1)"]),
        ("x * y * z", ["tmp1 = dot(x, y)", "return = dot(tmp1, z)"]),
        ("x * (y * z)", ["tmp1 = dot(y, z)", "return = dot(x, tmp1)"]),
        ("sigm(x) .* tanh(y)", ["tmp1 = sigm(x)", "tmp2 = tanh(y)", "return = mul(tmp1, tmp2)"]),
        ("x", ["return = let(x)"]),
    ],
)
def test_operators(expression: str, instructions: list[str]) -> None:
    assert body(f"return {expression}", head="f(x, y, z)") == instructions


def test_primitives_carry_all_keywords() -> None:
    (conv,) = program("@knet function f(w, x) return conv(w, x, padding=(1,0); stride=2) end").variants[0].forward
    assert dict(conv.attrs) == {"mode": Symbol("CUDNN_CONVOLUTION"), "padding": (1, 0), "stride": 2, "upscale": 1}
    (pool,) = program("@knet function f(x) return pool(x) end").variants[0].forward
    assert dict(pool.attrs)["stride"] is None


def test_streams_number_the_sources_of_numbers() -> None:
    text = "@knet function f(x)\n a = arr(dims=(2,))\n b = wb(x; out=2) .* rnd()\n return a .+ b\nend"
    found = [
        (i.op, dict(i.attrs)["stream"]) for i in program(text).variants[0].forward if i.op in ("par", "arr", "rnd")
    ]
    assert found == [("arr", 0), ("par", 1), ("par", 2), ("rnd", 3)]


# --- statements and values --------------------------------------------------------------------------------------------


def test_the_last_statement_is_the_value() -> None:
    assert body("h = relu(x)") == ["h = relu(x)", "return = let(h)"]
    assert body("relu(x)") == ["return = relu(x)"]
    assert body("if a", "h = relu(x)", "else", "tanh(x)", "end") == [
        "h = relu(x) if a",
        "return = let(h) if a",
        "return = tanh(x) if !a",
    ]
    assert body("if a", "else", "h = x", "end") == ["h = let(x) if !a", "return = let(h) if !a"]


def test_early_return_guards_what_follows() -> None:
    assert body("if a", "return relu(x)", "end", "y = tanh(x)", "return y") == [
        "return = relu(x) if a",
        "y = tanh(x) if !a",
        "return = let(y) if !a",
    ]


def test_guards_of_branches() -> None:
    found = body("if a", "y = relu(x)", "elseif !b && (c || a)", "y = tanh(x)", "else", "y = x", "end", "return y")
    assert found == [
        "y = relu(x) if a",
        "y = tanh(x) if (!a && (!b && (c || a)))",
        "y = let(x) if (!a && !(!b && (c || a)))",
        "return = let(y)",
    ]


def test_returns_in_some_branches() -> None:
    found = body("if a", "return x", "elseif b", "y = relu(x)", "else", "return tanh(x)", "end", "return y")
    assert found == [
        "return = let(x) if a",
        "y = relu(x) if (!a && b)",
        "return = tanh(x) if (!a && !b)",
        "return = let(y) if (!a && b)",
    ]


def test_conditions_known_at_compile_time_are_decided() -> None:
    text = "@knet function f(x; n=2, on=true)\nif n > 1 && on\nreturn relu(x)\nelseif train\nreturn x\nend\nend"
    assert lines(text) == ["return = relu(x)"]
    assert program(text).conditions == ()
    assert lines(text, on=False) == ["return = let(x) if train"]
    assert program(text, on=False).conditions == ("train",)
    assert body("if true || train", "return relu(x)", "end") == ["return = relu(x)"]
    assert body("if on && train", "return relu(x)", "end", head="f(x; on=true)") == ["return = relu(x) if train"]


def test_conditions_are_sorted_and_those_of_inlined_definitions_count() -> None:
    text = "@knet function f(x) if z return drop(x; pdrop=0.5) else return x end end"
    assert program(text).conditions == ("dropout", "z")


def test_compile_time_locals() -> None:
    assert body("n = 2 * k", "m = (n, 0)", "return par(dims=m) * x", head="f(x; k=3)") == [
        "tmp1 = par(; dims=(6,0))",
        "return = dot(tmp1, x)",
    ]
    assert body("if k > 2", "n = 1", "else", "n = 2", "end", "return n * x", head="f(x; k=3)") == ["return = axpb(x)"]
    same = body("if a", "n = 2", "y = n * x", "else", "n = 2", "y = x", "end", "return y .+ n")
    assert same == ["y = axpb(x; a=2) if a", "y = let(x) if !a", "return = axpb(y; b=2)"]


def test_constants_of_the_file() -> None:
    text = "A = 2\nB = (A^3, 0)\n@knet function f(x; k=A) return par(dims=B) * k * x end"
    assert lines(text) == ["tmp1 = par(; dims=(8,0))", "tmp2 = axpb(tmp1; a=2)", "return = dot(tmp2, x)"]


def test_locals_hide_constants() -> None:
    assert lines("A = 2\n@knet function f(x)\n A = relu(x)\n return A\nend") == ["A = relu(x)", "return = let(A)"]


def test_parameters_can_be_bound_anew() -> None:
    assert body("x = relu(x)", "return x") == ["x = relu(x)", "return = let(x)"]
    text = (
        "@knet function g(y)\n if a\n y = relu(y)\n end\n return y\nend\n@knet function f(x)\n z = g(x)\n return z\nend"
    )
    assert lines(text) == ["z/y = let(x)", "z/y = relu(z/y) if a", "z = let(z/y)", "return = let(z)"]
    assert body("k = 2k", "return k * x", head="f(x; k=3)") == ["return = axpb(x; a=6)"]
    assert body("k = k * x", "return k", head="f(x; k=3)") == ["k = axpb(x; a=3)", "return = let(k)"]


def test_state_is_read_before_it_is_written() -> None:
    assert body("h = relu(x .+ h)") == ["tmp1 = add(x, h)", "h = relu(tmp1)", "return = let(h)"]


def test_updating_assignment() -> None:
    assert body("h += x", "h .*= 2", "return h") == ["h = add(h, x)", "h = axpb(h; a=2)", "return = let(h)"]


# --- calls ------------------------------------------------------------------------------------------------------------


def test_names_of_inlined_variables() -> None:
    text = """
    @knet function layer(x; out=0)
        w = par(dims=(out,0))
        return relu(w * x)
    end
    @knet function f(x)
        a = layer(x; out=2)
        return layer(layer(a; out=3); out=4)
    end
    """
    assert lines(text) == [
        "a/w = par(; dims=(2,0))",
        "a/tmp1 = dot(a/w, x)",
        "a = relu(a/tmp1)",
        "layer/w = par(; dims=(3,0))",
        "layer/tmp1 = dot(layer/w, a)",
        "layer/return = relu(layer/tmp1)",
        "layer2/w = par(; dims=(4,0))",
        "layer2/tmp1 = dot(layer2/w, layer/return)",
        "return = relu(layer2/tmp1)",
    ]
    p = program(text)
    assert p.temps == {"a/tmp1", "layer/tmp1", "layer/return", "layer2/tmp1"}
    assert p.functions == (("layer/return", "layer"),)


def test_names_that_are_taken_are_skipped() -> None:
    found = body(
        "h = wdot(x; out=1)", "h = wdot(h; out=2)", "wdot = relu(h)", "tmp1 = x", "return wdot(wdot) .* tmp1 .+ x"
    )
    assert [line.split(" = ")[0] for line in found] == [
        "h/w", "h", "h2/w", "h", "wdot", "tmp1", "wdot2/w", "wdot2/return", "tmp2", "return",
    ]  # fmt: skip


def test_each_call_has_its_own_parameters_and_state() -> None:
    found = body("return irnn(irnn(x; out=2); out=2)")
    assert [line.split(" = ")[0] for line in found if "par(" in line] == [
        "irnn/w", "irnn/r", "irnn/b", "irnn2/w", "irnn2/r", "irnn2/b",
    ]  # fmt: skip


def test_guarded_returns_go_through_a_temporary() -> None:
    text = (
        "@knet function g(x)\n if a\n return relu(x)\n end\nend\n@knet function f(x)\n y = g(x)\n return tanh(y)\nend"
    )
    p = program(text)
    assert lines(text) == ["y/return = relu(x) if a", "y = let(y/return)", "return = tanh(y)"]
    assert p.temps == {"y/return"} and p.functions == (("y/return", "g"),)


def test_keywords_defaults_and_splats() -> None:
    text = """
    @knet function inner(x; a=1, b=2a, o...)
        return axpb(x; a=a, b=b, o...)
    end
    @knet function f(x; o...)
        return inner(x; a=5, o...)
    end
    """
    assert lines(text) == ["return = axpb(x; a=5, b=10)"]
    assert lines(text, b=7) == ["return = axpb(x; a=5, b=7)"]
    assert lines(text, a=3, p=2) == ["return = axpb(x; a=3, b=6, p=2)"]  # the later one wins


def test_the_order_of_keyword_and_splat_decides() -> None:
    text = "@knet function f(x; o...) return axpb(x; {}) end"
    assert lines(text.format("a=2, o..."), a=3) == ["return = axpb(x; a=3)"]
    assert lines(text.format("o..., a=2"), a=3) == ["return = axpb(x; a=2)"]
    assert lines(text.format("a=4, a=2")) == ["return = axpb(x; a=2)"]
    assert lines(text.replace("; {}", ", a=2")) == ["return = axpb(x; a=2)"]


def test_unknown_keywords_through_a_splat_are_passed_over_by_primitives() -> None:
    assert body("return wbf(x; out=2, f=:drop, pdrop=0.5)")[-1] == "return = let(wbf/drop/return)"
    assert body("return relu(x; o...)", head="f(x; o...)", anything=3) == ["return = relu(x)"]


@pytest.mark.parametrize("value", [Symbol("tanh"), "tanh"])
def test_operators_as_arguments(value: Value) -> None:
    text = "@knet function g(x) return tanh(x) end\n@knet function f(x; f=:relu) return f(x) end"
    assert lines(text) == ["return = relu(x)"]
    assert lines(text, f=value) == ["return = tanh(x)"]
    assert lines(text, f=Symbol("g")) == ["return = tanh(x)"]


def test_repeat() -> None:
    text = "@knet function f(x; n=2) return repeat(x; frepeat=:wdot, nrepeat=n, out=3) end"
    assert lines(text, n=1) == ["repeat/1/w = par(; dims=(3,0))", "return = dot(repeat/1/w, x)"]
    assert lines(text) == [
        "repeat/1/w = par(; dims=(3,0))",
        "repeat/1/return = dot(repeat/1/w, x)",
        "repeat/2/w = par(; dims=(3,0))",
        "return = dot(repeat/2/w, repeat/1/return)",
    ]
    assert body("h = repeat(x; frepeat=:wdot, nrepeat=2)", "return h")[2] == "h/2/w = par(; dims=(0,0))"
    assert body("return repeat(x; frepeat=:relu, nrepeat=3)") == [
        "tmp1 = relu(x)", "tmp2 = relu(tmp1)", "return = relu(tmp2)",
    ]  # fmt: skip


def test_users_definitions_come_before_the_preludes() -> None:
    own = "@knet function wbf2(x, y; mine=1) return x .+ mine * y end\n"
    assert lines(own + "@knet function f(x) return wbf2(x, x; mine=3) end") == [
        "wbf2/tmp1 = axpb(x; a=3)",
        "return = add(x, wbf2/tmp1)",
    ]
    # The prelude's lstm still calls its own wbf2, but a symbol names the user's operator.
    assert len(lines(own + "@knet function f(x) return lstm(x; out=2) end")) == len(body("return lstm(x; out=2)"))
    mine = "@knet function wb(x) return x end\n@knet function f(x) return wf(x; out=1, f=:wb) end"
    assert lines(mine)[-1] == "return = let(wf/tmp1)"


def test_places_of_instructions_know_the_call() -> None:
    text = "@knet function g(x)\n    return relu(x)\nend\n@knet function f(x)\n    return g(x) .+ x\nend\n"
    relu, add = program(text).variants[0].forward
    assert str(relu.span) == "m.knet:2:12" and relu.span is not None and str(relu.span.via) == "m.knet:5:12"
    assert str(add.span) == "m.knet:5:12" and add.span is not None and add.span.via is None
    assert (add.span.end_line, add.span.end_column) == (5, 21)


# --- models -----------------------------------------------------------------------------------------------------------


def test_the_last_definition_or_the_one_named_is_the_model() -> None:
    text = "@knet function a(x) return relu(x) end\n@knet function b(y, z) return y .+ z end"
    p = program(text)
    assert (p.name, [i.name for i in p.inputs], p.stage) == ("b", ["y", "z"], "lowered")
    assert p.inputs[0].dims is None and str(p.inputs[0].span) == "m.knet:2:18"
    assert (program(text, "a").name, lines(text, "a")) == ("a", ["return = relu(x)"])


def test_keywords_from_outside() -> None:
    text = "@knet function f(x; out=1, init=Gaussian(0,1)) return wdot(x; out=out, winit=init) end"
    assert lines(text, out=5, init=Gaussian(0, 3))[0] == "wdot/w = par(; dims=(5,0), init=Gaussian(0,3))"


def test_built_in_operators_are_models() -> None:
    conv = lower(None, "conv", {"mode": Symbol("CUDNN_CROSS_CORRELATION")})
    assert (conv.name, [i.name for i in conv.inputs]) == ("conv", ["w", "x"])
    (instr,) = conv.variants[0].forward
    assert (instr.out, instr.op, instr.args, instr.attr("mode")) == (
        "return", "conv", ("w", "x"), "CUDNN_CROSS_CORRELATION",
    )  # fmt: skip
    wbf = lower(None, "wbf", {"out": 3})
    assert (wbf.name, [i.name for i in wbf.inputs], wbf.variants[0].forward[0].out) == ("wbf", ["x"], "w")
    repeat = lower(None, "repeat", {"frepeat": Symbol("relu"), "nrepeat": 2})
    assert [i.op for i in repeat.variants[0].forward] == ["relu", "relu"]
