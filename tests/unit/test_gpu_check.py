"""tools/gpu_check.sh where every program that it calls is a stub: what it calls, for how long, and what it says of it.

What the parts find is theirs to test; here the script itself must end well where all of them do, and badly where one
does not.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "gpu_check.sh"
# A Python and the other programs: each writes down what it was asked for. A Python asked for a part that FAILS says so.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in *"${FAILS:-no part}"*) exit 7 ;; esac
exit 0
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("timeout")), reason="bash and timeout are not installed"
)


def check(folder: Path, fails: str = "") -> tuple[int, str, list[str]]:
    """The exit code of the script, its report, and what it called."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("python", "compute-sanitizer", "nvidia-smi", "nvcc"):
        (programs / name).write_text(STUB)
        (programs / name).chmod(stat.S_IRWXU)
    (folder / "wheels").mkdir()
    (folder / "calls").touch()
    env = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(programs / "python"),
        "CUDA_HOME": str(folder / "none"),
        "CALLS": str(folder / "calls"),
        **({"FAILS": fails} if fails else {}),
    }
    command = ["bash", str(SCRIPT), str(folder / "out"), str(folder / "wheels")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    calls = (folder / "calls").read_text().splitlines()
    return done.returncode, (folder / "out" / "report.txt").read_text(), calls


def test_all_parts_run_and_it_ends_well(tmp_path: Path) -> None:
    code, report, calls = check(tmp_path)
    parts = re.findall(r"^(\w+) +ok ", report, re.MULTILINE)
    assert code == 0 and "FAILED" not in report and "not run" not in report, report
    assert parts == ["tests", "kernels", "benchmarks", "memcheck", "racecheck", "initcheck", "synccheck"]
    assert any(re.match(r"python -m pytest .*-m gpu", call) for call in calls)
    sanitized = [call for call in calls if call.startswith("compute-sanitizer")]
    assert len(sanitized) == 4 and all(call.endswith("run_kernels.py") for call in sanitized)


@pytest.mark.parametrize("part", ["-m gpu", "run_kernels.py", "run.py", "racecheck"])
def test_a_part_that_fails_is_told(part: str, tmp_path: Path) -> None:
    code, report, _ = check(tmp_path, part)
    assert code == 1 and "FAILED (7)" in report


def test_the_benchmarks_are_called_as_they_want(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import run  # type: ignore[import-not-found]

    _, _, calls = check(tmp_path)
    (words,) = [call.split() for call in calls if "benchmarks/" in call]
    given = run.arguments(words[2:])
    assert given.device == "cuda" and "knetc-cuda" in given.peers and given.out.parent == tmp_path / "out"
    assert {"W1", "W4"} <= set(given.workloads)


def test_the_parts_together_take_no_longer_than_there_is_time() -> None:
    text = SCRIPT.read_text()
    (limit,) = map(int, re.findall(r"^limit=(\d+)", text, re.MULTILINE))
    times = re.findall(r"^ *part (\S+) (\d+) ", text, re.MULTILINE)
    assert len(times) == 4 and sum(int(most) * (4 if name == "$tool" else 1) for name, most in times) <= limit < 600
