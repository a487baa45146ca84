"""What goes wrong on one of several processes: `mpirun -n 3 python faults.py FAULT FOLDER [BACKEND]`, for one.

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
from knetc.runtime.emulated import EmulatedExecutable
from knetc.runtime.executable import Executable

FOLDER = Path(sys.argv[2])
BACKEND = sys.argv[3] if len(sys.argv) > 3 else "numpy"


def me() -> int:
    """The number of this process. With this MPI itself has begun, which waits for all without a limit."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"])
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_rank())


def tell(text: object) -> None:
    """For the test to read."""
    (FOLDER / f"rank{me()}.txt").write_text(str(text))


def model(**keywords: object) -> knetc.Model:
    """A model with dropout."""
    return knetc.compile(DROPOUT, backend=BACKEND, seed=1, **keywords)


def step(net: knetc.Model, columns: int = 12) -> None:
    """A step of training by hand."""
    x = np.random.default_rng(0).normal(size=(5, columns))
    net.forw(x)
    net.back(np.zeros(columns, int), knetc.softloss)
    net.update()


def keywords() -> None:
    knetc.distribute(model(hidden=7 if me() == 1 else 6), timeout=5)


def same_gpu() -> None:
    """Two processes of a machine come to one device."""
    names = ("here 0000:01:00.0", "here 0000:02:00.0", "here 0000:01:00.0")
    EmulatedExecutable.device_name = lambda _: names[me()]  # type: ignore[method-assign]
    step(knetc.distribute(model(), timeout=5))


def source() -> None:
    text = DROPOUT.replace("0.4", "0.5") if me() == 2 else DROPOUT
    knetc.distribute(knetc.compile(text, backend="numpy"), timeout=5)


def shapes() -> None:
    net = knetc.distribute(model(), timeout=5)
    columns = 40 if me() == 1 else 30
    data = knetc.minibatch(np.zeros((5, columns)), np.zeros(columns, int), 10)
    try:
        net.train(data, knetc.softloss, progress=False)
    except knetc.KnetError as error:
        assert net._engine.executable is None or net._engine.executable.calls() == 0, "something has run"
        raise error


def by_hand() -> None:
    """One process makes another call than the others."""
    net = knetc.distribute(model(), timeout=5)
    x = np.zeros((5, 6))
    net.forw(x)
    net.back(np.zeros(6, int), knetc.softloss)
    if me() == 2:
        net.forw(x)
    else:
        net.update()


def alone() -> None:
    """Rank 0 asks for what all must ask for."""
    net = knetc.distribute(model(), timeout=5)
    net.forw(np.zeros((5, 6)))
    net.back(np.zeros(6, int), knetc.softloss)
    if net.rank == 0:
        net.gnorm()
    step(net)


def loss() -> None:
    """One process starts from another loss."""
    net = knetc.distribute(model(), timeout=5)
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
    net = knetc.distribute(model(), timeout=3)
    for k in range(400):
        if k == 20 and me() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        step(net)
    tell("went on to the end")


def stopped_between() -> None:
    """One process hangs when the others have its forward call."""
    net = knetc.distribute(model(), timeout=3)
    net.forw(np.zeros((5, 6)))
    if me() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    net.back(np.zeros(6, int), knetc.softloss)
    net.update()
    tell("went on to the end")


def _in_a_sum(way: int) -> None:
    """One process stops or is killed when all have agreed to sum, and the others wait for it in NCCL."""
    net = knetc.distribute(model(), timeout=3)
    step(net)
    if me() == 1:
        sums = net._engine.device()._sums  # type: ignore[attr-defined]
        begin = sums.begin

        def agree(*given: object, **named: object) -> list[bytes]:
            begin(*given, **named)
            os.kill(os.getpid(), way)
            return []

        sums.begin = agree
    step(net)
    tell("went on to the end")


def stopped_in_a_sum() -> None:
    _in_a_sum(signal.SIGSTOP)


def killed_in_a_sum() -> None:
    _in_a_sum(signal.SIGKILL)


def raises() -> None:
    net = knetc.distribute(model(), timeout=60)
    for k in range(400):
        if k == 20 and me() == 1:
            raise ValueError("this process has a fault of its own")
        step(net)
    tell("went on to the end")


def leaves() -> None:
    """One process ends before the others, by `sys.exit`."""
    net = knetc.distribute(model(), timeout=90)
    for k in range(400):
        if k == 20 and me() == 1:
            sys.exit(0)
        step(net)
    tell("went on to the end")


def slow() -> None:
    """One process takes longer than `timeout` to begin, and another to build its model: more is given to both."""
    if me() == 1:
        time.sleep(3)
    net = knetc.distribute(model(), timeout=1.5)
    if me() == 2:
        made = net._engine.device

        def device(what: str = "") -> Executable:
            if net._engine.executable is None:
                time.sleep(3)
            return made(what)

        net._engine.device = device  # type: ignore[method-assign]
    step(net)
    tell("has begun")


def late() -> None:
    """One process takes longer than `start` to begin."""
    if me() == 1:
        time.sleep(30)
    knetc.distribute(model(), timeout=1, start=2)


def sets() -> None:
    """Each process sets a parameter to values of its own."""
    net = knetc.distribute(model(), timeout=5)
    net.forw(np.zeros((5, 6)))
    for name, dims in net.params().items():
        net.set(name, np.random.default_rng(me()).normal(size=dims))
    tell([net.get(name).tobytes().hex() for name in net.params()])


def sets_alone() -> None:
    """Rank 0 alone sets a parameter."""
    net = knetc.distribute(model(), timeout=5)
    net.forw(np.zeros((5, 6)))
    if net.rank == 0:
        name, dims = next(iter(net.params().items()))
        net.set(name, np.zeros(dims))
    step(net)


def seeds_alone() -> None:
    """Rank 0 alone seeds what is drawn."""
    net = knetc.distribute(model(), timeout=5)
    if net.rank == 0:
        net.setseed(3)
    step(net)


def resets_alone() -> None:
    """Rank 0 alone forgets the state."""
    net = knetc.distribute(model(), timeout=5)
    net.forw(np.zeros((5, 6)))
    if net.rank == 0:
        net.reset()
    step(net)


def saves() -> None:
    """Saves after every step until it is killed."""
    (FOLDER / f"pid{me()}.txt").write_text(str(os.getpid()))
    net = knetc.distribute(knetc.compile(LSTM, backend="numpy"), timeout=5)
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
