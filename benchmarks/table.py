"""From the measurements of a run to its tables: medians over rounds, ratios to the best peer, agreement of losses.

Before it: `run.py`, which gathers the measurements. What comes out is Markdown, for a terminal as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from peers import KNETC
from workloads import TOLERANCE, WORKLOADS, Workload

Measurement = dict[str, Any]


@dataclass
class Row:
    """A job with its measurements, one a round; `error` where one failed."""

    workload: str
    peer: str
    variant: str
    aside: bool
    rounds: dict[int, Measurement] = field(default_factory=dict)
    error: str | None = None
    agrees: bool = True  # its loss, with the other peers'

    @property
    def ours(self) -> bool:
        return self.peer.startswith(KNETC)

    @property
    def measured(self) -> bool:
        return bool(self.rounds)

    def median(self, key: str) -> float:
        return statistics.median(m[key] for m in self.rounds.values())

    def values(self, key: str) -> list[float]:
        return [m[key] for m in self.rounds.values() if m.get(key) is not None]


def rows(results: Sequence[Measurement]) -> list[Row]:
    """The measurements by job, in their order, and whether each job's loss agrees with the others'."""
    found: dict[tuple[str, str, str], Row] = {}
    for m in results:
        key = (m["workload"], m["peer"], m["variant"])
        row = found.setdefault(key, Row(*key, aside=m["aside"]))
        if "error" in m:
            row.error = m["error"]
        else:
            row.rounds[m["round"]] = m
    for name in dict.fromkeys(key[0] for key in found):
        of_workload = [row for row in found.values() if row.workload == name and row.measured]
        expected = reference_loss(of_workload)
        for row in of_workload:
            row.agrees = all(abs(loss - expected) <= TOLERANCE * abs(expected) for loss in row.values("loss"))
    return list(found.values())


def reference_loss(of_workload: Sequence[Row]) -> float:
    """The median over the peers (knetc is one) of each one's median loss, so that no peer outvotes the others."""
    by_peer: dict[str, list[float]] = {}
    for row in of_workload:
        by_peer.setdefault(KNETC if row.ours else row.peer, []).extend(row.values("loss"))
    return statistics.median([statistics.median(losses) for losses in by_peer.values()] or [0.0])


def best(candidates: Sequence[Row]) -> Row | None:
    """The fastest of those that ran, agree and are not aside."""
    fit = [row for row in candidates if row.measured and row.agrees and not row.aside]
    return min(fit, key=lambda row: row.median("step_s"), default=None)


def ratios(row: Row, other: Row) -> list[float]:
    """The times of `row` as multiples of the other's, one a round that has both: the machine's speed drops out."""
    shared = [r for r in row.rounds if r in other.rounds]
    return [row.rounds[r]["step_s"] / other.rounds[r]["step_s"] for r in shared]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(report: dict[str, Any]) -> str:
    """The whole report: how it was taken, the summary, a table a workload, what failed or was absent."""
    all_rows = rows(report["results"])
    device = report["about"]["device"]
    names = [name for name in WORKLOADS if any(row.workload == name for row in all_rows)]
    parts = [_about(report), "## knetc beside the best peer\n\n" + _summary(all_rows, names, report)]
    for name in names:
        parts.append(f"## {name}: {WORKLOADS[name].title}\n\n" + _table(all_rows, name, device))
    return "\n\n".join([*parts, *_notes(report, all_rows)]) + "\n"


def _about(report: dict[str, Any]) -> str:
    about = report["about"]
    lines = ["# Benchmark", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in about.items()]
    rates = [rate for rate in report["sgemm"] if rate]
    if rates:
        lines.append(f"- float32 matrix product here: {spread(rates, '{:.0f}'.format)} GFLOP/s")
    others = [m["others"] for m in report["results"] if m.get("others") is not None]
    if others:
        lines.append(f"- cores that other processes took meanwhile: {spread(others, '{:.2f}'.format)}")
        if statistics.median(others) > 0.2:
            lines.append("- **The machine was busy: these times mean little.**")
    lines += [f"- {name}: {found['versions']}" for name, found in report["peers"].items() if "versions" in found]
    return "\n".join(lines)


