"""What names mean: the definitions of a file, of the prelude, and the primitive operators.

Comes after `parser.py` and before `lower.py`. Each definition is looked at once: its parameters, the variables it
writes, where it returns. The prelude is parsed definition by definition, when one is first called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from knetc.errors import Diagnostic, Diagnostics, KnetError, KnetNameError, Note, Source, Span
from knetc.frontend import arith, ast
from knetc.frontend.consteval import CONSTANTS, evaluate, unknown
from knetc.frontend.parser import MAX_FAULTS, parse_block
from knetc.ops.base import OpDef
from knetc.values import Value

PRELUDE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "prelude.knet")
REPEAT = "repeat"
# Calls that the compile-time evaluator answers.
COMPILE_TIME = frozenset({"isa", *arith.FUNCTIONS})


class Function:
    """A definition with what lowering asks of it.

    `assigned`: each local variable with the span of its first assignment. `body`: the statements, the function's value
    written out as `return`. `direct`: whether the only `return` is the last statement. `builtin`: of the prelude.
    """

    def __init__(self, definition: ast.Definition, builtin: bool = False) -> None:
        self.name = definition.name
        self.definition = definition
        self.builtin = builtin
        self.positional = [p.name for p in definition.positional]
        self.keywords = {p.name: p for p in definition.keywords}
        self.rest = definition.rest.name if definition.rest else None
        self.assigned: dict[str, Span] = {}
        returns = 0
        self.body = _with_return(definition.body)
        for statement in statements(self.body):
            if isinstance(statement, ast.Assign):
                self.assigned.setdefault(statement.target, statement.target_span)
            returns += isinstance(statement, ast.Return)
        self.direct = returns == 1 and isinstance(self.body[-1], ast.Return)

    def calls(self) -> list[str]:
        """The names that the body calls, once for each call."""
        names = []
        stack: list[object] = [self.body]
        while stack:
            node = stack.pop()
            if isinstance(node, ast.Call):
                names.append(node.name)
            if isinstance(node, ast.Node):
                stack += node.children().values()
            elif isinstance(node, tuple):
                stack += node
        return names

    def note(self) -> Note:
        """Where the definition stands."""
        return Note(f"'{self.name}' is defined here", self.definition.name_span)


def statements(body: tuple[ast.Stmt, ...]) -> Iterator[ast.Stmt]:
    """All statements of a block, nested ones too, in the order of the text."""
    stack = list(reversed(body))
    while stack:
        statement = stack.pop()
        yield statement
        if isinstance(statement, ast.If):
            stack += reversed(statement.orelse or ())
            for _, block in reversed(statement.branches):
                stack += reversed(block)


def _with_return(body: tuple[ast.Stmt, ...]) -> tuple[ast.Stmt, ...]:
    """The block with its value, the last statement's, returned."""
    if not body:
        return body
    last = body[-1]
    if isinstance(last, ast.Assign):
        value = ast.Name(last.target, last.target_span)
        return (*body, ast.Return(value, last.span))
    if isinstance(last, ast.Evaluate):
        return (*body[:-1], ast.Return(last.value, last.span))
    if isinstance(last, ast.If):
        branches = tuple((condition, _with_return(block)) for condition, block in last.branches)
        orelse = None if last.orelse is None else _with_return(last.orelse)
        return (*body[:-1], ast.If(branches, orelse, last.span))
    return body


