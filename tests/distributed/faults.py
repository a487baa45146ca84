"""What goes wrong on one of several processes: `mpirun -n 3 python faults.py FAULT FOLDER`.

A process writes what it is told, as an error or else, to `rank0.txt` and so on in the folder.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import knetc
from distributed.cases import DROPOUT, LSTM

FOLDER = Path(sys.argv[2])


def me() -> int:
    """The number of this process."""
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_rank())


def tell(text: object) -> None:
    """For the test to read."""
    (FOLDER / f"rank{me()}.txt").write_text(str(text))


def model(**keywords: object) -> knetc.Model:
    """A model with dropout."""
    return knetc.compile(DROPOUT, backend="numpy", seed=1, **keywords)


def step(net: knetc.Model, columns: int = 12) -> None:
    """A step of training by hand."""
    x = np.random.default_rng(0).normal(size=(5, columns))
    net.forw(x)
    net.back(np.zeros(columns, int), knetc.softloss)
    net.update()


def keywords() -> None:
    knetc.distribute(model(hidden=7 if me() == 1 else 6), timeout=30)


def source() -> None:
    text = DROPOUT.replace("0.4", "0.5") if me() == 2 else DROPOUT
    knetc.distribute(knetc.compile(text, backend="numpy"), timeout=30)


def shapes() -> None:
    net = knetc.distribute(model(), timeout=30)
    columns = 40 if me() == 1 else 30
    data = knetc.minibatch(np.zeros((5, columns)), np.zeros(columns, int), 10)
    try:
        net.train(data, knetc.softloss, progress=False)
    except knetc.KnetError as error:
        assert net._engine.executable is None or net._engine.executable.calls() == 0, "something has run"
        raise error


def by_hand() -> None:
    """One process makes another call than the others."""
    net = knetc.distribute(model(), timeout=30)
    x = np.zeros((5, 6))
    net.forw(x)
    net.back(np.zeros(6, int), knetc.softloss)
    if me() == 2:
        net.forw(x)
    else:
        net.update()


def alone() -> None:
    """Rank 0 asks for what all must ask for."""
    net = knetc.distribute(model(), timeout=30)
    net.forw(np.zeros((5, 6)))
    net.back(np.zeros(6, int), knetc.softloss)
    if net.rank == 0:
        net.gnorm()
    step(net)


def loss() -> None:
    """One process starts from another loss."""
    net = knetc.distribute(model(), timeout=30)
    net.forw(np.zeros((5, 6)))
    net.back(np.full((3, 6), 1 / 3), knetc.quadloss if me() == 0 else knetc.softloss)
    net.update()


def killed() -> None:
    net = knetc.distribute(model(), timeout=60)
    for k in range(400):
        if k == 20 and me() == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        step(net)
    tell("went on to the end")


def stopped() -> None:
    """One process hangs."""
    net = knetc.distribute(model(), timeout=20)  # more than a busy machine needs to begin
    for k in range(400):
        if k == 20 and me() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        step(net)
    tell("went on to the end")


def raises() -> None:
    net = knetc.distribute(model(), timeout=60)
    for k in range(400):
        if k == 20 and me() == 1:
            raise ValueError("this process has a fault of its own")
        step(net)
    tell("went on to the end")


def leaves() -> None:
    """One process ends before the others."""
    net = knetc.distribute(model(), timeout=20)  # more than a busy machine needs to begin
    for k in range(400):
        if k == 20 and me() == 1:
            sys.exit(0)
        step(net)
    tell("went on to the end")


def saves() -> None:
    """Saves after every step until it is killed."""
    (FOLDER / f"pid{me()}.txt").write_text(str(os.getpid()))
    net = knetc.distribute(knetc.compile(LSTM, backend="numpy"), timeout=30)
    steps = knetc.seqbatch([i % 6 for i in range(30)], {i: i for i in range(6)}, 5)
    while True:
        net.train(steps, "softloss", seqlength=5, progress=False)
        knetc.save(FOLDER / "model.knet", net)


def rank_0_rules() -> None:
    """What rank 0 alone has set, loaded and printed."""
    if me() == 0:
        first = model()
        first.setp(lr=0.25)
        step(first)
        knetc.save(FOLDER / "model.knet", first)
    net = knetc.distribute(knetc.load(FOLDER / "model.knet", "model", backend="numpy") if me() == 0 else None)
    step(net)
    if net.rank == 0:
        net.setp(momentum=0.9, lr=0.125)
    for _ in range(3):
        step(net)
    print("printed by rank", net.rank)
    knetc.save(FOLDER / "after.knet", net, note="whole")
    if net.rank == 0:  # a model without state needs no other process for it
        knetc.save(FOLDER / "alone.knet", net)
    tell([net.get(name).tobytes().hex() for name in net.params()])


def main() -> None:
    try:
        globals()[sys.argv[1]]()
    except knetc.KnetError as error:
        tell(f"{type(error).__name__}: {error}")
        time.sleep(0.2)
        raise


if __name__ == "__main__":
    main()
