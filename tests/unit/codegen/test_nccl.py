"""Emitted CUDA with -DKNET_NCCL: ranks that share each minibatch, on the emulation's look-alike of NCCL.

Each rank is a process; the numbers are compared with those of the interpreter, which has the whole minibatch.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from codegen import sums
from knetc import driver
from knetc.codegen import buckets
from knetc.codegen.emit import emit_cuda
from knetc.errors import KnetError, Source
from knetc.ir.planner import make_plan
from knetc.ir.program import LOSSES
from knetc.ir.types import N
from knetc.options import Options
from knetc.runtime import emulation
from knetc.runtime.interp import Interpreter

SCRIPT = Path(sums.__file__)
LAZY, AHEAD = {"KNETEMU_ASYNC": "lazy"}, {"KNETEMU_ASYNC": "ahead"}


BUCKETS = {"net": (400, 3), "whole": (100, 4)}  # bytes, and how many there are then


def emitted(model: str = "net") -> str:
    """The file, with buckets of a few gradients each."""
    size, count = BUCKETS[model]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET_BYTES", size)
        text = emit_cuda(sums.program(model), sums.OPTIONS)
    assert f"enum {{ BUCKETS = {count} }};" in text
    assert ("net_backseq" in text) == (model == "whole")
    return text


def library(text: str, folder: Path, model: str = "net") -> Path:
    (folder / "net.cu").write_text(text)
    emulation.compile_shared(folder / "net.cu", folder / f"{model}.so", extra=("-DKNET_NCCL",))
    return folder / f"{model}.so"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(emitted(), tmp_path_factory.mktemp("nccl"))


@pytest.fixture(scope="module")
def built_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library(emitted("whole"), tmp_path_factory.mktemp("nccl_whole"), "whole")


@cache
def alone(model: str) -> sums.Numbers:
    """The numbers of one model that has all columns."""
    return sums.run(sums.Rank(Interpreter(sums.program(model), 3)), model)


def launch(built: Path, ranks: int, folder: Path, **environment: str) -> list[subprocess.Popen[str]]:
    """The processes of all ranks, which have ended."""
    env = {**os.environ, **environment}
    words = [sys.executable, str(SCRIPT), str(built)]
    started = [
        subprocess.Popen([*words, str(r), str(ranks), str(folder)], env=env, stderr=subprocess.PIPE, text=True)
        for r in range(ranks)
    ]
    for process in started:
        process.said = process.communicate(timeout=240)[1]  # type: ignore[attr-defined]
    return started


def numbers(folder: Path, ranks: int) -> list[sums.Numbers]:
    found = []
    for r in range(ranks):
        with np.load(folder / f"rank{r}.npz") as file:
            found.append({name.replace("|", "/"): file[name] for name in file.files})
    return found


def trained(built: Path, ranks: int, folder: Path, **environment: str) -> list[sums.Numbers]:
    for process in launch(built, ranks, folder, **environment):
        assert process.returncode == 0, process.said  # type: ignore[attr-defined]
    return numbers(folder, ranks)


def agree(found: list[sums.Numbers], but: str = "", model: str = "net") -> None:
    """Every rank has the numbers of one model that is alone, and all have the same bits."""
    for one in found:
        assert one.keys() == alone(model).keys()
        for name in alone(model).keys() - {but}:
            value = alone(model)[name]
            np.testing.assert_allclose(one[name], value, rtol=1e-8, atol=1e-11, err_msg=name)
            assert one[name].tobytes() == found[0][name].tobytes(), name


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_that_share_a_minibatch_train_as_one(built: Path, ranks: int, tmp_path: Path) -> None:
    agree(trained(built, ranks, tmp_path))


def test_whole_sequences_are_summed(built_whole: Path, tmp_path: Path) -> None:
    agree(trained(built_whole, 2, tmp_path), model="whole")


def test_a_bucket_is_summed_while_the_loop_over_time_runs() -> None:
    """The output layer's gradients are final before the loop, all others only after it."""
    text = emitted("whole")
    begin = text.index("int backseq_softloss_dropout(")
    before, loop = text[begin : text.index("\n}\n", begin)].split("for (int step")
    inside, after = loop.split("\n  }\n", 1)
    assert [part.count("finish_bucket") for part in (before, inside, after)] == [1, 0, 3]


