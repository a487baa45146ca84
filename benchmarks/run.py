"""knetc beside PyTorch, JAX and hand-written NumPy: one command, one table.

    python benchmarks/run.py [--workloads W1,W3] [--peers torch,jax,numpy,knetc-numpy,knetc-cpu] [--rounds 4]
                             [--device cpu|cuda] [--python PATH] [--out benchmarks/results/NAME.json]

Each measurement is a process of its own; in every round each job runs once, so that the machine's changes of speed
meet all of them. All start from the same weights and data, and their losses are compared. See README.md beside this
file. Exit status: 0, or 1 where a measurement failed or a loss differs, or 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jobs
import table
import workloads
from peers import KNETC, PEERS
from workloads import WORKLOADS

from knetc.runtime.backends import BACKENDS

OURS = tuple(KNETC + backend for backend in BACKENDS if backend != "auto")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, writes them."""
    args = arguments(argv)
    if args.show:
        print(table.markdown(json.loads(args.show.read_text())))
        return 0
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="knetc-bench-") as folder:
        setting = jobs.Setting(Path(folder), args.device, args.threads, args.seconds, args.limit, args.python)
        report = measure(args, setting)
    text = table.markdown(report)
    print("\n" + text)
    if args.out:
        write(report, args.out)
        args.out.with_suffix(".md").write_text(text)
    found = table.rows(report["results"])
    return int(not all(row.agrees and row.error is None for row in found))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    p.add_argument(
        "--peers", type=peer_names, default=[*PEERS, *OURS], help=f"of {', '.join((*PEERS, 'knetc', *OURS))}"
    )
    p.add_argument("--rounds", type=int, default=4)
    p.add_argument("--seconds", type=float, default=2.0, help="how long one measurement lasts, its start not counted")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    p.add_argument("--threads", type=int, default=_cores(), help="cores that every process may use (default: all)")
    p.add_argument("--python", default=sys.executable, help="the Python that has PyTorch and JAX (default: this one)")
    p.add_argument("--limit", type=float, default=900, help="seconds after which a measurement is given up")
    p.add_argument("--slow", action="store_true", help="also the forms that take minutes to compile")
    p.add_argument("--out", type=Path, help="where to write the results (.json) and the tables (.md beside it)")
    p.add_argument("--show", type=Path, metavar="JSON", help="print the tables of an earlier run, and measure nothing")
    args = p.parse_args(argv)
    if args.out and args.out.suffix != ".json":
        p.error("--out names a .json file; the tables go into a .md file beside it")
    args.workloads = [name for name in args.workloads if args.device in WORKLOADS[name].devices]
    if min(args.rounds, args.threads, len(args.workloads)) < 1:
        p.error("at least one round, one thread and one workload of the device are wanted")
    return args


def _names(known: Sequence[str] | dict[str, Any]) -> Any:
    """A reader of lists of names."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read


def peer_names(text: str) -> list[str]:
    """A list of peers; `knetc` stands for all its back ends."""
    names = _names((*PEERS, "knetc", *OURS))(text)
    return list(dict.fromkeys(each for name in names for each in (OURS if name == "knetc" else (name,))))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(args: argparse.Namespace, setting: jobs.Setting) -> dict[str, Any]:
    """Runs everything in rounds. An interrupt ends it; what there is by then comes back."""
    report: dict[str, Any] = {"about": about(args), "peers": {}, "sgemm": [], "results": []}
    todo: list[jobs.Job] = []
    for peer in args.peers:
        found = report["peers"][peer] = jobs.describe(setting, peer)
        _say(f"{peer}: {found.get('versions') or 'absent: ' + found['absent']}")
        todo += jobs.chosen(peer, found, args.workloads, args.slow)
    try:
        for name in args.workloads:
            workloads.make(WORKLOADS[name], workloads.real_data()).save(setting.problem(name))
        for number in range(args.rounds):
            _round(number, args, todo, setting, report)
            if args.out:
                write(report, args.out)  # what was measured outlives a run that is killed
    except KeyboardInterrupt:
        _say("interrupted")
    return report


def _round(
    number: int, args: argparse.Namespace, todo: Sequence[jobs.Job], setting: jobs.Setting, report: dict[str, Any]
) -> None:
    """Runs every job once but those that failed before; adds what came to the report."""
    failed = {(m["workload"], m["peer"], m["variant"]) for m in report["results"] if "error" in m}
    report["sgemm"].append(jobs.sgemm(setting))
    for name in args.workloads:
        turn = [job for job in todo if job.workload == name and (name, job.peer, job.variant) not in failed]
        for job in turn if number % 2 == 0 else turn[::-1]:
            result = jobs.run(setting, job)
            said = result.get("error") or table.seconds(result["step_s"])
            _say(f"round {number + 1} of {args.rounds}  {job.name}: {said}")
            who = {"workload": name, "peer": job.peer, "variant": job.variant, "aside": job.aside, "round": number}
            report["results"].append({**who, **result})


def write(report: dict[str, Any], path: Path) -> None:
    """The measurements as JSON."""
    path.write_text(json.dumps(report, indent=1) + "\n")


def about(args: argparse.Namespace) -> dict[str, Any]:
    """How the run was taken, for its head."""
    set_here = [name for name in jobs.DROPPED if name in os.environ]
    return {
        "device": args.device,
        "machine": processor(),
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "threads": f"{args.threads} of {_cores()} cores, for every process alike",
        "rounds": f"{args.rounds}, jobs in turns, a process each; medians over rounds, (least..most)",
        "data": "MNIST and Shakespeare" if workloads.real_data() else "random, of the statistics of MNIST and text",
        "losses": f"compared after the first pass, relative tolerance {workloads.TOLERANCE}",
        "environment": f"{' and '.join(jobs.DROPPED)} dropped for every process alike "
        f"({', '.join(set_here) + ' set here' if set_here else 'neither is set here'})",
    }


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
