"""The C interface of an emitted file as a C program sees it."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from knetc.codegen.cpu.emit import emit_cpp
from knetc.codegen.cpu.emit import emit_header as emit_cpp_header
from knetc.codegen.emit import emit_cuda, emit_header
from knetc.errors import KnetError
from knetc.ir.types import N
from knetc.ops.update import SLOTS
from knetc.runtime import build, cpu, emulation
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter
from knetc.runtime.library import Library

from .support import NONE, compiled

SOURCE = "@knet function mlp(x)\n h = drop(wbf(x; out=4, f=:tanh); pdrop=0.5)\n return wbf(h; out=2, f=:soft)\nend"

PROGRAM = r"""
#include <stdio.h>
#include <string.h>
#include "mlp.h"
#define CHECK(call) if ((code = (call))) { printf("line %d: %d %s\n", __LINE__, code, mlp_last_error()); return 1; }
int main(void) {
  mlp_model *a, *b;
  mlp_real x[6] = {1, 2, 3, -1, 0.5f, 0.25f}, y[4], z[4], gold[4] = {1, 0, 0, 1}, loss, w[12];
  const mlp_real* inputs[1] = {x};
  int code, count, dims[8];
  CHECK(mlp_create(&a, 5, NULL))
  CHECK(mlp_create(&b, 5, NULL))  /* two models, each on its own stream */
  CHECK(mlp_forward(a, KNET_NO_CONDITION, inputs, 2, y))
  CHECK(mlp_forward(b, MLP_DROPOUT, inputs, 2, z))
  printf("%.6f %.6f %.6f %.6f\n", y[0], y[1], y[2], y[3]);
  CHECK(mlp_backward(a, KNET_SOFTLOSS, gold, NULL, 0, &loss))
  printf("%.6f\n", loss);
  CHECK(mlp_set_option(a, NULL, "lr", 0.5))
  CHECK(mlp_set_option(a, "h/tmp1/w", "momentum", 0.9) == 0 ? 0 : 0)
  CHECK(mlp_update(a, 0, 1))
  CHECK(mlp_forward(a, 0, inputs, 2, y))
  CHECK(mlp_backward(a, KNET_SOFTLOSS, gold, NULL, 1, &loss))
  printf("%.6f\n", loss);
  CHECK(mlp_dims(a, KNET_VALUE, "return", &count, dims))
  printf("%d: %d %d\n", count, dims[0], dims[1]);
  CHECK(mlp_get(a, KNET_INPUT_GRAD, "x", w))
  /* errors: a code, and the reason */
  printf("%d %s\n", mlp_get(b, KNET_GRAD, "x", w), mlp_last_error());
  printf("%d %s\n", mlp_forward(a, 2, inputs, 2, y), mlp_last_error());
  printf("%d %s\n", mlp_forward(a, 0, inputs, 0, y), mlp_last_error());
  printf("%d %s\n", mlp_backward(a, KNET_QUADLOSS, NULL, NULL, 0, NULL), mlp_last_error());
  printf("%d %s\n", mlp_set_option(a, NULL, "rate", 1), mlp_last_error());
  printf("%d %s\n", mlp_set_option(a, "nothing", "lr", 1), mlp_last_error());
  printf("%d %s\n", mlp_create(NULL, 1, NULL), mlp_last_error());
  CHECK(mlp_destroy(a))
  CHECK(mlp_destroy(b))
  CHECK(mlp_destroy(NULL))
  return 0;
}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory, target):
    """The emitted file, its header and its library on the processor, in a folder; and what loads that."""
    folder = tmp_path_factory.mktemp("interface")
    program, options = compiled(SOURCE, inputs=((3, N),))
    if target == "cpu":
        (folder / "mlp.cpp").write_text(emit_cpp(program, options))
        (folder / "mlp.h").write_text(emit_cpp_header(program, options))
        cpu.build_file(str(folder / "mlp.cpp"), str(folder / "mlp.so"))
        return folder, program, cpu.CpuLibrary
    (folder / "mlp.cu").write_text(emit_cuda(program, options))
    (folder / "mlp.h").write_text(emit_header(program, options))
    emulation.compile_shared(folder / "mlp.cu", folder / "mlp.so")
    return folder, program, Library