@pytest.mark.parametrize("way", [LAZY, AHEAD], ids=str)
def test_every_stream_of_a_whole_sequence_waits(built_whole: Path, way: dict[str, str], tmp_path: Path) -> None:
    agree(trained(built_whole, 3, tmp_path, **way), model="whole")


@pytest.mark.parametrize("way", [LAZY, AHEAD], ids=str)
def test_every_stream_waits_for_what_it_needs(built: Path, way: dict[str, str], tmp_path: Path) -> None:
    agree(trained(built, 3, tmp_path, **way))


def test_every_run_has_the_same_bits(built: Path, tmp_path: Path) -> None:
    runs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        runs.append(trained(built, 3, tmp_path / name)[0])
    for name, value in runs[0].items():
        assert runs[1][name].tobytes() == value.tobytes(), name


# What is left out or moved in the file, and how the emulation runs streams to show it.
FAULTS = {
    "sum_begins_at_once": (r"  TRY\(cudaStreamWaitEvent\(m->sum_stream, m->event, 0\)\);\n", "", AHEAD),
    "update_does_not_wait": (r"  TRY\(cudaStreamWaitEvent\(m->stream, m->event, 0\)\);\n  return 0;\n\}\n#else",
                             "  return 0;\n}\n#else", LAZY),
    "bucket_left_out_of_a_pass": (r"  TRY\(finish_bucket\(m, 2\)\);\n", "", {}),
    "bucket_before_its_gradients": (
        r"(?s)(int backward_softloss\w*\([^{]*\{\n)(.*?)(  TRY\(finish_bucket\(m, 0\)\);\n)", r"\1\3\2", {}
    ),
    "bucket_of_a_sequence_before_its_gradients": (
        r"(?s)(int backseq_softloss\w*\([^{]*\{\n)(.*?)(?: *)(TRY\(finish_bucket\(m, 0\)\);\n)", r"\1  \3\2", {}
    ),
    "bucket_of_a_sequence_before_the_loop": (
        r"(?s)(int backseq_softloss\w*\([^{]*\{\n.*?)(  for \(int step.*?)  (  TRY\(finish_bucket\(m, 1\)\);\n)",
        r"\1\3\2",
        {},
    ),
    "bucket_left_out_of_all": (r"i < BUCKETS && all", "i + 1 < BUCKETS && all", {}),
    "gradient_left_out": (r"i < bucket_ends\[bucket\] && !result", "i + 1 < bucket_ends[bucket] && !result", {}),
    "sum_added_by_all": (r"m->summed && m->rank", "false", {}),
    "sum_lost": (r"m->summed && m->rank", "m->summed", {}),
    "not_summed_before_the_update": (r"  if \(m->communicator && !m->summed\) TRY\(end_sums.*\n", "", {}),
    "capture_of_uneven_calls": (r"bool graph_sums = false;", "bool graph_sums = true;", {"KNETC_GRAPHS": "1"}),
}  # fmt: skip


@pytest.mark.deep
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str, tmp_path: Path) -> None:
    pattern, instead, way = FAULTS[fault]
    model = "whole" if "sequence" in fault else "net"
    text, count = re.subn(pattern, instead, emitted(model))
    assert count, f"nothing in the file fits {pattern}"
    done = launch(library(text, tmp_path, model), 3, tmp_path, **way)
    if all(process.returncode == 0 for process in done):
        with pytest.raises(AssertionError):  # a capture that is refused is not all
            agree(numbers(tmp_path, 3), "captured", model)
    else:
        assert any("knetemu: error" in process.said for process in done)  # type: ignore[attr-defined]


def test_a_bucket_is_final_where_its_sum_begins() -> None:
    """LeNet's largest gradient is summed while the convolutions are gone back through."""
    source = (Path(__file__).parents[3] / "examples" / "lenet.knet").read_text()
    options = Options(inputs=((28, 28, 1, N),), losses=LOSSES)
    plan = make_plan(driver.optimise(driver.lower(Source("lenet.knet", source), None, {}), options), options)
    order = buckets.gradients(plan)
    assert sorted(b.name for b in order) == sorted(p.grad.root.name for p in plan.params if p.grad)
    ends = buckets.ends(plan)
    assert ends[-1] == len(order) and len(ends) == 2
    backward = next(b for b in plan.variants[0].backward if b.loss == "softloss")
    final = buckets.final(plan, backward.steps)
    first = min(final)
    assert final[first] == [0] and max(b.bytes(1) for b in order[: ends[0]]) == 1_600_000
    later = [u for u in backward.steps[first:] if "conv_back" in repr(u)]
    assert len(later) >= 3


