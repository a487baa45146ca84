"""The command: what it writes, where, its exit codes, and the texts of its own errors."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from knetc.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
LINREG = "@knet function f(x; out=2)\n    return wb(x; out=out)\nend\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.knet"
    path.write_text(LINREG)
    return path


def test_writes_beside_the_source_by_default(model: Path) -> None:
    assert main([str(model), "--input", "3,N"]) == 0
    text = model.with_suffix(".cu").read_text()
    assert "f_forward" in text and "wb(x; out=out)" in text
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.cu", "m.knet"]  # nothing left beside it


@pytest.mark.parametrize("kind", ["cu", "header", "ast", "ir", "ir-opt", "plan", "dot", "svg"])
def test_every_kind_is_written_to_standard_output(model: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--input", "3,N", "--emit", kind, "-o", "-"]) == 0
    first = capsys.readouterr().out
    assert first.strip()
    assert main([str(model), "--input", "3,N", "--emit", kind, "-o", "-"]) == 0
    assert capsys.readouterr().out == first


def test_prefix_names_file_and_header(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("cu", "header"):
        assert main([str(model), "--input", "3,N", "--emit", kind, "--prefix", "linreg", "-o", "-"]) == 0
        text = capsys.readouterr().out
        assert "int linreg_create(linreg_model** model" in text and "f_create" not in text


def test_ir_says_what_was_inferred(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--input", "3,N", "--emit", "ir-opt", "-o", "-", "-D", "out=7"]) == 0
    assert "f32[7,3]" in capsys.readouterr().out


def test_directive_gives_defaults_and_the_command_line_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.knet"
    path.write_text("# knetc: --input 3,N -D out=4\n" + LINREG)
    assert main([str(path), "--emit", "ir-opt", "-o", "-"]) == 0
    assert "f32[4,3]" in capsys.readouterr().out
    assert main([str(path), "--emit", "ir-opt", "-o", "-", "--input", "5,N", "-D", "out=6"]) == 0
    assert "f32[6,5]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("body", "loss"),
    [
        ("return wbf(x; out=2, f=:soft)", "softloss"),
        ("y = wbf(x; out=2, f=:soft)\n    return y", "softloss"),
        ("if a\n        return soft(x)\n    else\n        return soft(wb(x; out=3))\n    end", "softloss"),
        ("return wb(soft(x); out=2)", "quadloss"),
    ],
)
def test_the_loss_suits_the_output(body: str, loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.knet"
    path.write_text(f"@knet function f(x)\n    {body}\nend\n")
    assert main([str(path), "--input", "3,N", "--emit", "ir-opt", "-o", "-"]) == 0
    text = capsys.readouterr().out
    assert f"{loss}(" in text and {"softloss": "quadloss", "quadloss": "softloss"}[loss] not in text


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "knetc.cli", "-", "--input", "3,N"], input=LINREG, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "f_forward" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: FILE"),
        (["{m}", "--loss", "l1"], "argument --loss: invalid choice: 'l1' (choose from"),
        (["{m}", "--input", "3,0"], "--input 3,0: dims are positive numbers and N for the batch, such as 28,28,1,N"),
        (["{m}", "--input", "N,3"], "--input N,3: N, the batch, can only be the last dimension"),
        (["{m}", "--input", "3,N", "--input", "3,N"], "--input given 2 times, but f has 1 input(s)"),
        (["{m}", "--input", "y=3,N"], "--input y=3,N: f has no input 'y'; its inputs are x"),
        (["{m}", "-D", "out"], "-D wants KEY=VALUE, not 'out'"),
        (["{m}", "--input", "3,N", "--print-after", "fusing"], "--print-after: no pass 'fusing'; the passes are"),
        (["{m}", "--input", "3,N", "-o", "{m}"], "the output would take the place of the source"),
        (["{m}", "--prefix", "2x"], "argument --prefix: '2x' cannot begin a name of C, as lenet does in lenet_forward"),
        (["{m}", "--prefix", "a__b"], "argument --prefix: 'a__b' cannot begin a name of C"),
        (["{m}", "--prefix", "run"], "argument --prefix: the emitted file itself uses names that begin with run_"),
        (["{m}", "--arch", "banana"], "argument --arch: 'banana' is no architecture such as sm_90"),
        (["{m}", "--input", "3,N", "--build", "-o", "-"], "--build wants --emit cu or cpp and an output file"),
        (["{m}", "--input", "3,N", "--build", "--emit", "svg"], "--build wants --emit cu or cpp and an output file"),
        (["{m}", "--build", "--emit", "ast"], "--build wants --emit cu or cpp and an output file"),
        (["{m}", "--input", "3,10"], "--input 3,10: no input has N, the batch, as its last dimension"),
        (["{m}", "--input", "x=3,N", "--input", "x=4,N"], "--input x=4,N: the shape of input x is given twice"),
        (["{m}", "-D", "out=(3"], "-D out=(3: "),
    ],
)
def test_wrong_command_lines(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([a.format(m=model) for a in arguments]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in model.parent.iterdir()] == ["m.knet"]


def test_wrong_directive_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.knet"
    path.write_text("# knetc: --arch sm_90\n" + LINREG)
    assert main([str(path)]) == 2
    assert f"{path}:1: in the line '# knetc:': unrecognized arguments" in capsys.readouterr().err


def test_errors_in_the_source_exit_with_1_and_leave_the_old_output(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = model.with_suffix(".cu")
    out.write_text("old")
    model.write_text("@knet function f(x)\n    return rleu(x)\nend\n")
    assert main([str(model), "-o", str(out)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{model}:2:12: error:") and "relu" in message
    assert out.read_text() == "old"
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.cu", "m.knet"]


def test_missing_file_and_unwritable_output(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.knet")]) in (1, 3)
    assert "no.knet" in capsys.readouterr().err
    assert main([str(model), "--input", "3,N", "-o", str(tmp_path / "no" / "m.cu")]) == 3
    assert "cannot write" in capsys.readouterr().err


def test_a_size_that_cannot_be_inferred_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model)]) == 1
    message = capsys.readouterr().err
    assert "cannot be inferred" in message and "x" in message


def test_time_passes_and_print_after(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--input", "3,N", "-o", "-", "--time-passes", "--print-after", "state"]) == 0
    err = capsys.readouterr().err
    for name in ("conditions", "state", "shapes", "gradient", "simplify"):
        assert f"\n{name}" in "\n" + err
    assert "# after state" in err and "# after shapes" not in err


def test_report_shows_kernels_buffers_and_memory(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--input", "3,N", "-o", "-", "--report"]) == 0
    err = capsys.readouterr().err.lower()
    assert "kernel" in err and "peak" in err and "lower bound" in err


@pytest.mark.nvcc
def test_verbose_shows_the_commands(model: Path, tmp_path: Path) -> None:
    from knetc.errors import KnetEnvironmentError
    from knetc.runtime import build

    try:
        build.nvcc()
        build.library("cublas")
    except KnetEnvironmentError as error:
        pytest.skip(error.diagnostics[0].message)
    first, second = (built(model, tmp_path) for _ in range(2))
    library = re.escape(str(model.with_suffix(".so")))
    assert re.search(r"^knetc: \S*nvcc -std=c\+\+17 .* -arch=sm_90 ", first, re.MULTILINE)
    assert re.search(
        rf"^knetc: library for sm_90: made in [\d.]+ s, \S*\nknetc: {library}: copied from there$", first, re.M
    )
    assert "nvcc" not in second and "knetc: library for sm_90: from the cache, " in second


def built(model: Path, cache: Path, *more: str) -> str:
    """What the command says of building a library, with a cache of its own."""
    command = [sys.executable, "-m", "knetc.cli", str(model), "--input", "3,N", "--build", "-v", *more]
    environment = {**os.environ, "KNETC_CACHE": str(cache / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_what_was_built_before_comes_from_the_cache(model: Path, tmp_path: Path) -> None:
    from knetc.runtime import cpu

    if cpu.available() is not None:
        pytest.skip(str(cpu.available()))
    library = model.with_suffix(".so")
    first = built(model, tmp_path, "--emit", "cpp")
    made = library.read_bytes()
    found = re.search(r"^knetc: library for the processor: made in [\d.]+ s, (\S*)$", first, re.MULTILINE)
    assert found and f"knetc: {library}: copied from there" in first and " -shared " in first
    assert made == Path(found[1]).read_bytes()[:-32], "the digest at the end is the cache's"
    assert library.stat().st_mode & 0o500 == 0o500 and ctypes.CDLL(str(library)).f_create
    library.write_bytes(b"mine")
    second = built(model, tmp_path, "--emit", "cpp")
    assert f"library for the processor: from the cache, {found[1]}" in second and " -shared " not in second
    assert library.read_bytes() == made
    Path(found[1]).write_bytes(b"damaged")
    third = built(model, tmp_path, "--emit", "cpp")
    assert "again, since the file in the cache was damaged" in third and library.read_bytes()[:4] == b"\x7fELF"
    assert "made in" in built(model, tmp_path, "--emit", "cpp", "--dtype", "f64"), "another source"


def test_a_library_that_cannot_be_written(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from knetc.runtime import cpu

    if cpu.available() is not None:
        pytest.skip(str(cpu.available()))
    model.with_suffix(".so").mkdir()
    assert main([str(model), "--input", "3,N", "--emit", "cpp", "--build"]) == 3
    assert f"cannot write {model.with_suffix('.so')}: it is there and not a regular file" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--version", "--help"):
        with pytest.raises(SystemExit) as stop:
            main([flag])
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert "knetc" in out and (flag == "--help" or out == f"knetc {importlib.metadata.version('knetc')}\n")


def test_same_bytes_whatever_the_hash_seed_and_the_folder(tmp_path: Path) -> None:
    texts = set()
    for seed in ("0", "1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "lenet.knet").write_bytes((EXAMPLES / "lenet.knet").read_bytes())
        done = subprocess.run(
            [sys.executable, "-m", "knetc.cli", "lenet.knet", "-o", "-"],
            cwd=folder,
            env={"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path)},
            capture_output=True,
            check=True,
        )
        texts.add(done.stdout)
    assert len(texts) == 1


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.knet")), ids=lambda p: p.stem)
def test_every_example_compiles(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), "-o", "-"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out
