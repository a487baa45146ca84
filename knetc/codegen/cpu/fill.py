"""How arrays are filled, for the processor: parameters and constants once, random arrays at every call.

Before: `codegen.cpu.steps` and `codegen.cpu.functions` ask for the statement. After: the helpers `knet_fill_…`. The
numbers of a distribution come from `codegen.fill`, so all back ends draw the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from knetc.codegen.cpu.module import CpuModule
from knetc.codegen.fill import numbers, resolved, stream
from knetc.codegen.index import extent
from knetc.errors import KnetInternalError
from knetc.ir.plan import Buffer
from knetc.ir.program import Instr
from knetc.values import Array, Bernoulli, Constant, Filler, Gaussian, Identity, Uniform

_CALLS: Mapping[type[Filler], str] = {
    Constant: "constant",
    Identity: "identity",
    Uniform: "uniform",
    Gaussian: "normal",
    Bernoulli: "bernoulli",
}
_DRAWN = {Uniform: "uniform", Gaussian: "normal", Bernoulli: "uniform"}


def fill_call(module: CpuModule, instr: Instr, buffer: Buffer, to: str, first: str, count: str, call: str) -> str:
    """The statement that fills `count` elements from number `first` on, which stands at `to`, as `init` says.

    `call` is the call's number, 0 at the start. KnetLimitation where the distribution's bounds depend on the batch.
    """
    init = instr.attr("init")
    if isinstance(init, Array):
        table = module.table(instr.out, init)
        return module.write("fill_table", {"to": to, "table": table, "first": first, "count": count})
    if not isinstance(init, Filler):
        raise KnetInternalError(f"{instr.out} is filled by {init!r}", instr.span)
    filler = resolved(init, instr, buffer)
    if type(filler) not in _CALLS:
        raise KnetInternalError(f"no code for the filler {filler!r}", instr.span)
    module.features.add("fill")
    arguments = [to, first, count]
    if type(filler) in _DRAWN:
        module.features.update(("random", _DRAWN[type(filler)]))
        arguments += ["m->seed", call, f"{stream(instr)}u"]
    arguments += numbers(filler)
    if isinstance(filler, Identity):
        arguments.append(str(extent(buffer)[0]))
    return module.write(
        "call", {"function": f"knet_fill_{_CALLS[type(filler)]}", "arguments": ", ".join(map(str, arguments))}
    )
