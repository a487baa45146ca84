"""Jobs: one form of one workload in one peer, and the process that measures it.

Before it: `run.py`, which decides what to run. After it: `peer.py`, the process, whose JSON line comes back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PEER = Path(__file__).with_name("peer.py")
# Set by some environments to work round faults of old machines; they can halve the speed of matrix products.
DROPPED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CACHES = ("KNETC_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
ELSEWHERE = ("torch", "jax")  # peers that --python may keep in an environment of their own


@dataclass(frozen=True)
class Job:
    """One form of one workload in one peer (see `peers.base.Variant`)."""

    workload: str
    peer: str
    variant: str
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)
    aside: bool = False

    @property
    def name(self) -> str:
        return f"{self.workload} {self.peer} {self.variant}"


@dataclass(frozen=True)
class Setting:
    """What all jobs of a run have in common. `folder`: for the problems and caches, made and removed by the run."""

    folder: Path
    device: str = "cpu"
    threads: int = 1
    seconds: float = 2.0
    limit: float = 900.0
    python: str = sys.executable

    def problem(self, workload: str) -> Path:
        return self.folder / f"{workload}.npz"


def environment(setting: Setting, job: Job | None, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job's process (None: of one that measures no peer), from this process's, `base`."""
    env = {name: value for name, value in base.items() if name not in DROPPED}
    env.update(dict.fromkeys(POOLS, str(setting.threads)))
    if job is not None:
        # Empty in the first round: its time to the first step is a cold one, and the later rounds' are warm.
        cache = setting.folder / "caches" / job.name.replace(" ", "-")
        env.update({name: str(cache / name) for name in CACHES}, **job.environment)
    return env


def interpreter(setting: Setting, peer: str) -> str:
    """The Python that runs a peer."""
    return setting.python if peer in ELSEWHERE else sys.executable


def describe(setting: Setting, peer: str) -> dict[str, Any]:
    """What the peer has on the device: {"absent": why} or {"versions": text, "variants": {workload: [variant]}}."""
    command = [interpreter(setting, peer), str(PEER), peer, "--describe", "--device", setting.device]
    found = _call(command, environment(setting, None, os.environ), setting.limit)
    return {"absent": found["error"]} if "error" in found else found


def chosen(peer: str, found: Mapping[str, Any], workloads: list[str], slow: bool) -> list[Job]:
    """The jobs of a peer as `describe` found it; none where it is absent."""
    forms = found.get("variants", {})
    return [
        Job(name, peer, v["name"], v["environment"], v["aside"])
        for name in workloads
        for v in forms.get(name, [])
        if slow or not v["slow"]
    ]


def run(setting: Setting, job: Job) -> dict[str, Any]:
    """One measurement as `peer.measure` gives it, or {"error": what went wrong}."""
    command = [interpreter(setting, job.peer), str(PEER), job.peer, job.workload, job.variant]
    command += ["--problem", str(setting.problem(job.workload)), "--device", setting.device]
    command += ["--threads", str(setting.threads), "--seconds", str(setting.seconds), "--started", str(time.time())]
    return _call(command, environment(setting, job, os.environ), setting.limit)


def sgemm(setting: Setting) -> float | None:
    """The machine's rate of float32 matrix products now, GFLOP/s; None where nothing can tell."""
    python = setting.python if setting.device == "cuda" else sys.executable
    command = [python, str(PEER), "sgemm", "--device", setting.device, "--threads", str(setting.threads)]
    return _call(command, environment(setting, None, os.environ), setting.limit).get("gflops")


def _call(command: list[str], env: Mapping[str, str], limit: float) -> dict[str, Any]:
    """The JSON line that a process prints last."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit)
    except FileNotFoundError:
        return {"error": f"{command[0]} is not there"}
    except subprocess.TimeoutExpired:
        return {"error": f"not ready after {limit:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"{last[:300]} (exit {done.returncode})"}
    return parse(done.stdout)


def parse(output: str) -> dict[str, Any]:
    """The last line of what a process printed, as JSON: libraries may print lines of their own before it."""
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        found = None
    return found if isinstance(found, dict) else {"error": f"no result in what it printed: {output.strip()[-300:]!r}"}