def test_without_nccl_nothing_is_summed(tmp_path: Path) -> None:
    """The function is not there, and the file builds and links alone."""
    (tmp_path / "net.cu").write_text(emitted())
    emulation.compile_shared(tmp_path / "net.cu", tmp_path / "net.so", extra=("-Werror",))
    assert not hasattr(ctypes.CDLL(str(tmp_path / "net.so")), "net_set_communicator")


def test_what_does_not_fit_is_an_error(built: Path) -> None:
    net = sums.Shared(sums.program("net"), str(built), 3)
    with pytest.raises(KnetError, match="first column -1"):
        net.take_columns(-1, 1)
    with pytest.raises(KnetError, match="graph_sums cannot be 2"):
        net.configure("graph_sums", 2)
    net.set_communicator(ctypes.c_void_p(None))
    x, gold = sums.data(4, 0)
    net.forward(sums.DROPOUT, [x], push=False)
    net.backward("softloss", gold, None, (), pop=False)
    net.update({}, 0, 1)


def test_every_call_that_fails_is_told(built_whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In turn, of a backward pass that sums: a code and a reason, and a model that goes on as if it had not been."""
    library = ctypes.CDLL(str(emulation.build_library()))
    comm = ctypes.c_void_p()
    assert library.ncclCommInitAll(ctypes.byref(comm), 1, None) == 0
    net, x, gold = sums.Shared(sums.program("whole"), str(built_whole), 3), *sums.data(4, 0)
    net.set_communicator(comm)
    reasons, most = [], 100
    for n in range(most):  # none fails at first, so that the products are planned
        net.reset(False)
        net.forward(frozenset(), [x], push=False)
        monkeypatch.setenv("KNETEMU_FAIL_CALL", str(n))
        library.knetemu_reload()
        try:
            net.backward("softloss", gold, None, (), pop=False)
        except KnetError as error:
            reasons.append(str(error))
        else:
            if n:
                break
        finally:
            monkeypatch.setenv("KNETEMU_FAIL_CALL", "0")
            library.knetemu_reload()
    assert 20 < n < most and all(reasons) and sum("ncclAllReduce: " in reason for reason in reasons) >= 4, reasons
    alone = sums.Rank(Interpreter(sums.program("whole"), 3))
    alone.forward(x, frozenset())
    alone.backward(gold)
    for each in (alone, one := sums.Rank(net)):
        each.update()
        each.keep("after", "par")
    for name, value in alone.found.items():
        np.testing.assert_allclose(one.found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    net.close()
    assert library.ncclCommDestroy(comm) == 0


def test_a_step_back_and_a_call_back_are_two_graphs(tmp_path: Path) -> None:
    """In the same frame, and but for the sum of the losses the same work."""
    source = "@knet function net(x)\n    return wbf(x; out=3, f=:soft)\nend\n"
    program = driver.optimise(driver.lower(Source("net.knet", source), None, {}), sums.OPTIONS)
    net = sums.Shared(program, str(library(emit_cuda(program, sums.OPTIONS), tmp_path)), 3)
    (tmp_path / "meet").mkdir()
    net.set_communicator(sums.communicator(0, 1, tmp_path / "meet").handle)
    net.configure("graphs", 2)
    net.configure("graph_sums", 1)
    x, gold = sums.data(4, 0)
    net.forward(frozenset(), [x], push=True)
    net.backward("softloss", gold, None, (), pop=True)
    for _ in range(2):  # the call's frame of the second time is the step's of the first
        net.reset(False)
        net.forward(frozenset(), [x], push=True)
        net.forward(frozenset(), [x], push=False)
    before = net.graphs()[0]
    net.backward("softloss", gold, None, (), pop=False)
    assert net.graphs()[0] == before + 1
