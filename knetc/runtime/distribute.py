"""`knetc.distribute`: a model that several processes train together, each on its share of every minibatch.

Before: the user's script, which every process runs. After: `model.Model`, over an executable that `splitting.py` splits
among the processes of `ranks.py`.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from knetc.errors import KnetError, KnetTypeError
from knetc.ir.printer import print_program
from knetc.runtime import check, links, process, saving
from knetc.runtime.farewell import farewell
from knetc.runtime.links import Link
from knetc.runtime.model import Model
from knetc.runtime.ranks import Ranks, apart, digest

TIMEOUT = 300.0
START = 300.0

_GRACE = 1.0  # seconds in which the other processes say what they have to, before all are ended


def distribute(net: Model | None, /, *, timeout: float = TIMEOUT, start: float = START, quiet: bool = True) -> Model:
    """The model, trained by all processes of this run: those that `mpirun -n 4 python train.py` has started, or a
    launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as `torchrun` does.

    Every process runs the same script and gives each call the whole minibatch, of which it computes its share; values,
    gradients and losses are those of the whole. What rank 0 has holds for all: parameters, training options, state;
    another process may give None. A process that is not heard of for `timeout` seconds is given up with a KnetError
    that names it; for `start` seconds, if they are more, as long as it may still be importing or building. One that
    ends is given up at once, and an error that nothing catches ends all. `quiet`: nothing but rank 0 prints to standard
    output from here on. `net` is left as it was; one that is distributed comes back as it is. Raises
    KnetEnvironmentError where no launcher has set WORLD_SIZE and mpi4py or MPI is missing, where the launcher's
    variables are wrong, or where the processes cannot reach each other; KnetError on every process where one does not
    come, or where their models differ; KnetTypeError.
    """
    if net is not None and not isinstance(net, Model):
        raise KnetTypeError(f"distribute: a model that knetc.compile made is expected, got {type(net).__name__}")
    if net is not None and net._engine.ranks:
        return net
    timeout, start = _seconds("timeout", timeout), _seconds("start", start)
    link = links.find(max(timeout, start))
    ranks = Ranks(link, timeout, max(timeout, start))
    process.take_rank(ranks.rank)
    if ranks.size > 1:
        _end_all_on_errors(link)
    shared = _from_rank_0(ranks, net, _same_backend(ranks, net, link.place))
    if quiet and ranks.rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process
    return shared


def _seconds(name: str, value: float) -> float:
    seconds = check.number(name, value)
    if seconds <= 0:
        raise KnetTypeError(f"option {name} is over 0 seconds, got {seconds:g}")
    return seconds


def _same_backend(ranks: Ranks, net: Model | None, place: int | None) -> str:
    """The back end of all. `place`: which of its machine's processes this is, if the launcher has said so.

    Raises KnetError on every process, before anything is sent, where their models differ.
    """
    hosts = ranks.texts("distribute a model", platform.node())
    ranks.neighbours = hosts.count(hosts[ranks.rank])
    process.take_place(hosts[: ranks.rank].count(hosts[ranks.rank]) if place is None else place)
    said = ranks.texts("compare the models", None if net is None else _about(net))
    if said[0] is None:
        raise KnetError("distribute: rank 0 has no model to give to the others")
    for name in said[0]:
        values = [said[0][name] if s is None else s[name] for s in said]
        if len(set(values)) > 1:
            raise KnetError(f"distribute: the processes have models of different {name} ({apart(values)})")
    return str(said[0]["backend"])


def _about(net: Model) -> dict[str, str]:
    """What must be the same on all processes, in the order in which it is told."""
    engine, lowered = net._engine, net._engine.lowered
    source = lowered.source.text if lowered.source else ""
    return {
        "backend": engine.backend,
        "element type": engine.dtype,
        "name": lowered.name,
        "keywords": ", ".join(f"{n}={v!r}" for n, v in sorted(dict(lowered.keywords).items())) or "none",
        "source text": digest(source).hex(),
        "program": digest(print_program(lowered)).hex(),
        "optimisation": str(engine.optimise),
        "input shapes": ", ".join(str(i.dims) for i in engine.known.inputs),
    }


def _from_rank_0(ranks: Ranks, net: Model | None, backend: str) -> Model:
    """The model of rank 0, by the way of a saved file, split among all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        if net is not None and ranks.rank == 0:
            saving.save(path, net)
        path.write_bytes(ranks.first("take the model of rank 0", path.read_bytes() if ranks.rank == 0 else None))
        return Model.of(saving.stored(path), backend, ranks)


def _end_all_on_errors(link: Link) -> None:
    """An error that nothing catches, once it has been shown and told, ends the other processes."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if not link.open():  # a copy of this process
            return before(kind, error, trace)
        if isinstance(error, KnetError):
            print(f"rank {link.rank}: {error}", file=sys.stderr)
        else:
            before(kind, error, trace)
        print(f"knetc: rank {link.rank} of {link.size} ends all processes: {kind.__name__}", file=sys.stderr)
        sys.stderr.flush()
        try:
            farewell(link).tell(f"has ended by {kind.__name__}: {error}")
            farewell(link).stay(_GRACE)
        finally:
            link.abort()

    sys.excepthook = hook
