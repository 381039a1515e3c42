"""What is done when an object has gone, and is left undone when the interpreter ends first.

A finalizer of the standard library runs at the end of the interpreter too, for objects that are still alive. Here
finalizers keep registers short that the end of the process drops anyway, and what they would touch may already be gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["when_gone"]

P = ParamSpec("P")
T = TypeVar("T")


def when_gone(owner: T, action: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> weakref.finalize[P, T]:
    """Have something done when an object has been collected, unless the interpreter ends before.

    Args:
        owner: the object; the action and its arguments must not refer to it, or it never goes.
        action: what is done; it raises nothing.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        The finalizer: called, it acts now and not again; detached, it never acts.
    """
    finalizer = weakref.finalize(owner, action, *args, **kwargs)
    finalizer.atexit = False  # type: ignore[misc]  # a property, which mypy takes for a slot that is missing
    return finalizer
