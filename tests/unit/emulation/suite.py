"""Runs `suite.cu` and compares with NumPy; as a script (`suite.py LIBRARY`), in a process of its own.

A test runs the script once for each way of running the emulation, so that the environment can be set and a sanitizer
loaded before Python starts.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np


def _pointer(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def check_elementwise(lib: ctypes.CDLL) -> None:
    x = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    y = np.zeros_like(x)
    # 40 blocks: a thread an element; 3 blocks: threads stride.
    for blocks in (40, 3):
        assert lib.run_scale(_pointer(y), _pointer(x), ctypes.c_float(1.5), x.size, blocks) == 0
        assert np.array_equal(y, np.float32(1.5) * x)


def check_barriers(lib: ctypes.CDLL) -> None:
    x = np.random.default_rng(1).integers(-1000, 1000, (7, 1000)).astype(np.float64)
    sums = np.zeros(7)
    assert lib.run_row_sums(_pointer(sums), _pointer(x), *x.shape) == 0
    assert np.array_equal(sums, x.sum(1))
    for threads in (64, 77):
        stretch = np.arange(5 * threads, dtype=np.int32)
        y = np.zeros_like(stretch)
        assert lib.run_reverse(_pointer(y), _pointer(stretch), 5, threads) == 0
        wanted = stretch.reshape(5, threads)[:, ::-1] + 1000 * (np.arange(threads) % 4)
        assert np.array_equal(y.reshape(5, threads), wanted)


def check_warps(lib: ctypes.CDLL) -> None:
    x = np.random.default_rng(2).integers(0, 90, 64).astype(np.int32)
    y = np.zeros((10, 64), np.int32)
    assert lib.run_shuffles(_pointer(y), _pointer(x)) == 0
    lane, base = np.arange(64) % 32, np.arange(64) // 32 * 32
    warps = x.reshape(2, 32)
    assert np.array_equal(y[0], x[base + 5])
    assert np.array_equal(y[1], x[base + (lane ^ 3)])
    assert np.array_equal(y[2], x[base + np.where(lane + 7 < 32, lane + 7, lane)])
    assert np.array_equal(y[3], x[base + np.where(lane >= 9, lane - 9, lane)])
    assert np.array_equal(y[4], x[base + (lane ^ 8)])
    assert np.array_equal(y[5], x[base + lane // 16 * 16 + 2])
    ballots = [sum(1 << i for i in range(32) if warp[i] % 3 == 0) for warp in warps.tolist()]
    assert np.array_equal(y[6].view(np.uint32), np.repeat(np.array(ballots, np.uint32), 32))
    assert np.array_equal(y[7], np.repeat((warps == 40).any(1) + 2, 32))
    kept = (lane < 18) & (lane < 20)
    assert np.array_equal(y[8][kept], x[base + np.minimum(lane + 2, 31)][kept])
    assert np.all(y[8][lane >= 20] == 0)
    assert np.array_equal(y[9], x[base + 31 - lane])

    values = np.random.default_rng(3).integers(-50, 50, 6 * 128).astype(np.float32)
    sums = np.zeros(24, np.float32)
    assert lib.run_warp_sums(_pointer(sums), _pointer(values), 6) == 0
    assert np.array_equal(sums, values.reshape(24, 32).sum(1))


def check_atomics(lib: ctypes.CDLL) -> None:
    x = np.random.default_rng(4).integers(2, 14, 1000).astype(np.int32)
    counts, largest, smallest = np.zeros(16, np.int32), np.zeros(1, np.int32), np.full(1, 99, np.int32)
    arguments = (_pointer(counts), 16, _pointer(largest), _pointer(smallest), _pointer(x), x.size)
    assert lib.run_histogram(*arguments) == 0
    assert np.array_equal(counts, np.bincount(x, minlength=16))
    assert largest[0] == x.max() and smallest[0] == x.min()


def check_indices(lib: ctypes.CDLL) -> None:
    y = np.zeros((12, 60), np.int32)
    assert lib.run_indices(_pointer(y), y.size) == 0
    assert np.array_equal(y, 100000 * np.arange(12)[:, None] + np.arange(60))


def check_intrinsics(lib: ctypes.CDLL) -> None:
    words, reals = np.zeros(6, np.uint32), np.zeros(6)
    a, b, p, q = 0xD2511F53, 0x00CD9E57, 1.1, 0.7
    double = ctypes.c_double
    assert lib.run_intrinsics(_pointer(words), _pointer(reals), ctypes.c_uint(a), b, double(p), double(q)) == 0
    f = np.float32
    assert words[0] == a * b >> 32
    assert words[1:3].view(f).tolist() == [f(1.0), f(1.1) * f(1.3)]  # a tie goes to the even neighbour
    assert words[3:].tolist() == [a.bit_count(), 32 - b.bit_length(), 9]
    assert reals.tolist() == [p + q, p - q, p * q, p / q, np.sqrt(p), 0.0]


def check_streams_and_graphs(lib: ctypes.CDLL) -> None:
    x = np.arange(100, dtype=np.float32)
    y = np.zeros_like(x)
    assert lib.run_two_streams(_pointer(y), _pointer(x), x.size) == 0
    assert np.array_equal(y, 2 * (x + 3))
    z = x.copy()
    assert lib.run_graph(_pointer(z), z.size, 5) == 0
    assert np.array_equal(z, x + 5)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]

if __name__ == "__main__":
    library = ctypes.CDLL(sys.argv[1])
    for check in CHECKS:
        check(library)
    print("clean")
