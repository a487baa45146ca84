"""Static-state analysis ("Static variables" of docs/language.md) and renaming to values that are defined once.

`variants` → `ssa`. A variable that some variant reads before it writes it is state, in all variants. Such a variant
begins with `h@prev = state(; var="h")`; each variant that writes a state variable ends with `keep(value; var="h")`, and
one that does not write it leaves it as it was. `let` disappears: a variable is a name for a value. Comes after
`conditions`, before `shapes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from knetc.errors import Diagnostics, KnetNameError, Note, Span
from knetc.ir.program import Instr, Program, Variant, make_attrs
from knetc.options import Options
from knetc.record import Record, replace

RESULT = "return"
SHARED = ("par", "arr")  # arrays that all variants share: one name each over the whole program


class _Nothing(Record):
    """What a variable holds that was given a call's result where the call returns nothing."""

    temp: str
    call: Span | None


def run(program: Program, options: Options) -> Program:
    """The program in `ssa` form.

    Raises KnetNameError for a variable that is read and never written, and for the use of a value that a function does
    not return under some conditions.
    """
    states = _states(program)
    errors = _Errors(program)
    _never_written(program, states, errors)
    shared = _shared_names(program)
    variants = tuple(_Renamer(program, variant, states, shared, errors).run() for variant in program.variants)
    errors.raise_if_any()
    return replace(program, stage="ssa", variants=variants, functions=())


# --- which variables are state ----------------------------------------------------------------------------------------


def _states(program: Program) -> dict[str, Span | None]:
    """The variables that some variant reads before it writes them, each with the place of its first such reading."""
    found: dict[str, Span | None] = {}
    inputs = {i.name for i in program.inputs}
    for variant in program.variants:
        written = set(inputs)
        for instr in variant.forward:
            for arg in instr.args:
                if arg not in written and arg not in program.temps:
                    found.setdefault(arg, instr.span)
            written.add(instr.out)
    return found


def _never_written(program: Program, states: Mapping[str, Span | None], errors: _Errors) -> None:
    written = {instr.out for variant in program.variants for instr in variant.forward}
    for name, span in states.items():
        if name not in written:
            errors.add(f"variable '{name}' is read here and never written", span)


def _shared_names(program: Program) -> dict[tuple[str, object], str]:
    """A name for each `par` and `arr`, by its variable and stream.

    A variable that two of them are assigned to under different conditions stands for two arrays; the second is `w#2`.
    """
    found = {
        (instr.out, instr.attr("stream"))
        for variant in program.variants
        for instr in variant.forward
        if instr.op in SHARED
    }
    names: dict[tuple[str, object], str] = {}
    count: dict[str, int] = {}
    for name, stream in sorted(found, key=_stream):
        count[name] = number = count.get(name, 0) + 1
        names[name, stream] = name if number == 1 else f"{name}#{number}"
    return names


def _stream(key: tuple[str, object]) -> int:
    stream = key[1]
    assert isinstance(stream, int)
    return stream


# --- renaming ---------------------------------------------------------------------------------------------------------


