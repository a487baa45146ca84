"""The look-alike of cuBLAS: products by value, and the arguments that it refuses."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from emulation.device import SCALAR, Device, relative_error

NAMES = {np.float32: "Sgemm", np.float64: "Dgemm"}
INVALID_VALUE = 7


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


def _gemm(device: Device, ta: bool, tb: bool, a: Any, b: Any, c: Any, alpha: float, beta: float) -> Any:
    """c = alpha op(a) op(b) + beta c. Operands lie in the upper rows of larger arrays: leading dimensions over rows."""
    m, n = c.shape
    k = a.shape[0] if ta else a.shape[1]
    padded = []
    for operand, more in ((a, 3), (b, 0), (c, 2)):
        full = np.full((operand.shape[0] + more, operand.shape[1]), 7.0, operand.dtype, order="F")
        full[: operand.shape[0]] = operand
        padded.append(full)
    pointers = [device.upload(full) for full in padded]
    scalar = SCALAR[c.dtype]
    handle = device.new("cublasCreate_v2")
    device.call(
        f"cublas{NAMES[c.dtype.type]}_v2", handle, int(ta), int(tb), m, n, k,
        ctypes.byref(scalar(alpha)), pointers[0], padded[0].shape[0], pointers[1], padded[1].shape[0],
        ctypes.byref(scalar(beta)), pointers[2], padded[2].shape[0],
    )  # fmt: skip
    result = device.download(pointers[2], padded[2])
    device.call("cublasDestroy_v2", handle)
    device.free(*pointers)
    assert np.all(result[m:] == 7.0)  # below the matrix nothing was written
    return result[:m]


# Sizes below, at and above the edges of the blocks and tiles.
SIZES = [(1, 1, 1), (3, 5, 2), (32, 6, 256), (33, 7, 257), (200, 50, 300), (17, 1600, 3), (1, 100, 700)]


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("m,n,k", SIZES)
def test_gemm(device: Device, dtype: Any, m: int, n: int, k: int) -> None:
    """All four transpositions, against the product in float64."""
    rng = np.random.default_rng(m * n * k)
    for ta in (False, True):
        for tb in (False, True):
            a = rng.standard_normal((k, m) if ta else (m, k)).astype(dtype)
            b = rng.standard_normal((n, k) if tb else (k, n)).astype(dtype)
            c = rng.standard_normal((m, n)).astype(dtype)
            left, right = a.T if ta else a, b.T if tb else b
            got = _gemm(device, ta, tb, a, b, c, 1.5, -0.5)
            exact = 1.5 * (left.astype(float) @ right.astype(float)) - 0.5 * c
            # Each sum of k products is off by at most about k units in the last place of the sum of their magnitudes.
            bound = np.finfo(dtype).eps * (k + 4) * (1.5 * np.abs(left).astype(float) @ np.abs(right) + 0.5 * np.abs(c))
            assert np.all(np.abs(got - exact) <= bound)


def test_beta_zero_does_not_read(device: Device) -> None:
    """As in cuBLAS, what c held does not matter where beta is 0, even NaN; with beta 1 it does."""
    a, b = np.eye(5, dtype=np.float32), np.arange(25, dtype=np.float32).reshape(5, 5)
    c = np.full((5, 5), np.nan, np.float32)
    assert np.array_equal(_gemm(device, False, False, a, b, c, 1.0, 0.0), b)
    assert np.all(np.isnan(_gemm(device, False, False, a, b, c, 1.0, 1.0)))


def test_empty_sum(device: Device) -> None:
    """k = 0: the product is zero, beta still scales."""
    a, b = np.zeros((4, 0), np.float64), np.zeros((0, 3), np.float64)
    c = np.ones((4, 3))
    pointer, handle = device.upload(np.asfortranarray(c)), device.new("cublasCreate_v2")
    one, half = ctypes.c_double(1), ctypes.c_double(0.5)
    nothing = device.empty(8)
    device.call("cublasDgemm_v2", handle, 0, 0, 4, 3, 0, ctypes.byref(one), nothing, 4, nothing, 1,
                ctypes.byref(half), pointer, 4)  # fmt: skip
    assert np.array_equal(device.download(pointer, np.asfortranarray(c)), 0.5 * c + a @ b)
    device.call("cublasDestroy_v2", handle)
    device.free(pointer, nothing)


def test_float32_sums_are_blocked(device: Device) -> None:
    """A long sum stays far inside the bound of a plain loop: 100,000 equal terms."""
    k = 100_000
    a, b = np.full((1, k), 0.1, np.float32), np.ones((k, 1), np.float32)
    got = _gemm(device, False, False, a, b, np.zeros((1, 1), np.float32), 1.0, 0.0)
    assert relative_error(got, np.array([[k * float(np.float32(0.1))]])) < 1e-5


@pytest.mark.parametrize(
    "m,n,k,ta,tb,lda,ldb,ldc",
    [
        (4, 3, 5, 0, 0, 3, 5, 4),
        (4, 3, 5, 1, 0, 4, 5, 4),
        (4, 3, 5, 0, 0, 4, 4, 4),
        (4, 3, 5, 0, 1, 4, 2, 4),
        (4, 3, 5, 0, 0, 4, 5, 3),
        (-1, 3, 5, 0, 0, 4, 5, 4),
    ],
)
def test_wrong_sizes(device: Device, m: int, n: int, k: int, ta: int, tb: int, lda: int, ldb: int, ldc: int) -> None:
    """A leading dimension below the rows, or a negative size."""
    memory, handle = device.empty(1000), device.new("cublasCreate_v2")
    one = ctypes.byref(ctypes.c_float(1))
    status = device.lib.cublasSgemm_v2(handle, ta, tb, m, n, k, one, memory, lda, memory, ldb, one, memory, ldc)
    assert status == INVALID_VALUE
    device.call("cublasDestroy_v2", handle)
    device.free(memory)


@pytest.mark.parametrize("dtype,name", [(np.float32, "cublasSaxpy_v2"), (np.float64, "cublasDaxpy_v2")])
def test_axpy(device: Device, dtype: Any, name: str) -> None:
    """y += a x, with steps."""
    x, y = np.arange(12, dtype=dtype), np.ones(8, dtype)
    handle, dx, dy = device.new("cublasCreate_v2"), device.upload(x), device.upload(y)
    device.call(name, handle, 4, ctypes.byref(SCALAR[y.dtype](2)), dx, 3, dy, 2)
    wanted = y.copy()
    wanted[::2] += 2 * x[::3]
    assert np.array_equal(device.download(dy, y), wanted)
    device.call("cublasDestroy_v2", handle)
    device.free(dx, dy)


def test_handle(device: Device) -> None:
    """Streams and math modes are kept; statuses have names."""
    handle = device.new("cublasCreate_v2")
    stream, mode = ctypes.c_void_p(), ctypes.c_int()
    device.call("cudaStreamCreate", ctypes.byref(stream))
    device.call("cublasSetStream_v2", handle, stream)
    device.call("cublasSetMathMode", handle, 3)
    found = ctypes.c_void_p()
    device.call("cublasGetStream_v2", handle, ctypes.byref(found))
    device.call("cublasGetMathMode", handle, ctypes.byref(mode))
    assert (found.value, mode.value) == (stream.value, 3)
    assert device.lib.cublasGetStatusName(INVALID_VALUE) == b"CUBLAS_STATUS_INVALID_VALUE"
    assert device.lib.cublasGetStatusString(INVALID_VALUE) == b"invalid argument"
    device.call("cublasDestroy_v2", handle)
    device.call("cudaStreamDestroy", stream)
