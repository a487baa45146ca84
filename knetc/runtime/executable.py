"""The interface between `model.Model`, which holds Knet's semantics, and what runs a program.

Implemented by the interpreter (`interp.py`), the emitted library on the CPU (`cpu.py`) and on the GPU (`cuda.py`), so a
test of a model, written once, runs on all of them. Arrays in and out are NumPy's, in Knet's dimension order, Fortran-
contiguous, of the program's dtype; the model has checked them. An executable owns parameters, gradients, state, the
training options' running averages and the stack, and is made for one `training` program with all input dims known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from knetc.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from knetc.ir.program import Program
    from knetc.runtime.device import DeviceArray

Tensor: TypeAlias = "NDArray[np.floating[Any]]"
Given: TypeAlias = "Tensor | DeviceArray"
"""What a back end is given: an array of NumPy, on a GPU one in the device's memory too."""


def into(value: Any, out: Any) -> Any:
    """A result where it is wanted: copied into the host array `out`, or as it is for None or where it is there."""
    if out is None or value is out:
        return value
    out[...] = value
    return out


class TrainingOptions(Record):
    """How `update` changes one parameter (docs/operators.md, the manual's table 5).

    adagrad, rmsprop, adam, momentum and nesterov each keep a running average of their own, so they may be combined.
    """

    lr: float = 1.0
    l1reg: float = 0.0
    l2reg: float = 0.0
    adagrad: bool = False
    rmsprop: bool = False
    adam: bool = False
    momentum: float = 0.0
    nesterov: float = 0.0
    gclip: float = 0.0
    gscale: float = 1.0


class Executable(Protocol):
    """A program with its parameters and state, on one back end."""

    program: Program

    def forward(self, setting: frozenset[str], inputs: Sequence[Any], push: bool, out: Any = None) -> Any:
        """One call of the model under `setting`; its value, or None where it returns nothing.

        Arrays are `Tensor`s, for a GPU `Given`s: where an input is on the device, the value is, and so are the input
        gradients of its backward pass. `out`: an array of the value's shape and dtype that the value goes to, and which
        is returned then; on a GPU a `Given`, in host memory in any order.

        `push`: what the backward pass needs goes on the stack (`sforw`); otherwise it replaces the one record that
        `back` uses. Each call has the next call number, the first is 1; random draws are keyed by it.
        A push onto an empty stack begins a new sequence: the state's gradient at its last step is zero.
        """

    def forward_sequence(self, setting: frozenset[str], inputs: Sequence[Any], steps: int, out: Any = None) -> Any:
        """So many calls of `forward` with `push`; the same numbers but for the order of sums.

        An input has the columns of all steps side by side along its last dimension, the first step's first; so has the
        value returned, and `out`. Where an input has no batch, it is the same at every step. Where an input is on the
        device, there is an `out` for the value.
        """

    def backward_sequence(self, loss: str, gold: Any, mask: Any, steps: int) -> None:
        """So many calls of `backward` with `pop`, for the newest steps; gold and mask have the columns of all steps."""

    def backward(
        self,
        loss: str,
        gold: Any,
        mask: Any,
        dinputs: Sequence[int],
        pop: bool,
        out: Mapping[int, Any] | None = None,
    ) -> dict[int, Any]:
        """Gradients from `loss` (of `ir.program.LOSSES`); the gradients of the inputs in `dinputs`.

        `out`: where those of some of them go, as in `forward`.

        `pop`: takes the newest record off the stack and adds to the parameters' gradients, the state's gradient coming
        from the `pop` before (`sback`); otherwise uses the last `forward` and overwrites the gradients (`back`).
        """

    def update(self, options: Mapping[str, TrainingOptions], gclip: float, gscale: float) -> None:
        """Changes every parameter that has a gradient in any variant, in the order of docs/operators.md.

        `options` has an entry for each of them. `gclip` and `gscale` are this call's: a gclip over 0 takes the place of
        the parameter's own, gscale multiplies the parameter's own. Gradients are left as they are. A parameter that
        the last pass did not reach has gradient 0.
        """

    def reset(self, keepstate: bool) -> None:
        """Empties the stack, zeroes gradients, and zeroes the state unless `keepstate`."""

    def read(self, kind: str, name: str) -> Tensor:
        """A copy of an array: `kind` is `par`, `grad`, `state`, or `value` (a Knet variable after the last forward).

        KeyError where there is none of that name; for a gradient, where none has been computed.
        """

    def write(self, kind: str, name: str, array: Tensor) -> None:
        """Overwrites a parameter (`par`) or state (`state`)."""

    def averages(self, parameter: str) -> dict[str, Tensor]:
        """Copies of a parameter's running averages by the names of `ops.update.SLOTS`; none for an option not yet used.

        `adam_t`, the number of Adam's steps, has shape () and is of float64.
        """

    def set_averages(self, parameter: str, averages: Mapping[str, Tensor]) -> None:
        """Overwrites running averages of a parameter, which `update` changes."""

    def clean(self) -> None:
        """Frees what can be computed again: the stack, the gradients, the values of the last `forward`."""

    def stack_depth(self) -> int:
        """How many records `sforw` has pushed and `sback` not yet taken."""

    def set_seed(self, seed: int, calls: int = 0) -> None:
        """Random draws from here on are keyed by `seed`, as after so many `calls`; parameters stay."""

    def calls(self) -> int:
        """The number of the last `forward`, since the start or `set_seed`."""

    def close(self) -> None:
        """Frees what the back end holds; further calls are errors of the caller."""
