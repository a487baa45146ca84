"""All that makes up a model between two steps of training, taken out of it and put into another.

Before: `model.Model` and its engine. After: `saving.py`, which writes it to a file. A model made of a snapshot goes on
from there as the first one does, to the bit on the same back end. The stack, the gradients and the values of the last
call are no part of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc import driver
from knetc.errors import KnetNameError, KnetShapeError, KnetTypeError, Source
from knetc.ir.program import Program
from knetc.ir.types import PartialDims
from knetc.ops import registry
from knetc.ops.update import SLOTS
from knetc.runtime import check
from knetc.runtime.engine import Engine
from knetc.runtime.executable import Tensor, TrainingOptions
from knetc.runtime.prepare import Clock, Context, stream
from knetc.values import Value

if TYPE_CHECKING:
    from knetc.runtime.ranks import Ranks

PARAMETERS, CONSTANTS, STATE = "parameters", "constants", "state"
AVERAGES = tuple(slot for slots in SLOTS.values() for slot in slots)
STEPS = "adam_t"
_MOST_STEPS = 2**31 - 1
KINDS = (PARAMETERS, CONSTANTS, STATE, *AVERAGES)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's source and keywords, its settings, and its arrays by kind (of `KINDS`) and name.

    `inputs`: the dims of each input, None where the sizes are not known yet, and then there are no arrays. `confirmed`,
    `optimise`, `written`, `seed` and `draw_seed` as in `Engine`; `calls`: the number of the last forward call.
    `state_batch`: the columns of the state, None where it is zero. Constants are named by their random streams; they
    are here to be compared, since a model's source and seed make them anew.
    """

    source: Source | None
    name: str
    keywords: Mapping[str, Value]
    dtype: str
    optimise: int
    seed: int
    draw_seed: int | None
    calls: int
    inputs: tuple[PartialDims | None, ...] | None
    confirmed: bool
    written: frozenset[str]
    options: Mapping[str, TrainingOptions]
    state_batch: int | None
    arrays: Mapping[str, Mapping[str, Tensor]]


def take(engine: Engine, options: Mapping[str, TrainingOptions], state_batch: int | None) -> Snapshot:
    """The snapshot of a model; its arrays are copies."""
    lowered, program = engine.lowered, engine.program
    return Snapshot(
        source=lowered.source,
        name=lowered.name,
        keywords=dict(lowered.keywords),
        dtype=engine.dtype,
        optimise=engine.optimise,
        seed=engine.seed,
        draw_seed=engine.draw_seed,
        calls=engine.device().calls() if program else 0,
        inputs=tuple(i.dims for i in program.inputs) if program else None,
        confirmed=engine.confirmed,
        written=frozenset(engine.written),
        options=dict(options),
        state_batch=state_batch,
        arrays=_arrays(engine, program) if program else {},
    )


def _arrays(engine: Engine, program: Program) -> dict[str, dict[str, Tensor]]:
    device = engine.device()
    arrays: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    arrays[PARAMETERS] = {name: device.read("par", name) for name in program.params()}
    arrays[CONSTANTS] = {name: _constant(c) for name, c in _constants(engine, engine.typed()).items()}
    for name in program.states():
        with contextlib.suppress(KeyError):  # zero
            arrays[STATE][name] = device.read("state", name)
    for name in _trained(program):
        for slot, average in device.averages(name).items():
            arrays[slot][name] = average
    return arrays


def restore(snapshot: Snapshot, backend: str, ranks: Ranks | None = None) -> Engine:
    """An engine of a snapshot's model, with its arrays. Raises KnetError where it is no snapshot of what its source
    says, before any memory is taken; KnetEnvironmentError for a back end that cannot run here. `ranks`: as in `Engine`.
    """
    lowered = driver.lower(snapshot.source, snapshot.name, snapshot.keywords)
    engine = Engine(lowered, backend, snapshot.dtype, snapshot.seed, snapshot.optimise)
    engine.draw_seed, engine.ranks = snapshot.draw_seed, ranks
    _same_names("training options", snapshot.options, engine.unsized.params())
    if snapshot.inputs is None:
        _same_names("arrays", [name for arrays in snapshot.arrays.values() for name in arrays], ())
        return engine
    if len(snapshot.inputs) != len(lowered.inputs):
        raise KnetShapeError(f"the model has {len(lowered.inputs)} inputs, not {len(snapshot.inputs)}")
    engine.resize(snapshot.inputs, snapshot.confirmed)
    assert engine.program is not None
    _check_arrays(snapshot, engine, engine.typed(), _trained(engine.program))
    _same_names("parameters", snapshot.written, engine.program.params(), all_=False)
    engine.written.update(snapshot.written)
    _write(snapshot, engine, engine.program)
    return engine


