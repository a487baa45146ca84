"""Models on which builds once differed, each as small as it could be made; found by tools/fuzz.py.

Each states what it shows. All are run as random models are: every level against the definition, whatever is called.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

import knetc
from knetc.ir.types import N

from .compare import INTERPRETED, Levels, builds, emitted
from .expressions import Dims
from .programs import Made
from .twins import Overflow, Twins

FOUND: dict[str, tuple[str, tuple[Dims, ...]]] = {
    # Both products of `wbf2` have the same right operand, so that their gradients are the same value twice in a block:
    # its sum over the batch was one row of itself.
    "one value twice in a block": (
        """
@knet function m(x)
    s = tanh(x + wbf2(s, s; out=5, f=:tanh))
end
""",
        ((5,),),
    ),
    # The three products with `v` in the GRU are parts of one product and of the block with the IRNN's: the gradients
    # that flow into `v` were summed twice over, and the IRNN's was lost.
    "a block in a larger block": (
        """
@knet function m(x)
    v = par(dims=(2,0), init=Gaussian(0,1)) * x ./ (sigm(wdot(x; out=2)) + 0.5)
    h = irnn(par(dims=(3,2), init=Gaussian(0,1)) * v; out=5)
    g = v .* gru(par(dims=(3,0), init=Gaussian(0,1)) * v; out=2)
    return h / 3
end
""",
        ((3,),),
    ),
    # Nothing reads `unused`, so that none of its kernel's results had memory; the emitter found none to launch it for.
    "a called definition's variable that nothing reads": (
        """
@knet function f(a)
    unused = sigm(relu(soft(par(dims=(2,0)) * a)))
    return wdot(tanh(a); out=3)
end
@knet function m(x)
    return soft(f(x))
end
""",
        ((3,),),
    ),
    # A block made for a product that then was not merged, because another operand of it has no block, was in no list.
    "a block that no merged product reads": (
        """
@knet function m(x)
    s = tanh(wbf2(x, x; out=1) + x)
    return bias(par(dims=(1,)) * x) + s
end
""",
        ((1,),),
    ),
    # Where `one` is false nothing is computed and nothing saved: the state's gradient alone goes back through a
    # sequence, which looked for its element type among the saved values.
    "a variant that saves nothing": (
        """
@knet function m(x)
    if one
        return gru(x; out=2)
    end
end
""",
        ((3,),),
    ),
    # v's kernel was moved into the IRNN's, and with that past the product that reads v (at -O1).
    "a kernel moved down twice": (
        """
@knet function m(x)
    v = sigm(x) ./ x
    h = irnn(x; out=3)
    return sigm(wbf2(wdot(v; out=3), par(dims=(3,0)) * x - v; out=3, f=:tanh))
end
""",
        ((3,),),
    ),
    # The gradient of v by w is added to itself; merged with the one by u it was counted once: a wrong number (at -O2).
    "a term of a merged sum that is added twice": (
        """
@knet function m(x)
    v = sigm(x)
    w = par(dims=(5,3))
    return soft(par(dims=(5,3)) * v .* sigm(w * v + w * v))
end
""",
        ((3,),),
    ),
    # Both products have w on their right, and one is computed from the other: no block of their left operands (at -O2).
    "powers of a matrix": (
        """
@knet function m(x)
    w = arr(init=reshape([0.6,0.6,-0.1,-0.9,-0.6,0.8,0.1,-0.3,0.3], (3,3)))
    w3 = w * w
    w6 = w3 * w
    return soft(wdot(w3 * x; out=3) - w6 * x)
end
""",
        ((3,),),
    ),
    # d:c is a part of one block, and the result of another product that was merged: two blocks of one name (at -O2).
    "a gradient in two blocks": (
        """
@knet function m(x)
    v = par(dims=(5,1)) * x
    v2 = sigm(par(dims=(1,0)) * (par(dims=(1,5)) * v))
    v4 = wdot(v; out=1)
    w = par(dims=(1,1), init=Gaussian(0,0.5))
    s2 = tanh(w * (w * x) + wdot(x; out=1))
    if dropout
        return sigm(w * v4) .* v4
    end
    return soft(repeat(w * s2; frepeat=:wbf, nrepeat=2, out=1) - tanh(s2) .* (par(dims=(1,1)) * v2))
end
""",
        ((1,),),
    ),
}


def run_alike(made: Made, levels: Levels) -> None:
    """Runs a model's builds through random calls, four times without an overflow in five at most."""
    compared = 0
    for seed in range(5):
        try:
            Twins(made, builds(made, levels, seed), random.Random(seed)).run(2)
        except Overflow:
            continue
        compared += 1
        if compared == 4:
            return
    raise AssertionError(f"only {compared} of 5 runs could be compared")


