"""What one of several processes does wrong, or does no more: the others say so, and end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import knetc
from distributed.cases import DROPOUT
from distributed.launch import BOTH, HERE, command, environment, launch

BY = ["mpirun", pytest.param("variables", marks=pytest.mark.deep)]


def run(
    fault: str, folder: Path, by: str = "mpirun", backend: str = "numpy"
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs a fault; and what each process has written."""
    done = launch(3, HERE / "faults.py", fault, str(folder), backend, by=by, timeout=120)
    files = [folder / f"rank{r}.txt" for r in range(3)]
    return done, [f.read_text() if f.exists() else "" for f in files]


DIFFERENT = {
    "keywords": "models of different keywords (ranks 0, 2: hidden=6; rank 1: hidden=7)",
    "source": "models of different source text (ranks 0, 1: ",
    "shapes": "ranks 0, 2: train 1 epochs from softloss of (5, 30) and (30,) in minibatches of 10, ",
    "by_hand": "ranks 0, 1: update, gclip 0, gscale 1 after back from softloss over 6 columns",
    "alone": "rank 0: grad of ",
    "loss": "rank 0: update, gclip 0, gscale 1 after back from quadloss over 6 columns",
    "sets_alone": "rank 0: set ",
    "seeds_alone": "(call 1, reset 0, seed 3); ranks 1, 2: forw ",
    "resets_alone": "(call 2, reset 1); ranks 1, 2: forw ",
}


HOW = [("mpirun", fault) for fault in DIFFERENT] + [
    pytest.param("variables", fault, marks=[] if fault == "by_hand" else pytest.mark.deep) for fault in DIFFERENT
]


@pytest.mark.parametrize(("by", "fault"), HOW)
def test_processes_that_differ_all_say_so(by: str, fault: str, tmp_path: Path) -> None:
    done, told = run(fault, tmp_path, by)
    assert done.returncode != 0
    for text in told:
        assert text.startswith("KnetError: ") and DIFFERENT[fault] in text, (told, done.stderr)


def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    """mpirun sees it, and says which it was."""
    done, told = run("killed", tmp_path)
    assert done.returncode != 0 and not any("end" in t for t in told)
    assert "rank 2" in done.stderr and "signal 9" in done.stderr


def test_a_process_that_is_killed_is_named_by_the_others(tmp_path: Path) -> None:
    """Where nobody stands by to end them: at once, and not when it is given up, which would be said in other words."""
    done, told = run("killed", tmp_path, "variables")
    assert "rank 2 has ended with -9" in done.stderr and "did not end" not in done.stderr and told[2] == ""
    for text in told[:2]:
        assert "rank 2 is gone, as if it was killed" in text and "seconds" not in text, (told, done.stderr)


@pytest.mark.parametrize("by", BY)
def test_nccl_does_not_wait_for_a_process_that_hangs(by: str, tmp_path: Path) -> None:
    """A call that sums is made when all are there to make it."""
    done, told = run("stopped_between", tmp_path, by, "emulated")
    assert done.returncode != 0
    gone = "rank 1 has not come to back from softloss over 6 columns (call 1, reset 0) within 3 seconds"
    for text in (told[0], told[2]):
        assert gone in text, (told, done.stderr)


@pytest.mark.parametrize("by", BY)
def test_a_process_that_stops_in_a_sum_of_nccls_is_named(by: str, tmp_path: Path) -> None:
    """The others are in the call that sums, which cannot be ended; so their processes are."""
    done, told = run("stopped_in_a_sum", tmp_path, by, "emulated")
    assert done.returncode != 0 and told == ["", "", ""]
    assert "knetc: rank 1 has stopped, for 3 seconds; rank " in done.stderr, done.stderr
    assert " of 3 ends all processes, as 'backward' would wait for ever" in done.stderr


def test_a_process_that_is_killed_in_a_sum_of_nccls_is_named_at_once(tmp_path: Path) -> None:
    done, told = run("killed_in_a_sum", tmp_path, "variables", "emulated")
    assert done.returncode != 0 and told == ["", "", ""]
    for rank in (0, 2):
        # And nobody else: who looks late has been told why the other one has ended.
        (line,) = (x for x in done.stderr.splitlines() if f"; rank {rank} of 3 ends all processes" in x)
        assert "rank 1 is gone, as if it was killed (its connection has ended);" in line
        assert f"rank {2 - rank}" not in line


@pytest.mark.parametrize("by", BY)
def test_processes_that_share_a_gpu_all_say_so(by: str, tmp_path: Path) -> None:
    """NCCL would refuse some of them, and the others would wait."""
    done, told = run("same_gpu", tmp_path, by, "emulated")
    assert done.returncode != 0
    for text in told:
        assert "each process needs a GPU of its own, and ranks 0, 2 have the same (here 0000:01:00.0)" in text, told


@pytest.mark.parametrize("by", BOTH)
def test_a_process_that_hangs_is_named(by: str, tmp_path: Path) -> None:
    done, told = run("stopped", tmp_path, by)
    assert done.returncode != 0
    for text in (told[0], told[2]):
        assert "rank 1 has not come to " in text and "within 3 seconds" in text, (told, done.stderr)