def _summary(all_rows: Sequence[Row], names: Sequence[str], report: dict[str, Any]) -> str:
    """A line for each workload and back end of knetc, in its fastest form."""
    head = [
        "workload",
        "best peer",
        "a step",
        "knetc",
        "a step",
        "× best peer",
        "aim",
        "first step, least",
        "peak MB, peer's",
    ]
    lines = []
    for name in names:
        here = [row for row in all_rows if row.workload == name]
        peer = best([row for row in here if not row.ours])
        for backend in dict.fromkeys(row.peer for row in here if row.ours):
            own = best([row for row in here if row.peer == backend])
            cells = [name, f"{peer.peer} {peer.variant}" if peer else "none", _step(peer)]
            cells += [f"{backend.removeprefix(KNETC)} {own.variant}" if own else f"{backend}: none", _step(own)]
            found = ratios(own, peer) if own and peer else []
            cells.append(spread(found, "{:.2f}".format) if found else "")
            cells.append(_aim(WORKLOADS[name], own, report))
            cells.append(seconds(min(own.values("first_s"))) if own else "")
            cells.append(f"{memory(own):.0f}, {memory(peer):.0f}" if own and peer else "")
            lines.append(cells)
    return _grid(head, lines)


def _aim(workload: Workload, own: Row | None, report: dict[str, Any]) -> str:
    device = report["about"]["device"]
    share = workload.ceiling.get(device)
    if share is not None:
        rates = [rate for rate in report["sgemm"] if rate]
        reached = own.median("gflops") / statistics.median(rates) if own and rates else None
        return f"≥ {share} of the matrix product's rate" + (f", is {reached:.2f}" if reached is not None else "")
    aim = workload.aims.get(device)
    return "none" if aim is None else f"≤ {aim}"


def _table(all_rows: Sequence[Row], name: str, device: str) -> str:
    here = [row for row in all_rows if row.workload == name]
    peer = best([row for row in here if not row.ours])
    head = ["peer", "form", "a step", "× best peer", "GFLOP/s", "first call, cold", "warm", "peak MB", "loss"]
    head += ["GPU MB"] if device == "cuda" else []
    lines = []
    for row in here:
        if not row.measured:
            continue
        cold = row.rounds.get(0)
        warm = [m["first_s"] for r, m in row.rounds.items() if r]
        calls = "" if row.median("first_steps") == 1 else f" ({row.median('first_steps'):.0f} steps)"
        note = " (aside)" if row.aside else " (best peer)" if row is peer else ""
        found = ratios(row, peer) if peer else []
        cells = [row.peer, row.variant + note, _step(row), f"{statistics.median(found):.2f}" if found else ""]
        cells += [f"{row.median('gflops'):.1f}", seconds(cold["first_s"]) + calls if cold else ""]
        cells += [seconds(statistics.median(warm)) if warm else "", f"{row.median('peak_mb'):.0f}"]
        cells.append(f"{row.median('loss'):.6g}" + ("" if row.agrees else " DIFFERS"))
        lines.append(cells + ([f"{row.median('gpu_mb'):.0f}"] if device == "cuda" else []))
    return _grid(head, lines)


def _notes(report: dict[str, Any], all_rows: Sequence[Row]) -> list[str]:
    absent = [f"- {name}: {found['absent']}" for name, found in report["peers"].items() if "absent" in found]
    failed = [f"- {row.workload} {row.peer} {row.variant}: {row.error}" for row in all_rows if row.error]
    differ = [f"- {row.workload} {row.peer} {row.variant}" for row in all_rows if not row.agrees]
    notes = ["## Absent\n\n" + "\n".join(absent)] if absent else []
    notes += ["## Failed\n\n" + "\n".join(failed)] if failed else []
    notes += [f"## Losses that differ by more than {TOLERANCE} (not compared with)\n\n" + "\n".join(differ)] * bool(
        differ
    )
    return notes


def _step(row: Row | None) -> str:
    return spread(row.values("step_s"), seconds) if row else ""


def memory(row: Row) -> float:
    """Peak memory in MB: the GPU's where there is one."""
    return row.median("gpu_mb" if row.values("gpu_mb") else "peak_mb")


def spread(values: Sequence[float], text: Callable[[float], str]) -> str:
    """`median (least..most)`, or the value where there is one."""
    middle = text(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({text(min(values))}..{text(max(values))})"


def seconds(value: float) -> str:
    """A time with three digits and its unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs":
            scaled = value * factor
            return f"{scaled:.{max(0, 2 - len(str(int(scaled))) + 1)}f} {unit}"
    raise AssertionError


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, rule, *lines)
    )
