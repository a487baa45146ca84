"""The compound operators, each as the primitives that it stands for."""

from __future__ import annotations

import re

import pytest

from knetc.errors import KnetError
from knetc.frontend.lower import lower
from knetc.frontend.resolve import PRELUDE

from .support import body, short

with open(PRELUDE, encoding="utf-8") as file:
    NAMES = re.findall(r"^@knet function (\w+)", file.read(), re.MULTILINE)


def test_all_of_the_manual_are_there() -> None:
    wanted = ["wdot", "bias", "wb", "wf", "wbf", "wbf2", "wconv", "cbfp", "drop", "lstm", "irnn", "gru"]
    assert sorted(NAMES) == sorted(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_model(name: str) -> None:
    keywords = {"cwindow": 3, "pwindow": 2} if name == "cbfp" else {}
    assert lower(None, name, keywords).variants[0].forward[-1].out == "return"


@pytest.mark.parametrize(
    ("call", "instructions"),
    [
        ("wdot(x; out=2)", ["wdot/w = par(; dims=(2,0))", "return = dot(wdot/w, x)"]),
        ("bias(x)", ["bias/b = par(; dims=(0,), init=Constant(0.0))", "return = add(x, bias/b)"]),
        (
            "wb(x; out=2, winit=Gaussian(0,1), binit=Constant(3))",
            [
                "wb/w = par(; dims=(2,0), init=Gaussian(0.0,1.0))",
                "wb/b = par(; dims=(0,), init=Constant(3.0))",
                "wb/tmp1 = dot(wb/w, x)",
                "return = add(wb/tmp1, wb/b)",
            ],
        ),
        (
            "wf(x; out=2, f=:tanh)",
            ["wf/w = par(; dims=(2,0))", "wf/tmp1 = dot(wf/w, x)", "return = tanh(wf/tmp1)"],
        ),
        (
            "wbf(x; out=2)",
            [
                "wbf/w = par(; dims=(2,0))",
                "wbf/b = par(; dims=(0,), init=Constant(0.0))",
                "wbf/tmp1 = dot(wbf/w, x)",
                "wbf/tmp2 = add(wbf/tmp1, wbf/b)",
                "return = relu(wbf/tmp2)",
            ],
        ),
        (
            "wbf2(x, x; out=2)",
            [
                "wbf2/a = par(; dims=(2,0))",
                "wbf2/b = par(; dims=(2,0))",
                "wbf2/c = par(; dims=(0,), init=Constant(0.0))",
                "wbf2/tmp1 = dot(wbf2/a, x)",
                "wbf2/tmp2 = dot(wbf2/b, x)",
                "wbf2/tmp3 = add(wbf2/tmp1, wbf2/tmp2)",
                "wbf2/tmp4 = add(wbf2/tmp3, wbf2/c)",
                "return = sigm(wbf2/tmp4)",
            ],
        ),
        (
            "wconv(x; out=4, window=5, padding=2, stride=3, upscale=1, mode=CUDNN_CROSS_CORRELATION)",
            [
                "wconv/w = par(; dims=(5,5,0,4))",
                "return = conv(wconv/w, x; mode=CUDNN_CROSS_CORRELATION, padding=2, stride=3)",
            ],
        ),
        (
            "wconv(x; out=4, window=(5,3,2))",
            ["wconv/w = par(; dims=(5,3,2,0,4))", "return = conv(wconv/w, x)"],
        ),
        (
            "cbfp(x; out=4, cwindow=5, pwindow=2)",
            [
                "cbfp/w = par(; dims=(5,5,0,4))",
                "cbfp/b = par(; dims=(0,), init=Constant(0.0))",
                "cbfp/c = conv(cbfp/w, x)",
                "cbfp/tmp1 = add(cbfp/c, cbfp/b)",
                "cbfp/tmp2 = relu(cbfp/tmp1)",
                "return = pool(cbfp/tmp2; stride=2)",
            ],
        ),
        (
            "drop(x; pdrop=0.5)",
            [
                "drop/tmp1 = rnd(; init=Bernoulli(0.5,2.0)) if dropout",
                "drop/return = mul(x, drop/tmp1) if dropout",
                "drop/return = let(x) if !dropout",
                "return = let(drop/return)",
            ],
        ),
        (
            "irnn(x; out=3, scale=0.5)",
            [
                "irnn/w = par(; dims=(3,0))",
                "irnn/r = par(; dims=(3,3), init=Identity(0.5))",
                "irnn/b = par(; dims=(0,), init=Constant(0.0))",
                "irnn/tmp1 = dot(irnn/w, x)",
                "irnn/tmp2 = dot(irnn/r, irnn/h)",
                "irnn/tmp3 = add(irnn/tmp1, irnn/tmp2)",
                "irnn/tmp4 = add(irnn/tmp3, irnn/b)",
                "irnn/h = relu(irnn/tmp4)",
                "return = let(irnn/h)",
            ],
        ),
    ],
)
def test_what_it_stands_for(call: str, instructions: list[str]) -> None:
    assert body(f"return {call}") == instructions


def test_every_keyword_of_cbfp_arrives() -> None:
    found = body(
        "return cbfp(x; out=4, f=:sigm, cwindow=(5,4), cpadding=1, cstride=2, cupscale=3,"
        " cmode=CUDNN_CROSS_CORRELATION, pwindow=(3,2), ppadding=(1,0), pstride=4,"
        " pmode=CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING,"
        " cinit=Constant(1), binit=Constant(2))"
    )
    assert found == [
        "cbfp/w = par(; dims=(5,4,0,4), init=Constant(1.0))",
        "cbfp/b = par(; dims=(0,), init=Constant(2.0))",
        "cbfp/c = conv(cbfp/w, x; mode=CUDNN_CROSS_CORRELATION, padding=1, stride=2, upscale=3)",
        "cbfp/tmp1 = add(cbfp/c, cbfp/b)",
        "cbfp/tmp2 = sigm(cbfp/tmp1)",
        "return = pool(cbfp/tmp2; mode=CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING, padding=(1,0), stride=4,"
        " window=(3,2))",
    ]


def test_lstm_is_the_manuals() -> None:
    own = lower(None, "lstm", {"out": 2, "fbias": 5.0}).variants[0].forward
    gates = [i.out for i in own if i.op in ("sigm", "tanh")]
    assert gates == ["input", "forget", "output", "newmem", "tmp3"]
    biases = {i.out: short(i) for i in own if i.op == "par" and i.out.endswith("/c")}
    assert biases["forget/c"] == "forget/c = par(; dims=(0,), init=Constant(5.0))"
    assert biases["input/c"] == "input/c = par(; dims=(0,), init=Constant(0.0))"
    assert [short(i) for i in own[-6:]] == [
        "tmp1 = mul(input, newmem)",
        "tmp2 = mul(cell, forget)",
        "cell = add(tmp1, tmp2)",
        "tmp3 = tanh(cell)",
        "h = mul(tmp3, output)",
        "return = let(h)",
    ]


def test_gru_is_the_published_one() -> None:
    own = [short(i) for i in lower(None, "gru", {"out": 2}).variants[0].forward]
    assert own[-5:] == [
        "tmp2 = mul(update, h)",
        "tmp3 = axpb(update; a=-1, b=1)",
        "tmp4 = mul(tmp3, newmem)",
        "h = add(tmp2, tmp4)",
        "return = let(h)",
    ]
    assert "tmp1 = mul(reset, h)" in own
    assert "newmem/tmp2 = dot(newmem/b, tmp1)" in own


def test_a_dropout_of_everything_is_an_error() -> None:
    with pytest.raises(KnetError, match="division by zero"):
        body("return drop(x; pdrop=1)")
