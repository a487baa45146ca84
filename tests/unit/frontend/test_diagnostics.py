"""Every diagnostic of the front end, whole: message, source line, caret, notes.

`diagnostics.txt` holds sources with the text that each must get; the rest needs more than a source to show.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from knetc.errors import KnetError
from knetc.values import Xavier

from .support import failure, messages, warnings

CASES = [
    block.split("\n", 1) for block in Path(__file__).with_name("diagnostics.txt").read_text().split("### ") if block
]


@pytest.mark.parametrize(("title", "case"), CASES, ids=[title for title, _ in CASES])
def test_whole_text(title: str, case: str) -> None:
    source, expected = case.split("---\n")
    error = failure(source, None, "m.knet", {})
    assert f"{type(error).__name__}\n{error.render()}" == expected.rstrip("\n")


def test_colours_mark_the_severity_alone() -> None:
    error = failure("@knet function f(x)\n    return y\nend\n", None, "m.knet", {})
    assert error.render(color=True) == (
        "m.knet:2:12: \x1b[1;31merror:\x1b[0m 'y' is not defined\n      return y\n             ^"
    )


# --- the choice of the model ------------------------------------------------------------------------------------------

TWO = "@knet function lenet(x; cout1=20, hidden=500) return x end\n@knet function mlp(x) return x end\n"


def test_unknown_model() -> None:
    assert messages(TWO, "lenat") == (
        "error: m.knet does not define 'lenat'; it defines lenet, mlp; did you mean 'lenet'?"
    )


def test_unknown_keywords_of_the_model() -> None:
    assert messages(TWO, "lenet", hiden=3, cout=1) == (
        "error: 'lenet' has no keyword 'hiden'; its keywords are cout1, hidden; did you mean 'hidden'?\n"
        "error: 'lenet' has no keyword 'cout'; its keywords are cout1, hidden; did you mean 'cout1'?"
    )
    assert messages(TWO, "mlp", n=3) == "error: 'mlp' has no keyword 'n'; it has no keywords"


def test_keyword_of_the_model_that_does_not_fit() -> None:
    assert messages("@knet function f(x; n=1) return pool(x; window=n) end", n=-1) == (
        "m.knet:1:41: error: 'window' of pool must be at least 1, not -1\n"
        "  @knet function f(x; n=1) return pool(x; window=n) end\n"
        "                                          ^^^^^^^^"
    )


def test_built_in_models() -> None:
    assert messages(None, "wbff") == "error: 'wbff' is no built-in operator; did you mean 'wbf'?"
    assert messages(None, None) == "error: without a source the model must be the name of a built-in operator"
    assert messages(None, "relu", x=1) == "error: 'relu' has no keyword 'x'; it has no keywords"
    assert messages(None, "conv", pading=1).startswith("error: 'conv' has no keyword 'pading'; its keywords are ")
    assert messages(None, "conv", pading=1).endswith("; did you mean 'padding'?")
    assert messages(None, "state") == "error: 'state' is no built-in operator"


def test_names_of_julia_code_are_not_known() -> None:
    text = "nclass = 10\n@knet function f(x)\n    return wdot(x; out=nclass)\nend\n"
    assert messages(text, name="m.jl") == (
        "m.jl:3:24: error: 'nclass' is not defined\n"
        "      return wdot(x; out=nclass)\n"
        "                         ^^^^^^\n"
        "note: of a .jl file only the @knet functions are read; give the value as a keyword"
    )


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_statements_that_are_never_reached() -> None:
    text = """\
@knet function f(x)
    if a
        return x
    else
        return relu(x)
        y = x
    end
    z = x
