"""What a model tells of itself, several inputs, conditions, and what the interpreter keeps."""

from __future__ import annotations

import re
from pathlib import Path

import manual
import numpy as np
import pytest

import knetc

X = np.asfortranarray(np.arange(26.0).reshape(13, 2) / 26)


def test_the_listing_is_that_of_the_manuals_first_lesson() -> None:
    net = knetc.compile(manual.LINREG, backend="numpy", dtype="f64", seed=1)
    net.set("w", np.full((1, 13), 0.5))
    net.forw(X)
    dot = 0.5 * X.sum(axis=0)
    norms = [np.linalg.norm(X), 0.5 * np.sqrt(13), 0, np.linalg.norm(dot), np.linalg.norm(dot)]
    expected = [
        "linreg: back end numpy, f64",
        f"   1  input             x       (13,N)  norm {norms[0]:.6g}",
        f"   2  par               w       (1,13)  norm {norms[1]:.6g}",
        f"   3  par               b       (1,1)   norm {norms[2]:.6g}",
        f"   4  dot    (w, x)     tmp1    (1,N)   norm {norms[3]:.6g}",
        f"   5  add    (tmp1, b)  return  (1,N)   norm {norms[4]:.6g}",
    ]
    assert repr(net) == "\n".join(expected)


def test_before_the_sizes_are_known_the_listing_shows_what_the_source_says() -> None:
    net = knetc.compile("@knet function f(x)\n return drop(wdot(x; out=3))\nend\n", backend="numpy")
    heading = "f: back end numpy, f32, conditions dropout, sizes not known before the first forw"
    assert repr(net).splitlines() == [
        heading,
        "   1  input               x       (?)",
        "   2  par                 wdot/w  (3,?)",
        "   3  dot    (wdot/w, x)  return",
    ]
    assert net.summary().splitlines()[0] == heading
    assert net.summary().splitlines()[-1] == "parameters: 1, of sizes not known before the first forw"


def test_the_summary_counts_parameters_and_memory() -> None:
    """Two layers by hand: 5·13 + 5 and 2·5 + 2 numbers; the second bias is added to nothing that is returned."""
    source = """
@knet function f(x)
    h = wbf(x; out=5)
    unused = wb(h; out=2)
    return wdot(h; out=2)
end
"""
    net = knetc.compile(source, backend="numpy", dtype="f64", seed=1)
    net.forw(X)
    table = net.summary()
    assert table == knetc.summary(net) == repr(table)
    lines = table.splitlines()
    assert lines[0] == "f: back end numpy, f64"
    assert lines[2].split() == ["#", "operation", "arguments", "name", "shape", "parameters", "memory", "norm"]
    w, dot = lines[5].split(), lines[7].split()
    assert w[1:6] == ["par", "h/w", "(5,13)", "65", "520"] and float(w[7]) == pytest.approx(
        np.linalg.norm(net.get("h/w")), rel=1e-5
    )
    assert dot[1:] == ["dot", "(h/w,", "x)", "h/tmp1", "(5,N)", "40", "B", "×", "N"]  # overwritten by the sum
    relu = np.maximum(net.get("h/w") @ X + net.get("h/b")[:, None], 0)
    assert float(lines[9].split()[-1]) == pytest.approx(np.linalg.norm(relu), rel=1e-5)
    # x; product, sum and relu of h; product and sum of `unused`; the value
    columns = 13 + 3 * 5 + 2 * 2 + 2
    assert lines[-3:] == [
        "trained parameters: 80 of 92",
        f"memory of parameters: {92 * 8} B",
        f"memory of values: {columns * 8} B a column, if each is kept",
    ]


def test_the_columns_of_the_summary_stand_under_one_another() -> None:
    net = knetc.compile(manual.LINREG, backend="numpy")
    net.forw(X)
    _, _, head, rule, *rows = net.summary().splitlines()[:8]
    starts = [n for n, c in enumerate(rule) if c == "-" and rule[n - 1] in " -" and (n == 0 or rule[n - 1] == " ")]
    for row in (head, *rows):
        assert all(row[start - 1] == " " for start in starts[1:] if start <= len(row))


