"""The look-alike of cuDNN's pooling against loops written out, and the geometry that it insists on."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest

from emulation.device import SCALAR, Array, Device, ints, relative_error

MAX, INCLUDE, EXCLUDE, MAX_DETERMINISTIC = range(4)
BAD_PARAM = 2000
PROPAGATE = 1

# x sizes, window, padding, stride; the last column of 2-D-rest is in no window
CASES = {
    "2-D": ((2, 3, 4, 6), (2, 2), (0, 0), (2, 2)),
    "2-D-overlap": ((1, 2, 7, 5), (3, 3), (0, 0), (2, 1)),
    "2-D-padding": ((2, 1, 5, 6), (3, 4), (1, 2), (2, 2)),
    "2-D-rest": ((1, 1, 6, 5), (2, 2), (0, 0), (2, 2)),
    "3-D": ((1, 2, 4, 5, 6), (2, 3, 2), (1, 1, 0), (2, 1, 2)),
}


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


def _windows(x: Any, window: Any, padding: Any, stride: Any) -> Any:
    """Each output position with the part of its window that lies in the image."""
    sizes = [(n + 2 * p - w) // s + 1 for n, w, p, s in zip(x[2:], window, padding, stride, strict=True)]
    for out in itertools.product(*map(range, sizes)):
        starts = [o * s - p for o, s, p in zip(out, stride, padding, strict=True)]
        inside = [slice(max(a, 0), min(a + w, n)) for a, w, n in zip(starts, window, x[2:], strict=True)]
        yield out, tuple(inside)


def _reference(x: Array, dy: Array | None, case: Any, mode: int) -> tuple[Array, Array]:
    """y, and dx for dy (ones where None), in float64 from the definition."""
    window, padding, stride = case
    sizes = [(n + 2 * p - w) // s + 1 for n, w, p, s in zip(x.shape[2:], window, padding, stride, strict=True)]
    y, dx = np.zeros((*x.shape[:2], *sizes)), np.zeros(x.shape)
    dy = np.ones(y.shape) if dy is None else dy
    for out, inside in _windows(x.shape, window, padding, stride):
        for plane in itertools.product(*map(range, x.shape[:2])):
            part = x[plane][inside].astype(float)
            if mode in (MAX, MAX_DETERMINISTIC):
                y[plane][out] = part.max()
                first = np.unravel_index(part.argmax(), part.shape)
                dx[plane][inside][first] += dy[plane][out]
            else:
                count = np.prod(window) if mode == INCLUDE else part.size
                y[plane][out] = part.sum() / count
                dx[plane][inside] += dy[plane][out] / count
    return y, dx


class _Pooling:
    """Forward and backward on descriptors for one geometry."""

    def __init__(self, device: Device, x: Any, window: Any, padding: Any, stride: Any, mode: int, dtype: Any) -> None:
        self.device, self.dtype = device, np.dtype(dtype)
        self.handle, self.pool = device.new("cudnnCreate"), device.new("cudnnCreatePoolingDescriptor")
        arguments = (ints(window), ints(padding), ints(stride))
        device.call("cudnnSetPoolingNdDescriptor", self.pool, mode, PROPAGATE, len(window), *arguments)
        self.x = device.tensor(x, dtype)
        size = (ctypes.c_int * len(x))()
        device.call("cudnnGetPoolingNdForwardOutputDim", self.pool, self.x, len(x), size)
        self.size = tuple(size)
        self.y = device.tensor(self.size, dtype)

    def forward(self, x: Array, y: Array, alpha: float, beta: float) -> Array:
        device, scalar = self.device, SCALAR[self.dtype]
        memory = [device.upload(x), device.upload(y)]
        device.call("cudnnPoolingForward", self.handle, self.pool, ctypes.byref(scalar(alpha)), self.x, memory[0],
                    ctypes.byref(scalar(beta)), self.y, memory[1])  # fmt: skip
        values = device.download(memory[1], y)
        device.free(*memory)
        return values

    def backward(self, x: Array, y: Array, dy: Array, dx: Array, alpha: float, beta: float) -> Array:
        device, scalar = self.device, SCALAR[self.dtype]
        memory = [device.upload(a) for a in (y, dy, x, dx)]
        device.call("cudnnPoolingBackward", self.handle, self.pool, ctypes.byref(scalar(alpha)), self.y, memory[0],
                    self.y, memory[1], self.x, memory[2], ctypes.byref(scalar(beta)), self.x, memory[3])  # fmt: skip
        values = device.download(memory[3], dx)
        device.free(*memory)
        return values

    def close(self) -> None:
        for tensor in (self.x, self.y):
            self.device.call("cudnnDestroyTensorDescriptor", tensor)
        self.device.call("cudnnDestroyPoolingDescriptor", self.pool)
        self.device.call("cudnnDestroy", self.handle)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", [MAX, INCLUDE, EXCLUDE, MAX_DETERMINISTIC])
@pytest.mark.parametrize("case", CASES)
def test_values(device: Device, case: str, mode: int, dtype: Any) -> None:
    """Forward and backward, with overlapping windows, padding, alpha and beta."""
    size, *geometry = CASES[case]
    rng = np.random.default_rng(len(case))
    # All negative: padding must never win.
    x = (-1 - rng.random(size)).astype(dtype)
    pool = _Pooling(device, size, *geometry, mode, dtype)
    dy = rng.standard_normal(pool.size).astype(dtype)
    y, dx = _reference(x, dy, geometry, mode)
    assert pool.size == y.shape
    bound = 20 * np.finfo(dtype).eps
    got = pool.forward(x, np.full(pool.size, np.nan, dtype), 1.0, 0.0)
    assert relative_error(got, y) < bound
    assert relative_error(pool.backward(x, got, dy, np.full(size, np.nan, dtype), 1.0, 0.0), dx) < bound
    y0, dx0 = rng.standard_normal(y.shape).astype(dtype), rng.standard_normal(size).astype(dtype)
    assert relative_error(pool.forward(x, y0, 2.0, 0.5), 2 * y + 0.5 * y0) < bound
    assert relative_error(pool.backward(x, got, dy, dx0, 2.0, 0.5), 2 * dx + 0.5 * dx0) < bound
    pool.close()


def test_first_maximum_takes_the_gradient(device: Device) -> None:
    """Of equal elements, the first in the order of memory."""
    x = np.array([[2.0, 2, 0, 1], [2, 2, 1, 1]], np.float32).reshape(1, 1, 2, 4)
    pool = _Pooling(device, x.shape, (2, 2), (0, 0), (2, 2), MAX, np.float32)
    y, dy = np.array([2.0, 1], np.float32).reshape(1, 1, 1, 2), np.array([5.0, 7], np.float32).reshape(1, 1, 1, 2)
    dx = pool.backward(x, y, dy, np.zeros_like(x), 1.0, 0.0)
    assert dx.ravel().tolist() == [5, 0, 0, 7, 0, 0, 0, 0]
    pool.close()


def test_nan(device: Device) -> None:
    """With CUDNN_PROPAGATE_NAN a NaN is a window's maximum."""
    x = np.array([1.0, np.nan, 3, 4, 5, 6, 7, 8], np.float32).reshape(1, 1, 2, 4)
    pool = _Pooling(device, x.shape, (2, 2), (0, 0), (2, 2), MAX, np.float32)
    y = pool.forward(x, np.zeros(pool.size, np.float32), 1.0, 0.0).ravel()
    assert np.isnan(y[0]) and y[1] == 8
    pool.close()


