"""What may exist at each stage of a program. `verify` runs after every pass; a violation is a bug of knetc.

Each check belongs to a rule, whose name the error shows beside the pass and the instruction. Time is linear in the
length of the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import NoReturn

from knetc import ops
from knetc.errors import KnetInternalError
from knetc.ir import epilogues
from knetc.ir.printer import print_instr
from knetc.ir.program import ALWAYS, GOLD, LOSSES, MASK, STAGES, Backward, Instr, Phases, Program, Variant
from knetc.ir.types import UNKNOWN, N, Partial, Type
from knetc.ir.uses import prologue, way_through
from knetc.ops.base import Elementwise, OpDef, ShapeMismatch

RULES = {
    "program": "stage and element type are known, inputs have distinct names",
    "settings": "the variants' settings partition all settings of the sorted conditions",
    "guards": "only a lowered program has guards",
    "parts": "backward programs and the update are there from the stage training on, result and names from ssa on",
    "names": "names are not empty and hold no white space; variables are distinct and stand for defined values",
    "operators": "the operator is known and stands where it may",
    "arity": "as many arguments as the operator takes",
    "attributes": "exactly the operator's keywords, sorted",
    "effects": "an effect has no result and no type, everything else has a result",
    "definition": "a value is defined once, before its uses, and is not an input's name",
    "shared": "par and arr are the same in every variant; state is read and kept once, and has one type",
    "types": "every value is typed, in the program's element type, batch last, dims complete",
    "shape rule": "the operator's shape rule agrees with the types",
    "gradients": "an effect of a backward program names a parameter, input or state, once, with its type",
    "kernels": "a kernel's members stand together; they are elementwise values of one shape, and one with a reach, "
    "or a product with its epilogue",
    "phases": "a sequence runs what a step does: state passes through the loop, and nothing before depends on it",
    "losses": "a variant has one backward program a loss; one without a result only 'zero'",
    "update": "one update for each parameter that has a gradient",
}


def verify(program: Program, after: str = "reading") -> None:
    """Checks every rule of the program's stage. Raises KnetInternalError; `after` is the pass that it names."""
    _Verifier(program, after).run()


