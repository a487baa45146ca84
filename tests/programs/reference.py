"""Layers and their gradients in plain NumPy, written from the formulas: what the models are compared with.

Arrays in Knet's order, columns last. Nothing of knetc is used.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def conv(w: Array, x: Array) -> Array:
    """True convolution (the filter flipped), no padding: (W1,W2,I,O) and (X1,X2,I,N) give (Y1,Y2,O,N)."""
    y1, y2 = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    flipped = w[::-1, ::-1]
    return sum(
        np.einsum("co,pqcn->pqon", flipped[i, j], x[i : i + y1, j : j + y2])
        for i in range(w.shape[0])
        for j in range(w.shape[1])
    )


def conv_back(w: Array, x: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients of `conv` by w and x."""
    y1, y2 = dy.shape[:2]
    dw, dx = np.zeros_like(w), np.zeros_like(x)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            part = x[i : i + y1, j : j + y2]
            dw[-1 - i, -1 - j] = np.einsum("pqcn,pqon->co", part, dy)
            dx[i : i + y1, j : j + y2] += np.einsum("co,pqon->pqcn", w[-1 - i, -1 - j], dy)
    return dw, dx


def pool(x: Array, size: int) -> Array:
    """Maximum over windows of size × size that do not overlap and fill the image."""
    a, b, c, n = x.shape
    return x.reshape(a // size, size, b // size, size, c, n).max(axis=(1, 3))


def pool_back(x: Array, y: Array, dy: Array, size: int) -> Array:
    """Gradient of `pool` where no window has two equal maxima other than zeros that relu passes no gradient to."""
    spread = np.ones((size, size, 1, 1))
    return np.kron(dy, spread) * (x == np.kron(y, spread))


def soft(z: Array) -> Array:
    """Softmax of each column."""
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def sigm(z: Array) -> Array:
    """1/(1+exp(-z))."""
    return 1 / (1 + np.exp(-z))


def channels(b: Array) -> Array:
    """A bias as (1,1,C,1)."""
    return b.reshape(1, 1, -1, 1)


def lenet(p: list[Array], x: Array, y: Array, mask: Array | None = None) -> tuple[Array, list[Array]]:
    """LeNet with parameters w1, b1, … w4, b4: the probabilities, and the gradients of the cross entropy by each.

    `mask` multiplies the second pooling layer's output (dropout).
    """
    w1, b1, w2, b2, w3, b3, w4, b4 = p
    n = x.shape[-1]
    a1 = np.maximum(conv(w1, x) + channels(b1), 0)
    p1 = pool(a1, 2)
    a2 = np.maximum(conv(w2, p1) + channels(b2), 0)
    p2 = pool(a2, 2)
    kept = p2 if mask is None else p2 * mask
    flat = kept.reshape(-1, n, order="F")
    r3 = np.maximum(w3 @ flat + b3.reshape(-1, 1), 0)
    out = soft(w4 @ r3 + b4.reshape(-1, 1))

    d4 = (out - y) / n
    d3 = (w4.T @ d4) * (r3 > 0)
    dp2 = (w3.T @ d3).reshape(p2.shape, order="F") * (1 if mask is None else mask)
    da2 = pool_back(a2, p2, dp2, 2) * (a2 > 0)
    dw2, dp1 = conv_back(w2, p1, da2)
    da1 = pool_back(a1, p1, dp1, 2) * (a1 > 0)
    dw1, _ = conv_back(w1, x, da1)
    grads = [dw1, da1.sum(axis=(0, 1, 3)), dw2, da2.sum(axis=(0, 1, 3))]
    grads += [d3 @ flat.T, d3.sum(axis=1), d4 @ r3.T, d4.sum(axis=1)]
    return out, [g.reshape(q.shape) for g, q in zip(grads, p, strict=True)]


def charlm(p: dict[str, Array], xs: list[Array], ys: list[Array]) -> tuple[list[Array], dict[str, Array]]:
    """The manual's character model (embedding, LSTM, softmax) over a whole sequence from a zero state.

    Returns the probabilities of every step and the gradients of the sum of the steps' cross entropies, by unrolling.
    """
    gates = ("input", "forget", "output", "newmem")
    n, hidden = xs[0].shape[1], p["b/input/b"].shape[0]
    h, cell = np.zeros((hidden, n)), np.zeros((hidden, n))
    outs, tape = [], []
    for x in xs:
        e = p["a/w"] @ x
        z = {g: p[f"b/{g}/a"] @ e + p[f"b/{g}/b"] @ h + p[f"b/{g}/c"].reshape(-1, 1) for g in gates}
        act = {g: np.tanh(v) if g == "newmem" else sigm(v) for g, v in z.items()}
        previous, h_before = cell, h
        cell = act["input"] * act["newmem"] + previous * act["forget"]
        h = np.tanh(cell) * act["output"]
        outs.append(soft(p["wbf/w"] @ h + p["wbf/b"].reshape(-1, 1)))
        tape.append((x, e, act, previous, cell, h_before, h))

    grads = {name: np.zeros_like(w) for name, w in p.items()}
    dh_next, dcell_next = np.zeros((hidden, n)), np.zeros((hidden, n))
    for out, y, (x, e, act, previous, cell, h_before, h) in reversed(list(zip(outs, ys, tape, strict=True))):
        dz = (out - y) / n
        grads["wbf/w"] += dz @ h.T
        grads["wbf/b"] += dz.sum(axis=1).reshape(p["wbf/b"].shape)
        dh = p["wbf/w"].T @ dz + dh_next
        t = np.tanh(cell)
        dcell = dh * act["output"] * (1 - t**2) + dcell_next
        dact = {
            "output": dh * t,
            "input": dcell * act["newmem"],
            "newmem": dcell * act["input"],
            "forget": dcell * previous,
        }
        dcell_next = dcell * act["forget"]
        dh_next, de = np.zeros_like(h), np.zeros_like(e)
        for g in gates:
            slope = 1 - act[g] ** 2 if g == "newmem" else act[g] * (1 - act[g])
            d = dact[g] * slope
            grads[f"b/{g}/a"] += d @ e.T
            grads[f"b/{g}/b"] += d @ h_before.T
            grads[f"b/{g}/c"] += d.sum(axis=1).reshape(p[f"b/{g}/c"].shape)
            de += p[f"b/{g}/a"].T @ d
            dh_next += p[f"b/{g}/b"].T @ d
        grads["a/w"] += de @ x.T
    return outs, grads
