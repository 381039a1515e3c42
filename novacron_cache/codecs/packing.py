"""MessagePack with extension types, so that Python's own values come back as what they were.

Two codecs share one packer. `MsgpackCodec` writes a value of a declared type; the type brings back what the wire does
not say (which model, which enum). `PlainCodec` is for values stored without a declared type, where the wire has to say
everything: it carries exactly the types listed in `PLAIN` and refuses all others, subclasses included, because they
would come back as something else.

What a tuple or a set holds is packed by itself, inside an extension, so that reading one calls the reader again. Each
of its calls takes some ten kilobytes of the C stack, and a payload may come from anybody: a few hundred bytes of tuples
in tuples would end the process. So only the outer ones are read on the stack, the others on the heap, and there is a
depth beyond which nothing is read or written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeVar, cast
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

MAX_DEPTH: Final = 100
"""How deep tuples and sets may lie in one another."""

_ON_STACK: Final = 4

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
        plain: Any = zone
        offset, *label = plain.__getinitargs__()  # what its own pickling uses, and type stubs do not name
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


def _plain_at(depth: int) -> Callable[[Any], Any]:
    def extend(value: Any) -> msgpack.ExtType:
        kind = type(value)
        if (code := _CODES.get(kind)) is not None:
            return msgpack.ExtType(code, _pack(list(value), _below(_PLAIN_AT, depth)))
        if (form := _FORMS.get(kind)) is not None:
            number, pack = form
            return msgpack.ExtType(number, pack(value))
        raise _UnknownTypeError(f"type {kind.__qualname__}")

    return extend


_CODES: dict[type, int] = {tuple: _TUPLE, set: _SET, frozenset: _FROZENSET}

_FORMS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    datetime: (_DATETIME, _pack_datetime),
    date: (_DATE, lambda value: _CALENDAR.pack(value.year, value.month, value.day)),
    time: (_TIME, _pack_clock),
    timedelta: (_TIMEDELTA, _pack_span),
    Decimal: (_DECIMAL, lambda value: str(value).encode()),
    UUID: (_UUID, lambda value: value.bytes),
    int: (_INTEGER, _pack_integer),
}

_CONTAINERS: dict[int, Callable[[Any], Any]] = {_TUPLE: tuple, _SET: set, _FROZENSET: frozenset}

_READERS: dict[int, Callable[[bytes], Any]] = {
    _DATETIME: _unpack_datetime,
    _DATE: lambda data: date(*_CALENDAR.unpack(data)),
    _TIME: _unpack_time,
    _TIMEDELTA: _unpack_span,
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: lambda data: UUID(bytes=data),
    _INTEGER: lambda data: int.from_bytes(data, "big", signed=True),
}


def _declared_at(depth: int) -> Callable[[Any], Any]:
    """Give up what the declared type brings back: the enum of a value, the class of a named tuple."""

    def extend(value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        kind = type(value)
        if (form := _FORMS.get(kind)) is not None:
            number, pack = form
            return msgpack.ExtType(number, pack(value))
        if (code := _CODES.get(kind)) is not None:
            return msgpack.ExtType(code, _pack(list(value), _below(_DECLARED_AT, depth)))
        return list(value) if isinstance(value, tuple) else to_jsonable_python(value)

    return extend


def _pack(value: Any, extend: Callable[[Any], Any]) -> bytes:
    return cast(bytes, msgpack.packb(value, default=extend, strict_types=True, unicode_errors="surrogatepass"))


def _read_at(depth: int) -> Callable[[int, bytes], Any]:
    def read(code: int, data: bytes) -> Any:
        if (make := _CONTAINERS.get(code)) is None:
            return _READERS[code](data)
        inner = _below(_READ_AT, depth)
        return make(_unpack(data, inner) if depth < _ON_STACK else _unpack_on_heap(data, inner))

    return read


H = TypeVar("H")


def _below(hooks: tuple[H, ...], depth: int) -> H:
    if depth == MAX_DEPTH:
        raise ValueError(f"tuples and sets lie more than {MAX_DEPTH} deep in one another")
    return hooks[depth + 1]


def _unpack(data: bytes, read: Callable[[int, bytes], Any]) -> Any:
    return msgpack.unpackb(data, ext_hook=read, strict_map_key=False, unicode_errors="surrogatepass")


def _unpack_on_heap(data: bytes, read: Callable[[int, bytes], Any]) -> Any:
    """Do what `_unpack` does, slower, and without the space that it takes on the stack."""
    size = len(data)
    unpacker = msgpack.Unpacker(
        ext_hook=read, strict_map_key=False, unicode_errors="surrogatepass", max_buffer_size=size, read_size=size
    )
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != size:
        raise ValueError("more than one value")
    return value


_DEPTHS: Final = range(MAX_DEPTH + 1)
_READ_AT: Final = tuple(map(_read_at, _DEPTHS))
_PLAIN_AT: Final = tuple(map(_plain_at, _DEPTHS))
_DECLARED_AT: Final = tuple(map(_declared_at, _DEPTHS))
_read, _extend, _extend_declared = _READ_AT[0], _PLAIN_AT[0], _DECLARED_AT[0]


def unpack(data: bytes) -> Any:
    """Return what the packer wrote; any exception means that it did not write this."""
    return _unpack(data, _read)


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
            "told no type; pass model=..., or decorate with @cached(SomeType): the return annotation is missing, or "
            "cannot be looked up there"
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
