"""Calls in random order on models with and without state, and what each gives: by one process or by several.

As a program, `mpirun -n 3 python orders.py BACKEND FIRST LAST FOLDER` plays the seeds from FIRST to before LAST and
leaves what each rank got in the folder.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import knetc
from distributed import cases

PLAIN = "@knet function plain(x)\n return tanh(x)\nend\n"
SWITCH = """
@knet function net(x)
    if skip
        a = wbf(x; out=4, f=:relu)
    else
        a = wbf(x; out=4, f=:tanh)
    end
    return wbf(a; out=3, f=:soft)
end
"""
# Source, rows of the input and of the value, conditions, and whether the columns of a sequence must stay as many.
MODELS: dict[str, tuple[str, int, int, tuple[str, ...], bool]] = {
    "dropout": (cases.DROPOUT, 5, 3, ("dropout",), False),
    "lstm": (cases.LSTM, 6, 6, ("dropout",), True),
    "copy": (cases.COPY, 6, 6, ("decoding",), True),
    "noise": (cases.NOISE, 4, 2, (), False),
    "no parameters": (PLAIN, 4, 4, (), False),
    "a condition": (SWITCH, 5, 3, ("skip",), False),
}
CALLS = (
    *("forw", "back", "back", "update", "update", "grads", "norm", "params", "value", "reset"),
    *("sforw", "sforw", "sforw", "sback", "sback", "sback", "forwseq", "forwseq", "backseq", "backseq"),
)
Said = list[tuple[str, Any]]


class Player:
    """One model, called in an order that depends on the seed alone, not on what comes of the calls."""

    def __init__(self, make: cases.Make, model: str, seed: int) -> None:
        source, self.rows, self.classes, self.conditions, self.recurrent = MODELS[model]
        self.net = make(source)
        self.rng = np.random.default_rng(seed)
        self.batch = int(self.rng.integers(1, 8))
        self.record, self.stack = 1, list[int]()  # the columns of the last call, and of the steps on the stack
        self.said: Said = []

    def play(self, calls: int = 30) -> Said:
        """What so many calls give, and the parameters after them."""
        for name in ("forw", *map(str, self.rng.choice(CALLS, calls)), "clean", "params"):
            if name == "update" and self.stack and self.rng.random() < 0.9:
                name = "sback"  # after an update there is no way back but a reset
            try:
                self.said.append((name, getattr(self, name)()))
            except knetc.KnetError as error:
                if "not doing the same" in str(error):
                    raise
                self.said.append((f"{name}: {type(error).__name__}", None))
        return self.said

    def columns(self) -> int:
        """Of the next call."""
        return self.batch if self.recurrent else int(self.rng.integers(1, 8))

    def setting(self) -> dict[str, bool]:
        """The conditions of the next call."""
        return {name: bool(self.rng.random() < 0.5) for name in self.conditions}

    def target(self, loss: str, columns: int) -> Any:
        """What a backward call from a loss is given for so many columns."""
        drawn = self.rng.normal(size=(self.classes, columns))
        one_hot = np.eye(self.classes)[:, self.rng.integers(0, self.classes, columns)]
        return {"softloss": one_hot, "zero": None}.get(loss, drawn)

    def loss(self) -> tuple[str, Any]:
        """A loss, as a name and as `back` takes it."""
        name = str(self.rng.choice(["softloss", "quadloss", "none", "zero"]))
        if name == "softloss" and not self.net.params():
            name = "quadloss"
        return name, {"softloss": knetc.softloss, "quadloss": knetc.quadloss}.get(name)

    def forw(self) -> Any:
        columns, setting = self.columns(), self.setting()
        value = self.net.forw(self.rng.normal(size=(self.rows, columns)), **setting)
        self.record = columns
        return value

    def sforw(self) -> Any:
        columns, setting = self.columns(), self.setting()
        value = self.net.sforw(self.rng.normal(size=(self.rows, columns)), **setting)
        self.stack.append(columns)
        return value

    def forwseq(self) -> Any:
        columns, setting, steps = self.columns(), self.setting(), int(self.rng.integers(2, 5))
        value = self.net.forwseq(self.rng.normal(size=(self.rows, columns, steps)), **setting)
        self.stack += [columns] * steps
        return value

    def _back(self, call: Callable[..., Any], columns: int) -> Any:
        (name, loss), getdx = self.loss(), bool(self.rng.random() < 0.4)
        gold, mask = self.target(name, columns), (self.rng.random(columns) > 0.3).astype(float)
        masked = loss is not None and self.rng.random() < 0.4
        return call(gold, loss, getdx=getdx, mask=mask if masked else None)

    def back(self) -> Any:
        return self._back(self.net.back, self.record)

    def sback(self) -> Any:
        found = self._back(self.net.sback, self.stack[-1] if self.stack else 1)
        self.stack.pop()
        return found

    def backseq(self) -> None:
        (name, loss), steps = self.loss(), int(self.rng.integers(1, 5))
        of = self.stack[-steps:] or [1]
        golds = [self.target(name, columns) for columns in of]
        masks = [(self.rng.random(columns) > 0.3).astype(float) for columns in of]
        masked = loss is not None and self.rng.random() < 0.4
        self.net.backseq(golds, loss, mask=masks if masked else None)
        del self.stack[-steps:]

    def update(self) -> None:
        self.net.setp(lr=float(self.rng.uniform(0.05, 0.3)))
        self.net.update(gclip=float(self.rng.choice([0, 0.1])), gscale=float(self.rng.choice([1, 0.5])))

    def reset(self) -> None:
        self.stack.clear()
        self.net.reset(keepstate=bool(self.rng.random() < 0.5))

    def clean(self) -> None:
        self.stack.clear()
        self.net.clean()

    def grads(self) -> list[np.ndarray]:
        return [self.net.grad(name) for name in self.net.params()]

    def norm(self) -> float:
        return float(self.net.gnorm())

    def params(self) -> list[np.ndarray]:
        return [self.net.get(name) for name in self.net.params()]

    def value(self) -> Any:
        return self.net.get("return")


def played(make: cases.Make, first: int, last: int) -> dict[tuple[str, int], Said]:
    """What all models say for the seeds from `first` to before `last`."""
    return {(model, seed): Player(make, model, seed).play() for seed in range(first, last) for model in MODELS}


def main() -> None:
    backend, first, last, folder = sys.argv[1:]
    make = cases.maker(backend, "f64", shared=True)
    found = played(make, int(first), int(last))
    (Path(folder) / f"rank{make(PLAIN).rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
