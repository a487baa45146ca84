"""Whole sequences when something fails: every allocation of `forwseq`, `backseq` and `trainseq` in turn, on the device
and on the host, and every call of CUDA's libraries, with graphs and without; and wrong calls of the three.

Parameters stay; what a failed `forwseq` changes is the state alone, so that with the state put back it can be made
again; so can a `backseq` that goes back at once. Where several runs go back and one fails, the model computes what a
fresh one does after a reset.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from knetc.runtime.cfunctions import ARGUMENT, MEMORY, ORDER, OVER_TIME, SEQUENCES
from knetc.runtime.library import Library

from .driver import Failures, build, net_of, run, same
from .sequence_script import LIBRARIES, STEPS, library_of, script_of
from .sweep import KINDS_OF_FAILURE, Sweep, no_failures_left  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Callable[[str], Library]:
    made: dict[str, Library] = {}

    def get(name: str) -> Library:
        if name not in made:
            made[name] = library_of(name, tmp_path_factory.mktemp("library"))
        return made[name]

    return get


@pytest.mark.parametrize("waiting", ["eager", pytest.param("lazy", marks=pytest.mark.deep)])
@pytest.mark.parametrize("graphs", [0, *(pytest.param(k, marks=pytest.mark.deep) for k in (1, 2))])
@pytest.mark.parametrize("kind", KINDS_OF_FAILURE)
@pytest.mark.parametrize("name", LIBRARIES)
def test_every_failure_in_turn(name, libraries, kind, graphs, waiting, monkeypatch):
    monkeypatch.setenv("KNETEMU_ASYNC", waiting)
    library = libraries(name)
    met = Sweep(script_of(name), library, kind, Failures(library._library, monkeypatch), graphs).run()
    # Where there is something to fail, it did.
    if kind == "KNETEMU_FAIL_CALL":
        assert all(met.values()), met
    else:
        assert met["forwseq"] and met["forwseq of another size"], met
    if kind == "KNETEMU_FAIL_MALLOC":
        assert met["backseq"] or met["backseq of parts"], met  # the arrays that several runs add up in


@pytest.mark.parametrize("graphs", [0, 1, 2])
def test_what_the_sweeps_capture(graphs, libraries):
    """Never, the second time, at once: so the sweeps meet calls before, while and after they are captured."""
    net, numbers = net_of(libraries("charlm"), graphs, STEPS), [ctypes.c_int(), ctypes.c_int()]
    names, found = list(STEPS), []
    for until in ("backseq", "backseq again"):
        run(net, names[: names.index(until) + 1] if not found else names[names.index("backseq") + 1 : 10])
        assert net.call("graphs", *map(ctypes.byref, numbers)) == 0
        found.append([n.value for n in numbers])
    assert found == {0: [[0, 0], [0, 0]], 1: [[0, 0], [2, 0]], 2: [[2, 0], [3, 0]]}[graphs]


def test_steps_whose_arrays_would_be_too_large_at_once_run_one_by_one(libraries):
    """The values and gradients of a model whose arrays may not be so large are those of one whose arrays may."""
    found = []
    for name in ("unwritten", "step by step"):
        net = net_of(libraries(name), 0, STEPS)
        run(net, list(STEPS))
        found.append(net.out)
    assert len(found[0]) == len(found[1]) > 10
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# Calls after a sequence of 4 steps of 3 columns, each with its code and reason.
def wrong_calls(at: int, inputs: ctypes.Array, nothing: ctypes.Array) -> list[tuple[str, tuple, int, str]]:
    huge, most = 2**30, 2**31 - 1
    return [
        ("forwseq", (2, inputs, 3, 2, at), ARGUMENT, "there is no such condition"),
        ("trainseq", (2, *next(wrong_training(at, inputs, nothing))[0]), ARGUMENT, "there is no such condition"),
        ("forwseq", (0, None, 3, 2, at), ARGUMENT, "input x is NULL"),
        ("forwseq", (0, nothing, 3, 2, at), ARGUMENT, "input x is NULL"),
        ("forwseq", (0, inputs, 0, 2, at), ARGUMENT, "a batch of 0 columns"),
        ("forwseq", (0, inputs, -3, 2, at), ARGUMENT, "a batch of -3 columns"),
        ("forwseq", (0, inputs, 3, 0, at), ARGUMENT, "a sequence of 0 steps"),
        ("forwseq", (0, inputs, 3, -1, at), ARGUMENT, "a sequence of -1 steps"),
        ("forwseq", (0, inputs, 4, 2, at), ORDER, "the state has 3 columns and the batch 4"),
        ("forwseq", (0, inputs, huge, 2, at), ORDER, "the state has 3 columns"),
        ("backseq", (-1, at, None, 2, None), ARGUMENT, "there is no loss -1"),
        ("backseq", (4, at, None, 2, None), ARGUMENT, "there is no loss 4"),
        ("backseq", (3, None, None, 2, None), ARGUMENT, "gold is NULL"),
        ("backseq", (2, at, None, 2, None), ARGUMENT, "there is no backward pass from that loss"),
        ("backseq", (3, at, None, 0, None), ARGUMENT, "a sequence of 0 steps"),
        ("backseq", (3, at, None, -7, None), ARGUMENT, "a sequence of -7 steps"),
        ("backseq", (3, at, None, 5, None), ORDER, "the stack has 4 steps, not 5"),
        ("backseq", (3, at, None, most, None), ORDER, f"the stack has 4 steps, not {most}"),
        *(
            ("trainseq", (0, *arguments), code, reason)
            for arguments, code, reason in wrong_training(at, inputs, nothing)
        ),
    ]


def wrong_training(at: int, inputs: ctypes.Array, nothing: ctypes.Array) -> Iterator[tuple[tuple, int, str]]:
    """What is wrong with calls of `trainseq`, but for the conditions."""
    real = ctypes.c_double
    right = (3, inputs, at, 3, 4, 2, real(0), real(1), None)
    for k, instead, code, reason in (
        (0, 1, ARGUMENT, "there is no training from loss 1"),
        (0, 2, ARGUMENT, "there is no backward pass from that loss"),
        (0, 4, ARGUMENT, "there is no loss 4"),
        (1, None, ARGUMENT, "input x is NULL"),
        (1, nothing, ARGUMENT, "input x is NULL"),
        (2, None, ARGUMENT, "gold is NULL"),
        (3, 0, ARGUMENT, "a batch of 0 columns"),
        (3, 4, ORDER, "the state has 3 columns and the batch 4"),
        (4, 0, ARGUMENT, "a sequence of 0 steps"),
        (4, -2, ARGUMENT, "a sequence of -2 steps"),
        (5, 0, ARGUMENT, "segments of 0 steps"),
        (6, real(-1), ARGUMENT, "gclip cannot be"),
        (7, real(float("nan")), ARGUMENT, "gscale cannot be"),
        (8, None, ORDER, "there are steps on the stack"),
    ):
        yield (*right[:k], instead, *right[k + 1 :]), code, reason


@pytest.fixture(scope="module")
def few_losses(tmp_path_factory) -> Library:
    return build("dropped", tmp_path_factory.mktemp("arguments"), losses=("zero", "softloss"))


def test_wrong_calls_say_what_is_wrong_and_change_nothing(few_losses):
    refused, whole = net_of(few_losses, 2, STEPS), net_of(few_losses, 2, STEPS)
    a = np.zeros(100, np.float32)
    inputs, nothing = (ctypes.c_void_p * 1)(a.ctypes.data), (ctypes.c_void_p * 1)(None)
    for net in (refused, whole):
        run(net, ["create", "configure", "options", "write", "forwseq"])
    for name, arguments, code, reason in wrong_calls(a.ctypes.data, inputs, nothing):
        assert refused.call(name, *arguments) == code, (name, arguments, refused.reason())
        assert reason in refused.reason(), (name, arguments, refused.reason())
    for net in (refused, whole):
        run(net, ["backseq", "forwseq under conditions", "read", "update", "destroy"])
    assert same(refused.out, whole.out)


def test_a_sequence_needs_a_model_and_a_way_back_a_sequence(few_losses):
    net, a = net_of(few_losses, 0, STEPS), np.zeros(100, np.float32)
    for name, types in (SEQUENCES | OVER_TIME).items():
        assert net.call(name, *(t() for t in types[1:])) == ARGUMENT and net.reason() == "the model is NULL"
    run(net, ["create"])
    back = (3, a.ctypes.data, None, 2, None)
    assert net.call("backseq", *back) == ORDER and net.reason() == "the stack has 0 steps, not 2"
    run(net, ["write", "forwseq", "backseq"])
    assert net.call("backseq", *back) == ORDER and net.reason() == "the stack has 0 steps, not 2"
    run(net, ["forwseq", "reset"])
    assert net.call("backseq", *back) == ORDER and net.reason() == "the stack has 0 steps, not 2"
    run(net, ["destroy"])


def test_more_columns_than_an_array_has(few_losses, monkeypatch):
    """A batch that no array has room for is refused. Steps that are too many for one array have a frame each: memory
    for these is all that bounds them, and it is taken before the first step."""
    net, a = net_of(few_losses, 0, STEPS), np.zeros(100, np.float32)
    inputs, most = (ctypes.c_void_p * 1)(a.ctypes.data), 2**31 - 1
    run(net, ["create"])
    failures = Failures(few_losses._library, monkeypatch)
    before = failures.alive()
    for steps in (1, 2, most):
        assert net.call("forwseq", 0, inputs, most, steps, None) == ARGUMENT
        assert "too large" in net.reason()
    assert failures.alive() == before
    for steps in (most, most // 3, 2**29):
        failures.arm("KNETEMU_FAIL_MALLOC", 60)
        assert net.call("forwseq", 0, inputs, 3, steps, None) == MEMORY
        failures.arm("KNETEMU_FAIL_MALLOC", 0)
    run(net, ["write", "forwseq", "backseq", "reset"])
    gold, more = a.ctypes.data, (ctypes.c_double(0), ctypes.c_double(1), None)
    for batch, steps, length in ((most, 1, 1), (most, most, most), (2**29, 2, 1)):
        assert net.call("trainseq", 0, 3, inputs, gold, batch, steps, length, *more) == ARGUMENT
        assert "too large" in net.reason()
    for steps, length in ((most, most), (most, most // 3)):
        failures.arm("KNETEMU_FAIL_MALLOC", 60)
        assert net.call("trainseq", 0, 3, inputs, gold, 3, steps, length, *more) == MEMORY
        failures.arm("KNETEMU_FAIL_MALLOC", 0)
    run(net, ["write", "forwseq", "backseq", "destroy"])


# Faults of the emitted file that show only when something fails: the library, the kind, what to seek, what takes its
# place.
FAULTS = {
    "steps of a failed sequence on the stack": ("step by step", "KNETEMU_FAIL_CALL", "take_back(m, t, &code);"),
    "the calls of a failed sequence": ("charlm", "KNETEMU_FAIL_CALL", "code ? -1 : steps - 1", "steps - 1"),
    "a frame that is lost": ("charlm", "KNETEMU_FAIL_CALL", "if (f) give_frame(m, f, &code);"),
    "no memory between two runs": ("charlm", "KNETEMU_FAIL_MALLOC", "if (m->gradients || runs > 1) TRY(make_sums(m));"),
}


@pytest.mark.deep
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault, tmp_path, monkeypatch):
    name, kind, sought, instead = (*FAULTS[fault], "")[:4]
    library = library_of(name, tmp_path, fault=(sought, instead))
    with pytest.raises(AssertionError):
        Sweep(script_of(name), library, kind, Failures(library._library, monkeypatch), graphs=0).run()
