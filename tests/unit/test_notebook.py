"""The cell magic `%%knet` in IPython's own shell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

MLP = """\
@knet function mlp(x; hidden=32, f=:relu, nclass=3, winit=Xavier())
    h = wbf(x; out=hidden, f=f, winit=winit)
    return wbf(h; out=nclass, f=:soft)
end
"""


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    shell = InteractiveShell.instance()
    shell.colors = "nocolor"
    shell.run_line_magic("load_ext", "knetc.notebook")
    yield shell
    InteractiveShell.clear_instance()


def run(shell: InteractiveShell, cell: str) -> tuple[Any, Any]:
    with capture_output() as captured:
        result = shell.run_cell(cell)
    return result, captured


class Text(HTMLParser):
    text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_model_is_left_under_its_name(shell: InteractiveShell) -> None:
    result, captured = run(shell, "%%knet net backend=numpy hidden=7 f=:tanh winit=Gaussian(0, 0.5) seed=3\n" + MLP)
    assert result.success
    net = shell.user_ns["net"]
    assert net.backend == "numpy"
    y = net.forw(np.eye(5, dtype=np.float32))
    assert y.shape == (3, 5) and net.params()["h/w"] == (7, 5)
    assert np.abs(net.get("h")).max() < 1 and net.get("h").min() < 0  # tanh, not relu
    heading = "net = mlp: back end numpy, f32, sizes not known before the first forw"
    (shown,) = captured.outputs
    assert shown.data["text/plain"] == heading
    parser = Text()
    parser.feed(shown.data["text/html"])
    assert parser.text.split() == (MLP + heading).split()
    assert "<span style=" in shown.data["text/html"]


def test_a_definition_of_the_cell_may_be_named(shell: InteractiveShell) -> None:
    run(shell, "%%knet net model=mlp\n" + MLP + "@knet function other(x)\n return relu(x)\nend\n")
    assert repr(shell.user_ns["net"]).startswith("mlp:")


def test_a_python_value_can_be_put_in(shell: InteractiveShell) -> None:
    run(shell, "n = 4")
    run(shell, "%%knet net hidden={n+1}\n" + MLP)
    net = shell.user_ns["net"]
    net.forw(np.ones((2, 1)))
    assert net.params()["h/w"] == (5, 2)


def test_an_error_is_shown_as_a_diagnostic_and_ends_the_cell(shell: InteractiveShell) -> None:
    run(shell, "net = 'as it was'")
    result, captured = run(shell, "%%knet net\n" + MLP.replace("wbf(x", "wfb(x"))
    assert not result.success and shell.user_ns["net"] == "as it was"
    text = captured.stdout + captured.stderr
    assert "Traceback" not in text and "notebook.py" not in text
    assert text.splitlines()[-3:] == [  # the third line of the cell, as the notebook counts
        "%%knet net:3:9: error: unknown operator 'wfb'; did you mean 'wf'?",
        "      h = wfb(x; out=hidden, f=f, winit=winit)",
        "          ^^^",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the name that the model gets"),
        ("hidden=3", "the name that the model gets"),
        ("net hidden", "'hidden' is no KEY=VALUE"),
        ("net hidden=", "error"),
        ("net f=tanh", "tanh"),
        ("net hiden=3", "did you mean 'hidden'"),
        ("net backend=nowhere", "there is no back end 'nowhere'"),
        ("net dtype=f16", "dtype is 'f32' or 'f64'"),
    ],
)
def test_wrong_lines(shell: InteractiveShell, line: str, message: str) -> None:
    result, captured = run(shell, f"%%knet {line}\n{MLP}")
    text = captured.stdout + captured.stderr
    assert not result.success and message in text and "Traceback" not in text


def test_colours(shell: InteractiveShell) -> None:
    shell.colors = "linux"
    _, captured = run(shell, "%%knet net\n@knet function f(x)\n return rleu(x)\nend\n")
    assert "\x1b[1;31merror:" in captured.stdout + captured.stderr


def test_the_command_needs_no_ipython() -> None:
    assert "IPython" in sys.modules  # so this test would see it
    code = (
        "import knetc, knetc.cli, sys; knetc.compile; sys.exit('IPython' in sys.modules or 'pygments' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