class Library:
    """The operators and constants that a program can name: the user's, the prelude's, the primitives.

    A file's own definitions come before the prelude's. Inside the prelude its own come first, so that a user's `wbf2`
    with other keywords does not break `lstm`; a symbol (`f=:name`) always means what the user's file means by it.
    """

    def __init__(self, file: ast.File | None, operators: Mapping[str, OpDef], warnings: list[Diagnostic]) -> None:
        self.file = file
        self.operators = {name: op for name, op in operators.items() if op.user}
        self.functions: dict[str, Function] = {}
        self.constants: dict[str, Value] = {}
        self._prelude: dict[str, Function] = {}
        self._text: Source | None = None
        self._places: dict[str, int] = {}
        if file is not None:
            self._read(file, warnings)

    def find(self, name: str, builtin: bool) -> Function | OpDef | None:
        """What `name` calls: from the prelude's own text if `builtin`, else as the user's file sees it."""
        if not builtin and name in self.functions:
            return self.functions[name]
        return self.operators.get(name) or self.prelude(name)

    def prelude(self, name: str) -> Function | None:
        """The prelude's definition of `name`."""
        if name in self._prelude:
            return self._prelude[name]
        if self._text is None:
            with open(PRELUDE, encoding="utf-8") as file:
                self._text = Source(os.path.basename(PRELUDE), file.read())
            found = re.finditer(r"^@knet function (\w+)", self._text.text, re.MULTILINE)
            self._places = {match.group(1): match.start() for match in found}
        if name not in self._places:
            return None
        function = Function(parse_block(self._text, self._places[name]), builtin=True)
        self._prelude[name] = function
        return function

    def names(self) -> set[str]:
        """Every operator that can be called."""
        self.prelude("")  # its index
        return {*self.functions, *self.operators, *self._places, *COMPILE_TIME, REPEAT}

    def estimate(self, model: Function) -> int:
        """How many calls of the file's definitions inlining `model` will meet, at the most, symbols not counted.

        So a chain of definitions that doubles with each is found to be too large before it is written out.
        """
        sizes: dict[str, int] = {}
        entered: dict[str, list[str]] = {}
        stack = [model.name] if model.name in self.functions else []
        while stack:
            name = stack.pop()
            if name in entered:
                sizes.setdefault(name, 1 + sum(sizes.get(inner, 0) for inner in entered[name]))
                continue
            entered[name] = [inner for inner in self.functions[name].calls() if inner in self.functions]
            stack.append(name)
            stack += {inner for inner in entered[name] if inner not in entered}
        return sizes.get(model.name, 0)

    # --- the user's file

    def _read(self, file: ast.File, warnings: list[Diagnostic]) -> None:
        problems = Diagnostics(MAX_FAULTS)
        for definition in file.definitions:
            _check_parameters(definition, problems)
            self._check_name(definition, problems)
            function = Function(definition)
            self.functions.setdefault(definition.name, function)
            warnings += _unreachable(definition)
        for constant in file.constants:
            self._add_constant(constant, problems)
        problems.raise_if_any()

    def _check_name(self, definition: ast.Definition, problems: Diagnostics) -> None:
        name, span = definition.name, definition.name_span
        if name in self.functions:
            first = self.functions[name].definition.name_span
            notes = [Note("it is defined first here", first)]
            problems.error(f"'{name}' is defined twice", span, notes, KnetNameError)
        elif name in self.operators:
            problems.error(f"'{name}' is a primitive operator and cannot be defined anew", span, kind=KnetNameError)
        elif name in COMPILE_TIME:
            problems.error(f"'{name}' is a built-in function and cannot be defined anew", span, kind=KnetNameError)

    def _add_constant(self, constant: ast.Constant, problems: Diagnostics) -> None:
        def lookup(name: ast.Name) -> Value:
            for known in (self.constants, CONSTANTS):
                if name.name in known:
                    return known[name.name]
            unknown(name.name, "unknown name", name.span, [*self.constants, *CONSTANTS])

        name = constant.name
        if name in self.constants or name in self.functions:
            problems.error(f"'{name}' is defined twice", constant.name_span, kind=KnetNameError)
            return
        try:
            self.constants[name] = evaluate(constant.value, lookup)
        except KnetError as error:
            self.constants[name] = None
            for found in error.diagnostics:
                problems.error(found.message, found.span, found.notes, type(error))


def _check_parameters(definition: ast.Definition, problems: Diagnostics) -> None:
    seen: dict[str, Span] = {}
    rest = (definition.rest,) if definition.rest else ()
    for p in (*definition.positional, *definition.keywords, *rest):
        if p.name in seen:
            notes = [Note("it stands here already", seen[p.name])]
            problems.error(f"two parameters are named '{p.name}'", p.span, notes, KnetNameError)
        seen.setdefault(p.name, p.span)


def _unreachable(definition: ast.Definition) -> Iterator[Diagnostic]:
    """A warning for each block with statements after a `return`."""
    ends: dict[int, bool] = {}  # by identity: whether a statement always returns
    blocks = [definition.body]
    for statement in statements(definition.body):
        if isinstance(statement, ast.If):
            blocks += [block for _, block in statement.branches] + [statement.orelse or ()]
    for block in reversed(blocks):  # inner blocks before the blocks around them
        for i, statement in enumerate(block):
            if isinstance(statement, ast.If):
                inner = [b for _, b in statement.branches] + [statement.orelse or ()]
                ends[id(statement)] = all(any(ends[id(s)] for s in b) for b in inner)
            else:
                ends[id(statement)] = isinstance(statement, ast.Return)
            if ends[id(statement)] and i + 1 < len(block):
                note = Note("the function has returned here", statement.span)
                yield Diagnostic("this statement is never reached", block[i + 1].span, (note,), "warning")
                for later in block[i + 1 :]:
                    ends.setdefault(id(later), False)
                break
