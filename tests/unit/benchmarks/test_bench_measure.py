"""What is timed: the first call, the pass after which the loss is taken, parts of the pass."""

from __future__ import annotations

import peer
import pytest


class Runner:
    """Counts calls; each step takes `step` seconds of a clock of its own."""

    def __init__(self, step, whole=False, stall=0.0):
        self.step, self.whole, self.stall, self.now = step, whole, stall, 0.0
        self.calls = []

    def run(self, first, last):
        self.calls.append((first, last))
        self.now += self.step * (last - first) + (self.stall if len(self.calls) == 3 else 0)

    def loss(self):
        self.calls.append("loss")
        return 0.5

    def clock(self):
        return self.now


def measured(runner, steps, seconds=1.0):
    return peer.measure(runner, steps, seconds, lambda: 100 + runner.now, runner.clock)


def test_the_loss_is_taken_after_one_pass():
    runner = Runner(0.01)
    result = measured(runner, 50)
    assert runner.calls[:3] == [(0, 1), (1, 50), "loss"]
    assert result["loss"] == 0.5
    assert result["first_s"] == pytest.approx(100.01) and result["first_steps"] == 1


def test_parts_are_long_enough_for_the_clock_and_their_time_is_that_of_a_step():
    result = measured(Runner(0.01), 50)
    assert result["steps_a_part"] == 10
    assert result["step_s"] == pytest.approx(0.01)
    assert result["parts"] == 10  # 1 s in parts of 0.1 s


def test_a_stall_does_not_shorten_the_parts():
    assert measured(Runner(0.01, stall=5.0), 50)["steps_a_part"] == 10


def test_a_part_is_no_longer_than_the_pass():
    result = measured(Runner(1e-5), 600)
    assert result["steps_a_part"] == 600 and result["step_s"] == pytest.approx(1e-5)


def test_a_runner_that_does_whole_passes_is_called_for_nothing_less():
    runner = Runner(0.01, whole=True)
    result = measured(runner, 50)
    assert set(runner.calls) == {(0, 50), "loss"}
    assert result["first_steps"] == 50 and result["first_s"] == pytest.approx(100.5)
    assert result["step_s"] == pytest.approx(0.01)


def test_long_steps_are_timed_three_times():
    result = measured(Runner(5.0), 3)
    assert (result["parts"], result["steps_a_part"]) == (3, 1)


def test_very_long_steps_are_timed_once():
    assert measured(Runner(100.0), 3)["parts"] == 1
