"""Julia files: the blocks alone are read, wherever they stand and whatever surrounds them."""

from __future__ import annotations

import pytest

from knetc.errors import KnetError, Source
from knetc.frontend import ast
from knetc.frontend.parser import parse

SCRIPT = '''\
module Example
using Knet, ArgParse
"""
A docstring: @knet function doc(x) return x end
"""
# @knet function comment(x) return x end
#= @knet function block(x) #= nested =# return x end =#
function outer(x::Float64, f='"')
    s = "a string with \\"@knet function s(x)\\" and $(join(["@knet function", ")"], "end")) in it"
    t = `command "@knet function c(x)"`
    y = x' * A' .+ '\\'' .+ 'e'
    for i=1:3, j in [k for k in 1:2 if k > 1]
        begin
            let z = 1; quote 3 end end
        end
    end
    @eval @knet function inner(x; n=2)
        if train
            return relu(x)
        else
            return x  # end
        end
    end
    return map(1:3) do q; q end
end

@knet function last(x; o...)
    h = wbf(x; o..., out=3)  #= end =#
    return h
end
x = r"[@knet function r(x)]"
end # module
'''


def names(text: str) -> list[str]:
    return [d.name for d in parse(Source("script.jl", text)).definitions]


def test_only_blocks_are_read() -> None:
    file = parse(Source("script.jl", SCRIPT))
    assert [d.name for d in file.definitions] == ["inner", "last"]
    assert file.constants == ()


def test_places_are_those_of_the_whole_file() -> None:
    last = parse(Source("script.jl", SCRIPT)).definitions[1]
    assert str(last.span) == "script.jl:27:1"
    assert isinstance(last.body[0], ast.Assign) and str(last.body[0].span) == "script.jl:28:5"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("x = 3", []),
        ("macro knet(f) end", []),
        ("@knet f(x)", []),
        ("@knet  function f(x) return x end", ["f"]),
        ("Knet.@knet function f(x) return x end", ["f"]),
        ("a' ; @knet function f(x) return x end", ["f"]),
        ("a'b' * \"'\" ; @knet function f(x) return x end", ["f"]),
        ("c = '#' ; @knet function f(x) return x end", ["f"]),
        ("c = '\\u00e9' ; @knet function f(x) return x end", ["f"]),
        ('s = """ "quoted" """ ; @knet function f(x) return x end', ["f"]),
        ('s = "" ; @knet function f(x) return x end', ["f"]),
        ('s = "$(g("$(h(")"))"))" ; @knet function f(x) return x end', ["f"]),
        ('s = "unclosed ; @knet function f(x) return x end', []),
        ("#= unclosed ; @knet function f(x) return x end", []),
        ("@knet function f(x) return x end @knet function g(x) return x end", ["f", "g"]),
    ],
)
def test_what_surrounds_a_block(text: str, found: list[str]) -> None:
    assert names(text) == found


def test_faults_inside_a_block_are_reported() -> None:
    with pytest.raises(KnetError) as caught:
        parse(Source("script.jl", "for i=1:3 end\n@knet function f(x)\n    return x +\nend\nx = [1"))
    assert caught.value.render() == ("script.jl:4:1: error: an expression expected, found 'end'\n  end\n  ^^^")
