"""What `backend="auto"` takes, and where it says so: in `repr(net)` and in the log, with the reason."""

from __future__ import annotations

import logging

import pytest

import knetc
from knetc.runtime import backends, cpu, cuda

SOURCE = "@knet function f(x)\n return wb(x; out=3)\nend"


@pytest.mark.parametrize(
    ("lacks_cuda", "lacks_cpu", "chosen", "reason"),
    [
        (None, None, "cuda", "a device is there"),
        ("no driver", None, "cpu", "cuda cannot run: no driver"),
        ("no driver", "no compiler", "numpy", "cuda cannot run: no driver; cpu cannot run: no compiler"),
    ],
)
def test_auto_takes_the_best_that_can_run_and_says_why(
    lacks_cuda: str | None,
    lacks_cpu: str | None,
    chosen: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cuda, "available", lambda: lacks_cuda)
    monkeypatch.setattr(cpu, "available", lambda: lacks_cpu)
    with caplog.at_level(logging.INFO, "knetc"):
        net = knetc.compile(SOURCE)
    assert f"{chosen} (auto; {reason})" in repr(net)
    assert f"backend auto: {chosen}, since {reason}" in caplog.text


def test_a_back_end_by_its_name_is_taken_or_refused_and_never_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in backends.BACKENDS[1:]:
        assert backends.choose(name) == (name, name)
    with pytest.raises(knetc.KnetNameError, match="there is no back end 'gpu'"):
        backends.choose("gpu")
