"""The C interface when something fails: every allocation of every function in turn, and every call of CUDA's libraries.

A model is driven through a script that calls each function of the interface. For each step of the script and n = 1, 2,
3, … the step's n-th allocation (or call) fails, until the step succeeds: an error code with its reason, nothing left
behind, and the model as the interface promises it: the same numbers to the bit when the step is made again.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import numpy as np
import pytest

from knetc.ir.program import Program
from knetc.runtime import emulation
from knetc.runtime.library import AVERAGES, MEMORY, ORDER, Library

from .driver import MODELS, SCRIPT, Failures, Net, array, backward, build, forward, net_of, read, run, same

KINDS_OF_FAILURE = ("KNETEMU_FAIL_MALLOC", "host", "KNETEMU_FAIL_CALL")


def changed_in_part(name: str, program: Program) -> int:
    """At how many of a step's calls of CUDA a failure may leave changed in part what the step changes.

    Gradients are changed one after another, and so is the state, at a step's end; the value or the loss are copied
    after that, and waited for. One kernel changes all parameters.
    """
    params, states = len(program.params()), len(program.states())
    if name.startswith("update"):
        return 0
    found = params + 2 if name == "sbackward again" else 0
    return found + states + 1 if states and "ward" in name else found


@pytest.fixture(scope="module", params=MODELS)
def library(request, tmp_path_factory) -> Library:
    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def no_failures_left(monkeypatch) -> Iterator[None]:
    gc.collect()  # models of other tests go now, not while this one counts
    yield
    monkeypatch.undo()
    ctypes.CDLL(str(emulation.build_library())).knetemu_reload()


def probe(net: Net, parameters: list[np.ndarray]) -> list[np.ndarray]:
    """What a model computes from given parameters, whatever happened to it before."""
    assert net.call("reset", 0) == 0 and net.call("set_seed", ctypes.c_ulonglong(5)) == 0
    for name, a in zip(net.program.params(), parameters, strict=True):
        assert net.call("set", name.encode(), a.ctypes.data) == 0
    net.out = []
    for step in (forward("sforward", 1, 3), forward("sforward", 2, 3), backward("sbackward", 3, 3), read):
        assert step(net) == 0, net.reason()
    return net.out


class Sweep:
    """Every failure of a kind in turn, without graphs or with them: what fails while a graph is captured is no error,
    since the call then runs as it is.
    """

    def __init__(self, library: Library, kind: str, failures: Failures, graphs: int) -> None:
        self.library, self.kind, self.failures, self.graphs = library, kind, failures, graphs
        self.names = list(SCRIPT)
        self.met: dict[str, int] = {}
        failures.arm("KNETEMU_FAIL_CALL", 0)
        self.before = failures.alive()
        self.whole = net_of(library, graphs)
        run(self.whole, self.names)
        assert failures.alive() == self.before

    def run(self) -> dict[str, int]:
        """All steps; the number of failures in each."""
        for k, name in enumerate(self.names):
            n, in_part, reached = 0, 0, True
            while reached:
                n += 1
                net, code, reached = self.fail(k, n)
                run(net, self.names[k if code and name != "destroy" else k + 1 :])  # again; destroy frees all the same
                if not same(net.out, self.whole.out):
                    in_part += 1
                    assert code and self.kind == "KNETEMU_FAIL_CALL", (name, n)
                    assert in_part <= changed_in_part(name, self.library.program), (name, n)
                    assert usable(self.library, self.fail(k, n)[0]), (name, n)
                assert self.failures.alive() == self.before, (name, n)
            self.met[name] = n - 1
        return self.met

    def fail(self, k: int, n: int) -> tuple[Net, int, bool]:
        """A model after the script's first k steps and the next, whose n-th allocation or call failed; the step's code,
        and whether there was an n-th."""
        net = net_of(self.library, self.graphs)
        run(net, self.names[:k])
        self.failures.arm(self.kind, n)
        code = SCRIPT[self.names[k]](net)
        reached = self.failures.count(self.kind) >= n
        self.failures.arm(self.kind, 0)
        place = (self.names[k], n, code, net.reason())
        assert reached if code else not reached or self.graphs, (*place, "a failure goes unseen, or another is seen")
        if code:
            assert code == MEMORY if self.kind != "KNETEMU_FAIL_CALL" else code in (3, 4, 5, 6), place
            assert "line" in net.reason() or "no memory" in net.reason(), place
        return net, code, reached


def usable(library: Library, net: Net) -> bool:
    """Whether a model computes what a fresh one does with the same parameters; both are gone then."""
    fresh = net_of(library, net.graphs)
    run(fresh, ["create", "configure", "options"])
    parameters = [array(i.type.dims, 1, 9) for i in net.program.params().values()]
    found = same(probe(net, parameters), probe(fresh, parameters))
    run(fresh, ["destroy"])
    run(net, ["destroy"])
    return found


@pytest.mark.parametrize("kind", KINDS_OF_FAILURE)
@pytest.mark.parametrize("graphs", [0, pytest.param(2, marks=pytest.mark.deep)])
@pytest.mark.parametrize("waiting", ["eager", pytest.param("lazy", marks=pytest.mark.deep)])
def test_every_failure_in_turn(library, kind, graphs, waiting, monkeypatch):
    monkeypatch.setenv("KNETEMU_ASYNC", waiting)
    met = Sweep(library, kind, Failures(library._library, monkeypatch), graphs).run()
    # Where there is something to fail, it did.
    if kind == "KNETEMU_FAIL_CALL":
        assert all(count for name, count in met.items() if name != "write" or library.program.params()), met
    else:
        memory = ("create", "forward", "forward of another size")
        assert all(met[name] for name in (memory if kind == "KNETEMU_FAIL_MALLOC" else ("create", "save", "load"))), met
    if kind == "KNETEMU_FAIL_MALLOC" and library.program.params():
        params = len(library.program.params())
        assert met["write averages"] == 2 * params and met["update"] == 4 * params and met["sbackward again"], met


@pytest.mark.parametrize("kind", ["KNETEMU_FAIL_MALLOC", "KNETEMU_FAIL_CALL"])
def test_an_average_that_cannot_be_set_is_not_there(library, kind, monkeypatch):
    failures, net = Failures(library._library, monkeypatch), net_of(library)
    run(net, ["create"])
    for name, instr in net.program.params().items():
        a = array(instr.type.dims, 1, 0)
        failed = 0
        for n in range(1, 20):
            failures.arm(kind, n)
            code = net.call("set_average", AVERAGES["momentum"], name.encode(), a.ctypes.data)
            failures.arm(kind, 0)
            if code == 0:
                break
            failed += 1
            assert net.call("get", AVERAGES["momentum"], name.encode(), a.ctypes.data) == ORDER
        assert code == 0 and failed == (1 if kind == "KNETEMU_FAIL_MALLOC" else 4)
    run(net, ["destroy"])


# Faults of the emitted file that show only when something fails: model, kind, pattern, what takes its place.
FAULTS = {
    "the draws of a failed call": ("mlp", "KNETEMU_FAIL_CALL", r"if \(code\) m->call--;", ""),
    "an average without its zeros": ("mlp", "KNETEMU_FAIL_CALL", r"if \(code\) release\(average, &code\);", ""),
    "a step of adam too many": ("mlp", "KNETEMU_FAIL_CALL", r"if \(code\) memset\(\(void\*\)m->sent.*\n", ""),
    "a frame half made": ("mlp", "KNETEMU_FAIL_MALLOC", r"free_frame\(m, f, &code\);\n      return", "return"),
    "a model half made": ("mlp", "KNETEMU_FAIL_MALLOC", r"close_model\(m, &code\);\n  else", ";\n  else"),
    "a file's memory": ("mlp", "KNETEMU_FAIL_CALL", r"delete\[\] f.data;", "if (!code) delete[] f.data;"),
    "a code unseen": ("lenet", "KNETEMU_FAIL_CALL", r"TRY(\(cudnnSetConvolutionMathType)", r"(void)\1"),
    "another algorithm": ("lenet", "KNETEMU_FAIL_CALL", r"(LIMIT)(\) return 0;\n)  TRY\(status\);", r"\1 || status\2"),
    "gradients of half a pass": (
        "mlp",
        "KNETEMU_FAIL_CALL",
        r"return code \|\| !add \? code :",
        "return !add ? code :",
    ),
    "a step off the stack": (
        "mlp",
        "KNETEMU_FAIL_CALL",
        r"(int code = run_back\(.*\n)",
        r"if (pop) m->stack = f->below;\n  \1  if (pop) m->stack = f;\n  if (pop && code) m->stack = f->below;\n",
    ),
}


@pytest.mark.deep
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault, tmp_path, monkeypatch):
    name, kind, pattern, instead = FAULTS[fault]
    library = build(name, tmp_path, pattern, instead)
    with pytest.raises(AssertionError):
        Sweep(library, kind, Failures(library._library, monkeypatch), graphs=0).run()
