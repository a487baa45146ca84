"""The same numbers, whatever the number of processes: real runs, compared with one process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import knetc
from distributed import cases, orders
from distributed.launch import BOTH, HERE, launch

BACKENDS = ("numpy", "cpu")
DEEP = pytest.mark.deep


@cache
def alone(backend: str) -> dict[str, np.ndarray]:
    """The numbers of one process, in float64."""
    return cases.numbers(cases.maker(backend, "f64", shared=False))


def together(
    ranks: int, backend: str, dtype: str, folder: Path, only: Sequence[str] = (), by: str = "mpirun"
) -> list[cases.Numbers]:
    """The numbers of each of so many processes, of all cases or only some."""
    done = launch(ranks, HERE / "cases.py", backend, dtype, str(folder), *only, by=by)
    assert done.returncode == 0, done.stderr
    found = []
    for rank in range(ranks):
        with np.load(folder / f"rank{rank}.npz") as file:
            found.append({name.replace("|", "/"): file[name] for name in file.files})
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by", ["mpirun", pytest.param("variables", marks=DEEP)])
def test_any_number_of_processes_trains_the_same_model(by: str, backend: str, ranks: int, tmp_path: Path) -> None:
    wanted = alone(backend)
    for found in together(ranks, backend, "f64", tmp_path, by=by):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("by", BOTH)
@pytest.mark.parametrize("only", [("sequence", "even_run"), pytest.param((), marks=DEEP)])
def test_emitted_cuda_sums_by_nccl(only: tuple[str, ...], by: str, tmp_path: Path) -> None:
    """On the emulation, by its look-alike of NCCL; what it comes to is what the interpreter comes to alone."""
    wanted = alone("numpy")
    for found in together(3, "emulated", "f64", tmp_path, only, by):
        assert found.keys() == {name for name in wanted if not only or name.split(".")[0] in only}
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_steps_of_training_are_graphs_with_their_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where KNETC_GRAPH_SUMS says that all processes have as many columns; the look-alike ends a process that captures
    a sum which another does not. What they do not share evenly is an error.
    """
    monkeypatch.setenv("KNETC_GRAPH_SUMS", "1")
    wanted = alone("numpy")
    for found in together(3, "emulated", "f64", tmp_path, ("even_run",)):
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name], rtol=1e-8, atol=1e-10, err_msg=name)
    done = launch(3, HERE / "cases.py", "emulated", "f64", str(tmp_path), "whole_run")
    assert done.returncode and "must be shared evenly by the 3 processes" in done.stderr


@pytest.mark.parametrize("ways", [BOTH, pytest.param(BOTH + BOTH, marks=DEEP)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_run_and_every_process_has_the_same_bits(backend: str, ways: tuple[str, ...], tmp_path: Path) -> None:
    """However the processes were started."""
    runs = []
    for k, by in enumerate(ways):
        (tmp_path / str(k)).mkdir()
        runs += together(3, backend, "f32", tmp_path / str(k), by=by)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert other[name].tobytes() == value.tobytes(), name


ORDERS = [("numpy", 2, 6, ()), ("cpu", 3, 3, ()), ("emulated", 1, 12, DEEP), ("emulated", 3, 12, DEEP)]


@pytest.mark.parametrize(("backend", "ranks", "seeds"), [pytest.param(*case, marks=marks) for *case, marks in ORDERS])
@pytest.mark.parametrize("by", ["mpirun", pytest.param("variables", marks=DEEP)])
def test_calls_in_any_order_give_what_one_process_gets(
    by: str, backend: str, ranks: int, seeds: int, tmp_path: Path
) -> None:
    done = launch(ranks, HERE / "orders.py", backend, "0", str(seeds), str(tmp_path), by=by, timeout=900)
    assert done.returncode == 0, done.stderr
    wanted = orders.played(cases.maker("numpy", "f64", shared=False), 0, seeds)
    for rank in range(ranks):
        found = pickle.loads((tmp_path / f"rank{rank}.pickle").read_bytes())
        assert found.keys() == wanted.keys()
        for key, said in wanted.items():
            assert [name for name, _ in found[key]] == [name for name, _ in said], key
            for k, ((name, value), (_, other)) in enumerate(zip(said, found[key], strict=True)):
                alike(value, other, f"{key}, call {k}, {name}")


def alike(wanted: object, found: object, what: str) -> None:
    """The same but for rounding."""
    assert (wanted is None) == (found is None), what
    if isinstance(wanted, list | tuple):
        assert len(wanted) == len(found), what
        for one, other in zip(wanted, found, strict=True):
            alike(one, other, what)
    elif wanted is not None:
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9, err_msg=what)


def test_the_example_comes_to_the_same_model(tmp_path: Path) -> None:
    """Whatever it says of the time, what it says of the model is the same."""
    said = []
    for ranks, by in ((1, "variables"), (2, "mpirun"), (2, "variables")):
        saved = tmp_path / f"{ranks}{by}.knet"
        arguments = ("--epochs", "1", "--backend", "numpy", "--save", str(saved))
        done = launch(ranks, HERE.parents[1] / "examples" / "distributed.py", *arguments, by=by)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"{ranks} processes, epoch 1: loss ")
        said.append(line.split("wrong")[1].split("%")[0])
        assert knetc.load(saved, "model", backend="numpy").params()
    assert said[1] == said[2]
    assert abs(float(said[0]) - float(said[1])) < 1  # rounding may turn an image of the 500
