"""What the tests of the C interface share: models driven through their C functions, failures on demand.

A script calls every function of the interface once at least; each step is a function that makes a call or a few and
keeps what they give out.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from knetc.codegen.emit import emit_cuda
from knetc.ir.program import LOSSES, Program
from knetc.ir.types import N
from knetc.record import replace
from knetc.runtime import emulation
from knetc.runtime.cfunctions import AVERAGES, KINDS
from knetc.runtime.library import Library

from .support import compiled
from .test_models import LENET, MANY, MLP

RNN = """
@knet function rnn(x; out=3)
    h = drop(wbf2(x, h; out=4, f=:tanh); pdrop=0.3)
    c = c .+ h
    return wbf(c; out=out, f=:soft)
end
"""
MODELS = {
    "mlp": (MLP, ((9, N),), (5, N)),
    "lenet": (LENET, ((9, 8, 2, N),), (5, N)),
    "rnn": (RNN, ((3, N),), (3, N)),
    "many": (MANY, ((4, N), (6, N)), (6, N)),
    "plain": ("@knet function plain(x)\n return tanh(x)\nend", ((4, N),), (4, N)),  # no parameters
}
# Models of which whole sequences run at once: an LSTM, two with dropout, states that a condition leaves unwritten, and
# cuDNN's work between two steps.
CHARLM = """
@knet function charlm(x; out=3)
    h = lstm(wdot(x; out=4); out=4)
    return wbf(h; out=out, f=:soft)
end
"""
DROPPED = """
@knet function layer(x; out=3)
    return drop(lstm(x; out=out); pdrop=0.3)
end
@knet function dropped(x; out=3)
    h = repeat(x; frepeat=:layer, nrepeat=2)
    return wbf(h; out=out, f=:soft)
end
"""
UNWRITTEN = """
@knet function unwritten(x; out=3)
    if moved
        h = wbf2(x, h; out=4, f=:tanh)
    end
    c = wbf2(h, c; out=4, f=:sigm)
    return wbf(c; out=out, f=:soft)
end
"""
CONVOLVED = """
@knet function f(x; out=3)
    u = conv(par(dims=(3,3,1,1), init=Gaussian(0, 0.3)), h; padding=1)
    h = tanh(x .+ pool(u; window=3, stride=1, padding=1))
    return wbf(h; out=out, f=:soft)