def test_every_function_is_a_method_and_a_function() -> None:
    net = knetc.compile(manual.LINREG, backend="numpy")
    y = np.ones((1, 2))
    knetc.forw(net, X)
    knetc.back(net, y, knetc.quadloss)
    knetc.setp(net, lr=0.1)
    knetc.update(net, gclip=1.0)
    assert knetc.params(net) == net.params() and knetc.state(net) == {}
    np.testing.assert_array_equal(knetc.get(net, "w"), net.get("w"))
    np.testing.assert_array_equal(knetc.grad(net, "w"), net.grad("w"))
    assert knetc.gnorm(net) == net.gnorm() and knetc.wnorm(net) == net.wnorm()
    knetc.set(net, "b", [[2.0]])
    assert net.get("b") == 2
    missing = [name for name in knetc.__all__ if not hasattr(knetc, name)]
    assert not missing


def test_models_of_several_inputs(backend: str) -> None:
    source = "@knet function f(x, y)\n return wbf2(x, y; out=3, f=:tanh)\nend\n"
    rng = np.random.default_rng(0)
    x, y, dy = rng.standard_normal((4, 5)), rng.standard_normal((2, 5)), rng.standard_normal((3, 5))
    net = knetc.compile(source, backend=backend, dtype="f64")
    out = net.forw(x, y)
    a, b = net.get("wbf2/a"), net.get("wbf2/b")
    np.testing.assert_allclose(out, np.tanh(a @ x + b @ y), rtol=1e-12)
    d = dy * (1 - np.tanh(a @ x + b @ y) ** 2)
    both = net.back(dy, getdx=True)
    assert isinstance(both, list)
    np.testing.assert_allclose(both[0], a.T @ d, rtol=1e-10)
    np.testing.assert_allclose(both[1], b.T @ d, rtol=1e-10)
    np.testing.assert_array_equal(net.back(dy, getdx=1), both[1])
    np.testing.assert_array_equal(net.back(dy, getdx=[1, 0])[1], both[0])  # type: ignore[index]


def test_the_gradient_of_an_input_that_does_not_matter_is_zero(backend: str) -> None:
    source = "@knet function f(x, y)\n if both\n return add(x, y)\n else\n return relu(x)\n end\nend\n"
    net = knetc.compile(source, backend=backend)
    x = np.ones((2, 3))
    net.forw(x, 2 * x)
    dx, dy = net.back(x, getdx=True)  # type: ignore[misc]
    assert (dx == 1).all() and (dy == 0).all()
    net.forw(x, 2 * x, both=True)
    assert (net.back(x, getdx=1) == 1).all()  # type: ignore[union-attr]


def test_a_parameter_under_each_condition(backend: str) -> None:
    """One variable, assigned to two parameters of different shapes under different conditions."""
    source = """
    @knet function f(x)
        if wide
            w = par(dims=(4,2), init=Constant(1))
        else
            w = par(dims=(3,2), init=Constant(2))
        end
        return w * x
    end
    """
    net = knetc.compile(source, backend=backend)
    x = np.ones((2, 5))
    assert net.forw(x).shape == (3, 5)  # type: ignore[union-attr]
    assert (net.forw(x, wide=True) == 2).all()
    assert sorted(net.params().values()) == [(3, 2), (4, 2)]
    net.setp(lr=0.5)
    net.back(np.ones((4, 5)))
    net.update()
    assert (net.forw(x, wide=True) == -3).all()
    assert (net.forw(x) == 4).all()


def test_constant_arrays_are_no_parameters(backend: str) -> None:
    source = "@knet function f(x)\n a = arr(init=[1.0 2.0; 3.0 4.0])\n return a * x\nend\n"
    net = knetc.compile(source, backend=backend, dtype="f64")
    x = np.array([[1.0, 0], [0, 1]])
    np.testing.assert_array_equal(net.forw(x), [[1, 2], [3, 4]])
    assert net.params() == {}
    np.testing.assert_array_equal(net.get("a"), [[1, 2], [3, 4]])
    dx = net.back(np.ones((2, 2)), getdx=0)
    np.testing.assert_array_equal(dx, [[4, 4], [6, 6]])
    net.update()
    np.testing.assert_array_equal(net.forw(x), [[1, 2], [3, 4]])


