"""A compiled model: Knet's semantics (call order, stack, state, options, errors) over any back end.

Before it: `source.py`, which lowers the user's text. After it: an executable (`executable.py`), which `engine.py` makes
when the sizes are known. Every method checks before it acts, so an error leaves the model as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Self

from knetc.errors import KnetShapeError, KnetStateError, KnetTypeError
from knetc.ir.program import Program
from knetc.runtime import check, outputs, sequences
from knetc.runtime import train as runs
from knetc.runtime.engine import Engine
from knetc.runtime.gradcheck import gradcheck
from knetc.runtime.losses import loss_name
from knetc.runtime.order import Call, count
from knetc.runtime.snapshot import Snapshot, restore, take
from knetc.runtime.variables import Variables, norm, whole

if TYPE_CHECKING:
    from knetc.runtime.executable import Given
    from knetc.runtime.listing import View
    from knetc.runtime.losses import Loss
    from knetc.runtime.ranks import Ranks


class Model(Variables):
    """A model that computes and trains. Made by `knetc.compile`; every method is a function of `knetc` too."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._labels = [f"input {i.name}" for i in engine.lowered.inputs]

    # --- forward ------------------------------------------------------------------------------------------------------

    @whole
    def forw(self, /, *inputs: Any, out: Any = None, **conditions: bool) -> Any:
        """The model's value for `inputs` (the batch is the last dimension), or None where it returns nothing.

        `conditions` hold for this call; those not given are false. A Fortran-ordered input of the model's dtype is
        taken without a copy and must not change before `back`. With the back end cuda an input may be a device array of
        pycuda, PyTorch, CuPy or JAX, of the model's dtype (C-ordered with the batch first, or Fortran-ordered with the
        batch last); then the value is a device array, pycuda's GPUArray in Fortran order, and the host does not wait.
        Elements of device arrays are not checked for NaN.

        `out`: an array of the value's shape and the model's dtype, which the value is written to and which is returned:
        one of NumPy, or with the back end cuda one on the device in either order, wherever the inputs are. It shares
        no memory with an input.

        Raises KnetTypeError (kind of an input or of `out`, a read-only `out`, NaN), KnetShapeError, KnetNameError (an
        unknown condition), KnetStateError (another batch size in mid-sequence).
        """
        if out is not None:
            out, conditions = outputs.condition(out, conditions)
        setting = check.setting(conditions, self._engine.lowered.conditions)
        arrays, batch, program = self._inputs("forw", inputs)
        if out is None:
            return self._run("forw", setting, arrays, batch, program)
        place = self._room("forw", out, outputs.shape(program, setting, batch))
        outputs.apart(place, arrays, self._labels)
        self._run("forw", setting, arrays, batch, program, place)
        return out

    @whole
    def sforw(self, /, *inputs: Any, out: Any = None, **conditions: bool) -> Any:
        """As `forw`, and what the backward pass needs goes on the stack, for `sback`. `out` may be an input."""
        if out is not None:
            out, conditions = outputs.condition(out, conditions)
        setting = check.setting(conditions, self._engine.lowered.conditions)
        self._order.before_push("sforw")
        arrays, batch, program = self._inputs("sforw", inputs)
        if out is None:
            return self._run("sforw", setting, arrays, batch, program)
        place = self._room("sforw", out, outputs.shape(program, setting, batch))
        self._run("sforw", setting, arrays, batch, program, place)
        return out

    forwseq = whole(sequences.forwseq)

    def _room(self, what: str, out: Any, shape: tuple[int, ...] | None) -> Given:
        """The checked place for a value of this shape."""
        place = outputs.room(out, shape, self._dtype)
        self._engine.can_take((place,), what)
        return place

    def _inputs(
        self, what: str, inputs: Sequence[Any], program: Program | None = None
    ) -> tuple[list[Given], int, Program]:
        """The checked inputs, their batch size, and the program that they fit: `program` where that is given.

        Infers the sizes where they are not known yet; `_run` takes what was inferred.
        """
        known = program or self._engine.known
        declared = known.inputs
        if len(inputs) != len(declared):
            names = f" ({check.listing(i.name for i in declared)})" if declared else ""
            raise KnetTypeError(f"{what}: the model has {count(len(declared), 'input')}{names}, got {len(inputs)}")
        last = self._order.last
        if last and all(map(check.as_before, inputs, repeat(self._dtype), last.shapes)):
            for given, label in zip(inputs, self._labels, strict=True):
                check.finite(given, label)
            return self._with_state(what, list(inputs), last.batch, known)
        arrays = [
            check.columns(given, label, self._dtype, i.dims)
            for given, label, i in zip(inputs, self._labels, declared, strict=True)
        ]
        self._engine.can_take(arrays, what)
        program = program or self._engine.fitting(arrays)
        return self._with_state(what, arrays, self._batch(program, arrays), program)

    def _with_state(
        self, what: str, arrays: list[Given], batch: int, program: Program
    ) -> tuple[list[Given], int, Program]:
        """The inputs, if their batch is that of the state."""
        if self._state_batch is not None and self._state_batch != batch:
            raise KnetStateError(
                f"{what}: the batch has {batch} columns and the state that is kept has {self._state_batch}; "
                "reset the model before another batch size"
            )
        return arrays, batch, program

    def _batch(self, program: Program, arrays: Sequence[Given]) -> int:
        batch, first = 0, ""
        for i, array in zip(program.inputs, arrays, strict=True):
            assert i.dims is not None
            size = check.fits(array, i.dims, f"input {i.name}")
            if size is not None and batch and size != batch:
                raise KnetShapeError(f"input {i.name} has {size} columns and input {first} has {batch}")
            if size is not None:
                batch, first = size, first or i.name
        return batch or 1

    def _run(
        self,
        what: str,
        setting: frozenset[str],
        arrays: list[Given],
        batch: int,
        program: Program,
        out: Given | None = None,
    ) -> Any:
        self._engine.confirm(program)
        value = self._engine.device().forward(setting, arrays, what == "sforw", out)
        self._ran(what, setting, arrays, batch)
        return value

    def _ran(self, what: str, setting: frozenset[str], arrays: list[Given], batch: int) -> None:
        """Takes note of a forward call."""
        self._given = arrays
        if self._engine.recurrent:
            self._state_batch = batch
            if what == "forw":
                self._order.state_changed("forw")
        variant, type_ = self._engine.variants[setting]
        call, shapes = self._order.last, tuple(a.shape for a in arrays)
        if call is None or call.variant is not variant or call.shapes != shapes:
            call = Call(variant, type_.concrete(batch) if type_ else None, batch, shapes)
        self._order.ran(call, push=what == "sforw")

    # --- backward -----------------------------------------------------------------------------------------------------

    @whole
    def back(
        self, ygold: Any = None, loss: Loss | str | None = None, getdx: Any = False, mask: Any = None, out: Any = None
    ) -> Any:
        """Gradients of the loss of the last `forw` for every parameter, in place of those before.

        `ygold` has the output's shape; with no `loss` it is the gradient of the output itself, and without ygold that
        gradient is zero. `mask`: one number a column, 0 where a column adds nothing. `getdx`: True (of every input), an
        index or a list of indices: returns the gradients of those inputs, one array or a list; device arrays where
        an input of that `forw` was one. `out`: the array, or the list of arrays, that these gradients are written to,
        as in `forw`. `ygold` and `mask` may be device arrays as inputs may. Raises KnetStateError (no forw before),
        KnetTypeError, KnetShapeError, KnetNameError.
        """
        return self._back(self._order.before_back(), (ygold, loss, mask), getdx, out, pop=False)

    @whole
    def sback(
        self, ygold: Any = None, loss: Loss | str | None = None, getdx: Any = False, mask: Any = None, out: Any = None
    ) -> Any:
        """As `back` for the newest step on the stack, which it takes off; adds to the parameters' gradients.

        The state's gradient flows to the step before. Without ygold no gradient comes from the output at that step.
        Raises as `back`, KnetStateError where the stack is empty.
        """
        (call,) = self._order.before_pop("sback", 1)
        return self._back(call, (ygold, loss, mask), getdx, out, pop=True)

    backseq = whole(sequences.backseq)

    def _back(self, call: Call, given: tuple[Any, Any, Any], getdx: Any, out: Any, pop: bool) -> Any:
        """Goes back through a call, from its ygold, loss and mask; the gradients of inputs that are asked for."""
        kind, gold, mask = self._target(call, *given)
        wanted = outputs.wanted(getdx, len(self._labels))
        rooms = None
        if out is not None:
            rooms = outputs.gradient_rooms(out, getdx, wanted, call.shapes, self._dtype)
            for place in rooms.values() if self._given and not pop else ():
                outputs.apart(place, self._given, self._labels)
            self._engine.can_take(rooms.values(), "sback" if pop else "back")
        found = self._engine.device().backward(kind, gold, mask, wanted, pop, rooms)
        self._order.went_back(pop)
        if getdx is False:
            return None
        result = outputs.gradients(getdx, wanted, found, rooms or {}, call.shapes, self._dtype)
        return result if out is None else out

    def _target(self, call: Call, ygold: Any, loss: Any, mask: Any) -> tuple[str, Given | None, Given | None]:
        """Where a backward pass starts: the loss's kind, the checked ygold and mask."""
        name = "none" if loss is None else loss_name(loss, gradient=True)
        if ygold is None:
            if loss is not None:
                raise KnetTypeError(f"{name} needs a ygold to compare the output with")
            if mask is not None:
                raise KnetTypeError("a mask needs a ygold and a loss")
            return "zero", None, None
        if loss is None and mask is not None:
            raise KnetTypeError("a mask goes with a loss; without one, ygold is the gradient itself")
        if call.result is None:
            raise KnetStateError("ygold: the model returned nothing in that call, so there is nothing to compare")
        gold = check.gold(ygold, call.result, self._dtype)
        masked = check.mask(mask, gold.shape[-1], self._dtype)
        self._engine.can_take((gold, masked), "back")
        return name, gold, masked

    # --- training -----------------------------------------------------------------------------------------------------

    @whole
    def update(self, gclip: float = 0, gscale: float = 1) -> None:
        """Moves every parameter against its gradient by its training options.

        `gclip` over 0 takes the place of the option of that name; `gscale` multiplies it. Raises KnetStateError where
        there are no gradients, KnetTypeError.
        """
        if (gclip, gscale) != (0, 1):
            checked = check.training_options({"gclip": gclip, "gscale": gscale})
            gclip, gscale = checked["gclip"], checked["gscale"]
        self._order.before_gradients("update")
        self._engine.device().update(self._options, gclip, gscale)
        self._order.parameters_changed()

    def reset(self, keepstate: bool = False) -> None:
        """Empties the stack, zeroes the gradients, and zeroes the state unless `keepstate`."""
        keepstate = check.flag("keepstate", keepstate)
        if self._engine.executable:
            self._engine.executable.reset(keepstate)
        self._order.reset()
        if not keepstate:
            self._state_batch = None

    def clean(self) -> Self:
        """Frees what can be computed again (the stack, gradients, the values of the last call); returns the model."""
        if self._engine.executable:
            self._engine.executable.clean()
        self._given = []
        self._order.clean()
        return self

    def setseed(self, seed: int) -> None:
        """Random draws from here on are keyed by `seed`; the parameters stay."""
        self._engine.set_seed(check.seed(seed))

    train = runs.train
    test = runs.test
    gradcheck = gradcheck

    # --- about the model ----------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """A table: operation, arguments, name, shape, parameters, memory and norm of each value, and their totals."""
        from knetc.runtime.listing import summary

        return summary(self._view())

    def report(self) -> str:
        """A table of the emitted code's kernels and buffers: peak memory at a batch of 100, what it would be if nothing
        shared memory, and the largest set of values that are needed at once, which no plan can go below.

        On the back end cpu it is of the C++ that runs there, else of the CUDA that the back ends emulated and cuda run;
        with the backward passes of all losses. Raises KnetStateError before the sizes are known.
        """
        from knetc.driver import report
        from knetc.runtime.listing import Table

        return Table(report(*self._engine.sized("report"), self.backend))

    def __repr__(self) -> str:
        from knetc.runtime.listing import listing

        return listing(self._view())

    def _view(self) -> View:
        from knetc.runtime.listing import View

        program = self._engine.typed()
        setting = self._order.last.variant.settings[0] if self._order.last else program.variants[0].settings[0]
        variant = program.variant(setting)
        return View(program, variant, self._engine.described, self._engine.dtype, self.trained(), self._value_norm)

    def _value_norm(self, value: str) -> float | None:
        """The norm of a parameter or of a value of the last call; None where there is none."""
        with contextlib.suppress(KeyError):
            return norm([self._engine.to_host(self._given_by_name()[value])])
        with contextlib.suppress(KeyError):
            if self._engine.executable:
                kind = "par" if value in self._options else "value"
                return norm([self._engine.executable.read(kind, value)])
        return None

    @property
    def backend(self) -> str:
        """The back end that runs the model: `numpy`, `cpu`, `emulated` or `cuda`."""
        return self._engine.backend

    @property
    def dtype(self) -> str:
        """The type of every element: `f32` or `f64`."""
        return self._engine.dtype

    @whole
    def snapshot(self) -> Snapshot:
        """All that makes up the model between two steps of training; see `knetc.runtime.snapshot`."""
        return take(self._engine, self._options, self._state_batch)

    @classmethod
    def of(cls, snapshot: Snapshot, backend: str, ranks: Ranks | None = None) -> Model:
        """The model that a snapshot is of, on a back end. Raises as `knetc.runtime.snapshot.restore`."""
        net = cls(restore(snapshot, backend, ranks))
        net._options.update(snapshot.options)
        net._state_batch = snapshot.state_batch
        return net

    def twin(self, dtype: str) -> Model:
        """A model of the same program and parameters with elements of `dtype`, its state zero."""
        twin = Model(self._engine.twin(dtype))
        if self._engine.program:
            for name in self._options:
                twin.set(name, self.get(name))
        return twin
