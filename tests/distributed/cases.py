"""What is trained by one process and by several, to be compared: each case gives numbers by name.

As a program, `mpirun -n 4 python cases.py BACKEND DTYPE FOLDER [CASE...]` trains all cases, or those, and leaves each
rank's numbers in the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import knetc

Make = Callable[..., knetc.Model]
Numbers = dict[str, np.ndarray]

DROPOUT = """
@knet function net(x; hidden=6)
    h = wbf(x; out=hidden, f=:tanh)
    d = drop(h; pdrop=0.4)
    return wbf(d; out=3, f=:soft)
end
"""
NOISE = """
@knet function noise(x)
    n = rnd(init=Gaussian(0, 0.3))
    g = rnd(dims=(4,1), init=Uniform(-1, 1))
    h = wbf(x .+ n; out=4, f=:tanh) .+ g
    return wb(h; out=2)
end
"""
TWO = "@knet function two(x, y)\n return wbf2(x, y; out=3, f=:tanh)\nend\n"
LSTM = """
@knet function model(x; hidden=5, nchar=6)
    a = wdot(x; out=4)
    b = lstm(a; out=hidden)
    c = drop(b; pdrop=0.2)
    return wbf(c; out=nchar, f=:soft)
end
"""
COPY = """
@knet function copies(x; hidden=5)
    if !decoding
        h = lstm(wdot(x; out=4); out=hidden)
        r = h
    else
        h = lstm(wdot(x; out=4); out=hidden)
        r = wbf(h; out=6, f=:soft)
    end
    if decoding
        return r
    end
end
"""
IMAGES = """
@knet function images(x)
    a = cbfp(x; out=3, cwindow=3, pwindow=2)
    return wbf(a; out=4, f=:soft)
end
"""


def _numbers(net: knetc.Model, **more: Any) -> Numbers:
    """A model's parameters, and other numbers."""
    return {name: net.get(name) for name in net.params()} | {name: np.asarray(value) for name, value in more.items()}


def _data(rows: int, classes: int, columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)), rng.integers(0, classes, columns)


def whole_run(make: Make) -> Numbers:
    """`train` over uneven minibatches, the last one of 37 columns and of 1, clipped by the norm."""
    net = make(DROPOUT)
    x, y = _data(5, 3, 78)
    net.setp(lr=0.2, momentum=0.9)
    losses = net.train(knetc.minibatch(x, y, 41), knetc.softloss, epochs=2, gclip=0.3, progress=False, dropout=True)
    losses += net.train(knetc.minibatch(x, y, 11), "softloss", progress=False, dropout=True)
    return _numbers(net, losses=losses, test=net.test(knetc.minibatch(x, y, 20), knetc.zeroone))


def even_run(make: Make) -> Numbers:
    """`train` over minibatches that all processes share evenly, by options of which the last are rank 0's alone."""
    net = make(DROPOUT)
    x, y = _data(5, 3, 30)
    net.setp(lr=0.2, adam=True)
    losses = net.train(knetc.minibatch(x, y, 12), "softloss", epochs=2, gclip=0.3, progress=False, dropout=True)
    if net.rank == 0:
        net.setp(lr=0.1, momentum=0.5, adam=False)
    losses += net.train(knetc.minibatch(x, y, 6), "quadloss", progress=False, dropout=True)
    gradients = {f"gradient of {name}": net.grad(name) for name in net.params()}
    return _numbers(net, losses=losses, value=net.get("h"), **gradients)


def by_hand(make: Make) -> Numbers:
    """The loop of the manual, with a mask, gradients of the input, and fewer columns than processes."""
    net = make(DROPOUT)
    net.setp(lr=0.05, adam=True)
    seen = []
    for k, columns in enumerate((7, 37, 2, 1, 3)):
        x, y = _data(5, 3, columns, k)
        room = [np.empty((rows, columns), {"f32": np.float32, "f64": np.float64}[net.dtype]) for rows in (3, 5)]
        value = net.forw(x, dropout=k % 2 == 0, out=room[0] if k % 2 else None)
        mask = (np.arange(columns) % 3 != 1).astype(float) if k < 3 else None
        dx = net.back(y, knetc.softloss, getdx=True, mask=mask, out=room[1] if k % 2 else None)
        seen += [value.ravel(), dx.ravel(), [net.gnorm(), knetc.softloss(value, y)], net.get("h").ravel()]
        net.update(gclip=0.2, gscale=1.5)
        net.update()
    net.forw(x)
    net.back(np.ones((3, 3)) * [1, 2, 3])
    seen.append(net.grad("w1" if "w1" in net.params() else next(iter(net.params()))).ravel())
    return _numbers(net, seen=np.concatenate(seen))


def random_arrays(make: Make) -> Numbers:
    """Noise on every column, which is the column's; and noise that all columns share."""
    net = make(NOISE)
    x, _ = _data(4, 2, 9)
    values = [net.forw(x), net.forw(x[:, :2])]
    net.back(np.zeros((2, 2)), "quadloss")
    net.update()
    return _numbers(net, values=np.concatenate([v.ravel() for v in values]))


