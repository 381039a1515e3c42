"""MessagePack with extension types, so that Python's own values come back as what they were.

Two codecs share one packer. `MsgpackCodec` writes a value of a declared type; the type brings back what the wire does
not say (which model, which enum). `PlainCodec` is for values stored without a declared type, where the wire has to say
everything: it carries exactly the types listed in `PLAIN` and refuses all others, subclasses included, because they
would come back as something else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
from pydantic_core import TzInfo, to_jsonable_python

from ..errors import CachedValueError
from .base import Adapter, Codec, Dump, Load, register

SCALARS: Final = frozenset(
    {type(None), bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID}
)  # fmt: skip
"""Immutable types that the packer carries exactly."""

PLAIN: Final = SCALARS | {list, dict, tuple, set, frozenset}
"""Everything a value without a declared type may be made of."""

ZONES: Final = frozenset({timezone, ZoneInfo, TzInfo})
"""Time zones that are immutable and that the packer carries exactly."""

# Extension codes are wire format: never renumber one.
_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _INTEGER = range(1, 11)

_NAIVE, _OFFSET, _NAMED, _FIXED = range(4)
_CLOCK = struct.Struct(">BBBIBB")
_CALENDAR = struct.Struct(">HBB")
_SPAN = struct.Struct(">iiI")


class _UnknownTypeError(TypeError):
    """The packer has no form for a type."""


def _pack_zone(zone: tzinfo | None) -> tuple[int, bytes]:
    kind = type(zone)
    if zone is None:
        return _NAIVE, b""
    if kind is timezone:
        offset, *label = zone.__getinitargs__()  # type: ignore[attr-defined] # what its own pickling uses
        return _OFFSET, _pack_span(offset) + "".join(label).encode()
    if isinstance(zone, ZoneInfo) and kind is ZoneInfo and zone.key is not None:
        return _NAMED, zone.key.encode()
    if kind is TzInfo:
        return _FIXED, struct.pack(">i", round((zone.utcoffset(None) or timedelta()).total_seconds()))
    raise _UnknownTypeError(f"time zone {zone!r} of type {kind.__qualname__}")


def _unpack_zone(kind: int, data: bytes) -> tzinfo | None:
    if kind == _NAIVE:
        return None
    if kind == _OFFSET:
        offset, label = _unpack_span(data[: _SPAN.size]), data[_SPAN.size :]
        return timezone(offset, label.decode()) if label else timezone(offset)
    if kind == _NAMED:
        return ZoneInfo(data.decode())
    if kind == _FIXED:
        return TzInfo(struct.unpack(">i", data)[0])
    raise ValueError(f"unknown kind of time zone {kind}")


def _pack_span(value: timedelta) -> bytes:
    return _SPAN.pack(value.days, value.seconds, value.microseconds)


def _unpack_span(data: bytes) -> timedelta:
    days, seconds, microseconds = _SPAN.unpack(data)
    return timedelta(days, seconds, microseconds)


def _pack_clock(value: datetime | time) -> bytes:
    kind, zone = _pack_zone(value.tzinfo)
    return _CLOCK.pack(value.hour, value.minute, value.second, value.microsecond, value.fold, kind) + zone


def _pack_datetime(value: datetime) -> bytes:
    return _CALENDAR.pack(value.year, value.month, value.day) + _pack_clock(value)


def _unpack_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold, kind = _CLOCK.unpack_from(data)
    return time(hour, minute, second, microsecond, _unpack_zone(kind, data[_CLOCK.size :]), fold=fold)


def _unpack_datetime(data: bytes) -> datetime:
    year, month, day = _CALENDAR.unpack_from(data)
    hour, minute, second, microsecond, fold, kind = _CLOCK.unpack_from(data, _CALENDAR.size)
    zone = _unpack_zone(kind, data[_CALENDAR.size + _CLOCK.size :])
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _pack_integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _extend(value: Any) -> msgpack.ExtType:
    kind = type(value)
    if kind is tuple:
        return msgpack.ExtType(_TUPLE, _pack(list(value), _extend))
    if kind is set:
        return msgpack.ExtType(_SET, _pack(list(value), _extend))
    if kind is frozenset:
        return msgpack.ExtType(_FROZENSET, _pack(list(value), _extend))
    if (form := _FORMS.get(kind)) is not None:
        code, pack = form
        return msgpack.ExtType(code, pack(value))
    raise _UnknownTypeError(f"type {kind.__qualname__}")


_FORMS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    datetime: (_DATETIME, _pack_datetime),
    date: (_DATE, lambda value: _CALENDAR.pack(value.year, value.month, value.day)),
    time: (_TIME, _pack_clock),
    timedelta: (_TIMEDELTA, _pack_span),
    Decimal: (_DECIMAL, lambda value: str(value).encode()),
    UUID: (_UUID, lambda value: value.bytes),
    int: (_INTEGER, _pack_integer),
}

_READERS: dict[int, Callable[[bytes], Any]] = {
    _TUPLE: lambda data: tuple(unpack(data)),
    _SET: lambda data: set(unpack(data)),
    _FROZENSET: lambda data: frozenset(unpack(data)),
    _DATETIME: _unpack_datetime,
    _DATE: lambda data: date(*_CALENDAR.unpack(data)),
    _TIME: _unpack_time,
    _TIMEDELTA: _unpack_span,
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: UUID(bytes=data),
    _INTEGER: lambda data: int.from_bytes(data, "big", signed=True),
}


def _extend_declared(value: Any) -> Any:
    """Give up what the declared type brings back: the enum of a value, the class of a named tuple."""
    if isinstance(value, Enum):
        return value.value
    kind = type(value)
    if kind in _FORMS:
        return _extend(value)
    if kind is tuple or kind is set or kind is frozenset:
        code = _TUPLE if kind is tuple else _SET if kind is set else _FROZENSET
        return msgpack.ExtType(code, _pack(list(value), _extend_declared))
    return list(value) if isinstance(value, tuple) else to_jsonable_python(value)


def _pack(value: Any, extend: Callable[[Any], Any]) -> bytes:
    return cast(bytes, msgpack.packb(value, default=extend, strict_types=True, unicode_errors="surrogatepass"))


def _read_extension(code: int, data: bytes) -> Any:
    return _READERS[code](data)


def unpack(data: bytes) -> Any:
    """Return what the packer wrote; any exception means that it did not write this."""
    return msgpack.unpackb(data, ext_hook=_read_extension, strict_map_key=False, unicode_errors="surrogatepass")


def portable_zone(value: datetime | time) -> bool:
    """Return whether a time carries no zone or one that the packer knows."""
    return value.tzinfo is None or type(value.tzinfo) in ZONES


def is_scalar(value: Any) -> bool:
    """Return whether a value is of one of the immutable plain types, exactly."""
    kind = type(value)
    return kind in SCALARS and ((kind is not datetime and kind is not time) or portable_zone(value))


def _refuse_unknown(value: Any, path: str) -> None:
    kind = type(value)
    if kind in SCALARS:
        return
    # One pass in C tells whether any element needs a closer look.
    if kind is dict:
        if not {*map(type, value), *map(type, value.values())} <= SCALARS:
            for key, item in value.items():
                _refuse_unknown(key, f"{path} key {key!r}")
                _refuse_unknown(item, f"{path}[{key!r}]")
    elif kind in PLAIN:
        if not set(map(type, value)) <= SCALARS:
            for position, item in enumerate(value):
                _refuse_unknown(item, f"{path}[{position}]")
    else:
        raise CachedValueError(
            f"{path} is of type {kind.__qualname__}, which would not come back as itself from a cache that was "
            "told no type; pass model=..."
        )


class MsgpackCodec(Codec):
    """Packs what the declared type serialises to in Python mode; smaller than JSON for numbers and bytes."""

    name = "msgpack"
    format_id = 2
    native = True

    def dump(self, adapter: Adapter, value: Any) -> bytes:
        """Return the packed value, its fields by name."""
        plain = adapter.serializer.to_python(value, by_alias=False, round_trip=True, warnings="error")
        return _pack(plain, _extend_declared)

    def load(self, adapter: Adapter, data: bytes) -> Any:
        """Return the value; the wire holds simpler types than a strict model asks for, so reading is lax."""
        return adapter.validator.validate_python(unpack(data), strict=False, by_alias=False, by_name=True)

    def bind(self, adapter: Adapter, *, by_name: bool) -> tuple[Dump, Load]:
        """Return closures over the type."""
        if not by_name:
            return super().bind(adapter, by_name=by_name)
        to_python, validate_python = adapter.serializer.to_python, adapter.validator.validate_python
        return (
            lambda value: _pack(to_python(value), _extend_declared),
            lambda data: validate_python(unpack(data), strict=False),
        )


class PlainCodec(Codec):
    """Packs values that describe themselves; carries the types of `PLAIN` exactly and nothing else."""

    name = "plain"
    format_id = 4
    native = True
    typed = False

    def dump(self, adapter: Adapter | None, value: Any) -> bytes:
        """Return the packed value.

        Raises:
            CachedValueError: a part of it is of another type than those in `PLAIN`.
        """
        del adapter
        try:
            _refuse_unknown(value, "the value")
            return _pack(value, _extend)
        except _UnknownTypeError as error:
            raise CachedValueError(f"{error} cannot be cached without a type; pass model=...") from error
        except (RecursionError, ValueError) as error:
            raise CachedValueError("the value is nested too deeply, or contains itself") from error

    def load(self, adapter: Adapter | None, data: bytes) -> Any:
        """Return the value that was packed."""
        del adapter
        return unpack(data)


MSGPACK = register(MsgpackCodec())
PLAIN_VALUES = register(PlainCodec())
