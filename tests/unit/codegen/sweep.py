"""Every failure of a kind in turn, for each step of a script of calls of the C interface.

For n = 1, 2, 3, … a step's n-th allocation (or call) fails, until the step succeeds. A failed step is made again, after
the state that it may have changed is put back; from then on the script must give the numbers of a run without failures.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from knetc.ir.program import Program
from knetc.runtime import emulation
from knetc.runtime.cfunctions import KINDS, MEMORY, ORDER
from knetc.runtime.library import Library

from .driver import Failures, Net, Step, array, net_of, run, same

KINDS_OF_FAILURE = ("KNETEMU_FAIL_MALLOC", "host", "KNETEMU_FAIL_CALL")


@dataclass(frozen=True)
class Script:
    """Named steps. `probe`: those that show whether a model computes what a fresh one does. `in_part`: at how many of a
    step's calls of CUDA a failure may leave changed in part what the step changes, but the state; None: at all of them.
    `swept`: the steps in which something fails, where these are not all.
    """

    steps: dict[str, Step]
    probe: tuple[Step, ...]
    in_part: Callable[[str, Program], int | None]
    swept: tuple[str, ...] = ()


def added_in_part(program: Program) -> int:
    """At how many calls of CUDA a step back that adds to gradients may leave things changed in part.

    Gradients are changed one after another, and what is handed to the step before with them; the loss is copied after
    that, and waited for.
    """
    return len(program.params()) + 2 + (len(program.states()) + 1 if program.states() else 0)


@pytest.fixture(autouse=True)
def no_failures_left(monkeypatch) -> Iterator[None]:
    """No model of another test is alive while one counts, and nothing fails any more afterwards."""
    gc.collect()
    yield
    monkeypatch.undo()
    ctypes.CDLL(str(emulation.build_library())).knetemu_reload()


class Sweep:
    """Every failure of a kind in turn, without graphs or with them: what fails while a graph is captured is no error,
    since the call then runs as it is.
    """

    def __init__(self, script: Script, library: Library, kind: str, failures: Failures, graphs: int) -> None:
        self.script, self.library, self.kind, self.failures, self.graphs = script, library, kind, failures, graphs
        self.names = list(script.steps)
        self.met: dict[str, int] = {}
        failures.arm("KNETEMU_FAIL_CALL", 0)
        self.before = failures.alive()
        self.whole = self.start()
        run(self.whole, self.names)
        assert failures.alive() == self.before

    def start(self) -> Net:
        return net_of(self.library, self.graphs, self.script.steps)

    def run(self) -> dict[str, int]:
        """All steps that are swept; the number of failures in each."""
        for name in self.script.swept or self.names:
            k = self.names.index(name)
            n, in_part, reached = 0, 0, True
            while reached:
                n += 1
                net, code, reached = self.fail(k, n)
                if not self.goes_on(net, k if code and name != "destroy" else k + 1):  # destroy frees all the same
                    in_part += 1
                    assert code and self.kind == "KNETEMU_FAIL_CALL", (name, n)
                    most = self.script.in_part(name, self.library.program)
                    assert most is None or in_part <= most, (name, n)
                    assert self.usable(self.fail(k, n)[0]), (name, n)
                assert self.failures.alive() == self.before, (name, n)
            self.met[name] = n - 1
        return self.met

    def fail(self, k: int, n: int) -> tuple[Net, int, bool]:
        """A model after the script's first k steps and the next, whose n-th allocation or call failed; the step's code,
        and whether there was an n-th."""
        net = self.start()
        run(net, self.names[:k])
        before = Contents(net)
        self.failures.arm(self.kind, n)
        code = self.script.steps[self.names[k]](net)
        reached = self.failures.count(self.kind) >= n
        self.failures.arm(self.kind, 0)
        place = (self.names[k], n, code, net.reason())
        assert reached if code else not reached or self.graphs, (*place, "a failure goes unseen, or another is seen")
        if code:
            assert code == MEMORY if self.kind != "KNETEMU_FAIL_CALL" else code in (3, 4, 5, 6), place
            assert "line" in net.reason() or "no memory" in net.reason(), place
            if "forw" in self.names[k] or "back" in self.names[k]:
                before.put_back(net, code, place)
        return net, code, reached

    def goes_on(self, net: Net, k: int) -> bool:
        """Whether a model goes through the steps from the k-th on, with the numbers of a run without failures."""
        for name in self.names[k:]:
            if self.script.steps[name](net):
                run(net, ["destroy"])
                return False
        return same(net.out, self.whole.out)

    def usable(self, net: Net) -> bool:
        """Whether a model computes what a fresh one does with the same parameters; both are gone then."""
        fresh = self.start()
        run(fresh, ["create", "configure", "options"])
        parameters = [array(i.type.dims, 1, 9) for i in net.program.params().values()]
        found = same(self.probe(net, parameters), self.probe(fresh, parameters))
        run(fresh, ["destroy"])
        run(net, ["destroy"])
        return found

    def probe(self, net: Net, parameters: list[np.ndarray]) -> list[np.ndarray]:
        """What a model computes from given parameters, whatever happened to it before."""
        assert net.call("reset", 0) == 0 and net.call("set_seed", ctypes.c_ulonglong(5)) == 0
        for name, a in zip(net.program.params(), parameters, strict=True):
            assert net.call("set", name.encode(), a.ctypes.data) == 0
        net.out = []
        for step in self.script.probe:
            assert step(net) == 0, net.reason()
        return net.out


class Contents:
    """What a model holds before a step: no failure of a call forward or back may change a parameter, or how many calls
    there were; that of a call of a library may change the state."""

    def __init__(self, net: Net) -> None:
        self.found = self.read(net) if net.model else {}

    @staticmethod
    def read(net: Net) -> dict[tuple[str, str], np.ndarray | None]:
        calls = ctypes.c_uint()
        assert net.call("calls", ctypes.byref(calls)) == 0
        found: dict[tuple[str, str], np.ndarray | None] = {("calls", ""): np.array(calls.value)}
        count, dims = ctypes.c_int(), (ctypes.c_int * 8)()
        for kind, names in {"par": net.program.params(), "state": net.program.states()}.items():
            for name in names:
                code = net.call("dims", KINDS[kind], name.encode(), ctypes.byref(count), dims)
                assert code in (0, ORDER), net.reason()
                found[kind, name] = a = None if code else np.zeros(dims[: count.value], np.float32, order="F")
                assert a is None or net.call("get", KINDS[kind], name.encode(), a.ctypes.data) == 0, net.reason()
        return found

    def put_back(self, net: Net, code: int, place: tuple) -> None:
        """Checks this after a failed call, and puts the state back; one that there was not is zero."""
        for (kind, name), now in self.read(net).items():
            was = self.found[kind, name]
            if now is None:
                assert was is None, place
                continue
            want = np.zeros_like(now) if was is None else was
            if np.array_equal(now, want, equal_nan=True):
                continue
            assert kind == "state" and code != MEMORY, (*place, kind, name)
            batch = want.shape[-1] if net.program.states()[name].batched else 1
            assert net.call("set_state", name.encode(), want.ctypes.data, batch) == 0, net.reason()
