"""The process of one measurement: `python benchmarks/peer.py PEER …` runs one form of one workload, prints a JSON line.

    peer.py torch --describe --device cpu                      what the peer has here
    peer.py torch W3 eager+cl --problem W3.npz --threads 2     one measurement
    peer.py sgemm --device cpu                                 the machine's rate of matrix products

Before it: `run.py`, which starts these processes in turns. After it: a module of `peers/`. Nothing is imported before
the threads are pinned.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peers.base import Runner

SECONDS_OF_A_PART = 0.1  # timed at once, so that neither the clock nor a call's start weighs
PATIENCE = 60.0  # seconds of measuring after which one part is enough


def main(argv: list[str] | None = None) -> None:
    """Runs what the arguments ask for."""
    started = time.time()
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("peer")
    p.add_argument("workload", nargs="?")
    p.add_argument("variant", nargs="?")
    p.add_argument("--describe", action="store_true", help="print what the peer has on the device, and measure nothing")
    p.add_argument("--problem", type=Path, help="the .npz file of the data and weights")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int)
    p.add_argument("--seconds", type=float, default=2.0, help="how long to measure, after the pass that is checked")
    p.add_argument("--started", type=float, default=started, help="when the process was started (time.time)")
    args = p.parse_args(argv)
    if args.threads:
        pin(args.threads)
    if args.peer == "sgemm":
        result: dict[str, Any] = {"gflops": sgemm(args.device)}
    elif args.describe:
        result = describe(args.peer, args.device)
    else:
        result = one(args)
    print(json.dumps(result), flush=True)


def pin(threads: int) -> None:
    """Lets this process use that many cores, where the system can say so. The environment pins the libraries' pools."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def describe(name: str, device: str) -> dict[str, Any]:
    """{"absent": why} or {"versions": text, "variants": {workload: [variant, …]}}."""
    import peers
    from workloads import WORKLOADS

    peer = peers.load(name)
    if reason := peer.absent(device):
        return {"absent": reason}
    forms = {
        w.name: [
            {"name": v.name, "environment": dict(v.environment), "slow": v.slow, "aside": v.aside}
            for v in peer.variants(w, device)
        ]
        for w in WORKLOADS.values()
    }
    return {"versions": peer.versions(), "variants": forms}


def one(args: argparse.Namespace) -> dict[str, Any]:
    """One measurement."""
    import peers
    from peers.base import Task
    from workloads import WORKLOADS, Problem

    memory = gpu_memory() if args.device == "cuda" else 0.0
    begin = time.perf_counter()
    problem = Problem.load(args.problem)
    reading = time.perf_counter() - begin  # no part of what a peer does
    workload = WORKLOADS[args.workload]
    threads = args.threads or os.cpu_count() or 1
    runner = peers.load(args.peer).build(Task(workload, args.variant, args.device, threads, problem))
    result = measure(runner, workload.steps, args.seconds, lambda: time.time() - args.started - reading)
    result["gflops"] = workload.flops / result["step_s"] / 1e9
    result["peak_mb"] = peak_memory()
    if args.device == "cuda":
        result["gpu_mb"] = gpu_memory() - memory
    return result


def measure(
    runner: Runner, steps: int, seconds: float, age: Callable[[], float], clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Times a runner. `age`: seconds since the process started.

    First comes one pass, after which the loss is taken; its first call (one step, or the pass where the runner can do
    no less) ends the time to the first step. Then parts of the pass, long enough for the clock, until `seconds` are
    spent, three at least unless they take minutes.
    """
    runner.run(0, steps if runner.whole else 1)
    first = age()
    if not runner.whole and steps > 1:
        runner.run(1, steps)
    loss = runner.loss()
    part, step = steps, 0.0
    if not runner.whole:
        # The least of a few: one may have met a stall or a compilation.
        step = seconds_of(runner, 1, clock)
        for _ in range(4 if step < 1 else 0):
            step = min(step, seconds_of(runner, 1, clock))
        part = max(1, min(steps, round(SECONDS_OF_A_PART / max(step, 1e-9))))
    if step < 1:
        runner.run(0, part)
    times: list[float] = []
    before, own, wall = busy(), time.process_time(), clock()
    while not times or (len(times) < 3 and sum(times) < PATIENCE) or (sum(times) < seconds and len(times) < 1000):
        times.append(seconds_of(runner, part, clock))
    after = busy()
    others = None
    if before is not None and after is not None:
        others = (after - before - (time.process_time() - own)) / (clock() - wall)
    per_step = [t / part for t in times]
    return {
        "first_s": first,
        "first_steps": steps if runner.whole else 1,
        "step_s": statistics.median(per_step),
        "least_s": min(per_step),
        "most_s": max(per_step),
        "parts": len(times),
        "steps_a_part": part,
        "loss": loss,
        "others": others,
    }


def seconds_of(runner: Runner, steps: int, clock: Callable[[], float]) -> float:
    """How long the first `steps` steps of the pass take."""
    begin = clock()
    runner.run(0, steps)
    return clock() - begin


# --- the machine ------------------------------------------------------------------------------------------------------


def busy() -> float | None:
    """CPU seconds spent on the whole machine so far; None where the system does not tell."""
    try:
        numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    return (sum(numbers) - numbers[3] - numbers[4]) / os.sysconf("SC_CLK_TCK")


def peak_memory() -> float:
    """The most memory that this process has had, in MB."""
    try:
        # Not ru_maxrss, which counts what the parent had when it started this process.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 1024


def gpu_memory() -> float:
    """The memory in use on the GPU, in MB: of all processes, so measure alone."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0.0
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()[0])


def sgemm(device: str) -> float | None:
    """GFLOP/s of a float32 matrix product: NumPy's, or on a GPU PyTorch's (without TF32); None without PyTorch."""
    if device == "cpu":
        import numpy as np

        n = 1024
        a = np.ones((n, n), np.float32)
        out = np.empty_like(a)

        def product() -> None:
            np.matmul(a, a, out=out)
    else:
        try:
            import torch
        except ImportError:
            return None
        n = 8192
        b = torch.ones((n, n), device=device)

        def product() -> None:
            torch.matmul(b, b)
            torch.cuda.synchronize()

    times = []
    for _ in range(12):
        begin = time.perf_counter()
        product()
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / statistics.median(times[3:]) / 1e9


if __name__ == "__main__":
    main()
