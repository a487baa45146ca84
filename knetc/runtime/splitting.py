"""An executable among several processes: each is given all columns of a minibatch and computes those that are its own.

Before: `model.Model`, for which it is an executable like any other. After: the executable of this process, and
`ranks.py`. A column counts 1/columns of the whole minibatch: the losses divide by this process's own columns, so the
mask carries what is missing. A process with no column of its own computes the first column with weight 0, so every
process makes the same calls.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, cast

import numpy as np

from knetc.ir.program import Program
from knetc.ir.types import N, Type
from knetc.runtime.check import DTYPES
from knetc.runtime.executable import Executable, Tensor, TrainingOptions, into
from knetc.runtime.library import Library
from knetc.runtime.losses import mean_loss
from knetc.runtime.onehot import OneHot
from knetc.runtime.ranks import Ranks, digest
from knetc.runtime.shares import Share, aligned
from knetc.runtime.signature import result_type
from knetc.runtime.sums import DeviceSums, HostSums, Splittable, Sums, adds_itself


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Split:
    """An executable whose calls every process makes with all columns (see `executable.Executable`)."""

    trains = takes_rows = True

    def __init__(self, inner: Executable, ranks: Ranks) -> None:
        self._inner, self._ranks = cast("Splittable", inner), ranks
        self.program: Program = inner.program
        self._dtype = DTYPES[self.program.dtype]
        self._share_processors(ranks.neighbours)
        ranks.built()
        self._sums: Sums
        if adds_itself(inner):
            watched = ranks.watched(inner)
            self._inner, self._sums = watched, DeviceSums(watched, ranks, self._so_far)
        else:
            self._sums = HostSums(inner, ranks, self._so_far)
        self._moves = [i.dims is not None and i.dims[-1:] == (N,) for i in self.program.inputs]
        self._types = {s: result_type(self.program, v) for v in self.program.variants for s in v.settings}
        self._setting: frozenset[str] = frozenset()
        self._last = self._kept = Share.of(0, 1, 1)  # of the last call, and of the state
        self._record: Share | None = None
        self._stack: list[Share] = []
        self._resets, self._seed = 0, ""  # what else must be the same on all processes

    def _share_processors(self, neighbours: int) -> None:
        """Divides the processors among the processes of this machine, unless the user has."""
        set_threads = getattr(self._inner, "set_threads", None)
        if set_threads and "OMP_NUM_THREADS" not in os.environ:
            set_threads(max(1, min(processors(), (os.cpu_count() or 1) // neighbours)))

    # --- calls --------------------------------------------------------------------------------------------------------

    def forward(self, setting: frozenset[str], inputs: Sequence[Tensor], push: bool, out: Tensor | None = None) -> Any:
        """One call of the model (see `Executable.forward`)."""
        value, share = self._forward(setting, inputs, push)
        if value is None or not share.split:
            return into(value, out)
        what = f"{'sforw' if push else 'forw'} under {_named(setting)} of {_shapes(inputs)}"
        return into(self._gather(what, value, share), out)

    def _forward(self, setting: frozenset[str], inputs: Sequence[Tensor], push: bool) -> tuple[Any, Share]:
        """The value of this process's columns."""
        share = self._share(setting, inputs)
        mine = [share.own(a) if moves else a for a, moves in zip(inputs, self._moves, strict=True)]
        self._inner.take_columns(share.first, share.whole)
        value = self._inner.forward(setting, mine, push)
        self._ran(setting, share, 1, push)
        return value, share

    def forward_sequence(
        self, setting: frozenset[str], inputs: Sequence[Tensor], steps: int, out: Tensor | None = None
    ) -> Any:
        """So many calls of `forward` with `push` (see `Executable.forward_sequence`)."""
        share = self._share(setting, inputs, steps)
        mine = [share.own(a, steps) if moves else a for a, moves in zip(inputs, self._moves, strict=True)]
        self._inner.take_columns(share.first, share.whole)
        value = self._inner.forward_sequence(setting, mine, steps)
        self._ran(setting, share, steps, push=True)
        if value is None or not share.split:
            return into(value, out)
        what = f"forwseq of {steps} steps under {_named(setting)} of {_shapes(inputs)}"
        return into(self._gather(what, value, share, steps), out)

    def _share(self, setting: frozenset[str], inputs: Sequence[Tensor], steps: int = 1) -> Share:
        columns = [a.shape[-1] // steps for a, moves in zip(inputs, self._moves, strict=True) if moves]
        type_ = self._types[setting]
        split = type_ is None or type_.batched
        return Share.of(self._ranks.rank, self._ranks.size, columns[0] if columns else 1, split)

    def _ran(self, setting: frozenset[str], share: Share, steps: int, push: bool) -> None:
        self._setting, self._last, self._kept = setting, share, share
        if push:
            self._stack += [share] * steps
        else:
            self._record = share

    def backward(
        self,
        loss: str,
        gold: Any,
        mask: Any,
        dinputs: Sequence[int],
        pop: bool,
        out: Mapping[int, Tensor] | None = None,
    ) -> dict[int, Any]:
        """Gradients of this process's columns (see `Executable.backward`); `update` adds them up."""
        share = self._stack[-1] if pop else self._record
        assert share is not None, "the model calls backward after forward only"
        own, weights = self._target(share, loss, gold, mask)
        what = f"{'sback' if pop else 'back'} from {loss} over {share.whole} columns"
        self._sums.begin(what, share, adds=pop)
        found = self._inner.backward(loss, own, weights, dinputs, pop)
        if pop:
            self._stack.pop()
        self._sums.end(complete=not pop or not self._stack)
        room = out or {}
        return {i: into(self._input_gradient(i, dx, share), room.get(i)) for i, dx in found.items()}

    def backward_sequence(self, loss: str, gold: Any, mask: Any, steps: int) -> None:
        """So many calls of `backward` with `pop` (see `Executable.backward_sequence`)."""
        share = self._stack[-1]
        own, weights = self._target(share, loss, gold, mask, steps)
        self._sums.begin(f"backseq of {steps} steps from {loss} over {share.whole} columns", share, adds=True)
        self._inner.backward_sequence(loss, own, weights, steps)
        del self._stack[-steps:]
        self._sums.end(complete=not self._stack)

    def _target(self, share: Share, loss: str, gold: Any, mask: Any, steps: int = 1) -> tuple[Any, Any]:
        """This process's columns of the desired output, and what each weighs."""
        if gold is None:
            return None, None
        own = share.own(gold, steps) if share.split else gold
        if loss == "none":  # a gradient, which weighs what it weighs
            return (own if share.weight else np.zeros_like(own)), None
        if share.weight == 1:
            return own, mask if mask is None or not share.split else share.own(mask, steps)
        weights = np.full(own.shape[-1], share.weight, self._dtype)
        if mask is not None:
            weights *= share.own(mask, steps) if share.split else mask
        return own, weights

    def _so_far(self) -> str:
        """What every exchange says, so that a process that alone has reset or seeded its model is told."""
        return f"(call {self._inner.calls()}, reset {self._resets}{self._seed})"

    # --- sums ---------------------------------------------------------------------------------------------------------

    def update(self, options: Mapping[str, TrainingOptions], gclip: float, gscale: float) -> None:
        """Sums the gradients and changes the parameters (see `Executable.update`), by the options of rank 0."""
        self._update(options, gclip, gscale)

    def _update(self, options: Mapping[str, TrainingOptions], gclip: float, gscale: float, loss: float = 0.0) -> float:
        text = _text(options)
        total, words = self._sums.total(f"update, gclip {gclip:g}, gscale {gscale:g}", digest(text), loss)
        self._take_options(options, text, words)
        self._inner.update(options, gclip, gscale)
        return total

    def _take_options(self, options: Mapping[str, TrainingOptions], text: bytes, words: Sequence[bytes]) -> None:
        """The options of rank 0, where the words of some processes say that they have others."""
        if len(set(words)) > 1:
            given = json.loads(self._ranks.first("the training options", text))
            wanted = {name: TrainingOptions(**o) for name, o in given.items()}
            cast("MutableMapping[str, TrainingOptions]", options).update(wanted)

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

        An array may be given as a vector of 32-bit integers, the rows of the 1s of a one-hot matrix.
        """
        type_ = self._types[setting]
        assert type_ is not None
        sizes = [i.dims[0] if i.dims else 0 for i in self.program.inputs]
        columns, losses = gold.shape[-1], []
        rest = columns % batch
        if self._sums.at_once and type_.batched and not batch % self._ranks.size and not rest % self._ranks.size:
            for part, size in ((slice(0, columns - rest), batch), (slice(columns - rest, columns), rest)):
                if part.start < part.stop:
                    given = [self._dense(a[..., part], rows) for a, rows in zip(inputs, sizes, strict=True)]
                    wanted = self._dense(gold[..., part], type_.dims[0])
                    losses += self._train_at_once(setting, given, wanted, size, loss, options, gclip)
            return losses
        for at in range(0, columns, batch):
            whole = min(batch, columns - at)
            share = Share.of(self._ranks.rank, self._ranks.size, whole, type_.batched)
            here = slice(at + share.first, at + share.stop)
            mine = [self._dense(a[..., here], rows) for a, rows in zip(inputs, sizes, strict=True)]
            wanted = self._dense(gold[..., here], type_.dims[0])
            value = self._train_one(setting, mine, wanted, share, loss)
            losses.append(self._update(options, gclip, 1.0, value))
        return losses

    def _train_at_once(
        self,
        setting: frozenset[str],
        inputs: Sequence[Tensor],
        gold: Tensor,
        batch: int,
        loss: str,
        options: Mapping[str, TrainingOptions],
        gclip: float,
    ) -> list[float]:
        """Whole minibatches of which all processes have as many columns: the executable takes the mean over them."""
        steps, text = gold.shape[-1] // batch, _text(options)
        share = Share.of(self._ranks.rank, self._ranks.size, batch)
        what = f"train: {steps} minibatches of {batch} columns from {loss}, gclip {gclip:g}"
        self._take_options(options, text, self._sums.begin(what, share, adds=False, word=digest(text)))
        self._inner.take_columns(share.first, share.whole)
        mine = [share.own(a, steps) for a in inputs]
        inner = cast("Library", self._inner)
        losses = inner.train(setting, mine, share.own(gold, steps), share.stop - share.first, loss, options, gclip)
        self._ran(setting, share, 1, push=False)
        self._sums.end(complete=True)
        return losses

    def _train_one(
        self, setting: frozenset[str], inputs: Sequence[Tensor], gold: Tensor, share: Share, loss: str
    ) -> float:
        """Forward and back over this process's columns; their part of the loss."""
        self._inner.take_columns(share.first, share.whole)
        value = self._inner.forward(setting, inputs, False)
        self._ran(setting, share, 1, push=False)
        weights = None if share.weight == 1 else np.full(gold.shape[-1], share.weight, self._dtype)
        self._sums.begin(f"train: back from {loss} over {share.whole} columns", share, adds=False)
        self._inner.backward(loss, gold, weights, (), False)
        self._sums.end(complete=True)
        return share.weight * mean_loss(loss, value, gold) if share.weight else 0.0

    def _dense(self, array: Any, rows: Any) -> Tensor:
        """Columns as an array; `array` may be the rows of their 1s."""
        if array.dtype == self._dtype:
            return aligned(array)
        return aligned(OneHot(array, rows).dense(self._dtype))

    # --- columns of all processes -------------------------------------------------------------------------------------

    def _gather(self, what: str, value: Tensor, share: Share, steps: int = 1) -> Tensor:
        """A value's columns of all processes, those of each step side by side."""
        mine = np.asfortranarray(value).reshape(-1, order="F") if not share.idle else np.empty(0, self._dtype)
        parts, _ = self._ranks.gather(f"{what} {self._so_far()}", mine.view(np.uint8))
        shape = value.shape[:-1]
        shaped = [p.view(self._dtype).reshape((*shape, -1, steps), order="F") for p in parts if len(p)]
        whole: Tensor = np.asfortranarray(np.concatenate(shaped, axis=-2))
        return whole.reshape((*shape, -1), order="F")

    def _input_gradient(self, index: int, dx: Tensor, share: Share) -> Tensor:
        """An input's gradient: its columns of all processes, or the sum where it has none."""
        what = f"the gradient of input {self.program.inputs[index].name}"
        if self._moves[index]:
            return self._gather(what, dx, share)
        flat = np.asfortranarray(dx).reshape(-1, order="F") * self._dtype.type(bool(share.weight))
        return self._ranks.sum(what, flat, b"")[0].reshape(dx.shape, order="F")

    # --- data ---------------------------------------------------------------------------------------------------------

    def read(self, kind: str, name: str) -> Tensor:
        """A copy of an array (see `Executable.read`): of a gradient the sum, of a value and of state all columns."""
        if kind == "grad":
            return self._sums.gradient(f"grad of {name}", name)
        array = self._inner.read(kind, name)
        type_ = self._type(kind, name)
        if type_ is None or not type_.batched:
            return array
        return self._gather(f"the value of {name}", array, self._kept if kind == "state" else self._last)

    def _type(self, kind: str, name: str) -> Type | None:
        """The type of what may have columns."""
        if kind == "state":
            return self.program.states()[name]
        if kind != "value":
            return None
        variant = self.program.variant(self._setting)
        value = dict(variant.names).get(name, name)
        return next((i.type for i in variant.forward if i.out == value), None)

    def write(self, kind: str, name: str, array: Tensor) -> None:
        """Overwrites a parameter (`par`) or state (`state`), of which this process keeps its columns."""
        type_ = self.program.states()[name] if kind == "state" else None
        if type_ is not None and type_.batched:
            self._kept = Share.of(self._ranks.rank, self._ranks.size, array.shape[-1])
            array = self._kept.own(array)
        self._inner.write(kind, name, array)

    def reset(self, keepstate: bool) -> None:
        """Empties the stack, zeroes gradients, and zeroes the state unless `keepstate`."""
        self._inner.reset(keepstate)
        self._resets += 1
        self._stack.clear()
        self._sums.forget()

    def clean(self) -> None:
        """Frees the stack, the gradients and the values of the last call."""
        self._inner.clean()
        self._stack.clear()
        self._sums.forget()

    def averages(self, parameter: str) -> dict[str, Tensor]:
        """Copies of a parameter's running averages (see `Executable.averages`)."""
        return self._inner.averages(parameter)

    def set_averages(self, parameter: str, averages: Mapping[str, Tensor]) -> None:
        """Overwrites running averages of a parameter."""
        self._inner.set_averages(parameter, averages)

    def stack_depth(self) -> int:
        """The number of steps on the stack."""
        return self._inner.stack_depth()

    def set_seed(self, seed: int, calls: int = 0) -> None:
        """Random draws are keyed by `seed`, as after so many `calls`."""
        self._inner.set_seed(seed, calls)
        self._seed = f", seed {seed}"

    def calls(self) -> int:
        """The number of the last `forward`."""
        return self._inner.calls()

    def close(self) -> None:
        """Frees what the executable holds."""
        self._inner.close()


def _text(options: Mapping[str, TrainingOptions]) -> bytes:
    return json.dumps({name: vars(o) for name, o in options.items()}).encode()


def _named(setting: frozenset[str]) -> str:
    return ", ".join(sorted(setting)) or "no condition"


def _shapes(arrays: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(map(int, a.shape))) for a in arrays) or "no input"
