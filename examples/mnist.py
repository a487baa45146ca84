"""Handwritten digits: `python examples/mnist.py softmax|mlp|lenet|lenet_dropout`.

Trains one of the .knet models beside this file by stochastic gradient descent and prints the loss and the share
of wrong answers after every epoch; `--record` also writes them as a table, and `--plots` draws them and what was
learned. With `--digits` the data are the few thousand digits that ship with the project.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import record, run, show
from digits import digits

import knetc
from knetc.data import mnist

RATES = {"softmax": 0.2, "mlp": 0.1, "lenet": 0.1, "lenet_dropout": 0.1}


def main() -> None:
    """Trains and prints one line an epoch."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", choices=list(RATES))
    p.add_argument("--epochs", type=int, default=10)
    p.add_argument("--lr", type=float, help="learning rate (default: one that suits the model)")
    p.add_argument("--momentum", type=float, default=0.0)
    p.add_argument("--decay", type=float, default=1.0, help="factor on the rate whenever the test error gets worse")
    p.add_argument("--batch", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--backend", default="auto")
    p.add_argument("--digits", action="store_true")
    p.add_argument("--record", type=Path, help="a .csv file for the curves")
    p.add_argument("--plots", type=Path, metavar="FOLDER", help="draw curves, first layer and confusion matrix there")
    args = p.parse_args()
    if args.plots:
        from plots import draw  # at once: it needs matplotlib

    xtrn, ytrn, xtst, ytst = digits() if args.digits else mnist()
    trn = knetc.minibatch(xtrn, ytrn, args.batch)
    tst = knetc.minibatch(xtst, ytst, args.batch)
    net = knetc.compile(Path(__file__).parent / f"{args.model}.knet", args.model, backend=args.backend, seed=args.seed)
    rate = args.lr or RATES[args.model]
    net.setp(lr=rate, momentum=args.momentum)
    conditions = {"dropout": True} if "dropout" in args.model else {}
    rows = []
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        net.train(trn, knetc.softloss, **conditions)
        seconds = time.perf_counter() - start
        row = {
            "epoch": epoch,
            "rate": rate,
            "train_loss": net.test(trn, knetc.softloss),
            "train_error": net.test(trn, knetc.zeroone),
            "test_loss": net.test(tst, knetc.softloss),
            "test_error": net.test(tst, knetc.zeroone),
            "seconds": seconds,
        }
        show(row)
        if rows and row["test_error"] > rows[-1]["test_error"] and args.decay != 1:
            rate *= args.decay
            net.setp(lr=rate)
        rows.append(row)
        if args.record:
            record(args.record, rows)
    if args.plots:
        draw(args.plots, rows, net, tst)


if __name__ == "__main__":
    run(main)
