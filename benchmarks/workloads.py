"""The workloads: sizes, arithmetic, aims, and the numbers that every peer starts from (data and initial weights).

Before it: `run.py`, which writes each workload's numbers to one .npz file. After it: `peer.py`, which reads that file
and hands the numbers to a peer. So every peer, in whatever environment, has the same data and weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[1] / "examples"
PIXELS, CLASSES = 784, 10
FILTERS, HIDDEN = (20, 50), 500  # LeNet's
NCHAR, EMBEDDING, UNITS, TIME = 65, 256, 512, 100  # the character model's
CLIP = 5.0  # on the norm of the gradient of the loss summed over time
CHECKED = 1000  # instances over which losses are compared
TOLERANCE = 1e-4  # relative, between the losses of any two peers


@dataclass(frozen=True)
class Workload:
    """One workload.

    `model`: "mlp" (hidden layers `hidden`; none: softmax), "lenet" or "charlm" (`layers` LSTM layers). `steps`: steps
    of one pass over its data, after which the losses are compared (LeNet's pass ends before its steepest descent, which
    magnifies rounding a thousandfold). `lr`: learning rate. `trains`: a step is forward, backward and update; else it
    is one forward pass whose value is waited for. `aims`: by device, the time aimed at as a multiple of the best
    peer's. `ceiling`: by device, the share of the measured matrix-product rate aimed at.
    """

    name: str
    title: str
    model: str
    batch: int
    steps: int
    lr: float
    hidden: tuple[int, ...] = ()
    layers: int = 0
    trains: bool = True
    aims: dict[str, float] = field(default_factory=dict)
    ceiling: dict[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def instances(self) -> int:
        """Instances of a pass: images, or sequences of one window."""
        return self.batch * (1 if self.model == "charlm" else self.steps)

    @property
    def checked(self) -> int:
        """Minibatches over which losses are compared."""
        return 1 if self.model == "charlm" else max(1, min(self.steps, CHECKED // self.batch))

    @property
    def flops(self) -> float:
        """Operations of a step, a multiply-add counted as two: matrix products and convolutions alone, no gradient of
        the data."""
        passes = 3 if self.trains else 1
        if self.model == "mlp":
            sizes = (PIXELS, *self.hidden, CLASSES)
            products = [a * b for a, b in zip(sizes, sizes[1:], strict=False)]
            first = products[0] if self.trains else 0
            return 2 * self.batch * (passes * sum(products) - first)
        if self.model == "lenet":
            first = 576 * FILTERS[0] * 25
            rest = 64 * FILTERS[1] * 25 * FILTERS[0] + 16 * FILTERS[1] * HIDDEN + HIDDEN * CLASSES
            return 2 * self.batch * (passes * (first + rest) - (first if self.trains else 0))
        inputs = EMBEDDING + (self.layers - 1) * UNITS
        return 2 * passes * self.batch * TIME * ((inputs + self.layers * UNITS) * 4 * UNITS + UNITS * NCHAR)


_IMAGES = [
    Workload("W1", "softmax 784-10, batch 100", "mlp", 100, 600, 0.1, aims={"cpu": 0.6, "cuda": 0.67}),
    Workload("W2", "MLP 784-100-10, batch 100", "mlp", 100, 600, 0.1, hidden=(100,), aims={"cpu": 0.75, "cuda": 0.67}),
    Workload("W3", "LeNet 20/50/500, batch 100", "lenet", 100, 40, 0.05, aims={"cpu": 0.7, "cuda": 0.67}),
]
_TEXT = "LSTM 65-256-512-65, batch 128, 100 steps, clip 5"
WORKLOADS = {
    w.name: w
    for w in [
        *_IMAGES,
        Workload("W4", _TEXT, "charlm", 128, 3, 0.2, layers=1, aims={"cpu": 0.65, "cuda": 0.67}),
        Workload("W4b", f"two layers of {_TEXT}", "charlm", 128, 3, 0.2, layers=2),
        Workload("W5", "LeNet inference, batch 1", "lenet", 1, 500, 0, trains=False, aims={"cpu": 0.4}),
        Workload(
            "W6", "MLP 784-100-10, batch 1", "mlp", 1, 2000, 0.01, hidden=(100,), aims={"cpu": 0.85, "cuda": 0.67}
        ),
        Workload(
            "W7",
            "MLP 784-8192-8192-8192-10, batch 4096",
            "mlp",
            4096,
            4,
            0.01,
            hidden=(8192, 8192, 8192),
            ceiling={"cuda": 0.9},
            devices=("cuda",),
        ),
    ]
}


@dataclass
class Problem:
    """What a workload starts from; see `initial_weights` and `make`."""

    weights: dict[str, np.ndarray]
    data: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        np.savez(path, **{f"weights/{k}": a for k, a in self.weights.items()}, **self.data)

    @staticmethod
    def load(path: Path) -> Problem:
        with np.load(path) as f:
            weights = {k.removeprefix("weights/"): f[k] for k in f.files if k.startswith("weights/")}
            return Problem(weights, {k: f[k] for k in f.files if not k.startswith("weights/")})

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """The text as inputs and desired outputs, each (windows, TIME, batch)."""
        symbols = self.data["symbols"]
        shape = (-1, TIME, symbols.shape[1])
        return symbols[:-1].reshape(shape), symbols[1:].reshape(shape)


def make(workload: Workload, real: bool) -> Problem:
    """The numbers of a workload. `real`: MNIST and Shakespeare from the folder KNETC_DATA, else random ones.

    Images: `x` (instances, 784) float32 in [0, 1], `y` (instances,) int64. Text: `symbols` (steps·TIME + 1, batch)
    int64, each column a stream.
    """
    rng = np.random.default_rng(2)
    weights = initial_weights(workload)
    if workload.model == "charlm":
        length = workload.steps * TIME + 1
        symbols = _real_text(length, workload.batch) if real else _random_text(rng, length, workload.batch)
        return Problem(weights, {"symbols": symbols})
    x, y = _real_images(workload.instances) if real else _random_images(rng, workload.instances)
    return Problem(weights, {"x": x, "y": y})


def initial_weights(workload: Workload) -> dict[str, np.ndarray]:
    """Uniform in ±1/sqrt(inputs), biases zero.

    Dense w1, b1, …: (in, out), (out,). LeNet's filters k1, c1, k2, c2: (out, in, 5, 5), (out,), not flipped; the rows
    of its w1 run over (channel, row, column). Text: embed (NCHAR, EMBEDDING); a layer's wx1, wh1, b1, …: (in, 4·UNITS),
    gates in the order input, forget, new memory, output; wo, bo.
    """
    rng = np.random.default_rng(1)

    def uniform(inputs: int, *shape: int) -> np.ndarray:
        bound = np.float32(1 / np.sqrt(inputs))
        return (2 * rng.random(shape, dtype=np.float32) - 1) * bound

    def zeros(n: int) -> np.ndarray:
        return np.zeros(n, np.float32)

    weights: dict[str, np.ndarray] = {}
    if workload.model == "charlm":
        weights["embed"] = uniform(EMBEDDING, NCHAR, EMBEDDING)
        for k in range(1, workload.layers + 1):
            inputs = EMBEDDING if k == 1 else UNITS
            weights[f"wx{k}"] = uniform(UNITS, inputs, 4 * UNITS)
            weights[f"wh{k}"] = uniform(UNITS, UNITS, 4 * UNITS)
            weights[f"b{k}"] = zeros(4 * UNITS)
        return weights | {"wo": uniform(UNITS, UNITS, NCHAR), "bo": zeros(NCHAR)}
    sizes: tuple[int, ...] = (PIXELS, *workload.hidden, CLASSES)
    if workload.model == "lenet":
        for k, (inputs, outputs) in enumerate(((1, FILTERS[0]), FILTERS), 1):
            weights[f"k{k}"] = uniform(25 * inputs, outputs, inputs, 5, 5)
            weights[f"c{k}"] = zeros(outputs)
        sizes = (16 * FILTERS[1], HIDDEN, CLASSES)
    for k, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        weights[f"w{k}"] = uniform(inputs, inputs, outputs)
        weights[f"b{k}"] = zeros(outputs)
    return weights


# --- data -------------------------------------------------------------------------------------------------------------


def _random_images(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """As MNIST: 19 % of the pixels are not zero, of mean 0.69; ten classes that a linear map tells apart."""
    x = rng.random((n, PIXELS), dtype=np.float32)
    x -= np.float32(0.81)
    np.maximum(x, 0, out=x)
    x *= np.float32(1 / 0.19)
    np.sqrt(x, out=x)  # of a uniform number: mean 2/3
    y = (x @ rng.standard_normal((PIXELS, CLASSES), dtype=np.float32)).argmax(axis=1)
    return x, y


def _random_text(rng: np.random.Generator, length: int, streams: int) -> np.ndarray:
    """Streams of symbols of unequal frequency; half of the time a symbol decides the next."""
    odds = 1 / np.arange(1, NCHAR + 1)
    follows = rng.permutation(NCHAR)
    symbols = rng.choice(NCHAR, (length, streams), p=odds / odds.sum())
    for t in range(1, length):
        decided = rng.random(streams) < 0.5
        symbols[t, decided] = follows[symbols[t - 1, decided]]
    return symbols


def _real_images(n: int) -> tuple[np.ndarray, np.ndarray]:
    from knetc import data

    x, y, _, _ = data.mnist(onehot=False)
    return np.ascontiguousarray(x.T).reshape(-1, PIXELS)[:n], y[:n]


def _real_text(length: int, streams: int) -> np.ndarray:
    from knetc import data

    text = data.shakespeare()
    characters, symbols = np.unique(np.frombuffer(text.encode("ascii"), np.uint8), return_inverse=True)
    assert len(characters) == NCHAR
    table = symbols[: len(symbols) // streams * streams].reshape(streams, -1).T
    return np.ascontiguousarray(table[:length], np.int64)


def real_data() -> bool:
    """Whether KNETC_DATA names a folder of real data."""
    return bool(os.environ.get("KNETC_DATA"))
