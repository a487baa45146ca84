"""How hard the C++ compiler works on emitted C++: all it can on loops over elements, little on the rest."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from knetc.codegen.cpu.emit import emit_cpp
from knetc.ir.types import N
from knetc.runtime import build

from .support import compiled

SOURCE = """
@knet function effort(x)
    a = wbf(x; out=20, f=:tanh)
    b = wbf(drop(a; pdrop=0.5); out=20, f=:sigm, winit=Gaussian(0, 0.1))
    return wbf(b; out=32, f=:soft)
end
"""  # whole vectors: of fewer elements some processors' cost models make none


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # No loss: its sum is meant to be of doubles, and `test_no_function_of_float_is_one_of_double` looks for others.
    program, options = compiled(SOURCE, inputs=((30, N),), losses=("none",))
    path = tmp_path_factory.mktemp("effort") / "effort.cpp"
    path.write_text(emit_cpp(program, options))
    return path


def words(source: Path) -> list[str]:
    """The command that the head of the file names."""
    found = re.search(r"^// +(g\+\+ .*)$", source.read_text(), re.MULTILINE)
    assert found
    return [build.cxx(), *shlex.split(found[1])[1:]]


def test_its_own_command_makes_vectors_of_its_loops(source: Path) -> None:
    # A loop that became a part of its caller would be compiled as that is, and this finds none of its lines.
    if "Free Software Foundation" not in build.version(build.cxx()):
        pytest.skip("only g++ says so which loops became vectors")
    notes = source.with_suffix(".txt")
    more = ["-S", str(source), "-o", str(source.with_suffix(".s")), f"-fopt-info-vec-optimized={notes}"]
    subprocess.run([*words(source), *more], check=True)
    vectors = {int(line.split(":")[1]) for line in notes.read_text().splitlines() if "loop vectorized" in line}
    lines = source.read_text().splitlines()
    starts = [k for k, line in enumerate(lines, 1) if line.startswith("KNET_LOOPS")]
    ends = [next(k for k, line in enumerate(lines[s:], s + 1) if line == "}") for s in starts]
    names = [re.findall(r"(\w+)\(", lines[s - 1])[0] for s in starts]
    of = {name: vectors & set(range(s, e)) for name, s, e in zip(names, starts, ends, strict=True)}
    called = ["knet_sum_columns", "knet_update", "knet_sum_of_squares", *(n for n in of if not n.startswith("knet_"))]
    assert len(called) > 8
    assert not [name for name in called if not of[name]]


def test_no_function_of_float_is_one_of_double(source: Path) -> None:
    # Built with C's <math.h> alone, sqrt of a float is one of a double: slower, and it rounds otherwise.
    for more in ([], ["-D_GLIBCXX_INCLUDE_NEXT_C_HEADERS="]):
        warnings = ["-Wall", "-Wextra", "-Wdouble-promotion", "-Werror", "-Wno-unused-command-line-argument"]
        subprocess.run([*words(source), *more, *warnings, "-fsyntax-only", str(source)], check=True)


CONVOLVED = """
@knet function convolved(x)
    a = cbfp(x; out=3, cwindow=3, pwindow=2)
    return wbf(a; out=4, f=:soft)
end
"""


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_other_flags_than_its_own_give_no_warnings(dtype: str, tmp_path: Path) -> None:
    """For no processor in particular, without OpenMP; sums of a loss, elementwise loops, convolutions, an update."""
    program, options = compiled(CONVOLVED, inputs=((10, 9, 2, N),), dtype=dtype)
    path = tmp_path / "convolved.cpp"
    path.write_text(emit_cpp(program, options))
    for level in ("-O0", "-O3"):
        flags = [
            "-std=c++17",
            level,
            "-Wall",
            "-Wextra",
            "-Werror",
            "-c",
            str(path),
            "-o",
            str(tmp_path / "convolved.o"),
        ]
        subprocess.run([build.cxx(), *flags], check=True)
