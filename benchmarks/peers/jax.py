"""JAX: a jitted training step with an optax optimizer, its buffers donated.

Forms: `step` calls the jitted step for each minibatch; `scan` runs all minibatches of a pass in one call (lax.scan).
Images are (batch, height, width, channels), with `nchw` (batch, channels, height, width). The character model's time
loop is a lax.scan over cells, the input projections of all time steps formed before it; the loss is the usual mean, as
in `torch.py`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from workloads import CLIP, FILTERS, HIDDEN, TIME, UNITS, Workload

from peers.base import Runner, Task, Variant, missing, packages

REQUIREMENTS = {"jax": "jax", "optax": "optax"}


def absent(device: str) -> str | None:
    requirements = {**REQUIREMENTS, "jax": "jax[cuda13]"} if device == "cuda" else REQUIREMENTS
    if reason := missing(requirements):
        return reason
    if device == "cuda":
        import jax

        try:
            jax.devices("cuda")
        except RuntimeError as error:
            return f"jax finds no CUDA device ({str(error).splitlines()[0]}): pip install 'jax[cuda13]'"
    return None


def versions() -> str:
    return packages({**REQUIREMENTS, "jaxlib": "jaxlib"})


def variants(workload: Workload, device: str) -> list[Variant]:
    environment = {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    names = ["step"]
    if workload.model == "lenet":
        names.append("step+nchw")
    # On a CPU, convolutions inside a loop are many times slower than outside; a pass of text is three long steps.
    if workload.trains and workload.model != "charlm" and (workload.model != "lenet" or device == "cuda"):
        names.append("scan")
    return [Variant(name, environment) for name in names]


def build(task: Task) -> Runner:
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")  # float32 for everybody
    return Training(task) if task.workload.trains else Inference(task)


def parameters(task: Task) -> dict[str, Any]:
    """The initial weights, on the device."""
    import jax

    w = dict(task.problem.weights)
    if task.workload.model == "lenet" and "nchw" not in task.flags:
        for k in ("k1", "k2"):
            w[k] = np.ascontiguousarray(w[k].transpose(2, 3, 1, 0))
        w1 = w["w1"].reshape(FILTERS[1], 4, 4, HIDDEN).transpose(1, 2, 0, 3)
        w["w1"] = np.ascontiguousarray(w1).reshape(-1, HIDDEN)
    return jax.device_put(w)


# --- models: logits of rows of instances ------------------------------------------------------------------------------


def mlp(w: dict[str, Any], x: Any) -> Any:
    import jax

    count = sum(name.startswith("w") for name in w)
    for k in range(1, count):
        x = jax.nn.relu(x @ w[f"w{k}"] + w[f"b{k}"])
    return x @ w[f"w{count}"] + w[f"b{count}"]


def lenet(w: dict[str, Any], x: Any, nchw: bool) -> Any:
    import jax

    x = x.reshape((-1, 1, 28, 28) if nchw else (-1, 28, 28, 1))
    layout = ("NCHW", "OIHW", "NCHW") if nchw else ("NHWC", "HWIO", "NHWC")
    window = (1, 1, 2, 2) if nchw else (1, 2, 2, 1)
    for k in (1, 2):
        x = jax.lax.conv_general_dilated(x, w[f"k{k}"], (1, 1), "VALID", dimension_numbers=layout)
        x = jax.nn.relu(x + (w[f"c{k}"][:, None, None] if nchw else w[f"c{k}"]))
        x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, window, "VALID")
    return mlp(w, x.reshape(len(x), -1))


def charlm(w: dict[str, Any], x: Any, state: Any) -> tuple[Any, Any]:
    """Logits (TIME, batch, NCHAR) and the state after them."""
    import jax
    import jax.numpy as jnp

    def cell(wh: Any, state: Any, a: Any) -> tuple[Any, Any]:
        h, c = state
        i, f, g, o = jnp.split(a + h @ wh, 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    x, after = w["embed"][x], []
    for k, before in enumerate(state, 1):
        projected = x @ w[f"wx{k}"] + w[f"b{k}"]
        new, x = jax.lax.scan(functools.partial(cell, w[f"wh{k}"]), before, projected)
        after.append(new)
    return x @ w["wo"] + w["bo"], after


class _Work:
    """Data, weights and objective of a task."""

    def __init__(self, task: Task) -> None:
        import jax
        import optax

        self.task, self.jax = task, jax
        self.text = task.workload.model == "charlm"
        self.whole = "scan" in task.flags
        self.w = parameters(task)
        self.entropy = optax.softmax_cross_entropy_with_integer_labels
        x, y = self.arrays()
        self.x, self.y = (jax.device_put(a) for a in (x, y)) if self.whole else (None, None)
        pairs = zip(x, y, strict=True)
        wanted = task.workload.checked if self.whole else len(x)
        self.batches = [(jax.device_put(a), jax.device_put(b)) for (a, b), _ in zip(pairs, range(wanted), strict=False)]
        task.problem.data.clear()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All inputs and labels, the steps first."""
        if self.text:
            x, y = self.task.problem.windows()
            return x.astype(np.int32), y.astype(np.int32)
        data, batch = self.task.problem.data, self.task.workload.batch
        return data["x"].reshape(-1, batch, 784), data["y"].astype(np.int32).reshape(-1, batch)

    def logits(self, w: Any, x: Any) -> Any:
        return lenet(w, x, "nchw" in self.task.flags) if self.task.workload.model == "lenet" else mlp(w, x)

    def objective(self, w: Any, x: Any, y: Any, state: Any) -> tuple[Any, Any]:
        if self.text:
            z, state = charlm(w, x, state)
            return self.entropy(z, y).mean(), state
        return self.entropy(self.logits(w, x), y).mean(), state

    def zero_state(self) -> Any:
        """h and c of each layer; none for images. New arrays at each call, as the step's are donated."""
        zeros, shape = self.jax.numpy.zeros, (self.task.workload.batch, UNITS)
        return [(zeros(shape), zeros(shape)) for _ in range(self.task.workload.layers)]

    def loss(self) -> float:
        value = self.jax.jit(lambda w, x, y, state: self.objective(w, x, y, state)[0])
        checked = self.batches[: self.task.workload.checked]
        return float(np.mean([value(self.w, x, y, self.zero_state()) for x, y in checked]))


