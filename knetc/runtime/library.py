"""An emitted library behind the interface of `executable.py`: its C functions through ctypes.

Before: `build.py` and the emulation, or pycuda, have made the library. After: `cpu.py` and `cuda.py`, which differ in
how it is made, and in how arrays come to it: here as NumPy's, without a copy where they are Fortran-contiguous.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from knetc.codegen.names import interface_prefix
from knetc.errors import KnetError, KnetInternalError, KnetMemoryError, KnetStateError
from knetc.ir.program import LOSSES, Program, Variant
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
from knetc.runtime.executable import Given, Tensor, TrainingOptions, into
from knetc.runtime.nccl import Communicator
from knetc.runtime.sequence import backward_steps, forward_steps


def place_of(array: Any) -> int:
    """Where an array of NumPy stands. (`array.ctypes.data` makes objects on the way, and takes twice as long.)"""
    place: int = array.__array_interface__["data"][0]
    return place


def _address(array: Any) -> int | None:
    """The address of an array of NumPy, or of one on the device (pycuda's GPUArray, or a user's)."""
    if array is None:
        return None
    if isinstance(array, DeviceArray):
        return array.pointer
    return place_of(array) if isinstance(array, np.ndarray) else int(array.gpudata)


class Library:
    """A model of one emitted library, with the methods of `executable.Executable`. `functions`: its C functions."""

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

    # --- calls --------------------------------------------------------------------------------------------------------

    def forward(self, setting: frozenset[str], inputs: Sequence[Given], push: bool, out: Given | None = None) -> Any:
        """One call of the model (see `Executable.forward`)."""
        value = self._run("sforward" if push else "forward", setting, inputs, out)
        self._depth += push
        return value

    def _run(
        self,
        name: str,
        setting: frozenset[str],
        inputs: Sequence[Given],
        out: Given | None,
        steps: int | None = None,
    ) -> Any:
        """A forward function of the library on the columns of a call, or of so many steps; the value."""
        columns = self._batch(inputs)
        self._on_device = any(isinstance(a, DeviceArray) for a in inputs)
        given = [self._give(f"input {k}", a) for k, a in enumerate(inputs)]
        bits, dims = self._result(setting, columns)
        value = None if dims is None else self._room(dims, out)
        places = (Address * max(1, len(given)))(*given)
        sizes = (columns,) if steps is None else (columns // steps, steps)
        self._call(name, self._model, bits, places, *sizes, _address(value))
        self._given(waited=isinstance(value, np.ndarray))
        return self._out_of(value, out)

    # How arrays come to the library and from it. ---

    def _give(self, slot: str, array: Given | None) -> int | None:
        """Where the library finds an array, until `_given`; `slot` tells the arrays of a call apart."""
        if array is None:
            return None
        held = self._held[slot] = np.asfortranarray(array, self._dtype)
        return place_of(held)

    def _given(self, waited: bool) -> None:
        """The call has been made; `waited`: it has waited for the device, so what it was given may change."""
        if not waited:
            self._call("synchronize", self._model)
        self._held.clear()

    def _room(self, dims: tuple[int, ...], out: Given | None = None) -> Any:
        """An array of these dims for a result: `out` where the library can write there, or where `_on_device` says."""
        if out is None:
            return np.empty(dims, self._dtype, order="F")
        direct = isinstance(out, DeviceArray) or (out.flags.f_contiguous and out.flags.aligned)
        return out if direct else np.empty(dims, self._dtype, order="F")

    def _out_of(self, value: Any, out: Given | None) -> Any:
        """A result, out of the room that it was given and into `out`."""
        return into(value, out)

    def _batch(self, inputs: Sequence[Given]) -> int:
        return 1 if self._batched is None else int(inputs[self._batched].shape[-1])

    def _result(self, setting: frozenset[str], batch: int) -> tuple[int, tuple[int, ...] | None]:
        """A setting as the library takes it, and the dims of the model's value; None where it returns nothing."""
        found = self._results.get(setting)
        if found is None:
            bits = sum(self._bits[c] for c in setting)
            found = self._results[setting] = bits, self._value_dims(self.program.variant(setting))
        bits, dims = found
        return bits, None if dims is None else tuple([batch if d is None else d for d in dims])

    def _value_dims(self, variant: Variant) -> tuple[int | None, ...] | None:
        """The dims of a variant's value, None for the batch."""
        if variant.result is None:
            return None
        given = {i.name: i.dims for i in self.program.inputs}.get(variant.result)
        type = next((i.type for i in variant.forward if i.out == variant.result), None)
        dims = given if given is not None else type.dims if type else None
        if dims is None:
            raise KnetInternalError(f"the value {variant.result} has no type")
        return tuple(d if isinstance(d, int) else None for d in dims)

    def backward(
        self,
        loss: str,
        gold: Given | None,
        mask: Given | None,
        dinputs: Sequence[int],
        pop: bool,
        out: Mapping[int, Given] | None = None,
    ) -> dict[int, Any]:
        """Gradients of the last call or of the newest on the stack (see `Executable.backward`)."""
        wanted = sum(1 << i for i in set(dinputs))
        arguments = (LOSSES.index(loss), self._give("gold", gold), self._give("mask", mask), wanted, None)
        self._call("sbackward" if pop else "backward", self._model, *arguments)
        self._depth -= pop
        found = {i: self._input_gradient(i, out.get(i) if out else None) for i in dinputs}
        self._given(waited=False)
        return found

    def _input_gradient(self, index: int, out: Given | None) -> Any:
        """An input's gradient, after a backward pass that was asked for it."""

        def room(dims: tuple[int, ...]) -> Any:
            return self._room(dims, out)

        kind, name = KINDS["dinput"], self.program.inputs[index].name
        if out is None and not self._on_device:
            return self._array(kind, name)
        return self._out_of(self._array(kind, name, room), out)

    def forward_sequence(
        self, setting: frozenset[str], inputs: Sequence[Given], steps: int, out: Given | None = None
    ) -> Any:
        """Several calls with `push` (see `Executable.forward_sequence`), at once where the library can."""
        if not self._sequences:
            return forward_steps(self, setting, inputs, steps, out)
        value = self._run("forwseq", setting, inputs, out, steps)
        self._depth += steps
        return value

    def backward_sequence(self, loss: str, gold: Given | None, mask: Given | None, steps: int) -> None:
        """Several calls with `pop` (see `Executable.backward_sequence`), at once where the library can."""
        if not self._sequences:
            backward_steps(self, loss, gold, mask, steps)
            return
        self._back(loss, gold, mask, steps, None)

    def _back(self, loss: str, gold: Given | None, mask: Given | None, steps: int, value: Tensor | None) -> None:
        """Back through several steps; `value`: where the mean of their losses goes."""
        given = (self._give("gold", gold), self._give("mask", mask))
        self._call("backseq", self._model, LOSSES.index(loss), *given, steps, _address(value))
        self._depth -= steps
        self._given(waited=value is not None)

    def sequence_loss(self, loss: str, gold: Given | None, mask: Given | None, steps: int) -> float:
        """The mean of the losses of the newest steps, by `backward_sequence`; 0 where it starts from no loss."""
        value = np.zeros((), self._dtype)
        self._back(loss, gold, mask, steps, value)
        return float(value)

    def loss(self, loss: str, gold: Tensor, mask: Tensor | None = None) -> float:
        """The loss's value for the last `forward`, by a backward pass."""
        value = np.zeros((), self._dtype)
        arguments = (LOSSES.index(loss), self._give("gold", gold), self._give("mask", mask), 0, _address(value))
        self._call("backward", self._model, *arguments)
        self._given(waited=True)
        return float(value)

    def update(self, options: Mapping[str, TrainingOptions], gclip: float, gscale: float) -> None:
        """Changes the parameters (see `Executable.update`)."""
        self._set_options(options)
        self._call("update", self._model, gclip, gscale)

    def train(
        self,
        setting: frozenset[str],
        inputs: Sequence[Any],
        gold: Any,
        batch: int,
        loss: str,
        options: Mapping[str, TrainingOptions],
        gclip: float,
    ) -> list[float]:
        """Forward, back from `loss` and update for minibatches of `batch` columns; the loss of each before its update.

        Every array has all columns; where the library `takes_rows`, one may be the rows of the 1s of a one-hot matrix.
        """
        columns = int(gold.shape[-1])
        return self._train("train", setting, inputs, gold, (columns, batch), loss, options, gclip, -(-columns // batch))

    def train_over_time(
        self,
        setting: frozenset[str],
        inputs: Sequence[Any],
        gold: Any,
        batch: int,
        length: int,
        loss: str,
        options: Mapping[str, TrainingOptions],
        gclip: float,
    ) -> list[float]:
        """Forward, back from `loss` and update for segments of `length` steps of `batch` columns, from the state that
        there is; the loss of each, which is the mean of its steps', before its update.

        Every array has the columns of all steps side by side. The stack is empty, before and after. Only where the
        library `trains_over_time`.
        """
        steps = int(gold.shape[-1]) // batch
        sizes = (batch, steps, length)
        return self._train("trainseq", setting, inputs, gold, sizes, loss, options, gclip, -(-steps // length))

    def _train(
        self,
        name: str,
        setting: frozenset[str],
        inputs: Sequence[Any],
        gold: Any,
        sizes: tuple[int, ...],
        loss: str,
        options: Mapping[str, TrainingOptions],
        gclip: float,
        updates: int,
    ) -> list[float]:
        """A function of the library that trains; the loss before each of so many updates."""
        self._set_options(options)
        self._on_device = False
        losses = np.empty(updates, self._dtype)
        places = (Address * max(1, len(inputs)))(*(self._give(f"input {k}", a) for k, a in enumerate(inputs)))
        given = (places, self._give("gold", gold), *sizes, gclip, 1.0, _address(losses))
        self._call(name, self._model, sum(self._bits[c] for c in setting), LOSSES.index(loss), *given)
        self._given(waited=True)
        return [float(value) for value in losses]

    def _set_options(self, options: Mapping[str, TrainingOptions]) -> None:
        """Tells the library of the training options that have changed."""
        for name, wanted in options.items():
            known = vars(self._options.get(name, TrainingOptions()))
            for option, value in vars(wanted).items():
                if value != known[option]:
                    self._call("set_option", self._model, name.encode(), option.encode(), float(value))
            self._options[name] = wanted

    def reset(self, keepstate: bool) -> None:
        """Empties the stack and zeroes gradients, and the state unless `keepstate`."""
        self._call("reset", self._model, keepstate)
        self._depth = 0

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
        self._call("get", self._model, kind, name.encode(), _address(array))
        return array

    def write(self, kind: str, name: str, array: Tensor) -> None:
        """Overwrites a parameter or state."""
        given = np.asfortranarray(array, self._dtype)
        if kind == "par":
            self._call("set", self._model, name.encode(), _address(given))
            return
        type = self._states[name]
        batch = given.shape[-1] if type is not None and type.batched else 1
        self._call("set_state", self._model, name.encode(), _address(given), batch)

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
                self._call("set_average", self._model, AVERAGES[name], parameter.encode(), _address(given))

    def clean(self) -> None:
        """Frees the stack, the gradients and the values of the last call."""
        self._call("clean", self._model)
        self._depth = 0

    def stack_depth(self) -> int:
        """The number of steps on the stack."""
        return self._depth

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

    # --- several processes --------------------------------------------------------------------------------------------

    def take_columns(self, first: int, whole: int) -> None:
        """Whose columns the next calls are given (see `sums.Splittable`)."""
        self._call("set_columns", self._model, first)

    def device_name(self) -> str | None:
        """The device by a name that none has in any machine; None where processes may share it."""
        return None

    def communicator(self) -> Communicator:
        """The communicator of this process, of the NCCL that the library was built with."""
        raise KnetInternalError("the library was built without NCCL")

    def join(self, comm: Communicator, identity: bytes, rank: int, size: int) -> None:
        """From here on gradients are summed over a communicator, which this process joins as one of `size` if it has
        not yet.
        """
        if not comm.handle:
            comm.join(identity, rank, size)
        self._call("set_communicator", self._model, comm.handle)

    def close(self) -> None:
        """Frees the model."""
        if self._model:
            model, self._model = self._model, Address(None)
            self._call("destroy", model)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._function("destroy")(self._model)
