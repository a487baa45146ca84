"""What a model holds, read and written by name: parameters, gradients, state, values, training options.

The base of `model.Model`, which computes: what is here never runs the model. Every method checks before it acts.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from knetc.errors import KnetMemoryError, KnetNameError, KnetStateError, KnetTypeError
from knetc.ir.types import N, PartialDims, Type
from knetc.record import replace
from knetc.runtime import check
from knetc.runtime.engine import Engine
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.order import Order

if TYPE_CHECKING:
    from knetc.runtime.executable import Given, Tensor

_COMPUTE = ("forw", "sforw", "forwseq", "back", "sback", "backseq", "segments")
Method = TypeVar("Method", bound=Callable[..., Any])


def whole(method: Method) -> Method:
    """A method that leaves the model as it was where no memory is left for it, but for the values of the last call."""

    @functools.wraps(method)
    def call(self: Variables, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (MemoryError, KnetMemoryError) as error:
            if method.__name__ in _COMPUTE:
                self._order.lost(gradients=method.__name__ == "back")
            if isinstance(error, KnetMemoryError):
                raise
            name = "train" if method.__name__ == "segments" else method.__name__
            raise KnetMemoryError(f"out of memory in {name}: {error}") from None

    return cast(Method, call)


class Variables:
    """The variables of one model by their Knet names, and the training options of its parameters."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dtype = check.DTYPES[engine.dtype]
        self._options = {name: TrainingOptions() for name in engine.unsized.params()}
        self._order = Order()
        self._given: list[Given] = []  # the inputs of the last call
        self._state_batch: int | None = None  # the columns of the state; None where it is zero

    @whole
    def get(self, name: str) -> Tensor:
        """A copy of a variable: a parameter (`"w"`, nested `"c1/w"`), state, an input or any variable of the last
        call, `"return"` for the model's value. Raises KnetNameError for an unknown name, KnetStateError where it has no
        value.
        """
        self._check_name(name)
        device = self._engine.device("get")
        kind = "par" if name in self._options else "state" if name in self._engine.unsized.states() else "value"
        last = self._order.last
        if last is None or name not in dict(last.variant.names):  # a parameter of the model may be assigned to
            with contextlib.suppress(KeyError):
                return self._engine.to_host(self._given_by_name()[name]).copy(order="F")
        with contextlib.suppress(KeyError):
            return device.read(kind, name)
        type_ = self._engine.known.states().get(name)
        if type_ is not None and self._state_batch is not None:  # no call so far has written it
            return np.zeros(type_.concrete(self._state_batch), self._dtype, order="F")
        ran = last is not None and kind != "state"
        if ran and last and name in dict(self._engine.unsized.variant(last.variant.settings[0]).names):
            raise KnetStateError(
                f"get: the optimised program does not keep variable {name}; compile the model with optimise=0 for it"
            )
        when = "under the conditions of the last call" if ran else "before the first forw"
        raise KnetStateError(f"get: variable {name} has no value {when}")

    @whole
    def set(self, name: str, array: Any) -> None:
        """Overwrites a parameter or a state variable; in several processes all call it, and the array of rank 0 counts.

        Raises KnetNameError, KnetTypeError, KnetShapeError.
        """
        self._check_name(name)
        device = self._engine.device("set")
        program = self._engine.known
        types = {n: i.type for n, i in program.params().items()} | program.states()
        if types.get(name) is None:
            raise KnetTypeError(f"set: {name} is computed by the model; parameters and state can be set")
        result = check.array(array, f"set: {name}", self._dtype)
        type_ = types[name]
        assert type_ is not None
        batch = check.fits(result, type_.dims, f"set: {name}")
        if name in self._options:
            result = self._of_rank_0(f"set {name}", result)
            device.write("par", name, result)
            self._engine.written.add(name)
            self._order.parameters_changed()
            return
        if batch is not None and self._state_batch not in (None, batch):
            raise KnetStateError(f"set: the state has {self._state_batch} columns, got {batch}; reset the model first")
        result = self._of_rank_0(f"set {name}", result)
        device.write("state", name, result)
        self._order.state_changed("set")
        self._state_batch = batch or self._state_batch

    def params(self) -> dict[str, tuple[int, ...]]:
        """Every parameter with its dims; 0 for a size that is not known before the first forw."""
        return {name: _dims(i.type, i.attr("dims")) for name, i in self._engine.known.params().items()}

    @whole
    def parameter_values(self) -> dict[str, Tensor]:
        """A copy of every parameter, in the order of the source. Raises KnetStateError before the sizes are known."""
        device = self._engine.device("parameter_values")
        return {name: device.read("par", name) for name in self._options}

    def state(self) -> dict[str, PartialDims]:
        """Every state variable with its dims; N for the batch where there is no state yet."""
        batch = N if self._state_batch is None else self._state_batch
        return {
            name: () if type_ is None else tuple(batch if d is N else d for d in type_.dims)
            for name, type_ in self._engine.known.states().items()
        }

    def grad(self, name: str) -> Tensor:
        """A copy of a parameter's gradient. Raises KnetNameError, KnetStateError where there are no gradients."""
        self._check_parameter("grad", name)
        self._order.before_gradients("grad")
        try:
            return self._engine.device().read("grad", name)
        except KeyError:
            raise KnetStateError(f"grad: parameter {name} does not reach the model's value") from None

    def trained(self) -> list[str]:
        """The parameters that `update` changes."""
        return [str(i.attr("param")) for i in self._engine.known.update]

    def gnorm(self) -> float:
        """The L2 norm of all gradients together. Raises KnetStateError where there are none."""
        self._order.before_gradients("gnorm")
        return norm(self.grad(name) for name in self.trained())

    def wnorm(self) -> float:
        """The L2 norm of all parameters together. Raises KnetStateError where the sizes are not known yet."""
        self._engine.device("wnorm")
        return norm(self.get(name) for name in self._options)

    # --- processes ----------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> int:
        """How many processes train the model: 1, or those that `knetc.distribute` has found."""
        return self._engine.ranks.size if self._engine.ranks else 1

    @property
    def rank(self) -> int:
        """The number of this process among them, from 0."""
        return self._engine.ranks.rank if self._engine.ranks else 0

    def agree(self, what: str) -> None:
        """Raises KnetError on every process where not all of them are about to do this."""
        if self._engine.ranks:
            self._engine.ranks.any(what, False)

    def _of_rank_0(self, what: str, array: Tensor) -> Tensor:
        """The array that rank 0 has; those of the others have the same shape."""
        ranks = self._engine.ranks
        if ranks is None or ranks.size == 1:
            return array
        flat = array.reshape(-1, order="F")
        found = ranks.first(f"{what} to an array of {array.shape}", flat.tobytes() if ranks.rank == 0 else None)
        return np.frombuffer(found, array.dtype).reshape(array.shape, order="F").copy(order="F")

    def all_stop(self, stop: bool) -> bool:
        """Whether some process of those that train the model is to stop; all ask."""
        return self._engine.ranks.any("go on training", stop) if self._engine.ranks else stop

    # --- training options and names -----------------------------------------------------------------------------------

    def setp(self, name: str | None = None, **options: Any) -> None:
        """Sets training options (lr, l1reg, l2reg, adagrad, rmsprop, adam, momentum, nesterov, gclip, gscale) of every
        parameter, or of the one called `name`. Raises KnetNameError, KnetTypeError.
        """
        checked: dict[str, Any] = check.training_options(options)
        if name is not None:
            self._check_parameter("setp", name)
        for each in self._options if name is None else (name,):
            self._options[each] = replace(self._options[each], **checked)

    def _given_by_name(self) -> dict[str, Given]:
        """The inputs of the last call; none before the first."""
        return dict(zip((i.name for i in self._engine.lowered.inputs), self._given, strict=False))

    def _check_parameter(self, what: str, name: Any) -> None:
        if not isinstance(name, str) or name not in self._options:
            raise KnetNameError(
                f"{what}: there is no parameter {name!r} (there are {check.listing(self._options)})"
                f"{check.suggestion(str(name), self._options)}"
            )

    def _check_name(self, name: Any) -> None:
        unsized = self._engine.unsized
        known = {i.name for i in unsized.inputs} | self._options.keys() | unsized.states().keys()
        for variant in unsized.variants:
            known.update(n for n, _ in variant.names)
        if not isinstance(name, str) or name not in known:
            raise KnetNameError(f"the model has no variable {name!r}{check.suggestion(str(name), sorted(known))}")


def _dims(type_: Type | None, declared: Any) -> tuple[int, ...]:
    if type_ is not None:
        return type_.concrete(0)
    return declared if isinstance(declared, tuple) else ()


def norm(arrays: Iterable[Tensor]) -> float:
    """The L2 norm of all arrays together, summed in float64."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))