@pytest.mark.parametrize("by", BY)
def test_a_process_that_leaves_is_named_at_once(by: str, tmp_path: Path) -> None:
    """Not when it is given up, which would be said in other words."""
    done, told = run("leaves", tmp_path, by)
    assert done.returncode != 0 and told[1] == ""
    for text in (told[0], told[2]):
        assert "rank 1 has left the script" in text and "seconds" not in text, (told, done.stderr)


@pytest.mark.parametrize("by", BOTH)
def test_an_error_of_one_process_ends_the_others_which_name_it(by: str, tmp_path: Path) -> None:
    done, told = run("raises", tmp_path, by)
    assert done.returncode != 0 and told[1] == "" and "did not end" not in done.stderr
    assert "ValueError: this process has a fault of its own" in done.stderr
    assert "knetc: rank 1 of 3 ends all processes: ValueError" in done.stderr
    for text in (told[0], told[2]):
        wanted = "rank 1 has ended by ValueError: this process has a fault of its own"
        assert wanted in text and "seconds" not in text, (told, done.stderr)


@pytest.mark.parametrize("by", BY)
def test_what_is_waited_for_at_the_start_is_set_apart(by: str, tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    done, told = run("slow", tmp_path, by)
    assert done.returncode == 0 and told == ["has begun"] * 3, (told, done.stderr)
    done, told = run("late", tmp_path / "late", by)
    assert done.returncode != 0
    for text in (told[0], told[2]):
        assert "rank 1 has not come to distribute a model within 2 seconds" in text, (told, done.stderr)


@pytest.mark.parametrize("by", BY)
def test_what_is_set_is_what_rank_0_sets(by: str, tmp_path: Path) -> None:
    done, told = run("sets", tmp_path, by)
    assert done.returncode == 0, done.stderr
    net = knetc.compile(DROPOUT, backend="numpy")
    net.forw(np.zeros((5, 6)))
    drawn = [np.random.default_rng(0).normal(size=dims) for dims in net.params().values()]
    wanted = [np.asfortranarray(array, np.float32).tobytes().hex() for array in drawn]
    assert told == [str(wanted)] * 3


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("by", BY)
def test_a_save_is_whole_or_absent_whoever_dies(by: str, victim: int, tmp_path: Path) -> None:
    words = command(3, HERE / "faults.py", "saves", str(tmp_path), by=by)
    running = subprocess.Popen(words, env=environment(by), stderr=subprocess.PIPE, text=True)
    pid, saved = tmp_path / f"pid{victim}.txt", tmp_path / "model.knet"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (saved.exists() and pid.exists() and pid.read_text()):
        time.sleep(0.01)
    time.sleep(random.Random(victim).uniform(0, 0.3))
    os.kill(int(pid.read_text()), signal.SIGKILL)
    _, errors = running.communicate(timeout=60)
    assert running.returncode != 0 and f"rank {victim}" in errors
    net = knetc.load(saved, "model", backend="numpy")
    assert {dims[-1] for dims in net.state().values()} == {5}  # all columns, of all processes


@pytest.mark.parametrize("by", BY)
def test_what_rank_0_has_holds_for_all(by: str, tmp_path: Path) -> None:
    """A model that it has loaded, an option that it has set; and it alone prints and writes."""
    done, told = run("rank_0_rules", tmp_path, by)
    assert done.returncode == 0, done.stderr
    assert len(set(told)) == 1 and told[0]
    assert done.stdout.split("\n") == ["printed by rank 0", ""]
    net = knetc.load(tmp_path / "model.knet", "model", backend="numpy")
    wanted = _steps(net)
    after = knetc.load(tmp_path / "after.knet")
    assert after["note"] == "whole"
    assert knetc.load(tmp_path / "alone.knet", "model").wnorm() == after["model"].wnorm()
    for name, value in wanted.items():
        assert abs(after["model"].get(name) - value).max() < 1e-6


def _steps(net: knetc.Model) -> dict[str, np.ndarray]:
    """The steps of `faults.rank_0_rules` by one process."""
    x = np.random.default_rng(0).normal(size=(5, 12))
    for k in range(4):
        if k == 1:
            net.setp(momentum=0.9, lr=0.125)
        net.forw(x)
        net.back(np.zeros(12, int), knetc.softloss)
        net.update()
    return {name: net.get(name) for name in net.params()}


def test_without_mpi_it_is_said_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    net = knetc.compile("@knet function f(x)\n return wb(x; out=2)\nend\n", backend="numpy")
    with pytest.raises(knetc.KnetEnvironmentError, match=r"pip install 'knetc\[dist\]'"):
        knetc.distribute(net)
    with pytest.raises(knetc.KnetTypeError, match="got int"):
        knetc.distribute(3)
    with pytest.raises(knetc.KnetTypeError, match="timeout"):
        knetc.distribute(net, timeout=-1)
    with pytest.raises(knetc.KnetTypeError, match="start"):
        knetc.distribute(net, start=0)
