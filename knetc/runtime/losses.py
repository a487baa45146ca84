"""The three losses as functions of arrays, and as what `back`, `train` and `test` take for `loss`.

The formulas are those of the operators in `knetc.ops.loss`; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from knetc.errors import KnetNameError, KnetTypeError
from knetc.ops import registry
from knetc.runtime import check
from knetc.runtime.device import LEGACY_STREAM, find, is_device

Loss: TypeAlias = Callable[..., float]


@dataclass(frozen=True, slots=True)
class _Context:
    """What a loss operator's NumPy meaning is given besides its arguments."""

    dtype: np.dtype[Any]
    attrs: dict[str, Any]
    dims: tuple[int, ...] = ()
    steps: int = 1
    out: Any = None


def _loss(name: str, ypred: Any, ygold: Any, mask: Any) -> float:
    ypred, ygold, mask = (_host(a, name) for a in (ypred, ygold, mask))
    given = np.asarray(ypred)
    dtype = check.DTYPES["f64" if given.dtype == np.float64 else "f32"]
    predicted = check.columns(given.astype(dtype) if given.dtype.kind in "iub" else given, "ypred", dtype, None)
    batch = predicted.shape[-1]
    wanted = check.gold(ygold, predicted.shape, dtype)
    value = registry()[name].numpy(_Context(dtype, {}), predicted, wanted, check.mask(mask, batch, dtype))
    return float(value)


def mean_loss(name: str, ypred: Any, ygold: Any) -> float:
    """The value of a loss for arrays that are known to fit; a NaN in them is a NaN in it."""
    with np.errstate(all="ignore"):
        return float(registry()[name].numpy(_Context(ypred.dtype, {}), ypred, ygold, None))


def _host(array: Any, what: str) -> Any:
    """A device array's elements in host memory; anything else as it is."""
    if not is_device(array):
        return array
    from knetc.runtime.cuda import fetch

    return fetch(check.device_array(array, what, find(array, what, LEGACY_STREAM).dtype, None))


def quadloss(ypred: Any, ygold: Any, mask: Any = None) -> float:
    """½·E[(y−ŷ)²]: squared differences summed over a column, averaged over the columns.

    `ypred` and `ygold` have one shape, the columns along the last dimension; `ygold` may be one-hot by its indices. A
    column whose entry of `mask` (one number a column) is 0 adds nothing; the average stays over all columns. Raises
    KnetTypeError and KnetShapeError.
    """
    return _loss("quadloss", ypred, ygold, mask)


def softloss(ypred: Any, ygold: Any, mask: Any = None) -> float:
    """−E[p·log p̂]: cross entropy, p̂ bounded away from 0 by the type's epsilon. Arguments as `quadloss`."""
    return _loss("softloss", ypred, ygold, mask)


def zeroone(ypred: Any, ygold: Any, mask: Any = None) -> float:
    """The share of columns whose largest element lies elsewhere in `ypred` than in `ygold`. Arguments as `quadloss`."""
    return _loss("zeroone", ypred, ygold, mask)


_LOSSES: dict[str, Loss] = {"quadloss": quadloss, "softloss": softloss, "zeroone": zeroone}
_NAMES = {function: name for name, function in _LOSSES.items()}


def loss_name(loss: Any, gradient: bool) -> str:
    """The name of a loss given as a function or a name. `gradient`: it must have one, so not `zeroone`.

    Raises KnetTypeError, KnetNameError.
    """
    name = loss if isinstance(loss, str) else _NAMES.get(loss) if callable(loss) else None
    if name is None:
        raise KnetTypeError(f"the loss is knetc.quadloss, knetc.softloss or knetc.zeroone, got {loss!r}")
    if name not in _LOSSES:
        raise KnetNameError(
            f"there is no loss {name!r} (there are {check.listing(_LOSSES)}){check.suggestion(name, _LOSSES)}"
        )
    if gradient and name == "zeroone":
        raise KnetTypeError("zeroone has no gradient; train with quadloss or softloss and test with zeroone")
    return name


def loss_function(loss: Any) -> Loss:
    """The loss as a function, from itself or its name. Raises as `loss_name`."""
    return _LOSSES[loss_name(loss, gradient=False)]
