"""Every operator is complete: the registry walked field by field."""

import inspect
import subprocess
import sys

import pytest

from knetc.ops import registry
from knetc.ops.base import Elementwise, Kernel, Library, NoCode, Piece, View, register
from knetc.ops.sources import PAR

from .support import attributes

PRIMITIVES = {
    "par", "arr", "rnd", "dot", "add", "mul", "conv", "pool", "axpb", "copy", "relu", "sigm", "tanh", "soft",
}  # fmt: skip


def test_user_operators_are_the_primitives_of_the_language():
    assert {name for name, op in registry().items() if op.user} == PRIMITIVES


@pytest.mark.parametrize("op", registry().values(), ids=registry().keys())
def test_every_field_is_there(op):
    assert registry()[op.name] is op
    assert op.doc.endswith(".")
    assert all(name.isidentifier() for name in (*op.args, *op.keywords))
    assert callable(op.shape) and callable(op.numpy)
    assert isinstance(op.cuda, Elementwise | Piece | Kernel | Library | NoCode | View)
    assert set(op.reads) <= {*op.args, "out"}
    assert all(0 <= i < len(op.args) for i in op.weights)
    if op.gradient is None:
        assert not op.reads
        assert "gradient" in op.doc, "an operator without a gradient says why"


@pytest.mark.parametrize("op", registry().values(), ids=registry().keys())
def test_defaults_pass_their_own_checks(op):
    for name, keyword in op.keywords.items():
        assert keyword.check(keyword.default) is None, name
        assert not (op.user and name == "stream") or keyword.internal


@pytest.mark.parametrize("op", [op for op in registry().values() if op.name != "update"], ids=lambda op: op.name)
def test_numpy_takes_the_context_and_the_arguments(op):
    assert len(inspect.signature(op.numpy).parameters) == 1 + len(op.args)


@pytest.mark.parametrize(
    "op", [op for op in registry().values() if isinstance(op.cuda, Elementwise)], ids=lambda o: o.name
)
def test_elementwise_code_names_every_argument(op):
    expr = op.cuda.expr
    text = expr(attributes(op.name, **({"a": 0.5, "p": 3} if "p" in op.keywords else {}))) if callable(expr) else expr
    # A loss's mask is read as the share of its column.
    assert all("{" + ("share" if name == "mask" else name) + "}" in text for name in op.args)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="defined twice"):
        register(PAR)


def test_the_registry_is_filled_without_numpy():
    code = "import sys, knetc.ops; assert knetc.ops.registry(); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