end
"""
SEQUENTIAL = {
    "charlm": (CHARLM, ((3, N),), (3, N)),
    "dropped": (DROPPED, ((3, N),), (3, N)),
    "unwritten": (UNWRITTEN, ((3, N),), (3, N)),
    "convolved": (CONVOLVED, ((5, 3, 1, N),), (3, N)),
}
ALL = MODELS | SEQUENTIAL

# Counts what `new (std::nothrow)` gives and what is not yet deleted; the n-th fails.
HOST_MEMORY = r"""
#include <stdlib.h>
#include <new>
static long made, failing, live;
static void* make(size_t size) { return ++made == failing ? nullptr : (live++, malloc(size)); }
static void unmake(void* p) { if (p) live--, free(p); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return make(size); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return make(size); }
void operator delete(void* p) noexcept { unmake(p); }
void operator delete(void* p, size_t) noexcept { unmake(p); }
void operator delete[](void* p) noexcept { unmake(p); }
extern "C" void fail_host(long n) { made = 0, failing = n; }
extern "C" long made_host() { return made; }
extern "C" long live_host() { return live; }
"""


class Failures:
    """Makes the n-th allocation or call of one library fail, and counts what is alive."""

    def __init__(self, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library, self.monkeypatch = library, monkeypatch
        library.knetemu_live_objects.restype = ctypes.c_longlong
        library.live_host.restype = library.made_host.restype = ctypes.c_long

    def arm(self, kind: str, n: int) -> None:
        """From now on the n-th fails; with n 0 none."""
        if kind == "host":
            self.library.fail_host(ctypes.c_long(n))
            return
        self.monkeypatch.setenv(kind, str(n))
        self.library.knetemu_reload()

    def count(self, kind: str) -> int:
        """The allocations or calls since `arm`."""
        names = {
            "KNETEMU_FAIL_MALLOC": "knetemu_allocations",
            "KNETEMU_FAIL_CALL": "knetemu_calls",
            "host": "made_host",
        }
        return int(getattr(self.library, names[kind])())

    def alive(self) -> tuple[int, int]:
        """Handles, descriptors and device memory; host memory."""
        return self.library.knetemu_live_objects(), self.library.live_host()


@dataclass
class Net:
    """A model through its C functions, the script that it goes through, and what they have given out so far."""

    library: Library
    program: Program
    shapes: tuple
    result: tuple
    folder: Path
    graphs: int = 0
    script: dict[str, Step] = field(default_factory=lambda: SCRIPT)
    model: ctypes.c_void_p = field(default_factory=ctypes.c_void_p)
    out: list[np.ndarray] = field(default_factory=list)
    held: list[np.ndarray] = field(default_factory=list)  # what the device may still read

    def call(self, name: str, *arguments: object) -> int:
        return self.library._function(name)(self.model, *arguments)

    def reason(self) -> str:
        return self.library._function("last_error")().decode()


Step = Callable[[Net], int]


def array(shape: tuple, batch: int, seed: int) -> np.ndarray:
    dims = [batch if d is N else d for d in shape]
    return np.asfortranarray(np.random.default_rng(seed).normal(size=dims), np.float32)


def forward(name: str, seed: int, batch: int, *, all_: bool = False) -> Step:
    def step(net: Net) -> int:
        conditions = sum(1 << k for k, c in enumerate(net.program.conditions) if all_)
        inputs = [array(s, batch, seed) for s in net.shapes]
        value = np.zeros([batch if d is N else d for d in net.result], np.float32, order="F")
        places = (ctypes.c_void_p * len(inputs))(*(a.ctypes.data for a in inputs))
        code = net.call(name, conditions, places, batch, value.ctypes.data)
        for a in (*inputs, value):  # the caller may do with its arrays what it likes
            if code:
                a.fill(np.nan)
        net.out += [] if code else [value]
        return code

    return step


def backward(name: str, seed: int, batch: int, loss: str = "softloss", wanted: int = 1) -> Step:
    def step(net: Net) -> int:
        gold, mask = np.abs(array(net.result, batch, seed)), np.ones(batch, np.float32)
        value = np.zeros((), np.float32)
        code = net.call(name, LOSSES.index(loss), gold.ctypes.data, mask.ctypes.data, wanted, value.ctypes.data)
        for a in (gold, mask, value):
            if code:
                a.fill(np.nan)
        net.out += [] if code else [value]
        return code

    return step


def reading(*kinds: str) -> Step:
    """Reads every array of these kinds that has a name; the code of the first that cannot be read."""

    def step(net: Net) -> int:
        found = []
        names = {
            "par": net.program.params(),
            "grad": net.program.params(),
            "dinput": [i.name for i in net.program.inputs[:1]],
            "value": ["return"],
            "state": net.program.states(),
        }
        count, dims = ctypes.c_int(), (ctypes.c_int * 8)()
        for kind, name in ((k, n) for k in kinds for n in names[k]):
            code = net.call("dims", KINDS[kind], name.encode(), ctypes.byref(count), dims)
            a = np.zeros(dims[: count.value], np.float32, order="F")
            code = code or net.call("get", KINDS[kind], name.encode(), a.ctypes.data)
            if code:
                return code
            found.append(a)
        net.out += found
        return 0

    return step


read = reading("par", "grad", "dinput", "value", "state")


def write(net: Net) -> int:
    """Every parameter and state anew."""
    for seed, (name, instr) in enumerate(net.program.params().items()):
        a = array(instr.type.dims, 1, seed) / 2
        if code := net.call("set", name.encode(), a.ctypes.data):
            return code
    for seed, (name, type) in enumerate(net.program.states().items()):
        a = array(type.dims, 3, seed)
        if code := net.call("set_state", name.encode(), a.ctypes.data, 3):
            return code
    return 0


def averages(net: Net) -> int:
    """Every running average, with the numbers of Adam's steps and of calls; or the code of the first that fails."""
    found, steps, calls = [], ctypes.c_int(), ctypes.c_uint()
    for name, instr in net.program.params().items():
        for kind in AVERAGES.values():
            found.append(array(instr.type.dims, 1, 0))
            if code := net.call("get", kind, name.encode(), found[-1].ctypes.data):
                return code
        if code := net.call("adam_steps", name.encode(), ctypes.byref(steps)):
            return code
        found.append(np.array(steps.value))
    if code := net.call("calls", ctypes.byref(calls)):
        return code
    net.out += [*found, np.array(calls.value)]
    return 0


def write_averages(*options: str) -> Step:
    """The running averages of these options, Adam's steps and the number of calls anew."""

    def step(net: Net) -> int:
        for seed, (name, instr) in enumerate(net.program.params().items()):
            for option in options:
                a = np.abs(array(instr.type.dims, 1, seed))
                code = net.call("set_average", AVERAGES[option], name.encode(), a.ctypes.data)
                a.fill(np.nan)  # the caller may do with its arrays what it likes
                if code:
                    return code
            if code := net.call("set_adam_steps", name.encode(), 2 + seed):
                return code
        return net.call("set_calls", ctypes.c_uint(7))

    return step


def options(net: Net) -> int:
    """Every training option there is."""
    values = {"lr": 0.1, "l1reg": 0.01, "l2reg": 0.02, "momentum": 0.5, "nesterov": 0.4, "gclip": 3.0, "gscale": 2.0}
    for option, value in {**values, "adagrad": 1.0, "rmsprop": 1.0, "adam": 1.0}.items():
        if code := net.call("set_option", None, option.encode(), ctypes.c_double(value)):
            return code
    return 0


def update(net: Net) -> int:
    return net.call("update", ctypes.c_double(0.5), ctypes.c_double(1))


