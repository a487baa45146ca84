"""What runs a model: its program, as soon as the sizes are known, and the executable of that program.

Part of `model.Model`. Sizes are inferred at compile time where nothing depends on the input; what is inferred then
holds until the first input says otherwise. The executable is made when it is first needed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from knetc import driver
from knetc.errors import KnetLimitation, KnetShapeError, KnetStateError, KnetTypeError
from knetc.ir.passes.shapes import batch_inputs
from knetc.ir.program import LOSSES, Program, Variant
from knetc.ir.types import N, PartialDims, Type
from knetc.options import Options
from knetc.runtime import backends
from knetc.runtime.check import DTYPES
from knetc.runtime.device import DeviceArray
from knetc.runtime.executable import Executable
from knetc.runtime.signature import result_type

if TYPE_CHECKING:
    from knetc.runtime.executable import Given, Tensor
    from knetc.runtime.ranks import Ranks


_MOST_ELEMENTS = 2**40


class Engine:
    """A lowered program on one back end.

    `unsized`: the program before its sizes are known. `program`: the same with sizes, None where they are not known.
    `variants`: by setting, with the type of what each returns. `executable`: None until `device` makes it. `written`:
    the parameters that the user has set. `confirmed`: whether an input has shown that the inferred sizes hold.
    `draw_seed`: what random draws are keyed by since `set_seed`, None before. `described`: the back end and, where it
    was chosen here, why. `optimise`: how far the program is optimised, as `-O` of the command.
    `ranks`: the processes among which the columns are split, None where this one has them all.
    """

    def __init__(self, lowered: Program, backend: str, dtype: str, seed: int, optimise: int = 2) -> None:
        self.lowered, self.dtype, self.seed, self.optimise = lowered, dtype, seed, optimise
        self.unsized = driver.optimise(lowered, Options(dtype=dtype), stop_after="state")
        self.recurrent = bool(self.unsized.states())
        self.backend, self.described = backends.choose(backend)
        self.program: Program | None = None
        self._typed: Program | None = None
        self.variants: dict[frozenset[str], tuple[Variant, Type | None]] = {}
        self.executable: Executable | None = None
        self.written: set[str] = set()
        self.confirmed = False
        self.draw_seed: int | None = None
        self.ranks: Ranks | None = None
        with contextlib.suppress(KnetShapeError):  # where sizes depend on the input, the first one says them
            self._use(self._infer((None,) * len(lowered.inputs)))

    @property
    def known(self) -> Program:
        """The program with sizes, or without them where they are not known yet."""
        return self.program or self.unsized

    def fitting(self, arrays: Sequence[Given]) -> Program:
        """The program for inputs of these shapes; the one there is where sizes have been confirmed.

        Raises KnetShapeError where the shapes fit no program, or not the parameters that the user has set.
        """
        if self.program is not None and self.confirmed:
            return self.program
        dims: list[PartialDims] = [
            (*array.shape[:-1], N) if batched else array.shape
            for array, batched in zip(arrays, batch_inputs(self.unsized), strict=True)
        ]
        if self.program and tuple(i.dims for i in self.program.inputs) == tuple(dims):
            return self.program
        program = self._infer(tuple(dims))
        before = self.program.params() if self.program else {}
        for name, instr in program.params().items():
            if name in self.written and instr.type != before[name].type:
                raise KnetShapeError(f"the inputs need another shape of parameter {name} than the one that was set")
        return program

    def typed(self) -> Program:
        """The program as it was written, with its sizes where they are known; the same for every back end."""
        if self.program is None:
            return self.unsized
        if self._typed is None:
            inputs = tuple(i.dims for i in self.program.inputs)
            self._typed = driver.optimise(self.lowered, Options(inputs=inputs, dtype=self.dtype), stop_after="shapes")
        return self._typed

    def confirm(self, program: Program) -> None:
        """Takes the program that fits the first input; its sizes hold from now on."""
        if program is not self.program:
            self._use(program)
        self.confirmed = True

    def sized(self, what: str) -> tuple[Program, Options]:
        """The program with its sizes, and what it was compiled with. Raises as `device`."""
        if self.program is None:
            raise KnetStateError(f"{what}: the sizes of the model depend on its input; call forw first")
        return self.program, self._options(tuple(i.dims for i in self.program.inputs))

    def device(self, what: str = "") -> Executable:
        """The executable, made when it is first needed. Raises KnetStateError where the sizes are not known.

        `what` is the call that needs it, for the message.
        """
        if self.executable is None:
            program, options = self.sized(what)
            split = self.ranks is not None and self.ranks.size > 1
            try:
                self.executable = backends.make(self.backend, program, options, self.seed, nccl=split)
            except MemoryError:
                raise _too_large(program) from None
            if self.ranks and split:
                from knetc.runtime.splitting import Split

                self.executable = Split(self.executable, self.ranks)
            if self.draw_seed is not None:
                self.executable.set_seed(self.draw_seed)
        return self.executable

    def can_take(self, arrays: Iterable[Given | None], what: str) -> None:
        """Raises KnetTypeError where one is a device array and the back end has no device, KnetLimitation where several
        processes split it.
        """
        if self.ranks and self.ranks.size > 1 and any(isinstance(a, DeviceArray) for a in arrays):
            raise KnetLimitation(f"{what}: a device array was given, and of several processes each takes a host array")
        if self.backend != "cuda" and any(isinstance(a, DeviceArray) for a in arrays):
            raise KnetTypeError(
                f"{what}: a device array was given, and the model runs on the back end {self.backend}; copy the array "
                "to the host, or compile the model with backend='cuda'"
            )

    def to_host(self, array: Given) -> Tensor:
        """A host array as it is, a device array's elements in host memory."""
        if not isinstance(array, DeviceArray):
            return array
        from knetc.runtime.cuda import fetch

        return fetch(array)

    def empty(self, shape: tuple[int, ...]) -> Any:
        """A new array on the device, pycuda's GPUArray in Fortran order."""
        from knetc.runtime.cuda import empty

        return empty(shape, DTYPES[self.dtype])

    def set_seed(self, seed: int) -> None:
        """Keys random draws by `seed`, also those of an executable that is made later."""
        self.draw_seed = seed
        if self.executable:
            self.executable.set_seed(seed)

    def twin(self, dtype: str) -> Engine:
        """An engine of the same program, with elements of `dtype`."""
        twin = Engine(self.lowered, self.backend, dtype, self.seed, self.optimise)
        if self.program:
            twin.resize(tuple(i.dims for i in self.program.inputs), self.confirmed)
        return twin

    def resize(self, dims: tuple[PartialDims | None, ...], confirmed: bool) -> None:
        """Takes the program for inputs of these dims, as another engine of the same source has it."""
        self._use(self._infer(dims))
        self.confirmed = confirmed

    def _infer(self, dims: tuple[PartialDims | None, ...]) -> Program:
        return driver.optimise(self.lowered, self._options(dims))

    def _options(self, dims: tuple[PartialDims | None, ...]) -> Options:
        return Options(inputs=dims, losses=LOSSES, dtype=self.dtype, level=self.optimise)

    def _use(self, program: Program) -> None:
        """Takes a program; parameters and state that the user has set keep their values.

        Raises KnetLimitation for more elements than a memory can have.
        """
        if sum(_elements(program).values()) > _MOST_ELEMENTS:
            raise _too_large(program)
        old, kept = self.executable, []
        if old:
            kept = [("par", name, old.read("par", name)) for name in self.written]
            for name in program.states():
                with contextlib.suppress(KeyError):
                    kept.append(("state", name, old.read("state", name)))
        self.program, self._typed = program, None
        self.variants = {s: (v, result_type(program, v)) for v in program.variants for s in v.settings}
        self.executable = None
        if old:
            old.close()
            for kind, name, array in kept:
                self.device().write(kind, name, array)


def _elements(program: Program) -> dict[str, int]:
    """The number of elements of each parameter."""
    return {name: math.prod(i.type.concrete(1)) for name, i in program.params().items() if i.type}


def _too_large(program: Program) -> KnetLimitation:
    """The error where the parameters do not fit into memory: it names the largest of them."""
    sizes = _elements(program)
    name = max(sizes, key=lambda n: sizes[n], default="")
    return KnetLimitation(
        f"the model does not fit into memory; its largest parameter, {name}, has {sizes.get(name, 0)} elements"
    )
