"""What one emitted C++ file for the processor holds besides its plan.

Before: the plan. After: `codegen.cpu.steps`, which asks it for names and adds kernels, and `codegen.cpu.emit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from knetc.codegen.cpu.access import Columns
from knetc.codegen.cpu.packed import packed_matrices
from knetc.codegen.cpu.sharing import Sharing
from knetc.codegen.index import column_stride, extent
from knetc.codegen.names import Names
from knetc.codegen.spec import KernelSpec, Module, members
from knetc.ir.plan import Buffer, Param, Plan
from knetc.ir.program import Instr
from knetc.ir.sequence_plan import of_all_steps
from knetc.options import Options
from knetc.record import Record, replace

if TYPE_CHECKING:
    from knetc.codegen.cpu.chain import CpuChain


# Members of the model's struct that no value may be called.
_TAKEN = """workers threads sinks gold mask loss seed call batch capacity variant gradients input_gradients input_batch
    rows desired training last record stack spare state_batch state_room unwinding later wants_loss conv steps
    whole_capacity columns_before packs shared"""


class WorkerArray(Record):
    """An array that each thread has for itself: its name and elements, and what it is for."""

    member: str
    elements: int
    comment: str


def is_pitched(p: Param) -> bool:
    """Whether a parameter or its gradient has columns that do not follow each other."""
    apart = p.buffer.pitch or (p.grad.pitch if p.grad is not None else None)
    return apart is not None and extent(p.buffer)[1] > 1


def is_given(b: Buffer) -> bool:
    """Whether it comes with a call back."""
    return b.kind in ("mask", "loss", "gold")


class CpuModule(Module):
    """The names, kernels and per-thread arrays of one file. `local`: values within a block of columns. `packed`: the
    memory of matrices that are laid out anew, by what they are known by (`codegen.cpu.packed`). `sharing`: where values
    stand that share memory.
    """

    def __init__(self, plan: Plan, options: Options, render: Callable[[str, Mapping[str, object]], str]) -> None:
        self.packed = packed_matrices(plan)
        plan = replace(plan, buffers=(*plan.buffers, *dict.fromkeys(self.packed.values())))
        super().__init__(plan, options, render)
        self.members = members(plan, tuple(_TAKEN.split()))
        self.gradients = {p.grad: k for k, p in enumerate(plan.params) if p.grad is not None}
        self.pitched = {p.grad for p in plan.params if p.grad is not None and is_pitched(p)}
        self.cpu_chains: dict[tuple[object, ...], CpuChain] = {}
        self.local: set[Buffer] = set()
        self.sharing = Sharing({}, 0)
        self.worker: dict[object, WorkerArray] = {}
        self.conv_sizes: dict[tuple[object, ...], int] = {}
        self._worker_names = Names(("loss", "squares", "room"))

    @property
    def outside(self) -> frozenset[Buffer]:
        """The arrays that have no memory of the model's: those of the caller, and those within a block of columns."""
        golds = {b for v in self.plan.variants for back in v.backward for _, b in back.inputs if b.kind == "gold"}
        given = {b for b in self.plan.buffers if b.kind == "input" or (is_given(b) and b not in golds)}
        return frozenset(given | self.local)

    @property
    def of_all_steps(self) -> frozenset[Buffer]:
        """The arrays that have the columns of all steps of a sequence, but for those of frames and of the caller."""
        return frozenset(b for b in of_all_steps(self.plan) if b.kind == "value") - self.plan.framed

    def kernel(self, spec: KernelSpec, instrs: Iterable[Instr] = ()) -> str:
        """The name of the function `spec`, which is added where it is new."""
        return super().kernel(spec, instrs).removeprefix("kernels.")

    def write(self, name: str, statement: Mapping[str, object]) -> str:
        """The text of a statement: the template `cpu/steps/<name>.j2` filled in."""
        return self.paste(f"cpu/steps/{name}.j2", statement)

    def at(self, buffer: Buffer, columns: Columns) -> str:
        """How a function names an array, from the first of some columns on."""
        if buffer.root in self.local:
            return f"s.{self.worker[buffer.root].member}" + (f" + {buffer.first}" if buffer.first else "")
        first = columns.of(buffer)
        if buffer.kind == "mask":
            return f"knet_at(mask, {first})"
        name = "gold" if buffer.kind == "gold" else self.ref(buffer)
        if not buffer.type.batched or first == "0":
            return name
        size = column_stride(buffer)
        if size == 1:
            return f"{name} + {first}"
        return f"{name} + {size} * {first}" if first.isidentifier() else f"{name} + {size} * ({first})"

    def target(self, buffer: Buffer, columns: Columns) -> str:
        """How a function names an array that it fills element by element: a gradient goes where the call says."""
        return self.sink(buffer) if buffer in self.gradients else self.at(buffer, columns)

    def sink(self, buffer: Buffer) -> str:
        """Where a result that does not depend on the columns goes: a gradient goes where the call says."""
        number = self.gradients.get(buffer)
        if number is not None:
            return f"m->sinks[{number}]"
        return f"knet_to({self.ref(buffer)}{f', {buffer.pitch}' if buffer.pitch else ''})"

    def is_pitched(self, gradient: Buffer) -> bool:
        """Whether a gradient, where it stands or where it goes, has columns that do not follow each other."""
        return gradient in self.pitched

    def own_array(self, key: object, name: str, elements: int, comment: str) -> str:
        """The name of an array that each thread has; one for a key, of the largest size that is asked for."""
        found = self.worker.get(key)
        member = found.member if found else name if key == name else self._worker_names.fresh(name)
        self.worker[key] = WorkerArray(member, max(elements, found.elements if found else 0), comment)
        return member
