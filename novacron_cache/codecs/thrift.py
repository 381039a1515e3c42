"""What live values of one type can have in common: the names of their fields, the sets that note them, some values.

Pydantic gives every instance a dictionary of its own, and a set of the fields it was given. For eleven fields these
take 1,200 bytes, more than all the rest of a small model, and the garbage collector has to go through them. A model to
which its fields are given one by one has an array of values instead, whose names belong to the class (PEP 412); and
nearly all of those sets are equal, so that one can stand for all. Nobody changes them: a frozen model is given no field
later, and a copy of it gets a dictionary and a set of its own.

The interpreter takes names into the class while the class has few instances; after some thirty it takes no more. So
cache models are prepared when they are declared, and other models when a function is decorated with them. One that
has many instances by then shares its sets alone.

A text or number that many instances have, as an owner or a state, is kept once, as long as a field has few of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from pydantic import BaseModel

from .shapes import Shape, unfield
from .wire import Node

__all__ = ["compile_thrift", "share_names"]

MOST_SETS: Final = 4096
"""How many different sets are kept: where fields are left out in ever new ways, sharing gains nothing."""

MOST_VALUES: Final = 512
"""How many different values a field may have whose values are kept once."""

MOST_CHARACTERS: Final = 64
"""How long such a text may be."""

_SPENT: Final = 32
"""After how many instances a class has as much room for names as it will ever have."""

_POOLED: Final = frozenset({str, int, float})
_sets: dict[frozenset[str], set[str]] = {}
_create: Final = object.__new__
_put: Final = object.__setattr__


class _Plain(BaseModel):
    """What a model is where its class adds nothing to the instances."""


def compile_thrift(shape: Shape) -> Callable[[Any], Any]:
    """Return a function that returns an equal value that takes less memory, or the same one.

    Args:
        shape: the declared type; the function is given values that are exactly of it, and immutable.
    """
    models = list(_models(shape, shape.root, set()))
    if not models:
        return _as_it_is
    thrift = _Thrift(node["cls"] for node in models)
    return thrift.settle if len(models) == 1 and models[0] is shape.resolve(shape.root) else thrift.settle_all


def _models(shape: Shape, node: Node, seen: set[int]) -> Iterable[Node]:
    """Yield the node of a model for each place of the type where there is one; one inside itself comes twice."""
    node = shape.resolve(node)
    if node["type"] == "model":
        yield node
    if id(node) in seen:
        return
    seen.add(id(node))
    for _, child in shape.children(node):
        yield from _models(shape, unfield(child), seen)


def _as_it_is(value: Any) -> Any:
    """Leave alone what holds no model."""
    return value


class _Thrift:
    """Makes models anew.

    Args:
        classes: the classes of the models.
    """

    def __init__(self, classes: Iterable[type[BaseModel]]) -> None:
        plain = [cls for cls in classes if _is_plain(cls)]
        self._pools: dict[type[BaseModel], dict[str, dict[Any, Any] | None]] = {
            cls: {name: {} for name in cls.model_fields} for cls in plain
        }
        self._sharing = frozenset(filter(share_names, plain))

    def settle(self, model: Any) -> Any:
        """Return a model in the place of one that holds no other."""
        return self._made(model, model.__dict__)

    def settle_all(self, value: Any) -> Any:
        """Return a value whose models are made anew, wherever they are."""
        if isinstance(value, BaseModel):
            return self._made(value, {name: self.settle_all(one) for name, one in value.__dict__.items()})
        if isinstance(value, tuple):
            kind: Any = type(value)
            settled = map(self.settle_all, value)
            return tuple(settled) if kind is tuple else kind._make(settled)
        if isinstance(value, frozenset):
            return frozenset(map(self.settle_all, value))
        return value

    def _made(self, model: Any, fields: dict[str, Any]) -> Any:
        cls = type(model)
        pools, names = self._pools.get(cls), _shared(model.__pydantic_fields_set__)
        # What else was left in the dictionary would go into the names that all instances share.
        if pools is None or len(pools) != len(fields):
            _put(model, "__pydantic_fields_set__", names)
            return model
        new = _create(cls) if cls in self._sharing else model
        held = model.__dict__
        for name, value in fields.items():
            kept, kind, pool = value, type(value), pools[name]
            # Zeros are left alone: 0.0 and -0.0 are equal.
            if pool is not None and kind in _POOLED and value and (kind is not str or len(value) <= MOST_CHARACTERS):
                found = pool.setdefault(value, value)
                if type(found) is kind:
                    kept = found
                if len(pool) > MOST_VALUES:
                    pools[name] = None
            if new is model:
                held[name] = kept
            else:
                _put(new, name, kept)
        _put(new, "__pydantic_fields_set__", names)
        if new is not model:
            _put(new, "__pydantic_extra__", None)
            _put(new, "__pydantic_private__", None)
        return new


def share_names(cls: type[BaseModel]) -> bool:
    """Have the instances of a class share the names of its fields; return whether they do, to which it may be late."""
    for _ in range(_SPENT):
        _filled(cls)
    return sys.getsizeof(vars(_filled(cls))) < sys.getsizeof(dict.fromkeys(cls.model_fields))


def _filled(cls: type[BaseModel]) -> BaseModel:
    model = _create(cls)
    for name in cls.model_fields:
        _put(model, name, None)
    return model


def _is_plain(cls: type[BaseModel]) -> bool:
    """Return whether all that an instance holds are its fields."""
    slots = any(vars(base).get("__slots__") for base in cls.__mro__ if base is not BaseModel)
    return not slots and cls.__basicsize__ == _Plain.__basicsize__ and not hasattr(cls, "__del__")


def _shared(names: set[str]) -> set[str]:
    """Return the set that stands for all that are equal to this one."""
    found = _sets.get(frozen := frozenset(names))
    if found is None:
        if len(_sets) >= MOST_SETS:
            return names
        found = _sets.setdefault(frozen, set(names))
    return found
