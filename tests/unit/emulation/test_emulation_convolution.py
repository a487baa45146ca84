"""The look-alike of cuDNN's convolutions against loops written out: 2-D, 3-D, modes, padding, stride, dilation."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import pytest

from emulation.device import CUDNN_TYPE, SCALAR, Array, Device, ints, relative_error

CONVOLUTION, CROSS_CORRELATION = 0, 1
BAD_PARAM, NOT_SUPPORTED = 2000, 3000

# x sizes, w sizes (outputs, channels, taps), padding, stride, dilation
CASES = {
    "2-D": ((2, 3, 6, 7), (4, 3, 3, 2), (0, 0), (1, 1), (1, 1)),
    "2-D-padding": ((2, 2, 5, 6), (3, 2, 3, 5), (1, 3), (1, 1), (1, 1)),
    "2-D-stride": ((1, 2, 9, 8), (2, 2, 3, 2), (0, 1), (2, 3), (1, 1)),
    "2-D-dilation": ((2, 1, 9, 10), (2, 1, 3, 3), (2, 0), (1, 2), (2, 3)),
    "2-D-one-by-one": ((3, 4, 3, 3), (5, 4, 1, 1), (0, 0), (1, 1), (1, 1)),
    "2-D-padding-over-image": ((1, 1, 2, 2), (1, 1, 5, 5), (3, 4), (1, 1), (1, 1)),
    "3-D": ((2, 2, 4, 5, 6), (3, 2, 2, 3, 2), (0, 0, 0), (1, 1, 1), (1, 1, 1)),
    "3-D-all": ((1, 2, 5, 6, 7), (2, 2, 2, 3, 3), (1, 0, 2), (2, 1, 3), (1, 2, 2)),
}


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


def _pairs(x: Any, w: Any, y: Any, padding: Any, stride: Any, dilation: Any, mode: int) -> Any:
    """Each output position with each tap and the input position under it, where that is inside."""
    for out in itertools.product(*map(range, y[2:])):
        for tap in itertools.product(*map(range, w[2:])):
            at = [t if mode == CROSS_CORRELATION else n - 1 - t for t, n in zip(tap, w[2:], strict=True)]
            spot = tuple(o * s - p + a * d for o, s, p, a, d in zip(out, stride, padding, at, dilation, strict=True))
            if all(0 <= i < n for i, n in zip(spot, x[2:], strict=True)):
                yield out, tap, spot


class _Reference:
    """A convolution and its two gradients in float64, straight from the definition."""

    def __init__(self, x: Array, w: Array, dy: Array, window: Any, mode: int) -> None:
        x, w, dy = x.astype(float), w.astype(float), dy.astype(float)
        self.y, self.dx, self.dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
        for out, tap, spot in _pairs(x.shape, w.shape, dy.shape, *window, mode):
            o, t, i = (
                (slice(None), slice(None), *out),
                (slice(None), slice(None), *tap),
                (slice(None), slice(None), *spot),
            )
            self.y[o] += x[i] @ w[t].T
            self.dx[i] += dy[o] @ w[t]
            self.dw[t] += dy[o].T @ x[i]


class _Convolution:
    """The three calls, on descriptors for one geometry."""

    def __init__(self, device: Device, x: Any, w: Any, window: Any, mode: int, dtype: Any) -> None:
        self.device, self.dtype = device, np.dtype(dtype)
        self.handle = device.new("cudnnCreate")
        self.conv = device.new("cudnnCreateConvolutionDescriptor")
        arguments = [ints(values) for values in window]
        spatial = len(window[0])
        kind = CUDNN_TYPE[self.dtype]
        device.call("cudnnSetConvolutionNdDescriptor", self.conv, spatial, *arguments, mode, kind)
        self.x, self.w = device.tensor(x, dtype), device.filter(w, dtype)
        size = (ctypes.c_int * (spatial + 2))()
        device.call("cudnnGetConvolutionNdForwardOutputDim", self.conv, self.x, self.w, spatial + 2, size)
        self.size = tuple(size)
        self.y = device.tensor(self.size, dtype)

    def run(self, name: str, first: Any, second: Any, result: Array, alpha: float = 1.0, beta: float = 0.0) -> Array:
        """`first` and `second` are (descriptor, array); `result` holds what beta scales."""
        out = {"Forward": self.y, "BackwardData": self.x, "BackwardFilter": self.w}[name]
        size = ctypes.c_size_t()
        descriptors = (first[0], second[0], self.conv, out)
        device = self.device
        device.call(f"cudnnGetConvolution{name}WorkspaceSize", self.handle, *descriptors, 1, ctypes.byref(size))
        memory = [device.upload(first[1]), device.upload(second[1]), device.upload(result), device.empty(size.value)]
        scalar = SCALAR[self.dtype]
        device.call(
            f"cudnnConvolution{name}", self.handle, ctypes.byref(scalar(alpha)), first[0], memory[0], second[0],
            memory[1], self.conv, 1, memory[3], size, ctypes.byref(scalar(beta)), out, memory[2],
        )  # fmt: skip
        values = device.download(memory[2], result)
        device.free(*memory)
        return values

    def close(self) -> None:
        device = self.device
        device.call("cudnnDestroyTensorDescriptor", self.x)
        device.call("cudnnDestroyTensorDescriptor", self.y)
        device.call("cudnnDestroyFilterDescriptor", self.w)
        device.call("cudnnDestroyConvolutionDescriptor", self.conv)
        device.call("cudnnDestroy", self.handle)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", [CONVOLUTION, CROSS_CORRELATION])
@pytest.mark.parametrize("case", CASES)
def test_values(device: Device, case: str, mode: int, dtype: Any) -> None:
    """Forward and both gradients, the output's sizes, alpha and beta."""
    x_size, w_size, *window = CASES[case]
    rng = np.random.default_rng(len(case))
    before = device.lib.knetemu_live_objects()
    conv = _Convolution(device, x_size, w_size, window, mode, dtype)
    span = [(n - 1) * d + 1 for n, d in zip(w_size[2:], window[2], strict=True)]
    wanted = [(n + 2 * p - s) // t + 1 for n, p, s, t in zip(x_size[2:], window[0], span, window[1], strict=True)]
    assert conv.size == (x_size[0], w_size[0], *wanted)

    x, w, dy = (rng.standard_normal(s).astype(dtype) for s in (x_size, w_size, conv.size))
    y0, dx0, dw0 = (rng.standard_normal(a.shape).astype(dtype) for a in (dy, x, w))
    reference = _Reference(x, w, dy, window, mode)
    garbage = [np.full(a.shape, np.nan, dtype) for a in (dy, x, w)]
    bound = 200 * np.finfo(dtype).eps

    y = conv.run("Forward", (conv.x, x), (conv.w, w), garbage[0])
    dx = conv.run("BackwardData", (conv.w, w), (conv.y, dy), garbage[1])
    dw = conv.run("BackwardFilter", (conv.x, x), (conv.y, dy), garbage[2])
    assert relative_error(y, reference.y) < bound
    assert relative_error(dx, reference.dx) < bound
    assert relative_error(dw, reference.dw) < bound

    y = conv.run("Forward", (conv.x, x), (conv.w, w), y0, 2.0, 0.5)
    dx = conv.run("BackwardData", (conv.w, w), (conv.y, dy), dx0, 2.0, 0.5)
    dw = conv.run("BackwardFilter", (conv.x, x), (conv.y, dy), dw0, 2.0, 0.5)
    assert relative_error(y, 2 * reference.y + 0.5 * y0) < bound
    assert relative_error(dx, 2 * reference.dx + 0.5 * dx0) < bound
    assert relative_error(dw, 2 * reference.dw + 0.5 * dw0) < bound
    conv.close()
    assert device.lib.knetemu_live_objects() == before


def test_refused(device: Device) -> None:
    """Sizes that do not fit, a workspace that is too small, and what cuDNN does not support."""
    x, w = (2, 3, 6, 6), (4, 3, 3, 3)
    conv = _Convolution(device, x, w, ((0, 0), (1, 1), (1, 1)), CONVOLUTION, np.float32)
    size, memory = ctypes.c_size_t(), device.empty(1 << 20)
    one = ctypes.byref(ctypes.c_float(1))
    ask, run = device.lib.cudnnGetConvolutionForwardWorkspaceSize, device.lib.cudnnConvolutionForward
    wrong = [device.tensor(s, t) for s, t in (((2, 4, 4, 5), "f4"), ((2, 5, 4, 4), "f4"), ((2, 4, 4, 4), "f8"))]
    for y in wrong:
        assert ask(conv.handle, conv.x, conv.w, conv.conv, y, 0, ctypes.byref(size)) == BAD_PARAM
    device.call("cudnnGetConvolutionForwardWorkspaceSize", conv.handle, conv.x, conv.w, conv.conv, conv.y, 0,
                ctypes.byref(size))  # fmt: skip
    assert size.value > 0
    less = ctypes.c_size_t(size.value - 1)
    assert run(conv.handle, one, conv.x, memory, conv.w, memory, conv.conv, 0, memory, less, one, conv.y, memory) == (
        BAD_PARAM
    )
    for y in wrong:
        device.call("cudnnDestroyTensorDescriptor", y)
    conv.close()
    device.free(memory)


def test_descriptors_refused(device: Device) -> None:
    """Sizes below 1, more or fewer dimensions than cuDNN has, strides that are not packed, other types and layouts."""
    tensor, conv = device.new("cudnnCreateTensorDescriptor"), device.new("cudnnCreateConvolutionDescriptor")
    filters = device.new("cudnnCreateFilterDescriptor")
    tensor_nd, filter_nd = device.lib.cudnnSetTensorNdDescriptor, device.lib.cudnnSetFilterNdDescriptor
    assert tensor_nd(tensor, 0, 4, ints((2, 0, 3, 3)), ints((0, 9, 3, 1))) == BAD_PARAM
    assert tensor_nd(tensor, 0, 3, ints((2, 3, 3)), ints((9, 3, 1))) == NOT_SUPPORTED
    assert tensor_nd(tensor, 0, 4, ints((2, 2, 3, 3)), ints((18, 9, 1, 3))) == NOT_SUPPORTED
    assert tensor_nd(tensor, 2, 4, ints((2, 2, 3, 3)), ints((18, 9, 3, 1))) == NOT_SUPPORTED
    assert tensor_nd(tensor, 0, 4, ints((65536, 32768, 1, 1)), ints((32768, 1, 1, 1))) == NOT_SUPPORTED
    assert filter_nd(filters, 0, 1, 4, ints((2, 2, 3, 3))) == NOT_SUPPORTED
    set_conv = device.lib.cudnnSetConvolutionNdDescriptor
    good = ints((1, 1))
    assert set_conv(conv, 2, ints((-1, 0)), good, good, 0, 0) == BAD_PARAM
    assert set_conv(conv, 2, good, ints((0, 1)), good, 0, 0) == BAD_PARAM
    assert set_conv(conv, 4, ints((1,) * 4), ints((1,) * 4), ints((1,) * 4), 0, 0) == NOT_SUPPORTED
    device.call("cudnnDestroyTensorDescriptor", tensor)
    device.call("cudnnDestroyConvolutionDescriptor", conv)
    device.call("cudnnDestroyFilterDescriptor", filters)
    assert device.lib.cudnnGetErrorString(BAD_PARAM) == b"CUDNN_STATUS_BAD_PARAM"
