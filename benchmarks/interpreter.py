"""The interpreter against plain hand-written NumPy: one training step of an MLP and of LeNet, batch 100.

    python benchmarks/interpreter.py [--rounds 6] [--threads 1]

Both sides start from the same weights and see the same data; their losses are compared first. Rounds of
eight steps are taken in turns, so that a change of the machine's speed meets both. Prints the median time of a step of
each and their ratio; the interpreter is meant to take at most 1.2 times as long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

LIMIT = 1.2
LR = 0.1
BATCH = 100

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rounds", type=int, default=6, help="rounds of eight steps of each side")
parser.add_argument("--threads", type=int, default=1, help="threads of the BLAS")
args = parser.parse_args()
os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)  # read when NumPy is imported

import numpy as np  # noqa: E402
from numpy.lib.stride_tricks import sliding_window_view  # noqa: E402

import knetc  # noqa: E402

Array: TypeAlias = "np.ndarray"
Step: TypeAlias = Callable[[Array, Array], None]

EXAMPLES = Path(__file__).parent.parent / "examples"
MLP = """
@knet function mlp(x)
    h = wbf(x; out=100)
    return wbf(h; out=10, f=:soft)
end
"""


# --- by hand ----------------------------------------------------------------------------------------------------------
# Rows are instances, images are (batch, height, width, channels), filters matrices (height·width·inputs, outputs).


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class HandMLP:
    """784-100-10 with relu and softmax."""

    def __init__(self, w1: Array, b1: Array, w2: Array, b2: Array) -> None:
        self.params = [np.ascontiguousarray(w1.T), b1.ravel(), np.ascontiguousarray(w2.T), b2.ravel()]

    def forward(self, x: Array) -> tuple[Array, Array]:
        w1, b1, w2, b2 = self.params
        h = np.maximum(x @ w1 + b1, 0)
        return h, softmax(h @ w2 + b2)

    def step(self, x: Array, y: Array) -> None:
        w1, b1, w2, b2 = self.params
        h, p = self.forward(x)
        d = (p - y) / len(x)
        dh = (d @ w2.T) * (h > 0)
        for w, g in zip(self.params, (x.T @ dh, dh.sum(axis=0), h.T @ d, d.sum(axis=0)), strict=True):
            w -= np.float32(LR) * g

    def predict(self, x: Array) -> Array:
        return self.forward(x)[1]


def windows(x: Array) -> Array:
    """im2col: (batch·rows·columns, 25·channels)."""
    n, rows, columns, c = x.shape
    v = sliding_window_view(x, (5, 5), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    return v.reshape(n * (rows - 4) * (columns - 4), 25 * c)


def spread(d: Array, n: int, size: int, c: int) -> Array:
    """col2im: the gradients of the windows added up."""
    d = d.reshape(n, size, size, 5, 5, c)
    x = np.zeros((n, size + 4, size + 4, c), d.dtype)
    for i in range(5):
        for j in range(5):
            x[:, i : i + size, j : j + size] += d[:, :, :, i, j]
    return x


def pool(x: Array) -> Array:
    return np.maximum(np.maximum(x[:, ::2, ::2], x[:, ::2, 1::2]), np.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]))


def unpool(x: Array, y: Array, dy: Array) -> Array:
    """The gradient to the first maximum of each window."""
    dx = np.empty_like(x)
    left = np.ones(y.shape, bool)
    for i in (0, 1):
        for j in (0, 1):
            hit = (x[:, i::2, j::2] == y) & left
            left &= ~hit
            dx[:, i::2, j::2] = dy * hit
    return dx


class HandLeNet:
    """Two 5×5 convolutions (20, 50) with relu and pooling, 500 hidden units, softmax."""

    def __init__(self, *params: Array) -> None:
        c1, a1, c2, a2, w1, b1, w2, b2 = params
        # Knet's filters are (W, H, I, O), and its convolution flips them.
        k1, k2 = (np.ascontiguousarray(c[::-1, ::-1].transpose(1, 0, 2, 3)).reshape(-1, c.shape[3]) for c in (c1, c2))
        # Knet's columns run through an image with the width first, then height, then channels.
        w1 = np.ascontiguousarray(w1.reshape(500, 50, 4, 4).transpose(2, 3, 1, 0)).reshape(800, 500)
        self.params = [k1, a1.ravel(), k2, a2.ravel(), w1, b1.ravel(), np.ascontiguousarray(w2.T), b2.ravel()]

    def forward(self, x: Array) -> list[Array]:
        k1, a1, k2, a2, w1, b1, w2, b2 = self.params
        n = len(x)
        m1 = windows(x)
        r1 = np.maximum(m1 @ k1 + a1, 0).reshape(n, 24, 24, 20)
        p1 = pool(r1)
        m2 = windows(p1)
        r2 = np.maximum(m2 @ k2 + a2, 0).reshape(n, 8, 8, 50)
        p2 = pool(r2)
        h = np.maximum(p2.reshape(n, 800) @ w1 + b1, 0)
        return [m1, r1, p1, m2, r2, p2, h, softmax(h @ w2 + b2)]

    def step(self, x: Array, y: Array) -> None:
        _, _, k2, _, w1, _, w2, _ = self.params
        n = len(x)
        m1, r1, p1, m2, r2, p2, h, p = self.forward(x)
        d = (p - y) / n
        dh = (d @ w2.T) * (h > 0)
        dp2 = (dh @ w1.T).reshape(p2.shape)
        d2 = (unpool(r2, p2, dp2) * (r2 > 0)).reshape(-1, 50)
        dp1 = spread(d2 @ k2.T, n, 8, 20)
        d1 = (unpool(r1, p1, dp1) * (r1 > 0)).reshape(-1, 20)
        grads = [m1.T @ d1, d1.sum(axis=0), m2.T @ d2, d2.sum(axis=0)]
        grads += [p2.reshape(n, 800).T @ dh, dh.sum(axis=0), h.T @ d, d.sum(axis=0)]
        for w, g in zip(self.params, grads, strict=True):
            w -= np.float32(LR) * g

    def predict(self, x: Array) -> Array:
        return self.forward(x)[-1]


# --- the comparison ---------------------------------------------------------------------------------------------------


def data(shape: tuple[int, ...], batches: int = 8) -> list[tuple[Array, Array]]:
    """Random inputs and one-hot answers, in Knet's order."""
    rng = np.random.default_rng(0)
    xs = [np.asfortranarray(rng.random((*shape, BATCH), dtype=np.float32)) for _ in range(batches)]
    ys = [np.asfortranarray(np.eye(10, dtype=np.float32)[:, rng.integers(0, 10, BATCH)]) for _ in range(batches)]
    return list(zip(xs, ys, strict=True))


