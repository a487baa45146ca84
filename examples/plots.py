"""What training has learned, drawn: learning curves, the patterns of the first layer, which digits are taken for which.

`mnist.py --plots FOLDER` draws all three. Needs matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

try:
    from matplotlib.figure import Figure
except ImportError:
    raise SystemExit("Drawing needs matplotlib: pip install matplotlib") from None

import knetc

MOST_PATTERNS = 100


def draw(folder: Path, rows: Sequence[Mapping[str, float]], net: knetc.Model, data: Iterable[tuple]) -> None:
    """Writes curves.png, patterns.png and confusion.png.

    `rows`: what `mnist.py` records of every epoch; `data`: minibatches of images (28,28,1,N) and labels (10,N).
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(net.params()))
    curves(rows).savefig(folder / "curves.png", dpi=110)
    show(patterns(net.get(first)), first).savefig(folder / "patterns.png", dpi=110)
    table(confusion(net, data)).savefig(folder / "confusion.png", dpi=110)


def curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and wrong answers over the epochs."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for axes, what, label, factor in zip(
        figure.subplots(1, 2), ("loss", "error"), ("softmax loss", "wrong answers, %"), (1, 100), strict=True
    ):
        for part, style in (("train", "o--"), ("test", "o-")):
            values = [factor * row[f"{part}_{what}"] for row in rows]
            axes.plot(epochs, values, style, ms=3, label="training" if part == "train" else part)
        axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def patterns(w: np.ndarray) -> np.ndarray:
    """The images (count, height, width) to which the units of the first layer answer most, as one sees them.

    `w`: filters (W,H,1,O), which convolution turns round, or a matrix (O,784) over the pixels of an image (28,28,1).
    """
    if w.ndim == 4:
        return w[::-1, ::-1, 0].transpose(2, 1, 0)
    side = math.isqrt(w.shape[1])
    return w.reshape(w.shape[0], side, side)  # Knet's first axis runs along a row of the image, and runs fastest


def show(images: np.ndarray, name: str) -> Figure:
    """Images as tiles: red where a pixel counts for the unit, blue where it counts against it."""
    images = images[:MOST_PATTERNS]
    across = min(10, len(images))
    down = math.ceil(len(images) / across)
    figure = Figure(figsize=(0.8 * across, 0.8 * down + 0.4), layout="constrained")
    for tile in figure.subplots(down, across, squeeze=False).flat:
        tile.axis("off")
    for tile, image in zip(figure.axes, images, strict=False):
        most = np.abs(image).max() or 1
        tile.imshow(image, cmap="RdBu_r", vmin=-most, vmax=most)
    figure.suptitle(f"{name}: {len(images)} units of the first layer", fontsize=10)
    return figure


def confusion(net: knetc.Model, data: Iterable[tuple]) -> np.ndarray:
    """How often a column of class `i` (row) got the answer `j` (column)."""
    counts = np.zeros((0, 0), int)
    for x, y in data:
        if not counts.size:
            counts = np.zeros((len(y), len(y)), int)
        np.add.at(counts, (y.argmax(axis=0), net.forw(x).argmax(axis=0)), 1)
    return counts


def table(counts: np.ndarray) -> Figure:
    """The counts, the wrong answers coloured."""
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes = figure.subplots()
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    axes.imshow(wrong, cmap="Reds", vmax=1.5 * max(1, wrong.max()))
    for i, j in np.ndindex(counts.shape):
        if counts[i, j]:
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color="gray" if i == j else "black")
    ticks = range(len(counts))
    axes.set(xlabel="answer", ylabel="digit", xticks=ticks, yticks=ticks)
    axes.set_title(f"{wrong.sum()} of {counts.sum()} answers are wrong", fontsize=10)
    return figure