end
"""
    assert warnings(text) == (
        "m.knet:6:9: warning: this statement is never reached\n"
        "          y = x\n"
        "          ^^^^^\n"
        "m.knet:5:9: note: the function has returned here\n"
        "          return relu(x)\n"
        "          ^^^^^^^^^^^^^^\n"
        "m.knet:8:5: warning: this statement is never reached\n"
        "      z = x\n"
        "      ^^^^^\n"
        "m.knet:2:5: note: the function has returned here\n"
        "      if a\n"
        "      ^^^^"
    )


def test_values_that_are_not_used() -> None:
    assert warnings("@knet function f(x)\n    relu(x)\n    return x\nend") == (
        "m.knet:2:5: warning: the value of this statement is not used\n      relu(x)\n      ^^^^^^^"
    )


def test_keywords_that_no_operator_takes() -> None:
    assert warnings("@knet function f(x)\n    return lstm(x; out=2, fbia=3)\nend") == (
        "m.knet:2:27: warning: no operator takes the keyword 'fbia'; did you mean 'fbias'?\n"
        "      return lstm(x; out=2, fbia=3)\n"
        "                            ^^^^^^"
    )
    assert warnings("@knet function f(x; o...)\n    return relu(x; o...)\nend", any=3) == (
        "warning: no operator takes the keyword 'any'"
    )


def test_keywords_in_whose_place_another_stands_are_no_oddity() -> None:
    text = (
        "@knet function g(x; a=1, b=2, p...) return axpb(x; b=a+b, p...) end\n"
        "@knet function h(x; o...) return g(x; a=5, o..., b=7) end\n"
        "@knet function f(x) return h(x; a=6, b=8) end\n"
    )
    assert warnings(text) == ""
    # What no operator has is one, wherever it stands.
    assert "no operator takes the keyword 'c'" in warnings(text.replace("a=6", "c=6"))


def test_programs_without_oddities_have_no_warnings() -> None:
    assert (
        warnings(
            "@knet function f(x; o...)\n    return wbf(lstm(x; out=3, fbias=2, o...); out=2, f=:drop, pdrop=0.5)\nend",
            winit=Xavier(),
        )
        == ""
    )


# --- what bad input costs ---------------------------------------------------------------------------------------------


def in_f(text: str, head: str = "f(x)") -> str:
    return f"@knet function {head}\n{text}\nend\n"


DEEP = "nested too deeply: knetc reads at most 200 levels"
DOUBLING = "".join(f"@knet function g{i}(x)\n return g{i + 1}(g{i + 1}(x))\nend\n" for i in range(50))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (in_f("return " + "(" * 10_000 + "x" + ")" * 10_000), DEEP),
        (in_f("return " + "(" * 10_000), DEEP),
        (in_f("return par(init=" + "[" * 10_000 + "]" * 10_000 + ")"), DEEP),
        (in_f("return " + "relu(" * 10_000 + "x" + ")" * 10_000), DEEP),
        (in_f("return " + "-" * 10_000 + "x"), DEEP),
        (in_f("if " + "!" * 10_000 + "a\nreturn x\nend"), DEEP),
        (in_f("return x .^ " + "^".join(["1"] * 10_000)), DEEP),
        (in_f("if a\n" * 10_000 + "y = x\n" + "end\n" * 10_000), DEEP),
        (in_f("return repeat(x; frepeat=:wdot, nrepeat=10^9)"), "nrepeat=1000000000 is too large"),
        (in_f("y = repeat(x; frepeat=:g, nrepeat=10^4)") + "@knet function g(x) return repeat(x; frepeat=:relu,"
         " nrepeat=10^4) end\n@knet function h(x) return f(x) end", "the program is too large"),
        (DOUBLING + "@knet function g50(x) return relu(x) end\n@knet function f(x) return g0(x) end",
         "the program is too large"),
        ("".join(f"@knet function g{i}(x)\n return g{i + 1}(x)\nend\n" for i in range(300))
         + "@knet function g300(x) return x end\n@knet function f(x) return g0(x) end",
         "calls nested too deeply: knetc inlines at most 100 levels"),
        (in_f("return x", "f(x; n=10^10^10)"), "the result of '^' is too large"),
        (in_f("return x * " + "9" * 1_000_000), "this integer does not fit into 64 bits"),
        (in_f("return x .* par(init=zeros((10^9, 10^9)))"), "is too large to write into a program"),
        ("#= " * 100_000, "this comment is never closed"),
        ("$%&" * 100_000, "unexpected character '$'"),
        (in_f("return x\0"), "unexpected character U+0000"),
        (in_f("return\u00a0x"), "unexpected character U+00A0"),
    ],
)  # fmt: skip
def test_refused_at_once(text: str, message: str) -> None:
    assert message in messages(text)


@pytest.mark.parametrize("statement", ["y = z", "y = )", "y = = 3", "y = relu(x; a=1)"])
def test_at_most_twenty_errors(statement: str) -> None:
    error = failure(in_f("\n".join([statement] * 1000) + "\nreturn x"), None, "m.knet", {})
    assert len(error.diagnostics) == 20


def test_ring_of_definitions_is_named() -> None:
    ring = "".join(f"@knet function g{i}(x) return g{(i + 1) % 5}(x) end\n" for i in range(5))
    assert "recursion: g4 → g0 → g1 → g2 → g3 → g4" in messages(ring)


def test_bad_bytes_never_crash_the_parser() -> None:
    seeds = [
        in_f("y = wbf(x; out=2, o...)\nif !a && b\nreturn [1 2; 3 4] .* y\nend", "f(x; k=(1,), o...)"),
        "A = 1:3\n",
    ]
    for seed in seeds:
        for i in range(len(seed)):
            for text in (seed[:i], seed[:i] + seed[i + 1 :], seed[:i] + "(" + seed[i:], seed[:i] + "end " + seed[i:]):
                try:
                    messages(text)
                except (AssertionError, KnetError):
                    continue


def test_what_is_left_of_a_line_with_a_bracket_that_is_never_closed_gives_no_more_errors() -> None:
    """A message of 20 errors for one missing bracket says less than one of one; the next line is looked at again."""
    error = failure("@knet function f(x)\n    v = (((x + return 0)) + (1))))\n    w = x)\nend\n", None, "m.knet", {})
    told = [(d.message, d.span.line) for d in error.diagnostics]
    assert told == [("this '(' is never closed; ')' is missing", 2), ("')' closes nothing", 3)]
