"""`without_unused`: a helper stays in the emitted file where something that stays calls it."""

from __future__ import annotations

import pytest

from knetc.codegen.emit import without_unused

HELPERS = """\
//? knet_a
int knet_a();
//.
//? knet_b
int knet_b() { return knet_a(); }
//.
//? knet_c knet_b
// For both.
//.
//? knet_d
int knet_d() { return knet_d(); }
//.
"""


@pytest.mark.parametrize(
    "text,left",
    [
        ("", ""),
        ("knet_a();\n", "int knet_a();\n"),
        ("knet_b();\n", "int knet_a();\nint knet_b() { return knet_a(); }\n// For both.\n"),
        ("knet_c();\n", "// For both.\n"),
        ("my_knet_a();\nknet_ab();\n", ""),
        ("knet_d();\n", "int knet_d() { return knet_d(); }\n"),
    ],
)
def test_what_is_called_stays(text, left):
    assert without_unused(HELPERS + text) == left + text
