"""The two texts of a value: the plain one that users see, and the injective one under which results are stored.

They stand side by side because of the law that binds them: equal injective texts have equal plain ones. So a type is
added here for both at once, or refused by both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from uuid import UUID

_SPECIAL = re.compile(r"[%<>~*?\[\]{}\\\s]")
_special_in = _SPECIAL.search
_SERVER_SPECIAL = re.compile(r"[%*?\[\]{}\\\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_plain(text: str) -> bool:
    """Return whether `percent_escape` gives the text itself, and then that of every part of it."""
    return text.isprintable() and _special_in(text) is None


def percent_escape(text: str) -> str:
    r"""Return the text with `% < > ~ * ? [ ] { } \`, whitespace and everything unprintable as `%XX`; injective."""
    if text.isprintable() and _special_in(text) is None:
        return text
    return "".join([_percent(char) if not char.isprintable() or _SPECIAL.match(char) else char for char in text])


def server_safe(text: str) -> str:
    r"""Return user text as it may stand in a server's key: `{ } * ? [ ] \ %`, whitespace and controls as `%XX`.

    Injective. Hash tags and glob characters lose their meaning, and the result always encodes as UTF-8.
    """
    if _SERVER_SPECIAL.search(text) is None:
        return text
    return _SERVER_SPECIAL.sub(lambda match: _percent(match[0]), text)


def server_unsafe(text: str) -> str:
    """Return the text that `server_safe` was given."""
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass") if "%" in text else text


def printable(text: str) -> str:
    """Return text from outside as it may be logged or shown on a terminal: what is no print is escaped, as in `\\n`."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def _percent(char: str) -> str:
    return "".join([f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass")])


class UnstableError(Exception):
    """A value, or one inside it, has no stable text; the template that holds it turns this into a `KeyValueError`.

    Attributes:
        value: the value that has none.
        fix: what to do about it; empty where that depends on the placeholder.
    """

    def __init__(self, value: object, fix: str = "") -> None:
        super().__init__(value)
        self.value = value
        self.fix = fix


def encode_value(value: Any) -> str:
    """Return the injective text of a value, its type included.

    Raises:
        UnstableError: the value, or one inside it, has no stable text.
        ValueError: the value cannot be written, such as an int of too many digits.
        RecursionError: it is nested too deeply.
    """
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Enum):
        member = f"~{encode_value(value.value)}" if value.name is None else percent_escape(value.name)
        return f"~e{_class(value)}~.{member}"
    return _encode_subclass(value)


def _encode_subclass(value: Any) -> str:
    """Encode an instance of a mere renaming of a scalar type, with its class; refuse any other subclass.

    What adds state or its own text or equality may differ where its base does not.
    """
    for base in _SCALARS:
        if isinstance(value, base):
            same = all(getattr(type(value), name) is getattr(base, name) for name in _TEXT_AND_EQUALITY)
            if not same or object.__getstate__(value) is not None:
                raise UnstableError(value, f"pass a plain {base.__name__}")
            return f"~c{_class(value)}~.{_ENCODERS[base](value)}"
    raise UnstableError(value)


def _encode_moment(value: datetime | time) -> str:
    # The fold and the zone are no part of the text, but two zones may agree at this moment and differ at the next.
    tag = "~D" if isinstance(value, datetime) else "~T"
    return f"{tag}{value.isoformat()};{value.fold};{_zone(value.tzinfo)}"


def _zone(zone: tzinfo | None) -> str:
    if zone is not None and type(zone).__repr__ is object.__repr__:
        raise UnstableError(zone, "use a zoneinfo.ZoneInfo or a datetime.timezone")
    return "" if zone is None else percent_escape(repr(zone))


def _encode_sequence(value: Collection[Any]) -> str:
    items = [f"{encode_value(item)}~," for item in value]
    if isinstance(value, set | frozenset):
        items.sort()
    return f"{_OPENINGS[type(value)]}{''.join(items)}~)"


def _class(value: object) -> str:
    return percent_escape(f"{type(value).__module__}.{type(value).__qualname__}")


def _encode_path(value: PurePath) -> str:
    return f"~p{type(value).__name__}~.{percent_escape(str(value))}"


_TEXT_AND_EQUALITY = ("__str__", "__repr__", "__format__", "__eq__", "__hash__")
_OPENINGS: dict[type, str] = {tuple: "~(", list: "~l", set: "~s", frozenset: "~z"}
# No tag is `~h`, which begins the digest of a long key.
_ENCODERS: dict[type, Callable[[Any], str]] = {
    str: percent_escape,
    bool: lambda value: "~t" if value else "~f",
    int: lambda value: f"~i{value}",
    type(None): lambda _: "~n",
    float: lambda value: f"~d{value!r}",
    bytes: lambda value: f"~b{value.hex()}",
    UUID: lambda value: f"~u{value.hex}",
    Decimal: lambda value: f"~N{value}",
    datetime: _encode_moment,
    time: _encode_moment,
    date: lambda value: f"~Y{value.isoformat()}",
    timedelta: lambda value: f"~P{value.days};{value.seconds};{value.microseconds}",
    **dict.fromkeys((PurePosixPath, PosixPath, PureWindowsPath, WindowsPath), _encode_path),
    **dict.fromkeys(_OPENINGS, _encode_sequence),
}
_SCALARS: Final = tuple(kind for kind in _ENCODERS if kind not in _OPENINGS)


def value_text(value: Any) -> str:
    """Return what `f"{value}"` gives, with the elements of a set in order; raises what `encode_value` raises."""
    kind = type(value)
    if kind not in _ENCODERS or kind in _OPENINGS or isinstance(value, datetime | time):
        encode_value(value)
    return _container_text(value) if kind in _OPENINGS else f"{value}"


def _container_text(value: Any) -> str:
    items = [_container_text(item) for item in value] if (kind := type(value)) in _OPENINGS else []
    if kind is tuple:
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if kind is list:
        return f"[{', '.join(items)}]"
    if kind in _OPENINGS:
        inside = f"{{{', '.join(sorted(items))}}}" if items else ""
        return f"frozenset({inside})" if kind is frozenset else inside or "set()"
    return repr(value)