def compare(name: str, net: knetc.Model, hand: HandMLP | HandLeNet, batches: list[tuple[Array, Array]]) -> bool:
    """Checks the losses, times both sides in turns, prints the result; whether the ratio is within the limit."""
    # The same numbers in the layout that suits each side: rows of instances, images (batch, height, width, channels).
    rows = [((np.moveaxis(x.T, 1, -1) if x.ndim == 4 else x.T).copy(), y.T.copy()) for x, y in batches]

    def step(x: Array, y: Array) -> None:
        net.forw(x)
        net.back(y, knetc.softloss)
        net.update()

    worst = 0.0
    for (x, y), (hx, hy) in zip(batches, rows, strict=True):
        mine, theirs = knetc.softloss(net.forw(x), y), knetc.softloss(hand.predict(hx).T, hy.T)
        worst = max(worst, abs(mine - theirs) / theirs)
        step(x, y)
        hand.step(hx, hy)
    if worst > 1e-4:
        sys.exit(f"{name}: the losses differ by {worst:.1e}, so the two do not compute the same")

    times: tuple[list[float], list[float]] = ([], [])
    sides = [(0, step, batches), (1, hand.step, rows)]
    for k in range(args.rounds):
        for side, run, given in sides if k % 2 else sides[::-1]:
            for x, y in given:
                start = time.perf_counter()
                run(x, y)
                times[side].append(time.perf_counter() - start)
    mine, theirs = (statistics.median(t) * 1e3 for t in times)
    print(
        f"{name:6} interpreter {mine:8.3f} ms  by hand {theirs:8.3f} ms  ratio {mine / theirs:.2f} (limit {LIMIT})  "
        f"losses within {worst:.0e}"
    )
    return mine / theirs <= LIMIT


def main() -> int:
    mlp = knetc.compile(MLP, backend="numpy", seed=1)
    lenet = knetc.compile(EXAMPLES / "lenet.knet", backend="numpy", seed=1)
    good = True
    for name, net, hand, shape in (("MLP", mlp, HandMLP, (784,)), ("LeNet", lenet, HandLeNet, (28, 28, 1))):
        batches = data(shape)
        net.forw(batches[0][0])
        net.setp(lr=LR)
        good &= compare(name, net, hand(*(net.get(p) for p in net.params())), batches)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
