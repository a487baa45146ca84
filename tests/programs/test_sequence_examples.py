"""The examples over sequences run as a user runs them, at small sizes, on a text of the test and on shipped digits."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knetc

from .test_examples import EXAMPLES, run

TEXT = "to be or not to be, that is the question.\n" * 60
SMALL = [
    "--hidden",
    "24",
    "--embedding",
    "8",
    "--batch",
    "8",
    "--seqlength",
    "10",
    "--lr",
    "0.02",
    "--backend",
    "numpy",
]


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def charlm(*arguments: str) -> str:
    """What the program prints."""
    done = run("charlm.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as f:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]


def same(first: Path, second: Path) -> None:
    """Two saved runs are one but for the seconds they took."""
    a, b = (knetc.load(path, backend="numpy") for path in (first, second))
    for name in a["model"].params():
        np.testing.assert_array_equal(a["model"].get(name), b["model"].get(name))
    for saved in (a, b):
        saved.pop("model")
        for row in saved["rows"]:
            row.pop("seconds")
    assert a == b


def test_the_character_model_learns_and_writes(text: str, tmp_path: Path) -> None:
    kept, best, curve = tmp_path / "kept.h5", tmp_path / "best.h5", tmp_path / "curve.csv"
    files = ["--save", str(kept), "--best", str(best), "--record", str(curve)]
    writing = ["--generate", "60", "--temperature", "0.3", "--start", "to "]
    out = charlm(text, *SMALL, "--epochs", "5", *files, *writing)
    rows = table(curve)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["dev_loss"] < 0.3 < 1 < rows[0]["train_loss"]
    assert rows[-1]["dev_bits"] == pytest.approx(rows[-1]["dev_loss"] / np.log(2), rel=1e-4)
    assert out.splitlines()[5].startswith("be or not to be, that")
    # The same characters, from each of the two files.
    written = out.split("\n", 5)[5]
    for path in (kept, best):
        again = charlm("--load", str(path), "--backend", "numpy", *writing)
        assert again[:20] == written[:20] and len(again) == 61
    assert knetc.load(best, "best") == min(row["dev_loss"] for row in knetc.load(kept, "rows"))


def test_a_resumed_run_is_an_uninterrupted_one(text: str, tmp_path: Path) -> None:
    whole, half, rest = (tmp_path / f"{name}.h5" for name in ("whole", "half", "rest"))
    charlm(text, *SMALL, "--epochs", "3", "--save", str(whole))
    charlm(text, *SMALL, "--epochs", "1", "--save", str(half))
    charlm(text, "--load", str(half), "--epochs", "3", "--save", str(rest), "--backend", "numpy")
    same(whole, rest)


def test_ctrl_c_leaves_a_model_that_goes_on(text: str, tmp_path: Path) -> None:
    kept, rest, whole = (tmp_path / f"{name}.h5" for name in ("kept", "rest", "whole"))
    command = [sys.executable, str(EXAMPLES / "charlm.py"), text, *SMALL]
    with subprocess.Popen(
        [*command, "--epochs", "100000", "--save", str(kept)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline().startswith("epoch 1")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, ""), err
    found = re.search(r"stopped in pass (\d+), after (\d+) updates of it; saved in (.*)", out)
    assert found and found[3] == str(kept)
    passes = int(found[1])
    saved = knetc.load(kept, backend="numpy")
    assert (len(saved["rows"]), len(saved["losses"])) == (passes - 1, int(found[2]))
    charlm(text, "--load", str(kept), "--epochs", str(passes), "--save", str(rest), "--backend", "numpy")
    charlm(text, *SMALL, "--epochs", str(passes), "--save", str(whole))
    same(whole, rest)


def test_the_rate_falls_when_the_second_text_gets_no_better(text: str, tmp_path: Path) -> None:
    """It is another language, of which nothing is learnt; the third text is tested at the end."""
    other, curve = tmp_path / "other.txt", tmp_path / "curve.csv"
    other.write_text("zzyzx qqqq!" * 20)
    out = charlm(text, str(other), text, *SMALL, "--epochs", "4", "--decay", "0.25", "--record", str(curve))
    rates = [row["rate"] for row in table(curve)]
    losses = [row["dev_loss"] for row in table(curve)]
    best, expected = np.inf, [0.02]
    for loss in losses[:-1]:
        expected.append(expected[-1] * (1 if loss < best else 0.25))
        best = min(loss, best)
    assert rates == pytest.approx(expected) and rates[-1] < 0.02
    assert float(out.splitlines()[4].removeprefix(f"{text}: loss ")) < losses[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "0"], "argument --hidden: '0' is not an integer of at least 1"),
        (["--epochs", "many"], "argument --epochs: 'many' is not an integer of at least 0"),
        (["--dropout", "1"], "argument --dropout: '1' is not a number from 0 to below 1"),
        (["--temperature", "0"], "argument --temperature: '0' is not a number over 0"),
        (["--lr", "nan"], "argument --lr: 'nan' is not a number over 0"),
        (["--optimiser", "best"], "argument --optimiser: invalid choice: 'best'"),
        (["--save", "none/such/model.h5"], "argument --save: 'none/such/model.h5' is not a file in a folder that is"),
        (["--start", "toÉ"], "--start: the model does not know 'É'"),
        (["--batch", "100000"], "seqbatch: 2268 symbols do not fill 100000 columns"),
        (["--backend", "abacus"], "there is no back end 'abacus'"),
        (["--load", "none.h5"], "none.h5 cannot be read: No such file or directory"),
        (["--load", "none.h5", "--hidden", "9"], "--hidden is an option of a new model"),
    ],
)
def test_bad_options_are_said_to_be_bad(arguments: list[str], message: str, text: str) -> None:
    done = run("charlm.py", text, *arguments)
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr


def test_bad_files_are_said_to_be_bad(text: str, tmp_path: Path) -> None:
    latin, empty, other = tmp_path / "latin.txt", tmp_path / "empty.txt", tmp_path / "other.h5"
    empty.touch()
    latin.write_bytes(b"\xe9t\xe9" * 20)
    knetc.save(other, model=knetc.compile(None, "wdot", out=2))
    for arguments, message in (
        ([str(tmp_path / "none.txt")], "none.txt"),
        ([str(latin)], "latin.txt is not in UTF-8"),
        ([text, str(empty)], "empty.txt is empty"),
        (["--load", str(other)], "was not saved by charlm.py"),
    ):
        done = run("charlm.py", *arguments)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_short_sequences_are_copied(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    arguments = ["--length", "2", "--hidden", "48", "--updates", "400", "--every", "200", "--lr", "0.01"]
    done = run("copyseq.py", *arguments, "--backend", "numpy", "--record", str(curve))
    assert done.returncode == 0, done.stderr
    rows = table(curve)
    assert [row["updates"] for row in rows] == [200, 400]
    assert rows[-1]["copied"] > 0.9 and rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize(("cell", "pixels"), [("irnn", "28"), ("lstm", "56")])
def test_digits_are_read_in_steps(cell: str, pixels: str, tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    arguments: list[Any] = [cell, "--pixels", pixels, "--digits", "--updates", "150", "--every", "75", "--lr", "0.003"]
    done = run("pixels.py", *arguments, "--batch", "50", "--hidden", "48", "--backend", "numpy", "--record", str(curve))
    assert done.returncode == 0, done.stderr
    assert table(curve)[-1]["test_error"] < 0.3


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("pixels.py", ["gru"], "argument cell: invalid choice: 'gru'"),
        ("pixels.py", ["irnn", "--pixels", "27"], "--pixels: 27 is no divisor of 784"),
        ("pixels.py", ["irnn", "--digits", "--batch", "3000"], "--batch: there are 2000 images to train on"),
        ("copyseq.py", ["--length", "0"], "argument --length: '0' is not an integer of at least 1"),
        ("adding.py", ["--length", "1"], "--length: two numbers are marked"),
        ("adding.py", ["--record", "none/such/curve.csv"], "is not a file in a folder that is there"),
    ],
)
def test_bad_options_of_the_others(script: str, arguments: list[str], message: str) -> None:
    done = run(script, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_the_examples_shadow_no_module_of_python() -> None:
    """A program has its folder first on the path, so that examples/copy.py would be everybody's `import copy`."""
    mine = {path.stem for path in EXAMPLES.glob("*.py")}
    assert not mine & {*sys.stdlib_module_names, "numpy", "tqdm", "h5py", "knetc"}
    assert os.path.isfile(EXAMPLES / "copyseq.knet")
