"""The model of many GPUs: its figures are the plan's, and it says nothing absurd."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import scaling_model as model
from workloads import WORKLOADS

SCRIPT = Path(model.__file__).with_name("scaling.py")


def test_what_is_measured_is_what_is_said_of() -> None:
    """LeNet on two processes: as many bytes as it has parameters, and times that are some."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed: pip install 'knetc[dist]'")
    words = [sys.executable, str(SCRIPT), "--ranks", "2", "--models", "lenet", "--rounds", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert row[:3] == ["LeNet, 128 columns", "2", "1.72"] and all(float(x) > 0 for x in row[3:])


@pytest.fixture(scope="module")
def lenet() -> model.Workload:
    return model.workloads()[0]


def test_the_figures_are_those_of_the_plan(lenet: model.Workload) -> None:
    """The parameters of the manual's LeNet, and the arithmetic of its products, which is nearly all there is."""
    assert lenet.figures.parameters == 5 * 5 * 20 + 20 + 5 * 5 * 20 * 50 + 50 + 800 * 500 + 500 + 5000 + 10
    products = WORKLOADS["W3"].flops / WORKLOADS["W3"].batch
    assert products < lenet.figures.arithmetic(1000) / 1000 < 1.15 * products


def test_a_sum_costs_more_among_more(lenet: model.Workload) -> None:
    machine = model.Machine()
    times = [machine.allreduce(1e6, n) for n in model.GPUS]
    assert times[0] == 0 and all(a < b for a, b in pairwise(times))
    assert machine.allreduce(4e9, 1024) == pytest.approx(2 * 4e9 / (0.7 * machine.network), rel=0.2)


def test_efficiency_falls_from_one(lenet: model.Workload) -> None:
    rows = model.rows(lenet, model.Machine())
    assert rows[0][3] == rows[0][5] == 1
    assert all(a[3] > b[3] and a[5] > b[5] for a, b in pairwise(rows))
    weak, strong, fastest = model.stops(lenet, model.Machine())
    assert strong <= fastest <= 1024 and strong <= weak


def test_a_sum_beside_the_backward_pass_costs_what_is_left_of_it(lenet: model.Workload) -> None:
    """By hand: two buckets, of which the first is final after one of three kernels of 10 ms."""
    machine = model.Machine()
    each = round(0.01 * machine.reached * machine.memory)
    first, second = machine.allreduce(1e9, 8), machine.allreduce(1e6, 8)
    assert 0.001 < first < 0.02 and second < 0.001
    figures = model.Figures("three kernels", ((0, 0, each, 0),) * 3, 1000, 1, ((1, 10**9), (3, 10**6)))
    step = figures.step(machine, 1)
    assert step == pytest.approx(0.03, abs=1e-4)
    assert figures.overlapped(machine, 1, 8) == pytest.approx(step + second)
    longer = model.Figures("three kernels", figures.kernels, 1000, 1, ((1, 10**10), (3, 10**6)))
    left = machine.allreduce(1e10, 8) - 0.02
    assert left > 0.01 and longer.overlapped(machine, 1, 8) == pytest.approx(step + left + second, rel=1e-3)
    assert figures.overlapped(machine, 1, 1) == step
    full = 4 * (800 * 500 + 500 + 5000 + 10)  # the two full layers of LeNet, and then the convolutions
    assert [size for _, size in lenet.figures.buckets] == [full, lenet.figures.gradient - full]