class _Renamer:
    """Renames one variant."""

    def __init__(
        self,
        program: Program,
        variant: Variant,
        states: Mapping[str, Span | None],
        shared: Mapping[tuple[str, object], str],
        errors: _Errors,
    ) -> None:
        self.program = program
        self.variant = variant
        self.states = states
        self.shared = shared
        self.errors = errors
        self.values: dict[str, str | _Nothing] = {i.name: i.name for i in program.inputs}
        self.taken = {i.name for i in program.inputs} | set(shared.values())
        self.numbers: dict[str, int] = {}
        self.reads: list[Instr] = []
        self.body: list[Instr] = []
        self.written: dict[str, Span | None] = {}

    def run(self) -> Variant:
        """The variant renamed, with its state read and kept."""
        for instr in self.variant.forward:
            if instr.op == "let":
                value = self.let(instr)
            else:
                args = tuple(self.use(arg, instr) for arg in instr.args)
                name = self.define(instr) if instr.out else ""
                self.body.append(Instr(name, instr.op, args, instr.attrs, span=instr.span))
                value = name
            if instr.out:
                self.values[instr.out] = value
                self.written[instr.out] = instr.span
        forward = (*self.reads, *self.body, *self.keeps())
        result = self.values.get(RESULT)
        return replace(
            self.variant,
            forward=forward,
            result=result if isinstance(result, str) else None,
            names=tuple(self.names()),
        )

    def let(self, instr: Instr) -> str | _Nothing:
        """The value that a `let` names; a temporary without one gives "nothing"."""
        source = instr.args[0]
        if source not in self.values and source in self.program.temps:
            return _Nothing(source, instr.span)
        found = self.values.get(source)
        return found if isinstance(found, _Nothing) else self.use(source, instr)

    def use(self, variable: str, instr: Instr) -> str:
        """The value that `variable` holds, where an instruction needs one."""
        found = self.values.get(variable)
        if isinstance(found, str):
            return found
        if found is None and variable not in self.program.temps:
            return self.read_state(variable)
        nothing = found if isinstance(found, _Nothing) else _Nothing(variable, None)
        self.errors.no_value(nothing, instr.span, self.variant)
        return variable

    def read_state(self, variable: str) -> str:
        value = self.fresh(f"{variable}@prev")
        span = self.states[variable]
        self.reads.append(Instr(value, "state", attrs=make_attrs(var=variable), span=span))
        self.values[variable] = value
        return value

    def define(self, instr: Instr) -> str:
        if instr.op in SHARED:
            return self.shared[instr.out, instr.attr("stream")]
        return self.fresh(instr.out)

    def fresh(self, variable: str) -> str:
        """A name not yet taken: the variable's own, then `h#2`, `h#3`."""
        name, number = variable, self.numbers.get(variable, 1)
        while name in self.taken:
            number += 1
            name = f"{variable}#{number}"
        self.numbers[variable] = number
        self.taken.add(name)
        return name

    def keeps(self) -> Iterable[Instr]:
        for variable in self.states:
            value = self.values.get(variable)
            if variable in self.written and isinstance(value, str):
                yield Instr("", "keep", (value,), make_attrs(var=variable), span=self.written[variable])

    def names(self) -> Iterable[tuple[str, str]]:
        for variable in self.written:
            value = self.values[variable]
            if isinstance(value, str) and (variable == RESULT or variable not in self.program.temps):
                yield variable, value


# --- errors -----------------------------------------------------------------------------------------------------------


class _Errors:
    """Collects errors; the same use of "nothing" in several variants becomes one, with what those have in common."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.functions = dict(program.functions)
        self.found = Diagnostics()
        self.uses: dict[tuple[_Nothing, Span | None], list[frozenset[str]]] = {}

    def add(self, message: str, span: Span | None) -> None:
        """Records an error."""
        self.found.error(message, span, kind=KnetNameError)

    def no_value(self, nothing: _Nothing, use: Span | None, variant: Variant) -> None:
        """Records that `variant` uses, at `use`, a value that was never returned."""
        self.uses.setdefault((nothing, use), []).extend(variant.settings)

    def raise_if_any(self) -> None:
        """Raises what was recorded."""
        for (nothing, use), settings in self.uses.items():
            when = describe(self.program.conditions, settings)
            function = self.functions.get(nothing.temp)
            what = f"'{function}' returns nothing" if function else "this has no value"
            notes = [Note("the call is here", nothing.call)] if nothing.call and nothing.call != use else []
            self.found.error(f"{what}{when}, so it cannot be used here", use, notes, kind=KnetNameError)
        self.found.raise_if_any()


def describe(conditions: Sequence[str], settings: Sequence[frozenset[str]]) -> str:
    """` when dropout is false`: what all of `settings` have in common; empty where they are all settings there are."""
    if len(set(settings)) == 1 << len(conditions):
        return ""
    common = [c for c in conditions if len({c in s for s in settings}) == 1]
    chosen, setting = (common, settings[0]) if common else (conditions, settings[0])
    return " when " + " and ".join(f"{c} is {'true' if c in setting else 'false'}" for c in chosen)
