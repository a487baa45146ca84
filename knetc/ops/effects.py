"""Operators run for their effect: keeping state, handing gradients out, and the update of a parameter.

Each of the first four stores its argument; `update` changes a parameter by the training options (update.py). Where the
value goes is the executable's affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knetc.ops.base import EvalContext, Kernel, Keyword, NoCode, OpDef, View, register
from knetc.ops.shapes import no_inference
from knetc.ops.update import apply_update, make_slots
from knetc.runtime.executable import TrainingOptions
from knetc.values import Value

if TYPE_CHECKING:
    from knetc.ops.base import Cuda, Tensor
    from knetc.ops.update import Slots


def _store(ctx: EvalContext, v: Tensor) -> Tensor:
    """The value to be stored."""
    return v


def _update(ctx: EvalContext, options: TrainingOptions, w: Tensor, dw: Tensor, slots: Slots, scale: float) -> Tensor:
    """Changes w in place and returns it."""
    make_slots(options, slots, w)
    apply_update(options, w, dw, slots, scale)
    return w


def _effect(name: str, doc: str, keyword: str, default: Value, cuda: Cuda) -> OpDef:
    return register(
        OpDef(
            name=name,
            doc=doc + " It has no result, so no gradient.",
            args=("v",),
            keywords={keyword: Keyword(default, internal=True)},
            shape=no_inference,
            numpy=_store,
            cuda=cuda,
            effect=True,
            pure=False,
        )
    )


KEEP = _effect(
    "keep", "Stores the value that the static variable `var` has in the next call.", "var", "", Kernel("keep")
)
DPAR = _effect("dpar", "Stores, or adds in `sback`, the gradient of the parameter `param`.", "param", "", View())
DINPUT = _effect("dinput", "Hands out the gradient of the input number `index`.", "index", 0, NoCode())
DKEEP = _effect(
    "dkeep", "Stores the gradient of the static variable `var` for the step before.", "var", "", Kernel("dkeep")
)

UPDATE = register(
    OpDef(
        name="update",
        doc="Changes the parameter `param` by its gradient and its training options. It has no result, so no gradient.",
        args=(),
        keywords={"param": Keyword("", internal=True)},
        shape=no_inference,
        numpy=_update,
        cuda=Kernel("update"),
        effect=True,
        pure=False,
    )
)
