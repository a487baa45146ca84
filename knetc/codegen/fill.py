"""How arrays are filled: parameters and constants once, random arrays at every call.

Before: `codegen.kernels` and `codegen.emit` ask for the statement that fills a buffer. After: the templates of the fill
kernels. Bounds are computed by the operators' own rules, so the interpreter and the emitted code draw the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from knetc.codegen.index import count, extent
from knetc.codegen.spec import FieldValue, KernelSpec, Module, Statement, number, statement
from knetc.errors import KnetInternalError, KnetLimitation
from knetc.ir.plan import Buffer
from knetc.ir.program import Instr
from knetc.ops.fillers import resolve
from knetc.values import Array, Bernoulli, Constant, Filler, Gaussian, Identity, Uniform, Value

CLOCK = "m->clock"
_COUNTER = ("const knet_clock* clock", "unsigned stream", "unsigned column")


def fill(module: Module, instr: Instr, buffer: Buffer) -> Statement:
    """The statement that fills `buffer` as the `init` of `instr` says, with the draws of the clock's call.

    The clock stands on the device, so that a captured graph draws other numbers in every call.

    KnetLimitation where the distribution's bounds depend on the batch.
    """
    init = instr.attr("init")
    if isinstance(init, Array):
        return _literal_array(module, instr, buffer, init)
    if not isinstance(init, Filler):
        raise KnetInternalError(f"{instr.out} is filled by {init!r}", instr.span)
    value = f"{instr.out} {buffer.type}, {init!r}"
    filler = resolved(init, instr, buffer)
    drawn: tuple[str, ...] = ()
    ahead = isinstance(filler, _RANDOM) and module.part.kind == "all"
    if isinstance(filler, _RANDOM):
        # So many elements a column draw what those of the whole minibatch do; 0 where all columns share the array.
        drawn = (CLOCK, f"{stream(instr)}u", f"{buffer.type.column if buffer.type.batched else 0}u")
        if ahead:
            drawn = (*drawn, f"{buffer.type.column} * {module.batch}")
        module.features.update(("random", "normal" if isinstance(filler, Gaussian) else "uniform"))
    return statement(
        "launch_each",
        kernel=module.kernel(_kernel(module, filler, ahead), (instr,)),
        elements=count(buffer.type.dims),
        arguments=", ".join((module.ref(buffer), *drawn, *_arguments(filler, buffer))),
        value=value,
    )


def resolved(init: Filler, instr: Instr, buffer: Buffer) -> Filler:
    """The distribution with its numbers for the buffer's shape: Xavier and the Glorots become Uniform or Gaussian."""
    small, large = (resolve(init, buffer.type.concrete(n)) for n in (2, 3))
    if small != large:
        raise KnetLimitation(f"emitted code for {init!r} of a shape that holds the batch", instr.span)
    return small


# For each kind of distribution: its template, the parameters for its numbers, and its formula.
_KINDS: Mapping[type[Filler], tuple[str, tuple[str, ...], str]] = {
    Constant: ("fill_constant", ("double value",), "y = value"),
    Identity: ("fill_identity", ("double scale",), "y = scale on the diagonal, else 0"),
    Uniform: ("fill_uniform", ("double low", "double high"), "y = uniform in [low, high)"),
    Gaussian: ("fill_normal", ("double mean", "double std"), "y = normal with mean and standard deviation std"),
    Bernoulli: ("fill_bernoulli", ("double p", "double scale"), "y = scale with probability p, else 0"),
}
_RANDOM = (Uniform, Gaussian, Bernoulli)
# The random word of element i: of the call at hand, or of the call that its step of a sequence is.
_WORD = "knet_random_word(now.seed, i + column * now.first, now.call, stream)"
_WORD_AHEAD = "knet_random_word(now.seed, i % step + column * now.first, now.call + i / step, stream)"


def _kernel(module: Module, filler: Filler, ahead: bool) -> KernelSpec:
    """The kernel of a distribution; `ahead`: for all steps of a sequence, each of which draws as its own call does."""
    if type(filler) not in _KINDS:
        raise KnetInternalError(f"no code for the filler {filler!r}")
    template, parameters, formula = _KINDS[type(filler)]
    counter = _COUNTER if isinstance(filler, _RANDOM) else ()
    real = module.real
    fields: tuple[tuple[str, FieldValue], ...] = (("real", real),)
    # Columns of so many elements are a pitch apart.
    sizes = ("int height", "int pitch", "int n")
    if ahead:
        fields = (*fields, ("lines", (f"const unsigned word = {_WORD_AHEAD};",)), ("word", "word"))
        signature = (f"{real}* y", *counter, "unsigned step", *parameters, *sizes)
        return KernelSpec(template, f"{template}_ahead", signature, f"{formula}; a step has `step` elements", fields)
    if counter:
        fields = (*fields, ("lines", ()), ("word", _WORD))
    return KernelSpec(template, template, (f"{real}* y", *counter, *parameters, *sizes), formula, fields)


def numbers(filler: Filler) -> tuple[str, ...]:
    """The distribution's numbers as C text."""
    return tuple(number(getattr(filler, f), "f64") for f in filler.field_names)


def _arguments(filler: Filler, buffer: Buffer) -> tuple[str, ...]:
    texts = numbers(filler)
    # The kernel is told of columns where the filler knows them, or where they do not follow each other.
    if buffer.pitch is None and not isinstance(filler, Identity):
        return (*texts, count(buffer.type.dims), "0")
    height, _, pitch = extent(buffer)
    return (*texts, str(height), str(pitch))


def stream(instr: Instr) -> int:
    """The random stream of an array that is drawn."""
    number: Value = instr.attr("stream")
    if not isinstance(number, int):
        raise KnetInternalError(f"{instr.out} has random stream {number!r}", instr.span)
    return number


def _literal_array(module: Module, instr: Instr, buffer: Buffer, init: Array) -> Statement:
    """An array that the source gives is a table of the emitted file, copied to the device."""
    rows, columns, pitch = extent(buffer)
    return statement(
        "copy_table",
        table=module.table(instr.out, init),
        target=module.ref(buffer),
        rows=rows,
        columns=columns,
        pitch=pitch,
        value=f"{instr.out} {buffer.type}",
    )
