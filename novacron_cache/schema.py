"""A declared type as the cache uses it: is this value one, how is it written, is a stored one still readable, and may
it be shared.

Everything that can be decided from the declaration is decided there, once: a type that would not survive its own round
trip is refused with the fix, the fingerprint is computed, and the checks that each value needs are compiled. What only
the value can tell (an `Any` field, a custom serialiser, a subclass instance) is checked when it is stored, by reading
back what was written: a cache that returns something else than it was given is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, time
from enum import Enum
from functools import partial
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError

from .codecs.base import Codec
from .codecs.exactness import compile_exact
from .codecs.packing import PLAIN_VALUES, is_scalar, portable_zone
from .codecs.sameness import difference
from .codecs.shapes import Shape
from .codecs.thrift import compile_thrift
from .codecs.wire import Wire, is_node
from .errors import CachedValueError, DecodeError, SchemaError

__all__ = ["Schema", "plain_schema"]

T = TypeVar("T")

FINGERPRINT_BYTES: Final = 8


class Schema(Generic[T]):
    """One declared type, bound to one codec. Made by `Schema.of` or `plain_schema`.

    Attributes:
        label: the type as error messages call it.
        codec: how values are written.
        fingerprint: eight bytes that change with the type's fields, their types and the codec; the same in every
            process.
        immutable: whether the declaration alone promises that values of exactly these types can be shared.
        verified: whether each stored value is read back and compared, because the declaration promises too little.
        is_exact: returns whether a value is deeply immutable and made of exactly the declared types, so that every
            caller may be given the same object. Always False where the declaration allows anything mutable.
        load: what `decode` calls; anything that it raises means that the body does not fit the type.
        settle: returns an equal value in place of such a one that will be kept, which takes less memory.
    """

    __slots__ = (
        "_check", "_dump", "_faithful", "_instance", "_shared_is_faithful", "_wire", "codec", "fingerprint",
        "immutable", "is_exact", "label", "load", "settle", "verified",
    )  # fmt: skip

    label: str
    codec: Codec
    fingerprint: bytes
    immutable: bool
    verified: bool
    is_exact: Callable[[Any], bool]
    load: Callable[[bytes], Any]
    settle: Callable[[Any], Any]
    _wire: Wire | None
    _check: Callable[[Any], None] | None
    _instance: type | None
    _faithful: Callable[[Any], bool]
    _shared_is_faithful: bool
    _dump: Callable[[Any], bytes]

    @classmethod
    def of(cls, tp: type[T] | Any, *, codec: Codec, salt: bytes = b"") -> Schema[T]:
        """Return the schema of a type, having checked that its values survive the codec.

        Args:
            tp: anything pydantic can adapt.
            codec: how values are written.
            salt: changes the fingerprint, so that entries written under another salt become misses.

        Raises:
            SchemaError: the type has no schema or does not survive its own round trip; the message says the fix.
        """
        label = _label(tp)
        wire = _adapt(tp, label)
        shape = Shape(wire.schema)
        if problems := shape.problems(label, native=codec.native):
            raise SchemaError(f"{label} cannot be cached: {'; '.join(problems)}")
        self = cls()
        self.label, self.codec = label, codec
        self.fingerprint = _fingerprint(codec, _Canon().of(wire.schema), salt)
        self.immutable = shape.immutable()
        self.verified = not shape.survives(native=codec.native, by_name=wire.by_name)
        exact = compile_exact(shape, portable_zone)
        self.is_exact = exact if self.immutable else _never
        self.settle = compile_thrift(shape)
        self._shared_is_faithful = codec.native or not shape.has_times()
        if self.verified:
            self._faithful = _never
        else:
            self._faithful = exact if self._shared_is_faithful else compile_exact(shape, _whole_minutes)
        self._wire, self._check = wire, wire.check
        self._instance = shape.instance_class()
        self._dump, self.load = codec.bind(wire, by_name=wire.by_name)
        return self

    def validate(self, value: Any, key: str = "", label: str = "the value") -> T:
        """Return the value itself, having checked that it is of the declared type.

        The rules are strict: a dict is no model, text is no number; an int is a float. Nothing is converted, and a
        model instance is taken at its word.

        Args:
            value: what a loader returned or a caller stored.
            key: the logical key, for the message.
            label: who returned it, for the message.

        Raises:
            CachedValueError: it is of another type.
        """
        if type(value) is self._instance or self._check is None:
            return cast(T, value)
        try:
            self._check(value)
        except ValidationError as error:
            found = type(value).__qualname__
            # A type checker takes `Page(...)` for the `Page[User]` that is declared; pydantic does not.
            bare = self._instance is not None and issubclass(self._instance, type(value))
            advice = f"; make it by `{self.label}(...)`" if bare else ""
            raise CachedValueError(
                f"{label} for key {key!r} returned {found}, expected {self.label}: {_explain(error)}{advice}",
                key=key,
                expected=self.label,
            ) from None
        return cast(T, value)

    def encode(self, value: Any, *, exact: bool = False) -> bytes:
        """Return the body of a value of the declared type.

        Args:
            value: the value; never changed.
            exact: whether `is_exact` has just said so of this value, which saves asking again.

        Raises:
            CachedValueError: it cannot be written, or would come back as something else.
        """
        try:
            if (exact and self._shared_is_faithful and not self.verified) or self._faithful(value):
                return self._dump(value)
            return self._dump_verified(value)
        except CachedValueError as error:
            error.expected = error.expected or self.label
            raise
        except Exception as error:
            # A serialiser of the user's own may raise anything.
            raise CachedValueError(
                f"{type(value).__qualname__} cannot be written by {self.codec.name} as {self.label}: {_explain(error)}",
                expected=self.label,
            ) from error

    def _dump_verified(self, value: Any) -> bytes:
        if self._wire is None:
            return self._dump(value)
        data = self.codec.dump(self._wire, value)
        try:
            lost = difference(value, self.codec.load(self._wire, data))
        except Exception as error:
            lost = f"it cannot be read back ({_explain(error)})"
        if lost is not None:
            raise CachedValueError(
                f"a value of {self.label} does not survive {self.codec.name}: {lost}; declare the type it really has",
                expected=self.label,
            )
        return data

    def decode(self, data: bytes) -> T:
        """Return the value of a body that `encode` wrote.

        Raises:
            DecodeError: the body does not fit the type (`schema`).
        """
        try:
            return cast(T, self.load(data))
        except Exception as error:
            # A validator of the user's own may raise anything; a stored value must never do more than miss.
            raise DecodeError(f"not a {self.label}: {_explain(error)}", reason="schema") from error

    def __repr__(self) -> str:
        return f"<Schema {self.label} by {self.codec.name} {self.fingerprint.hex()}>"


def plain_schema() -> Schema[Any]:
    """Return the schema of values stored without a declared type.

    It carries None, bool, int, float, str, bytes, list, dict, tuple, set, frozenset, the datetime family, Decimal and
    UUID exactly; `encode` refuses every other type, subclasses included. Only values of the scalar ones are shared.
    """
    self: Schema[Any] = Schema()
    self.label, self.codec = "a plain value", PLAIN_VALUES
    self.fingerprint = _fingerprint(PLAIN_VALUES, "plain", b"")
    self.immutable, self.verified, self._shared_is_faithful = False, False, False
    self.is_exact, self._faithful, self.settle = is_scalar, _never, _as_it_is
    self._wire, self._check, self._instance = None, None, None
    self._dump = partial(PLAIN_VALUES.dump, None)
    self.load = partial(PLAIN_VALUES.load, None)
    return self


def _never(_value: Any) -> bool:
    return False


def _as_it_is(value: Any) -> Any:
    """Return the value itself."""
    return value


def _whole_minutes(value: datetime | time) -> bool:
    """Return whether a JSON text keeps the zone: it has room for an offset of whole minutes, and for nothing else."""
    offset = value.utcoffset() if portable_zone(value) else None
    return offset is not None and not offset.microseconds and not offset.seconds % 60


def _adapt(tp: Any, label: str) -> Wire:
    try:
        return Wire(TypeAdapter(tp))
    except PydanticSchemaGenerationError as error:
        raise SchemaError(
            f"{label} cannot be cached: {_first_line(error)}; make it a pydantic model, a dataclass or a TypedDict"
        ) from error
    except PydanticUndefinedAnnotation as error:
        raise SchemaError(
            f"{label} cannot be cached: {_first_line(error)}; define it before this declaration"
        ) from error
    except PydanticUserError as error:
        hint = "; define what it refers to before this declaration" if "not fully defined" in str(error) else ""
        raise SchemaError(f"{label} cannot be cached: {_first_line(error)}{hint}") from error
    except Exception as error:
        # The types' own hooks run here.
        raise SchemaError(f"{label} cannot be cached: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # pydantic's own advice, to allow arbitrary types, would only postpone the failure.
    return str(error).strip().partition("\n")[0].partition(". Set `")[0].rstrip(".") or type(error).__name__


def _label(tp: Any) -> str:
    if isinstance(tp, type) and not hasattr(tp, "__args__"):
        return tp.__name__
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)|<locals>\.", "", repr(tp))


_SHOWN_VALUE: Final = re.compile(r"input_value=.*?, (?=input_type=)")


def _explain(error: Exception) -> str:
    """Return what is wrong and where, without the values."""
    if isinstance(error, PydanticSerializationError):
        return _SHOWN_VALUE.sub("", " ".join(str(error).split()))
    if not isinstance(error, ValidationError):
        return _first_line(error)
    first, *rest = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(map(str, first["loc"]))
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"


# -- fingerprints ------------------------------------------------------------------------------------------------------

_IRRELEVANT: Final = frozenset(
    {
        "metadata", "title", "computed_fields", "default", "default_factory", "default_factory_takes_data",
        "validation_alias", "serialization_alias", "frozen", "cls_repr", "hide_input_in_errors", "members",
    }
)  # fmt: skip
"""What neither the wire nor the meaning of a stored value depends on; members are described by their class."""


class _Canon:
    """Describes a core schema in text that is the same in every process: without addresses and without set order."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}

    def of(self, part: Any) -> str:
        if is_node(part):
            return self._node(part)
        if type(part) is dict:
            return "{" + ",".join(f"{name!r}:{self.of(each)}" for name, each in sorted(part.items(), key=repr)) + "}"
        if isinstance(part, list | tuple) and not hasattr(part, "_fields"):
            return "[" + ",".join(map(self.of, part)) + "]"
        if isinstance(part, set | frozenset):
            return "{" + ",".join(sorted(map(self.of, part))) + "}"
        return self._atom(part)

    def _node(self, node: dict[str, Any]) -> str:
        kind = node["type"]
        if kind == "definitions":
            self._definitions |= {each["ref"]: each for each in node["definitions"]}
            return self.of(node["schema"])
        if kind == "definition-ref":
            ref = node["schema_ref"]
            known = self._numbers.get(ref)
            return f"#{known}" if known is not None else self.of(self._definitions[ref])
        if (ref := node.get("ref")) is not None:
            # A reference holds the class's address; its place in this walk says as much.
            self._numbers.setdefault(ref, len(self._numbers))
        described = [
            f"{key}={self.of(each)}"
            for key, each in sorted(node.items())
            if key not in _IRRELEVANT and key != "ref" and each not in (None, False, [], {})
        ]
        if kind == "enum":
            described += [f"{member.name}={self.of(member.value)}" for member in node["members"]]
        return "(" + " ".join(described) + ")"

    def _atom(self, part: Any) -> str:
        if isinstance(part, Enum):
            return f"{self.of(type(part))}.{part.name}"
        if isinstance(part, partial):
            return f"partial {self.of(part.func)}"
        if isinstance(part, re.Pattern):
            return f"pattern {part.pattern!r} {part.flags}"
        name = getattr(part, "__qualname__", None)
        if name is not None:
            return f"{getattr(part, '__module__', '')}.{name}"
        text = repr(part)
        return text if " at 0x" not in text else f"{type(part).__module__}.{type(part).__qualname__}"


def _fingerprint(codec: Codec, canon: str, salt: bytes) -> bytes:
    digest = blake2b(digest_size=FINGERPRINT_BYTES - 1, person=b"nc schema v1")
    for part in (codec.name.encode(), canon.encode("utf-8", "surrogatepass"), salt):
        digest.update(len(part).to_bytes(4, "big") + part)
    # The codec's id stands in front, so that a payload says how its body is written.
    return bytes([codec.format_id]) + digest.digest()
