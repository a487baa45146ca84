"""The memory that an emitted C++ file states in its head, and `--report` of it, is what its tables make it allocate."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import knetc
from knetc.cli import main
from knetc.codegen.describe import size_text

EXAMPLES = Path(__file__).parents[3] / "examples"
SIZES = {"housing": ["--input", "13,N"], "mlp": ["--input", "784,N"]}


def elements(text: str, table: str) -> tuple[int, int]:
    """The elements of a table's arrays: fixed ones, and those of each column."""
    found = re.search(rf"const knet_buffer {table}\[\] = \{{[^\n]*\n(.*?)\n\}};", text, re.DOTALL)
    assert found
    rows = re.findall(r"\{&knet_model::\w+, (\d+), (\d+)", found[1])
    return sum(int(fixed) for fixed, _ in rows), sum(int(column) for _, column in rows)


def frame_column(text: str) -> int:
    """The elements a column of the largest frame."""
    return max(elements(text, frame)[1] for frame in re.findall(r"const knet_buffer (frame_\d+)\[\]", text))


def shared_column(text: str) -> int:
    """The elements a column of the memory that values over whole sequences share."""
    found = re.search(r"const size_t shared_column = (\d+);", text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("name", ["housing", "softmax", "mlp", "lenet", "lenet_dropout", "adding", "charlm", "copyseq"])
def test_it_is_what_the_tables_hold(name, tmp_path, capsys):
    path = tmp_path / "model.cpp"
    model = str(EXAMPLES / f"{name}.knet")
    assert main([model, *SIZES.get(name, []), "--emit", "cpp", "--report", "-o", str(path)]) == 0
    text, report = path.read_text(encoding="utf-8"), capsys.readouterr().err
    fixed, column = elements(text, "buffers")
    column += frame_column(text) + shared_column(text)
    states = re.search(r"const knet_array states\[\] = \{(.*?)\n\};", text, re.DOTALL)
    assert states
    column += sum(int(rows) for rows in re.findall(r"\{(\d+), -1\}\}", states[1]))
    total = size_text((fixed + 100 * column) * 4)
    workers = sum(map(int, re.findall(r"\{&knet_worker::\w+, (\d+)\}", text))) * 4
    more = f", and {size_text(workers)} for each thread" if workers else ""
    line = f"Memory with a batch of 100: {total}{more}."
    assert f"// {line}\n" in text and f"\n{line}\n" in report
    assert f"Of it whatever the batch: {size_text(4 * fixed)}; for each column: {size_text(4 * column)}." in report


def test_a_sequence_takes_what_the_tables_hold(tmp_path):
    """Of each step: what has the columns of all steps, what they share, a frame, and a copy of x, which w's gradient
    reads. The hidden values' product and its gradient, 1,024 rows each, share memory.
    """
    path = tmp_path / "model.cpp"
    assert main([str(EXAMPLES / "charlm.knet"), "--emit", "cpp", "-o", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    whole = sum(map(int, re.findall(r"\{&knet_model::\w+, 0, (\d+), true\}", text)))
    column = whole + shared_column(text) + frame_column(text) + 65
    assert f"// A sequence that runs at once takes {size_text(400 * column)} for each of its steps.\n" in text
    places = dict(re.findall(r"\{&knet_model::(\w+), (\d+)\},", text))
    assert places["c_1_b_input_tmp1_block"] == places["d_c_1_b_input_tmp4_block"] == "0"
    assert 1024 <= shared_column(text) < 2 * 1024


def test_by_hand():
    """w and its gradient, 24 bytes each; for each column the value, its gradient and that of x, 2, 2 and 3 numbers; the
    input, what is desired and the mask stand with the caller.
    """
    net = knetc.compile("@knet function f(x)\n    return wdot(x; out=2)\nend", backend="cpu", optimise=0)
    net.forw(np.ones((3, 4)))
    text = net.report()
    assert "Of it whatever the batch: 48 B; for each column: 28 B." in text
    assert re.search(r"param +wdot/w +f32\[2,3\] +24 B", text)
    assert "f, as C++: 1 variant(s)" in text


def test_a_step_on_the_stack_has_a_copy_of_its_input():
    """For each of 100 columns, 4 bytes each: x, which wb's gradient reads, h, h of the step before, and the value."""
    net = knetc.compile(
        "@knet function f(x)\n h = tanh(wb(x; out=2) .+ wb(h; out=2))\n return wb(h; out=3)\nend", backend="cpu"
    )
    net.forw(np.ones((5, 4)))
    assert f"Each step on the stack takes {size_text(400 * (5 + 2 + 2 + 3))} more." in net.report()
