"""The checks of keyword values: what passes, and what a wrong value is told."""

import pytest

from knetc.ops import registry
from knetc.values import Array, Gaussian, Range, Symbol, Xavier, show

CASES = [
    ("par", "dims", (10, 0), None),
    ("par", "dims", None, None),
    ("par", "dims", 10, "must be a tuple of sizes such as (10,0), not 10"),
    ("par", "dims", (), "must be a tuple of sizes such as (10,0), not ()"),
    ("par", "dims", (10, -1), "must hold integers of at least 0, not -1"),
    ("par", "dims", (10, 2.5), "must hold integers of at least 0, not 2.5"),
    ("par", "dims", (True, 2), "must hold integers of at least 0, not true"),
    ("par", "init", Xavier(), None),
    ("par", "init", Symbol("x"), "must be a filler such as Xavier() or an array, not :x"),
    ("axpb", "a", 2.5, None),
    ("axpb", "p", True, "must be a finite number, not true"),
    ("axpb", "b", float("nan"), "must be a finite number, not NaN"),
    ("axpb", "b", float("inf"), "must be a finite number, not Inf"),
    ("axpb", "b", 10**30, None),
    ("axpb", "b", -(10**400), "must be a finite number, not a number of over 300 digits"),
    ("conv", "padding", 0, None),
    ("conv", "padding", (1, 2), None),
    ("conv", "padding", -1, "must be at least 0, not -1"),
    ("conv", "stride", (1, 0), "must be at least 1, not (1,0)"),
    ("conv", "stride", 1.5, "must be an integer or a tuple of integers, not 1.5"),
    ("conv", "upscale", (), "must be an integer or a tuple of integers, not ()"),
    ("conv", "stride", None, "must be an integer or a tuple of integers, not nothing"),
    ("conv", "mode", Symbol("CUDNN_CROSS_CORRELATION"), None),
    ("conv", "mode", Symbol("CUDNN_POOLING_MAX"),
     "must be CUDNN_CONVOLUTION or CUDNN_CROSS_CORRELATION, not CUDNN_POOLING_MAX"),
    ("pool", "window", 0, "must be at least 1, not 0"),
    ("pool", "stride", None, None),
    ("pool", "mode", 3, "must be CUDNN_POOLING_MAX, CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING or "
     "CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING, not 3"),
    ("dot", "ta", True, None),
    ("dot", "ta", 1, "must be true or false, not 1"),
]  # fmt: skip


@pytest.mark.parametrize("op,keyword,value,wrong", CASES, ids=str)
def test_keyword_check(op, keyword, value, wrong):
    assert registry()[op].keywords[keyword].check(value) == wrong


SHOWN = [
    (None, "nothing"),
    (False, "false"),
    (Symbol("relu"), ":relu"),
    ("a b", '"a b"'),
    ((3,), "(3,)"),
    ((1, (True, None)), "(1,(true,nothing))"),
    (Range(1, 2.5), "1:2.5"),
    (Array.of((2, 1), [1.0, 2.0]), "an array of dims (2,1)"),
    (Gaussian(0, float("-inf")), "Gaussian(0,-Inf)"),
    (tuple(range(1000)), "(0,1,2,3,4,5,6,7,…)"),
    ("a" * 1000, '"' + 58 * "a" + "…"),
    (10**5000, "a number of over 300 digits"),
]


@pytest.mark.parametrize("value,text", SHOWN, ids=[text for _, text in SHOWN])
def test_a_value_is_shown_as_knet_writes_it(value, text):
    assert show(value) == text
