"""What a peer is made of. `peer.py` calls it; `torch.py`, `jax.py`, `numpy.py` and `knetc.py` are peers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from workloads import Problem, Workload


@dataclass(frozen=True)
class Variant:
    """One form of a workload in a peer.

    `environment`: variables that its process needs. `slow`: it takes minutes to start, so it runs only when asked for.
    `aside`: shown but not compared with, as it is not what the others compute.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False
    aside: bool = False


@dataclass(frozen=True)
class Task:
    """What a peer's process is asked to run."""

    workload: Workload
    variant: str
    device: str
    threads: int
    problem: Problem

    @property
    def flags(self) -> set[str]:
        """The parts of the variant's name."""
        return set(self.variant.split("+"))


class Runner(Protocol):
    """A workload ready to run."""

    whole: bool  # whether `run` can only do a whole pass

    def run(self, first: int, last: int) -> None:
        """Does the steps from `first` to `last` (exclusive) and waits until they are finished.

        A character model's state is zero at the start of each call.
        """

    def loss(self) -> float:
        """The mean cross entropy over the first `workload.checked` minibatches, by the parameters as they stand (a
        character model: over the first window, from a state of zero)."""


class Peer(Protocol):
    """A module or an object with these functions."""

    def absent(self, device: str) -> str | None:
        """None where the peer can run on `device` (cpu or cuda) here; else why not, and what brings it."""

    def versions(self) -> str:
        """The packages that decide its speed, with their versions."""

    def variants(self, workload: Workload, device: str) -> list[Variant]:
        """The forms in which it runs the workload; none where it cannot."""

    def build(self, task: Task) -> Runner:
        """Imports the package and makes everything ready, the first step excepted."""


def missing(requirements: Mapping[str, str]) -> str | None:
    """None where every package is installed; else which are not, and the pip line. `requirements`: package → what to
    ask pip for."""
    lacking = [package for package in requirements if not _installed(package)]
    if not lacking:
        return None
    wanted = " ".join(f"'{r}'" if not r.isalnum() else r for r in requirements.values())
    return f"{', '.join(lacking)} not installed: pip install {wanted}"


def packages(names: Mapping[str, str]) -> str:
    """`name version, …` of installed packages."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
