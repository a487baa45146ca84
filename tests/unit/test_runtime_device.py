"""Device arrays as other libraries describe them: what knetc reads of them, without a device."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from knetc.errors import KnetShapeError, KnetTypeError
from knetc.ir.types import N
from knetc.runtime import check, device

F32 = np.dtype(np.float32)


class Described:
    """An array with a `__cuda_array_interface__`, never looked into."""

    def __init__(self, shape, strides=None, typestr="<f4", **more):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "strides": strides,
            "typestr": typestr,
            "data": (4096, False),
            "version": 3,
            **more,
        }


class Packed:
    """An array that hands out a DLPack capsule as PyTorch does; `streams` keeps what it was asked to wait on."""

    def __init__(self, shape, strides=None, kind=2, code=2, bits=32, offset=0):
        self.shape = (ctypes.c_int64 * len(shape))(*shape)
        self.strides = (ctypes.c_int64 * len(shape))(*strides) if strides else None
        pointer = ctypes.POINTER(ctypes.c_int64)
        self.tensor = device._Tensor(
            4096, kind, 0, len(shape), code, bits, 1, self.shape, ctypes.cast(self.strides, pointer), offset
        )
        self.kind, self.streams = kind, []

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


def take(value, dims=(3, N)):
    return check.device_array(value, "input x", F32, dims)


def test_what_is_a_device_array():
    class Refuses:
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("it requires grad; use detach()")

    for value in (np.ones(3), [1.0], 2, "text", None, Packed((3,), kind=1)):
        assert not device.is_device(value)
    for value in (Described((3, 4)), Packed((3, 4)), Packed((3, 4), kind=13), Refuses()):
        assert device.is_device(value)
    with pytest.raises(KnetTypeError, match=r"input x: the device array cannot be read: .*use detach\(\)"):
        take(Refuses())


@pytest.mark.parametrize(
    "value",
    [
        Described((3, 5), (4, 12)),  # Fortran order
        Described((5, 3), (12, 4)),  # C order, the batch first
        Described((5, 3)),  # no strides: C order
        Packed((5, 3), (3, 1)),
        Packed((3, 5), (1, 3)),
        Packed((5, 3)),
    ],
)
def test_either_order_is_the_same_memory(value):
    found = take(value)
    assert (found.pointer, found.shape, found.dtype, found.ndim, found.size) == (4096, (3, 5), F32, 2, 15)


def test_single_elements_have_no_order():
    assert take(Described((3, 1))).shape == (3, 1)
    assert take(Described((1, 3))).shape == (3, 1)
    assert take(Described((8, 1, 28, 28)), (28, 28, 1, N)).shape == (28, 28, 1, 8)
    assert take(Described((9,)), (9,)).shape == (9,)


def test_where_sizes_are_not_known_the_order_says_how_to_read():
    assert take(Described((5, 3)), None).shape == (3, 5)
    assert take(Described((5, 3), (4, 20)), None).shape == (5, 3)


@pytest.mark.parametrize(
    "value,kind,message",
    [
        (Described((3, 5), (4, 12), "<f8"), KnetTypeError, "must be of float32, got float64"),
        (Packed((3, 5), (1, 3), code=0), KnetTypeError, "must be of float32, got int32"),
        (Packed((3, 5), (1, 3), code=4, bits=16), KnetTypeError, "neither integers nor floating-point"),
        (Described((3, 5), (8, 24)), KnetTypeError, "do not lie one after the other"),
        (
            Described((3, 5)),
            KnetShapeError,
            r"\(3,N\) is expected, got a device array of \(3, 5\), which is C-",
        ),
        (Described((4, 5), (4, 16)), KnetShapeError, r"\(3,N\) is expected, got a device array of \(4, 5\)$"),
        (Described((3, 3)), KnetTypeError, "can be read in two ways; give it in Fortran order"),
    ],
)
def test_what_cannot_be_taken(value, kind, message):
    with pytest.raises(kind, match=message):
        take(value)


def test_streams():
    """The stream that a library names is waited for, and the default one; with DLPack the library itself waits."""
    assert take(Described((5, 3))).streams == (1,)
    assert take(Described((5, 3), stream=None)).streams == (1,)
    assert take(Described((5, 3), stream=1)).streams == (1,)
    assert take(Described((5, 3), stream=77)).streams == (77, 1)
    packed = Packed((5, 3))
    assert take(packed).streams == (1,) and packed.streams == [1]


def test_an_offset_and_a_capsule_that_lives():
    packed = Packed((5, 3), offset=64)
    found = take(packed)
    assert found.pointer == 4160 and found.owner[0] is packed
