"""Handwritten digits read in steps: `python examples/pixels.py irnn|lstm [--pixels N]`.

An image is a sequence of N pixels at a time, along its rows from the top: 28, a row at a time, unless it is said
otherwise; 1 is the task of Le, Jaitly and Hinton (2015), 784 steps, which a processor does not learn in ten minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import count, natural, output, positive, run
from digits import digits
from sequences import learn, train

import knetc
from knetc.data import mnist

PIXELS = 28 * 28


def sequence(images: np.ndarray, pixels: int) -> list[np.ndarray]:
    """The steps of images (28,28,1,N): arrays of so many pixels, along the rows, by N."""
    flat = images.reshape(PIXELS, -1, order="F")
    return [np.asfortranarray(flat[i : i + pixels]) for i in range(0, PIXELS, pixels)]


def shuffled(x: np.ndarray, y: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[tuple]:
    """Minibatches without end, each pass over the data in another order."""
    while True:
        order = rng.permutation(x.shape[-1])
        for i in range(0, len(order) - size + 1, size):
            yield x[..., order[i : i + size]], y[:, order[i : i + size]]


def error(net: knetc.Model, data: knetc.runtime.batches.Minibatches, pixels: int) -> float:
    """The share of wrong answers."""
    wrong = 0.0
    for x, y in data:
        net.reset()
        *read, last = sequence(x, pixels)
        for part in read:
            net.forw(part)
        wrong += knetc.zeroone(net.forw(last, predict=True), y) * y.shape[-1]
    return wrong / data.columns


def main() -> None:
    """Trains, and prints the share of wrong answers on the test images."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cell", choices=["irnn", "lstm"])
    p.add_argument("--pixels", type=natural, default=28, help="pixels of a step, a divisor of 784")
    p.add_argument("--hidden", type=natural, default=100)
    p.add_argument("--updates", type=natural, default=6000)
    p.add_argument("--every", type=natural, default=600, help="updates between two tests")
    p.add_argument("--lr", type=positive, default=0.001)
    p.add_argument("--batch", type=natural, default=100)
    p.add_argument("--seed", type=count, default=1)
    p.add_argument("--backend", default="auto")
    p.add_argument("--digits", action="store_true", help="the few thousand digits that ship with the project")
    p.add_argument("--record", type=output, metavar="FILE", help="a .csv file for the curve")
    args = p.parse_args()
    if PIXELS % args.pixels:
        p.error(f"--pixels: {args.pixels} is no divisor of {PIXELS}")

    xtrn, ytrn, xtst, ytst = digits() if args.digits else mnist()
    if args.batch > xtrn.shape[-1]:
        p.error(f"--batch: there are {xtrn.shape[-1]} images to train on")
    tst = knetc.minibatch(xtst, ytst, 500)
    file = Path(__file__).parent / "pixels.knet"
    net = knetc.compile(file, "pixels", backend=args.backend, seed=args.seed, cell=args.cell, hidden=args.hidden)
    net.setp(adam=True, lr=args.lr)
    data = shuffled(xtrn, ytrn, args.batch, np.random.default_rng(args.seed))

    def step() -> float:
        x, y = next(data)
        *read, last = sequence(x, args.pixels)
        return learn(net, read, [last], [y], knetc.softloss, "predict")

    train(step, args.updates, args.every, lambda: {"test_error": error(net, tst, args.pixels)}, args.record)


if __name__ == "__main__":
    run(main)
