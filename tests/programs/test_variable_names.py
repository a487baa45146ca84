"""Variables of a model that are called as what emitted kernels use themselves: the numbers are the interpreter's."""

from __future__ import annotations

import numpy as np
import pytest

import knetc

CELL = """
@knet function cell(x, z)
{body}
end
@knet function model(x, z)
    return wbf(cell(x, z); out=3, f=:soft)
end
"""
BODIES = {
    # Reads from two blocks, whose columns are differently far apart.
    "at": """
    at = wdot(x; out=8)
    b = wdot(x; out=8)
    c = wdot(z; out=8)
    d = wdot(z; out=8)
    e = wdot(z; out=8)
    return tanh(at) .* sigm(b) + tanh(c) .* sigm(d) .* e""",
    "u_i": """
    u = wdot(x; out=8)
    u_i = wdot(tanh(z); out=8)
    return tanh(u) .* u .* tanh(u_i) + u_i""",
    "row": """
    row = wdot(x; out=8)
    weight = wb(z; out=8)
    return tanh(row) .* weight .+ row""",
}


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
@pytest.mark.parametrize("name", BODIES)
def test_values_and_gradients(name: str, backend: str) -> None:
    compare(CELL.format(body=BODIES[name]), backend, [(5, 6), (4, 6)])


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_a_window(backend: str) -> None:
    """Names of the pooling's own variables."""
    source = """
    @knet function layer(x)
        start0 = conv(par(init=Gaussian(0, 0.3), dims=(3,3,2,4)), x)
        at = par(init=Gaussian(0, 0.3), dims=(1,1,4,1))
        return relu(pool(start0 .+ at; window=2))
    end
    @knet function model(x)
        return wbf(layer(x); out=3, f=:soft)
    end
    """
    compare(source, backend, [(6, 6, 2, 5)])


def test_an_array_of_each_thread() -> None:
    """A value within a block of columns has the name of the room for columns that a packed matrix is multiplied by."""
    source = """
    @knet function model(x)
        columns = conv(par(dims=(3,3,1,1), init=Gaussian(0, 0.3)), x; padding=1)
        columns = pool(relu(columns); window=3, stride=1, padding=1)
        columns = tanh(columns)
        h = tanh(wdot(columns; out=140) + wdot(h; out=140))
        return wbf(h; out=3, f=:soft)
    end
    """
    compare(source, "cpu", [(16, 10, 1, 5)])


def compare(source: str, backend: str, shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(11)
    inputs = [rng.normal(size=shape) for shape in shapes]
    emitted, meaning = (knetc.compile(source, backend=b, dtype="f64", seed=3) for b in (backend, "numpy"))
    value = meaning.forw(*inputs)
    np.testing.assert_allclose(emitted.forw(*inputs), value, rtol=1e-10, atol=1e-12)
    gold = np.eye(3)[:, np.arange(value.shape[-1]) % 3]
    dx = [net.back(gold, knetc.softloss, getdx=True) for net in (emitted, meaning)]
    for got, want in zip(*(d if isinstance(d, list) else [d] for d in dx), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-12)
    for parameter in meaning.params():
        np.testing.assert_allclose(emitted.grad(parameter), meaning.grad(parameter), rtol=1e-8, atol=1e-12)
