"""Draws learning curves from the tables that the examples write with `--record`.

`python examples/plot_curves.py softmax.csv mlp.csv lenet.csv -o curves.png`
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class Kind(NamedTuple):
    """What is drawn of a table: columns by what they are called, the first of which tells the kind.

    `unit`: what a 1 stands for; `top`: where the axis ends in a table of epochs.
    """

    columns: dict[str, str]
    label: str
    unit: float = 1
    top: float | None = None


KINDS = (
    Kind({"dev_loss": "held out", "train_loss": "training"}, "loss, nats a character"),
    Kind({"copied": "the longest"}, "sequences copied, %", 100),
    Kind({"test_error": "test", "train_error": "training"}, "wrong answers, %", 100, 12),
    Kind({"loss": "training"}, "quadratic loss"),
)


def main() -> None:
    """One panel for all the tables, which are of one kind."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tables", nargs="+", type=Path)
    p.add_argument("-o", dest="output", type=Path, required=True)
    args = p.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4.2), constrained_layout=True)
    for n, path in enumerate(args.tables):
        with path.open(newline="") as f:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
        kind = next(k for k in KINDS if next(iter(k.columns)) in rows[0])
        x = "epoch" if "epoch" in rows[0] else "updates"
        for (column, name), style in zip(kind.columns.items(), ("-", "--"), strict=False):
            if column in rows[0]:
                ys = [kind.unit * row[column] for row in rows]
                axes.plot(
                    [row[x] for row in rows],
                    ys,
                    style,
                    lw=2 if style == "-" else 1,
                    color=f"C{n}",
                    label=f"{path.stem}, {name}",
                )
        axes.set(xlabel=x, ylabel=kind.label, ylim=(0, kind.top if x == "epoch" else None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
