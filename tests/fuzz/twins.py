"""Runs several builds of one random model through the same random calls, and compares all that can be seen of them.

The first build is the definition. Values may differ by rounding alone; errors must be of one kind.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import knetc

from .programs import CONDITIONS, Made

TOLERANCE = 1e-9
LOSSES = ("quadloss", "softloss", None)
Call = Callable[[knetc.Model], Any]


class Difference(AssertionError):
    """Two builds of a model differ."""


class Overflow(Exception):
    """A value is not finite, so that rounding decides what follows: nothing can be compared."""


class Twins:
    """Builds of one model, all called alike. `pick` decides what is called."""

    def __init__(self, made: Made, builds: Sequence[knetc.Model], pick: random.Random) -> None:
        self.made = made
        self.builds = list(builds)
        self.pick = pick
        self.rng = np.random.default_rng(pick.randrange(2**32))
        self.batch = 1
        known = builds[0]._engine.unsized.conditions
        self.conditions = [c for c in (*CONDITIONS, "dropout") if c in known]

    # --- comparing ----------------------------------------------------------------------------------------------------

    def same(self, what: str, *calls: Call) -> Any:
        """What a call gives on the first build, which the others' must equal; of the first of two, theirs the other."""
        found = [_outcome(calls[min(k, len(calls) - 1)], net) for k, net in enumerate(self.builds)]
        for k, other in enumerate(found[1:], 1):
            _compare(f"{what}, build {k}", found[0], other)
        return found[0]

    def everything(self) -> None:
        """All that can be read: parameters, gradients, state, and the variables that a build has kept."""
        first = self.builds[0]
        for name in first.params():
            self.same(f"parameter {name}", lambda net, n=name: net.get(n))
            self.same(f"gradient of {name}", lambda net, n=name: net.grad(n))
        for name in first.state():
            self.same(f"state {name}", lambda net, n=name: net.get(n))
        variables = {n for v in first._engine.unsized.variants for n, _ in v.names}
        for name in sorted(variables - first.params().keys()):
            wanted = _outcome(lambda net, n=name: net.get(n), first)
            for k, net in enumerate(self.builds[1:], 1):
                found = _outcome(lambda net, n=name: net.get(n), net)
                if not (isinstance(found, knetc.KnetError) and "does not keep" in str(found)):
                    _compare(f"variable {name}, build {k}", wanted, found)

    # --- what is given ------------------------------------------------------------------------------------------------

    def inputs(self) -> list[np.ndarray]:
        arrays = [np.asfortranarray(self.rng.standard_normal(s)) for s in self.made.shapes(self.batch)]
        for k, whole in enumerate(self.made.whole):
            if whole and self.pick.random() < 0.7:  # mostly the same at every step
                arrays[k] = np.full(arrays[k].shape, 0.3, order="F")
        return arrays

    def setting(self) -> dict[str, bool]:
        return {c: True for c in self.conditions if self.pick.random() < 0.5}

    def gold(self, shape: tuple[int, ...]) -> np.ndarray:
        """A desired output whose columns sum to 1."""
        gold = self.rng.random(shape) + 0.05
        return np.asfortranarray(gold / gold.reshape(-1, shape[-1], order="F").sum(axis=0))

    def target(self, value: Any, may_miss: bool = False) -> dict[str, Any]:
        """The arguments of a backward call for a step that returned `value`."""
        if not isinstance(value, np.ndarray) or (may_miss and self.pick.random() < 0.25):
            return {}
        loss = self.pick.choice(LOSSES)
        mask = None
        if loss and self.pick.random() < 0.4:
            mask = np.asfortranarray(self.pick.choice([0.0, 1.0, 0.5]) * (self.rng.random(value.shape[-1]) < 0.6))
        return {"ygold": self.gold(value.shape), "loss": loss, "mask": mask}

    def getdx(self) -> Any:
        count = len(self.made.inputs)
        return self.pick.choice([False, False, True, self.pick.randrange(count), [self.pick.randrange(count)]])

    # --- calls --------------------------------------------------------------------------------------------------------

    def run(self, rounds: int) -> None:
        """So many rounds of calls, each of one kind."""
        for _ in range(rounds):
            self.pick.choice([self.single, self.training, self.sequence, self.sequence])()
            self.everything()
            if self.pick.random() < 0.6:
                self.update()
            kind = self.pick.randrange(5)
            if kind == 4:
                self.reload()
            if kind == 0:
                self.same("reset", lambda net: net.reset())
                self.batch = self.pick.randint(1, 4)
            elif kind == 1:
                self.same("setseed", lambda net: net.setseed(5))
            self.same("reset", lambda net: net.reset(keepstate=True))

    def reload(self) -> None:
        """Every build goes on as what has been saved of it; stack and gradients have not."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.h5")
            for k, net in enumerate(self.builds):
                knetc.save(path, net)
                self.builds[k] = knetc.load(path, "model", backend=net.backend)

    def single(self) -> None:
        """forw, and back from it more than once."""
        inputs, setting = self.inputs(), self.setting()
        value = self.same("forw", lambda net: net.forw(*inputs, **setting))
        for _ in range(self.pick.randint(1, 2)):
            target, getdx = self.target(value, may_miss=True), self.getdx()
            self.same("back", lambda net, t=target, g=getdx: net.back(**t, getdx=g))

    def training(self) -> None:
        """train over minibatches, the last of which may be smaller; from the state that a call of forw has left."""
        size, setting = self.batch, self.setting()
        inputs = self.inputs()
        value = self.same("forw", lambda net: net.forw(*inputs, **setting))
        if any(self.made.whole) or not isinstance(value, np.ndarray) or value.shape[-1:] != (size,):
            return
        self.batch = self.pick.randint(1, 12) * size  # a state's columns are as many in every minibatch
        if not self.builds[0].state():
            self.batch = self.pick.randint(1, 12 * size)
        given, gold = [self.maybe_onehot(a) for a in self.inputs()], self.gold((*value.shape[:-1], self.batch))
        self.batch = size
        data: Any = knetc.minibatch(tuple(given) if len(given) > 1 else given[0], self.maybe_onehot(gold), size)
        if self.pick.random() < 0.2:
            data = list(data)
        # Softloss divides by what the model returns: near 0 a rounding error is a thousand of them after each step.
        loss = "softloss" if value.min() > 0.05 and self.pick.random() < 0.7 else "quadloss"
        self.plainly({"momentum": 0.5} if self.pick.random() < 0.3 else {})
        options = {"epochs": self.pick.randint(1, 2), "gclip": self.pick.choice([0, 0, 0.5]), "progress": False}
        self.same("train", lambda net: np.array(net.train(data, loss, **options, **setting)))

    def maybe_onehot(self, array: np.ndarray) -> Any:
        """The array, or a one-hot matrix in its place."""
        if array.ndim != 2 or self.pick.random() < 0.7:
            return array
        rows, columns = array.shape
        return knetc.onehot(self.rng.integers(0, rows, columns), rows)

    def plainly(self, options: dict[str, Any]) -> None:
        """Sets these training options and no others."""
        off = dict.fromkeys(("adam", "adagrad", "rmsprop"), False) | dict.fromkeys(("l1reg", "l2reg"), 0.0)
        options = off | {"momentum": 0.0, "nesterov": 0.0, "lr": 0.05} | options
        self.same("setp", lambda net: net.setp(**options))

    def update(self) -> None:
        """update with other options; those that go by a sign or size only where it is no rounding error."""
        options = self.pick.choice([{}, {"l1reg": 0.01}, {"l2reg": 0.1}, {"momentum": 0.5}, {"nesterov": 0.5}])
        if "l1reg" in options and not self.are_clear(lambda net, name: net.get(name)):
            options = {}
        if self.pick.random() < 0.3 and self.are_clear(lambda net, name: net.grad(name)):
            options = self.pick.choice([{"adam": True}, {"adagrad": True}, {"rmsprop": True}])
        self.plainly(options)
        gclip = self.pick.choice([0, 0, 0.5])
        self.same("update", lambda net: net.update(gclip=gclip))
        for name in self.builds[0].params():
            self.same(f"parameter {name} after an update", lambda net, n=name: net.get(n))

    def are_clear(self, array: Callable[[knetc.Model, str], object]) -> bool:
        """Whether every element of an array of each parameter is 0 or far from it, in all builds."""
        found = [_outcome(lambda net, n=n: array(net, n), net) for net in self.builds for n in net.params()]
        sizes = [np.abs(g) for g in found if isinstance(g, np.ndarray)]
        return all(bool(np.all((s == 0) | (s > 1e-6))) for s in sizes)

    # --- sequences ----------------------------------------------------------------------------------------------------

    def sequence(self) -> None:
        """A sequence pushed in stretches of one setting each, and taken off in stretches that may be others."""
        values: list[Any] = []
        for _ in range(self.pick.randint(1, 2)):
            values += self.push(self.pick.randint(1, 4))
        if self.pick.random() < 0.1:
            inputs = self.inputs()
            self.same("an interruption", lambda net: net.forw(*inputs))
        left = len(values)
        if self.pick.random() < 0.1:
            left -= 1
        while left > 0:
            count = self.pick.choice([left, self.pick.randint(1, left)])
            self.pop(values[len(values) - count :])
            del values[len(values) - count :]
            left -= count

    def push(self, count: int) -> list[Any]:
        """The values of steps: of the first build one by one, of the others at once (or some by one)."""
        steps, setting = [self.inputs() for _ in range(count)], self.setting()
        given: Any = [tuple(s) if len(s) > 1 else s[0] for s in steps]
        if len(self.made.inputs) == 1 and self.pick.random() < 0.3:
            given = np.stack(given, axis=-1)

        def one_by_one(net: knetc.Model) -> Any:
            values = [net.sforw(*s, **setting) for s in steps]
            return None if values[0] is None else values

        def at_once(net: knetc.Model) -> Any:
            found = net.forwseq(given, **setting)
            return list(np.moveaxis(found, -1, 0)) if isinstance(found, np.ndarray) else found

        single = count == 1 and self.pick.random() < 0.5
        found = self.same(f"forwseq of {count}", one_by_one, one_by_one if single else at_once)
        return found if isinstance(found, list) else [] if isinstance(found, Exception) else [None] * count

    def pop(self, values: list[Any]) -> None:
        """Backward calls for steps of these values."""
        if self.pick.random() < 0.3:
            for value in reversed(values):
                target, getdx = self.target(value, may_miss=True), self.getdx()
                self.same("sback", lambda net, t=target, g=getdx: net.sback(**t, getdx=g))
            return
        loss = self.pick.choice(LOSSES)
        missing = self.pick.choice([0, 0, 0.3])
        golds, masks = [], []
        for value in values:
            usable = isinstance(value, np.ndarray) and self.pick.random() >= missing
            golds.append(self.gold(value.shape) if usable else None)
            mask = self.rng.integers(0, 2, value.shape[-1]) * 0.5 if usable and loss else None
            masks.append(mask if self.pick.random() < 0.7 else None)
        given = masks if loss and self.pick.random() < 0.5 else None

        def one_by_one(net: knetc.Model) -> None:
            for y, m in zip(reversed(golds), reversed(given or [None] * len(golds)), strict=True):
                net.sback(y, None if y is None else loss, mask=None if y is None else m)

        self.same(f"backseq of {len(values)}", one_by_one, lambda net: net.backseq(golds, loss, given))


def _outcome(call: Call, net: knetc.Model) -> Any:
    """What a call gives, an error of the user's included."""
    try:
        return call(net)
    except knetc.KnetInternalError:
        raise
    except knetc.KnetError as error:
        return error


