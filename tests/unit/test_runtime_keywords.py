"""Python values as Knet's compile-time values."""

from __future__ import annotations

import numpy as np
import pytest

import knetc
from knetc.runtime.keywords import value
from knetc.values import Array, Symbol


def test_strings_are_symbols_and_numbers_stay() -> None:
    assert value("relu", "f") == Symbol("relu") and isinstance(value("relu", "f"), Symbol)
    assert value(3, "n") == 3 and value(2.5, "a") == 2.5 and value(True, "b") is True and value(None, "c") is None
    assert value(np.float32(0.5), "a") == 0.5 and type(value(np.int64(3), "n")) is int
    assert value((1, (2, "tanh")), "t") == (1, (2, Symbol("tanh")))
    assert value(knetc.CUDNN_POOLING_MAX, "mode") == "CUDNN_POOLING_MAX"


def test_arrays_are_column_major() -> None:
    got = value(np.array([[1, 2, 3], [4, 5, 6]]), "init")
    assert got == Array.of((2, 3), [1, 4, 2, 5, 3, 6])
    assert value([[1, 2, 3], [4, 5, 6]], "init") == got
    assert value(np.asfortranarray([[1.0, 2, 3], [4, 5, 6]]), "init") == got
    assert value([1, 2], "init") == Array.of((2,), [1, 2])


def test_fillers_hold_plain_numbers() -> None:
    assert value(knetc.Gaussian(0, np.float64(0.1)), "init") == knetc.Gaussian(0, 0.1)
    assert value(knetc.Glorot(), "init") == knetc.GlorotUniform()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (object(), "keyword k: a number, boolean, string, None, tuple, array or filler is expected, got object"),
        ({"a": 1}, "keyword k: a number, boolean, string, None, tuple, array or filler is expected, got dict"),
        ([[1, 2], [3]], "keyword k: the rows of the array differ in length"),
        (np.array([1j]), "keyword k: an array of real numbers is expected, got one of complex128"),
        (np.array([np.inf]), "keyword k: every element of the array must be finite"),
        (knetc.Gaussian(0, -1), "keyword k is Gaussian(0,-1), whose std must be at least 0"),
    ],
)
def test_errors(given: object, text: str) -> None:
    with pytest.raises(knetc.KnetTypeError) as caught:
        value(given, "keyword k")
    assert str(caught.value) == f"error: {text}"
