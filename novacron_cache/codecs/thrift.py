"""What live values of one type can have in common: the set in which each model notes the fields it was given.

Pydantic keeps such a set in every instance. For eleven fields it takes 728 bytes, more than all the rest of a small
model, and the garbage collector has to go through it. In a cache nearly all of these sets are equal, so that one can
stand for all. Nobody changes them: a frozen model is given no field later, and a copy of it gets a set of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel

from .shapes import Shape, unfield
from .wire import Node

__all__ = ["compile_thrift"]

MOST_SETS: Final = 4096
"""How many different sets are kept: where fields are left out in ever new ways, sharing gains nothing."""

_sets: dict[frozenset[str], set[str]] = {}


def compile_thrift(shape: Shape) -> Callable[[Any], None]:
    """Return a function that has the models in a value share their sets of field names.

    Args:
        shape: the declared type; the function is given values that are exactly of it, and immutable.
    """
    models = _models(shape, shape.root, set())
    if not models:
        return _nothing
    root = shape.resolve(shape.root)
    return _share if models == [id(root)] else _share_all


def _models(shape: Shape, node: Node, seen: set[int]) -> list[int]:
    """Return an item for each place of the type where there is a model; one inside itself counts twice."""
    node = shape.resolve(node)
    found = [id(node)] if node["type"] == "model" else []
    if id(node) in seen:
        return found
    seen.add(id(node))
    return found + [one for _, child in shape.children(node) for one in _models(shape, unfield(child), seen)]


def _nothing(value: Any) -> None:
    """Leave alone what holds no model."""


def _share(model: Any) -> None:
    """Replace the set of one model."""
    names: set[str] = model.__pydantic_fields_set__
    found = _sets.get(frozen := frozenset(names))
    if found is None:
        if len(_sets) >= MOST_SETS:
            return
        found = _sets.setdefault(frozen, set(names))
    if found is not names:
        object.__setattr__(model, "__pydantic_fields_set__", found)


def _share_all(value: Any) -> None:
    """Replace the sets of all models in a value."""
    if isinstance(value, BaseModel):
        _share(value)
        for each in value.__dict__.values():
            _share_all(each)
    elif isinstance(value, tuple | frozenset):
        for each in value:
            _share_all(each)
