"""PyTorch in its idiomatic forms. A variant's name joins these by +:

eager     modules, loss.backward(), torch.optim.SGD
compile   the model with its loss compiled, and the optimizer's step
step      one compiled function of forward, backward and update (torch.func.grad): the least overhead a call
cl        images channels-last
malloc    the C library told to keep freed memory, which else comes back as page faults at every step
freeze    compiled with constant weights (inference)
ro, max   compile's modes reduce-overhead and max-autotune
graph     the eager step captured once as a CUDA graph and replayed

The loss is the usual mean, over time too: TIME times smaller than the loss that the workload names, so that clipping
at CLIP / TIME with TIME times the learning rate is the same update.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from workloads import CLIP, EMBEDDING, NCHAR, TIME, UNITS, Workload

from peers.base import Runner, Task, Variant, missing, packages

REQUIREMENTS = {"torch": "torch"}
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
MODES = {"ro": "reduce-overhead", "max": "max-autotune"}


def absent(device: str) -> str | None:
    if reason := missing(REQUIREMENTS):
        return reason
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return (
                f"torch {torch.__version__} finds no CUDA device: it needs a GPU and a CUDA build (pip install torch)"
            )
    return None


def versions() -> str:
    return packages(REQUIREMENTS)


def variants(workload: Workload, device: str) -> list[Variant]:
    if not workload.trains:
        names = ["eager", "eager+cl", "compile+freeze", "compile+freeze+cl"]
        return _named(names if device == "cpu" else [*names, "compile+ro"])
    if device == "cuda":
        images = ["eager+cl"] if workload.model == "lenet" else []
        return _named(["eager", *images, "compile+ro", "compile+max", "graph"])
    if workload.model == "charlm":
        # Unrolled over time: minutes to compile, and no faster than the library's LSTM.
        return [Variant("eager"), Variant("eager+malloc", MALLOC), Variant("compile", slow=True)]
    if workload.model == "lenet":
        names = ["eager", "eager+cl", "step+cl"]
        return [*_named(names), Variant("eager+cl+malloc", MALLOC), Variant("step+cl+malloc", MALLOC)]
    return _named(["eager", "compile", "step"])


def _named(names: list[str]) -> list[Variant]:
    return [Variant(name) for name in names]


def build(task: Task) -> Runner:
    import torch

    torch.set_num_threads(task.threads)
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 for everybody
    torch.backends.cudnn.allow_tf32 = False
    if "freeze" in task.flags:
        import torch._inductor.config

        torch._inductor.config.freezing = True
    if not task.workload.trains:
        return Inference(task)
    if "step" in task.flags:
        return Functional(task)
    return Graphed(task) if "graph" in task.flags else Training(task)


def compiled(task: Task, function: Any, **options: Any) -> Any:
    """`function` as the variant has it: as it is, or compiled."""
    import torch

    if not task.flags & {"compile", "step"}:
        return function
    mode = next((MODES[flag] for flag in task.flags if flag in MODES), None)
    return torch.compile(function, mode=mode, **options)


# --- models -----------------------------------------------------------------------------------------------------------


def network(task: Task) -> Any:
    """The model as a module with the initial weights; it gives logits."""
    import torch

    w = {name: torch.from_numpy(array) for name, array in task.problem.weights.items()}
    if task.workload.model == "charlm":
        return charlm(w, task.workload.layers).to(task.device)
    nn = torch.nn
    layers: list[Any] = []
    for k in (1, 2) if task.workload.model == "lenet" else ():
        filters, channels = w[f"k{k}"].shape[:2]
        layers += [filled(nn.Conv2d(channels, filters, 5), w[f"k{k}"], w[f"c{k}"]), nn.ReLU(), nn.MaxPool2d(2)]
    if layers:
        layers.append(nn.Flatten())
    count = sum(name.startswith("w") for name in w)
    for k in range(1, count + 1):
        layers += [filled(nn.Linear(*w[f"w{k}"].shape), w[f"w{k}"].t(), w[f"b{k}"]), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]) if count > 1 else layers[-2]
    return model.to(task.device, memory_format=torch.channels_last if "cl" in task.flags else torch.preserve_format)


def filled(module: Any, weight: Any, bias: Any) -> Any:
    import torch

    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    return module


def charlm(w: dict[str, Any], count: int) -> Any:
    import torch

    class CharLM(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(NCHAR, EMBEDDING)
            self.rnn = torch.nn.LSTM(EMBEDDING, UNITS, count)
            self.out = filled(torch.nn.Linear(UNITS, NCHAR), w["wo"].t(), w["bo"])
            with torch.no_grad():
                self.embed.weight.copy_(w["embed"])
                for k in range(count):
                    getattr(self.rnn, f"weight_ih_l{k}").copy_(w[f"wx{k + 1}"].t())
                    getattr(self.rnn, f"weight_hh_l{k}").copy_(w[f"wh{k + 1}"].t())
                    getattr(self.rnn, f"bias_ih_l{k}").copy_(w[f"b{k + 1}"])
                    getattr(self.rnn, f"bias_hh_l{k}").zero_()

        def forward(self, x: Any, state: Any) -> tuple[Any, Any]:
            y, state = self.rnn(self.embed(x), state)
            return self.out(y), state

        def trained(self) -> list[Any]:
            """The parameters but the second bias of each gate, which the other peers do not have: it stays zero."""
            return [p for name, p in self.named_parameters() if "bias_hh" not in name]

    return CharLM()


class _Work:
    """Data, model and objective of a task. `batches`: pairs of inputs and labels, on the device."""

    whole = False

    def __init__(self, task: Task) -> None:
        import torch

        self.task, self.torch = task, torch
        self.model = network(task)
        self.text = task.workload.model == "charlm"
        if self.text:
            windows = (torch.from_numpy(a).to(task.device) for a in task.problem.windows())
            self.batches = list(zip(*windows, strict=True))
            self.parameters = self.model.trained()
        else:
            shape = (-1, 1, 28, 28) if task.workload.model == "lenet" else (-1, 784)
            x = torch.from_numpy(task.problem.data["x"]).reshape(shape).to(task.device)
            y = torch.from_numpy(task.problem.data["y"]).to(task.device)
            layout = torch.channels_last if "cl" in task.flags else torch.contiguous_format
            batch = task.workload.batch
            parts = zip(x.split(batch), y.split(batch), strict=True)
            self.batches = [(x.contiguous(memory_format=layout), y) for x, y in parts]
            self.parameters = list(self.model.parameters())

    def zero_state(self) -> Any:
        if not self.text:
            return None
        shape = (self.task.workload.layers, self.task.workload.batch, UNITS)
        return tuple(self.torch.zeros(shape, device=self.task.device) for _ in range(2))

    def objective(self, x: Any, y: Any, state: Any) -> tuple[Any, Any]:
        """The loss and the state after it."""
        entropy = self.torch.nn.functional.cross_entropy
        if self.text:
            z, state = self.model(x, state)
            return entropy(z.reshape(-1, NCHAR), y.reshape(-1)), state
        return entropy(self.model(x), y), None

    def loss(self) -> float:
        with self.torch.no_grad():
            state, checked = self.zero_state(), self.batches[: self.task.workload.checked]
            return float(np.mean([self.objective(x, y, state)[0].item() for x, y in checked]))

    def wait(self) -> None:
        if self.task.device == "cuda":
            self.torch.cuda.synchronize()


class Inference(_Work):
    """One forward pass at a time, its probabilities brought to the host."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        torch, model = self.torch, self.model.eval()
        self.forward: Callable[[Any], Any] = compiled(task, lambda x: torch.softmax(model(x), 1))

    def run(self, first: int, last: int) -> None:
        with self.torch.inference_mode():
            for x, _ in self.batches[first:last]:
                self.forward(x).cpu()

    def loss(self) -> float:
        with self.torch.inference_mode():
            checked = self.batches[: self.task.workload.checked]
            return float(np.mean([-self.forward(x)[0, y].log().item() for x, y in checked]))


