"""The Pygments lexer: no error in any Knet text that there is, the tokens of knetc's own lexer, nothing lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygments import lexers
from pygments import token as kinds

from knetc.errors import Diagnostics, Source
from knetc.frontend.lexer import Lexer, Places
from knetc.highlight import KnetLexer

from .test_manual import LESSONS

ROOT = Path(__file__).parents[3]
TEXTS = {
    **{str(p.relative_to(ROOT)): p.read_text() for p in sorted(ROOT.glob("examples/*.knet"))},
    **{p.name: p.read_text() for p in sorted(ROOT.glob("tests/golden/models/*.knet"))},
    "prelude": (ROOT / "knetc" / "frontend" / "prelude.knet").read_text(),
    **LESSONS,
}


def lexed(text: str) -> list[tuple[int, object, str]]:
    return list(KnetLexer().get_tokens_unprocessed(text))


@pytest.mark.parametrize("name", TEXTS)
def test_no_error_and_nothing_lost(name: str) -> None:
    found = lexed(TEXTS[name])
    assert "".join(text for _, _, text in found) == TEXTS[name]
    assert not [entry for entry in found if entry[1] in kinds.Error]


@pytest.mark.parametrize("name", TEXTS)
def test_tokens_are_those_of_the_compiler(name: str) -> None:
    """Compared with a walk over the items of the compiler's lexer, comments and blanks apart."""
    lexer = Lexer(Places(Source(name, TEXTS[name])), Diagnostics())
    own, position = set(), lexer.skip(0)
    while position < len(TEXTS[name]):
        item = lexer.item(position)
        own |= {(t.start, t.end) for t in item.tokens if t.text != "end of line" and t.end > t.start}
        position = lexer.skip(item.end)
    blank = (kinds.Whitespace, kinds.Comment)
    mine = {(at, at + len(text)) for at, kind, text in lexed(TEXTS[name]) if not any(kind in b for b in blank)}
    assert {span for span in mine ^ own if TEXTS[name][slice(*span)] != ";"} == set()


def test_pygments_finds_it() -> None:
    assert isinstance(lexers.get_lexer_by_name("knet"), KnetLexer)
    assert isinstance(lexers.get_lexer_for_filename("model.knet"), KnetLexer)


def test_what_the_tokens_are() -> None:
    text = (
        "#= a #= b =# c =#\nN = 0x1F\n@knet function f(x; n=2, o...)\n"
        "    y = wbf(x; out=3_0, f=:relu, p=1.5e-3, mode=Knet.CUDNN_POOLING_MAX) # why\n"
        '    if train && !true\n        return g(y; s="a\\"b", t=nothing, r=[1:n...])\n    end\nend\n'
    )
    of = {text: kind for _, kind, text in lexed(text)}
    expected = {
        "#= a #= b =# c =#": kinds.Comment.Multiline,
        "# why": kinds.Comment.Single,
        "0x1F": kinds.Number.Hex,
        "3_0": kinds.Number.Integer,
        "1.5e-3": kinds.Number.Float,
        "@knet": kinds.Name.Decorator,
        "function": kinds.Keyword,
        "true": kinds.Keyword.Constant,
        "f": kinds.Name.Attribute,  # the last of them, in f=:relu
        "wbf": kinds.Name.Builtin,
        "g": kinds.Name.Function,
        "nothing": kinds.Keyword.Constant,
        "out": kinds.Name.Attribute,
        ":relu": kinds.String.Symbol,
        "Knet.CUDNN_POOLING_MAX": kinds.Name.Constant,
        '"a\\"b"': kinds.String.Double,
        ":": kinds.Operator,
        "...": kinds.Operator,
        "&&": kinds.Operator,
    }
    assert {text: of[text] for text in expected} == expected


@given(
    st.lists(st.sampled_from(re.findall(r"\s+|\w+|.", "\n".join(TEXTS.values())) + list("§'`\"#=@$\\\0")), max_size=60)
)
def test_faulty_text_is_coloured_too(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = lexed(text)
    assert "".join(piece for _, _, piece in found) == text
    assert [at for at, _, _ in found] == [sum(len(p) for _, _, p in found[:n]) for n in range(len(found))]


def test_what_starts_no_token_is_an_error() -> None:
    assert [(text, kind) for _, kind, text in lexed("y = x § 2\n") if kind in kinds.Error] == [("§", kinds.Error)]
    assert [text for _, kind, text in lexed('s = "open\n') if kind in kinds.Error] == ['"open']


def test_text_nested_too_deeply_keeps_its_end() -> None:
    text = f"y = {'(' * 300}x\n"
    assert "".join(piece for _, _, piece in lexed(text)) == text