def _write(snapshot: Snapshot, engine: Engine, program: Program) -> None:
    device = engine.device()
    for name, array in snapshot.arrays.get(PARAMETERS, {}).items():
        device.write("par", name, array)
    for name, array in snapshot.arrays.get(STATE, {}).items():
        if name in program.states():  # a back end's program may need less than the source has
            device.write("state", name, array)
    for name in _trained(program):
        found = {slot: snapshot.arrays[slot][name] for slot in AVERAGES if name in snapshot.arrays.get(slot, {})}
        device.set_averages(name, found)
    device.set_seed(snapshot.seed if snapshot.draw_seed is None else snapshot.draw_seed, snapshot.calls)


# --- does it fit ------------------------------------------------------------------------------------------------------


def _constants(engine: Engine, typed: Program) -> dict[str, Context]:
    """What makes every constant array, by its random stream."""
    dtype, clock = check.DTYPES[engine.dtype], Clock(engine.seed)
    arrays = (i for v in typed.variants for i in v.forward if i.op == "arr")
    return {str(stream(i)): Context.of(i, 0, dtype, clock) for i in arrays}


def _constant(context: Context) -> Tensor:
    array: Tensor = registry()["arr"].numpy(context)
    return array


def _trained(program: Program) -> list[str]:
    return [str(i.attr("param")) for i in program.update]


def _same_names(what: str, given: Any, known: Any, all_: bool = True) -> None:
    """Raises KnetNameError for a name that is not known, and with `all_` for a known one that is not given."""
    unknown, missing = sorted(set(given) - set(known)), sorted(set(known) - set(given))
    if unknown:
        raise KnetNameError(f"the model has no {what} {check.listing(unknown)}")
    if missing and all_:
        raise KnetNameError(f"the {what} {check.listing(missing)} are missing")


def _fits(array: Tensor, dims: PartialDims, dtype: np.dtype[Any], what: str) -> int | None:
    """The columns of an array of `dims`, None where it has no batch. Raises KnetShapeError, KnetTypeError."""
    if array.dtype != dtype:
        raise KnetTypeError(f"{what}: elements of {dtype} are expected, got {array.dtype}")
    return check.fits(array, dims, what)


def _check_arrays(snapshot: Snapshot, engine: Engine, program: Program, trained: list[str]) -> None:
    """That every array is one of the model's, and of its size; that the constants are those that the source makes."""
    arrays = {kind: snapshot.arrays.get(kind, {}) for kind in KINDS}
    _same_names("kind of arrays", snapshot.arrays, KINDS, all_=False)
    dims = {name: i.type.dims for name, i in program.params().items() if i.type}
    dtype = check.DTYPES[snapshot.dtype]
    _same_names("parameters", arrays[PARAMETERS], dims)
    for name, array in arrays[PARAMETERS].items():
        _fits(array, dims[name], dtype, f"parameter {name}")
    for slot in AVERAGES:
        _same_names(f"average {slot} of", arrays[slot], trained, all_=False)
        for name, array in arrays[slot].items():
            if slot == STEPS:
                _check_steps(array, f"{slot} of {name}")
            else:
                _fits(array, dims[name], dtype, f"{slot} of {name}")
    _check_state(arrays[STATE], snapshot.state_batch, program, dtype)
    constants = _constants(engine, program)
    _same_names("constants", arrays[CONSTANTS], constants)
    for name, array in arrays[CONSTANTS].items():
        _fits(array, constants[name].dims, dtype, f"constant {name}")
        if array.tobytes() != _constant(constants[name]).tobytes():
            raise KnetTypeError(f"constant {name}: its source and seed make another array than the one that is stored")


def _check_steps(array: Tensor, what: str) -> None:
    _fits(array, (), np.dtype(np.float64), what)
    if not float(array).is_integer() or not 0 <= array <= _MOST_STEPS:
        raise KnetTypeError(f"{what}: a number of steps is expected, got {array}")


def _check_state(arrays: Mapping[str, Tensor], state_batch: int | None, program: Program, dtype: np.dtype[Any]) -> None:
    types = {name: type_ for name, type_ in program.states().items() if type_}
    _same_names("state variables", arrays, types, all_=False)
    if state_batch is not None and not types:
        raise KnetShapeError(f"the model has no state, and {state_batch} columns of it are stored")
    for name, array in arrays.items():
        batch = _fits(array, types[name].dims, dtype, f"state {name}")
        if batch is not None and batch != state_batch:
            raise KnetShapeError(f"state {name}: {state_batch} columns are expected, got {batch}")
