"""`make demo`: compiles LeNet to CUDA, shows what was made, and trains a small convolution network on real digits.

Needs no GPU: the model trains on whatever back end `auto` finds, at the least the NumPy interpreter.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from digits import digits

import knetc

HERE = Path(__file__).parent


def compile_lenet() -> None:
    """Runs the command on lenet.knet and shows its report and a few lines of the result."""
    out = Path("lenet.cu")
    print(f"$ knetc examples/lenet.knet -o {out} --report", flush=True)
    subprocess.run(
        [sys.executable, "-m", "knetc.cli", str(HERE / "lenet.knet"), "-o", str(out), "--report"], check=True
    )
    lines = out.read_text().splitlines()
    kernels = [n for n, line in enumerate(lines) if line.startswith("__global__")]
    print(f"\n{out}: {len(lines)} lines, {len(kernels)} kernels. One of them:\n")
    first = kernels[len(kernels) // 2]
    while first and lines[first - 1].startswith("//"):
        first -= 1
    last = next(n for n in range(kernels[len(kernels) // 2], len(lines)) if lines[n].startswith("}"))
    print("\n".join(lines[first : last + 1]))


def train() -> float:
    """Trains for a few epochs; the share of the 500 test digits that come out right."""
    xtrn, ytrn, xtst, ytst = digits()
    trn, tst = knetc.minibatch(xtrn, ytrn, 50), knetc.minibatch(xtst, ytst, 100)
    net = knetc.compile(HERE / "lenet.knet", "lenet", seed=1, cout1=8, cout2=16, hidden=64)
    net.setp(lr=0.1)
    print("\nThe same model, smaller, trained on 2,000 digits:")
    start = time.perf_counter()
    net.train(trn, knetc.softloss, epochs=12)
    accuracy = 1 - net.test(tst, knetc.zeroone)
    print(f"{net!r}".splitlines()[0])
    print(f"Test accuracy {100 * accuracy:.1f} % after {time.perf_counter() - start:.0f} s.")
    return accuracy


if __name__ == "__main__":
    compile_lenet()
    if train() <= 0.9:
        sys.exit("The demonstration did not reach 90 %.")
