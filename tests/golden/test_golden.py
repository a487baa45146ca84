"""The emitted files of three examples, whole: a change of the generator shows as a difference to read.

`pytest tests/golden --update-golden` writes them anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLES = {"housing": "13,N", "mlp": "784,N", "lenet": "28,28,1,N"}


def emit(name: str, **environment: str) -> str:
    command = [sys.executable, "-m", "knetc.cli", f"examples/{name}.knet", "--input", EXAMPLES[name], "-o", "-"]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_emitted_file(name, request):
    text = emit(name)
    golden = HERE / f"{name}.cu"
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "differs; pytest tests/golden --update-golden writes it anew"


def test_same_bytes_whatever_the_hash_seed():
    assert len({emit("lenet", PYTHONHASHSEED=seed) for seed in ("0", "1", "4711")}) == 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_of_the_machine_in_it(name):
    text = (HERE / f"{name}.cu").read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) not in text
    assert max(map(len, text.splitlines())) <= 120
