"""The numbers that all peers start from; knetc and hand-written NumPy agree on them, in small."""

from __future__ import annotations

import dataclasses

import numpy as np
import peers
import pytest
import workloads
from peers.base import Task
from workloads import WORKLOADS, Problem, make


def small(name, **changes):
    return dataclasses.replace(WORKLOADS[name], **changes)


SMALL = [
    small("W1", batch=7, steps=5),
    small("W2", batch=7, steps=5),
    small("W3", batch=3, steps=3),
    small("W5", steps=4),
    small("W6", steps=6),
    small("W7", batch=5, steps=3, hidden=(20, 20, 20)),
]


def loss_after_a_pass(workload, peer, variant):
    # A problem of its own: peers may change the arrays that they are given.
    runner = peers.load(peer).build(Task(workload, variant, "cpu", 1, make(workload, real=False)))
    before = runner.loss()
    runner.run(0, workload.steps)
    return before, runner.loss()


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_knetc_and_numpy_have_the_same_losses_after_a_pass(workload):
    before, expected = loss_after_a_pass(workload, "numpy", "planned")
    if workload.trains:
        assert expected < before
    for variant in ("calls", "train") if workload.trains else ("forw",):
        found = loss_after_a_pass(workload, "knetc-numpy", variant)
        assert found == pytest.approx((before, expected), rel=1e-5), variant


def test_text_has_the_same_losses_after_two_windows(monkeypatch):
    for module in ("workloads", "peers.knetc", "peers.numpy"):
        monkeypatch.setattr(f"{module}.TIME", 6)
        monkeypatch.setattr(f"{module}.CLIP", 0.5)  # less than the gradient of so few steps
    workload = small("W4b", batch=3, steps=2)
    before, expected = loss_after_a_pass(workload, "numpy", "hoist")
    assert expected < before - 0.02
    for peer, variant in (("numpy", "reassoc"), ("knetc-numpy", "calls"), ("knetc-numpy", "train")):
        found = loss_after_a_pass(workload, peer, variant)
        assert found == pytest.approx((before, expected), rel=1e-5), (peer, variant)


def test_clipping_decides_the_text_workload(monkeypatch):
    workload = small("W4", batch=2, steps=1)
    _, clipped = loss_after_a_pass(workload, "numpy", "hoist")
    monkeypatch.setattr("peers.numpy.CLIP", 1e9)
    _, free = loss_after_a_pass(workload, "numpy", "hoist")
    assert abs(free - clipped) > 10 * workloads.TOLERANCE * clipped


def test_a_problem_comes_back_from_its_file(tmp_path):
    problem = make(SMALL[2], real=False)
    problem.save(tmp_path / "p.npz")
    again = Problem.load(tmp_path / "p.npz")
    for mine, theirs in ((problem.weights, again.weights), (problem.data, again.data)):
        assert list(mine) == list(theirs)
        assert all(np.array_equal(a, theirs[k]) and a.dtype == theirs[k].dtype for k, a in mine.items())


def test_windows_follow_each_other_and_their_answers_are_one_step_on():
    problem = make(small("W4", batch=2, steps=3), real=False)
    x, y = problem.windows()
    streams = problem.data["symbols"]
    assert x.shape == y.shape == (3, 100, 2)
    assert np.array_equal(x.reshape(-1, 2), streams[:-1]) and np.array_equal(y.reshape(-1, 2), streams[1:])
    assert streams.min() == 0 and streams.max() < 65


def test_random_images_are_as_sparse_as_digits():
    x = make(small("W3", steps=20), real=False).data["x"]
    assert (x > 0).mean() == pytest.approx(0.19, abs=0.005)
    assert x.min() == 0 and x.max() <= 1
    assert x[x > 0].mean() == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("W1", 2 * 2 * 100 * 784 * 10),
        ("W2", 2 * 2 * 100 * 784 * 100 + 3 * 2 * 100 * 100 * 10),
        ("W3", 100 * (2 * 2 * 576 * 20 * 25 + 3 * 2 * 64 * 50 * 500 + 3 * 2 * 800 * 500 + 3 * 2 * 500 * 10)),
        ("W4", 3 * 2 * 128 * 100 * (256 * 2048 + 512 * 2048 + 512 * 65)),
        ("W4b", 3 * 2 * 128 * 100 * (256 * 2048 + 3 * 512 * 2048 + 512 * 65)),
        ("W5", 2 * 576 * 20 * 25 + 2 * 64 * 50 * 500 + 2 * 800 * 500 + 2 * 500 * 10),
    ],
)
def test_operations_are_counted_as_by_hand(name, operations):
    assert WORKLOADS[name].flops == operations
