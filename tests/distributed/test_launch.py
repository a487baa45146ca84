"""What the launcher's variables say, and which way to the other processes follows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import knetc
from distributed.launch import environment
from distributed.variables import free_port
from knetc.runtime import launch, links

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "KNETC_PORT")
OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE")
WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
TORCHRUN = WHOLE | {"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Sets variables, where none of these is set."""
    for name in (*NAMES, *OTHERS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def told(say: pytest.MonkeyPatch, variables: dict[str, str]) -> launch.Launch | None:
    for name, value in variables.items():
        say.setenv(name, value)
    return launch.told()


def test_nobody_has_said_anything(say: pytest.MonkeyPatch) -> None:
    assert told(say, {}) is None


def test_one_process_needs_no_place_to_meet(say: pytest.MonkeyPatch) -> None:
    found = told(say, {"WORLD_SIZE": "1"})
    assert found and (found.rank, found.size) == (0, 1)


@pytest.mark.parametrize(
    ("variables", "ports"),
    [
        (WHOLE, (29500, 30500, 31500, 32500, 33500)),
        (WHOLE | {"MASTER_PORT": "60600"}, (60600, 59600, 58600, 57600, 56600)),
        (TORCHRUN, (30500, 31500, 32500, 33500, 34500)),  # torchrun itself listens at the first
        (TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "False"}, (29500, 30500, 31500, 32500, 33500)),
        (TORCHRUN | {"KNETC_PORT": "41"}, (41,)),
    ],
)
def test_where_rank_0_is_looked_for(say: pytest.MonkeyPatch, variables: dict[str, str], ports: tuple[int, ...]) -> None:
    found = told(say, variables)
    assert found and found.ports == ports and found.host == "node1"
    assert (found.rank, found.size, found.place) == (1, 4, 1 if "LOCAL_RANK" in variables else None)


def test_runs_are_told_apart_by_their_port_and_by_torchruns_name(say: pytest.MonkeyPatch) -> None:
    runs = [WHOLE, WHOLE | {"RANK": "3"}, WHOLE | {"MASTER_PORT": "29501"}, TORCHRUN]
    first, same, port, name = (told(say, variables) for variables in runs)
    assert first and same and port and name
    assert first.token == same.token and len({first.token, port.token, name.token}) == 3


WRONG = [
    ({"RANK": "4"}, "RANK is 4, and WORLD_SIZE 4: ranks go from 0 to 3"),
    ({"RANK": "-1"}, "RANK is '-1', and should be a number"),
    ({"RANK": "one"}, "RANK is 'one', and should be a number"),
    ({"RANK": ""}, "WORLD_SIZE is 4, and RANK is not set: start the processes by mpirun"),
    ({"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four', and should be a number from 1"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', and should be a number from 1"),
    ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
    ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
    ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
    ({"MASTER_PORT": "65536"}, "MASTER_PORT is '65536', and should be a number from 1 to 65535"),
    ({"KNETC_PORT": "0"}, "KNETC_PORT is '0'"),
]


@pytest.mark.parametrize(("variables", "text"), WRONG)
def test_variables_that_are_wrong(say: pytest.MonkeyPatch, variables: dict[str, str], text: str) -> None:
    with pytest.raises(knetc.KnetEnvironmentError) as raised:
        told(say, WHOLE | variables)
    assert text in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "size", "way"),
    [
        ({}, 1, "mpi"),
        (WHOLE, 1, "sockets"),
        (TORCHRUN, 1, "sockets"),
        ({"WORLD_SIZE": "1"}, 1, "sockets"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4, "mpi"),
        (WHOLE | {"OMPI_COMM_WORLD_SIZE": "4"}, 4, "mpi"),
        (WHOLE | {"PMI_SIZE": "4"}, 4, "mpi"),
        ({"WORLD_SIZE": "4", "PMIX_RANK": "1"}, 4, "mpi"),
        (WHOLE | {"PMIX_RANK": "0"}, 1, "sockets"),
        (WHOLE | {"OMPI_COMM_WORLD_SIZE": "1"}, 1, "sockets"),
        (TORCHRUN | {"PMIX_RANK": "0", "PMI_SIZE": "2"}, 2, "sockets"),  # one torchrun on each of two machines
    ],
)
def test_who_started_the_processes(say: pytest.MonkeyPatch, variables: dict[str, str], size: int, way: str) -> None:
    for name, value in variables.items():
        say.setenv(name, value)
    say.setattr(links, "_link", None)
    asked = []
    say.setattr(links, "_mpi", lambda: asked.append("mpi") or SimpleNamespace(size=size, way="mpi"))
    say.setattr(links, "_sockets", lambda told, start: SimpleNamespace(size=told.size, way="sockets"))
    assert links.find(1).way == way  # type: ignore[attr-defined]
    assert asked == ([way] if way == "mpi" else []), "an MPI that is not needed may be missing"


def test_mpi_that_knows_of_one_process_where_there_are_several_is_an_error(say: pytest.MonkeyPatch) -> None:
    """Each would train a model of its own without a word."""
    say.setenv("WORLD_SIZE", "4")
    say.setenv("PMIX_RANK", "1")
    say.setattr(links, "_link", None)
    say.setattr(links, "_mpi", lambda: SimpleNamespace(size=1))
    with pytest.raises(
        knetc.KnetEnvironmentError, match="RANK is not set: start the processes by mpirun, as in 'mpirun -n 4"
    ):
        links.find(1)


def test_a_process_that_is_alone_is_told_who_is_missing(tmp_path: Path) -> None:
    """Through `distribute` itself, without mpi4py; nothing is left to wait for at the end of the process."""
    text = "import knetc\nnet = knetc.compile('@knet function f(x)\\n return wb(x; out=2)\\nend\\n', backend='numpy')\n"
    (tmp_path / "train.py").write_text(text + "knetc.distribute(net, timeout=0.5, start=1)\n")
    variables = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for rank, said in (
        ("0", "ranks 1, 2 have not come to distribute a model within 1 seconds; rank 0 gives up"),
        ("2", "rank 0 has not come to distribute a model within 1 seconds; rank 2 gives up: it is looked for at"),
    ):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "train.py")],
            env=environment("variables") | variables | {"RANK": rank},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and said in done.stderr, done.stderr


def test_one_process_needs_no_mpi_and_takes_the_place_that_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import knetc\nfrom knetc.runtime import process\n"
        "net = knetc.compile('@knet function f(x)\\n return wb(x; out=2)\\nend\\n', backend='numpy')\n"
        "net = knetc.distribute(net)\nprint(net.rank, net.ranks, process.place(), net.forw([[1.0]]).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "train.py")],
        env=environment("variables") | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "3"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "1", "3", "(2,", "1)"], done.stderr
