"""Recursion without Python's stack: functions that call each other by `yield`, run by one loop.

Lowering inlines definitions into one another; written as tasks it is as plain as ordinary recursion, and its depth is
bounded by memory alone.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias

# A generator that yields the tasks it waits for, is sent their results, and returns its own.
Task: TypeAlias = "Generator[Task, Any, Any]"


def run(task: Task) -> Any:
    """Runs a task and all that it waits for; an exception passes through the waiting tasks as through calls."""
    stack = [task]
    value: Any = None
    error: Exception | None = None
    while stack:
        try:
            waits_for = stack[-1].throw(error) if error is not None else stack[-1].send(value)
        except StopIteration as done:
            stack.pop()
            value, error = done.value, None
        except Exception as raised:
            stack.pop()
            value, error = None, raised
        else:
            stack.append(waits_for)
            value, error = None, None
    if error is not None:
        raise error
    return value