def test_arrays_from_python_are_initial_values(backend: str) -> None:
    source = "@knet function f(x; winit=Xavier())\n w = par(init=winit)\n return w * x\nend\n"
    w = np.array([[1.0, 2, 3], [4, 5, 6]])
    for given in (w, np.asfortranarray(w), w.tolist()):
        net = knetc.compile(source, backend=backend, winit=given)
        np.testing.assert_array_equal(net.get("w"), w)
    net = knetc.compile(source.replace("par(", "par(dims=(2,3), "), backend=backend, winit=knetc.Constant(0.25))
    assert (net.get("w") == 0.25).all()


def test_the_stack_holds_only_what_the_backward_pass_reads() -> None:
    net = knetc.compile(manual.RNN1, backend="numpy", hsize=4, xsize=3)
    net.sforw(np.ones((3, 2)))
    interpreter = net._engine.executable
    kept = set(interpreter._stack[0].env)  # type: ignore[union-attr]
    # relu's gradient reads its result, the products read their operands; the sums' results are read by nothing.
    assert kept == {"a", "b", "x", "h@prev", "h"}


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_results_have_the_models_type_and_fortran_order(backend: str, dtype: str) -> None:
    net = knetc.compile(manual.SOFTMAX, "softmax", backend=backend, dtype=dtype, out=3)
    out = net.forw(np.ones((2, 2, 1, 4), np.int8))
    expected = np.float32 if dtype == "f32" else np.float64
    dx = net.back([0, 1, 2, 0], "softloss", getdx=True)
    for array in (out, dx, net.get("z/w"), net.grad("z/w"), net.get("return")):
        assert isinstance(array, np.ndarray) and array.dtype == expected and array.flags.f_contiguous


# --- calls that fail, and what stays ----------------------------------------------------------------------------------


def test_a_sequence_that_fails_leaves_the_sizes_open() -> None:
    source = "@knet function f(x)\n w = par(dims=(3,0))\n h = w*x .+ h\n return h\nend\n"
    rng = np.random.default_rng(0)
    two, three = rng.standard_normal((2, 4)), rng.standard_normal((3, 4))
    for steps in ([two, three], [two, two[:, :3]]):
        net = knetc.compile(source, backend="numpy", dtype="f64")
        with pytest.raises(knetc.KnetShapeError):
            net.forwseq(steps)
        assert net.params() == {"w": (3, 0)}
        out = net.forwseq([three, three])
        product = net.get("w") @ three
        np.testing.assert_allclose(out, [product, 2 * product])


def test_state_that_was_set_holds_for_an_input_of_more_dimensions() -> None:
    source = "@knet function f(x)\n w = par(dims=(3,2), init=Identity(1))\n h = w*x .+ h\n return h\nend\n"
    net = knetc.compile(source, backend="numpy", dtype="f64")
    h = np.arange(15.0).reshape(3, 5)
    net.set("h", h)
    np.testing.assert_array_equal(net.forw(np.zeros((1, 2, 5))), h)


def test_an_input_that_is_assigned_to_is_read_as_it_became() -> None:
    net = knetc.compile("@knet function f(x)\n x = x .+ 1\n return x .* 2\nend\n", backend="numpy", dtype="f64")
    np.testing.assert_array_equal(net.forw(X), 2 * (X + 1))
    np.testing.assert_array_equal(net.get("x"), X + 1)


@pytest.mark.parametrize("name", ["net", "self"])
def test_a_condition_may_have_any_name(name: str) -> None:
    net = knetc.compile(f"@knet function f(x)\n if {name}\n return x\n end\n return 2*x\nend\n", backend="numpy")
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(knetc.forw(net, x, **{name: True}), x)
    np.testing.assert_array_equal(net.sforw(x, **{name: True}), x)
    np.testing.assert_array_equal(knetc.forwseq(net, [x], **{name: True})[0], x)
    np.testing.assert_array_equal(net.forw(x), 2 * x)


