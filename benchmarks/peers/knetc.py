"""knetc itself: one peer a back end, through the documented interface alone.

Forms: `calls` is forw, back and update (text: forwseq, backseq, update) for each minibatch; `train` is one call for all
steps of a run; inference is `forw`. Symbols and labels are given as index vectors (`onehot`, `seqbatch`). `softloss` is
the mean over the columns of a time step, so that a window's gradient is that of the sum over time, and `gclip` clips it
to CLIP: the convention of the workload.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from workloads import CLASSES, CLIP, EXAMPLES, NCHAR, TIME, UNITS, Workload

from peers.base import Runner, Task, Variant, missing, packages

MODELS = EXAMPLES.parent / "benchmarks" / "models.knet"
REQUIREMENTS = {"knetc": "knetc", "numpy": "numpy"}
PROBE = "@knet function probe(x)\n    return wb(x; out=1)\nend\n"


class Knetc:
    """knetc with one back end; see `base.Peer`."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def absent(self, device: str) -> str | None:
        if reason := missing(REQUIREMENTS):
            return reason
        if (self.backend == "cuda") != (device == "cuda"):
            return f"the back end {self.backend} does not run on {device}"
        import knetc

        try:
            knetc.compile(PROBE, backend=self.backend).forw(np.zeros((2, 3), np.float32))
        except knetc.KnetEnvironmentError as error:
            return str(error).removeprefix("error: ")
        return None

    def versions(self) -> str:
        return packages(REQUIREMENTS)

    def variants(self, workload: Workload, device: str) -> list[Variant]:
        return [Variant("calls"), Variant("train")] if workload.trains else [Variant("forw")]

    def build(self, task: Task) -> Runner:
        return (Text if task.workload.model == "charlm" else Images)(self.backend, task)


def compiled(backend: str, workload: Workload) -> Any:
    """The workload's model."""
    import knetc

    if workload.model == "charlm":
        return knetc.compile(MODELS, "charlm", backend=backend, nlayer=workload.layers)
    if workload.model == "lenet":
        return knetc.compile(EXAMPLES / "lenet.knet", "lenet", backend=backend)
    if not workload.hidden:
        return knetc.compile(EXAMPLES / "softmax.knet", "softmax", backend=backend)
    if len(workload.hidden) == 1:
        return knetc.compile(EXAMPLES / "mlp.knet", "mlp", backend=backend, hidden=workload.hidden[0])
    width, layers = workload.hidden[0], len(workload.hidden)
    return knetc.compile(MODELS, "wide", backend=backend, hidden=width, nlayer=layers)


def parameters(net: Any, workload: Workload, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The initial weights under knetc's names and in its order of dimensions."""
    if workload.model == "charlm":
        named = {"a/w": weights["embed"].T, "wbf/w": weights["wo"].T, "wbf/b": weights["bo"]}
        for k in range(1, workload.layers + 1):
            for place, gate in enumerate(("input", "forget", "newmem", "output")):
                part = slice(place * UNITS, (place + 1) * UNITS)
                named[f"b/{k}/{gate}/a"] = weights[f"wx{k}"][:, part].T
                named[f"b/{k}/{gate}/b"] = weights[f"wh{k}"][:, part].T
                named[f"b/{k}/{gate}/c"] = weights[f"b{k}"][part]
        return named
    # The names run from the input to the output, as those of the weights do. Knet flips its filters.
    arrays = [a[:, :, ::-1, ::-1].T if a.ndim == 4 else a.T for a in weights.values()]
    return {name: a.reshape(dims) for (name, dims), a in zip(net.params().items(), arrays, strict=True)}


class _Net:
    """A model with the workload's weights; `first` is an input that tells it its sizes."""

    whole = False

    def __init__(self, backend: str, task: Task, first: Any) -> None:
        self.task = task
        self.net = compiled(backend, task.workload)
        self.net.forw(first)
        for name, array in parameters(self.net, task.workload, task.problem.weights).items():
            self.net.set(name, array)
        self.net.reset()
        self.net.setp(lr=task.workload.lr)
        # What is small and every update changes: reading it waits for the device.
        self.last = list(self.net.params())[-1]

    def wait(self) -> None:
        if self.net.backend == "cuda":
            self.net.get(self.last)


class Images(_Net):
    """The perceptrons and LeNet."""

    def __init__(self, backend: str, task: Task) -> None:
        import knetc

        self.batch = task.workload.batch
        self.x = task.problem.data["x"].reshape(-1, 1, 28, 28).T  # (28, 28, 1, instances), no copy
        self.labels = task.problem.data["y"]
        self.minibatches = knetc.minibatch(self.x, knetc.onehot(self.labels, CLASSES), self.batch)
        batches = list(self.minibatches)
        super().__init__(backend, task, batches[0][0])
        self.batches = [tuple(map(_on_device, pair)) for pair in batches] if backend == "cuda" else batches

    def run(self, first: int, last: int) -> None:
        import knetc

        net = self.net
        if self.task.variant == "forw":
            for x, _ in self.batches[first:last]:
                value = net.forw(x)
                if not isinstance(value, np.ndarray):
                    value.get()
        elif self.task.variant == "calls":
            for x, y in self.batches[first:last]:
                net.forw(x)
                net.back(y, knetc.softloss)
                net.update()
        else:
            columns = slice(first * self.batch, last * self.batch)
            labels = knetc.onehot(self.labels[columns], CLASSES)
            net.train(knetc.minibatch(self.x[..., columns], labels, self.batch), knetc.softloss, progress=False)
        self.wait()

    def loss(self) -> float:
        import knetc

        return self.net.test(self.minibatches[: self.task.workload.checked], knetc.softloss)


def _on_device(array: Any) -> Any:
    """A copy in the device's memory, which is where the other peers have their data too."""
    import pycuda.autoprimaryctx  # noqa: F401  pycuda's own calls want a current context: the one that knetc uses
    from pycuda import gpuarray

    return gpuarray.to_gpu(np.asarray(array, np.float32, order="F"))


class Text(_Net):
    """The character model."""

    def __init__(self, backend: str, task: Task) -> None:
        import knetc

        self.symbols = task.problem.data["symbols"]
        self.xs, self.ys = (
            [[knetc.onehot(step, NCHAR) for step in window] for window in windows] for windows in task.problem.windows()
        )
        super().__init__(backend, task, self.xs[0][0])
        self.data = cache(self._data)

    def _data(self, first: int, last: int) -> Any:
        """The windows as `train` takes them."""
        import knetc

        streams = self.symbols[first * TIME : last * TIME + 1].T
        return knetc.seqbatch(streams.ravel().tolist(), {i: i for i in range(NCHAR)}, len(streams))

    def run(self, first: int, last: int) -> None:
        import knetc

        net = self.net
        if self.task.variant == "train":
            net.train(self.data(first, last), knetc.softloss, gclip=CLIP, seqlength=TIME, progress=False)
        else:
            net.reset()
            for xs, ys in zip(self.xs[first:last], self.ys[first:last], strict=True):
                net.forwseq(xs)
                net.backseq(ys, knetc.softloss)
                net.update(gclip=CLIP)
                net.reset(keepstate=True)
        self.wait()

    def loss(self) -> float:
        import knetc

        self.net.reset()
        values = self.net.forwseq(self.xs[0])
        self.net.reset()
        return float(np.mean([knetc.softloss(v, y) for v, y in zip(values, self.ys[0], strict=True)]))
