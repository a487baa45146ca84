"""What a step costs on many GPUs, from the plan's own figures and published speeds; docs/scaling.md explains it.

`python benchmarks/scaling_model.py` prints the tables. Before it: the plan of a model, as the compiler makes it, with
the arithmetic and the bytes of every kernel. Nothing here is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knetc import driver
from knetc.codegen import buckets
from knetc.codegen.cpu.work import work
from knetc.errors import Source
from knetc.ir.plan import Kernel, Plan, Unit
from knetc.ir.planner import make_plan
from knetc.ir.types import N
from knetc.options import Options

BENCHMARKS = Path(__file__).parent
LENET, MODELS = BENCHMARKS.parent / "examples" / "lenet.knet", BENCHMARKS / "models.knet"


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes. Rates in operations and bytes a second, latencies in seconds.

    NVIDIA H100 SXM (data sheet): 67 TFLOP/s in float32, 3.35 TB/s of memory, NVLink 900 GB/s in both directions
    together. DGX H100 (user guide): 8 GPUs, 8 adapters of 400 Gb/s for them. `reached`: the share of these that a
    kernel or a transfer reaches, and `launch`: the least time of a kernel; both assumed. Latencies: NCCL's own, from
    its choice of an algorithm (src/graph/tuning.cc).
    """

    arithmetic: float = 67e12
    memory: float = 3.35e12
    reached: float = 0.7
    launch: float = 2.5e-6
    node: int = 8
    link: float = 450e9
    network: float = 8 * 50e9

    def kernel(self, operations: float, size: float) -> float:
        """The time of a kernel with so much arithmetic and so many bytes."""
        rate = self.reached
        return max(self.launch, operations / (rate * self.arithmetic), size / (rate * self.memory))

    def allreduce(self, size: float, gpus: int) -> float:
        """The time of NCCL's sum of so many bytes: the fastest of its rings and trees, with and without handshakes."""
        if gpus == 1:
            return 0.0
        nodes = max(1, gpus // self.node)
        inside = min(gpus, self.node)
        wire = self.reached * (self.link if nodes == 1 else min(self.link, self.network))
        slow = 1.8 if nodes > 1 else 1.0
        steps, between = 2 * (gpus - 1), 2 * (nodes - 1)
        stages = math.log2(nodes)
        ring = size * steps / gpus / wire
        tree = 2 * size / wire / 0.9
        ways = (
            3.6 + (steps - between) * 0.47 * slow + between * 2.7 + 4 * ring * 1e6,  # ring, LL
            8.4 + (steps - between) * 3.4 + between * 9.6 + ring * 1e6,  # ring, simple
            4.4 + 2 * ((inside - 1) * 0.52 * slow + stages * 5.0) + 3.8 * tree * 1e6,  # tree, LL
            2 * ((inside - 1) * 28 + stages * 50) + tree * 1e6,  # tree, simple
        )
        return min(ways) * 1e-6


@dataclass(frozen=True)
class Figures:
    """What the plan says of a step: for each kernel its arithmetic and bytes, fixed and for each column.

    `steps`: time steps of a minibatch, over which the kernels run again. `buckets`: as emitted CUDA sums gradients,
    after how many kernels each bucket is final, and its bytes; empty for a sequence, whose sum follows the last step.
    """

    name: str
    kernels: tuple[tuple[int, int, int, int], ...]
    parameters: int
    steps: int = 1
    buckets: tuple[tuple[int, int], ...] = ()

    @property
    def gradient(self) -> int:
        """The bytes that are summed."""
        return 4 * self.parameters

    def step(self, machine: Machine, columns: int) -> float:
        """Forward, backward and update of so many columns on one GPU."""
        once = sum(machine.kernel(f + c * columns, b + k * columns) for f, c, b, k in self.kernels)
        return self.steps * once + machine.kernel(4 * self.parameters, 3 * self.gradient)

    def overlapped(self, machine: Machine, columns: int, gpus: int) -> float:
        """A step whose sums run beside the backward pass, one after another, without slowing it."""
        if not self.buckets or gpus == 1:
            return self.step(machine, columns) + machine.allreduce(self.gradient, gpus)
        ends = [0.0]
        for f, c, b, k in self.kernels:
            ends.append(ends[-1] + machine.kernel(f + c * columns, b + k * columns))
        summed = 0.0
        for after, size in self.buckets:
            summed = max(summed, ends[after]) + machine.allreduce(size, gpus)
        return self.step(machine, columns) + max(0.0, summed - ends[-1])

    def arithmetic(self, columns: int) -> float:
        """Operations of a step."""
        return self.steps * sum(f + c * columns for f, c, _, _ in self.kernels)


def figures(name: str, path: Path, model: str, dims: tuple[Any, ...], steps: int = 1, **keywords: Any) -> Figures:
    """The figures of a model's plan for float32, from softloss."""
    lowered = driver.lower(Source(path.name, path.read_text(encoding="utf-8")), model, keywords)
    options = Options(inputs=(dims,), losses=("softloss",))
    program = driver.optimise(lowered, options)
    plan = make_plan(program, options)
    variant = plan.variants[0]
    units = [*variant.forward, *(u for b in variant.backward for u in b.steps)]
    parameters = sum(i.type.column for i in program.params().values() if i.type)
    sums = () if steps > 1 else tuple(_buckets(plan))
    return Figures(name, tuple(map(_kernel, units)), parameters, steps, sums)


def _buckets(plan: Plan) -> Iterator[tuple[int, int]]:
    """After how many kernels of a step each bucket of gradients is final, and its bytes."""
    order, first = buckets.gradients(plan), 0
    sizes = []
    for end in buckets.ends(plan):
        sizes.append(sum(root.bytes(1) for root in order[first:end]))
        first = end
    variant = plan.variants[0]
    for after, final in sorted(buckets.final(plan, variant.backward[0].steps).items()):
        yield from ((len(variant.forward) + after, sizes[k]) for k in final)


def _kernel(unit: Unit) -> tuple[int, int, int, int]:
    """Operations fixed and a column, bytes fixed and a column, of what runs as one kernel."""
    steps = unit.steps if isinstance(unit, Kernel) else (unit,)
    buffers = {b for s in steps for b in (*s.args, s.out) if b.kind != "register"}
    operations = work([unit])
    fixed = sum(4 * b.type.column for b in buffers if not b.type.batched)
    return operations.fixed, operations.column, fixed, sum(4 * b.type.column for b in buffers if b.type.batched)


@dataclass(frozen=True)
class Workload:
    """A model with the columns of each GPU (weak), and of the whole minibatch (strong)."""

    figures: Figures
    weak: int
    strong: int


def workloads() -> list[Workload]:
    """LeNet, the character model and the wide perceptron of the benchmarks, at their full sizes."""
    return [
        Workload(figures("LeNet", LENET, "lenet", (28, 28, 1, N)), 1024, 8192),
        Workload(figures("LSTM, 100 time steps", MODELS, "charlm", (65, N), steps=100), 128, 8192),
        Workload(figures("MLP of 3 layers of 8,192", MODELS, "wide", (784, N)), 1024, 8192),
    ]


GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def rows(workload: Workload, machine: Machine) -> list[tuple[int, float, float, float, float, float]]:
    """For each number of GPUs: the time of a sum; time and efficiency with the columns of each GPU the same; time and
    efficiency with the whole minibatch the same.
    """
    f, found = workload.figures, []
    weak, strong = f.step(machine, workload.weak), f.step(machine, workload.strong)
    for n in GPUS:
        total = machine.allreduce(f.gradient, n)
        each = weak + total
        whole = f.step(machine, math.ceil(workload.strong / n)) + total
        found.append((n, total, each, weak / each, whole, strong / (n * whole)))
    return found


def stops(workload: Workload, machine: Machine) -> tuple[int, int, int]:
    """The most GPUs with half the efficiency or more, weak and strong; those with the least time for the minibatch."""
    table = rows(workload, machine)
    return (
        max(r[0] for r in table if r[3] >= 0.5),
        max(r[0] for r in table if r[5] >= 0.5),
        min(table, key=lambda r: r[4])[0],
    )


def main() -> None:
    """Prints the tables of docs/scaling.md."""
    machine = Machine()
    for w in workloads():
        f = w.figures
        print(f"\n{f.name}: {f.parameters:,} parameters, {f.gradient / 1e6:.3g} MB summed, {len(f.kernels)} kernels")
        print(f"arithmetic of {w.weak} columns: {f.arithmetic(w.weak) / 1e9:.4g} GFLOP\n")
        print(f"| GPUs | sum, µs | {w.weak} columns each: µs | efficiency | {w.strong:,} together: µs | efficiency |")
        print("|---|---|---|---|---|---|")
        for n, total, each, weak, whole, strong in rows(w, machine):
            print(f"| {n:,} | {total * 1e6:.0f} | {each * 1e6:,.0f} | {weak:.0%} | {whole * 1e6:,.0f} | {strong:.0%} |")
        for n in GPUS[1:]:
            weak, strong = (f.overlapped(machine, c, n) for c in (w.weak, math.ceil(w.strong / n)))
            one = f.step(machine, w.weak), f.step(machine, w.strong) / n
            print(f"overlapped, {n:,}: {one[0] / weak:.0%}, {one[1] / strong:.0%} with {strong * 1e3:.3g} ms")
        print("half the efficiency up to {} and {} GPUs; fastest with {}".format(*stops(w, machine)))


if __name__ == "__main__":
    main()
