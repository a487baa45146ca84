"""The look-alike of cuBLASLt: products with epilogues by value, and the misuse that it does not let pass."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation.device import SCALAR, Device, relative_error

INVALID_VALUE, NOT_SUPPORTED = 7, 15
COMPUTE, TYPE = {np.float32: 68, np.float64: 70}, {np.float32: 0, np.float64: 1}
RELU, BIAS, RELU_BIAS, BGRADA, BGRADB = 2, 4, 6, 256, 512
TRANSA, TRANSB, EPILOGUE, VECTOR = 3, 4, 7, 8
WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)


class Result(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class Product:
    """A product as emitted code makes it: descriptors, an algorithm for it, the call."""

    def __init__(self, device: Device, dtype: Any, ta: int, a: Any, b: Any, m: int, n: int, epilogue: int) -> None:
        self.device, self.dtype = device, dtype
        self.handle = device.new("cublasLtCreate")
        self.call = ctypes.c_void_p()
        device.call("cublasLtMatmulDescCreate", ctypes.byref(self.call), COMPUTE[dtype], TYPE[dtype])
        self.layouts = [self.layout(*a.shape), self.layout(*b.shape), self.layout(m, n)]
        self.preference = device.new("cublasLtMatmulPreferenceCreate")
        self.arrays = [device.upload(np.asfortranarray(x, dtype)) for x in (a, b)]
        self.out = np.full((m, n), np.nan, dtype, order="F")
        self.arrays.append(device.upload(self.out))
        self.workspace = device.empty(1024)
        for attribute, value in ((TRANSA, ta), (TRANSB, 0), (EPILOGUE, epilogue)):
            self.set(attribute, ctypes.c_int32(value))

    def layout(self, rows: int, columns: int) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows))
        self.device.call("cublasLtMatrixLayoutCreate", ctypes.byref(found), TYPE[self.dtype], *sizes)
        return found

    def set(self, attribute: int, value: Any) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self.device.call("cublasLtMatmulDescSetAttribute", self.call, attribute, ctypes.byref(value), size)

    def prefer(self, attribute: int, value: Any) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self.device.call("cublasLtMatmulPreferenceSetAttribute", self.preference, attribute, ctypes.byref(value), size)

    def choose(self, alignment: int = 16) -> tuple[int, int]:
        """The status of the heuristics and how many algorithms they found."""
        self.prefer(WORKSPACE, ctypes.c_uint64(1024))
        for attribute in ALIGNMENTS:
            self.prefer(attribute, ctypes.c_uint32(alignment))
        self.found, count = Result(), ctypes.c_int(-1)
        a, b, d = self.layouts
        arguments = (self.handle, self.call, a, b, d, d, self.preference, 1)
        status = self.device.lib.cublasLtMatmulAlgoGetHeuristic(
            *arguments, ctypes.byref(self.found), ctypes.byref(count)
        )
        return status, count.value

    def run(self, workspace_bytes: int = 1024) -> int:
        """The status of the product."""
        one, zero = (SCALAR[np.dtype(self.dtype)](x) for x in (1, 0))
        (a, b, d), (la, lb, ld) = self.arrays, self.layouts
        algorithm = ctypes.byref(self.found.algorithm)
        tail = (d, ld, d, ld, algorithm, self.workspace, ctypes.c_size_t(workspace_bytes), None)
        status: int = self.device.lib.cublasLtMatmul(
            self.handle, self.call, ctypes.byref(one), a, la, b, lb, ctypes.byref(zero), *tail
        )
        return status

    def result(self) -> Any:
        return self.device.download(self.arrays[2], self.out)


def product(device: Device, epilogue: int = RELU_BIAS, dtype: Any = np.float32, ta: int = 0) -> tuple[Product, Any]:
    """A product of 5 x 4 and 4 x 3 with an epilogue and its vector; and its operands and the vector's values."""
    rng = np.random.default_rng(4)
    a, b, v = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 4), (4, 3), (5,)))
    made = Product(device, dtype, ta, a.T if ta else a, b, 5, 3, epilogue)
    made.vector = device.upload(v)  # type: ignore[attr-defined]
    made.set(VECTOR, made.vector)  # type: ignore[attr-defined]
    return made, (a, b, v)


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