class Training(_Work):
    """Autograd and an optimizer."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if "compile" in task.flags and self.text:
            self.torch._dynamo.config.allow_rnn = True
        lr = task.workload.lr * (TIME if self.text else 1)
        self.optimizer = self.torch.optim.SGD(self.parameters, lr=lr)
        self.compiled_objective = compiled(task, self.objective)
        self.move = compiled(task, self.clip_and_move)
        self.state = self.zero_state()

    def clip_and_move(self) -> None:
        if self.text:
            self.torch.nn.utils.clip_grad_norm_(self.parameters, CLIP / TIME)
        self.optimizer.step()

    def step(self, x: Any, y: Any) -> None:
        loss, state = self.compiled_objective(x, y, self.state)
        loss.backward()
        self.move()
        self.optimizer.zero_grad()
        if self.text:
            self.state = tuple(s.detach() for s in state)

    def run(self, first: int, last: int) -> None:
        self.state = self.zero_state()
        for x, y in self.batches[first:last]:
            self.step(x, y)
        self.wait()


class Functional(_Work):
    """One compiled function of forward, backward and update."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        func, entropy, model, lr = self.torch.func, self.torch.nn.functional.cross_entropy, self.model, task.workload.lr
        self.values = {name: p.detach() for name, p in model.named_parameters()}

        def objective(values: Any, x: Any, y: Any) -> Any:
            return entropy(func.functional_call(model, values, (x,)), y)

        def step(values: Any, x: Any, y: Any) -> None:
            for name, gradient in func.grad(objective)(values, x, y).items():
                values[name].sub_(gradient, alpha=lr)

        self.step = compiled(task, step, fullgraph=True)

    def run(self, first: int, last: int) -> None:
        with self.torch.no_grad():
            for x, y in self.batches[first:last]:
                self.step(self.values, x, y)
        self.wait()


class Graphed(Training):
    """The eager step as one CUDA graph over fixed buffers."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        torch = self.torch
        self.x, self.y = (a.clone() for a in self.batches[0])
        self.kept = self.zero_state()
        before = [p.detach().clone() for p in self.parameters]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up outside of the capture
            for _ in range(3):
                self.once()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.once()
        with torch.no_grad():
            for p, value in zip(self.parameters, before, strict=True):
                p.copy_(value)

    def once(self) -> None:
        self.state = self.kept
        self.step(self.x, self.y)
        if self.text:
            for kept, new in zip(self.kept, self.state, strict=True):
                kept.copy_(new)

    def run(self, first: int, last: int) -> None:
        for kept in self.kept or ():
            kept.zero_()
        for x, y in self.batches[first:last]:
            self.x.copy_(x)
            self.y.copy_(y)
            self.graph.replay()
        self.wait()