def train(seed: int, columns: int, batch: int) -> Step:
    """Steps of training in one call, where the model has parameters; their losses."""

    def step(net: Net) -> int:
        if not net.library.trains:
            return 0
        inputs = [array(s, columns, seed) for s in net.shapes]
        gold, losses = np.abs(array(net.result, columns, seed + 1)), np.zeros(-(-columns // batch), np.float32)
        places = (ctypes.c_void_p * len(inputs))(*(a.ctypes.data for a in inputs))
        clip = ctypes.c_double(0.5), ctypes.c_double(1)
        loss = LOSSES.index("softloss")
        code = net.call("train", 0, loss, places, gold.ctypes.data, columns, batch, *clip, losses.ctypes.data)
        for a in (*inputs, gold):  # the caller may do with its arrays what it likes
            a.fill(np.nan)
        net.out += [] if code else [losses]
        return code

    return step


def save(net: Net) -> int:
    return net.call("save", str(net.folder / "parameters").encode())


def load(net: Net) -> int:
    return net.call("load", str(net.folder / "parameters").encode())


def configure(net: Net) -> int:
    return net.call("configure", b"search", 0) or net.call("configure", b"graphs", net.graphs)


def wait(net: Net) -> int:
    """For the default stream, and it for the model's."""
    numbers = [ctypes.c_int(), ctypes.c_int()]
    waited = net.call("wait_for", None) or net.call("make_wait", None)
    return waited or net.call("graphs", *map(ctypes.byref, numbers))


def create(net: Net) -> int:
    return net.library._function("create")(ctypes.byref(net.model), ctypes.c_ulonglong(7), None)


def destroy(net: Net) -> int:
    model, net.model = net.model, ctypes.c_void_p()
    return net.library._function("destroy")(model)


def plain(name: str, *arguments: object) -> Step:
    return lambda net: net.call(name, *arguments)


# Every function of the interface; batches that grow and shrink, a sequence that adds to gradients, options that make
# averages, other conditions in mid-sequence.
SCRIPT: dict[str, Step] = {
    "create": create,
    "configure": configure,
    "options": options,
    "wait": wait,
    "write": write,
    "forward": forward("forward", 1, 3),
    "backward": backward("backward", 2, 3),
    "read": read,
    "write averages": write_averages("rmsprop", "adam_m"),
    "update": update,
    "averages": averages,
    "train": train(10, 3, 3),
    "read what it left": reading("par", "grad", "value", "state"),
    "train with more memory": train(11, 6, 3),
    "reset": plain("reset", 0),
    "sforward": forward("sforward", 3, 4),
    "sforward again": forward("sforward", 4, 4, all_=True),
    "forward in a sequence": forward("forward", 5, 4),
    "sbackward": backward("sbackward", 6, 4),
    "sbackward again": backward("sbackward", 7, 4),
    "read again": read,
    "update again": update,
    "write averages again": write_averages(*AVERAGES),
    "averages again": averages,
    "save": save,
    "set_seed": plain("set_seed", ctypes.c_ulonglong(3)),
    "load": load,
    "set_columns": plain("set_columns", 0),
    "reset, keeping the state": plain("reset", 1),
    "sforward to be forgotten": forward("sforward", 3, 4),
    "clean": plain("clean"),
    "synchronize": plain("synchronize"),
    "reset at the end": plain("reset", 0),
    "forward of another size": forward("forward", 8, 6, all_=True),
    "backward of it": backward("backward", 9, 6),
    "read at the end": read,
    "destroy": destroy,
}


def build(
    name: str,
    folder: Path,
    changes: Sequence[tuple[str, str]] = (),
    losses: tuple = LOSSES,
    sanitize: str | None = None,
) -> Library:
    """The emitted library of a model, with the host's memory counted; `changes`: patterns in its text, such as faults,
    and what takes their place."""
    source, shapes, _ = ALL[name]
    program, options_ = compiled(source, inputs=shapes, losses=losses)
    options_ = replace(options_, arena=not sanitize)  # so that a sanitizer sees the end of each buffer
    text = emit_cuda(program, options_)
    for pattern, instead in changes:
        text, count = re.subn(pattern, instead, text)
        assert count, f"nothing in the file fits {pattern}"
    (folder / "model.cu").write_text(text)
    (folder / "host.cpp").write_text(HOST_MEMORY)
    (folder / "own").write_text("{ local: _Zn*; _Zd*; };")  # new and delete of this library, not of the emulation
    counted = ["-x", "c++", str(folder / "host.cpp"), f"-Wl,--version-script={folder / 'own'}"]
    emulation.compile_shared(folder / "model.cu", folder / "model.so", sanitize=sanitize, extra=counted)
    found = Library(program, str(folder / "model.so"), 1)
    found.close()
    found.name = name
    found.folder = folder
    return found


def net_of(library: Library, graphs: int = 0, script: dict[str, Step] | None = None) -> Net:
    _, shapes, result = ALL[library.name]
    return Net(library, library.program, shapes, result, library.folder, graphs, script or SCRIPT)


def run(net: Net, names: list[str]) -> None:
    for name in names:
        code = net.script[name](net)
        assert code == 0, (name, code, net.reason())


def same(got: list[np.ndarray], want: list[np.ndarray]) -> bool:
    return len(got) == len(want) and all(np.array_equal(g, w, equal_nan=True) for g, w in zip(got, want, strict=True))
