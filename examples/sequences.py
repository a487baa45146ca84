"""Training on sequences that are first read and then answered: what adding.py, copyseq.py and pixels.py share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import record, show
from tqdm import trange

import knetc


def learn(
    net: knetc.Model, read: Sequence[Any], asked: Sequence[Any], golds: Sequence[Any], loss: Any, condition: str
) -> float:
    """One training step: the inputs `read` in silence, then those `asked` under `condition`, each with its gold answer.

    Returns the mean loss of the answers before the step.
    """
    net.reset()
    if read:
        net.forwseq(read)
    answers = net.forwseq(asked, **{condition: True})
    net.backseq(golds, loss)
    if read:
        net.backseq([None] * len(read))
    net.update(gclip=1.0)
    return float(np.mean([loss(answer, gold) for answer, gold in zip(answers, golds, strict=True)]))


def train(
    step: Callable[[], float], updates: int, every: int, test: Callable[[], Mapping[str, float]], table: Path | None
) -> None:
    """So many calls of `step`; after every so many prints their mean loss and what `test` gives, and records them."""
    rows: list[dict[str, float]] = []
    losses: list[float] = []
    start = time.perf_counter()
    for i in (bar := trange(1, updates + 1, disable=None, unit="update", dynamic_ncols=True)):
        losses.append(step())
        bar.set_postfix(loss=f"{losses[-1]:.4g}", refresh=False)
        if i % every == 0 or i == updates:
            rows.append(
                {"updates": i, "loss": float(np.mean(losses)), "seconds": time.perf_counter() - start, **test()}
            )
            show(rows[-1])
            losses.clear()
            if table:
                record(table, rows)
