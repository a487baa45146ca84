"""What the manual says of operators, fillers and options is all that there is."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import knetc
from knetc import ops, values
from knetc.cli import ENDINGS, _parser
from knetc.errors import Source
from knetc.frontend import parser
from knetc.ir.pipeline import PIPELINE
from knetc.runtime.executable import TrainingOptions
from pages.blocks import DOCS, ROOT


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "_extension" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_column(table: str) -> list[str]:
    return re.findall(r"^\| `(\w+)", table, re.MULTILINE)


def test_every_primitive_operator_is_listed_with_its_keywords(tables: ModuleType) -> None:
    table = tables.operators("primitive")
    user = [op for op in ops.registry().values() if op.user]
    assert first_column(table) == [op.name for op in user]
    for op, row in zip(user, table.splitlines()[2:], strict=True):
        assert re.findall(r"`(\w+)=", row) == [k for k, v in op.keywords.items() if not v.internal]
        assert re.search(r"\| \S.* \|$", row)  # says what it is


def test_every_compound_operator_is_listed_with_its_keywords(tables: ModuleType) -> None:
    prelude = parser.parse(Source("prelude.knet", tables.PRELUDE.read_text(encoding="utf-8")))
    rows = tables.operators("compound").splitlines()[2:]
    assert len(rows) == len(prelude.definitions)
    for definition, row in zip(prelude.definitions, rows, strict=True):
        assert row.startswith(f"| `{definition.name}(")
        named = [k.name for k in definition.keywords]
        assert re.findall(r"`(\w+)=", row) == named


def test_every_filler_is_listed(tables: ModuleType) -> None:
    kinds = {kind.__name__ for kind in values.Filler.__subclasses__()}
    assert set(first_column(tables.fillers())) == kinds


def test_every_pass_is_listed(tables: ModuleType) -> None:
    assert first_column(tables.passes()) == [p.name for p in PIPELINE]


def test_the_page_of_the_command_has_every_option() -> None:
    page = (DOCS / "command.md").read_text(encoding="utf-8")
    options = {name for action in _parser()._actions for name in action.option_strings}
    listed = {
        name for row in re.findall(r"^\| (`-.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(-+[\w-]+)", row)
    }
    assert listed == options
    kinds = re.findall(r"^\| (`\w.*?) \| `\.", page, re.MULTILINE)
    assert {kind for row in kinds for kind in re.findall(r"`([\w-]+)`", row)} == set(ENDINGS)


def test_the_page_of_the_operators_has_every_training_option() -> None:
    page = (DOCS / "operators.md").read_text(encoding="utf-8")
    section = page[page.index("## Training options") :]
    assert set(first_column(section)) == {*TrainingOptions.__annotations__, "gclip", "gscale"}


def test_the_page_of_python_has_every_name() -> None:
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    listed = {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)$", page, re.MULTILINE)}
    elsewhere = {*values.FILLERS, *values.CUDNN_CONSTANTS, "Glorot", "Model", "data"}
    assert set(knetc.__all__) <= listed | elsewhere


# The C of the manual, block after block: the model of each, and what it is given.
BLOCKS = [
    ("lenet", "const lenet_real* images, const lenet_real* answers"),
    ("charlm", "charlm_model* net, const charlm_real* const* inputs, const charlm_real* next, charlm_real* losses"),
]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_c_of_the_manual_fits_the_header(number: int, tmp_path: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    blocks = re.findall(r"```c\n(.*?)```", (DOCS / "c.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(BLOCKS)
    model, given = BLOCKS[number]
    run = [sys.executable, "-m", "knetc.cli", str(ROOT / "examples" / f"{model}.knet"), "--emit", "header"]
    subprocess.run([*run, "-o", str(tmp_path / f"{model}.h")], check=True)
    program = tmp_path / "program.c"
    program.write_text(
        f'#include <stddef.h>\n#include "{model}.h"\nint fail(const char* why);\n'
        f"int step({given}) {{\n{blocks[number]}return 0;\n}}\n"
    )
    built = subprocess.run(
        [*shlex.split(compiler), "-x", "c", "-fsyntax-only", "-Wall", "-Werror", str(program)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr


@pytest.mark.deep
def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").is_file()
