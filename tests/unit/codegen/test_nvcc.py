"""NVIDIA's compiler on emitted files.

No warning for any target, nothing undefined against the real libraries, the cubin by the command that pycuda uses; and
the library that nvcc built runs, its kernels taken from the C++ compiler's.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from knetc.codegen.emit import emit_cuda, emit_header
from knetc.errors import KnetEnvironmentError
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.options import Options
from knetc.record import replace
from knetc.runtime import build, cuda, emulation

from .cases import ALL
from .support import ROOT, compiled, program_of
from .test_models import LENET, MANY
from .test_sequences import MODELS

pytestmark = pytest.mark.nvcc


@pytest.fixture(scope="module", autouse=True)
def toolkit():
    try:
        build.nvcc()
        for name in ("cublas", "cublasLt", "cudnn", "cudart"):
            build.library(name)
    except KnetEnvironmentError as error:
        pytest.skip(error.diagnostics[0].message)


def sources():
    lenet, options = compiled(ROOT / "examples" / "lenet_dropout.knet", inputs=((28, 28, 1, N),))
    yield "lenet", emit_cuda(lenet, options)
    source, shapes, _ = MODELS["lstm2"]
    lstm, options = compiled(source, inputs=shapes, losses=LOSSES)
    yield "lstm2", emit_cuda(lstm, options)
    many, options = compiled(MANY, inputs=((4, N), (6, N)), dtype="f64")
    dense, options = compiled(ROOT / "examples" / "mlp.knet", inputs=((28, 28, 1, N),))
    yield "mlp-tf32", emit_cuda(dense, replace(options, math="tf32"))
    yield "many-f64", emit_cuda(many, options)
    yield "operators-f32", emit_cuda(program_of(ALL, "f32"), Options(math="tf32"))
    yield "operators-f64", emit_cuda(program_of(ALL, "f64"), Options(dtype="f64"))


def test_the_host_half_is_built_with_nccl(tmp_path):
    """Against NVIDIA's header and library, with every name found."""
    try:
        build.library("nccl")
    except KnetEnvironmentError as error:
        pytest.skip(error.diagnostics[0].message)
    path = tmp_path / "model.cu"
    text = dict(sources())["lstm2"]
    path.write_text(text)
    command = cuda.host_command(str(path), str(tmp_path / "host.so"), text, nccl=True)
    done = subprocess.run([*command, "-Wall", "-Wextra"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module", params=["lenet", "lstm2", "mlp-tf32", "many-f64", "operators-f32", "operators-f64"])
def file(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("nvcc") / "model.cu"
    path.write_text(dict(sources())[request.param])
    return path


def quiet(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout + done.stderr == "", done.stdout[-3000:] + done.stderr[-3000:]


def test_no_warning_and_nothing_undefined(file):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in (75, 80, 90)]
    command = build.nvcc_command(str(file), str(file.with_suffix(".so")), "sm_90")
    command = [c for c in command if not c.startswith("-arch")] + targets
    quiet([*command, "-Xcompiler", "-Wall,-Wextra"])


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_cubin_by_pycudas_command(file, arch):
    cubin = str(file.with_suffix(".cubin"))
    quiet([build.nvcc(), "--cubin", *cuda.CUBIN_OPTIONS, "-arch", arch, str(file), "-o", cubin])


def test_host_half_by_the_cxx_compiler(file):
    command = cuda.host_command(str(file), str(file.with_suffix(".host.so")), file.read_text())
    quiet([command[0], "-Wall", "-Wextra", *command[1:]])


RUN = """
import sys, numpy as np
sys.path.insert(0, sys.argv[2])
from codegen.support import NONE, compiled
from codegen.test_models import LENET, data, onehot
from knetc.ir.types import N
from knetc.runtime.interp import Interpreter
from knetc.runtime.library import Library
program, options = compiled(LENET, inputs=((9, 8, 2, N),))
library, meaning = Library(program, sys.argv[1], 7), Interpreter(program, 7)
inputs, gold = data(((9, 8, 2, N),), 5, "f32"), onehot(5, 5, "f32")
for e in (library, meaning):
    e.forward(NONE, inputs, push=False)
    e.backward("softloss", gold, None, [], pop=False)
for name in program.params():
    np.testing.assert_allclose(library.read("grad", name), meaning.read("grad", name), rtol=1e-4, atol=1e-6)
print("agrees")
"""


def test_the_library_that_nvcc_built_runs(tmp_path):
    # nvcc's own host code on the emulation, which finds each kernel by name in the twin that g++ built.
    program, options = compiled(LENET, inputs=((9, 8, 2, N),))
    source = tmp_path / "lenet.cu"
    source.write_text(emit_cuda(program, options))
    twin, library = tmp_path / "twin.so", tmp_path / "nvcc.so"
    emulation.compile_shared(source, twin)
    command = [build.nvcc(), "-std=c++17", "-shared", "-Xcompiler", "-fPIC", "-arch=sm_90", "-cudart=none"]
    command += [f"-I{f}" for f in build.nvidia_folders("include")] + [str(source), "-o", str(library)]
    quiet([*command, str(emulation.build_library())])
    env = {**os.environ, "KNETEMU_KERNELS": str(twin)}
    arguments = [sys.executable, "-c", RUN, str(library), str(ROOT / "tests" / "unit")]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "agrees\n", done.stderr[-3000:]


def test_the_line_that_builds_the_cpp_example(tmp_path):
    """As its README has it, for an architecture by name and with the libraries where they are."""
    folder = ROOT / "examples" / "cpp"
    (line,) = [x for x in (folder / "README.md").read_text().splitlines() if x.startswith("nvcc ")]
    lenet, options = compiled(ROOT / "examples" / "lenet.knet", inputs=((28, 28, 1, N),))
    for name, text in (("lenet.cu", emit_cuda(lenet, options)), ("lenet.h", emit_header(lenet, options))):
        (tmp_path / name).write_text(text)
    for name in ("lenet_mnist.cpp", "idx.h", "ranks.h"):
        (tmp_path / name).write_text((folder / name).read_text())
    words = [build.nvcc(), *line.replace("-arch=native", "-arch=sm_90").replace("-O3", "-O1").split()[1:]]
    words += [f"-I{path}" for path in build.nvidia_folders("include")]
    found = {f"-l{name}": build.library(name) for name in ("cublas", "cublasLt", "cudnn")}
    assert set(found) <= set(words)
    words = [
        x
        for word in words
        for x in ((f"-L{found[word].parent}", f"-l:{found[word].name}") if word in found else (word,))
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and (tmp_path / "lenet_mnist").is_file()