@pytest.mark.parametrize("name", FOUND)
def test_builds_do_not_differ_any_more(name: str) -> None:
    source, inputs = FOUND[name]
    made = Made(source, inputs, (False,) * len(inputs))
    for level in range(3):
        assert "knet_model" in emitted(made, level)
    run_alike(made, INTERPRETED)


def test_a_state_that_no_call_has_written_is_zero() -> None:
    """Where the setting that writes it has not come yet; the NumPy back end raised an error there."""
    net = knetc.compile(
        """
@knet function m(x)
    y = tanh(x + s)
    if learn
        s = y
    end
    return y
end
""",
        backend="numpy",
    )
    net.forw(np.ones((3, 2), np.float32))
    assert net.get("s").tolist() == [[0, 0]] * 3
    value = net.forw(np.ones((3, 2), np.float32), learn=True)
    assert net.get("s").tolist() == value.tolist()


@pytest.mark.parametrize("weights", ["(a * b)", "(a .* b)", "(a .* b .* a)"])
def test_a_step_of_training_reads_parameters_before_it_changes_them(weights: str) -> None:
    """Gradients go straight into the parameters there; each of these two is computed from the other parameter, which
    emitted C++ had changed by then.
    """
    source = f"""
@knet function m(x)
    a = par(dims=(3,3))
    b = par(dims=(3,3))
    return soft({weights} * x)
end
"""
    rng = np.random.default_rng(0)
    data = knetc.minibatch(rng.standard_normal((3, 12)), knetc.onehot(rng.integers(0, 3, 12), 3), 4)
    wanted, found = (
        knetc.compile(source, backend=b, dtype="f64", seed=3, optimise=o) for b, o in (("numpy", 0), ("cpu", 2))
    )
    losses = [net.train(data, knetc.softloss, epochs=3, progress=False) for net in (wanted, found)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
    for name in wanted.params():
        np.testing.assert_allclose(found.get(name), wanted.get(name), rtol=1e-12)


@pytest.mark.parametrize("level", [0, 2])
def test_an_input_given_by_rows_can_be_read_after_training(level: int) -> None:
    """By the name of a variable that is the input: emitted C++ read where no input stood, and the process ended."""
    source = """
@knet function m(x)
    v = x
    return soft(par(dims=(3,4)) * x)
end
"""
    x, y = knetc.onehot(np.array([0, 1, 2, 3, 0, 1]), 4), np.array([0, 1, 2, 0, 1, 2])
    for backend in ("numpy", "cpu"):
        net = knetc.compile(source, backend=backend, optimise=level)
        net.train(knetc.minibatch(x, y, 2), knetc.softloss, progress=False)
        assert np.array_equal(net.get("v"), np.eye(4)[:, :2])


def test_sizes_do_not_depend_on_whether_the_inputs_were_given() -> None:
    """Nothing says strictly how many columns `s` has. Without the input's shape one was assumed, with it the batch, so
    that a loaded model returned another shape than the saved one.
    """
    source = """
@knet function m(x)
    u = soft(s) .* x
    v = wbf(s; out=2)
    s = v + par(dims=(2,1)) .* (par(dims=(2,2)) * s)
    return v
end
"""
    x = np.ones((2, 3))
    open_sizes = knetc.compile(source, backend="numpy")
    open_sizes.forw(x)
    given = knetc.compile(source, backend="numpy")
    given._engine.resize(((2, N),), confirmed=True)
    assert given.forw(x).shape == (2, 3)
    assert open_sizes.forw(x).shape == (2, 3)


def test_a_mean_over_a_window_of_what_is_computed_on_the_way() -> None:
    """The terms of emitted C++'s sum had no brackets, so that a relu's `?` took all after it; where no way back keeps
    the relu's result and nothing reads the mean but `get`.
    """
    source = """
@knet function m(x)
    c = conv(par(dims=(1,2,1,2)), x)
    v = pool(relu(c); window=(2,2), stride=(2,1), mode=CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING)
    return wdot(x; out=2)
end
"""
    x = np.random.default_rng(0).normal(size=(2, 3, 1, 4))
    wanted, found = (
        knetc.compile(source, backend=b, dtype="f64", seed=3, optimise=o) for b, o in (("numpy", 0), ("cpu", 2))
    )
    for net in (wanted, found):
        net.forw(x)
    assert wanted.get("v").any()
    np.testing.assert_allclose(found.get("v"), wanted.get("v"), rtol=1e-12)


@pytest.mark.parametrize("loss", ["quadloss", "softloss"])
def test_a_loss_of_a_value_without_columns(loss: str) -> None:
    """Emitted C++ for it did not build: what a column weighs was declared in a loop over columns that is not there."""
    source = """
@knet function m(x)
    s = tanh(wb(s; out=2))
    return wbf(s; out=4, f=:soft)
end
"""
    gold = np.array([[0.7], [0.1], [0.1], [0.1]])
    norms = []
    for backend, level in (("numpy", 0), ("cpu", 2)):
        net = knetc.compile(source, backend=backend, dtype="f64", seed=3, optimise=level)
        assert net.forw(np.ones((1, 3))).shape == (4, 1)
        for mask in (None, np.array([0.5])):
            net.back(gold, loss, mask=mask)
            norms.append(net.gnorm())
    assert norms[1] == pytest.approx(norms[0] / 2)
    np.testing.assert_allclose(norms[2:], norms[:2], rtol=1e-12)


def test_a_gradient_of_two_parameters_through_time() -> None:
    """Both biases have one gradient; in emitted C++ one got what the other had come to over all steps so far."""
    source = """
@knet function m(x)
    h = wdot(s; out=3)
    s = tanh(bias(x) + bias(x) + x)
    return wdot(h; out=3)
end
"""
    rng = np.random.default_rng(0)
    steps, golds = [rng.normal(size=(5, 2)) for _ in range(4)], [rng.normal(size=(3, 2)) for _ in range(4)]
    wanted, found = (
        knetc.compile(source, backend=b, dtype="f64", seed=3, optimise=o) for b, o in (("numpy", 0), ("cpu", 2))
    )
    for net in (wanted, found):
        for x in steps:
            net.sforw(x)
        for gold in reversed(golds):
            net.sback(gold, "quadloss")
    assert wanted.grad("bias2/b").all()
    for name in ("bias/b", "bias2/b"):
        np.testing.assert_allclose(found.grad(name), wanted.grad(name), rtol=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_a_value_from_before_the_loop_that_another_variant_keeps(backend: str) -> None:
    """Where `two` is false a step has sigm(x) in a register, and a sequence hands it to its loop in memory: in emitted
    code that was no frame's of its own, but what the frame in use before had for it, or none.
    """
    source = """
@knet function m(x)
    v = s .* sigm(x)
    if two
        s = tanh(v + x)
    end
    return s
end
"""
    rng = np.random.default_rng(0)
    steps, golds = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 3, 2))
    wanted, found = (knetc.compile(source, backend=b, dtype="f64", optimise=o) for b, o in (("numpy", 0), (backend, 2)))
    gradients: list[np.ndarray] = []
    for net in (wanted, found):
        net.forwseq(list(steps[:2]), two=True)
        net.forwseq(list(steps[2:]))  # wrote over what the way back of the first two reads
        net.backseq(list(golds[2:]), "quadloss")
        gradients.append(np.array([net.sback(gold, "quadloss", getdx=True) for gold in golds[1::-1]]))
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-12)