def two_inputs(make: Make) -> Numbers:
    """A model of two inputs, trained by `train`."""
    net = make(TWO)
    (x, y), gold = (_data(4, 2, 9, k)[0] for k in (1, 2)), np.tanh(_data(3, 2, 9, 3)[0])
    pairs = [((x[:, at : at + 5], y[:, at : at + 5]), gold[:, at : at + 5]) for at in (0, 5)]
    losses = net.train(pairs, knetc.quadloss, epochs=3, progress=False)
    losses += net.train(knetc.minibatch((x, y), gold, 4), knetc.quadloss, epochs=2, progress=False)
    return _numbers(net, losses=losses)


def sequence(make: Make) -> Numbers:
    """A character model over a sequence of 5 columns whose state is kept, and by whole sequences."""
    net = make(LSTM)
    net.setp(lr=0.5, gclip=1.0, adagrad=True)
    text = np.random.default_rng(4).integers(0, 6, 110)
    steps = knetc.seqbatch(text.tolist(), {i: i for i in range(6)}, 5)
    losses = net.train(steps, "softloss", epochs=1, seqlength=4, progress=False, dropout=True)
    state = {name: net.get(name) for name in net.state()}
    net.reset()
    values = [net.sforw(x) for x in steps[:3]]
    net.sback(steps[3], "softloss", mask=np.array([1, 0, 1, 1, 0]))
    between = net.gnorm()  # the sum of the gradients so far, with two steps to come
    net.sback()
    net.sback(steps[1], "softloss")
    net.update()
    norms = [between, net.gnorm()]
    net.reset()
    few = [knetc.onehot([t, 5 - t], 6) for t in range(3)]  # fewer columns than processes
    whole = np.empty((6, 2, 3), values[0].dtype)
    net.forwseq(few, dropout=True, out=whole)
    net.backseq([few[1], None, few[0]], "softloss")
    norms.append(net.gnorm())
    net.update()
    return _numbers(net, losses=losses, norms=norms, **state, values=np.stack(values), whole=whole)


def conditions(make: Make) -> Numbers:
    """A model that reads under one condition, returning nothing, and writes under another."""
    net = make(COPY)
    net.setp(lr=0.3)
    xs = [knetc.onehot(np.random.default_rng(t).integers(0, 6, 3), 6) for t in range(4)]
    for _ in range(3):
        for x in xs:
            net.sforw(x)
        for x in xs[:2]:
            net.sforw(x, decoding=True)
        for x in (xs[1], xs[0]):
            net.sback(x, "softloss")
        for _ in xs:
            net.sback()
        net.update()
        net.reset()
    return _numbers(net)


def images(make: Make) -> Numbers:
    """Convolution and pooling, over a one-hot desired output."""
    net = make(IMAGES)
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(8, 8, 1, 10)), knetc.onehot(rng.integers(0, 4, 10), 4)
    losses = net.train(knetc.minibatch(x, y, 6), "softloss", epochs=2, progress=False)
    return _numbers(net, losses=losses)


def set_by_name(make: Make) -> Numbers:
    """State and parameters that are written, a kept state, and a check of the gradients, which each process makes."""
    net = make(LSTM)
    x = knetc.onehot(np.arange(5), 6)
    net.sforw(x)
    net.sback(x, "softloss")
    net.reset(keepstate=True)
    names = list(net.state())
    for name in names:
        net.set(name, net.get(name) * 2)
    kept = {name: net.get(name) for name in names}
    values = [net.forw(x), net.forw(x)]
    first = next(iter(net.params()))
    net.set(first, net.get(first) / 2)
    values.append(net.forw(x))
    net.reset()
    return _numbers(net, values=np.stack(values), error=net.gradcheck(x, x, "softloss") < 1e-5, **kept)


CASES = (whole_run, even_run, by_hand, random_arrays, two_inputs, sequence, conditions, images, set_by_name)


def maker(backend: str, dtype: str, shared: bool) -> Make:
    """What makes a model, `shared` among the processes."""

    def make(source: str) -> knetc.Model:
        net = knetc.compile(source, backend=backend, dtype=dtype, seed=7)
        return knetc.distribute(net, timeout=60) if shared else net

    return make


def numbers(make: Make, only: Sequence[str] = ()) -> Numbers:
    """The numbers of all cases, or of those."""
    wanted = [case for case in CASES if not only or case.__name__ in only]
    return {f"{case.__name__}.{name}": value for case in wanted for name, value in case(make).items()}


def main() -> None:
    backend, dtype, folder, *only = sys.argv[1:]
    make = maker(backend, dtype, shared=True)
    found = numbers(make, only)
    np.savez(Path(folder) / f"rank{make(DROPOUT).rank}.npz", **{n.replace("/", "|"): v for n, v in found.items()})


if __name__ == "__main__":
    main()
