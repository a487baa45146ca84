"""Several emitted files in one program: their names do not meet, whatever the models are called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from knetc.codegen.cpu.emit import emit_cpp
from knetc.codegen.cpu.emit import emit_header as emit_cpp_header
from knetc.codegen.emit import emit_cuda, emit_header
from knetc.errors import KnetEnvironmentError
from knetc.ir.types import N
from knetc.record import replace
from knetc.runtime import build, cpu, emulation
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter

from .support import compiled

TRAINING = TrainingOptions()

# Two models that have as much in common as they can: kernels, parameters, conditions; of different element types.
PAIR = {
    "first": (
        "@knet function first(x)\n h = drop(wbf(x; out=4, f=:tanh); pdrop=0.5)\n return wbf(h; out=2, f=:soft)\nend",
        "f32",
    ),
    "second": (
        "@knet function second(x)\n h = drop(lstm(x; out=4); pdrop=0.5)\n return wbf(h; out=2, f=:soft)\nend",
        "f64",
    ),
}

# Trains both in turns and prints the losses of each; a fault of one is told by its own function.
PROGRAM = r"""
#include <stdio.h>
#include "first.h"
#include "second.h"
#define CHECK(model, call) if (call) { printf("line %d: %s\n", __LINE__, model##_last_error()); return 1; }
int main(void) {
  first_model* a;
  second_model* b;
  first_real x[6] = {1, 2, 3, -1, 0.5f, 0.25f}, gold[4] = {1, 0, 0, 1}, loss;
  second_real z[6] = {1, 2, 3, -1, 0.5, 0.25}, silver[4] = {1, 0, 0, 1}, loss2;
  const first_real* inputs[1] = {x};
  const second_real* inputs2[1] = {z};
  CHECK(first, first_create(&a, 5, NULL))
  CHECK(second, second_create(&b, 6, NULL))
  for (int step = 0; step < 3; step++) {
    CHECK(first, first_forward(a, FIRST_DROPOUT, inputs, 2, NULL))
    CHECK(second, second_sforward(b, SECOND_DROPOUT, inputs2, 2, NULL))
    CHECK(first, first_backward(a, KNET_SOFTLOSS, gold, NULL, 0, &loss))
    CHECK(second, second_sbackward(b, KNET_SOFTLOSS, silver, NULL, 0, &loss2))
    CHECK(first, first_update(a, 0, 1))
    CHECK(second, second_update(b, 0, 1))
    CHECK(second, second_reset(b, 1))
    printf("%.9g %.17g\n", loss, loss2);
  }
  if (first_forward(a, 0, inputs, 0, NULL) != KNET_ARGUMENT || second_backward(b, 0, NULL, NULL, 0, NULL) != KNET_ORDER)
    return 2;
  printf("%s; %s\n", first_last_error(), second_last_error());
  CHECK(first, first_destroy(a))
  CHECK(second, second_destroy(b))
  return 0;
}
"""


def emitted(name: str) -> tuple[str, str]:
    source, dtype = PAIR[name]
    program, options = compiled(source, inputs=((3, N),), dtype=dtype)
    return emit_cuda(program, options), emit_header(program, options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linking")
    for name in PAIR:
        text, header = emitted(name)
        (folder / f"{name}.cu").write_text(text)
        (folder / f"{name}.h").write_text(header)
    (folder / "main.c").write_text(PROGRAM)
    return folder


def losses(name: str, seed: int, push: bool) -> list[float]:
    """What the interpreter computes in the program's stead."""
    source, dtype = PAIR[name]
    program, _ = compiled(source, inputs=((3, N),), dtype=dtype)
    real = np.float32 if dtype == "f32" else np.float64
    meaning = Interpreter(program, seed)
    x = np.asfortranarray([[1, -1], [2, 0.5], [3, 0.25]], real)
    gold = np.asfortranarray(np.eye(2), real)
    found = []
    for _ in range(3):
        value = meaning.forward(frozenset({"dropout"}), [x], push=push)
        found.append(-float((gold * np.log(value.astype(float))).sum()) / 2)
        meaning.backward("softloss", gold, None, [], pop=push)
        meaning.update(dict.fromkeys(program.params(), TRAINING), 0.0, 1.0)
        meaning.reset(True)
    return found


def objects(folder: Path, command: list[str], ending: str) -> list[str]:
    """The object files of both models."""
    made = []
    for name in PAIR:
        made.append(f"{name}{ending}.o")
        subprocess.run([*command, "-c", f"{name}.cu", "-o", made[-1]], cwd=folder, check=True)
    return made


CXX = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def test_two_models_in_one_program(folder: Path) -> None:
    # Both headers in one C file, both objects and the emulation in one program.
    includes = [f"-I{path}" for path in emulation.include_dirs()]
    files = objects(folder, [build.cxx(), *CXX, *includes, "-x", "c++"], "")
    main = [build.cxx(), "-x", "c", "-Wall", "-Wextra", "-Werror", "-c", "main.c", "-o", "main.o"]
    subprocess.run(main, cwd=folder, check=True)
    link = [build.cxx(), "main.o", *files, "-o", "main", str(emulation.build_library())]
    subprocess.run(link, cwd=folder, check=True)
    check(folder)


