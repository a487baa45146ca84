"""Where memory runs out in a step: a KnetMemoryError, and the model as it was, but for the values of the last call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc.runtime import emulation
from knetc.runtime.prepare import Code

MODEL = """
@knet function f(x; out=3)
    h = drop(lstm(x; out=5); pdrop=0.4)
    return wbf(h; out=out, f=:soft)
end
"""
RNG = np.random.default_rng(1)
X = [np.asfortranarray(RNG.normal(size=(4, 6))) for _ in range(3)]
Y = [np.eye(3)[:, RNG.integers(0, 3, 6)] for _ in range(3)]
OPTIONS = {"lr": 0.1, "l1reg": 0.01, "l2reg": 0.01, "adagrad": True, "rmsprop": True, "adam": True}


def steps() -> Iterator[Callable[[knetc.Model], object]]:
    """A sequence forward and back, twice, with everything that an update can keep."""
    for _ in range(2):
        for x in X:
            yield lambda net, x=x: net.sforw(x, dropout=True)
        for y in reversed(Y):
            yield lambda net, y=y: net.sback(y, knetc.softloss, getdx=True)
        yield lambda net: net.update(gclip=1)
        yield lambda net: net.reset(keepstate=True)
    yield lambda net: net.reset()
    yield lambda net: net.forw(X[0])
    yield lambda net: net.back(Y[0], knetc.quadloss)


def model(backend: str) -> knetc.Model:
    net = knetc.compile(MODEL, backend=backend, dtype="f64", seed=3)
    net.setp(momentum=0.5, nesterov=0.3, **OPTIONS)
    return net


def everything(net: knetc.Model) -> list[np.ndarray]:
    return [net.get(n) for n in (*net.params(), *net.state())] + [net.grad(n) for n in net.params()]


def check_against_whole(net: knetc.Model, results: list[object], backend: str) -> None:
    whole = model(backend)
    for got, step in zip(results, steps(), strict=True):
        wanted = step(whole)
        assert (got is None and wanted is None) or np.array_equal(got, wanted)
    assert all(map(np.array_equal, everything(net), everything(whole)))


@pytest.mark.parametrize("which", range(7))
def test_a_step_of_the_interpreter_that_finds_no_memory(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every call an instruction fails once: the first, the second, … or the last ones."""
    run = Code.run

    def failing(code: Code, env: dict) -> None:
        if armed:
            armed.clear()
            keep = code.steps[: which * len(code.steps) // 6]
            run(Code(code.loads, keep, ()), env)
            raise MemoryError("Unable to allocate 9.9 GiB")
        run(code, env)

    monkeypatch.setattr(Code, "run", failing)
    net, results, armed, failed = model("numpy"), [], [], 0
    for step in steps():
        armed.append(1)
        try:
            results.append(step(net))
        except knetc.KnetMemoryError as error:
            assert "out of memory in " in str(error) and "9.9 GiB" in str(error)
            failed += 1
            if failed == 14:  # the last back has lost the forw before it
                with pytest.raises(knetc.KnetStateError, match="there was no memory for a call; call forw again"):
                    step(net)
                net.reset()
                assert np.array_equal(net.forw(X[0]), results[-1])
            results.append(step(net))
        armed.clear()
    assert failed == 14  # all but update and reset, which run no instruction
    check_against_whole(net, results, "numpy")


@pytest.mark.parametrize("error", [MemoryError("none"), knetc.KnetMemoryError("out of memory in train: none")])
def test_training_over_time_that_finds_no_memory(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last call computed may be gone, and the model says so; training can be repeated."""
    source = "@knet function f(x)\n    h = irnn(x; out=4)\n    return wbf(h; out=3, f=:soft)\nend"
    net = knetc.compile(source, backend="cpu")
    x = np.eye(3, dtype=np.float32)
    net.forw(x)
    net.reset()
    device = net._engine.device()

    def fails(*given: object) -> list[float]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(device, "train_over_time", fails)
        with pytest.raises(knetc.KnetMemoryError, match="out of memory in train: none"):
            net.train([x] * 5, "softloss", seqlength=2, progress=False)
    with pytest.raises(knetc.KnetStateError, match="there was no memory for a call; call forw again"):
        net.back(x, "softloss")
    assert len(net.train([x] * 5, "softloss", seqlength=2, progress=False)) == 2


def test_an_update_that_finds_no_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model("numpy")
    net.forw(X[0])
    net.back(Y[0], knetc.softloss)
    before, empty = everything(net), np.empty

    def no_room(shape: object, *rest: object) -> np.ndarray:
        if isinstance(shape, int) and shape > 100:
            raise MemoryError("none")
        return empty(shape, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", no_room)
        with pytest.raises(knetc.KnetMemoryError, match="out of memory in update: none"):
            net.update()
    assert all(map(np.array_equal, everything(net), before))
    whole = model("numpy")
    for each in (net, whole):
        each.setseed(1)
        each.reset()
        each.forw(X[1])
        each.back(Y[1], knetc.softloss)
        each.update()
    assert all(map(np.array_equal, everything(net), everything(whole)))


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_a_file_for_which_there_is_no_memory(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, path = model(backend), tmp_path / "net.h5"
    net.forw(X[0])
    net.back(Y[0], knetc.softloss)
    net.update()
    knetc.save(path, model=net)
    executable, before, data = type(net._engine.device()), everything(net), path.read_bytes()

    def no_room(*_: object) -> None:
        raise MemoryError("none")

    with monkeypatch.context() as patch:
        patch.setattr(executable, "averages", no_room)
        with pytest.raises(knetc.KnetMemoryError, match="out of memory in snapshot: none"):
            knetc.save(path, model=net)
    assert path.read_bytes() == data and all(map(np.array_equal, everything(net), before))
    with monkeypatch.context() as patch:
        patch.setattr(executable, "set_averages", no_room)
        with pytest.raises(knetc.KnetMemoryError, match="out of memory in load: none"):
            knetc.load(path, "model", backend=backend)
    assert all(map(np.array_equal, everything(net), before))


LIMITED = """
import resource, sys
import numpy as np
import knetc
source = "@knet function f(x)\\n h = wbf(x; out=500)\\n return wbf(h; out=10, f=:soft)\\nend"
net = knetc.compile(source, backend="numpy")
small = np.random.default_rng(0).normal(size=(784, 5)).astype(np.float32)
large = np.ones((784, 200_000), np.float32, order="F")
before = net.forw(small)
with open("/proc/self/statm") as f:
    used = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
try:
    net.forw(large)
    sys.exit("there was memory for it")
except knetc.KnetMemoryError as error:
    print(error)
assert np.array_equal(net.forw(small), before)
"""


LIMITED_SEQUENCE = """
import resource
import numpy as np
import knetc
import sys
source = "@knet function f(x)\\n h = drop(lstm(x; out=64); pdrop=0.2)\\n return wbf(h; out=10, f=:soft)\\nend"
nets = [knetc.compile(source, backend="cpu", seed=2, optimise=int(sys.argv[1])) for _ in range(2)]
rng = np.random.default_rng(0)
xs = [rng.normal(size=(20, 200)).astype(np.float32) for _ in range(500)]
ys = [np.eye(10, dtype=np.float32)[:, rng.integers(0, 10, 200)] for _ in xs]
for net in nets:
    net.forwseq(xs[:2], dropout=True)
    net.backseq(ys[:2], "softloss")
with open("/proc/self/statm") as f:
    used = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
try:
    nets[0].forwseq(xs, dropout=True)
    raise SystemExit("there was memory for it")
except knetc.KnetMemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
for net in nets:
    net.forwseq(xs[:3], dropout=True)
    net.forwseq(xs, dropout=True)
    net.backseq(ys + ys[:3], "softloss")
for name in nets[0].params():
    assert np.array_equal(nets[0].grad(name), nets[1].grad(name)), name
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit of a process's memory is set as under Linux"
)
@pytest.mark.parametrize("level", ["1", "2"])
def test_memory_that_runs_out_in_a_sequence(level: str) -> None:
    """The state, the stack, the number of the call and the gradients are as they were: step by step, and at once."""
    command = [sys.executable, "-c", LIMITED_SEQUENCE, level]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out of memory: no memory for" in done.stdout


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limit of a process's memory is set as under Linux"
)
def test_memory_that_really_runs_out() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out of memory in forw: Unable to allocate" in done.stdout


@pytest.mark.parametrize("n", [1, 3, 10, 30])
def test_an_allocation_of_the_emitted_code_that_fails(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    net, results = model("emulated"), []
    net.forw(X[0])  # makes the model
    net.reset()
    net.clean()
    net.setseed(3)
    library = ctypes.CDLL(str(emulation.build_library()))
    with monkeypatch.context() as patch:
        patch.setenv("KNETEMU_FAIL_MALLOC", str(n))
        library.knetemu_reload()
        failed = 0
        for step in steps():
            try:
                results.append(step(net))
            except knetc.KnetMemoryError as error:
                assert "out of memory: " in str(error)
                failed += 1
                results.append(step(net))
        assert failed == 1
    library.knetemu_reload()
    check_against_whole(net, results, "emulated")