class _Verifier:
    def __init__(self, program: Program, after: str) -> None:
        self.program = program
        self.after = after
        self.ops = ops.registry()
        self.level = STAGES.index(program.stage) if program.stage in STAGES else -1
        self.ssa = self.level >= STAGES.index("ssa")
        self.typed = self.level >= STAGES.index("typed")
        self.training = self.level >= STAGES.index("training")
        self.shared: dict[tuple[str, str], Instr] = {}
        self.states: dict[str, Type | None] = {}
        self.trained: set[str] = set()
        self.agreed: set[object] = set()

    def fail(self, rule: str, detail: str, instr: Instr | None = None) -> NoReturn:
        assert rule in RULES
        message = f"after '{self.after}' the program breaks the rule '{rule}' ({RULES[rule]}): {detail}"
        if instr is None:
            raise KnetInternalError(message)
        raise KnetInternalError(f"{message}\n  {print_instr(instr)}", instr.span)

    # --- the program --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        program = self.program
        if self.level < 0 or program.dtype not in ("f32", "f64"):
            self.fail("program", f"stage {program.stage}, element type {program.dtype}")
        if len({i.name for i in program.inputs}) != len(program.inputs):
            self.fail("program", "two inputs have one name")
        self.settings()
        inputs = {i.name: self.input_type(i.name, i.dims) for i in program.inputs}
        self.states = program.states() if self.ssa else {}
        for variant in program.variants:
            self.variant(variant, dict(inputs))
        self.update()

    def settings(self) -> None:
        conditions = self.program.conditions
        if list(conditions) != sorted(set(conditions)):
            self.fail("settings", f"conditions {', '.join(conditions)}")
        if self.program.stage == "lowered":
            if len(self.program.variants) != 1:
                self.fail("settings", "a lowered program has one variant")
            return
        found = [s for v in self.program.variants for s in v.settings]
        known = set(conditions)
        # As many distinct settings of the known conditions as there are at all: then they are all of them.
        distinct = len(found) == len(set(found)) and all(s <= known for s in found)
        if not distinct or len(found) != 1 << len(conditions) or not all(v.settings for v in self.program.variants):
            self.fail("settings", f"{len(found)} settings of {len(conditions)} conditions")

    def input_type(self, name: str, dims: object) -> Type | None:
        self.name(name, None)
        if not self.typed:
            return None
        if not isinstance(dims, tuple) or None in dims:
            self.fail("types", f"input '{name}' has no complete dims")
        found = Type(self.program.dtype, dims)
        self.type(found, None)
        return found

    def update(self) -> None:
        updated: list[str] = []
        for instr in self.program.update:
            if instr.op != "update":
                self.fail("operators", "only update stands in the update program", instr)
            self.instr(instr, self.op(instr), {})
            updated.append(str(instr.attr("param")))
        if not self.training and updated:
            self.fail("parts", "an update before the stage training")
        if len(updated) != len(set(updated)) or set(updated) != self.trained:
            self.fail("update", f"updates of {', '.join(updated)}; gradients of {', '.join(sorted(self.trained))}")

    # --- a variant ----------------------------------------------------------------------------------------------------

    def variant(self, variant: Variant, types: dict[str, Type | None]) -> None:
        inputs = dict(types)
        for instr in variant.forward:
            if instr.op == "let" and not self.ssa:
                self.let(instr)
            else:
                op = self.op(instr)
                passes_own = self.training and op.pure and op.args  # what a pass puts there
                if not (op.user or passes_own or (self.ssa and op.name in ("state", "keep"))):
                    self.fail("operators", f"{op.name} may not stand in a forward list", instr)
                self.instr(instr, op, types)
            if self.level and instr.guard is not ALWAYS and instr.guard != ALWAYS:
                self.fail("guards", "a guard is left", instr)
        self.once(variant)
        self.kernels(variant.forward, types)
        self.phases(variant.phases, inputs, variant.forward)
        if self.ssa:
            self.outcome(variant, types)
        elif variant.result is not None or variant.names:
            self.fail("parts", "a result or names before the stage ssa")
        if not self.training and variant.backward:
            self.fail("parts", "a backward program before the stage training")
        if self.training:
            self.losses(variant)
        for backward in variant.backward:
            self.backward(variant, backward, types)

    def phases(self, phases: Phases | None, known: dict[str, Type | None], body: Sequence[Instr]) -> None:
        """The rule `phases`, and the others for the lists over a sequence; `body` is the list of a single step."""
        if phases is None:
            return
        if not self.training:
            self.fail("parts", "phases before the stage training")
        types, late = dict(known), set[str]()
        for k, part in enumerate(phases.lists):
            for instr in part:
                op = self.op(instr)
                self.instr(instr, op, types)
                flows = op.name in ("state", "keep", "dstate", "dkeep")
                late.update({instr.out} if flows or not late.isdisjoint(instr.args) else ())
                if flows != (flows and k == 1) or (k == 0 and bool(late & {instr.out, *instr.args} - {""})):
                    self.fail("phases", f"this stands in list {k + 1} of 3", instr)
            self.kernels(part, types)
        single = {(i.out, i.op, i.attrs) for i in body if i.op != "dinput"}
        extra = {(i.out, i.op, i.attrs) for part in phases.lists for i in part} - single
        if extra:
            self.fail(
                "phases", f"{', '.join(sorted(name or op for name, op, _ in extra))} does not run in a single step"
            )

    def let(self, instr: Instr) -> None:
        if len(instr.args) != 1:
            self.fail("arity", "let takes one argument", instr)
        if instr.attrs:
            self.fail("attributes", "let has none", instr)
        self.name(instr.out, instr)

    def once(self, variant: Variant) -> None:
        """The rule `shared`."""
        seen: set[tuple[str, str]] = set()
        for instr in variant.forward if self.ssa else ():
            if instr.op in ("par", "arr"):
                first = self.shared.setdefault((instr.op, instr.out), instr)
                if first.attrs != instr.attrs or first.type != instr.type:
                    self.fail("shared", f"{instr.op} '{instr.out}' differs between variants", instr)
                if self.typed and instr.type is not None and instr.attr("dims") != instr.type.dims:
                    self.fail("types", "dims and type differ", instr)
            elif instr.op in ("state", "keep"):
                key = (instr.op, str(instr.attr("var")))
                if key in seen or key[1] not in self.states:
                    self.fail("shared", f"state '{key[1]}' is read or kept twice, or never read", instr)
                seen.add(key)
                if instr.op == "state" and instr.type != self.states[key[1]]:
                    self.fail("shared", f"state '{key[1]}' has two types", instr)

    def outcome(self, variant: Variant, types: dict[str, Type | None]) -> None:
        """Result and names."""
        if variant.result is not None and variant.result not in types:
            self.fail("names", f"the result '{variant.result}' is not defined")
        if len({name for name, _ in variant.names}) != len(variant.names):
            self.fail("names", "a variable has two values")
        for name, value in variant.names:
            self.name(name, None)
            if value not in types:
                self.fail("names", f"variable '{name}' stands for '{value}', which is not defined")

    # --- backward programs --------------------------------------------------------------------------------------------

    def losses(self, variant: Variant) -> None:
        losses = [b.loss for b in variant.backward]
        if len(losses) != len(set(losses)) or not set(losses) <= set(LOSSES):
            self.fail("losses", f"losses {', '.join(losses)}")
        if variant.result is None and losses != ["zero"]:
            self.fail("losses", f"no result, and losses {', '.join(losses)}")

    def backward(self, variant: Variant, backward: Backward, forward: dict[str, Type | None]) -> None:
        types = dict(forward)
        if variant.result is not None and backward.loss != "zero":
            types[GOLD] = types[variant.result]
            if backward.loss != "none":
                types[MASK] = None
        known = dict(types)
        seen: set[tuple[str, object]] = set()
        for instr in backward.body:
            op = self.op(instr)
            if op.name in ("par", "arr", "rnd", "state", "keep", "update"):
                self.fail("operators", f"{op.name} may not stand in a backward program", instr)
            if MASK in instr.args and op.args[instr.args.index(MASK)] != "mask":
                self.fail("definition", f"{MASK} is read by an operator that takes no mask", instr)
            self.instr(instr, op, types)
            if op.effect or op.name == "dstate":
                self.gradient(instr, forward, types, seen)
        self.kernels(backward.body, types)
        self.phases(backward.phases, known, backward.body)

    def gradient(
        self,
        instr: Instr,
        forward: dict[str, Type | None],
        types: dict[str, Type | None],
        seen: set[tuple[str, object]],
    ) -> None:
        """The rule `gradients`."""
        key = instr.attrs[0][1]
        if (instr.op, key) in seen:
            self.fail("gradients", f"{key!r} a second time", instr)
        seen.add((instr.op, key))
        of: Type | None = None
        if instr.op == "dpar":
            par = self.shared.get(("par", str(key)))
            of = par.type if par is not None and str(key) in forward else None
            self.trained.add(str(key))
        elif instr.op == "dinput" and isinstance(key, int) and 0 <= key < len(self.program.inputs):
            of = forward[self.program.inputs[key].name]
        elif instr.op in ("dkeep", "dstate"):
            of = self.states.get(str(key))
        if of is None or of != (types[instr.args[0]] if instr.args else instr.type):
            self.fail("gradients", f"{key!r} is of type {of}", instr)

    # --- kernels ------------------------------------------------------------------------------------------------------

    def kernels(self, body: tuple[Instr, ...], types: dict[str, Type | None]) -> None:
        """The rule `kernels`; `types` has those of all values of the list."""
        number = 0
        for kernel, group in groupby(body, key=attrgetter("kernel")):
            members = list(group)
            if not kernel:
                continue
            number += 1
            product, rest = epilogues.split(members)
            right = not epilogues.fits(product, rest, types) if product else self.is_one_kernel(members)
            if kernel != number or len(members) == 1 or not (right and self.training):
                self.fail("kernels", f"kernel {kernel} of {', '.join(i.out for i in members)}", members[0])

    def is_one_kernel(self, members: list[Instr]) -> bool:
        """Whether instructions without a product can be gone through element by element together, a loss first."""
        if epilogues.is_loss(members[0]):
            members, loss = members[1:], members[0]
            if not epilogues.fits_loss(loss, members) or not all(map(epilogues.is_elementwise, members)):
                return False
        before = prologue(members)
        alike = len({i.type.dims for i in members if i.type and i.out not in before}) == 1
        reaching = [i for i in members if self.ops[i.op].reach]
        one = all(way_through(i) == way_through(reaching[0]) for i in reaching)
        own = {i.out for i in members} - before
        apart = not any(own.intersection(i.args) for i in reaching)
        whole = all(i.type and (i in reaching or isinstance(self.ops[i.op].cuda, Elementwise)) for i in members)
        return alike and one and apart and whole

    # --- an instruction -----------------------------------------------------------------------------------------------

    def op(self, instr: Instr) -> OpDef:
        """The instruction's operator; arguments, attributes and result are as it wants them."""
        op = self.ops.get(instr.op)
        if op is None:
            self.fail("operators", f"there is no operator '{instr.op}'", instr)
        if len(instr.args) != len(op.args) and not (op.variadic and instr.args):
            self.fail("arity", f"{op.name} takes {len(op.args)} arguments", instr)
        if [key for key, _ in instr.attrs] != sorted(op.keywords):
            self.fail("attributes", f"{op.name} has {', '.join(sorted(op.keywords)) or 'none'}", instr)
        if op.effect != (not instr.out) or (op.effect and instr.type is not None):
            self.fail("effects", f"{op.name} is {'an' if op.effect else 'no'} effect", instr)
        return op

    def instr(self, instr: Instr, op: OpDef, types: dict[str, Type | None]) -> None:
        """Definition and types; adds the result to `types`."""
        if self.ssa:
            for arg in instr.args:
                if arg not in types:
                    self.fail("definition", f"'{arg}' is not defined here", instr)
            if instr.out in types:
                self.fail("definition", f"'{instr.out}' is defined already", instr)
        if self.typed:
            if not op.effect:
                self.type(instr.type, instr)
            self.shape(instr, op, types)
        elif instr.type is not None:
            self.fail("types", "a type before the stage typed", instr)
        if instr.out:
            self.name(instr.out, instr)
            types[instr.out] = instr.type

    def shape(self, instr: Instr, op: OpDef, types: dict[str, Type | None]) -> None:
        """The rule `shape rule`; for `keep`, that the value has the state's type."""
        key = (op.name, tuple([types[a] for a in instr.args]), instr.type, instr.attrs)
        if key not in self.agreed:
            self.rule(instr, op, types)
            self.agreed.add(key)
        if op.name == "keep" and types[instr.args[0]] != self.states.get(str(instr.attr("var"))):
            self.fail("shared", f"the state's type is {self.states.get(str(instr.attr('var')))}", instr)

    def rule(self, instr: Instr, op: OpDef, types: dict[str, Type | None]) -> None:
        """Asks the operator's shape rule: it must neither object nor add to what is known."""
        args = tuple(_partial(types[a]) for a in instr.args)
        out = _partial(instr.type)
        try:
            new_args, new_out = op.shape(args, out, dict(instr.attrs), False)
        except ShapeMismatch as mismatch:
            self.fail("shape rule", mismatch.message, instr)
        changed = [new for old, new in zip(args, new_args, strict=True) if old.known and old.dims != new.dims]
        if changed or (not op.effect and new_out.dims != out.dims):
            self.fail("shape rule", f"the rule gives {', '.join(str(p.dims) for p in (*new_args, new_out))}", instr)

    def type(self, of: Type | None, instr: Instr | None) -> None:
        if of is None or of.dtype != self.program.dtype:
            self.fail("types", f"the type is {of}", instr)
        if N in of.dims[:-1] or any(isinstance(d, int) and d <= 0 for d in of.dims):
            self.fail("types", f"the dims {of.dims!r}", instr)

    def name(self, name: str, instr: Instr | None) -> None:
        if name.split() != [name]:
            self.fail("names", f"{name!r} is no name", instr)


def _partial(of: Type | None) -> Partial:
    return UNKNOWN if of is None else Partial(of.dims)
