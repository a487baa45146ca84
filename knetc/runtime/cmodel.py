"""One model of an emitted library: its C functions through ctypes, and the arrays that they give and take.

Before: `build.py` and the emulation, or pycuda, have made the library. After: `library.py`, whose calls run the model.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knetc.codegen.names import interface_prefix
from knetc.errors import KnetError, KnetInternalError, KnetMemoryError, KnetStateError
from knetc.ir.program import Program
from knetc.runtime.cfunctions import (
    ADAM_STEPS,
    ARGUMENT,
    AVERAGES,
    CALLS,
    KINDS,
    MEMORY,
    ORDER,
    OVER_TIME,
    SEED,
    SEQUENCES,
    SETTINGS,
    SIGNATURES,
    SUMS,
    TRAINING,
    Address,
    Text,
)
from knetc.runtime.check import DTYPES
from knetc.runtime.device import DeviceArray
from knetc.runtime.executable import Tensor, TrainingOptions


def _data_field(array: NDArray[Any]) -> int | None:
    """Where an array of NumPy stands, by the first field of its C structure (PyArray_DATA in NumPy's C API)."""
    place: int | None = Address.from_address(id(array) + object.__basicsize__).value
    return place


def _data_interface(array: NDArray[Any]) -> int:
    """The same, for every Python; six times as long, which is felt where a call takes some microseconds."""
    place: int = array.__array_interface__["data"][0]
    return place


_probe = np.zeros(1)
_has_field = sys.implementation.name == "cpython" and _data_field(_probe) == _data_interface(_probe)
place_of: Callable[[NDArray[Any]], int | None] = _data_field if _has_field else _data_interface
"""Where an array of NumPy stands; of anything else this is no address."""


def address_of(array: Any) -> int | None:
    """The address of an array of NumPy, or of one on the device (pycuda's GPUArray, or a user's)."""
    if array is None:
        return None
    if isinstance(array, DeviceArray):
        return array.pointer
    return place_of(array) if isinstance(array, np.ndarray) else int(array.gpudata)


class CModel:
    """A model of one emitted library, and what can be read and written of it. `functions`: its C functions."""

    functions = SIGNATURES
    training = TRAINING
    takes_rows = False  # whether `train` takes the rows of a one-hot matrix's 1s in its place

    def __init__(self, program: Program, path: str, seed: int, stream: int | None = None) -> None:
        """Loads the library at `path` and makes a model on `stream` (a cudaStream_t, None for its own)."""
        self.program = program
        self._dtype: np.dtype[Any] = DTYPES[program.dtype]
        self._model = Address(None)
        self._library = ctypes.CDLL(path)
        self._prefix = interface_prefix(program.name)
        self._functions: dict[str, Any] = {}  # the C functions by the part of their names after the model's
        self._function("last_error").restype = Text
        self._sequences = hasattr(self._library, f"{self._prefix}_forwseq")
        self.sums = hasattr(self._library, f"{self._prefix}_set_communicator")
        self.trains = hasattr(self._library, f"{self._prefix}_train")
        self.trains_over_time = hasattr(self._library, f"{self._prefix}_trainseq")
        groups = (
            (self.functions, True),
            (SEQUENCES, self._sequences),
            (SUMS, self.sums),
            (self.training, self.trains),
            (OVER_TIME, self.trains_over_time),
        )
        for group, there in groups:
            for name, arguments in group.items() if there else ():
                self._function(name).argtypes = arguments
        # The first input that has the batch; and for each setting its bits, and the dims of the value, None the batch.
        batched = (k for k, i in enumerate(program.inputs) if i.dims and not isinstance(i.dims[-1], int))
        self._batched = next(batched, None)
        self._results: dict[frozenset[str], tuple[int, tuple[int | None, ...] | None]] = {}
        self._slots = [f"input {k}" for k in range(len(program.inputs))]
        self._options: dict[str, TrainingOptions] = {}
        self._states = program.states()
        self._depth = 0
        self._held: dict[str, Tensor] = {}  # what the library is reading
        self._on_device = False  # whether the last forward call was given device arrays
        self._bits = {name: 1 << k for k, name in enumerate(program.conditions)}
        self._prepare()
        self._call("create", ctypes.byref(self._model), seed & SEED, stream)
        self._configure()

    def _prepare(self) -> None:
        """What the library needs before its first model."""

    def _function(self, name: str) -> Any:
        """A C function by the part of its name after the model's."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self._library, f"{self._prefix}_{name}")
        return function

    def _configure(self) -> None:
        """Settings from the environment. KnetError for a value that a setting does not have."""
        for variable, setting in SETTINGS.items():
            text = os.environ.get(variable)
            if not text:
                continue
            try:
                self._call("configure", self._model, setting.encode(), int(text))
            except (KnetError, ValueError):
                raise KnetError(f"{variable}={text}: the variable is 0 or 1, and KNETC_GRAPHS may be 2") from None

    def _call(self, name: str, *arguments: Any) -> None:
        """Calls a C function; its error becomes an exception with its text."""
        code = self._function(name)(*arguments)
        if code:
            text = self._function("last_error")().decode("utf-8", "replace")
            if code == MEMORY:
                raise KnetMemoryError(f"out of memory: {text}")
            if code == ORDER:
                raise KnetStateError(text)
            if code == ARGUMENT:
                raise KnetError(text)
            raise KnetInternalError(f"{name}: {text}")

    # --- data ---------------------------------------------------------------------------------------------------------

    def read(self, kind: str, name: str) -> Tensor:
        """A copy of an array (see `Executable.read`)."""
        try:
            array: Tensor = self._array(KINDS[kind], name)
            return array
        except KnetError:
            raise KeyError(name) from None

    def _array(self, kind: int, name: str, room: Callable[[tuple[int, ...]], Any] | None = None) -> Any:
        """A copy of an array of the library, in host memory or what `room` makes."""
        count, dims = ctypes.c_int(), (ctypes.c_int * 8)()
        self._call("dims", self._model, kind, name.encode(), ctypes.byref(count), dims)
        array = room(tuple(dims[: count.value])) if room else np.empty(dims[: count.value], self._dtype, order="F")
        self._call("get", self._model, kind, name.encode(), address_of(array))
        return array

    def write(self, kind: str, name: str, array: Tensor) -> None:
        """Overwrites a parameter or state."""
        given = np.asfortranarray(array, self._dtype)
        if kind == "par":
            self._call("set", self._model, name.encode(), address_of(given))
            return
        type = self._states[name]
        batch = given.shape[-1] if type is not None and type.batched else 1
        self._call("set_state", self._model, name.encode(), address_of(given), batch)

    def averages(self, parameter: str) -> dict[str, Tensor]:
        """Copies of a parameter's running averages (see `Executable.averages`)."""
        found: dict[str, Tensor] = {}
        for name, kind in AVERAGES.items():
            with contextlib.suppress(KnetStateError):
                found[name] = self._array(kind, parameter)
        steps = ctypes.c_int()
        self._call("adam_steps", self._model, parameter.encode(), ctypes.byref(steps))
        if steps.value:
            found[ADAM_STEPS] = np.array(float(steps.value))
        return found

    def set_averages(self, parameter: str, averages: Mapping[str, Tensor]) -> None:
        """Overwrites running averages of a parameter, which `update` changes."""
        for name, average in averages.items():
            if name == ADAM_STEPS:
                self._call("set_adam_steps", self._model, parameter.encode(), int(average))
            else:
                given = np.asfortranarray(average, self._dtype)
                self._call("set_average", self._model, AVERAGES[name], parameter.encode(), address_of(given))

    def set_seed(self, seed: int, calls: int = 0) -> None:
        """Random draws are keyed by `seed`, as after so many `calls`."""
        self._call("set_seed", self._model, seed & SEED)
        self._call("set_calls", self._model, calls & CALLS)

    def calls(self) -> int:
        """The number of the last `forward`."""
        number = ctypes.c_uint()
        self._call("calls", self._model, ctypes.byref(number))
        return number.value

    def graphs(self) -> tuple[int, int]:
        """How many calls have been captured as CUDA graphs, and how many could not be."""
        captured, refused = ctypes.c_int(), ctypes.c_int()
        self._call("graphs", self._model, ctypes.byref(captured), ctypes.byref(refused))
        return captured.value, refused.value

    def close(self) -> None:
        """Frees the model."""
        if self._model:
            model, self._model = self._model, Address(None)
            self._call("destroy", model)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._function("destroy")(self._model)