def _compare(what: str, wanted: Any, found: Any) -> None:
    """Raises Difference where two results are not the same but for rounding, Overflow where that cannot be said."""
    if isinstance(wanted, knetc.KnetError) or isinstance(found, knetc.KnetError):
        kind = type(wanted) is type(found)
        if not kind:
            raise Difference(f"{what}: {wanted!r} against {found!r}")
        return
    if isinstance(wanted, list | tuple) and isinstance(found, list | tuple) and len(wanted) == len(found):
        for k, (a, b) in enumerate(zip(wanted, found, strict=True)):
            _compare(f"{what}[{k}]", a, b)
        return
    if wanted is None or found is None or not isinstance(wanted, np.ndarray):
        if not (wanted is found or wanted == found):
            raise Difference(f"{what}: {wanted!r} against {found!r}")
        return
    _compare_arrays(what, wanted, found)


def _compare_arrays(what: str, wanted: np.ndarray, found: np.ndarray) -> None:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        raise Difference(f"{what}: shape {wanted.shape} against {found.shape}")
    if not np.isfinite(wanted).all() or np.abs(wanted).max(initial=0) > 1e6:
        raise Overflow(what)
    error = np.abs(wanted - found).max(initial=0)
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    if not error <= TOLERANCE * scale:
        raise Difference(f"{what}: off by {error:.3g} at a size of {scale:.3g}\n{wanted}\n{found}")