class Inference(_Work):
    """One forward pass at a time, its probabilities brought to the host."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        jax = self.jax
        self.forward = jax.jit(lambda w, x: jax.nn.softmax(self.logits(w, x)))

    def run(self, first: int, last: int) -> None:
        for x, _ in self.batches[first:last]:
            np.asarray(self.forward(self.w, x))


class Training(_Work):
    """A jitted step, or a jitted scan of it."""

    def __init__(self, task: Task) -> None:
        import optax

        super().__init__(task)
        jax = self.jax
        rate = task.workload.lr * (TIME if self.text else 1)
        clip = [optax.clip_by_global_norm(CLIP / TIME)] if self.text else []
        optimizer = optax.chain(*clip, optax.sgd(rate))
        self.memory = optimizer.init(self.w)

        def step(w: Any, memory: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
            gradient, state = jax.grad(self.objective, has_aux=True)(w, x, y, state)
            move, memory = optimizer.update(gradient, memory, w)
            return optax.apply_updates(w, move), memory, state

        def scan(w: Any, memory: Any, xs: Any, ys: Any) -> tuple[Any, Any]:
            def body(carried: Any, xy: Any) -> tuple[Any, None]:
                return step(*carried, [], *xy)[:2], None

            return jax.lax.scan(body, (w, memory), (xs, ys))[0]

        self.step = jax.jit(step, donate_argnums=(0, 1, 2))
        self.scan = jax.jit(scan, donate_argnums=(0, 1))

    def run(self, first: int, last: int) -> None:
        if self.whole:
            self.w, self.memory = self.scan(self.w, self.memory, self.x, self.y)
        else:
            state = self.zero_state()
            for x, y in self.batches[first:last]:
                self.w, self.memory, state = self.step(self.w, self.memory, state, x, y)
        self.jax.block_until_ready(self.w)
