"""Whole runs of training and testing over minibatches or time steps: the manual's loops of lessons 5 and 10.

Called as methods of `model.Model`; they use its public methods only, so their numbers are those of the loop written
out.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from knetc.errors import KnetShapeError, KnetTypeError
from knetc.runtime import check, process
from knetc.runtime.batches import Minibatches
from knetc.runtime.losses import Loss, loss_function, loss_name
from knetc.runtime.onehot import OneHot
from knetc.runtime.segments import segments
from knetc.runtime.several import Several, several

if TYPE_CHECKING:
    from knetc.runtime.model import Model

# Minibatches that are trained in one call: so many at least; and about how long a call that trains takes.
_FEWEST = 8
_SECONDS = 0.03


def train(
    net: Model,
    /,
    data: Any,
    loss: Loss | str,
    epochs: int = 1,
    gclip: float = 0,
    seqlength: int | None = None,
    progress: bool = True,
    keepstate: bool = False,
    **conditions: bool,
) -> list[float]:
    """Trains `net` on `data` for `epochs` passes; returns the loss before each update.

    `data`: pairs (x, y) as `minibatch` makes (x a tuple where the model has several inputs): forw, back and update for
    each. With `seqlength`, time steps as `seqbatch` makes: step t is the input and t+1 the desired output; every
    `seqlength` steps of sforw are gone back through and followed by an update, and the loss is their mean; every pass
    begins with the state zero, but the first with that of the model where `keepstate` (for the rest of a pass that was
    stopped). `gclip` as in `update`; `conditions` hold in every forward call. `progress` shows a bar on standard error.
    Ctrl-C ends the run after the update in hand; what there is by then is returned. A loop over calls of `train` learns
    of it from `stoppable`. Raises as those methods, KnetTypeError for data of another form.
    """
    name = loss_name(loss, gradient=True)
    epochs = check.natural("epochs", epochs, 0)
    keepstate = check.flag("keepstate", keepstate)
    check.training_options({"gclip": gclip})
    if seqlength is not None:
        check.natural("seqlength", seqlength)
        _check_steps(data)
    elif keepstate:
        raise KnetTypeError("keepstate goes with seqlength: minibatches do not reset the state")
    net.agree(
        f"train {epochs} epochs from {name} of {_described(data)}, "
        f"seqlength {seqlength}, gclip {gclip:g}, keepstate {keepstate}"
    )
    losses: list[float] = []
    with stoppable() as stopped:
        if net.all_stop(stopped.is_set()):
            return losses
        with _bar(_updates(data, seqlength, epochs), progress) as bar:
            for values in _passes(net, data, name, gclip, seqlength, conditions, epochs, keepstate):
                losses += values
                bar.set_postfix(loss=f"{values[-1]:.4g}", refresh=False)
                bar.update(len(values))
                if net.all_stop(stopped.is_set()):
                    break
    return losses


def _passes(
    net: Model,
    data: Any,
    name: str,
    gclip: float,
    seqlength: int | None,
    conditions: Mapping[str, Any],
    epochs: int,
    keepstate: bool,
) -> Iterator[list[float]]:
    """Every update of every pass, the losses before each."""
    if seqlength:
        for epoch in range(epochs):
            yield from _sequence_epoch(net, data, name, gclip, seqlength, conditions, keepstate and epoch == 0)
        return
    at_once = None
    if epochs and isinstance(data, Minibatches):  # what is trained in one call is checked once for all passes
        at_once = several(net, _inputs(data.x), data.y, name, gclip, conditions)
    for _ in range(epochs):
        yield from _in_calls(at_once, data, net.ranks) if at_once else _singly(net, data, name, gclip, conditions)


def test(net: Model, /, data: Any, loss: Loss | str) -> float:
    """The average loss of `net` over the minibatches or time steps of `data`, all conditions false.

    Over time steps the model is reset first, and step t+1 is the desired output of step t. Raises as `forw`.
    """
    function = loss_function(loss)
    total, count = 0.0, 0
    if _are_steps(data):
        net.reset()
    for x, y in _pairs(data):
        total += _value(function, net.forw(*_inputs(x)), y)
        count += 1
    if not count:
        raise KnetShapeError("test: there are no data")
    return total / count


def _singly(net: Model, data: Any, loss: str, gclip: float, conditions: Mapping[str, Any]) -> Iterator[list[float]]:
    """An epoch of forw, back and update for one minibatch after the other, the loss of each."""
    function = loss_function(loss)
    for x, y in map(_pair, _iterable(data)):
        value = _value(function, net.forw(*_inputs(x), **conditions), y)
        net.back(y, loss)
        net.update(gclip=gclip)
        yield [value]


def _in_calls(at_once: Several, data: Minibatches, ranks: int) -> Iterator[list[float]]:
    """An epoch in calls of some tens of milliseconds, so that Ctrl-C and the progress bar are heeded."""
    at, many = 0, _FEWEST
    while at < len(data):
        start = time.perf_counter()
        yield at_once(at * data.size, min((at + many) * data.size, data.columns), data.size)
        at += many
        if ranks > 1:
            continue  # all processes stop after the same one
        many = _for_some_time(many, time.perf_counter() - start, _FEWEST)


def _for_some_time(many: int, seconds: float, fewest: int) -> int:
    """How many are trained in the next call, where so many took so long."""
    return max(fewest, min(2 * many, int(many * _SECONDS / (seconds + 1e-9))))


def _sequence_epoch(
    net: Model, data: Any, loss: str, gclip: float, seqlength: int, conditions: Mapping[str, Any], keepstate: bool
) -> Iterator[list[float]]:
    """The losses of some segments after the other: of one, or of as many as the back end trains in one call."""
    net.reset(keepstate=keepstate)
    at, many = 0, 1
    while at < len(data) - 1:
        start = time.perf_counter()
        losses = segments(net, data[at : at + many * seqlength + 1], loss, gclip, seqlength, conditions)
        if losses is None:
            yield [_segment(net, data[at : at + seqlength + 1], loss, gclip, conditions)]
            at += seqlength
            continue
        yield losses
        at += many * seqlength
        many = _for_some_time(many, time.perf_counter() - start, 1)


def _segment(net: Model, steps: Sequence[Any], loss: str, gclip: float, conditions: Mapping[str, Any]) -> float:
    """Trains on a segment, each of whose steps is what is desired of the one before; the loss before the update."""
    function, wanted = loss_function(loss), steps[1:]
    values = net.forwseq([_inputs(x) for x in steps[:-1]], **conditions) or [None]
    total = sum(_value(function, value, y) for value, y in zip(values, wanted, strict=False))
    net.backseq(wanted, loss)
    net.update(gclip=gclip)
    net.reset(keepstate=True)
    return total / len(wanted)


def _value(function: Loss, ypred: Any, y: Any) -> float:
    if ypred is None:
        raise KnetTypeError("the model returns nothing under these conditions, so there is no loss")
    return function(ypred, y)


def _are_steps(data: Any) -> bool:
    """Whether the data are time steps, and not pairs of input and desired output."""
    return isinstance(data, Sequence) and len(data) > 0 and not isinstance(data[0], tuple | list)


def _check_steps(data: Any) -> None:
    if not _are_steps(data):
        raise KnetTypeError("with seqlength the data are a list of time steps, as seqbatch makes")
    if len(data) < 2:
        raise KnetShapeError("with seqlength the data need two time steps at least: an input and what follows it")


def _pairs(data: Any) -> Iterator[tuple[Any, Any]]:
    if _are_steps(data):
        yield from ((data[t], data[t + 1]) for t in range(len(data) - 1))
    else:
        yield from map(_pair, _iterable(data))


def _iterable(data: Any) -> Iterable[Any]:
    if not isinstance(data, Iterable):
        raise KnetTypeError(f"the data are pairs (x, y), as minibatch makes, got {type(data).__name__}")
    return data


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise KnetTypeError("the data are pairs (x, y), as minibatch makes; for time steps give seqlength")
    return item[0], item[1]


def _inputs(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) and not isinstance(x, OneHot) else (x,)


def _described(data: Any) -> str:
    """What kind of data there are, and how many, for several processes to compare."""
    if isinstance(data, Minibatches):
        shapes = ", ".join(str(tuple(x.shape)) for x in _inputs(data.x))
        return f"{shapes} and {tuple(data.y.shape)} in minibatches of {data.size}"
    return f"{len(data)} items" if hasattr(data, "__len__") else "items without a number"


def _updates(data: Any, seqlength: int | None, epochs: int) -> int | None:
    """How many updates there will be; None where the data do not tell their number."""
    if not hasattr(data, "__len__"):
        return None
    return epochs * (-(-(len(data) - 1) // seqlength) if seqlength else len(data))


def _bar(total: int | None, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, disable=not (progress and process.speaks()), unit="update", dynamic_ncols=True)


_under_way: threading.Event | None = None


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """A block in which Ctrl-C only sets the event that it gives; a second Ctrl-C interrupts at once.

    For loops that train in several calls, test and save: `train` stops after the update in hand, and the loop looks at
    `is_set()` where it can stop. A block within another, such as that of `train` itself, gives the same event. Python
    hands signals to its main thread only; in another the event is never set.
    """
    global _under_way
    if threading.current_thread() is not threading.main_thread():
        yield threading.Event()
        return
    if _under_way is not None:
        yield _under_way
        return
    event = threading.Event()
    previous = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, stop)
    _under_way = event
    try:
        yield event
    finally:
        _under_way = None
        signal.signal(signal.SIGINT, previous)
