"""What the model needs to know of a program from outside: the type of its value."""

from __future__ import annotations

from knetc.ir.program import Program, Variant
from knetc.ir.types import Type


def result_type(program: Program, variant: Variant) -> Type | None:
    """The type of the value that the variant returns; None where it returns nothing."""
    if variant.result is None:
        return None
    for i in variant.forward:
        if i.out == variant.result:
            return i.type
    dims = next(i.dims for i in program.inputs if i.name == variant.result)
    assert dims is not None
    return Type(program.dtype, tuple(d for d in dims if d is not None))
