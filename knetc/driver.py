"""The stages of a compilation, in order, and nothing else.

source text → AST → lowered IR → passes → CUDA. The command (`cli.py`) and the Python runtime (`runtime/model.py`) both
go through here.
"""

from __future__ import annotations

from collections.abc import Mapping

from knetc.errors import Diagnostic, Source
from knetc.ir.program import Program
from knetc.options import Options
from knetc.values import Value


def lower(
    source: Source | None,
    model: str | None,
    keywords: Mapping[str, Value],
    warnings: list[Diagnostic] | None = None,
) -> Program:
    """The `lowered` program of definition `model` (None: the file's last); source None: a built-in operator.

    Warnings (unreachable statements) are added to `warnings`. Raises KnetError.
    """
    from knetc.frontend.lower import lower as lower_source

    return lower_source(source, model, keywords, warnings=warnings)


def optimise(program: Program, options: Options, stop_after: str | None = None) -> Program:
    """Runs the passes of `ir.pipeline.PIPELINE`, up to `stop_after` if that is given. Raises KnetError."""
    from knetc.ir.pipeline import run

    return run(program, options, stop_after)


def emit(program: Program, options: Options) -> str:
    """The CUDA source of a `training` program."""
    from knetc.codegen.emit import emit_cuda

    return emit_cuda(program, options)


def emit_cpp(program: Program, options: Options) -> str:
    """The C++ source of a `training` program, for the processor."""
    from knetc.codegen.cpu.emit import emit_cpp as emit_source

    return emit_source(program, options)


def emit_header(program: Program, options: Options, cpp: bool = False) -> str:
    """The C header that belongs to `emit`'s source, or to that of `emit_cpp`."""
    if cpp:
        from knetc.codegen.cpu.emit import emit_header as header
    else:
        from knetc.codegen.emit import emit_header as header

    return header(program, options)


def report(program: Program, options: Options, backend: str) -> str:
    """Tables of emitted code's kernels and buffers, and its memory: for `cpu` of `emit_cpp`'s source, else `emit`'s."""
    if backend == "cpu":
        from knetc.codegen.cpu.report import report as tables
    else:
        from knetc.codegen.report import report as tables

    return tables(program, options)


def draw(program: Program, kind: str) -> str:
    """The graph of a `typed` program: `dot`, text for Graphviz, or `svg`, a picture."""
    if kind == "dot":
        from knetc.drawing.dot import dot

        return dot(program)
    from knetc.drawing.svg import svg

    return svg(program)