EMITTED: dict[str, tuple[str, tuple[Dims, ...]]] = {
    # The gradients of the two matrices at the end stood in one block, in the order of the variant without `one`; with
    # `one` the product gives them in the other order, and they were copied to their places over each other.
    "a block of gradients in another variant's order": (
        """
@knet function m(x, y)
    if one
        v = sigm(wdot(x; out=2)) .* soft(y)
        w = (par(dims=(5,2)) * y) .* sigm(par(dims=(5,2)) * y)
    end
    return soft(sigm(par(dims=(3,20)) * x) + par(dims=(3,20)) * x)
end
""",
        ((2, 5, 2), (2,)),
    ),
    # Both poolings have results of 2 by 2, so they were one kernel, which went through the windows of the first.
    "poolings of one image by two windows": (
        """
@knet function m(x)
    v = pool(x; window=(3,2), padding=(1,0), stride=(3,2), mode=CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING)
    w = pool(x; window=(1,1), stride=(3,3), mode=CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING)
    return wdot(v + w; out=2)
end
""",
        ((4, 3, 2),),
    ),
    # The pooling's result took the place of the convolution's, which its kernel reads all over each window.
    "a pooling in the place of what it reads through a bias": (
        """
@knet function m(x)
    v = cbfp(x; out=3, cwindow=(1,1), f=:tanh, pwindow=(1,1), ppadding=(2,0), pstride=(2,3))
    return wdot(x; out=2)
end
""",
        ((6, 1, 1),),
    ),
    # The gradient of what is repeated over rows, a sum over rows, is a row of a block, and was written as if it stood
    # by itself.
    "a sum over rows that is a row of a block": (
        """
@knet function m(x)
    y = s .* wdot(x; out=3)
    s = tanh(s + wdot(x; out=1))
    return y
end
""",
        ((3,),),
    ),
}


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
@pytest.mark.parametrize("name", EMITTED)
def test_emitted_code_does_not_differ_any_more(name: str, backend: str) -> None:
    source, inputs = EMITTED[name]
    made = Made(source, inputs, (False,) * len(inputs))
    run_alike(made, (("numpy", 0), (backend, 2)))
