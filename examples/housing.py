"""Linear regression on the Boston housing data, as the manual's lesson 2: `python examples/housing.py`.

400 random neighbourhoods train, 106 test; one instance at a time, learning rate 0.001, 100 epochs. The attribute B of
the data is defined by race (docs/data.md): this is an exercise, and says nothing about people or houses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import run

import knetc
from knetc.data import housing, split


def main() -> None:
    """Trains and prints the test loss before and after."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--epochs", type=int, default=100)
    p.add_argument("--lr", type=float, default=0.001)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--backend", default="auto")
    args = p.parse_args()

    x, y = housing()
    xtrn, ytrn, xtst, ytst = split(x, y, 400, args.seed)
    net = knetc.compile(Path(__file__).parent / "housing.knet", "linreg", backend=args.backend, seed=args.seed)
    net.setp(lr=args.lr)
    data = knetc.minibatch(xtrn, ytrn, 1)
    test = knetc.minibatch(xtst, ytst, 106)
    print(f"test loss before training: {net.test(test, knetc.quadloss):.4f}")
    net.train(data, knetc.quadloss, epochs=args.epochs)
    loss = net.test(test, knetc.quadloss)
    print(f"test loss after {args.epochs} epochs: {loss:.4f} (root mean square error {np.sqrt(2 * loss):.4f})")
    print("weights:", np.array2string(net.get("w").ravel(), precision=3, suppress_small=True))


if __name__ == "__main__":
    run(main)
