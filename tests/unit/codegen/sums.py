"""One of several ranks that train one model by emitted CUDA with -DKNET_NCCL; run by test_nccl in a process of its own.

`python sums.py LIBRARY RANK RANKS FOLDER`: makes the calls of the scenarios of the model that the library is named
after with this rank's columns, and leaves the numbers in the folder. The tests make the same calls on the interpreter
with all columns.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from knetc import driver
from knetc.errors import Source
from knetc.ir.program import LOSSES, Program
from knetc.ir.types import N
from knetc.options import Options
from knetc.runtime import emulation
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.library import Library
from knetc.runtime.losses import mean_loss
from knetc.runtime.nccl import Communicator
from knetc.runtime.shares import Share

SOURCE = """
@knet function net(x; hidden=6)
    n = rnd(init=Gaussian(0, 0.1))
    h = wbf(x .+ n; out=hidden, f=:tanh)
    d = drop(h; pdrop=0.4) .+ rnd(dims=(6,1), init=Uniform(-0.1, 0.1))
    if deep
        d = wbf(d; out=6, f=:relu)
    end
    l = lstm(d; out=4)
    return wbf(l; out=3, f=:soft)
end
"""
WHOLE = """
@knet function net(x; hidden=6)
    h = wbf(x; out=hidden, f=:tanh)
    l = lstm(drop(h; pdrop=0.4); out=4)
    return wbf(l; out=3, f=:soft)
end
"""
DROPOUT: frozenset[str] = frozenset({"dropout"})
DEEP = frozenset({"deep"})
Numbers = dict[str, Any]


OPTIONS = Options(inputs=((5, N),), losses=LOSSES, dtype="f64")


def program(model: str) -> Program:
    """A model; its gradients are several buckets where these are small."""
    source, _ = MODELS[model]
    return driver.optimise(driver.lower(Source("net.knet", source), None, {}), OPTIONS)


class Shared(Library):
    """A model of a library that was built with NCCL."""

    def set_communicator(self, comm: ctypes.c_void_p) -> None:
        """Sums gradients over a communicator from here on."""
        self._call("set_communicator", self._model, comm)

    def configure(self, setting: str, value: int) -> None:
        """How the model runs."""
        self._call("configure", self._model, setting.encode(), value)


class Rank:
    """A model that is called with all columns and computes its own; `net` may be the interpreter, with all of them."""

    def __init__(self, net: Any, rank: int = 0, ranks: int = 1) -> None:
        self.net, self._rank, self._ranks = net, rank, ranks
        self.options = {str(i.attr("param")): TrainingOptions(lr=0.3, momentum=0.5) for i in net.program.update}
        self.found: Numbers = {}
        self._stack: list[Share] = []
        self.trained = 0  # calls of `train`

    def forward(self, x: np.ndarray, setting: frozenset[str] = DROPOUT, push: bool = False) -> np.ndarray:
        """The value of this rank's columns."""
        share = Share.of(self._rank, self._ranks, x.shape[-1])
        if isinstance(self.net, Shared):
            self.net.take_columns(share.first, share.whole)
        self._stack.append(share)
        value: np.ndarray = self.net.forward(setting, [share.own(x)], push)
        return value

    def backward(self, gold: np.ndarray | None, loss: str = "softloss", pop: bool = False) -> None:
        """Back from the last forward call that has not been gone back through."""
        share = self._stack.pop()
        mask = np.full(max(1, share.stop - share.first), share.weight) if self._ranks > 1 and gold is not None else None
        own = None if gold is None else share.own(gold)
        self.net.backward(loss if gold is not None else "zero", own, mask, (), pop)

    def forward_sequence(self, xs: Sequence[np.ndarray]) -> None:
        """A sequence at once where the model is a rank of several, step by step on the interpreter."""
        if not isinstance(self.net, Shared):
            for x in xs:
                self.forward(x, push=True)
            return
        shares = [Share.of(self._rank, self._ranks, x.shape[-1]) for x in xs]
        self.net.take_columns(shares[0].first, shares[0].whole)
        own = np.concatenate([share.own(x) for share, x in zip(shares, xs, strict=True)], axis=-1)
        self.net.forward_sequence(DROPOUT, [np.asfortranarray(own)], len(xs))
        self._stack += shares

    def backward_sequence(self, golds: Sequence[np.ndarray]) -> None:
        """The way back, from a loss after each step."""
        if not isinstance(self.net, Shared):
            for gold in reversed(golds):
                self.backward(gold, pop=True)
            return
        shares = [self._stack.pop() for _ in golds][::-1]
        own = np.concatenate([share.own(gold) for share, gold in zip(shares, golds, strict=True)], axis=-1)
        mask = np.concatenate([np.full(max(1, share.stop - share.first), share.weight) for share in shares])
        self.net.backward_sequence("softloss", np.asfortranarray(own), mask, len(golds))

    def train(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        """Minibatches in one call of the library; keeps their losses."""
        share = Share.of(self._rank, self._ranks, pairs[0][0].shape[-1])
        self.net.take_columns(share.first, share.whole)
        x, gold = (
            np.asfortranarray(np.concatenate([share.own(a) for a in arrays], -1)) for arrays in zip(*pairs, strict=True)
        )
        columns = x.shape[-1] // len(pairs)
        found = self.net.train(DROPOUT, [x], gold, columns, "softloss", self.options, 0.2)
        self.found[f"losses {self.trained}"] = np.array(found)

    def train_over_time(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], length: int) -> None:
        """Segments of a sequence in one call of the library; keeps their losses."""
        share = Share.of(self._rank, self._ranks, pairs[0][0].shape[-1])
        self.net.take_columns(share.first, share.whole)
        x, gold = (
            np.asfortranarray(np.concatenate([share.own(a) for a in arrays], -1)) for arrays in zip(*pairs, strict=True)
        )
        sizes = (share.stop - share.first, length)
        found = self.net.train_over_time(DROPOUT, [x], gold, *sizes, "softloss", self.options, 0.2)
        self.found[f"losses {self.trained}"] = np.array(found)

    def update(self, gclip: float = 0.2) -> None:
        """One step of training, clipped by the norm of all gradients."""
        self.net.update(self.options, gclip, 1.0)

    def keep(self, what: str, kind: str) -> None:
        """Keeps all parameters, or their gradients, for the test."""
        for name in self.options:
            self.found[f"{what}.{name}"] = self.net.read(kind, name)


