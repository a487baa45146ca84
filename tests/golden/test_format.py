"""A file of format 1, written once and never again, still gives the model that was saved.

`python tests/golden/test_format.py FILE` wrote it; a new format needs a new file beside this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import knetc

SOURCE = """
@knet function small(x; hidden=3, a=0)
    c = arr(dims=(2,2), init=Gaussian(0,1))
    h = sigm(wdot(c*x; out=hidden) .+ wdot(h; out=hidden))
    return wbf(drop(h; pdrop=0.25); out=2, f=:soft)
end
"""


def step(net: knetc.Model, x: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """A step of training that depends on all that is saved; the value before it."""
    y = net.sforw(x, dropout=True)
    net.sback(gold, knetc.softloss)
    net.update()
    net.reset(keepstate=True)
    assert y is not None
    return y


def test_a_file_of_format_1() -> None:
    saved = knetc.load(Path(__file__).parent / "format_1.h5", backend="numpy")
    net = saved["model"]
    np.testing.assert_allclose(net.get("h"), saved["state"], rtol=1e-6)
    np.testing.assert_allclose(step(net, saved["x"], saved["gold"]), saved["value"], rtol=1e-5)
    for name, array in saved["after"].items():
        np.testing.assert_allclose(net.get(name), array, rtol=1e-4, atol=1e-6)
    assert saved["plain"] == {"text": "é", "tuple": (1, None, True), 3: [2.5]}


def main(path: str) -> None:
    """Writes the file: a model in the middle of its training, and what its next step gives."""
    net = knetc.compile(SOURCE, backend="numpy", seed=2, a=np.arange(3.0))
    net.setp(lr=0.1, momentum=0.9)
    net.setp(next(iter(net.params())), adam=True)
    rng = np.random.default_rng(0)
    x, gold = rng.standard_normal((2, 2, 4), dtype=np.float32), np.eye(2, dtype=np.float32)[:, [0, 1, 1, 0]]
    step(net, x[0], gold)
    knetc.save(path, net)
    twin = knetc.load(path, "model", backend="numpy")
    more = {"x": x[1], "gold": gold, "state": twin.get("h"), "value": step(twin, x[1], gold)}
    plain = {"text": "é", "tuple": (1, None, True), 3: [2.5]}
    knetc.save(path, net, **more, after=twin.parameter_values(), plain=plain)


if __name__ == "__main__":
    main(sys.argv[1])
