"""The adding problem with an IRNN: `python examples/adding.py`. The data are made on the spot.

A sequence holds T pairs: a number in [0, 1] and a mark that is 1 at two steps and 0 at the others; the answer is the
sum of the two marked numbers. Answering 1 always gives a mean squared error of 0.167 (Le, Jaitly and Hinton 2015); the
quadratic loss shown is half of the squared error.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

import knetc


def batch(rng: np.random.Generator, steps: int, size: int) -> tuple[list[np.ndarray], np.ndarray]:
    """`steps` inputs of (2, size), and the sums (1, size)."""
    numbers = rng.random((steps, size), dtype=np.float32)
    marks = np.zeros((steps, size), np.float32)
    half = steps // 2
    columns = np.arange(size)
    marks[rng.integers(0, half, size), columns] = 1
    marks[rng.integers(half, steps, size), columns] = 1
    xs = [np.asfortranarray(np.stack([numbers[t], marks[t]])) for t in range(steps)]
    return xs, (numbers * marks).sum(axis=0, keepdims=True)


def run(net: knetc.Model, xs: list[np.ndarray], y: np.ndarray) -> float:
    """One training step over a sequence; the loss before it."""
    net.reset()
    for x in xs[:-1]:
        net.sforw(x)
    loss = knetc.quadloss(net.sforw(xs[-1], predict=True), y)
    net.sback(y, knetc.quadloss)
    for _ in xs[:-1]:
        net.sback()
    net.update(gclip=1.0)
    return float(loss)


def main() -> None:
    """Trains and prints the mean loss of every hundred sequences' batches."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--length", type=int, default=50)
    p.add_argument("--hidden", type=int, default=100)
    p.add_argument("--updates", type=int, default=3000)
    p.add_argument("--lr", type=float, default=0.001)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--backend", default="auto")
    p.add_argument("--record", type=Path, help="a .csv file for the curve")
    args = p.parse_args()

    rng = np.random.default_rng(args.seed)
    net = knetc.compile(
        Path(__file__).parent / "adding.knet", "adding", backend=args.backend, seed=args.seed, hidden=args.hidden
    )
    net.setp(adam=True, lr=args.lr)
    rows: list[tuple[int, float]] = []
    recent: list[float] = []
    for i in range(1, args.updates + 1):
        recent.append(run(net, *batch(rng, args.length, args.batch)))
        if i % 100 == 0:
            rows.append((i, float(np.mean(recent))))
            print(f"updates {i}  quadratic loss {rows[-1][1]:.5f}", flush=True)
            recent.clear()
    if args.record:
        with args.record.open("w", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows([("updates", "loss"), *((i, f"{x:.6g}") for i, x in rows)])


if __name__ == "__main__":
    main()