def data(columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, gold = rng.normal(size=(5, columns)), np.eye(3)[:, rng.integers(0, 3, columns)]
    return np.asfortranarray(x), np.asfortranarray(gold)


def minibatches(r: Rank) -> None:
    """Uneven shares, fewer columns than ranks, two conditions; and gradients that are read, and used twice."""
    for k, columns in enumerate((10, 37, 1, 10, 3, 5, 2, 4)):
        x, gold = data(columns, k)
        r.net.reset(False)
        r.forward(x, DROPOUT if k % 2 else DEEP)
        r.backward(gold)
        r.keep(f"step {k}", "grad")
        r.update()
    r.update()


def sequences(r: Rank) -> None:
    """Steps back that add to the gradients: of a sequence, of the sequence after it, and after an update between."""
    for start, steps in ((0, 3), (1, 2)):
        pairs = [data(7, start + t) for t in range(steps)]
        for x, _ in pairs:
            r.forward(x, push=True)
        for t, (_, gold) in reversed(list(enumerate(pairs))):
            r.backward(None if t == 1 else gold, pop=True)
        r.keep(f"sequence {start}", "grad")
        r.update()
    x, gold = data(7, 9)
    for _ in range(3):
        r.forward(x, push=True)
    r.backward(gold, pop=True)
    r.update()
    r.backward(gold, pop=True)
    r.backward(None, pop=True)
    r.update(gclip=0)
    r.net.reset(False)


def even(r: Rank) -> None:
    """As many columns for all, so that the sums may be captured; and whether they are."""
    before = (0, 0)
    if isinstance(r.net, Shared):
        r.net.configure("graph_sums", 1)
        before = r.net.graphs()
    for k in range(4):
        x, gold = data(12, 20 + k)
        r.forward(x)
        r.backward(gold, "quadloss")
        r.update()
    captured, refused = r.net.graphs() if isinstance(r.net, Shared) else (1, 0)
    r.found["captured"] = np.array(captured > before[0] and refused == before[1])
    if isinstance(r.net, Shared):
        r.net.configure("graph_sums", 0)


def steps(r: Rank) -> None:
    """Steps of training in one call, as they are and as graphs, of ranks that have as many columns each."""
    for captured, seed in ((0, 50), (1, 60)):
        pairs = [data(12, seed + k) for k in range(3)]
        if isinstance(r.net, Shared):
            r.net.configure("graph_sums", captured)
            r.train(pairs)
        else:
            found = []
            for x, gold in pairs:
                found.append(mean_loss("softloss", r.forward(x), gold))
                r.backward(gold)
                r.update()
            r.found[f"losses {r.trained}"] = np.array(found)
        r.trained += 1
    if isinstance(r.net, Shared):
        r.net.configure("graph_sums", 0)


def segments(r: Rank) -> None:
    """Training over time in one call, as it is and as graphs, of ranks that have as many columns each."""
    for captured, seed in ((0, 70), (1, 80)):
        pairs = [data(12, seed + t) for t in range(7)]
        r.net.reset(False)
        if isinstance(r.net, Shared):
            r.net.configure("graph_sums", captured)
            r.train_over_time(pairs, 3)
        else:
            found = []
            for part in (pairs[:3], pairs[3:6], pairs[6:]):
                found.append(np.mean([mean_loss("softloss", r.forward(x, push=True), gold) for x, gold in part]))
                r.backward_sequence([gold for _, gold in part])
                r.update()
                r.net.reset(True)
            r.found[f"losses {r.trained}"] = np.array(found)
        r.trained += 1
    if isinstance(r.net, Shared):
        r.net.configure("graph_sums", 0)


def losses(r: Rank) -> None:
    """A loss that comes with the gradients is that of all columns."""
    x, gold = data(11, 30)
    value = r.forward(x, frozenset())
    share = r._stack[-1]
    if isinstance(r.net, Shared):
        mask = np.full(max(1, share.stop - share.first), share.weight)
        r.found["loss"] = np.array(r.net.loss("softloss", share.own(gold), mask))
    else:
        r.found["loss"] = np.array(mean_loss("softloss", value, gold))


def whole_sequences(r: Rank) -> None:
    """Sequences at once: short and long ones, the gradients read, the state kept, and back in two halves."""
    for start, steps, columns in ((0, 3, 7), (0, 3, 7), (4, 5, 2), (10, 2, 9)):
        pairs = [data(columns, start + t) for t in range(steps)]
        if start:
            r.net.reset(False)
        r.forward_sequence([x for x, _ in pairs])
        if start == 4:
            r.backward_sequence([gold for _, gold in pairs[2:]])
            r.backward_sequence([gold for _, gold in pairs[:2]])
        else:
            r.backward_sequence([gold for _, gold in pairs])
        r.keep(f"whole {start}", "grad")
        r.update()


Scenario = Callable[[Rank], None]
MODELS: dict[str, tuple[str, tuple[Scenario, ...]]] = {
    "net": (SOURCE, (minibatches, sequences, even, steps, losses)),
    "whole": (WHOLE, (whole_sequences, sequences, segments)),
}


def run(r: Rank, model: str) -> Numbers:
    """All scenarios of a model one after the other."""
    for scenario in MODELS[model][1]:
        scenario(r)
        r.keep(scenario.__name__, "par")
        r.net.reset(False)
    return r.found


def communicator(rank: int, ranks: int, folder: Path) -> Communicator:
    """A communicator of the processes whose rank 0 leaves its id in the folder."""
    comm = Communicator(emulation.build_library())
    if rank == 0:
        (folder / "fresh").write_bytes(comm.fresh_id())
        (folder / "fresh").rename(folder / "id")
    while not (folder / "id").exists():
        time.sleep(0.01)
    comm.join((folder / "id").read_bytes(), rank, ranks)
    return comm


def main(library: str, rank: int, ranks: int, folder: Path) -> None:
    model = Path(library).stem
    net = Shared(program(model), library, 3)
    net.set_communicator(communicator(rank, ranks, folder).handle)
    found = run(Rank(net, rank, ranks), model)
    np.savez(folder / f"rank{rank}.npz", **{name.replace("/", "|"): value for name, value in found.items()})
    net.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
