"""The examples' programs run as a user runs them, on the data that ship with the project."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(
    script: str, *arguments: str, data: str | None = None, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs an example; with a `cache` of its own it also has no way to the network."""
    env = {k: v for k, v in os.environ.items() if k != "KNETC_DATA"}
    if data is not None:
        env["KNETC_DATA"] = data
    if cache is not None:
        env |= {"KNETC_CACHE": str(cache), "https_proxy": "http://127.0.0.1:9"}  # a port that nothing listens on
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments], capture_output=True, text=True, env=env, check=False
    )


@pytest.mark.parametrize(("model", "most"), [("softmax", 0.2), ("mlp", 0.2), ("lenet", 0.12), ("lenet_dropout", 0.15)])
def test_digits_are_learnt(model: str, most: float, tmp_path: Path) -> None:
    table = tmp_path / "curve.csv"
    done = run("mnist.py", model, "--digits", "--epochs", "2", "--batch", "50", "--record", str(table))
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(table.open()))
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert float(rows[1]["test_error"]) < most
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])


def test_the_adding_problem_beats_the_constant_answer(tmp_path: Path) -> None:
    table = tmp_path / "curve.csv"
    done = run("adding.py", "--length", "6", "--hidden", "32", "--updates", "500", "--record", str(table))
    assert done.returncode == 0, done.stderr
    losses = [float(r["loss"]) for r in csv.DictReader(table.open())]
    assert losses[-1] < 0.02 < 0.167 / 2 < losses[0]  # always answering 1 gives half of 0.167


def test_missing_data_are_said_to_be_missing(tmp_path: Path) -> None:
    """In one message, with the network out of reach."""
    done = run("housing.py", cache=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "housing/housing.data could not be downloaded; put https://" in done.stderr
    (tmp_path / "housing").mkdir()
    (tmp_path / "housing" / "housing.data").write_text("1 2 3\n")
    assert "its SHA-256 differs" in run("housing.py", cache=tmp_path, data=str(tmp_path)).stderr
