"""The C interface when something fails: every allocation of every function in turn, and every call of CUDA's libraries.

A model is driven through a script that calls each function of the interface. For each step of the script and n = 1, 2,
3, … the step's n-th allocation (or call) fails, until the step succeeds: an error code with its reason, nothing left
behind, and the model as the interface promises it: the same numbers to the bit when the step is made again.
"""

from __future__ import annotations

import pytest

from knetc.ir.program import Program
from knetc.runtime.cfunctions import AVERAGES, ORDER, SIGNATURES, TRAINING
from knetc.runtime.library import Library

from .driver import MODELS, SCRIPT, Failures, array, backward, build, forward, net_of, read, run
from .sweep import KINDS_OF_FAILURE, Script, Sweep, added_in_part, no_failures_left  # noqa: F401 (a fixture)


def changed_in_part(name: str, program: Program) -> int | None:
    """Of this script one step adds to gradients. One kernel changes all parameters of an update; the losses of steps of
    training are copied after it, and the state has changed before. Of several steps those before the failure are made.
    """
    if name == "train":
        return None if program.states() else 3
    if name == "train with more memory":
        return None
    return added_in_part(program) if name == "sbackward again" else 0


SINGLE = Script(
    SCRIPT,
    (forward("sforward", 1, 3), forward("sforward", 2, 3), backward("sbackward", 3, 3), read),
    changed_in_part,
)


@pytest.fixture(scope="module", params=MODELS)
def library(request, tmp_path_factory) -> Library:
    return build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("kind", KINDS_OF_FAILURE)
@pytest.mark.parametrize("graphs", [0, pytest.param(2, marks=pytest.mark.deep)])
@pytest.mark.parametrize("waiting", ["eager", pytest.param("lazy", marks=pytest.mark.deep)])
def test_every_failure_in_turn(library, kind, graphs, waiting, monkeypatch):
    monkeypatch.setenv("KNETEMU_ASYNC", waiting)
    met = Sweep(SINGLE, library, kind, Failures(library._library, monkeypatch), graphs).run()
    # Where there is something to fail, it did.
    if kind == "KNETEMU_FAIL_CALL":
        trained = {"write", "train", "train with more memory"}
        assert all(count for name, count in met.items() if name not in trained or library.program.params()), met
    else:
        memory = ("create", "forward", "forward of another size")
        assert all(met[name] for name in (memory if kind == "KNETEMU_FAIL_MALLOC" else ("create", "save", "load"))), met
    if kind == "KNETEMU_FAIL_MALLOC" and library.program.params():
        params = len(library.program.params())
        assert met["write averages"] == 2 * params and met["update"] == 4 * params and met["sbackward again"], met


@pytest.mark.parametrize("library", ["rnn"], indirect=True)  # which has parameters and state
def test_the_script_calls_every_function(library, monkeypatch):
    called = set()
    call = library._function
    monkeypatch.setattr(library, "_function", lambda name: called.add(name) or call(name))
    run(net_of(library), list(SCRIPT))
    wanted = {*SIGNATURES, *TRAINING}
    assert called >= wanted, wanted - called


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
        r"if \(!code && add\) code = add_gradients",
        "if (add) code = add_gradients",
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
    library = build(name, tmp_path, [(pattern, instead)])
    with pytest.raises(AssertionError):
        Sweep(SINGLE, library, kind, Failures(library._library, monkeypatch), graphs=0).run()
