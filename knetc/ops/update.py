"""The training options: how a parameter changes by its gradient (docs/operators.md, the manual's table 5).

Called by the executables that run on NumPy; the emitted code has a kernel of its own for the same formulas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from knetc.lazy import np
from knetc.runtime.executable import TrainingOptions

if TYPE_CHECKING:
    from knetc.ops.base import Tensor

Slots: TypeAlias = "dict[str, Tensor]"
"""The running averages of one parameter by name, of the parameter's shape; absent until first used. `adam_t`, the
number of steps that Adam has made, has shape ()."""

# The running averages that each option uses, in the order in which the options are applied.
SLOTS: dict[str, tuple[str, ...]] = {
    "adagrad": ("adagrad",),
    "rmsprop": ("rmsprop",),
    "adam": ("adam_m", "adam_v", "adam_t"),
    "momentum": ("momentum",),
    "nesterov": ("nesterov",),
}

TEMPORARIES = 8
"""How many arrays of the parameter's shape `apply_update` makes at once, at the most."""

EPSILON = 1e-8
RMSPROP_DECAY = 0.9
ADAM_BETA1, ADAM_BETA2 = 0.9, 0.999


def gradient_scale(norm: float, gclip: float, gscale: float) -> float:
    """What every gradient is multiplied by: `gscale`, and gclip/norm where the global L2 norm is over gclip > 0."""
    return gscale * gclip / norm if 0 < gclip < norm else gscale


def apply_update(
    options: TrainingOptions, w: Tensor, dw: Tensor, slots: Slots, scale: float, scratch: Tensor | None = None
) -> None:
    """Changes w in place by its gradient dw, which stays as it is; `slots`, as `make_slots` makes them for these
    options, are changed in place.

    `scale` comes from `gradient_scale`. All arithmetic is in w's element type. `scratch`, of w's shape and type, is
    overwritten where it is given; it saves making an array for the last product.
    """
    real = w.dtype.type
    step = np.multiply(dw, real(scale)) if scale != 1 else dw
    if options.l1reg:
        step = step + real(options.l1reg) * np.sign(w)
    if options.l2reg:
        step = step + real(options.l2reg) * w
    if options.adagrad:
        step = _adagrad(step, slots)
    if options.rmsprop:
        step = _rmsprop(step, slots)
    if options.adam:
        step = _adam(step, slots)
    if options.momentum:
        step = _momentum(step, slots, real(options.momentum))
    if options.nesterov:
        step = _nesterov(step, slots, real(options.nesterov))
    w -= step if options.lr == 1 else np.multiply(step, real(options.lr), out=scratch)


def make_slots(options: TrainingOptions, slots: Slots, w: Tensor) -> None:
    """Makes the running averages that the options need and that there are not yet, zero."""
    for option, names in SLOTS.items():
        for name in names if getattr(options, option) else ():
            if name not in slots:
                slots[name] = np.zeros(()) if name == "adam_t" else np.zeros_like(w, order="F")


def _adagrad(step: Tensor, slots: Slots) -> Tensor:
    squares = slots["adagrad"]
    squares += np.square(step)
    return step / (step.dtype.type(EPSILON) + np.sqrt(squares))


def _rmsprop(step: Tensor, slots: Slots) -> Tensor:
    squares, real = slots["rmsprop"], step.dtype.type
    squares *= real(RMSPROP_DECAY)
    squares += real(1 - RMSPROP_DECAY) * np.square(step)
    return step / (real(EPSILON) + np.sqrt(squares))


def _adam(step: Tensor, slots: Slots) -> Tensor:
    """Kingma and Ba 2015, algorithm 1."""
    m, v, count, real = slots["adam_m"], slots["adam_v"], slots["adam_t"], step.dtype.type
    count += 1
    m *= real(ADAM_BETA1)
    m += real(1 - ADAM_BETA1) * step
    v *= real(ADAM_BETA2)
    v += real(1 - ADAM_BETA2) * np.square(step)
    mean = m / real(1 - ADAM_BETA1 ** float(count))
    variance = v / real(1 - ADAM_BETA2 ** float(count))
    return mean / (np.sqrt(variance) + real(EPSILON))


def _momentum(step: Tensor, slots: Slots, rate: np.floating) -> Tensor:
    last = slots["momentum"]
    step = step + rate * last
    last[...] = step
    return step


def _nesterov(step: Tensor, slots: Slots, rate: np.floating) -> Tensor:
    velocity = slots["nesterov"]
    velocity *= rate
    velocity += step
    return step + rate * velocity
