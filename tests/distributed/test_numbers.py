"""The same numbers, whatever the number of processes: real runs by mpirun, compared with one process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import knetc
from distributed import cases
from distributed.launch import HERE, launch

BACKENDS = ("numpy", "cpu")


@cache
def alone(backend: str) -> dict[str, np.ndarray]:
    """The numbers of one process, in float64."""
    make = cases.maker(backend, "f64", shared=False)
    return {f"{case.__name__}.{name}": value for case in cases.CASES for name, value in case(make).items()}


def together(ranks: int, backend: str, dtype: str, folder: Path) -> list[dict[str, np.ndarray]]:
    """The numbers of each of so many processes."""
    done = launch(ranks, HERE / "cases.py", backend, dtype, str(folder))
    assert done.returncode == 0, done.stderr
    found = []
    for rank in range(ranks):
        with np.load(folder / f"rank{rank}.npz") as file:
            found.append({name.replace("|", "/"): file[name] for name in file.files})
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_number_of_processes_trains_the_same_model(backend: str, ranks: int, tmp_path: Path) -> None:
    wanted = alone(backend)
    for found in together(ranks, backend, "f64", tmp_path):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_run_and_every_process_has_the_same_bits(backend: str, tmp_path: Path) -> None:
    runs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        runs += together(3, backend, "f32", tmp_path / name)
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert other[name].tobytes() == value.tobytes(), name


def test_the_example_comes_to_the_same_model(tmp_path: Path) -> None:
    """Whatever it says of the time, what it says of the model is the same."""
    said = []
    for ranks in (1, 2):
        saved = tmp_path / f"{ranks}.knet"
        arguments = ("--epochs", "1", "--backend", "numpy", "--save", str(saved))
        done = launch(ranks, HERE.parents[1] / "examples" / "distributed.py", *arguments)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith(f"{ranks} processes, epoch 1: loss ")
        said.append(line.split("wrong")[1].split("%")[0])
        assert knetc.load(saved, "model", backend="numpy").params()
    assert abs(float(said[0]) - float(said[1])) < 1  # rounding may turn an image of the 500
