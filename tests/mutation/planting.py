"""Putting a mutant in the place of a module that is imported already, under everything that refers to it.

Functions keep their identity and get the code of the changed ones, so it makes no difference who has imported them from
where. What ran when the module was imported does not run again.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

from .mutants import Mutant


class UnfitError(Exception):
    """A function would need other variables of those around it than it was made with."""


def plant(mutant: Mutant, module: types.ModuleType) -> None:
    """Give a module's functions the code of a mutant's, in this process.

    Raises:
        UnfitError: nothing can be said of this mutant.
    """
    changed = types.ModuleType(module.__name__)
    changed.__dict__.update({name: value for name, value in vars(module).items() if name.startswith("__")})
    sys.modules[module.__name__] = changed  # dataclasses look there
    try:
        exec(mutant.code, vars(changed))  # noqa: S102
    finally:
        sys.modules[module.__name__] = module
    _take_over(vars(module), vars(changed), module.__name__)


def _take_over(old: Any, new: Any, module: str) -> None:
    for name, value in list(new.items()):
        before = old.get(name)
        if isinstance(value, type) and isinstance(before, type) and value.__module__ == module:
            _take_over(vars(before), vars(value), module)
            continue
        for mine, theirs in zip(_functions(before), _functions(value), strict=False):
            if theirs.__module__ == module and mine.__module__ == module:
                try:
                    mine.__code__ = theirs.__code__
                except ValueError as error:
                    raise UnfitError(name) from error
                mine.__defaults__ = theirs.__defaults__
                mine.__kwdefaults__ = theirs.__kwdefaults__


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """Yield the functions that something defined in a module or class is made of."""
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if isinstance(value, property):
        for one in (value.fget, value.fset, value.fdel):
            yield from _functions(one)
    elif isinstance(value, functools.cached_property):
        yield from _functions(value.func)
    elif isinstance(inner := getattr(value, "__wrapped__", None), types.FunctionType):
        yield inner
    elif isinstance(value, types.FunctionType):
        yield value
