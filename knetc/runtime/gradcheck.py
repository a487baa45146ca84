"""Gradients against central differences in float64.

Called as a method of `model.Model`. The check runs on a twin of the model in float64 with the same parameters, so the
model itself stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.errors import KnetShapeError
from knetc.runtime.losses import Loss, loss_function, loss_name

if TYPE_CHECKING:
    from knetc.runtime.model import Model

STEP = 6e-6
"""Relative size of a change of a parameter: the cube root of the rounding error, where differences are best."""

SAMPLES = 60
"""How many elements of a large parameter are looked at."""

FLOOR = 1e-7
"""Norms below this count as this: smaller gradients drown in the rounding of the loss."""


def gradcheck(net: Model, /, x: Any, y: Any, loss: Loss | str, **conditions: bool) -> float:
    """The worst relative error, over the parameters, of the gradient of `loss` against central differences.

    `x` and `y` are an input (a tuple where the model has several) and its desired output, or lists of time steps, run
    from a zero state (None in `y`: no loss at that step). The error of a parameter is `|analytic − numeric|` over the
    larger of the two, in L2 norms over its elements; of a large parameter elements evenly spaced are taken. Random
    draws are the same in every run. Raises as `forw` and `back`.
    """
    name = loss_name(loss, gradient=True)
    twin = net.twin("f64")
    run = _Run(twin, x, y, name, conditions)
    run.gradients()
    analytic = {p: twin.grad(p) for p in twin.trained()}
    return max((_error(twin, p, gradient, run.loss) for p, gradient in analytic.items()), default=0.0)


class _Run:
    """One pass over the data from a zero state and the first random draws."""

    def __init__(self, net: Model, x: Any, y: Any, loss: str, conditions: Mapping[str, Any]) -> None:
        self._net, self._loss, self._conditions = net, loss, conditions
        self._xs = x if isinstance(x, list) else [x]
        self._ys = y if isinstance(x, list) else [y]
        if len(self._xs) != len(self._ys):
            raise KnetShapeError(f"gradcheck: x has {len(self._xs)} time steps and y has {len(self._ys)}")

    def loss(self) -> float:
        """The sum of the steps' losses."""
        function = loss_function(self._loss)
        values = self._forward(self._net.forw)
        return sum(function(v, y) for v, y in zip(values, self._ys, strict=True) if y is not None)

    def gradients(self) -> None:
        """Computes the gradients of that sum."""
        if len(self._xs) == 1:
            self._forward(self._net.forw)
            self._net.back(self._ys[0], self._loss)
            return
        self._forward(self._net.sforw)
        for y in reversed(self._ys):
            self._net.sback(y, None if y is None else self._loss)

    def _forward(self, forward: Callable[..., Any]) -> list[Any]:
        self._net.reset()
        self._net.setseed(0)
        return [forward(*(x if isinstance(x, tuple) else (x,)), **self._conditions) for x in self._xs]


def _error(net: Model, name: str, analytic: np.ndarray, loss: Callable[[], float]) -> float:
    start = net.get(name)
    chosen = np.unique(np.linspace(0, start.size - 1, min(start.size, SAMPLES)).astype(int))
    numeric = np.array([_difference(net, name, start, i, loss) for i in chosen])
    net.set(name, start)
    exact = analytic.ravel(order="F")[chosen]
    scale = max(float(np.linalg.norm(exact)), float(np.linalg.norm(numeric)), FLOOR)
    return float(np.linalg.norm(exact - numeric) / scale)


def _difference(net: Model, name: str, start: np.ndarray, index: int, loss: Callable[[], float]) -> float:
    where = np.unravel_index(index, start.shape, order="F")
    step = STEP * max(1.0, abs(float(start[where])))
    values: list[float] = []
    for sign in (1, -1):
        changed = start.copy(order="F")
        changed[where] += sign * step
        net.set(name, changed)
        values.append(loss())
    return (values[0] - values[1]) / (2 * step)
