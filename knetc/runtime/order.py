"""The order of calls: which forward calls can still be gone back through, and what may come next.

Part of `model.Model`, the same for every back end. The `before_…` methods raise KnetStateError and change nothing; the
others record what has happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from knetc.errors import KnetStateError
from knetc.ir.program import Variant


@dataclass(frozen=True, slots=True)
class Call:
    """What is remembered of a forward call: which variant ran, the shape of what it returned (None for nothing), on how
    many columns and inputs of which shapes.
    """

    variant: Variant
    result: tuple[int, ...] | None
    batch: int
    shapes: tuple[tuple[int, ...], ...]


class Order:
    """What the calls so far allow."""

    def __init__(self) -> None:
        self.last: Call | None = None  # the last forward call of either kind
        self.gradients = False  # whether there are gradients
        self._forw: Call | None = None  # the forw that `back` goes back through
        self._no_forw = "call forw first"
        self._stack: list[Call] = []
        self._stale = 0  # how many steps on the stack ran with other parameters than there are now
        self._unwinding = False  # whether sback has begun to take the stack down
        self._interrupted = ""  # what changed the state between two calls of sforw

    # --- what may come next ---

    def before_push(self, what: str) -> None:
        """Whether `sforw` may run."""
        steps = count(len(self._stack), "step")
        if self._unwinding:
            raise KnetStateError(
                f"{what}: sback has begun, with {steps} left on the stack; go back through all, or reset the model"
            )
        if self._stale:
            raise KnetStateError(
                f"{what}: the parameters have changed with {steps} on the stack; reset the model first"
            )
        if self._interrupted:
            raise KnetStateError(
                f"{what}: {self._interrupted} changed the state in mid-sequence, with {steps} on the stack; reset the "
                "model first (keepstate=True keeps the state)"
            )

    def before_back(self) -> Call:
        """The call that `back` goes back through."""
        if self._forw is None:
            raise KnetStateError(f"back: {self._no_forw}")
        return self._forw

    def before_pop(self, what: str, steps: int) -> list[Call]:
        """The `steps` newest calls on the stack, the newest last."""
        if len(self._stack) < steps:
            have = f"there are {count(len(self._stack), 'step')} on the stack" if self._stack else "the stack is empty"
            raise KnetStateError(f"{what}: {have}; each step back needs an sforw of its own")
        if self._stale:
            raise KnetStateError(f"{what}: the parameters have changed since sforw; reset the model first")
        return self._stack[-steps:]

    def before_gradients(self, what: str) -> None:
        """Whether gradients may be used."""
        if not self.gradients:
            raise KnetStateError(f"{what}: there are no gradients; call back or sback first")

    # --- what has happened ---

    def ran(self, call: Call, push: bool) -> None:
        """A forward call."""
        self.last = call
        if push:
            self._stack.append(call)
            self._forw, self._no_forw = None, "the last call was sforw, which only sback goes back through"
        else:
            self._forw = call

    def went_back(self, pop: bool) -> None:
        """A backward call."""
        self.gradients = True
        if pop:
            self._stack.pop()
            self._unwinding = bool(self._stack)
            self._interrupted = self._interrupted if self._stack else ""

    def lost(self, gradients: bool) -> None:
        """No memory was left for a call: what the last forward call computed may be gone, and the `gradients`."""
        self.last = self._forw = None
        self._no_forw = "there was no memory for a call; call forw again"
        self.gradients = self.gradients and not gradients

    def parameters_changed(self) -> None:
        """What ran before cannot be gone back through."""
        self._stale = len(self._stack)
        if self._forw:
            self._forw, self._no_forw = None, "the parameters have changed since the last forw; call forw again"

    def state_changed(self, what: str) -> None:
        """`what` changed the state; the steps on the stack do not lead to it."""
        if self._stack:
            self._interrupted = what

    def reset(self) -> None:
        """The stack and the gradients are gone."""
        self._stack.clear()
        self._stale, self._unwinding, self._interrupted, self.gradients = 0, False, "", False

    def clean(self) -> None:
        """The values of the last call are gone too."""
        self.reset()
        self.last = self._forw = None
        self._no_forw = "call forw first"


def count(n: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
