"""AST to `lowered` IR, the last stage of the front end: `lower` chooses the model, `inline.py` writes its instructions.

`ir.pipeline` goes on from the Program.
"""

from __future__ import annotations

from collections.abc import Mapping

import knetc.ops  # noqa: F401  (fills the registry)
from knetc.errors import Diagnostic, Diagnostics, KnetError, KnetNameError, Source, Span
from knetc.frontend import ast
from knetc.frontend.consteval import did_you_mean, evaluate_alone
from knetc.frontend.inline import Inliner
from knetc.frontend.output import Output, user_keywords
from knetc.frontend.parser import MAX_FAULTS, parse, parse_expression_text
from knetc.frontend.resolve import COMPILE_TIME, REPEAT, Function, Library
from knetc.ir.program import Input, Program, Variant
from knetc.ops.base import registry
from knetc.values import Value


def lower(
    source: Source | None,
    model: str | None,
    keywords: Mapping[str, Value],
    *,
    warnings: list[Diagnostic] | None = None,
) -> Program:
    """The `lowered` Program of definition `model` of a file (None: its last), or of a built-in operator (source None).

    `keywords` replace the defaults of the definition's keyword parameters. What is legal but looks like a mistake is
    added to `warnings`. Raises KnetError with everything found wrong; KnetLimitation for what is beyond this compiler.
    """
    found: list[Diagnostic] = []
    file = None if source is None else parse(source)
    library = Library(file, registry(), found)
    function = _built_in(library, model, keywords) if file is None else _choose(library, file, model)
    if function.rest is None:
        check_keywords(function.name, keywords, list(function.keywords))
    output = Output(found)
    Inliner(library, output).model(function, keywords)
    if warnings is not None:
        warnings += sorted(found, key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))
    return Program(
        name=function.name,
        stage="lowered",
        inputs=tuple(Input(p.name, None, p.span) for p in function.definition.positional),
        conditions=tuple(sorted(output.conditions)),
        variants=(Variant((), tuple(output.instructions)),),
        temps=frozenset(output.temps),
        functions=tuple(output.functions),
        source=source,
        keywords=tuple(sorted(keywords.items())),
    )


def parse_expression(text: str) -> Value:
    """The value of a compile-time expression that stands alone, as in `-D key=value`. Raises KnetError."""
    return evaluate_alone(parse_expression_text(Source("<expression>", text)))


def check_keywords(name: str, given: Mapping[str, Value], known: list[str]) -> None:
    """Raises KnetNameError for every keyword given from outside that the model does not have."""
    problems = Diagnostics(MAX_FAULTS)
    for key in given:
        if key not in known:
            names = f"its keywords are {', '.join(known)}" if known else "it has no keywords"
            hint = did_you_mean(key, known)
            problems.error(f"'{name}' has no keyword '{key}'; {names}{hint}", None, kind=KnetNameError)
    problems.raise_if_any()


def _choose(library: Library, file: ast.File, model: str | None) -> Function:
    if not library.functions:
        raise KnetError("no '@knet function' found in this file", Span(file.source, 1, 1, 1, 1))
    if model is None:
        return library.functions[file.definitions[-1].name]
    if model not in library.functions:
        names = ", ".join(library.functions)
        hint = did_you_mean(model, library.functions)
        raise KnetNameError(f"{file.source.name} does not define '{model}'; it defines {names}{hint}")
    return library.functions[model]


def _built_in(library: Library, name: str | None, keywords: Mapping[str, Value]) -> Function:
    """A built-in operator as a model: the prelude's definition, or one made around a primitive."""
    if name is None:
        raise KnetNameError("without a source the model must be the name of a built-in operator")
    function = library.prelude(name)
    if function is not None:
        return function
    op = library.operators.get(name)
    if op is None and name != REPEAT:
        raise KnetNameError(f"'{name}' is no built-in operator{did_you_mean(name, library.names() - COMPILE_TIME)}")
    if op is not None:
        check_keywords(name, keywords, user_keywords(op))
    args = ", ".join(op.args) if op is not None else "x"
    text = f"@knet function {name}({args}; o...)\n    return {name}({args}; o...)\nend\n"
    return Function(parse(Source(f"<{name}>", text)).definitions[0], builtin=True)
