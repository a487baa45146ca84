"""What a measurement's process is given, what comes back from it, and what is said of a peer that is not there."""

from __future__ import annotations

import json
import sys

import jobs
import peer
import peers
import pytest
import run
from peers.base import missing


@pytest.fixture
def setting(tmp_path):
    return jobs.Setting(tmp_path, threads=3, limit=60)


def test_the_last_line_counts():
    assert jobs.parse('a library says hello\n{"warning": 1}\n{"step_s": 2.5}\n') == {"step_s": 2.5}


@pytest.mark.parametrize("output", ["", "hello", "[1]", '{"step_s": 2.5}\nand more'])
def test_output_without_a_result_is_an_error(output):
    assert "no result" in jobs.parse(output)["error"]


def test_every_process_has_the_same_threads_and_no_pinned_blas(setting):
    base = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512", "OMP_NUM_THREADS": "1", "HOME": "/home"}
    for job in (None, jobs.Job("W1", "torch", "eager")):
        env = jobs.environment(setting, job, base)
        assert "OPENBLAS_CORETYPE" not in env and "OPENBLAS_L2_SIZE" not in env and env["HOME"] == "/home"
        assert {env[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")} == {"3"}


def test_a_job_has_caches_of_its_own_and_its_variables(setting):
    first, second = (jobs.Job("W1", "torch", v, {"EXTRA": v}) for v in ("eager", "step"))
    one, two = (jobs.environment(setting, job, {}) for job in (first, second))
    assert one["EXTRA"] == "eager" and two["EXTRA"] == "step"
    assert all(one[name] != two[name] and str(setting.folder) in one[name] for name in jobs.CACHES)


def test_only_torch_and_jax_live_elsewhere(tmp_path):
    setting = jobs.Setting(tmp_path, python="/elsewhere/python")
    found = {name: jobs.interpreter(setting, name) for name in ("torch", "jax", "numpy", "knetc-cpu")}
    assert found == {"torch": "/elsewhere/python", "jax": "/elsewhere/python"} | dict.fromkeys(
        ("numpy", "knetc-cpu"), sys.executable
    )


def test_a_process_that_fails_is_an_error_with_its_last_words(setting):
    result = jobs.run(setting, jobs.Job("W1", "numpy", "planned"))  # there is no file of its data
    assert "W1.npz" in result["error"] and "exit 1" in result["error"]


def test_a_python_that_is_not_there_makes_its_peers_absent(tmp_path):
    assert "is not there" in jobs.describe(jobs.Setting(tmp_path, python="/no/python"), "torch")["absent"]


def test_slow_forms_run_only_when_asked_for():
    forms = [{"name": n, "environment": {}, "slow": n == "b", "aside": False} for n in "ab"]
    found = {"variants": {"W1": forms, "W2": forms}}
    assert [j.variant for j in jobs.chosen("torch", found, ["W1"], slow=False)] == ["a"]
    assert [j.name for j in jobs.chosen("torch", found, ["W2"], slow=True)] == ["W2 torch a", "W2 torch b"]


def test_a_missing_package_is_named_with_the_pip_line():
    reason = missing({"surely-not-installed": "surely-not-installed>=2", "numpy": "numpy"})
    assert reason == "surely-not-installed not installed: pip install 'surely-not-installed>=2' numpy"
    assert missing({"numpy": "numpy"}) is None


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_without_its_package_describes_itself_as_absent(name, monkeypatch):
    monkeypatch.setattr("peers.base._installed", lambda package: False)
    assert f"pip install {name}" in peer.describe(name, "cpu")["absent"]


def test_an_absent_peer_is_reported_and_not_run(monkeypatch, capsys):
    def describe(setting, name):
        return {"absent": "pip install jax"} if name == "jax" else numpy

    numpy = peer.describe("numpy", "cpu")
    monkeypatch.setattr(jobs, "describe", describe)
    monkeypatch.setattr(jobs, "sgemm", lambda setting: 50.0)
    ran = []
    measured = {"step_s": 1.0, "loss": 1.0, "gflops": 1.0, "peak_mb": 1.0, "first_s": 1.0, "first_steps": 1}
    monkeypatch.setattr(jobs, "run", lambda setting, job: ran.append(job.name) or measured)
    assert run.main(["--peers", "jax,numpy", "--workloads", "W5", "--rounds", "2"]) == 0
    assert ran == ["W5 numpy planned"] * 2
    assert "## Absent\n\n- jax: pip install jax" in capsys.readouterr().out


def test_a_job_that_fails_is_not_tried_again_and_the_run_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "describe", lambda setting, name: peer.describe("numpy", "cpu"))
    monkeypatch.setattr(jobs, "sgemm", lambda setting: None)
    ran = []
    monkeypatch.setattr(jobs, "run", lambda setting, job: ran.append(job) or {"error": "broken"})
    out = tmp_path / "new" / "result.json"
    assert run.main(["--peers", "numpy", "--workloads", "W5", "--rounds", "3", "--out", str(out)]) == 1
    assert len(ran) == 1
    assert json.loads(out.read_text())["results"][0]["error"] == "broken"
    assert "W5 numpy planned: broken" in out.with_suffix(".md").read_text()


def test_rounds_alternate_the_order(monkeypatch):
    forms = [{"name": n, "environment": {}, "slow": False, "aside": False} for n in "ab"]
    monkeypatch.setattr(jobs, "describe", lambda setting, name: {"versions": "1", "variants": {"W5": forms}})
    monkeypatch.setattr(jobs, "sgemm", lambda setting: None)
    ran = []
    measured = {"step_s": 1.0, "loss": 1.0, "gflops": 1.0, "peak_mb": 1.0, "first_s": 1.0, "first_steps": 1}
    monkeypatch.setattr(jobs, "run", lambda setting, job: ran.append(job.variant) or measured)
    run.main(["--peers", "numpy", "--workloads", "W5", "--rounds", "2"])
    assert ran == ["a", "b", "b", "a"]


def test_knetc_stands_for_its_back_ends():
    assert run.peer_names("torch,knetc") == ["torch", *run.OURS]
    assert run.peer_names("knetc-cpu,knetc")[0] == "knetc-cpu"
    assert "knetc-numpy" in run.OURS and "knetc-auto" not in run.OURS


@pytest.mark.parametrize(
    "line", ["--workloads W9", "--peers theano", "--rounds 0", "--workloads W7", "--out results.txt", "--device tpu"]
)
def test_a_wrong_command_line_is_refused(line, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(line.split())
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err
