"""Linear regression on the Boston housing data, as the manual's lesson 2: `KNETC_DATA=… python examples/housing.py`.

400 random neighbourhoods train, 106 test; one instance at a time, learning rate 0.001, 100 epochs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from datasets import housing

import knetc


def main() -> None:
    """Trains and prints the test loss before and after."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--epochs", type=int, default=100)
    p.add_argument("--lr", type=float, default=0.001)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--backend", default="auto")
    args = p.parse_args()

    x, y = housing()
    order = np.random.default_rng(args.seed).permutation(x.shape[1])
    trn, tst = order[:400], order[400:]
    net = knetc.compile(Path(__file__).parent / "housing.knet", "linreg", backend=args.backend, seed=args.seed)
    net.setp(lr=args.lr)
    data = knetc.minibatch(np.asfortranarray(x[:, trn]), np.asfortranarray(y[:, trn]), 1)
    test = knetc.minibatch(np.asfortranarray(x[:, tst]), np.asfortranarray(y[:, tst]), 106)
    print(f"test loss before training: {net.test(test, knetc.quadloss):.4f}")
    net.train(data, knetc.quadloss, epochs=args.epochs)
    loss = net.test(test, knetc.quadloss)
    print(f"test loss after {args.epochs} epochs: {loss:.4f} (root mean square error {np.sqrt(2 * loss):.4f})")
    print("weights:", np.array2string(net.get("w").ravel(), precision=3, suppress_small=True))


if __name__ == "__main__":
    main()
