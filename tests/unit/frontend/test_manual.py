"""Every @knet function of the manual is read and lowered, in groups as the manual's lessons define them."""

from __future__ import annotations

import re

import pytest
from manual import LESSONS

from knetc.errors import Source
from knetc.frontend.lower import lower
from knetc.values import Value

# Definitions that are only of use with sizes given, as the manual gives them.
SIZES: dict[str, dict[str, Value]] = {
    "conv_pool_layer": {"pwindow": 2},
    "generic_layer": {"wdims": (2, 0), "bdims": (2, 1)},
    "charlm2": {"nlayer": 2},
}

ALL = [(lesson, name) for lesson, text in LESSONS.items() for name in re.findall(r"@knet function (\w+)", text)]


@pytest.mark.parametrize(("lesson", "name"), ALL, ids=[f"{lesson}-{name}" for lesson, name in ALL])
@pytest.mark.parametrize("ending", ["knet", "jl"])
def test_lowers(lesson: str, name: str, ending: str) -> None:
    text = LESSONS[lesson]
    keywords = SIZES.get(name, {}) if f"{name}(x; " in text else {}
    p = lower(Source(f"manual.{ending}", text), name, keywords)
    assert p.name == name
    assert any(i.out == "return" for i in p.variants[0].forward)
    assert p.conditions == (("dropout",) if name in ("drop", "lenet5", "charlm", "charlm2", "lstmdrop") else ())
