"""The adding problem with an IRNN: `python examples/adding.py`. The data are made on the spot.

A sequence holds T pairs: a number in [0, 1] and a mark that is 1 at two steps and 0 at the others; the answer is the
sum of the two marked numbers. Answering 1 always gives a mean squared error of 0.167 (Le, Jaitly and Hinton 2015); the
quadratic loss shown is half of the squared error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import count, natural, output, positive, run
from sequences import learn, train

import knetc

EVERY = 100


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


def main() -> None:
    """Trains and prints the mean loss of every hundred sequences' batches."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--length", type=natural, default=50)
    p.add_argument("--hidden", type=natural, default=100)
    p.add_argument("--updates", type=natural, default=3000)
    p.add_argument("--lr", type=positive, default=0.001)
    p.add_argument("--batch", type=natural, default=32)
    p.add_argument("--seed", type=count, default=1)
    p.add_argument("--backend", default="auto")
    p.add_argument("--record", type=output, metavar="FILE", help="a .csv file for the curve")
    args = p.parse_args()
    if args.length < 2:
        p.error("--length: two numbers are marked")

    rng = np.random.default_rng(args.seed)
    net = knetc.compile(
        Path(__file__).parent / "adding.knet", "adding", backend=args.backend, seed=args.seed, hidden=args.hidden
    )
    net.setp(adam=True, lr=args.lr)

    def step() -> float:
        (*read, last), y = batch(rng, args.length, args.batch)
        return learn(net, read, [last], [y], knetc.quadloss, "predict")

    train(step, args.updates, EVERY, dict, args.record)


if __name__ == "__main__":
    run(main)
