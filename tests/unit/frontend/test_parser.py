"""Text to tree: the grammar's corners, shown as `--emit ast` shows them, and the places of nodes."""

from __future__ import annotations

import gc

import pytest

from knetc.errors import KnetError, Source, Span
from knetc.frontend import ast
from knetc.frontend.parser import parse, read_source
from knetc.frontend.tables import GRAMMAR, STORED, generate, load


def tree(text: str, name: str = "m.knet") -> str:
    return ast.show(parse(Source(name, text)))


def expression(text: str) -> ast.Expr:
    (definition,) = parse(Source("m.knet", f"@knet function f(x) return {text} end")).definitions
    (statement,) = definition.body
    assert isinstance(statement, ast.Return) and statement.value is not None
    return statement.value


def plain(node: object) -> object:
    """A tree without its places, as nested tuples."""
    if isinstance(node, ast.Name):
        return node.name
    if isinstance(node, ast.Literal):
        return node.value
    if isinstance(node, ast.Node):
        inside = [plain(v) for k, v in node.children().items() if not isinstance(v, Span)]
        return (type(node).__name__, *inside)
    return tuple(map(plain, node)) if isinstance(node, tuple) else node


def test_a_whole_file() -> None:
    text = """\
N = 10  # a constant
@knet function f(x, y; a=1, b=(a,), o...)
    h = relu(w * x .+ b; k=:s, o...)
    if !train && (p || a > 2)
        return h
    elseif q
        h += x.^2
    else
    end
    return
end
"""
    assert (
        tree(text)
        == """\
Constant N @1:1
  Literal 10 @1:5
Definition f @2:1
  Param x @2:18
  Param y @2:21
  Param a @2:24
    Literal 1 @2:26
  Param b @2:29
    TupleOf @2:31
      Name a @2:32
  Param o @2:37
  Assign h @3:5
    Call relu @3:9
      Arg @3:14
        Chain @3:14
          Chain @3:14
            Name w @3:14
            then
              *
              Name x @3:18
          then
            .+
            Name b @3:23
      Arg k @3:26
        Literal :s @3:28
      Arg @3:32
        Splat @3:32
          Name o @3:32
  If @4:5
    branches
      Logic && @4:8
        Unary ! @4:8
          Name train @4:9
        Logic || @4:19
          Name p @4:19
          Chain @4:24
            Name a @4:24
            then
              >
              Literal 2 @4:28
      Return @5:9
        Name h @5:16
    branches
      Name q @6:12
      Assign h @7:9
        Chain @7:9
          Name h @7:9
          then
            +
            Binary .^ @7:14
              Name x @7:14
              Literal 2 @7:17
  Return @10:5
"""
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("-a ^ b", "-(a ^ b)"),
        ("a ^ -b", "a ^ (-b)"),
        ("a .^ b .^ c", "a .^ (b .^ c)"),
        ("-a * b", "(-a) * b"),
        ("a < b + 1 && c", "(a < (b + 1)) && c"),
        ("a || b && c", "a || (b && c)"),
        ("!a == b", "(!a) == b"),
        ("a:b+1", "a:(b+1)"),
        ("2a^2", "2 * (a^2)"),
        ("f(x, k=1)", "f(x; k=1)"),
        ("f(x, k=1,)", "f(x; k=1,)"),
        ("f(k=1, x)", "f(k=1, x;)"),
        ("f(\n x,\n k=1\n)", "f(x, k=1)"),
        ("a +\n b", "a + b"),
        ("a .*\n\n b", "a .* b"),
        ("f(a\n + b)", "f(a + b)"),
        ("Knet.f(x)", "f(x)"),
        ("2.*x", "2 .* x"),
        ("x.^2.", "x .^ 2.0"),
        ("x != y", "x!=y"),
        ("#= one #= two =# =# x", "x"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_reads_the_same(text: str, same: str) -> None:
    # A chain keeps its operators in one node, so a - b - c and (a - b) - c differ in shape alone.
    assert _folded(plain(expression(text))) == _folded(plain(expression(same)))


def _folded(node: object) -> object:
    if isinstance(node, tuple):
        node = tuple(map(_folded, node))
        if node[:1] == ("Chain",):
            first, rest = node[1:]
            if isinstance(first, tuple) and first[:1] == ("Chain",) and first[2][0][0] in "+-":
                return ("Chain", first[1], first[2] + rest)
    return node


@pytest.mark.parametrize(
    "text",
    [
        "@knet function f(x) return x end",
        "@knet function f(x); return x; end;",
        "@knet function f(x)\r\n  return x\r\nend\r\n",
        "# nothing but\n\n@knet function f(x,)\n\n\n  return x;\n\nend # f",
        "@knet function f(x;)\n return x end",
        "@knet function f(x; k=1,)\n return x end",
        "@knet function f(; k=1)\n return par(dims=(1,)) end",
        "@knet function f()\n return par(dims=(1,)) end",
        "@knet function f(x) if a return x else return x end end",
        "@knet function f(x) if a; return x; elseif b; else; end end",
        "@knet function αβ_1!(x₁; ∇w=1) ŷ = x₁; return ŷ end",
        "@knet\tfunction f(x)\n\treturn x\nend",
    ],
)
def test_accepted(text: str) -> None:
    assert len(parse(Source("m.knet", text)).definitions) == 1


def test_definitions_on_one_line_and_constants_between() -> None:
    file = parse(Source("m.knet", "A = 1; B = 2\n@knet function f(x) return x end; @knet function g(x) return x end\n"))
    assert [d.name for d in file.definitions] == ["f", "g"]
    assert [c.name for c in file.constants] == ["A", "B"]


def test_places_count_characters_from_one() -> None:
    text = "@knet function f(x)\n\tŷ = relu(x)\n\treturn ŷ .+\n\t\tx\nend\n"
    (definition,) = parse(Source("m.knet", text)).definitions
    assign, result = definition.body
    assert isinstance(assign, ast.Assign) and isinstance(result, ast.Return) and result.value is not None
    assert _place(assign.value.span) == (2, 6, 2, 13)
    assert _place(result.value.span) == (3, 9, 4, 4)
    assert _place(definition.span) == (1, 1, 5, 4)
    assert _place(definition.name_span) == (1, 16, 1, 17)


def _place(span: Span) -> tuple[int, int, int, int]:
    return span.line, span.column, span.end_line, span.end_column


def test_nodes_are_frozen() -> None:
    with pytest.raises(AttributeError):
        expression("x").name = "y"  # type: ignore[union-attr]


# --- the tables -------------------------------------------------------------------------------------------------------


def test_stored_tables_belong_to_the_grammar() -> None:
    with open(GRAMMAR, encoding="utf-8") as grammar, open(STORED, encoding="utf-8") as stored:
        assert generate(grammar.read()) == stored.read(), "run: python -m knetc.frontend.tables"


@pytest.mark.parametrize("stored", [None, "", "tables of knet.lark, crc 00000000\nrule"])
def test_tables_that_do_not_fit_are_made_anew(stored: str | None, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    fitting = load()
    path = tmp_path / "knet.tables"
    if stored is not None:
        path.write_text(stored)
    monkeypatch.setattr("knetc.frontend.tables.STORED", str(path))
    made, kept = load(), fitting
    assert made.rules == kept.rules
    assert [made.state(n) for n in range(20)] == [kept.state(n) for n in range(20)]


# --- reading files ----------------------------------------------------------------------------------------------------


def test_reads_utf8_with_or_without_a_mark(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "m.knet"
    path.write_bytes("\ufeffα = 1".encode())
    assert read_source(str(path)) == Source(str(path))
    assert read_source(str(path)).text == "α = 1"


def test_files_that_cannot_be_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    latin = tmp_path / "latin.knet"
    latin.write_bytes(b"x = 1\n# caf\xe9\n")
    for path, message in (
        (latin, f"error: {latin}:2: not UTF-8: byte 0xe9"),
        (tmp_path, f"error: cannot read {tmp_path}: it is a folder"),
        (tmp_path / "no.knet", f"error: cannot read {tmp_path / 'no.knet'}: No such file or directory"),
    ):
        with pytest.raises(KnetError) as caught:
            read_source(str(path))
        assert caught.value.render() == message


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collection_of_cycles_is_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        parse(Source("m.knet", "@knet function f(x) return x end\n"))
        with pytest.raises(KnetError):
            parse(Source("m.knet", "@knet function f(x) return\nx"))
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_node_has_all_its_fields() -> None:
    with pytest.raises(TypeError, match="Name has the fields name, span"):
        ast.Name("x")
