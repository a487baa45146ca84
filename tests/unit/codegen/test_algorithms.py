"""Convolutions that cuDNN does not support with the first choice of an algorithm run with the second."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from knetc.codegen.emit import emit_cuda
from knetc.ir.types import N
from knetc.runtime.emulated import build_emulated

from .support import NONE, both, compiled

MODEL = (
    "@knet function m(x)\n w = par(init=Gaussian(0,1), dims=(2,2,1,2))\n v = par(init=Gaussian(0,1), dims=(2,1,2,1))\n"
    " return conv(v, conv(w, x; upscale=2); padding=1)\nend"
)

RUN = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.m_last_error.restype = ctypes.c_char_p
model = ctypes.c_void_p()
def call(name, *arguments):
    assert getattr(library, name)(*arguments) == 0, library.m_last_error()
call("m_create", ctypes.byref(model), ctypes.c_ulonglong(7), None)
x = (ctypes.c_float * 50)(*[i % 7 - 3 for i in range(50)])
y, gold = (ctypes.c_float * 200)(), (ctypes.c_float * 200)()
inputs = (ctypes.c_void_p * 1)(ctypes.addressof(x))
for _ in range(2):
    call("m_forward", model, 0, inputs, 2, y)
    call("m_backward", model, 2, gold, None, ctypes.c_ulonglong(0), None)
dw = (ctypes.c_float * 8)()
call("m_get", model, 1, b"w", dw)
print(*dw)
"""


@pytest.mark.parametrize("plain_only", ["0", "1", "2"])
def test_the_second_algorithm_takes_over(plain_only):
    # 1: the call alone tells that the first is not supported; 2: the size of the workspace tells it.
    program, options = compiled(MODEL, inputs=((5, 5, 1, N),))
    path = build_emulated(emit_cuda(program, options))
    env = {**os.environ, "KNETEMU_PLAIN_ONLY": plain_only}
    command = [sys.executable, "-c", RUN, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, interpreter = both(program, options, 7)
    x = np.array([i % 7 - 3 for i in range(50)], np.float32).reshape((5, 5, 1, 2), order="F")
    y = interpreter.forward(NONE, [x], push=False)
    interpreter.backward("quadloss", np.zeros_like(y), None, [], pop=False)
    want = interpreter.read("grad", "w").ravel(order="F")
    np.testing.assert_allclose([float(v) for v in done.stdout.split()], want, rtol=1e-4)
