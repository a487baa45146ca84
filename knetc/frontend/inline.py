"""Writes the instructions of a model: every call inlined, `repeat` unrolled, conditions turned into guards.

Run by `lower.py`; `output.py` takes the instructions. Definitions are inlined by tasks (`tasks.py`), not by Python's
recursion, so that neither the length of a program nor its depth meets a limit of the interpreter; the limits that there
are have messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from knetc.errors import KnetError, KnetLimitation, KnetNameError, KnetTypeError, Note, Span
from knetc.frontend import arith, ast, operators
from knetc.frontend.consteval import COMPARISONS, did_you_mean, evaluate, evaluate_call
from knetc.frontend.guards import any_of, condition
from knetc.frontend.output import Output, unknown_keyword
from knetc.frontend.resolve import COMPILE_TIME, REPEAT, Function, Library
from knetc.frontend.scope import NOTHING, Keyword, Nothing, Operand, Poisoned, Scope, Var
from knetc.frontend.tasks import Task, run
from knetc.ir.program import NEVER, guard_and, guard_not
from knetc.ops.base import OpDef
from knetc.values import Value, show

MAX_REPEAT = 100_000
MAX_CALLS = 100
RESULT = "return"

_COMPOSED = (ast.Call, ast.Chain, ast.Unary, ast.Binary)


class Inliner:
    """Lowers one model into `output`."""

    def __init__(self, library: Library, output: Output) -> None:
        self._library = library
        self._out = output
        self._active: list[Function] = []

    def model(self, function: Function, keywords: Mapping[str, Value]) -> None:
        """Writes the whole program with `function` as its model. Raises KnetError with every fault found."""
        scope = Scope(function, self._library, "", None)
        scope.result = RESULT
        try:
            self._bind(scope, {key: Keyword(value, None, ("", 0, 0, key)) for key, value in keywords.items()})
            for parameter in function.positional:
                if parameter in function.assigned:
                    scope.assign_array(parameter)
                else:
                    scope.arrays[parameter] = parameter
            self._out.check_size(self._library.estimate(function), scope, function.definition.name_span)
            run(self._body(scope))
            if not scope.returned and not scope.failed:
                raise KnetTypeError(f"'{function.name}' returns no value", function.definition.name_span)
        except KnetError as error:
            self._out.report(error, scope)
        self._out.problems.raise_if_any()
        self._out.warn_unused()

    # --- statements

    def _body(self, scope: Scope) -> Task:
        """The statements of a definition, then the check that needs all of them."""
        self._active.append(scope.function)
        yield self._block(scope, scope.function.body)
        self._active.pop()
        for name, span in scope.read.items():
            if name not in scope.written:
                note = Note("this assignment never runs", scope.function.assigned[name])
                if name in scope.itself:
                    note = Note(f"this gives '{name}' the value that it has", scope.itself[name])
                self._out.report(KnetNameError(f"'{name}' is read, but nothing ever writes it", span, [note]), scope)
                scope.failed = True

    def _block(self, scope: Scope, block: tuple[ast.Stmt, ...]) -> Task:
        for statement in block:
            if scope.guard is NEVER:
                return
            depth = len(self._active)
            try:
                if isinstance(statement, ast.Assign):
                    yield self._assign(scope, statement)
                elif isinstance(statement, ast.Return):
                    yield self._return(scope, statement)
                elif isinstance(statement, ast.If):
                    yield self._if(scope, statement)
                else:
                    yield self._evaluate(scope, statement)
            except KnetLimitation:
                raise
            except (KnetError, Poisoned) as error:
                del self._active[depth:]
                self._failed(scope, statement, error)

    def _failed(self, scope: Scope, statement: ast.Stmt, error: KnetError | Poisoned) -> None:
        """Goes on after an error; what the statement would have made is not to be reported again."""
        if isinstance(error, KnetError):
            self._out.report(error, scope)
        scope.failed = True
        if isinstance(statement, ast.Assign):
            scope.assign_array(statement.target)
            scope.poisoned.add(statement.target)
        elif isinstance(statement, ast.Return):
            scope.guard = NEVER

    def _assign(self, scope: Scope, statement: ast.Assign) -> Task:
        target = scope.path + statement.target
        expr = statement.value
        composed = isinstance(expr, _COMPOSED)
        value = (yield self._composed(scope, expr, target, statement.target)) if composed else self._leaf(scope, expr)
        if isinstance(value, Nothing):
            raise KnetTypeError("this call returns no value", statement.value.span)
        if not isinstance(value, Var):
            scope.assign_constant(statement, value)
            return
        if value.name != target:
            self._out.write(scope, target, "let", (value.name,), (), statement.span)
        elif isinstance(statement.value, ast.Name):
            scope.itself.setdefault(statement.target, statement.span)
            return  # y = y writes nothing
        scope.assign_array(statement.target)

    def _return(self, scope: Scope, statement: ast.Return) -> Task:
        expr = statement.value
        value: Operand = NOTHING
        if expr is not None and not (isinstance(expr, ast.Literal) and expr.value is None):
            composed = isinstance(expr, _COMPOSED)
            value = (yield self._composed(scope, expr, scope.result)) if composed else self._leaf(scope, expr)
        if isinstance(value, Var):
            if value.name != scope.result:
                self._out.write(scope, scope.result, "let", (value.name,), (), statement.span)
            scope.returned = True
        elif not isinstance(value, Nothing):
            raise KnetTypeError(f"a @knet function returns an array, not {show(value)}", statement.span)
        scope.guard = NEVER

    def _evaluate(self, scope: Scope, statement: ast.Evaluate) -> Task:
        value = NOTHING
        if isinstance(statement.value, _COMPOSED):
            value = yield self._composed(scope, statement.value, None)
        if not isinstance(value, Nothing):
            self._out.warn("the value of this statement is not used", statement.span)

    def _if(self, scope: Scope, statement: ast.If) -> Task:
        """Branches under guards; what is decided at compile time is chosen here."""
        start = remaining = scope.guard
        before = scope.constants
        ends, constants = [], []
        returned = False
        otherwise = (ast.Literal(True, statement.span), statement.orelse or ())
        for test, block in (*statement.branches, otherwise):
            holds = condition(test, scope, self._out.conditions)
            if holds is False:
                continue
            entered = remaining if holds is True else guard_and(remaining, holds)
            scope.guard, scope.constants = entered, dict(before)
            yield self._block(scope, block)
            if scope.guard is not NEVER:
                ends.append(scope.guard)
                constants.append(scope.constants)
            returned = returned or scope.guard != entered
            scope.constants = before
            if holds is True:
                break
            remaining = guard_and(remaining, guard_not(holds))
        scope.merge(before, constants)
        scope.guard = any_of(ends) if returned else start

    # --- expressions

    def _composed(self, scope: Scope, expr: ast.Expr, target: str | None, name: str | None = None) -> Task:
        """The operand that an operation or a call stands for.

        Its result goes into `target` where that is given, else into a temporary; `name` is the variable whose
        assignment the expression is the whole right-hand side of.
        """
        if isinstance(expr, ast.Call):
            return self._call(scope, expr, target, name)
        if isinstance(expr, ast.Chain):
            return self._chain(scope, expr, target)
        return self._unary(scope, expr, target) if isinstance(expr, ast.Unary) else self._power(scope, expr, target)

    def _leaf(self, scope: Scope, expr: ast.Expr) -> Operand:
        return scope.operand(expr) if isinstance(expr, ast.Name) else evaluate(expr, scope.constant)

    def _operand(self, scope: Scope, expr: ast.Expr) -> Task:
        """The operand of an operator or call, which must have a value."""
        value = (yield self._composed(scope, expr, None)) if isinstance(expr, _COMPOSED) else self._leaf(scope, expr)
        if isinstance(value, Nothing):
            raise KnetTypeError("this call returns no value", expr.span)
        return value

    def _unary(self, scope: Scope, expr: ast.Unary, target: str | None) -> Task:
        value = yield self._operand(scope, expr.operand)
        if isinstance(value, Var):
            return operators.unary(self._emitter(scope), expr.op, value, expr.span, target)
        return _computed(expr.span, arith.unary, expr.op, value)

    def _power(self, scope: Scope, expr: ast.Expr, target: str | None) -> Task:
        assert isinstance(expr, ast.Binary)
        left = yield self._operand(scope, expr.left)
        right = yield self._operand(scope, expr.right)
        return self._binary(scope, expr.op, left, right, expr.span, expr.right.span, target)

    def _chain(self, scope: Scope, expr: ast.Chain, target: str | None) -> Task:
        first = expr.first
        if expr.rest[0][0] in COMPARISONS:
            return evaluate(expr, scope.constant)
        left = (yield self._operand(scope, first)) if isinstance(first, _COMPOSED) else self._leaf(scope, first)
        start, last = first.span, len(expr.rest) - 1
        for i, (op, operand) in enumerate(expr.rest):
            composed = isinstance(operand, _COMPOSED)
            right = (yield self._operand(scope, operand)) if composed else self._leaf(scope, operand)
            end = operand.span
            span = Span(start.source, start.line, start.column, end.end_line, end.end_column)
            left = self._binary(scope, op, left, right, span, end, target if i == last else None)
        return left

    def _binary(
        self, scope: Scope, op: str, a: Operand, b: Operand, span: Span, b_span: Span, target: str | None
    ) -> Operand:
        if isinstance(a, Var) or isinstance(b, Var):
            return operators.binary(self._emitter(scope), op, a, b, span, b_span, target)
        return _computed(span, arith.binary, op, a, b)

    def _emitter(self, scope: Scope) -> operators.Emitter:
        def emit(op: str, args: tuple[str, ...], given: dict[str, Value], span: Span, target: str | None) -> Var:
            return self._out.primitive(scope, self._library.operators[op], args, given, span, target)

        return emit

    # --- calls

    def _call(self, scope: Scope, call: ast.Call, target: str | None, name: str | None) -> Task:
        if call.name in COMPILE_TIME and not scope.is_local(call.name):
            if any(isinstance(a.value, ast.Name) and scope.is_array(a.value.name) for a in call.args):
                raise KnetTypeError(f"'{call.name}' is a compile-time function and takes no arrays", call.span)
            return evaluate_call(call, scope.constant)
        callee = self._callee(scope, call)
        operands = []
        for argument in call.args:
            value = argument.value
            if argument.name is None and not isinstance(value, ast.Splat):
                composed = isinstance(value, _COMPOSED)
                operands.append((yield self._operand(scope, value)) if composed else self._leaf(scope, value))
        keywords = self._keywords(scope, call)
        if isinstance(callee, OpDef):
            return self._primitive(scope, callee, operands, keywords, call, target)
        path = scope.call_name(name or (callee.name if isinstance(callee, Function) else callee), name is not None)
        if isinstance(callee, Function):
            return (yield self._inline(scope, callee, operands, keywords, call, target, path))
        return (yield self._repeat(scope, operands, keywords, call, target, path))

    def _callee(self, scope: Scope, call: ast.Call) -> Function | OpDef | str:
        """What a call's name stands for; REPEAT for the operator that only this module knows."""
        name = call.name
        if name in scope.constants:
            value = scope.constants[name]
            if not isinstance(value, str):
                raise KnetTypeError(f"'{name}' is {show(value)} here, not the name of an operator", call.name_span)
            return self._operator(value, False, call.name_span, f"in the place of '{name}': ")
        if name in scope.function.positional:
            raise KnetTypeError(f"'{name}' is an array here, not an operator", call.name_span)
        return self._operator(name, scope.function.builtin, call.name_span, "")

    def _operator(self, name: str, builtin: bool, span: Span | None, before: str) -> Function | OpDef | str:
        found = self._library.find(name, builtin)
        if found is not None:
            return found
        if name == REPEAT:
            return REPEAT
        if name in COMPILE_TIME:
            raise KnetTypeError(f"{before}'{name}' is a compile-time function and takes no arrays", span)
        raise KnetNameError(f"{before}unknown operator '{name}'{did_you_mean(name, self._library.names())}", span)

    def _keywords(self, scope: Scope, call: ast.Call) -> dict[str, Keyword]:
        """The keyword arguments of a call, splats included; the later of two wins, and the other has had its use."""
        found: dict[str, Keyword] = {}

        def add(name: str, keyword: Keyword) -> None:
            if name in found:
                self._out.use(found[name])
            found[name] = keyword

        for argument in call.args:
            value = argument.value
            if isinstance(value, ast.Splat):
                inner = value.value
                if not isinstance(inner, ast.Name) or inner.name != scope.function.rest:
                    raise KnetTypeError("only the collected keyword arguments of 'o...' can be handed on", value.span)
                for name, keyword in scope.rest.items():
                    add(name, keyword.passed_on())
            elif argument.name is not None:
                span = argument.span
                key = (span.source.name, span.line, span.column, argument.name)
                origin = scope.origins.get(value.name) if isinstance(value, ast.Name) else None
                add(argument.name, Keyword(evaluate(value, scope.constant), span, key, origin))
        return found

    def _primitive(
        self,
        scope: Scope,
        op: OpDef,
        operands: list[Operand],
        keywords: dict[str, Keyword],
        call: ast.Call,
        target: str | None,
    ) -> Var:
        args = _arrays(op.name, list(op.args), operands, call, [])
        return self._out.primitive(scope, op, args, self._out.take(op, keywords), call.span, target)

    def _repeat(
        self,
        scope: Scope,
        operands: list[Operand],
        keywords: dict[str, Keyword],
        call: ast.Call,
        target: str | None,
        path: str,
    ) -> Task:
        """`repeat(x; frepeat=:op, nrepeat=n, rest...)`: op applied n times, each with variables of its own."""
        if "frepeat" not in keywords or "nrepeat" not in keywords:
            raise KnetTypeError("repeat needs the keywords frepeat and nrepeat", call.span)
        operator, times = keywords.pop("frepeat"), keywords.pop("nrepeat")
        self._out.use(operator)
        self._out.use(times)
        if not isinstance(operator.value, str):
            raise KnetTypeError(f"'frepeat' must be an operator's name, not {show(operator.value)}", operator.span)
        n = times.value
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise KnetTypeError(f"'nrepeat' must be an integer of at least 1, not {show(n)}", times.span)
        if n > MAX_REPEAT:
            raise KnetLimitation(f"nrepeat={n} is too large: knetc repeats at most {MAX_REPEAT} times", times.span)
        callee = self._operator(operator.value, False, operator.span, "")
        value: Operand = _arrays(REPEAT, ["x"], operands, call, [])[0]
        value = Var(str(value))
        before = len(self._out.instructions)
        for i in range(1, n + 1):
            if i == 2:  # what the first time took, the others will take: too much is said at once
                self._out.check_size((n - 1) * (len(self._out.instructions) - before), scope, call.span)
            into = target if i == n else None
            inner = f"{path}/{i}"
            if isinstance(callee, Function):
                value = yield self._inline(scope, callee, [value], keywords, call, into, inner)
            elif isinstance(callee, OpDef):
                value = self._primitive(scope, callee, [value], keywords, call, into)
            else:
                raise KnetTypeError("repeat cannot repeat itself", operator.span)
            if isinstance(value, Nothing):
                raise KnetTypeError(f"'{operator.value}' returns no value", operator.span)
        return value

    def _inline(
        self,
        scope: Scope,
        function: Function,
        operands: list[Operand],
        keywords: dict[str, Keyword],
        call: ast.Call,
        target: str | None,
        path: str,
    ) -> Task:
        """The body of a definition in place of its call, its variables under `path`."""
        args = _arrays(function.name, function.positional, operands, call, [function.note()])
        self._check_depth(function, call)
        span = call.span
        via = Span(span.source, span.line, span.column, span.end_line, span.end_column, scope.via)
        inner = Scope(function, self._library, path + "/", via)
        inner.guard = scope.guard
        self._bind(inner, keywords)
        for parameter, value in zip(function.definition.positional, args, strict=True):
            if parameter.name in function.assigned:
                self._out.write(inner, inner.path + parameter.name, "let", (value,), (), parameter.span)
                inner.assign_array(parameter.name)
            else:
                inner.arrays[parameter.name] = value
        temporary = target is None or not function.direct
        inner.result = f"{path}/{RESULT}" if target is None or temporary else target
        yield self._body(inner)
        if inner.failed:
            raise Poisoned
        if not inner.returned:
            return NOTHING
        if temporary:
            self._out.temps.add(inner.result)
            self._out.functions.append((inner.result, function.name))
        return Var(inner.result)

    def _check_depth(self, function: Function, call: ast.Call) -> None:
        """Raises KnetNameError for a definition that comes back to itself, KnetLimitation for too deep a chain."""
        if function in self._active:
            names = [f.name for f in self._active[self._active.index(function) :]] + [function.name]
            cycle = " → ".join(names)
            raise KnetNameError(f"recursion: {cycle}; calls are inlined, so none may lead back to itself", call.span)
        if len(self._active) >= MAX_CALLS:
            raise KnetLimitation(f"calls nested too deeply: knetc inlines at most {MAX_CALLS} levels", call.span)

    def _bind(self, scope: Scope, given: dict[str, Keyword]) -> None:
        """Gives the keyword parameters of a scope their values; defaults may use those before them."""
        function = scope.function
        for name, keyword in given.items():
            if name in function.keywords:
                self._out.use(keyword)
            elif function.rest is not None:
                scope.rest[name] = keyword
                self._out.collect(keyword, set(function.keywords))
            else:
                raise unknown_keyword(function.name, name, keyword, list(function.keywords), function.note())
        for name, parameter in function.keywords.items():
            if name in given:
                scope.constants[name] = given[name].value
                origin = given[name].origin or given[name].span
                if origin is not None:
                    scope.origins[name] = origin
            elif parameter.default is not None:
                scope.constants[name] = evaluate(parameter.default, scope.constant)


def _arrays(
    name: str, wanted: list[str], operands: list[Operand], call: ast.Call, notes: list[Note]
) -> tuple[str, ...]:
    """The variables of a call's positional arguments, which must be as many arrays as `wanted` names."""
    if len(operands) != len(wanted):
        count = "1 argument" if len(wanted) == 1 else f"{len(wanted) or 'no'} arguments"
        which = f" ({', '.join(wanted)})" if wanted else ""
        raise KnetTypeError(f"{name} takes {count}{which}, not {len(operands)}", call.span, notes)
    names = []
    spans = [a.span for a in call.args if a.name is None and not isinstance(a.value, ast.Splat)]
    for parameter, operand, span in zip(wanted, operands, spans, strict=True):
        if not isinstance(operand, Var):
            assert not isinstance(operand, Nothing)
            raise KnetTypeError(f"'{parameter}' of {name} must be an array, not {show(operand)}", span, notes)
        names.append(operand.name)
    return tuple(names)


def _computed(span: Span, function: Any, *values: Any) -> Value:
    """A compile-time operation with its place."""
    try:
        return function(*values)  # type: ignore[no-any-return]
    except arith.Fault as fault:
        raise KnetTypeError(str(fault), span) from None
