"""The functions of the Python interface: each calls the model's method of the same name.

`knetc/__init__.py` hands them out when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from knetc.ir.types import PartialDims
from knetc.runtime.losses import Loss
from knetc.runtime.model import Model

if TYPE_CHECKING:
    from knetc.runtime.executable import Tensor


def forw(net: Model, /, *inputs: Any, **conditions: bool) -> Any:
    """The model's value for `inputs`; see `Model.forw`."""
    return net.forw(*inputs, **conditions)


def sforw(net: Model, /, *inputs: Any, **conditions: bool) -> Any:
    """`forw` in a sequence; see `Model.sforw`."""
    return net.sforw(*inputs, **conditions)


def forwseq(net: Model, xs: Any, /, **conditions: bool) -> Any:
    """A sequence of steps forward; see `Model.forwseq`."""
    return net.forwseq(xs, **conditions)


def back(
    net: Model, ygold: Any = None, loss: Loss | str | None = None, getdx: Any = False, mask: Any = None
) -> Tensor | list[Tensor] | None:
    """Gradients of the last `forw`; see `Model.back`."""
    return net.back(ygold, loss, getdx, mask)


def sback(
    net: Model, ygold: Any = None, loss: Loss | str | None = None, getdx: Any = False, mask: Any = None
) -> Tensor | list[Tensor] | None:
    """`back` in a sequence; see `Model.sback`."""
    return net.sback(ygold, loss, getdx, mask)


def backseq(net: Model, ys: Any, loss: Loss | str | None = None, mask: Any = None) -> None:
    """A sequence of steps back; see `Model.backseq`."""
    net.backseq(ys, loss, mask)


def train(
    net: Model,
    data: Any,
    loss: Loss | str,
    epochs: int = 1,
    gclip: float = 0,
    seqlength: int | None = None,
    progress: bool = True,
    **conditions: bool,
) -> list[float]:
    """A whole run of training; see `Model.train`."""
    return net.train(data, loss, epochs, gclip, seqlength, progress, **conditions)


def test(net: Model, data: Any, loss: Loss | str) -> float:
    """The average loss over a data set; see `Model.test`."""
    return net.test(data, loss)


def reset(net: Model, keepstate: bool = False) -> None:
    """Empties the stack, zeroes gradients and state; see `Model.reset`."""
    net.reset(keepstate)


def update(net: Model, gclip: float = 0, gscale: float = 1) -> None:
    """Moves the parameters against their gradients; see `Model.update`."""
    net.update(gclip, gscale)


def setp(net: Model, name: str | None = None, **options: Any) -> None:
    """Sets training options; see `Model.setp`."""
    net.setp(name, **options)


def get(net: Model, name: str) -> Tensor:
    """A copy of a variable; see `Model.get`."""
    return net.get(name)


def set(net: Model, name: str, array: Any) -> None:
    """Overwrites a parameter or state; see `Model.set`."""
    net.set(name, array)


def params(net: Model) -> dict[str, tuple[int, ...]]:
    """Every parameter with its dims; see `Model.params`."""
    return net.params()


def state(net: Model) -> dict[str, PartialDims]:
    """Every state variable with its dims; see `Model.state`."""
    return net.state()


def grad(net: Model, name: str) -> Tensor:
    """A copy of a parameter's gradient; see `Model.grad`."""
    return net.grad(name)


def gnorm(net: Model) -> float:
    """The L2 norm of all gradients; see `Model.gnorm`."""
    return net.gnorm()


def wnorm(net: Model) -> float:
    """The L2 norm of all parameters; see `Model.wnorm`."""
    return net.wnorm()


def setseed(net: Model, seed: int) -> None:
    """Keys random draws anew; see `Model.setseed`."""
    net.setseed(seed)


def clean(net: Model) -> Model:
    """Frees what can be computed again and returns the model; see `Model.clean`."""
    return net.clean()


def gradcheck(net: Model, x: Any, y: Any, loss: Loss | str, **conditions: bool) -> float:
    """The worst relative error of the gradients; see `Model.gradcheck`."""
    return net.gradcheck(x, y, loss, **conditions)


def summary(net: Model) -> str:
    """A table of the operations with parameters and memory; see `Model.summary`."""
    return net.summary()
