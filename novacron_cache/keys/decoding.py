"""Stored keys read backwards: from the text under which a value is kept to the values it was made of.

The injective text carries each value's type, so nothing has to be guessed. What is not worth an inverse (instances of
subclasses, unusual zones) and what has none (a key that ends in a digest) is not read. Whoever reads a key proves the
result by making the key again: `StoredReader.read` does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import ModuleType
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import UUID
from zoneinfo import ZoneInfo

from ..errors import KeyValueError
from .stored import MAX_STORED_LENGTH, stored_key
from .templates import KeyTemplate
from .values import UnstableError, value_text

__all__ = ["StoredReader", "read_stored"]


class StoredReader:
    """Reads the stored keys of one name and template.

    Args:
        name: the name in front of the keys.
        template: the template they were made from.
    """

    def __init__(self, name: str, template: KeyTemplate) -> None:
        self._name = name
        self._template = template
        empty = stored_key(name, template, ("",) * len(template.placeholders))
        # Literals are escaped, so the only brackets are those around the values.
        self._pattern = re.compile("([^<>]*)>".join(map(re.escape, empty.split(">"))))

    def read(self, stored: str) -> tuple[Any, ...] | None:
        """Return the value of each placeholder, or None where the key is not of this template or cannot be read."""
        found = self._pattern.fullmatch(stored)
        if found is None:
            return None
        try:
            values = tuple(_decode(text) for text in found.groups())
            again = stored_key(self._name, self._template, values)
        # Whatever the types of the values raise for text that was never theirs: somebody else's key, or a damaged one.
        except (*_UNREADABLE, NotImplementedError, KeyValueError):
            return None
        return values if again == stored else None


def read_stored(stored: str) -> tuple[str, tuple[str, ...]]:
    """Return the name in front of a stored key, and the logical keys that it may stand for.

    Nothing has to be known of the template. Usually there is one logical key. There are two where a `cache_scope` may
    stand in front of the key, and none where the key was cut or holds a value that is not read.
    """
    head, _, body = stored.partition(":")
    try:
        name = _plain(head)
    except ValueError:  # somebody else's key, and no text at all
        return head, ()
    if is_cut(stored):
        return name, ()
    try:
        if body.startswith("~k"):
            return name, (_plain(body[2:]),)
        whole = _logical(body)
        scope = _SCOPED.match(body)
        return name, (whole,) if scope is None else (whole, _logical(body[scope.end() :]))
    except (*_UNREADABLE, UnstableError):
        return name, ()


def _logical(body: str) -> str:
    """Return the text that a template's stored form was rendered to."""
    parts = _HOLE.split(body)
    parts[::2] = map(_plain, parts[::2])
    parts[1::2] = [value_text(_decode(value)) for value in parts[1::2]]
    return "".join(parts)


def head_of(stored: str) -> str:
    """Return what a stored key has in common with all others of its name."""
    return stored.partition(":")[0]


def is_cut(stored: str) -> bool:
    """Return whether a stored key was too long and ends in a digest, so that its values are lost."""
    return len(stored) == MAX_STORED_LENGTH and re.search(r"~h[0-9a-f]{40}\Z", stored) is not None


def _decode(text: str) -> Any:
    value, end = _read(text, 0)
    if end != len(text):
        raise ValueError(text)
    return value


def _read(text: str, start: int) -> tuple[Any, int]:
    """Return the value whose text begins at `start`, and where it ends."""
    make = _CONTAINERS.get(text[start : start + 2])
    if make is None:
        end = _END.search(text, start)
        stop = len(text) if end is None else end.start()
        return _scalar(text[start:stop]), stop
    items, position = [], start + 2
    while not text.startswith("~)", position):
        item, position = _read(text, position)
        if not text.startswith("~,", position):
            raise ValueError(text)
        items.append(item)
        position += 2
    return make(items), position + 2


def _scalar(text: str) -> Any:
    if not text.startswith("~"):
        return _plain(text)
    decode = _SCALARS.get(text[1:2])
    if decode is None:
        raise ValueError(text)
    return decode(text[2:])


def _plain(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass") if "%" in text else text


def _exactly(value: Any) -> Callable[[str], Any]:
    def decode(rest: str) -> Any:
        if rest:
            raise ValueError(rest)
        return value

    return decode


def _moment(kind: type[datetime] | type[time]) -> Callable[[str], Any]:
    def decode(rest: str) -> Any:
        stamp, fold, zone = rest.split(";")
        # The offset is in the text as well, but the zone is what the value had.
        return kind.fromisoformat(stamp).replace(fold=int(fold), tzinfo=_zone(_plain(zone)))

    return decode


def _zone(text: str) -> tzinfo | None:
    if not text:
        return None
    if text == repr(UTC):
        return UTC
    named = re.fullmatch(r"zoneinfo\.ZoneInfo\(key='([^']+)'\)", text)
    if named is None:
        raise ValueError(text)
    return ZoneInfo(named[1])


def _duration(rest: str) -> timedelta:
    days, seconds, microseconds = map(int, rest.split(";"))
    return timedelta(days, seconds, microseconds)


def _path(rest: str) -> Any:
    kind, _, text = rest.partition("~.")
    return _PATHS[kind](_plain(text))


def _member(rest: str) -> Any:
    """Return a member of an enum whose module is imported; a key never makes anything be imported."""
    path, _, name = rest.partition("~.")
    parts = _plain(path).split(".")
    for split in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:split]))
        for attribute in parts[split:]:
            # What is there already, and not what `getattr` might make: a proxy, or a module that imports lazily.
            found = vars(found).get(attribute) if isinstance(found, type | ModuleType) else None
        if isinstance(found, type) and issubclass(found, Enum):
            return found[_plain(name)]
    raise ValueError(rest)


# The name of a zone is looked for among files, so it fails as files do.
_UNREADABLE: Final = (ValueError, ArithmeticError, LookupError, TypeError, RecursionError, OSError)

_HOLE: Final = re.compile(r"<(?:[a-z]+~:)?([^<>]*)>")
_SCOPED: Final = re.compile(r"<[^<>]*>@")
_END: Final = re.compile(r"~[,)]")
_CONTAINERS: Final[dict[str, Callable[[list[Any]], Any]]] = {"~(": tuple, "~l": list, "~s": set, "~z": frozenset}
_PATHS: Final = {kind.__name__: kind for kind in (PurePosixPath, PosixPath, PureWindowsPath, WindowsPath)}
_SCALARS: Final[dict[str, Callable[[str], Any]]] = {
    "t": _exactly(True),
    "f": _exactly(False),
    "n": _exactly(None),
    "i": int,
    "d": float,
    "b": bytes.fromhex,
    "u": lambda rest: UUID(hex=rest),
    "N": Decimal,
    "D": _moment(datetime),
    "T": _moment(time),
    "Y": date.fromisoformat,
    "P": _duration,
    "p": _path,
    "e": _member,
}
