"""What the front end's rewriting means in numbers: the interpreter's values beside NumPy's own."""

from __future__ import annotations

import numpy as np
import pytest

import knetc
from knetc.errors import KnetError

X = np.array([[1.0, -2.0, 0.5], [3.0, 4.0, -0.25]])


def value(*statements: str, head: str = "f(x)", more: str = "", **conditions: bool) -> np.ndarray | None:
    text = f"{more}\n@knet function {head}\n" + "\n".join(statements) + "\nend\n"
    return knetc.forw(knetc.compile(text, backend="numpy", dtype="f64"), X, **conditions)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x .+ 1", X + 1),
        ("1 - x", 1 - X),
        ("3 - x ./ 2 .^ 2 + x.^2 - 1 ./ x", 3 - X / 4 + X**2 - 1 / X),
        ("-x .^ 2 .* 2x", -(X**2) * (2 * X)),
        ("x .- 2 .* x", X - 2 * X),
        ("x ./ x .^ 3", X / X**3),
        ("2 ./ x ./ 4", 2 / X / 4),
        ("x / 2 - x / 4", X / 2 - X / 4),
        ("relu(x) .- relu(-x)", X),
        ("-(-x + -1)", X + 1),
        ("ones * x", np.ones((2, 2)) @ X),
    ],
)
def test_operators(expression: str, expected: np.ndarray) -> None:
    found = value("ones = arr(init=[1 1; 1 1])", f"return {expression}")
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=1e-15)


def test_a_parameter_bound_anew() -> None:
    np.testing.assert_array_equal(value("x = relu(x)", "x = 2x", "return x .+ 1"), 2 * np.maximum(X, 0) + 1)
    for on in (False, True):
        found = value("if on", "x = relu(x)", "end", "return x", on=on)
        np.testing.assert_array_equal(found, np.maximum(X, 0) if on else X)


def test_a_parameter_of_an_inlined_definition_bound_anew_leaves_the_callers_array() -> None:
    inner = "@knet function g(y)\n if on\n y = relu(y)\n end\n return y\nend"
    for on in (False, True):
        found = value("z = g(x)", "return z .+ x", more=inner, on=on)
        np.testing.assert_array_equal(found, (np.maximum(X, 0) if on else X) + X)


def test_early_returns() -> None:
    statements = ("if a", "return x", "elseif b", "y = 2x", "else", "return -x", "end", "return y")
    np.testing.assert_array_equal(value(*statements), -X)
    np.testing.assert_array_equal(value(*statements, a=True), X)
    np.testing.assert_array_equal(value(*statements, b=True), 2 * X)
    np.testing.assert_array_equal(value(*statements, a=True, b=True), X)


def test_conditions_combined() -> None:
    for a in (False, True):
        for b in (False, True):
            for c in (False, True):
                found = value("if (a || !b || c) && !(a && b)", "return x", "end", a=a, b=b, c=c)
                assert (found is not None) is ((a or not b or c) and not (a and b))


def test_a_call_that_returns_nothing_under_a_condition() -> None:
    inner = "@knet function g(y)\n if on\n return y\n end\nend"
    assert value("return g(x)", more=inner) is None
    np.testing.assert_array_equal(value("return g(x)", more=inner, on=True), X)
    with pytest.raises(KnetError, match="'g' returns nothing when on is false"):
        value("z = g(x)", "return z .+ 1", more=inner)


def test_compile_time_branches_and_repeat() -> None:
    inner = "@knet function g(y; n=1)\n if n > 1\n return n * y\n else\n return y\n end\nend"
    np.testing.assert_array_equal(value("return g(x; n=3) .+ g(x)", more=inner), 4 * X)
    np.testing.assert_array_equal(value("return repeat(x; frepeat=:g, nrepeat=3, n=2)", more=inner), 8 * X)
