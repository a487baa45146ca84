"""An emitted library behind the interface of `executable.py`: the calls that run a model.

Before: `cmodel.py`, which calls the C functions. After: `cpu.py` and `cuda.py`, which differ in how the library is
made, and in how arrays come to it: here as NumPy's, without a copy where they are Fortran-contiguous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from knetc.errors import KnetInternalError
from knetc.ir.program import LOSSES, Variant
from knetc.runtime.cfunctions import KINDS, Address
from knetc.runtime.cmodel import CModel, address_of, place_of
from knetc.runtime.device import DeviceArray
from knetc.runtime.executable import Given, Tensor, TrainingOptions, into
from knetc.runtime.nccl import Communicator
from knetc.runtime.sequence import backward_steps, forward_steps


class Library(CModel):
    """A model of one emitted library, with the methods of `executable.Executable`."""

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
        self._on_device = any([isinstance(a, DeviceArray) for a in inputs])  # a list: of few, faster
        given = list(map(self._give, self._slots, inputs))
        bits, dims = self._result(setting, columns)
        value = None if dims is None else self._room(dims, out)
        places = (Address * max(1, len(given)))(*given)
        sizes = (columns,) if steps is None else (columns // steps, steps)
        self._call(name, self._model, bits, places, *sizes, address_of(value))
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
        self._call("backseq", self._model, LOSSES.index(loss), *given, steps, address_of(value))
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
        arguments = (LOSSES.index(loss), self._give("gold", gold), self._give("mask", mask), 0, address_of(value))
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
        places = (Address * max(1, len(inputs)))(*map(self._give, self._slots, inputs))
        given = (places, self._give("gold", gold), *sizes, gclip, 1.0, address_of(losses))
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

    def clean(self) -> None:
        """Frees the stack, the gradients and the values of the last call."""
        self._call("clean", self._model)
        self._depth = 0

    def stack_depth(self) -> int:
        """The number of steps on the stack."""
        return self._depth

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
