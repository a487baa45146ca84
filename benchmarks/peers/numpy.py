"""Hand-written NumPy: buffers made once, `out=` everywhere, the learning rate folded into the gradient.

Rows are instances. Images are (batch, height, width, channels), so that a convolution is one matrix product with what
25 shifted copies gather. The character model's forms: `hoist` computes the input projections, the output layer and the
weight gradients of all time steps in one product each, the four gates in one; `reassoc` also forms (embed·wx) once
and picks its rows, where hoist picks rows of embed and multiplies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from workloads import CLIP, FILTERS, HIDDEN, NCHAR, TIME, UNITS, Workload

from peers.base import Runner, Task, Variant, missing, packages

REQUIREMENTS = {"numpy": "numpy"}
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
WINDOW = [(i, j) for i in range(5) for j in range(5)]


def absent(device: str) -> str | None:
    return missing(REQUIREMENTS) or (None if device == "cpu" else f"NumPy does not run on {device}")


def versions() -> str:
    return packages(REQUIREMENTS)


def variants(workload: Workload, device: str) -> list[Variant]:
    if workload.model == "charlm":
        return [Variant("hoist"), Variant("reassoc", aside=True)]
    return [Variant("planned")]


def build(task: Task) -> Runner:
    return {"mlp": Perceptron, "lenet": LeNet, "charlm": CharLM}[task.workload.model](task)


def empty(*shape: int) -> np.ndarray:
    return np.empty(shape, np.float32)


class Softmax:
    """Softmax of logits in place, and its gradient with the cross entropy."""

    def __init__(self, rows: int) -> None:
        self.column, self.index = empty(rows, 1), np.arange(rows)

    def __call__(self, z: np.ndarray) -> None:
        np.max(z, axis=1, keepdims=True, out=self.column)
        np.subtract(z, self.column, out=z)
        np.exp(z, out=z)
        np.sum(z, axis=1, keepdims=True, out=self.column)
        np.divide(z, self.column, out=z)

    def gradient(self, p: np.ndarray, y: np.ndarray, scale: np.float32) -> None:
        """In p: scale·(p − onehot(y))."""
        p[self.index, y] -= 1
        np.multiply(p, scale, out=p)

    def loss(self, p: np.ndarray, y: np.ndarray) -> float:
        return float(-np.log(p[self.index, y]).mean())


class Dense:
    """y = x·w + b, relu but for the last; `train` goes back through it and moves w and b."""

    def __init__(self, w: np.ndarray, b: np.ndarray, batch: int, last: bool) -> None:
        self.w, self.b, self.last, self.batch = w, b, last, batch
        self.y, self.dw, self.db = empty(batch, len(b)), empty(*w.shape), empty(len(b))
        self.mask = np.empty(self.y.shape, bool)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x = x
        np.matmul(x, self.w, out=self.y)
        np.add(self.y, self.b, out=self.y)
        if not self.last:
            np.maximum(self.y, ZERO, out=self.y)
        return self.y

    def train(self, dy: np.ndarray, dx: np.ndarray | None) -> None:
        """`dy`: lr times the gradient of y, changed here; `dx` takes that of x."""
        if not self.last:
            np.greater(self.y, ZERO, out=self.mask)
            np.multiply(dy, self.mask, out=dy)
        if dx is not None:
            np.matmul(dy, self.w.T, out=dx)
        if self.batch == 1:  # a product of vectors: multiplying is faster than BLAS
            np.multiply(self.x.T, dy, out=self.dw)
            np.subtract(self.b, dy[0], out=self.b)
        else:
            np.matmul(self.x.T, dy, out=self.dw)
            np.sum(dy, axis=0, out=self.db)
            np.subtract(self.b, self.db, out=self.b)
        np.subtract(self.w, self.dw, out=self.w)


def dense_layers(weights: dict[str, np.ndarray], batch: int) -> list[Dense]:
    count = sum(name.startswith("w") for name in weights)
    return [Dense(weights[f"w{k}"], weights[f"b{k}"], batch, k == count) for k in range(1, count + 1)]


class _Images:
    """What the perceptrons and LeNet share. `forward` gives logits; `train` one step."""

    whole = False

    def __init__(self, task: Task) -> None:
        workload, data = task.workload, task.problem.data
        self.workload = workload
        self.dense = dense_layers(task.problem.weights, workload.batch)
        self.gradients = [empty(workload.batch, len(layer.w)) for layer in self.dense]
        self.softmax = Softmax(workload.batch)
        self.scale = np.float32(workload.lr / workload.batch)
        rows = range(0, len(data["x"]), workload.batch)
        self.batches = [(data["x"][i : i + workload.batch], data["y"][i : i + workload.batch]) for i in rows]

    def forward(self, x: np.ndarray) -> np.ndarray:
        for layer in self.dense:
            x = layer.forward(x)
        self.softmax(x)
        return x

    def train(self, x: np.ndarray, y: np.ndarray) -> None:
        dy = self.forward(x)
        self.softmax.gradient(dy, y, self.scale)
        for k in range(len(self.dense) - 1, 0, -1):
            self.dense[k].train(dy, self.gradients[k])
            dy = self.gradients[k]
        self.train_first(dy)

    def train_first(self, dy: np.ndarray) -> None:
        self.dense[0].train(dy, None)

    def run(self, first: int, last: int) -> None:
        if self.workload.trains:
            for x, y in self.batches[first:last]:
                self.train(x, y)
        else:
            for x, _ in self.batches[first:last]:
                self.forward(x)

    def loss(self) -> float:
        losses = [self.softmax.loss(self.forward(x), y) for x, y in self.batches[: self.workload.checked]]
        return float(np.mean(losses))


Perceptron = _Images


class Convolution:
    """5×5 convolution, 2×2 pooling, bias, relu, from (n, size, size, c) to (n, (size−4)/2, (size−4)/2, filters).

    relu(max(x) + b) = max(relu(x + b)), so bias and relu touch a quarter of the elements.
    """

    def __init__(self, k: np.ndarray, c: np.ndarray, batch: int, size: int, trains: bool) -> None:
        filters, channels = k.shape[:2]
        self.c, self.out = c, size - 4
        self.k = np.ascontiguousarray(k.transpose(2, 3, 1, 0)).reshape(-1, filters)
        self.columns = empty(batch, self.out, self.out, 25, channels)
        self.full = empty(batch, self.out, self.out, filters)
        self.half = empty(batch, self.out // 2, self.out, filters)
        self.y = empty(batch, self.out // 2, self.out // 2, filters)
        if trains:
            self.dfull, self.dhalf, self.dk = empty(*self.full.shape), empty(*self.half.shape), empty(*self.k.shape)
            self.dcolumns = empty(*self.columns.shape)

    def forward(self, x: np.ndarray) -> np.ndarray:
        for place, (i, j) in enumerate(WINDOW):
            self.columns[:, :, :, place] = x[:, i : i + self.out, j : j + self.out]
        rows, filters = self.k.shape
        np.matmul(self.columns.reshape(-1, rows), self.k, out=self.full.reshape(-1, filters))
        np.maximum(self.full[:, 0::2], self.full[:, 1::2], out=self.half)
        np.maximum(self.half[:, :, 0::2], self.half[:, :, 1::2], out=self.y)
        np.add(self.y, self.c, out=self.y)
        np.maximum(self.y, ZERO, out=self.y)
        return self.y

    def train(self, dy: np.ndarray, dx: np.ndarray | None) -> None:
        """`dy`: lr times the gradient of y, changed here; `dx` takes that of x."""
        np.multiply(dy, self.y > ZERO, out=dy)
        first = self.half[:, :, 0::2] >= self.half[:, :, 1::2]
        np.multiply(dy, first, out=self.dhalf[:, :, 0::2])
        np.subtract(dy, self.dhalf[:, :, 0::2], out=self.dhalf[:, :, 1::2])
        first = self.full[:, 0::2] >= self.full[:, 1::2]
        np.multiply(self.dhalf, first, out=self.dfull[:, 0::2])
        np.subtract(self.dhalf, self.dfull[:, 0::2], out=self.dfull[:, 1::2])
        rows, filters = self.k.shape
        d = self.dfull.reshape(-1, filters)
        if dx is not None:
            np.matmul(d, self.k.T, out=self.dcolumns.reshape(-1, rows))
            dx.fill(0)
            for place, (i, j) in enumerate(WINDOW):
                part = dx[:, i : i + self.out, j : j + self.out]
                np.add(part, self.dcolumns[:, :, :, place], out=part)
        np.matmul(self.columns.reshape(-1, rows).T, d, out=self.dk)
        np.subtract(self.k, self.dk, out=self.k)
        np.subtract(self.c, dy.sum((0, 1, 2)), out=self.c)  # pooling keeps sums


class LeNet(_Images):
    """Two convolutions and two dense layers."""

    def __init__(self, task: Task) -> None:
        weights = dict(task.problem.weights)
        # From (channel, row, column) to the order of the images here.
        w1 = weights["w1"].reshape(FILTERS[1], 4, 4, HIDDEN).transpose(1, 2, 0, 3)
        task.problem.weights["w1"] = np.ascontiguousarray(w1).reshape(-1, HIDDEN)
        super().__init__(task)
        batch, trains = task.workload.batch, task.workload.trains
        self.first = Convolution(weights["k1"], weights["c1"], batch, 28, trains)
        self.second = Convolution(weights["k2"], weights["c2"], batch, 12, trains)
        self.dfirst = empty(*self.first.y.shape)

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = self.second.forward(self.first.forward(x.reshape(-1, 28, 28, 1)))
        return super().forward(y.reshape(len(x), -1))

    def train_first(self, dy: np.ndarray) -> None:
        self.dense[0].train(dy, self.gradients[0])
        self.second.train(self.gradients[0].reshape(self.second.y.shape), self.dfirst)
        self.first.train(self.dfirst, None)


# --- text -------------------------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> None:
    """In place, by tanh: one pass of the transcendental function."""
    np.multiply(x, HALF, out=x)
    np.tanh(x, out=x)
    np.multiply(x, HALF, out=x)
    np.add(x, HALF, out=x)


class LSTM:
    """One layer over a window of TIME steps. `a`: (TIME, batch, 4·UNITS), its input projections and then its gates."""

    def __init__(self, wh: np.ndarray, batch: int) -> None:
        self.wh = wh
        self.a, self.d = (empty(TIME, batch, 4 * UNITS) for _ in range(2))  # gates; gradients before the functions
        self.h, self.c = (np.zeros((TIME + 1, batch, UNITS), np.float32) for _ in range(2))  # [0]: the state before
        self.tanh = empty(TIME, batch, UNITS)
        self.u, self.v, self.dh, self.dc = (empty(batch, UNITS) for _ in range(4))
        self.product = empty(batch, 4 * UNITS)

    def forward(self) -> np.ndarray:
        """The outputs (TIME, batch, UNITS); `a` holds the projections."""
        for t in range(TIME):
            a, c = self.a[t], self.c[t + 1]
            np.matmul(self.h[t], self.wh, out=self.product)
            np.add(a, self.product, out=a)
            i, f, g, o = np.split(a, 4, axis=1)
            sigmoid(a[:, : 2 * UNITS])
            np.tanh(g, out=g)
            sigmoid(o)
            np.multiply(f, self.c[t], out=c)
            np.multiply(i, g, out=self.u)
            np.add(c, self.u, out=c)
            np.tanh(c, out=self.tanh[t])
            np.multiply(o, self.tanh[t], out=self.h[t + 1])
        return self.h[1:]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """The gradient of `a` before the functions, from that of the outputs."""
        dh, dc, u, v = self.dh, self.dc, self.u, self.v
        dh.fill(0)
        dc.fill(0)
        for t in range(TIME - 1, -1, -1):
            i, f, g, o = np.split(self.a[t], 4, axis=1)
            di, df, dg, do = np.split(self.d[t], 4, axis=1)
            np.add(dh, dy[t], out=dh)
            np.multiply(dh, self.tanh[t], out=v)
            np.multiply(dh, o, out=dh)
            np.multiply(self.tanh[t], self.tanh[t], out=u)
            np.subtract(ONE, u, out=u)
            np.multiply(dh, u, out=dh)
            np.add(dc, dh, out=dc)
            for gate, d, other in ((i, di, g), (f, df, self.c[t])):
                np.subtract(ONE, gate, out=d)
                np.multiply(d, gate, out=d)
                np.multiply(d, other, out=d)
                np.multiply(d, dc, out=d)
            np.subtract(ONE, o, out=do)
            np.multiply(do, o, out=do)
            np.multiply(do, v, out=do)
            np.multiply(g, g, out=dg)
            np.subtract(ONE, dg, out=dg)
            np.multiply(dg, i, out=dg)
            np.multiply(dg, dc, out=dg)
            np.multiply(dc, f, out=dc)
            np.matmul(self.d[t], self.wh.T, out=dh)
        return self.d

    def keep_state(self) -> None:
        self.h[0], self.c[0] = self.h[TIME], self.c[TIME]

    def zero_state(self) -> None:
        self.h[0], self.c[0] = 0, 0


class CharLM:
    """Embedding, LSTM layers, softmax; the loss is summed over time and averaged over the batch, its gradient
    clipped."""

    whole = False

    def __init__(self, task: Task) -> None:
        self.w, batch = task.problem.weights, task.workload.batch
        self.batch, self.lr, self.rows = batch, task.workload.lr, TIME * batch
        self.reassociated = task.variant == "reassoc"
        self.layers = [LSTM(self.w[f"wh{k}"], batch) for k in range(1, task.workload.layers + 1)]
        self.windows = list(zip(*task.problem.windows(), strict=True))
        self.softmax = Softmax(self.rows)
        self.gradient = {name: np.empty_like(array) for name, array in self.w.items()}
        self.embedded = empty(self.rows, self.w["embed"].shape[1])
        self.onehot = np.zeros((self.rows, NCHAR), np.float32)
        self.z, self.dh = empty(self.rows, NCHAR), empty(self.rows, UNITS)
        self.index = np.arange(self.rows)

    def forward(self, symbols: np.ndarray) -> np.ndarray:
        """Probabilities (TIME·batch, NCHAR)."""
        w, flat = self.w, symbols.ravel()
        for k, layer in enumerate(self.layers, 1):
            a = layer.a.reshape(self.rows, -1)
            if k > 1:
                np.matmul(self.outputs(k - 1), w[f"wx{k}"], out=a)
            elif self.reassociated:
                np.take(w["embed"] @ w["wx1"], flat, axis=0, out=a)
            else:
                np.take(w["embed"], flat, axis=0, out=self.embedded)
                np.matmul(self.embedded, w["wx1"], out=a)
            np.add(a, w[f"b{k}"], out=a)
            layer.forward()
        np.matmul(self.outputs(len(self.layers)), w["wo"], out=self.z)
        np.add(self.z, w["bo"], out=self.z)
        self.softmax(self.z)
        return self.z

    def outputs(self, k: int) -> np.ndarray:
        return self.layers[k - 1].h[1:].reshape(self.rows, UNITS)

    def train(self, symbols: np.ndarray, wanted: np.ndarray) -> None:
        w, g = self.w, self.gradient
        z = self.forward(symbols)
        self.softmax.gradient(z, wanted.ravel(), np.float32(1 / self.batch))
        np.matmul(self.outputs(len(self.layers)).T, z, out=g["wo"])
        np.sum(z, axis=0, out=g["bo"])
        np.matmul(z, w["wo"].T, out=self.dh)
        for k in range(len(self.layers), 0, -1):
            layer = self.layers[k - 1]
            d = layer.backward(self.dh.reshape(TIME, self.batch, UNITS)).reshape(self.rows, -1)
            np.matmul(layer.h[:TIME].reshape(self.rows, UNITS).T, d, out=g[f"wh{k}"])
            np.sum(d, axis=0, out=g[f"b{k}"])
            if k > 1:
                np.matmul(self.outputs(k - 1).T, d, out=g[f"wx{k}"])
                np.matmul(d, w[f"wx{k}"].T, out=self.dh)
            else:
                self.embedding_gradient(symbols.ravel(), d)
        self.update()
        for layer in self.layers:
            layer.keep_state()

    def embedding_gradient(self, symbols: np.ndarray, d: np.ndarray) -> None:
        w, g = self.w, self.gradient
        self.onehot.fill(0)
        self.onehot[self.index, symbols] = 1
        if self.reassociated:
            dtable = self.onehot.T @ d
            np.matmul(w["embed"].T, dtable, out=g["wx1"])
            np.matmul(dtable, w["wx1"].T, out=g["embed"])
        else:
            np.matmul(self.embedded.T, d, out=g["wx1"])
            np.matmul(self.onehot.T, d @ w["wx1"].T, out=g["embed"])

    def update(self) -> None:
        norm = sum(float(np.vdot(g, g)) for g in self.gradient.values()) ** 0.5
        scale = np.float32(self.lr * min(1.0, CLIP / norm))
        for name, g in self.gradient.items():
            np.multiply(g, scale, out=g)
            np.subtract(self.w[name], g, out=self.w[name])

    def zero_state(self) -> None:
        for layer in self.layers:
            layer.zero_state()

    def run(self, first: int, last: int) -> None:
        self.zero_state()
        for symbols, wanted in self.windows[first:last]:
            self.train(symbols, wanted)

    def loss(self) -> float:
        symbols, wanted = self.windows[0]
        self.zero_state()
        p: Any = self.forward(symbols)
        return self.softmax.loss(p, wanted.ravel())
