"""Copying a sequence: `python examples/copyseq.py`. The data are made on the spot.

The model reads a sequence of random digits in silence, and then writes it down and ends it; all that it has then is the
state in which reading has left it. While it learns it is given the right digit before each; when it is tested, its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import count, natural, output, positive, run
from sequences import learn, train

import knetc

END = 10  # ends a sequence of digits, and stands before its first
SYMBOLS = 11
TESTED = 500


def draw(rng: np.random.Generator, length: int, columns: int) -> np.ndarray:
    """Sequences of digits, one a column, with the end around them."""
    digits = rng.integers(0, END, (length + 2, columns))
    digits[[0, -1]] = END
    return digits


def steps(symbols: np.ndarray) -> list:
    """What each step is given."""
    return [knetc.onehot(row, SYMBOLS) for row in symbols]


def copied(net: knetc.Model, symbols: np.ndarray) -> float:
    """The share of sequences that the model writes down without a fault."""
    net.reset()
    for x in steps(symbols[1:-1]):
        net.forw(x)
    right = np.ones(symbols.shape[1], bool)
    last = symbols[0]
    for wanted in symbols[1:]:
        last = net.forw(knetc.onehot(last, SYMBOLS), write=True).argmax(axis=0)
        right &= last == wanted
    return float(right.mean())


def main() -> None:
    """Trains, and prints the share of the longest sequences that are copied."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--length", type=natural, default=10, help="of the longest sequences")
    p.add_argument("--hidden", type=natural, default=128)
    p.add_argument("--updates", type=natural, default=4000)
    p.add_argument("--every", type=natural, default=200, help="updates between two tests")
    p.add_argument("--lr", type=positive, default=0.003, help="learning rate at first; it falls to 0 in a line")
    p.add_argument("--batch", type=natural, default=64)
    p.add_argument("--seed", type=count, default=1)
    p.add_argument("--backend", default="auto")
    p.add_argument("--record", type=output, metavar="FILE", help="a .csv file for the curve")
    args = p.parse_args()

    rng = np.random.default_rng(args.seed)
    tested = draw(rng, args.length, TESTED)
    file = Path(__file__).parent / "copyseq.knet"
    net = knetc.compile(file, "copyseq", backend=args.backend, seed=args.seed, hidden=args.hidden)
    net.setp(adam=True)
    rates = iter(np.linspace(args.lr, 0, args.updates, endpoint=False))

    def step() -> float:
        net.setp(lr=next(rates))
        symbols = draw(rng, rng.integers(1, args.length + 1), args.batch)
        read, asked, golds = (steps(part) for part in (symbols[1:-1], symbols[:-1], symbols[1:]))
        return learn(net, read, asked, golds, knetc.softloss, "write")

    train(step, args.updates, args.every, lambda: {"copied": copied(net, tested)}, args.record)


if __name__ == "__main__":
    run(main)