def test_a_weight_whose_other_operand_is_state_has_no_batch() -> None:
    net = knetc.compile("@knet function f(w, x)\n h = w*h .+ x\n return h\nend\n", backend="numpy", dtype="f64")
    w, x = np.arange(9.0).reshape(3, 3), np.arange(12.0).reshape(3, 4)
    net.forw(w, x)
    np.testing.assert_array_equal(net.forw(w, x), w @ x + x)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "f.knet"
    path.write_bytes(b"\xef\xbb\xbf@knet function f(x)\n return 2*x\nend\n")
    np.testing.assert_array_equal(knetc.compile(path, backend="numpy").forw(X), np.float32(2) * X.astype(np.float32))


# --- gradients that are used again ------------------------------------------------------------------------------------


def test_a_parameters_gradient_that_another_gradient_reads(backend: str) -> None:
    source = """@knet function f(x)
  v = par(dims=(2,2), init=Gaussian(0,1))
  u = relu(v)
  w = par(dims=(2,2), init=Gaussian(0,1))
  return (u .+ w) * x
end
"""
    net = knetc.compile(source, backend=backend, dtype="f64", seed=3)
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
    net.forw(x)
    net.back(dy)
    np.testing.assert_allclose(net.grad("w"), dy @ x.T)
    np.testing.assert_allclose(net.grad("v"), (dy @ x.T) * (net.get("v") > 0))


def test_a_states_gradient_that_an_inputs_gradient_reads() -> None:
    net = knetc.compile("@knet function f(x)\n h = x .+ h\n return h .* x\nend\n", backend="numpy", dtype="f64")
    x1, x2, dy = np.random.default_rng(0).standard_normal((3, 2, 4))
    net.sforw(x1)
    net.sforw(x2)
    np.testing.assert_allclose(net.sback(dy, getdx=True), dy * x2 + dy * (x1 + x2))
    np.testing.assert_allclose(net.sback(dy, getdx=True), 2 * dy * x1 + dy * x2)


def test_a_value_that_the_optimiser_does_not_keep() -> None:
    """`optimise=0` keeps every variable; the optimised program, here with one product of both matrices, says what it
    does not keep, and how to read it.
    """
    source = """
@knet function f(x)
    e = wdot(x; out=30)
    return wdot(e; out=2)
end
"""
    nets = [knetc.compile(source, backend="numpy", dtype="f64", seed=1, optimise=level) for level in (0, 2)]
    values = [net.forw(X) for net in nets]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-12)
    np.testing.assert_allclose(nets[0].get("e"), nets[0].get("e/w") @ X, rtol=1e-12)
    with pytest.raises(knetc.KnetStateError, match="not keep variable e; compile the model with optimise=0 for it"):
        nets[1].get("e")


@pytest.mark.parametrize("level", [3, -1, "2", True, None])
def test_a_wrong_level(level: object) -> None:
    with pytest.raises(knetc.KnetTypeError, match="optimise is 0, 1 or 2"):
        knetc.compile("@knet function f(x)\n    return x\nend", optimise=level)


def test_the_report_counts_what_the_plan_holds() -> None:
    """One product, its gradients and the update, by hand: with nothing shared the sum of all buffers."""
    net = knetc.compile("@knet function f(x)\n    return wdot(x; out=2)\nend", backend="numpy", optimise=0)
    with pytest.raises(knetc.KnetStateError, match="report: the sizes of the model depend on its input"):
        net.report()
    net.forw(np.ones((3, 4)))
    text = net.report()
    assert text == knetc.report(net) == repr(text)
    # By hand, in bytes: w, its gradient, the loss; x, its gradient; the value, gold, the value's gradient; mask.
    whole, columns = 2 * 24 + 4, 2 * 1200 + 3 * 800 + 400
    assert f"batch of 100: {(whole + columns) / 1000:.1f} kB for 9 buffers" in text
    # The gradient of x is wanted when nothing but that of the value is needed any more.
    assert f"lower bound, the largest set live at once, {(whole + columns - 1200) / 1000:.1f} kB" in text
    assert re.search(r"param +wdot/w +f32\[2,3\] +24 B", text)
    assert re.search(r"input +x +f32\[3,N\] +1.2 kB", text)
