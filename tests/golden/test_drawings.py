"""`--emit dot` of some models, whole, and the pictures of the docs: they are what the command draws.

`pytest tests/golden --update-golden` writes them anew.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from knetc.cli import main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOTS = {
    "lenet": "examples/lenet.knet",
    "charlm": "tests/golden/models/charlm.knet",
    "gru2": "tests/golden/models/gru2.knet",
    "two": "tests/golden/models/two.knet",
}
PICTURES = {"lenet": "examples/lenet.knet", "lstm": "docs/pictures/lstm.knet"}


def compare(text: str, golden: Path, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "differs; pytest tests/golden --update-golden writes it anew"


def drawn(path: str, kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(ROOT / path), "--emit", kind, "-o", "-"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("name", DOTS)
def test_dot(name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    text = drawn(DOTS[name], "dot", capsys)
    assert str(ROOT) not in text
    compare(text, HERE / f"{name}.dot", request)


@pytest.mark.parametrize("name", DOTS)
def test_graphviz_reads_it(name: str) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed, and knetc does not need it")
    done = subprocess.run(["dot", "-Tplain", str(HERE / f"{name}.dot")], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    drawn = [line.split(" ", 1)[0] for line in done.stdout.splitlines()]
    assert drawn.count("edge") == (HERE / f"{name}.dot").read_text().count(" -> ")


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_the_docs(name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    compare(drawn(PICTURES[name], "svg", capsys), ROOT / "docs" / "pictures" / f"{name}.svg", request)
