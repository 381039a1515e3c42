"""What a callable says of itself: its name, its module, whether it is awaited, and whether it is like another one.

Functions say all of it. Partials, and objects that can be called, have no qualified name and do not say that they are
asynchronous, and their text holds an address, which would make a name of its own in each process, or share one by
chance.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def label_of(function: Any) -> str:
    """Return the qualified name of a function; for a partial that of what it calls, for an object that of its class."""
    name = getattr(function, "__qualname__", None)
    if name is not None:
        return str(name)
    return label_of(function.func if isinstance(function, functools.partial) else type(function))


def plain_of(function: Any) -> Any:
    """Return what runs when a callable is called: what a partial calls, and the method of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__qualname__") else type(function).__call__


def module_of(function: Any) -> str:
    """Return the name of a function's module as another program would import it, also in the script that runs.

    Two scripts are both called `__main__`; their functions must not share entries in a tier that both use.
    """
    name: str = plain_of(function).__module__
    if name != "__main__":
        return name
    main = sys.modules[name]
    if (spec := getattr(main, "__spec__", None)) is not None:
        return str(spec.name)
    path = getattr(main, "__file__", None)
    return name if path is None else Path(path).stem


def is_unnamed(function: Any) -> bool:
    """Return whether several functions may have this one's qualified name, as lambdas and what a factory makes do."""
    name = getattr(function, "__qualname__", "<lambda>")
    return "<locals>" in name or "<lambda>" in name


def is_asynchronous(function: Any) -> bool:
    """Return whether what a callable returns has to be awaited, as far as it says so."""
    return inspect.iscoroutinefunction(plain_of(function))


def is_same_function(one: Callable[..., Any], two: Callable[..., Any]) -> bool:
    """Return whether two functions of one name would load the same values: same code, same surroundings."""
    if getattr(one, "__code__", one) is not getattr(two, "__code__", two):
        return False
    return all(
        mine is theirs or _equal(mine, theirs)
        for mine, theirs in zip(_surroundings(one), _surroundings(two), strict=True)
    )


def _surroundings(function: Any) -> list[Any]:
    """Return what a function takes from the scope around it: defaults, and the variables it closes over."""
    found = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            found.append(None)
    return found


def _equal(one: Any, two: Any) -> bool:
    try:
        return bool(one == two)
    except Exception:  # what cannot be compared is not the same
        return False