def test_a_c_program(built):
    folder, program, _ = built
    (folder / "main.c").write_text(PROGRAM)
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused"]
    command = [build.cxx(), "-x", "c", *warnings, "main.c", "-x", "none", "-o", "main", "./mlp.so"]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run(["./main"], cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    x = np.asfortranarray(np.array([[1, 2, 3], [-1, 0.5, 0.25]], np.float32).T)
    want = Interpreter(program, 5).forward(NONE, [x], push=False)
    np.testing.assert_allclose([float(v) for v in lines[0].split()], want.ravel(order="F"), atol=2e-6)
    gold = np.array([[1, 0], [0, 1]])
    np.testing.assert_allclose(float(lines[1]), -(gold * np.log(want.astype(float))).sum() / 2, atol=2e-6)
    assert float(lines[2]) < float(lines[1])
    assert lines[3] == "2: 2 2"
    assert lines[4:] == [
        "2 no gradient has been computed",
        "1 there is no such condition",
        "1 a batch of 0 columns",
        "1 gold is NULL",
        "1 there is no training option rate",
        "1 there is no parameter nothing",
        "1 the place for the model is NULL",
    ]


@pytest.mark.parametrize("damage", ["none", "short", "long", "bit", "other"])
def test_parameters_in_a_file(built, damage):
    # Saved and loaded they are the same; a damaged file, or another model's, changes nothing.
    folder, program, library = built
    first, second = (library(program, str(folder / "mlp.so"), seed) for seed in (1, 2))
    before = {p: second.read("par", p) for p in program.params()}
    path = folder / f"{damage}.par"
    first._call("save", first._model, str(path).encode())
    assert not path.with_name(path.name + ".part").exists()
    data = path.read_bytes()
    if damage == "none":
        second._call("load", second._model, str(path).encode())
        assert all(np.array_equal(first.read("par", p), second.read("par", p)) for p in before)
        return
    broken = {
        "short": data[:-9],
        "long": data + b"x",
        "bit": data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
        "other": data.replace(b"/w", b"/v", 1),
    }
    path.write_bytes(broken[damage])
    with pytest.raises(KnetError, match="does not hold this model's parameters"):
        second._call("load", second._model, str(path).encode())
    assert all(np.array_equal(second.read("par", p), before[p]) for p in before)
    with pytest.raises(KnetError, match="cannot read"):
        second._call("load", second._model, str(folder / "nothing").encode())
    with pytest.raises(KnetError, match="cannot write"):
        second._call("save", second._model, str(folder / "no" / "folder").encode())


def test_averages_and_counts_go_out_and_in(built):
    # Running averages are the interpreter's; written into a second model, its next update is the first one's.
    folder, program, library = built
    first, second = (library(program, str(folder / "mlp.so"), 3) for _ in range(2))
    interpreter = Interpreter(program, 3)
    w = next(iter(program.params()))
    every = TrainingOptions(adagrad=True, rmsprop=True, adam=True, momentum=0.5, nesterov=0.5, lr=0.1)
    options = {name: every for name in program.params()}
    x = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    gold = np.asfortranarray(np.eye(2, dtype=np.float32))

    def step(executable):
        executable.forward(frozenset({"dropout"}), [x], push=False)
        executable.backward("softloss", gold, None, (), pop=False)
        executable.update(options, 0, 1)

    for _ in range(2):
        step(first)
        step(interpreter)
    want, got = interpreter.averages(w), first.averages(w)
    assert got.keys() == want.keys() == {name for names in SLOTS.values() for name in names}
    for name, average in want.items():
        np.testing.assert_allclose(got[name], average, rtol=1e-4, atol=1e-6, err_msg=name)
    assert (first.calls(), second.calls(), int(got["adam_t"])) == (2, 0, 2) and second.averages(w) == {}

    for name in program.params():
        second.write("par", name, first.read("par", name))
        second.set_averages(name, first.averages(name))
    second.set_seed(3, first.calls())
    step(first)
    step(second)
    assert all(np.array_equal(first.read("par", p), second.read("par", p)) for p in program.params())


def test_symbols(built):
    # Nothing but the interface and the kernels is visible, all with the model's name, so that libraries do not meet.
    folder, *_ = built
    if shutil.which("nm") is None:
        pytest.skip("nm, which lists a library's symbols, is not here")
    command = ["nm", "-D", "--defined-only", str(folder / "mlp.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in done.stdout.splitlines() if line.split()[-2] == "T"}
    assert all(name.startswith("mlp_") for name in names), names
