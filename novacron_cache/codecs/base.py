"""What a codec is: the one place where values become bytes, and the registry that names them on the wire.

A codec turns a value of a declared type into a body and back. It knows nothing of keys, ages or signatures (that is the
envelope) and nothing of which types it can be trusted with (that is the schema). Its `format_id` travels with every
payload, so it is never given to anything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from pydantic_core import SchemaSerializer, SchemaValidator

from ..errors import SettingsError, nearest

Dump: TypeAlias = Callable[[Any], bytes]
Load: TypeAlias = Callable[[bytes], Any]

C = TypeVar("C", bound="Codec")


class Adapter(Protocol):
    """The two halves of a `pydantic.TypeAdapter` that a codec uses."""

    @property
    def serializer(self) -> SchemaSerializer | Any:
        """Return what writes values of the type."""

    @property
    def validator(self) -> SchemaValidator | Any:
        """Return what reads values of the type."""


class Codec(ABC):
    """Values of a declared type to bytes and back.

    Attributes:
        name: short and stable; part of the schema's fingerprint.
        format_id: 1 to 255, stable on the wire and never reused; from 200 on they are not the package's.
        native: whether Python's own types (bytes, dates, sets) reach the wire as themselves, not as JSON.
        signed_only: whether reading a body that a stranger wrote is dangerous.
        typed: whether the codec writes by the declared type; not so where values describe themselves.
    """

    name: ClassVar[str]
    format_id: ClassVar[int]
    native: ClassVar[bool] = False
    signed_only: ClassVar[bool] = False
    typed: ClassVar[bool] = True

    @abstractmethod
    def dump(self, adapter: Adapter, value: Any) -> bytes:
        """Return the body of a value; any exception means that it cannot be written.

        Fields are written by their names, never by an alias, without the computed ones; a part that is not of its
        declared type raises.
        """

    @abstractmethod
    def load(self, adapter: Adapter, data: bytes) -> Any:
        """Return the value that `dump` wrote; any exception means that the body is not one of this type."""

    def bind(self, adapter: Adapter, *, by_name: bool) -> tuple[Dump, Load]:
        """Return `dump` and `load` of one type, as fast as the codec can be.

        Args:
            adapter: the type.
            by_name: whether the type knows its fields by name alone, having neither aliases nor computed fields.

        Returns:
            A `dump` for values already known to be exactly of the declared type, and a `load`.
        """
        del by_name
        return (lambda value: self.dump(adapter, value)), (lambda data: self.load(adapter, data))


_BY_ID: dict[int, Codec] = {}
_BY_NAME: dict[str, Codec] = {}


def register(codec: C) -> C:
    """Make a codec known under its name and its id, and return it.

    Raises:
        SettingsError: the id is out of range, or the name or the id belongs to another codec.
    """
    if not 0 < codec.format_id < 256:
        raise SettingsError(f"codec {codec.name!r}: format_id {codec.format_id} is not from 1 to 255")
    for taken in (_BY_ID.get(codec.format_id), _BY_NAME.get(codec.name)):
        if taken is not None and type(taken) is not type(codec):
            raise SettingsError(
                f"codec {codec.name!r} (id {codec.format_id}): taken by {taken.name!r} (id {taken.format_id})"
            )
    _BY_ID[codec.format_id] = _BY_NAME[codec.name] = codec
    return codec


def codec_named(name: str) -> Codec:
    """Return the codec of this name, such as `"json"`, or the one that is at a place, such as `"shop.codecs:PLIST"`.

    Raises:
        SettingsError: there is none.
    """
    if ":" in name:
        return _codec_at(name)
    try:
        return _BY_NAME[name]
    except KeyError:
        raise SettingsError(
            f"serialization={name!r}: expected one of {', '.join(map(repr, _BY_NAME))}{nearest(name, _BY_NAME)}",
            variable="serialization",
        ) from None


def _codec_at(place: str) -> Codec:
    """Return the codec that a module has under a name, registered.

    Raises:
        SettingsError: there is none, or it cannot be registered.
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"serialization={place!r}: {error}", variable="serialization") from error
    if not isinstance(found, Codec):
        raise SettingsError(
            f"serialization={place!r}: this is a {type(found).__qualname__}, not an instance of "
            f"novacron_cache.codecs.Codec",
            variable="serialization",
        )
    return register(found)


def codec_numbered(format_id: int) -> Codec | None:
    """Return the codec of this id, or None when no such codec is known here."""
    return _BY_ID.get(format_id)
