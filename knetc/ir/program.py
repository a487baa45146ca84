"""The IR: a program is lists of instructions, all of one kind, frozen.

Made by `frontend.lower`, changed by the passes of `ir.pipeline`, read by the interpreter and by `codegen`.

Stages of a program (`Program.stage`), each with its own rules, which `ir.verify` checks:

* `lowered`: one variant whose `forward` holds guarded instructions over *variables*: a variable may be written many
  times, `let` renames, a variable may be read before it is written.
* `variants`: one straight-line list per distinct setting of the conditions; guards are gone.
* `ssa`: every value is defined once, before its uses; state is read by `state` and written by `keep`.
* `typed`: every value has a type, every `par`, `arr` and `rnd` its full dims.
* `training`: each variant has its backward programs, the program its update.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias, cast

from knetc.errors import Source, Span
from knetc.ir.types import PartialDims, Type
from knetc.record import Record
from knetc.values import Value

STAGES = ("lowered", "variants", "ssa", "typed", "training")
# Where a backward program starts: `zero` = no gradient from the output at all (sback without ygold), `none` = ygold is
# the gradient of the output itself.
LOSSES = ("zero", "none", "quadloss", "softloss")
GOLD = "@gold"
MASK = "@mask"


# --- guards -----------------------------------------------------------------------------------------------------------


class Guard(Record):
    """A boolean expression over the conditions: `op` is `true`, `cond` (args = its name), `not`, `and`, `or`."""

    op: str
    args: tuple[Guard | str, ...] = ()

    def holds(self, setting: frozenset[str]) -> bool:
        """The guard's value where exactly the conditions in `setting` are true."""
        if self.op == "true":
            return True
        if self.op == "cond":
            return self.args[0] in setting
        values = (g.holds(setting) for g in self.args if isinstance(g, Guard))
        if self.op == "not":
            return not next(values)
        return all(values) if self.op == "and" else any(values)

    def __str__(self) -> str:
        if self.op == "true":
            return "true"
        if self.op == "cond":
            return str(self.args[0])
        if self.op == "not":
            return f"!{self.args[0]}"
        return "(" + {"and": " && ", "or": " || "}[self.op].join(map(str, self.args)) + ")"


ALWAYS = Guard("true")
NEVER = Guard("not", (ALWAYS,))


def guard_not(g: Guard) -> Guard:
    """Negation, with `!!g`, `!true` folded."""
    return g.args[0] if g.op == "not" and isinstance(g.args[0], Guard) else Guard("not", (g,))


def guard_and(a: Guard, b: Guard) -> Guard:
    """Conjunction, constants folded."""
    if a == NEVER or b == NEVER:
        return NEVER
    if a in (ALWAYS, b):
        return b
    return a if b == ALWAYS else Guard("and", (a, b))


# --- instructions -----------------------------------------------------------------------------------------------------

Attrs: TypeAlias = tuple[tuple[str, Value], ...]


class Instr(Record):
    """One instruction: `out = op(args; attrs)`.

    `op` names an `OpDef` of the registry, or `let` (lowered stages only: `out` becomes another name of `args[0]`).
    `out` is the value's name, empty for an instruction run for its effect alone. `attrs` are sorted by name.
    `type` is None before the `typed` stage and for effects. `kernel`: instructions of one list with one number over 0
    stand together and run as one kernel (`passes.fuse`); it changes no value.
    """

    out: str
    op: str
    args: tuple[str, ...] = ()
    attrs: Attrs = ()
    type: Type | None = None
    guard: Guard = ALWAYS
    span: Span | None = None
    kernel: int = 0

    def attr(self, name: str) -> Value:
        """The attribute's value; KeyError where the instruction has none of that name."""
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(name)


def make_attrs(**attrs: Value) -> Attrs:
    """Attributes in their canonical order."""
    return tuple(sorted(attrs.items()))


class Input(Record):
    """A run-time input: its name; its dims, None where unknown, once `shapes` has run complete."""

    name: str
    dims: PartialDims | None = None
    span: Span | None = None


class Phases(Record):
    """A list of instructions over a whole sequence (`passes.timebatch`).

    `before` and `after` run once, on values that have the columns of all steps side by side, the first step's first;
    `loop` runs for each step, forward from the first to the last, backward from the last to the first. A value that
    does not have the batch is the same at every step, or the sum over all of them.
    """

    before: tuple[Instr, ...]
    loop: tuple[Instr, ...]
    after: tuple[Instr, ...]

    @property
    def lists(self) -> tuple[tuple[Instr, ...], ...]:
        """The three lists in order."""
        return (self.before, self.loop, self.after)


class Backward(Record):
    """The gradient program that starts from one loss.

    Besides forward values and its own, `body` may read `@gold` (ygold; for loss `none` the gradient of the output
    itself) and, through the loss operators, `@mask` (one number a column, or absent). Its results are effects: `dpar`
    (a parameter's gradient), `dinput` (an input's gradient), `dkeep` (a state's gradient, for the step before).
    Instructions needed for `dinput` alone may be left out where no input gradient is asked for.
    """

    loss: str
    body: tuple[Instr, ...]
    phases: Phases | None = None


class Variant(Record):
    """The program under one class of settings of the conditions.

    `settings`: every setting (the set of true conditions) that runs this variant. `result`: the value returned, None
    where the model returns nothing. `names`: each Knet variable written, with the value it holds at the end.
    """

    settings: tuple[frozenset[str], ...]
    forward: tuple[Instr, ...]
    result: str | None = None
    names: tuple[tuple[str, str], ...] = ()
    backward: tuple[Backward, ...] = ()
    phases: Phases | None = None

    def variables(self) -> dict[str, str]:
        """The Knet variable of each value that has one; of several, the first that was written."""
        return {value: name for name, value in reversed(self.names)}


class Program(Record):
    """A compiled model at some stage.

    `temps`: variables of the lowered stages that are not static (results of calls and subexpressions), so never state.
    `functions`: result temporaries with the definition each came from, for messages. `source`, `keywords`: what the
    program was made from, for the head of the emitted file.
    """

    name: str
    stage: str
    inputs: tuple[Input, ...]
    conditions: tuple[str, ...]
    variants: tuple[Variant, ...]
    dtype: str = "f32"
    temps: frozenset[str] = frozenset()
    functions: tuple[tuple[str, str], ...] = ()
    update: tuple[Instr, ...] = ()
    source: Source | None = None
    keywords: tuple[tuple[str, Value], ...] = ()

    uncompared: ClassVar[frozenset[str]] = frozenset({"source", "keywords"})

    def variant(self, setting: frozenset[str]) -> Variant:
        """The variant that runs where exactly the conditions in `setting` are true; KeyError where there is none."""
        for v in self.variants:
            if setting in v.settings:
                return v
        raise KeyError(setting)

    def params(self) -> dict[str, Instr]:
        """Every `par` instruction by name, over all variants, in the order of the source."""
        found: dict[str, Instr] = {}
        for v in self.variants:
            for i in v.forward:
                if i.op == "par":
                    found.setdefault(i.out, i)
        return dict(sorted(found.items(), key=lambda item: cast(int, item[1].attr("stream"))))

    def states(self) -> dict[str, Type | None]:
        """Every state variable with its type, over all variants."""
        found: dict[str, Type | None] = {}
        for v in self.variants:
            for i in v.forward:
                if i.op == "state":
                    found.setdefault(str(i.attr("var")), i.type)
        return found
