"""The pictures of the MNIST example show what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import knetc

EXAMPLES = Path(__file__).parents[2] / "examples"
image = pytest.importorskip("matplotlib.image", reason="the plots need matplotlib, of the dev extra")


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import plots

    return plots


@pytest.mark.parametrize("layer", ["wconv(x; out=3, window=5)", "wdot(x; out=3)"])
def test_a_unit_answers_most_to_its_pattern(layer: str, plots: ModuleType) -> None:
    """Of all images of one length, the one along w gives the largest product with it, which is w's own square."""
    net = knetc.compile(f"@knet function f(x)\n return {layer}\nend\n", backend="numpy", seed=2, dtype="f64")
    net.forw(np.zeros((5, 5, 1, 1)))
    (name,) = net.params()
    found = plots.patterns(net.get(name))
    assert found.shape == (3, 5, 5)
    x = np.asfortranarray(found.transpose(2, 1, 0)[:, :, None])  # as the examples read images: along rows first
    answers = net.forw(x).reshape(3, 3)
    squares = np.square(found).sum(axis=(1, 2))
    np.testing.assert_allclose(np.diag(answers), squares)
    assert np.square(net.get(name)).sum() == pytest.approx(squares.sum())


def test_confusion_counts_answers(plots: ModuleType) -> None:
    net = knetc.compile("@knet function f(x)\n return copy(x)\nend\n", backend="numpy")
    digits, answers = [0, 0, 2, 1, 2], [0, 1, 2, 1, 0]
    eye = np.eye(3, dtype=np.float32)
    data = knetc.minibatch(np.asfortranarray(eye[:, answers]), np.asfortranarray(eye[:, digits]), 2)
    np.testing.assert_array_equal(plots.confusion(net, data), [[1, 1, 0], [0, 1, 0], [1, 0, 1]])


def test_curves_are_those_of_the_rows(plots: ModuleType) -> None:
    rows = [
        {"epoch": 1, "train_loss": 0.5, "test_loss": 0.6, "train_error": 0.1, "test_error": 0.2},
        {"epoch": 2, "train_loss": 0.25, "test_loss": 0.5, "train_error": 0.05, "test_error": 0.125},
    ]
    loss, error = plots.curves(rows).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in loss.lines}
    assert drawn == {"training": [0.5, 0.25], "test": [0.6, 0.5]}
    assert {line.get_label(): list(line.get_ydata()) for line in error.lines} == {
        "training": [10, 5],
        "test": [20, 12.5],
    }


@pytest.mark.parametrize("model", ["softmax", "lenet"])
def test_the_example_draws_them(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    command = [sys.executable, str(EXAMPLES / "mnist.py"), model, "--digits", "--epochs", "1", "--plots", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["confusion.png", "curves.png", "patterns.png"]
    for path in folder.iterdir():
        assert np.ptp(image.imread(path)[..., :3]) > 0.5, "nothing is drawn"


def test_as_many_tiles_as_units(plots: ModuleType) -> None:
    figure = plots.show(plots.patterns(np.ones((5, 5, 1, 13))), "w")
    assert sum(len(tile.images) for tile in figure.axes) == 13