@pytest.mark.parametrize(
    "window,padding,stride,y",
    [
        ((2, 2), (0, 0), (2, 2), (2, 3, 3, 3)),  # a last partial window: Knet's geometry, not cuDNN's
        ((2, 2), (0, 0), (2, 2), (2, 3, 2, 2)),
        ((2, 2), (2, 2), (2, 2), (2, 3, 4, 4)),  # windows of padding alone
        ((6, 6), (0, 0), (1, 1), (2, 3, 1, 1)),
    ],
)
def test_wrong_geometry(device: Device, window: Any, padding: Any, stride: Any, y: Any) -> None:
    """An output of other sizes than cuDNN's is refused; x has 5 by 6 elements in a plane."""
    handle, pool = device.new("cudnnCreate"), device.new("cudnnCreatePoolingDescriptor")
    arguments = (ints(window), ints(padding), ints(stride))
    device.call("cudnnSetPoolingNdDescriptor", pool, MAX, PROPAGATE, 2, *arguments)
    x_desc, y_desc = device.tensor((2, 3, 5, 6), np.float32), device.tensor(y, np.float32)
    memory, one = device.empty(4000), ctypes.byref(ctypes.c_float(1))
    forward = device.lib.cudnnPoolingForward
    assert forward(handle, pool, one, x_desc, memory, one, y_desc, memory) == BAD_PARAM
    device.free(memory)
    for tensor in (x_desc, y_desc):
        device.call("cudnnDestroyTensorDescriptor", tensor)
    device.call("cudnnDestroyPoolingDescriptor", pool)
    device.call("cudnnDestroy", handle)