def test_two_models_for_the_processor_in_one_program(tmp_path: Path) -> None:
    for name, (source, dtype) in PAIR.items():
        program, options = compiled(source, inputs=((3, N),), dtype=dtype)
        (tmp_path / f"{name}.cpp").write_text(emit_cpp(program, options))
        (tmp_path / f"{name}.h").write_text(emit_cpp_header(program, options))
    (tmp_path / "main.c").write_text(PROGRAM)
    main = [build.cxx(), "-x", "c", "-Wall", "-Wextra", "-Werror", "-c", "main.c", "-o", "main.o"]
    subprocess.run(main, cwd=tmp_path, check=True)
    flags = [f for f in (*cpu.FLAGS, *cpu.openmp(build.cxx())) if f != "-shared"]
    files = ["main.o", *(f"{name}.cpp" for name in PAIR)]
    command = [build.cxx(), *flags, *CXX[1:], *files, "-o", "main", *cpu.blas_options()]
    subprocess.run(command, cwd=tmp_path, check=True)
    check(tmp_path)


def check(folder: Path) -> None:
    """The losses that the program prints are the interpreter's."""
    done = subprocess.run(["./main"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *steps, errors = done.stdout.splitlines()
    got = np.array([[float(v) for v in line.split()] for line in steps])
    np.testing.assert_allclose(got[:, 0], losses("first", 5, False), rtol=1e-5)
    np.testing.assert_allclose(got[:, 1], losses("second", 6, True), rtol=1e-9)
    assert errors == "a batch of 0 columns; backward comes after forward"


def test_nothing_of_one_file_is_defined_in_another(folder: Path) -> None:
    # Shared by intention: only what is the same inline function in both, which the linker keeps once.
    if shutil.which("nm") is None:
        pytest.skip("nm, which lists a file's symbols, is not here")
    includes = [f"-I{path}" for path in emulation.include_dirs()]
    for name, file in zip(PAIR, objects(folder, [build.cxx(), *CXX, *includes, "-x", "c++"], ".nm"), strict=True):
        done = subprocess.run(["nm", "--extern-only", file], cwd=folder, capture_output=True, text=True, check=True)
        lines = [line.split()[-2:] for line in done.stdout.splitlines()]
        strong = [symbol for kind, symbol in lines if kind not in "UuwWvV"]
        assert strong and all(symbol.startswith(f"{name}_") for symbol in strong), strong


@pytest.mark.nvcc
def test_two_models_in_one_program_by_nvcc(folder: Path) -> None:
    # NVIDIA's compiler, headers and libraries; what it builds needs a GPU to run, and is only linked here.
    try:
        nvcc, libraries = build.nvcc(), [build.library(name) for name in ("cublas", "cublasLt", "cudnn", "cudart")]
    except KnetEnvironmentError as error:
        pytest.skip(error.diagnostics[0].message)
    includes = [f"-I{path}" for path in build.nvidia_folders("include")]
    files = objects(
        folder, [nvcc, "-std=c++17", "-arch=sm_90", "-Xcompiler", "-Wall,-Wextra,-Werror", *includes], ".nvcc"
    )
    link = [nvcc, "-arch=sm_90", "main.c", *files, "-o", "main.nvcc", "-Xlinker", "--no-undefined"]
    for library in libraries:
        link += [f"-L{library.parent}", f"-l:{library.name}", "-Xlinker", f"-rpath={library.parent}"]
    done = subprocess.run(link, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-3000:]


NAMES = ["knet", "check", "close", "open", "run", "step", "std", "update", "main", "kernels", "values"]


@pytest.mark.parametrize("name", [*NAMES, "find", "double", "N", "m", "θ", "x_set", "cudaMalloc"])
def test_whatever_the_model_is_called_the_file_compiles(tmp_path: Path, name: str) -> None:
    # The names of the file's own functions and of <math.h>'s macros, as names of models and conditions.
    body = "c = cbfp(x; out=2, cwindow=3, pwindow=2)\n if ok\n  h = c\n end\n if pi\n  h = relu(h .+ c)\n end"
    source = f"@knet function {name}(x)\n {body}\n return wbf(h; out=2, f=:soft)\nend"
    program, options = compiled(source, inputs=((8, 8, 1, N),))
    (tmp_path / "model.cu").write_text(emit_cuda(program, options))
    (tmp_path / "model.h").write_text(emit_header(program, options))
    (tmp_path / "model.cpp").write_text(emit_cpp(program, options))
    (tmp_path / "use.c").write_text('#include <math.h>\n#include "model.h"\nint main(void) { return 0; }\n')
    includes = [f"-I{path}" for path in emulation.include_dirs()]
    cuda, c = [*CXX, *includes, "-x", "c++", "model.cu"], ["-Wall", "-Wextra", "-Werror", "-x", "c", "use.c"]
    for options in (cuda, [*CXX, "model.cpp"], c):
        command = [build.cxx(), "-fsyntax-only", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:3000]


def test_a_prefix_of_ones_own(tmp_path: Path) -> None:
    program, options = compiled(PAIR["first"][0], inputs=((3, N),))
    options = replace(options, prefix="digits")
    header = emit_header(program, options)
    assert "int digits_create(digits_model** model" in header and "DIGITS_DROPOUT = 1" in header
    assert "first_" not in header + emit_cuda(program, options)
