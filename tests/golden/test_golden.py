"""The emitted files of some models, whole: a change of the generator shows as a difference to read.

`pytest tests/golden --update-golden` writes them anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODELS = {
    **{name: ROOT / "examples" / f"{name}.knet" for name in ("housing", "mlp", "lenet", "lenet_dropout", "adding")},
    **{path.stem: path for path in sorted((HERE / "models").glob("*.knet"))},
}
INPUTS = {"housing": ["--input", "13,N"], "mlp": ["--input", "784,N"]}


def emit(name: str, kind: str = "cu", **environment: str) -> str:
    path = MODELS[name].relative_to(ROOT)
    command = [sys.executable, "-m", "knetc.cli", str(path), *INPUTS.get(name, []), "--emit", kind, "-o", "-"]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name,kind", [*((name, "cu") for name in MODELS), ("lenet", "cpp"), ("charlm", "cpp")])
def test_emitted_file(name, kind, request):
    text = emit(name, kind)
    golden = HERE / f"{name}.{kind}"
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "differs; pytest tests/golden --update-golden writes it anew"


def test_same_bytes_whatever_the_hash_seed():
    assert len({emit("lenet", PYTHONHASHSEED=seed) for seed in ("0", "1", "4711")}) == 1


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_machine_in_it(name):
    text = (HERE / f"{name}.cu").read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) not in text
    # Lines of the source stand in the head as they are.
    assert max(len(line) for line in text.splitlines() if not line.startswith("//   ")) <= 120


@pytest.mark.parametrize("path", sorted(HERE.glob("*.cu")) + sorted(HERE.glob("*.cpp")), ids=lambda path: path.name)
def test_every_helper_is_used(path):
    """A function of the file that is no part of its interface is called in it."""
    text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    defined = set(re.findall(r"^[\w:<>*&, ]+[*& ](knet_\w+)\([^;]*\{", text, re.MULTILINE))
    assert len(defined) > 20
    assert [name for name in sorted(defined) if len(re.findall(rf"\b{name}\b", text)) < 2] == []
