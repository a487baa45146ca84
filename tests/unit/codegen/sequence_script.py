"""The script that the tests of failing sequences go through: `forwseq` and `backseq`, and what stands between."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np

from knetc.ir.program import LOSSES, Program
from knetc.runtime.library import Library

from .driver import (
    SEQUENTIAL,
    Net,
    Step,
    array,
    build,
    configure,
    create,
    destroy,
    forward,
    options,
    plain,
    reading,
    update,
    write,
)
from .sweep import Script, added_in_part

# The models, and one whose sequences go step by step, since the arrays of several would be too large.
LIBRARIES = {name: (name, "") for name in SEQUENTIAL} | {"step by step": ("unwritten", "> 20.0;")}


def forwseq(seed: int, batch: int, steps: int, *, all_: bool = False) -> Step:
    """A sequence forward, under all conditions or none."""

    def step(net: Net) -> int:
        conditions = sum(1 << k for k, c in enumerate(net.program.conditions) if all_)
        inputs = [array(s, batch * steps, seed) for s in net.shapes]
        value = array(net.result, batch * steps, 0)
        places = (ctypes.c_void_p * len(inputs))(*(a.ctypes.data for a in inputs))
        code = net.call("forwseq", conditions, places, batch, steps, value.ctypes.data)
        for a in (*inputs, value):  # the caller may do with its arrays what it likes
            if code:
                a.fill(np.nan)
        net.out += [] if code else [value]
        return code

    return step


def backseq(seed: int, batch: int, steps: int, loss: str = "softloss") -> Step:
    """Back through so many steps, some of whose columns are masked; their loss."""

    def step(net: Net) -> int:
        gold = np.abs(array(net.result, batch * steps, seed))
        mask = (np.arange(batch * steps) % 3 != 0).astype(np.float32)
        value = np.zeros((), np.float32)
        where = None if loss == "zero" else value.ctypes.data
        code = net.call("backseq", LOSSES.index(loss), gold.ctypes.data, mask.ctypes.data, steps, where)
        for a in (gold, mask):
            net.held.append(a)
            if code:
                a.fill(np.nan)
        net.out += [] if code or loss == "zero" else [value]
        return code

    return step


def trainseq(seed: int, batch: int, steps: int, length: int) -> Step:
    """Training over so many steps in segments; its losses."""

    def step(net: Net) -> int:
        inputs = [array(s, batch * steps, seed) for s in net.shapes]
        gold, losses = np.abs(array(net.result, batch * steps, seed + 1)), np.zeros(-(-steps // length), np.float32)
        places = (ctypes.c_void_p * len(inputs))(*(a.ctypes.data for a in inputs))
        sizes = (batch, steps, length, ctypes.c_double(0.5), ctypes.c_double(1))
        loss = LOSSES.index("softloss")
        code = net.call("trainseq", 0, loss, places, gold.ctypes.data, *sizes, losses.ctypes.data)
        for a in (*inputs, gold):  # the caller may do with its arrays what it likes
            a.fill(np.nan)
        net.out += [] if code else [losses]
        return code

    return step


# The same lengths again, which are captured; steps back in other parts than they came; another batch.
STEPS: dict[str, Step] = {
    "create": create,
    "configure": configure,
    "options": options,
    "write": write,
    "forwseq": forwseq(1, 3, 4),
    "backseq": backseq(2, 3, 4),
    "update": update,
    "reset, keeping the state": plain("reset", 1),
    "forwseq again": forwseq(3, 3, 4),
    "backseq again": backseq(4, 3, 4),
    "reset once more": plain("reset", 1),
    "forwseq under conditions": forwseq(5, 3, 2, all_=True),
    "sforward": forward("sforward", 6, 3),
    "forwseq once more": forwseq(7, 3, 2),
    "backseq of parts": backseq(8, 3, 4),
    "backseq of the rest": backseq(9, 3, 1, "quadloss"),
    "read": reading("par", "grad", "state"),
    "update again": update,
    "reset": plain("reset", 0),
    "forwseq of another size": forwseq(10, 5, 3, all_=True),
    "backseq of it": backseq(11, 5, 3, "zero"),
    "forwseq to be added": forwseq(12, 5, 2),
    "backseq that adds": backseq(13, 5, 2),
    "read of it": reading("par", "grad", "value", "state"),
    "clean": plain("clean"),
    "reset before training": plain("reset", 0),
    "trainseq": trainseq(14, 5, 4, 3),
    "training again": trainseq(16, 5, 4, 2),
    "read at the end": reading("par", "value", "state"),
    "destroy": destroy,
}
PROBE = (
    forwseq(1, 3, 4),
    backseq(2, 3, 4),
    forwseq(3, 3, 2, all_=True),
    backseq(4, 3, 1),
    backseq(5, 3, 1),
    reading("grad"),
)


def changed_in_part(name: str, program: Program) -> int | None:
    """One run back that adds to no gradients can be made again; one that adds is as a single step; where several runs
    go back, those behind the failure are off the stack. Segments of training before the failure have been made."""
    if name == "backseq of parts" or name.startswith("trainseq"):
        return None
    return added_in_part(program) if name in ("backseq of the rest", "backseq that adds") else 0


def by_steps_in_part(name: str, program: Program) -> int | None:
    """The same where every `backseq` is of several runs but that of the rest, which is one step."""
    return None if name.startswith("backseq") and "rest" not in name else changed_in_part(name, program)


def script_of(name: str) -> Script:
    """What one of LIBRARIES is swept with."""
    swept = tuple(step for step in STEPS if "seq" in step)
    return Script(STEPS, PROBE, by_steps_in_part if name == "step by step" else changed_in_part, swept)


def library_of(name: str, folder: Path, fault: tuple[str, str] | None = None, sanitize: str | None = None) -> Library:
    """One of LIBRARIES, built; with a fault, which is a text and what takes its place, in it."""
    model, limit = LIBRARIES[name]
    changes = ([(r"> \d+\.0;", limit)] if limit else []) + ([(re.escape(fault[0]), fault[1])] if fault else [])
    return build(model, folder, changes, sanitize=sanitize)
