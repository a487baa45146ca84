"""In which order gradients are summed over several devices, in buckets, and from where on each bucket is final.

Before: a plan. After: `codegen.functions` and `codegen.sequences`, which begin the sum of a bucket in the midst of a
backward function, and `codegen.emit`, which lists the gradients bucket by bucket. Buckets are the same for all
functions of a model; those that the backward pass from the output finishes first come first.
"""

from __future__ import annotations

from collections.abc import Sequence

from knetc.ir.plan import Buffer, Plan, Unit, flat

BUCKET_BYTES = 1 << 20
"""A bucket is full from here on. Smaller ones would pay more for latency, larger ones begin later: LeNet's first
bucket ends with its largest gradient, of 1.6 MB, and the convolutions' are the second."""


def gradients(plan: Plan) -> list[Buffer]:
    """The memory of every gradient, in the order in which a backward pass has finished it."""
    return list(_finished(plan))


def _finished(plan: Plan) -> dict[Buffer, int]:
    """The same with the number of units after which each is final in the pass that reaches most."""
    roots = dict.fromkeys(p.grad.root for p in plan.params if p.grad is not None)
    passes = [b for v in plan.variants for b in v.backward]
    ready = _ready(max(passes, key=lambda b: len(b.params)).steps) if passes else {}
    found = {root: ready.get(root, len(plan.buffers)) for root in roots}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def ends(plan: Plan) -> list[int]:
    """Where each bucket of `gradients` ends; those that are final together are in one."""
    found, size = [], 0
    finished = list(_finished(plan).items())
    for k, (root, after) in enumerate(finished, 1):
        size += root.bytes(1)
        if k == len(finished) or (size >= BUCKET_BYTES and finished[k][1] != after):
            found.append(k)
            size = 0
    return found


def final(plan: Plan, units: Sequence[Unit]) -> dict[int, list[int]]:
    """The buckets that are final after so many units of a backward pass, in order."""
    order, ready = gradients(plan), _ready(units)
    found: dict[int, list[int]] = {}
    first = 0
    for bucket, end in enumerate(ends(plan)):
        # One that is not reached is zeroed at the end.
        after = max(ready.get(root, len(units)) for root in order[first:end])
        found.setdefault(after, []).append(bucket)
        first = end
    return found


def _ready(units: Sequence[Unit]) -> dict[Buffer, int]:
    """For each gradient after how many units nothing writes or reads it any more."""
    found: dict[Buffer, int] = {}
    for k, unit in enumerate(units):
        for step in flat([unit]):
            for buffer in (step.out, *step.args):
                if buffer.root.kind == "grad":
                    found[buffer.root] = k + 1
    return found
