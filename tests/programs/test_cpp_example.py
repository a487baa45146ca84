"""The C++ example, built against the emulation: its losses are Python's, its file holds its parameters, and two models
in one program do not disturb each other."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc.runtime import build, emulation

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN, TEST, BATCH, STEPS = 40, 30, 16, 3

# Trains a model on each of `argc - 2` streams in turns, one minibatch a step, and prints the losses of each on a line.
STREAMS = r"""
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <cuda_runtime.h>
#include "idx.h"
#define CHECK(call) if (call) { std::printf("line %d: %s\n", __LINE__, lenet_last_error()); return 1; }
int main(int argc, char** argv) {
  const idx::Data data = idx::read_file(argv[1]);
  const int models = argc - 2;
  std::vector<lenet_model*> model(models);
  std::vector<cudaStream_t> stream(models);
  std::vector<std::vector<lenet_real>> losses(models);
  for (int i = 0; i < models; i++) {
    if (cudaStreamCreateWithFlags(&stream[i], cudaStreamNonBlocking)) return 2;
    CHECK(lenet_create(&model[i], std::strtoull(argv[2 + i], nullptr, 10), stream[i]))
    CHECK(lenet_set_option(model[i], nullptr, "lr", 0.1))
    CHECK(lenet_set_option(model[i], nullptr, "momentum", 0.5))
    losses[i].resize(3);
  }
  std::vector<lenet_real> x[3], gold[3];
  for (int step = 0; step < 3; step++) {
    idx::take_batch(data.train, 8 * step, 8, x[step], gold[step]);
    const lenet_real* inputs[] = {x[step].data()};
    // each call of one model lies between those of the other, and nothing waits in between
    for (int i = 0; i < models; i++) CHECK(lenet_forward(model[i], 0, inputs, 8, nullptr))
    for (int i = 0; i < models; i++)
      CHECK(lenet_backward(model[i], KNET_SOFTLOSS, gold[step].data(), nullptr, 0, nullptr))
    for (int i = 0; i < models; i++) CHECK(lenet_update(model[i], 0, 1))
    for (int i = 0; i < models; i++) CHECK(lenet_forward(model[i], 0, inputs, 8, nullptr))
    for (int i = 0; i < models; i++)
      CHECK(lenet_backward(model[i], KNET_SOFTLOSS, gold[step].data(), nullptr, 0, &losses[i][step]))
  }
  for (int i = 0; i < models; i++) {
    for (lenet_real loss : losses[i]) std::printf("%.9g ", (double)loss);
    std::printf("\n");
    CHECK(lenet_destroy(model[i]))
    if (cudaStreamDestroy(stream[i])) return 2;
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lenet.cu, lenet.h and lenet.so, both programs, and a few digits."""
    try:
        emulation.find_compiler()
    except knetc.KnetEnvironmentError as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("cpp")
    for options in (["-o", "lenet.cu"], ["--emit", "header", "-o", "lenet.h"]):
        command = [sys.executable, "-m", "knetc.cli", str(EXAMPLES / "lenet.knet"), *options]
        subprocess.run(command, cwd=folder, check=True)
    emulation.compile_shared(folder / "lenet.cu", folder / "lenet.so")
    (folder / "streams.cpp").write_text(STREAMS)
    emulation.compile_shared(folder / "lenet.cu", folder / "lenet_nccl.so", extra=("-DKNET_NCCL",))
    compile_program(folder, EXAMPLES / "cpp" / "lenet_mnist.cpp", "lenet_mnist")
    compile_program(folder, EXAMPLES / "cpp" / "lenet_mnist.cpp", "lenet_ranks", "lenet_nccl.so", "-DKNET_NCCL")
    compile_program(folder, folder / "streams.cpp", "streams")
    (folder / "digits").write_bytes(b"".join(idx(*part) for part in digits()))
    return folder


def compile_program(folder: Path, source: Path, name: str, model: str = "lenet.so", *options: str) -> None:
    """Compiles one program and links it with the model and the emulation."""
    includes = [f"-I{path}" for path in (folder, EXAMPLES / "cpp", *emulation.include_dirs())]
    command = [build.cxx(), "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", *includes, *options, str(source)]
    command += ["-o", name, f"./{model}", str(emulation.build_library())]
    subprocess.run(command, cwd=folder, check=True)


def digits() -> list[tuple[np.ndarray, np.ndarray]]:
    """A few training and test digits, (pixels, labels)."""
    with np.load(EXAMPLES / "data" / "digits.npz") as f:
        return [(f["xtrn"][:TRAIN], f["ytrn"][:TRAIN]), (f["xtst"][:TEST], f["ytst"][:TEST])]


def idx(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """The bytes of an IDX file of images, and of one of labels behind it."""
    head = struct.pack(">IIII", 0x803, len(pixels), 28, 28)
    return head + pixels.astype(np.uint8).tobytes() + struct.pack(">II", 0x801, len(labels)) + bytes(labels.tolist())


def run(folder: Path, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "KNETC_DATA"} | variables
    command = [f"./{program}", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def run_ranks(folder: Path, ranks: int, id_file: str, *arguments: str) -> list[tuple[int, str, str]]:
    """Runs the example as so many processes; of each its exit code and what it said."""
    started = []
    for rank in range(ranks):
        env = {k: v for k, v in os.environ.items() if k != "KNETC_DATA"} | {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        command = ["./lenet_ranks", *arguments, "--id", id_file]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes))
    said = [process.communicate(timeout=240) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def losses(text: str) -> list[float]:
    return [float(v) for v in re.findall(r"^step \d+ loss (.*)$", text, re.M)]


def test_the_losses_are_those_of_python(folder: Path, backend: str) -> None:
    options = ["--batch", str(BATCH), "--every", "1", "--seed", "7", "--momentum", "0.5", "--save", f"{backend}.par"]
    done = run(folder, "lenet_mnist", "--digits", "digits", "--epochs", "1", *options)
    assert done.returncode == 0, done.stderr
    (pixels, labels), (test_pixels, test_labels) = digits()
    # the layout of knetc.data.mnist, written out: the first axis runs along an image's rows
    x, xtst = (np.transpose(p[:, None].astype(np.float32) / 255, (3, 2, 1, 0)) for p in (pixels, test_pixels))
    gold, ytst = (np.eye(10, dtype=np.float32)[y].T for y in (labels, test_labels))
    net = knetc.compile(EXAMPLES / "lenet.knet", "lenet", backend=backend, seed=7)
    net.setp(lr=0.1, momentum=0.5)
    wanted = net.train(knetc.minibatch(x, gold, BATCH), knetc.softloss, progress=False)
    assert len(wanted) == STEPS
    np.testing.assert_allclose(losses(done.stdout), wanted, rtol=2e-5)
    error = float(np.mean(net.forw(xtst).argmax(axis=0) != ytst.argmax(axis=0)))
    assert f"epoch 1 test error {error:.6f}\n" in done.stdout


def test_a_file_holds_the_parameters(folder: Path) -> None:
    options = ["--digits", "digits", "--batch", str(BATCH), "--steps", "2"]
    done = [run(folder, "lenet_mnist", *options, "--save", name, KNETEMU_ASYNC=a) for name, a in
            (("a.par", "eager"), ("b.par", "lazy"))]  # fmt: skip
    assert [d.returncode for d in done] == [0, 0], done[0].stderr + done[1].stderr
    found = re.search(r"test error (\S+), loaded: test error (\S+)\n", done[0].stdout)
    assert found and found[1] == found[2]
    assert (folder / "a.par").read_bytes() == (folder / "b.par").read_bytes()


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_come_to_the_losses_of_one(folder: Path, ranks: int) -> None:
    """Minibatches of 13 and, the last one, of 1 column; rank 0 alone is heard, and the id's file is gone."""
    options = [
        "--digits",
        "digits",
        "--batch",
        "13",
        "--every",
        "1",
        "--seed",
        "7",
        "--momentum",
        "0.5",
        "--epochs",
        "2",
    ]
    alone = run(folder, "lenet_mnist", *options, "--save", "alone.par")
    wanted = losses(alone.stdout)
    assert alone.returncode == 0 and len(wanted) == 8
    found = []
    for name in ("a", "b"):
        done = run_ranks(folder, ranks, f"{name}{ranks}.id", *options, "--save", f"{name}{ranks}.par")
        assert [code for code, _, _ in done] == [0] * ranks, done
        assert [said for _, said, _ in done[1:]] == [""] * (ranks - 1)
        np.testing.assert_allclose(losses(done[0][1]), wanted, rtol=2e-5)
        assert not (folder / f"{name}{ranks}.id").exists()
        found.append((folder / f"{name}{ranks}.par").read_bytes())
    assert found[0] == found[1] and len(found[0]) == len((folder / "alone.par").read_bytes())


def test_several_processes_without_what_they_need_are_told(folder: Path) -> None:
    options = ["--digits", "digits"]
    for program, wanted in (("lenet_mnist", "built with -DKNET_NCCL"), ("lenet_ranks", "need --id FILE")):
        done = run(folder, program, *options, RANK="0", WORLD_SIZE="2")
        assert done.returncode == 1 and wanted in done.stderr
    done = run(folder, "lenet_ranks", *options, RANK="2", WORLD_SIZE="2")
    assert done.returncode == 1 and "RANK does not fit" in done.stderr


def test_mpirun_within_a_job_of_slurms_says_which_process_it_is(folder: Path) -> None:
    """Slurm's variables are those of the job's one step, for every process."""
    variables = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}
    done = run(folder, "lenet_ranks", "--digits", "digits", "--steps", "1", "--save", "slurm.par", **variables)
    assert done.returncode == 0 and losses(done.stdout), done.stderr


@pytest.mark.parametrize("waiting", ["eager", "lazy"])
def test_two_models_on_two_streams(folder: Path, waiting: str) -> None:
    both, first, second = (
        run(folder, "streams", "digits", *seeds, KNETEMU_ASYNC=waiting) for seeds in (("3", "4"), ("3",), ("4",))
    )
    assert both.returncode == first.returncode == second.returncode == 0, both.stdout + both.stderr
    assert both.stdout == first.stdout + second.stdout
    assert first.stdout != second.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "no data"),
        (["--digits"], 2, "--digits needs a value"),
        (["--digits", "digits", "--steps", "-1"], 2, "--steps needs a whole number, not -1"),
        (["--digits", "digits", "--batch", "0"], 2, "--batch needs at least 1"),
        (["--digits", "digits", "--fast", "1"], 2, "there is no option --fast"),
        (["--digits", "nothing"], 1, "cannot read nothing"),
        (["nowhere"], 1, "cannot read nowhere/train-images-idx3-ubyte"),
        (["--digits", "lenet.cu"], 1, "lenet.cu is not an unpacked IDX file"),
        (["--digits", "digits", "--momentum", "-1"], 1, "option momentum cannot be -1"),
        (["--digits", "digits", "--steps", "1", "--save", "no/folder"], 1, "lenet_save: error 1, cannot write"),
    ],
)
def test_faults_have_a_text_and_an_exit_code(folder: Path, arguments: list[str], code: int, text: str) -> None:
    done = run(folder, "lenet_mnist", *arguments)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_a_folder_of_packed_files(folder: Path) -> None:
    (folder / "mnist").mkdir()
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").touch()
    (folder / "mnist" / "train-images-idx3-ubyte.gz").touch()
    done = run(folder, "lenet_mnist", ".")
    assert done.returncode == 1 and "is still packed: gunzip -k ./mnist/train-images-idx3-ubyte.gz" in done.stderr


