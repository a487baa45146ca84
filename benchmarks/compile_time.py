"""How long compiling takes: the whole command for LeNet, growth with the number of layers, and the way to a first step.

`python benchmarks/compile_time.py`. Prints medians beside the aims; compare the last column, time per layer, down the
table. The first step is LeNet's at batch 100, in a process of its own: from `knetc.compile` to the end of forw, back
and update, once with an empty cache and then with what that left there.
"""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import knetc
from knetc.runtime.backends import BACKENDS

EXAMPLES = Path(__file__).parents[1] / "examples"
FIRST_STEP = """
import sys, time
import numpy as np
import knetc
x = np.zeros((28, 28, 1, 100), np.float32, order="F")
start = time.perf_counter()
try:
    net = knetc.compile(sys.argv[1], "lenet", backend=sys.argv[2])
    net.forw(x)
    net.back(knetc.onehot(np.zeros(100, int), 10), knetc.softloss)
    net.update()
except knetc.KnetEnvironmentError as error:
    sys.exit(str(error))
print(time.perf_counter() - start)
"""
DEEP = "@knet function deep(x; n=1)\n    h = repeat(x; frepeat=:wbf, nrepeat=n, out=16)\n    return wb(h; out=1)\nend\n"


def seconds(arguments: list[str], runs: int) -> list[float]:
    """Wall seconds of `runs` runs of the command, after one that fills the caches."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "knetc.cli", *arguments], check=True)
        times.append(time.perf_counter() - start)
    return times[1:]


def first_step(backend: str, cache: str) -> float | str:
    """Seconds from `compile` to the end of a first step with this cache folder, or why the back end is not there."""
    command = [sys.executable, "-c", FIRST_STEP, str(EXAMPLES / "lenet.knet"), backend]
    done = subprocess.run(command, env={**os.environ, "KNETC_CACHE": cache}, capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else float(done.stdout)


def command() -> None:
    """The whole process for LeNet."""
    lenet = seconds([str(EXAMPLES / "lenet.knet"), "-o", "/dev/null"], 11)
    median, least = statistics.median(lenet), min(lenet)
    print(f"knetc examples/lenet.knet -o /dev/null: median {median:.3f} s, least {least:.3f} s (aim: at most 0.3 s)")


def layers() -> None:
    """Compile time over the number of layers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.knet"
        path.write_text(DEEP)
        print("layers   seconds   ms a layer (aim: linear)")
        for n in (10, 100, 1000, 10000):
            arguments = [str(path), "-D", f"n={n}", "--input", "16,N", "-o", "/dev/null"]
            t = statistics.median(seconds(arguments, 1 if n > 1000 else 3))
            print(f"{n:6} {t:9.2f} {1e3 * t / n:12.3f}")


def first_steps() -> None:
    """The way to a first step, for each back end."""
    print("LeNet, from compile() to the end of a first step (aim: at most 1 s cold, 0.2 s from the cache)")
    for backend in BACKENDS:
        if backend == "auto":
            continue
        with tempfile.TemporaryDirectory() as cache:
            cold = first_step(backend, cache)
            if isinstance(cold, str):
                print(f"  {backend}: absent: {cold}")
                continue
            warm = [first_step(backend, cache) for _ in range(5)]
            print(f"  {backend}: {cold:.2f} s cold, {statistics.median(map(float, warm)):.3f} s from the cache")


def main() -> None:
    """Prints all three. Bytecode is written first, as an installation does it, whatever the environment forbids."""
    compileall.compile_dir(Path(knetc.__file__).parent, quiet=1)
    command()
    layers()
    first_steps()


if __name__ == "__main__":
    main()
