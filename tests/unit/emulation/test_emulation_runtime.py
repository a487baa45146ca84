"""The look-alike of the CUDA runtime: memory, streams, events, graphs, and the switches that make a call fail."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from emulation.device import Device

INVALID_VALUE, OUT_OF_MEMORY, NOT_READY, UNKNOWN = 1, 2, 600, 999
INVALID_HANDLE, CAPTURE_UNSUPPORTED, ILLEGAL_STATE = 400, 900, 401
NON_BLOCKING, NO_TIMING = 1, 2
HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, DEFAULT = 1, 2, 3, 4


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The device, with the switches of `monkeypatch`'s environment after `reload`; everything as before afterwards."""
    device = Device()
    live = device.lib.knetemu_live_objects()
    device.lib.knetemu_reload()
    yield device
    monkeypatch.undo()
    device.lib.knetemu_reload()
    assert device.lib.knetemu_live_objects() == live


def _address(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _stream(device: Device) -> ctypes.c_void_p:
    stream = ctypes.c_void_p()
    device.call("cudaStreamCreateWithFlags", ctypes.byref(stream), NON_BLOCKING)
    return stream


def test_copies(device: Device) -> None:
    """There and back, within the device, by the default kind, and set to a byte."""
    x = np.arange(10, dtype=np.int32)
    a, b = device.upload(x), device.empty(x.nbytes)
    device.call("cudaMemcpy", b, a, ctypes.c_size_t(x.nbytes), DEVICE_TO_DEVICE)
    y = np.zeros_like(x)
    device.call("cudaMemcpy", _address(y), b, ctypes.c_size_t(x.nbytes), DEFAULT)
    assert np.array_equal(x, y)
    device.call("cudaMemset", b, 1, ctypes.c_size_t(8))
    assert device.download(b, y).tolist() == [0x01010101] * 2 + list(range(2, 10))
    device.free(a, b)


@pytest.mark.parametrize("fill,value", [("0xff", 0xFFFFFFFF), ("0x7e", 0x7E7E7E7E), ("0", 0)])
def test_fresh_memory(device: Device, monkeypatch: pytest.MonkeyPatch, fill: str, value: int) -> None:
    """KNETEMU_FILL is what memory holds before it is written."""
    monkeypatch.setenv("KNETEMU_FILL", fill)
    device.lib.knetemu_reload()
    pointer = device.empty(8)
    assert device.download(pointer, np.zeros(2, np.uint32)).tolist() == [value] * 2
    device.free(pointer)


def test_errors_of_memory(device: Device) -> None:
    """Freeing what is not an allocation; more memory than there is; the error is kept until it is asked for."""
    pointer = device.empty(100)
    inside = ctypes.c_void_p((pointer.value or 0) + 4)
    assert device.lib.cudaFree(inside) == INVALID_VALUE
    assert device.lib.cudaPeekAtLastError() == INVALID_VALUE
    assert (device.lib.cudaGetLastError(), device.lib.cudaGetLastError()) == (INVALID_VALUE, 0)
    assert device.lib.cudaFreeHost(pointer) == INVALID_VALUE
    more = ctypes.c_void_p()
    assert device.lib.cudaMalloc(ctypes.byref(more), ctypes.c_size_t(1 << 60)) == OUT_OF_MEMORY
    assert more.value is None
    assert device.lib.cudaGetErrorName(OUT_OF_MEMORY) == b"cudaErrorMemoryAllocation"
    assert device.lib.cudaGetErrorString(OUT_OF_MEMORY) == b"out of memory"
    device.lib.cudaGetLastError()
    device.free(pointer)


def test_memory_in_use(device: Device) -> None:
    """Bytes in use and the most so far."""
    start = device.lib.knetemu_live_bytes()
    a, b = device.empty(1000), device.empty(500)
    device.free(a)
    c = device.empty(200)
    assert device.lib.knetemu_live_bytes() - start == 700
    assert device.lib.knetemu_peak_bytes() - start == 1500
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    device.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    assert total.value - free.value == start + 700
    device.free(b, c)


def test_lazy_streams(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In lazy mode work is done when it is waited for, in the order of its stream."""
    monkeypatch.setenv("KNETEMU_ASYNC", "lazy")
    device.lib.knetemu_reload()
    stream, event, pinned = _stream(device), ctypes.c_void_p(), ctypes.c_void_p()
    device.call("cudaEventCreateWithFlags", ctypes.byref(event), NO_TIMING)
    device.call("cudaMallocHost", ctypes.byref(pinned), ctypes.c_size_t(4))
    host = ctypes.c_int.from_address(pinned.value or 0)
    pointer = device.empty(4)
    host.value = 7
    device.call("cudaMemsetAsync", pointer, 1, ctypes.c_size_t(4), stream)
    device.call("cudaMemcpyAsync", pinned, pointer, ctypes.c_size_t(4), DEVICE_TO_HOST, stream)
    device.call("cudaEventRecord", event, stream)
    device.call("cudaMemsetAsync", pointer, 2, ctypes.c_size_t(4), stream)
    assert host.value == 7
    assert (device.lib.cudaStreamQuery(stream), device.lib.cudaEventQuery(event)) == (NOT_READY, NOT_READY)
    device.call("cudaEventSynchronize", event)
    assert host.value == 0x01010101
    assert (device.lib.cudaStreamQuery(stream), device.lib.cudaEventQuery(event)) == (NOT_READY, 0)
    device.call("cudaStreamSynchronize", stream)
    assert device.download(pointer, np.zeros(1, np.int32))[0] == 0x02020202
    device.free(pointer)
    device.call("cudaFreeHost", pinned)
    device.call("cudaEventDestroy", event)
    device.call("cudaStreamDestroy", stream)


def test_streams_ahead(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ahead, a stream that waits for nothing does its work before that of the stream that is waited for."""
    monkeypatch.setenv("KNETEMU_ASYNC", "ahead")
    device.lib.knetemu_reload()
    first, second, event, pointer = _stream(device), _stream(device), ctypes.c_void_p(), device.empty(4)
    device.call("cudaEventCreateWithFlags", ctypes.byref(event), NO_TIMING)
    for waits, left in ((True, 0x02020202), (False, 0x01010101)):
        device.call("cudaMemsetAsync", pointer, 1, ctypes.c_size_t(4), first)
        device.call("cudaEventRecord", event, first)
        if waits:
            device.call("cudaStreamWaitEvent", second, event, 0)
        device.call("cudaMemsetAsync", pointer, 2, ctypes.c_size_t(4), second)
        device.call("cudaStreamSynchronize", first)
        device.call("cudaStreamSynchronize", second)
        assert device.download(pointer, np.zeros(1, np.int32))[0] == left
    device.free(pointer)
    device.call("cudaEventDestroy", event)
    device.call("cudaStreamDestroy", first)
    device.call("cudaStreamDestroy", second)


def test_a_capture_ends_where_the_streams_that_joined_it_do(device: Device) -> None:
    """One whose last work the capturing stream does not wait for is refused."""
    first, second, event, pointer = _stream(device), _stream(device), ctypes.c_void_p(), device.empty(4)
    device.call("cudaEventCreateWithFlags", ctypes.byref(event), NO_TIMING)
    for waits in (True, False):
        graph = ctypes.c_void_p()
        device.call("cudaStreamBeginCapture", first, 0)
        device.call("cudaEventRecord", event, first)
        device.call("cudaStreamWaitEvent", second, event, 0)
        device.call("cudaMemsetAsync", pointer, 2, ctypes.c_size_t(4), second)
        if waits:
            device.call("cudaEventRecord", event, second)
            device.call("cudaStreamWaitEvent", first, event, 0)
        assert (device.lib.cudaStreamEndCapture(first, ctypes.byref(graph)) == 0) == waits
        assert bool(graph.value) == waits
        if waits:
            device.call("cudaGraphDestroy", graph)
    device.call("cudaStreamSynchronize", second)  # captures no more
    device.free(pointer)
    device.call("cudaEventDestroy", event)
    device.call("cudaStreamDestroy", first)
    device.call("cudaStreamDestroy", second)


def test_default_stream_waits(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default stream and blocking streams wait for each other; others do not."""
    monkeypatch.setenv("KNETEMU_ASYNC", "lazy")
    device.lib.knetemu_reload()
    blocking, free = ctypes.c_void_p(), _stream(device)
    device.call("cudaStreamCreate", ctypes.byref(blocking))
    pointer = device.empty(4)
    for stream in (blocking, free):
        device.call("cudaMemsetAsync", pointer, 1, ctypes.c_size_t(4), stream)
    device.call("cudaMemsetAsync", pointer, 2, ctypes.c_size_t(4), None)
    assert (device.lib.cudaStreamQuery(blocking), device.lib.cudaStreamQuery(free)) == (0, NOT_READY)
    device.call("cudaMemsetAsync", pointer, 3, ctypes.c_size_t(4), blocking)
    assert device.lib.cudaStreamQuery(None) == 0
    device.call("cudaDeviceSynchronize")
    assert (device.lib.cudaStreamQuery(blocking), device.lib.cudaStreamQuery(free)) == (0, 0)
    device.free(pointer)
    device.call("cudaStreamDestroy", blocking)
    device.call("cudaStreamDestroy", free)


def test_elapsed_time(device: Device) -> None:
    """Between two recorded events with timing; an error for others."""
    events = [ctypes.c_void_p() for _ in range(3)]
    for event, flags in zip(events, (0, 0, NO_TIMING), strict=True):
        device.call("cudaEventCreateWithFlags", ctypes.byref(event), flags)
    milliseconds = ctypes.c_float(-1)
    elapsed = device.lib.cudaEventElapsedTime
    assert elapsed(ctypes.byref(milliseconds), events[0], events[1]) == INVALID_HANDLE
    for event in events:
        device.call("cudaEventRecord", event, None)
    assert elapsed(ctypes.byref(milliseconds), events[0], events[1]) == 0
    assert milliseconds.value >= 0
    assert elapsed(ctypes.byref(milliseconds), events[0], events[2]) == INVALID_HANDLE
    device.lib.cudaGetLastError()
    for event in events:
        device.call("cudaEventDestroy", event)


def test_capture(device: Device) -> None:
    """Captured work is not done; a launch does it; a second stream joins through an event."""
    first, second, event = _stream(device), _stream(device), ctypes.c_void_p()
    device.call("cudaEventCreateWithFlags", ctypes.byref(event), NO_TIMING)
    pointer, four = device.upload(np.zeros(2, np.int32)), ctypes.c_size_t(4)
    upper = ctypes.c_void_p((pointer.value or 0) + 4)
    status, graph, exec_ = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    assert device.lib.cudaStreamBeginCapture(None, 1) == CAPTURE_UNSUPPORTED
    assert device.lib.cudaStreamEndCapture(first, ctypes.byref(graph)) == ILLEGAL_STATE
    device.call("cudaStreamBeginCapture", first, 1)
    device.call("cudaStreamIsCapturing", first, ctypes.byref(status))
    assert status.value == 1
    device.call("cudaMemsetAsync", pointer, 1, four, first)
    device.call("cudaEventRecord", event, first)
    device.call("cudaStreamWaitEvent", second, event, 0)
    device.call("cudaMemsetAsync", upper, 2, four, second)
    device.call("cudaEventRecord", event, second)
    device.call("cudaStreamWaitEvent", first, event, 0)
    device.call("cudaStreamEndCapture", first, ctypes.byref(graph))
    device.call("cudaEventDestroy", event)
    assert device.download(pointer, np.zeros(2, np.int32)).tolist() == [0, 0]
    device.call("cudaGraphInstantiate", ctypes.byref(exec_), graph, ctypes.c_ulonglong(0))
    device.call("cudaGraphDestroy", graph)
    device.call("cudaGraphLaunch", exec_, first)
    device.call("cudaStreamSynchronize", first)
    assert device.download(pointer, np.zeros(2, np.int32)).tolist() == [0x01010101, 0x02020202]
    device.call("cudaGraphExecDestroy", exec_)
    device.lib.cudaGetLastError()
    device.free(pointer)
    device.call("cudaStreamDestroy", first)
    device.call("cudaStreamDestroy", second)


def test_fail_malloc(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """KNETEMU_FAIL_MALLOC=3: the third allocation, of either memory, and no other."""
    monkeypatch.setenv("KNETEMU_FAIL_MALLOC", "3")
    device.lib.knetemu_reload()
    pointers = [ctypes.c_void_p() for _ in range(4)]
    names = ["cudaMalloc", "cudaMallocHost", "cudaMalloc", "cudaMalloc"]
    statuses = [
        getattr(device.lib, n)(ctypes.byref(p), ctypes.c_size_t(8)) for n, p in zip(names, pointers, strict=True)
    ]
    assert statuses == [0, 0, OUT_OF_MEMORY, 0]
    assert device.lib.knetemu_allocations() == 4
    assert device.lib.cudaGetLastError() == OUT_OF_MEMORY
    device.free(pointers[0], pointers[3])
    device.call("cudaFreeHost", pointers[1])


def test_fail_call(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """KNETEMU_FAIL_CALL=n: each call in turn fails, with its own library's status; it makes nothing, or frees."""

    def calls() -> list[int]:
        device.lib.knetemu_reload()
        made: list[tuple[str, ctypes.c_void_p]] = []
        statuses = []
        for create, destroy in (
            ("cudaStreamCreate", "cudaStreamDestroy"),
            ("cublasCreate_v2", "cublasDestroy_v2"),
            ("cudnnCreate", "cudnnDestroy"),
        ):
            handle = ctypes.c_void_p()
            statuses.append(getattr(device.lib, create)(ctypes.byref(handle)))
            if statuses[-1] == 0:
                made.append((destroy, handle))
        assert device.lib.knetemu_calls() == 3
        statuses += [getattr(device.lib, destroy)(handle) for destroy, handle in made]
        return statuses

    before = device.lib.knetemu_live_objects()
    for n, wanted in (
        (0, [0] * 6),
        (1, [UNKNOWN, 0, 0, 0, 0]),
        (2, [0, 3, 0, 0, 0]),
        (3, [0, 0, 4000, 0, 0]),
        (4, [0, 0, 0, UNKNOWN, 0, 0]),
        (5, [0, 0, 0, 0, 14, 0]),
        (6, [0, 0, 0, 0, 0, 4000]),
        (7, [0] * 6),
    ):
        monkeypatch.setenv("KNETEMU_FAIL_CALL", str(n))
        assert calls() == wanted
        assert device.lib.knetemu_live_objects() == before
    device.lib.cudaGetLastError()


def test_attributes(device: Device) -> None:
    """The device describes itself as one that emitted code may meet."""
    count, value = ctypes.c_int(), ctypes.c_int()
    device.call("cudaGetDeviceCount", ctypes.byref(count))
    assert count.value == 1
    for attribute, wanted in ((1, 1024), (10, 32), (75, 9), (97, 232448)):
        device.call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
        assert value.value == wanted
    assert device.lib.cudaDeviceGetAttribute(ctypes.byref(value), 1, 3) == 101
    device.lib.cudaGetLastError()
