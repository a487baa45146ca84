"""Draws learning curves from the tables that `mnist.py --record` and `adding.py --record` write.

`python examples/plot_curves.py softmax.csv mlp.csv lenet.csv -o curves.png`
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    """One panel of errors over epochs for all the tables, or of the loss over updates."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("tables", nargs="+", type=Path)
    p.add_argument("-o", dest="output", type=Path, required=True)
    args = p.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for n, path in enumerate(args.tables):
        with path.open(newline="") as f:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
        color = f"C{n}"
        if "test_error" in rows[0]:
            epochs = [r["epoch"] for r in rows]
            axes.plot(epochs, [100 * r["test_error"] for r in rows], color=color, label=f"{path.stem}, test")
            train = [100 * r["train_error"] for r in rows]
            axes.plot(epochs, train, color=color, ls="--", lw=1, label=f"{path.stem}, training")
            axes.set(xlabel="epoch", ylabel="wrong answers, %", ylim=(0, 12))
        else:
            axes.plot([r["updates"] for r in rows], [r["loss"] for r in rows], color=color, label=path.stem)
            axes.set(xlabel="updates", ylabel="quadratic loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