def test_a_folder_and_one_file_are_the_same(folder: Path) -> None:
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    for prefix, (pixels, labels) in zip(("train", "t10k"), digits(), strict=True):
        data, split = idx(pixels, labels), 16 + pixels.size
        (unpacked / f"{prefix}-images-idx3-ubyte").write_bytes(data[:split])
        (unpacked / f"{prefix}-labels-idx1-ubyte").write_bytes(data[split:])
    options = ["--batch", "8", "--steps", "1", "--epochs", "1"]
    one, four = run(folder, "lenet_mnist", "--digits", "digits", *options), None
    four = run(folder, "lenet_mnist", *options, KNETC_DATA=str(unpacked))
    assert one.returncode == 0 and one.stdout == four.stdout, one.stderr + four.stderr


@pytest.mark.deep
def test_what_cmake_builds_prints_the_same(folder: Path) -> None:
    """CMakeLists.txt from the model on, with the emulation."""
    if not shutil.which("cmake"):
        pytest.skip("cmake is not here")
    knetc_ = folder / "knetc"  # of this tree, whatever is installed
    knetc_.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m knetc.cli "$@"\n')
    knetc_.chmod(0o755)
    options = ["-DKNET_EMULATION=ON", f"-DKNETC={knetc_}", f"-DCMAKE_CXX_COMPILER={build.cxx()}"]
    for command in (["-S", str(EXAMPLES / "cpp"), "-B", "built", *options], ["--build", "built"]):
        done = subprocess.run(["cmake", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    found = [run(folder, name, "--digits", "digits", "--steps", "2") for name in ("lenet_mnist", "built/lenet_mnist")]
    assert [d.returncode for d in found] == [0, 0], found[1].stderr
    assert found[0].stdout == found[1].stdout != ""
