"""Step and sum of `knetc.distribute` for ranks on one machine, beside what the model of docs/scaling.md says of them.

`python benchmarks/scaling.py --ranks 1,2,4` starts itself by mpirun for each model and number of ranks. What the model
says is the time of as many processes that each train their share by themselves, at the same time, and the time of the
sum alone. Each time is the median of several rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import knetc

HERE = Path(__file__).parent
# The whole minibatch, and the time steps of one.
BATCHES = 4
MODELS = {"lenet": (128, 1), "charlm": (64, 5), "wide": (256, 1)}
TITLES = {"lenet": "LeNet", "charlm": "LSTM, 5 time steps", "wide": "MLP of 3 layers of 1,024"}


def build(name: str) -> knetc.Model:
    """A model on the back end cpu."""
    if name == "lenet":
        return knetc.compile(HERE.parent / "examples" / "lenet.knet", name, backend="cpu", seed=1)
    sizes = {"charlm": {"hidden": 256}, "wide": {"hidden": 1024}}[name]
    return knetc.compile(HERE / "models.knet", name, backend="cpu", seed=1, **sizes)


def runner(net: knetc.Model, name: str, columns: int) -> Any:
    """What trains `BATCHES` minibatches of so many columns."""
    net.setp(lr=1e-3)
    rng, steps = np.random.default_rng(0), MODELS[name][1]
    if name == "charlm":
        text = rng.integers(0, 65, columns * (BATCHES * steps + 1)).tolist()
        data: Any = knetc.seqbatch(text, {i: i for i in range(65)}, columns)
        return lambda: net.train(data, "softloss", seqlength=steps, progress=False)
    shape = (28, 28, 1) if name == "lenet" else (784,)
    x = np.asfortranarray(rng.random((*shape, BATCHES * columns), np.float32))
    data = knetc.minibatch(x, rng.integers(0, 10, BATCHES * columns), columns)
    return lambda: net.train(data, "softloss", progress=False)


def median(work: Any, rounds: int) -> float:
    """The median time of a call, in seconds."""
    work(), work()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def worker(name: str, columns: int, rounds: int, output: Path, apart: bool) -> None:
    """One rank: measures the step and the sum, and rank 0 writes them. `apart`: each trains a model by itself."""
    from mpi4py import MPI

    net = build(name)
    comm = MPI.COMM_WORLD
    if not apart:
        net = knetc.distribute(net, timeout=120)
    step = median(runner(net, name, columns), rounds) / BATCHES
    size = sum(int(np.prod(dims)) for dims in net.params().values())
    total, ranks = 0.0, net._engine.ranks
    if ranks and ranks.size > 1:
        vector = np.zeros(size, np.float32)
        total = median(lambda: ranks.sum("a sum", vector, b""), 2 * rounds)
    steps = comm.allgather(step)
    if comm.rank == 0:
        output.write_text(json.dumps({"step": statistics.mean(steps), "sum": total, "bytes": 4 * size}))


def measure(name: str, ranks: int, columns: int, rounds: int, apart: bool) -> dict[str, float]:
    """The measurements of so many ranks."""
    mpirun = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not mpirun:
        sys.exit("there is no mpirun: pip install 'knetc[dist]'")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        own = [sys.executable, __file__, "--worker", name, str(columns), str(rounds), str(output), str(int(apart))]
        start = [mpirun, "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([*start, *own], env=os.environ | one, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found: dict[str, float] = json.loads(output.read_text())
    return found


def table(name: str, counts: list[int], rounds: int) -> list[str]:
    """The rows of a model: measured, and said by the model from one process's step and the sum alone."""
    columns, rows = MODELS[name][0], []
    alone = measure(name, 1, columns, rounds, apart=True)["step"]
    for n in counts:
        part = measure(name, n, -(-columns // n), rounds, apart=True)["step"]
        found = measure(name, n, columns, rounds, apart=False)
        said = part + found["sum"]
        numbers = (found["bytes"] / 1e6, part * 1e3, found["sum"] * 1e3, said * 1e3, found["step"] * 1e3)
        texts = " | ".join(f"{v:.3g}" for v in numbers)
        ratio, gain = found["step"] / said, alone / found["step"]
        rows.append(f"| {TITLES[name]}, {columns} columns | {n} | {texts} | {ratio:.2f} | {gain:.2f} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measures and prints; or, started by mpirun, is one rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--worker", nargs=5, metavar=("MODEL", "COLUMNS", "ROUNDS", "FILE", "APART"))
    args = parser.parse_args()
    if args.worker:
        name, columns, rounds, output, apart = args.worker
        worker(name, int(columns), int(rounds), Path(output), apart == "1")
        return
    print("| model | ranks | MB summed | share, ms | sum, ms | said, ms | measured, ms | measured / said | gain |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.models.split(","):
        table(name, [int(n) for n in args.ranks.split(",")], args.rounds)


if __name__ == "__main__":
    main()
