"""Whether two values are the same to the last type: what a round trip must preserve.

`==` is too kind: `1 == True == 1.0`, a model compares equal whatever the types of its fields, and two times are equal
in different zones. Here each part must have the same type and the same text form.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from pydantic import BaseModel


def difference(before: Any, after: Any, path: str = "") -> str | None:
    """Return where and how two values differ, or None when they are the same.

    A whole number where a float was declared counts as that float. Times are the same when their wall clock and their
    offset are: a named zone may come back as its offset.
    """
    kind = type(before)
    if kind is not type(after):
        if kind is int and type(after) is float and before == after:
            return None
        return f"{path or 'the value'} of type {kind.__qualname__} comes back as {type(after).__qualname__}"
    for place, old, new in _parts(before, after):
        if (found := difference(old, new, f"{path}{place}")) is not None:
            return found
    return None if _same(before, after, kind) else f"{path or 'the value'} comes back as another {kind.__qualname__}"


def _same(before: Any, after: Any, kind: type) -> bool:
    if kind is float or kind is complex:
        return repr(before) == repr(after)
    if kind is Decimal:
        return str(before) == str(after)
    if kind is datetime or kind is time:
        wall = bool(before.replace(tzinfo=None) == after.replace(tzinfo=None))
        return wall and bool(before.utcoffset() == after.utcoffset())
    if kind is set or kind is frozenset:
        return bool(_key(before) == _key(after))
    if isinstance(before, list | tuple | dict | deque):
        return len(before) == len(after)
    if isinstance(before, BaseModel) or dataclasses.is_dataclass(before):
        return True
    return bool(before is after or before == after)


def _key(item: Any) -> Any:
    """Return what stands for an element of a set: its type, and what tells NaN, -0.0 and 1.10 from their equals."""
    if isinstance(item, frozenset | set):
        return frozenset(map(_key, item))
    if isinstance(item, tuple):
        return type(item), tuple(map(_key, item))
    return type(item), repr(item) if isinstance(item, float | Decimal) else item


def _parts(before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what two values of one type are made of, side by side; their own length or order is not compared here."""
    if isinstance(before, BaseModel):
        names = type(before).model_fields
        yield from ((f".{name}", getattr(before, name, _GONE), getattr(after, name, _GONE)) for name in names)
        yield from _attributes(before.__pydantic_extra__ or {}, after.__pydantic_extra__ or {})
        yield from _attributes(before.__pydantic_private__ or {}, after.__pydantic_private__ or {})
    elif dataclasses.is_dataclass(before):
        fields = [field.name for field in dataclasses.fields(before)]
        yield from ((f".{name}", getattr(before, name, _GONE), getattr(after, name, _GONE)) for name in fields)
    elif isinstance(before, dict):
        for (old_key, old), (new_key, new) in zip(before.items(), after.items(), strict=False):
            yield f" key {old_key!r}", old_key, new_key
            yield f"[{old_key!r}]", old, new
    elif isinstance(before, list | tuple | deque):
        yield from ((f"[{at}]", old, new) for at, (old, new) in enumerate(zip(before, after, strict=False)))


def _attributes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys((*before, *after)):
        yield f".{name}", before.get(name, _GONE), after.get(name, _GONE)


class _Gone:
    """Stands for an attribute that one side lacks."""


_GONE = _Gone()
