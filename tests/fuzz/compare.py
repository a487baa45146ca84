"""Random models by number: drawn, built on back ends and levels, and compared (`twins`); gradients by differences.

The first build is the definition. After: `test_random.py`, `reduce.py` and tools/fuzz.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import knetc
from knetc import driver
from knetc.errors import Source
from knetc.ir.program import LOSSES as ALL_LOSSES
from knetc.ir.types import N
from knetc.options import Options

from .programs import Made, random_model
from .twins import Difference, Overflow, Twins

INTERPRETED = (("numpy", 0), ("numpy", 2), ("numpy", 1))
Levels = Sequence[tuple[str, int]]


class Trial(NamedTuple):
    """A random model, the back ends and levels on which it is built, and the seed of its parameters."""

    made: Made
    levels: Levels
    seed: int


def draw(pick: random.Random, levels: Levels = INTERPRETED, length: int = 7) -> Trial:
    """A model of up to about `length` statements."""
    return Trial(random_model(pick, length), levels, pick.randrange(1000))


def draw_emitted(pick: random.Random, backend: str) -> Trial:
    """A model, mostly a short one, for the interpreter, plain and optimised, and as emitted code."""
    levels = (("numpy", 0), ("numpy", 2), (backend, pick.choice([0, 1, 2, 2])))
    return draw(pick, levels, pick.randint(2, 7))


def builds(made: Made, levels: Levels, seed: int) -> list[knetc.Model]:
    """The model on each back end and level."""
    return [
        knetc.compile(made.source, backend=backend, dtype="f64", seed=seed, optimise=level) for backend, level in levels
    ]


def check_model(trial: Trial, pick: random.Random) -> str:
    """Compares the builds of a model, all called alike as `pick` says: `same`, `overflow`, or `refused`.

    Raises what went wrong, with the model in a note.
    """
    made, levels, seed = trial
    with attributed(made):
        why = refused(made)
        if why:
            return why
        nets = builds(made, levels, seed)
        try:
            Twins(made, nets, pick).run(2)
        except Overflow:
            return "overflow"
        if all(backend == "numpy" for backend, _ in levels):  # else the emitter had its turn
            assert "knet_model" in emitted(made, pick.choice([0, 1, 2, 2]))
    return "same"


def refused(made: Made) -> str:
    """Why the compiler may refuse a random model; empty where it does not. Raises what it may not refuse it for.

    A variable that one side of an `if` writes may be read where nothing writes it; the size of a state may be open, or
    assumed by a broadcast, which need not be what another use wants.
    """
    try:
        driver.optimise(driver.lower(Source("random.knet", made.source), None, {}, []), _options(made, 0))
    except knetc.KnetNameError as error:
        if "is read here and never written" in str(error):
            return "refused: never written"
        raise
    except knetc.KnetShapeError as error:
        if "cannot be inferred" in str(error):
            return "refused: a size is open"
        if "it was assumed to fit" in str(error):
            return "refused: a size that was assumed"
        raise
    return ""


def check_gradients(pick: random.Random) -> str:
    """Compares the gradients of a model, of one call or a sequence, with central differences: `same` or `refused`.

    Near a kink differences are no gradients, so a model is wrong only where it is so with several data.
    """
    made, seed = random_model(pick, 5), pick.randrange(1000)
    with attributed(made):
        why = refused(made)
        if why:
            return why
        net = builds(made, [("numpy", 2)], seed)[0]
        twins = Twins(made, [net], pick)
        try:
            net.forw(*twins.inputs())
        except knetc.KnetShapeError as error:  # a left operand has the batch where no right operand comes from an input
            if "would depend on the batch" in str(error) or "N columns and" in str(error):
                return "refused: no other input has the batch"
            raise
        net.reset()
        for name, dims in net.params().items():
            net.set(name, 0.5 * twins.rng.standard_normal(dims))  # zeros are where relu has its kink
        errors = []
        for _ in range(4):
            errors.append(_gradient_error(twins))
            if errors[-1] <= 1e-4:
                return "same"
        raise Difference(f"gradients are off by {errors}")


def _gradient_error(twins: Twins) -> float:
    """The error of one draw of data; 0 where the model returns nothing."""
    net, setting = twins.builds[0], twins.setting()
    twins.batch = twins.pick.randint(1, 3)
    steps = [tuple(twins.inputs()) for _ in range(twins.pick.randint(1, 3))]
    value = net.forw(*steps[0], **setting)
    net.reset()
    if value is None:
        return 0.0
    loss = twins.pick.choice(["quadloss", "softloss"]) if value.min() > 1e-3 else "quadloss"
    golds = [twins.gold(value.shape) for _ in steps]
    return net.gradcheck(steps, golds, loss, **setting)


@contextmanager
def attributed(made: Made) -> Iterator[None]:
    """Notes on what goes wrong in it which model it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"inputs {made.inputs}, whole {made.whole}\n{made.source}")
        raise


def emitted(made: Made, level: int) -> str:
    """The CUDA of a model, with the backward passes of all losses."""
    options = _options(made, level)
    lowered = driver.lower(Source("random.knet", made.source), None, {}, [])
    return driver.emit(driver.optimise(lowered, options), options)


def _options(made: Made, level: int) -> Options:
    dims = tuple(d if whole else (*d, N) for d, whole in zip(made.inputs, made.whole, strict=True))
    return Options(inputs=dims, losses=ALL_LOSSES, dtype="f64", level=level)