@pytest.mark.parametrize("ta", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_epilogues_by_value(device: Device, dtype: Any, ta: int) -> None:
    """Each against NumPy in float64; the vector is read where it is a bias and written where it is a gradient."""
    for epilogue in (1, RELU, BIAS, RELU_BIAS, BGRADA):
        made, (a, b, v) = product(device, epilogue, dtype, ta)
        assert made.choose() == (0, 1) and made.run() == 0
        wanted = a.astype(float) @ b + (v[:, None] if epilogue & BIAS else 0)
        wanted = np.maximum(wanted, 0) if epilogue & RELU else wanted
        assert relative_error(made.result(), wanted) < 1e-6
        vector = device.download(made.vector, v)  # type: ignore[attr-defined]
        wanted = a.astype(float).sum(1) if epilogue == BGRADA else v
        np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-6)


def test_what_has_no_algorithm(device: Device) -> None:
    made, _ = product(device, BGRADB)
    assert made.choose() == (NOT_SUPPORTED, 0)


def test_what_is_refused(device: Device) -> None:
    """An attribute of another size, and less workspace than the algorithm needs."""
    made, _ = product(device)
    wrong = ctypes.c_int64(0)
    for attribute in (TRANSA, EPILOGUE):
        status = device.lib.cublasLtMatmulDescSetAttribute(
            made.call, attribute, ctypes.byref(wrong), ctypes.c_size_t(8)
        )
        assert status == INVALID_VALUE
    assert made.choose() == (0, 1) and made.run(workspace_bytes=100) == INVALID_VALUE


# What ends the process: what is done, and what is said.
MISUSE = {
    "no_vector": ("p.set(VECTOR, ctypes.c_void_p())\np.choose()", "an epilogue with a vector, and no pointer to one"),
    "sizes": ("p.layouts[1] = p.layout(5, 3)\np.choose()", "matrices of sizes that do not go together"),
    "pitch": (
        "p.device.call('cublasLtMatrixLayoutCreate', ctypes.byref(p.layouts[0]), 0, ctypes.c_uint64(5),"
        " ctypes.c_uint64(4), ctypes.c_int64(3))\np.choose()",
        "a matrix of 5 x 4, 3 apart",
    ),
    "row_major": (
        "p.device.lib.cublasLtMatrixLayoutSetAttribute(p.layouts[0], 1, ctypes.byref(ctypes.c_int32(1)),"
        " ctypes.c_size_t(4))",
        "only column-major matrices",
    ),
    "another_product": (
        "p.choose()\np.layouts[1:] = [p.layout(4, 2), p.layout(5, 2)]\np.run()",
        "the algorithm was chosen for another product",
    ),
    "alignment": ("p.choose(16)\np.arrays[1] = ctypes.c_void_p(p.arrays[1].value + 4)\np.run()", "aligned to 4 bytes"),
    "vector_alignment": (
        "p.choose()\np.set(VECTOR, ctypes.c_void_p(p.vector.value + 4))\np.run()",
        "the vector is aligned worse",
    ),
    "past_the_end": (
        "p.choose(4)\np.arrays[2] = ctypes.c_void_p(p.arrays[2].value + 16)\np.run()",
        "cublasLtMatmul: needs 60 bytes",
    ),
    "destroyed": ("p.device.call('cublasLtDestroy', p.handle)\np.choose()", "use of a cuBLASLt handle that does not"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_ends_the_process(name: str) -> None:
    what, said = MISUSE[name]
    begin = "from emulation.test_emulation_blaslt import *\np, _ = product(Device())\n"
    folder = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", begin + what], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode < 0 and said in done.stderr, done.stderr[-2000:]
