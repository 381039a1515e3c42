"""What every codec must do, as tests that a codec's own tests inherit.

A codec is judged as the cache uses it: behind a schema and inside an envelope. What a value comes back as is compared
to the last type, for a cache that turns `1` into `True` answers wrongly for ever after.
"""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names say what they say

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field

from ..codecs import Codec, Header, Pipeline, codec_named, codec_numbered, register
from ..codecs.sameness import difference
from ..errors import CachedValueError, DecodeError, SettingsError
from ..markers import dependencies, new_id
from ..schema import Schema

__all__ = ["CodecSuite"]


class Colour(Enum):
    """An enumeration by name, not by number."""

    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: float


@dataclass(frozen=True)
class Size:
    """A frozen dataclass."""

    width: int
    height: int


class Part(BaseModel):
    """A model with a field known by another name outside."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(alias="partNumber")
    label: str = ""


class Whole(BaseModel):
    """A model of most that models are made of."""

    model_config = ConfigDict(frozen=True, validate_by_name=True)

    id: UUID
    parts: tuple[Part, ...] = ()
    colour: Colour = Colour.RED
    weight: float | None = None
    data: bytes = b""
    notes: dict[str, int] = {}


def _whole(**values: Any) -> Whole:
    return Whole(id=UUID(int=1), **values)


VALUES: dict[str, tuple[Any, Any]] = {
    "a whole number": (int, 2**40),
    "a negative number": (int, -7),
    "a fraction": (float, 0.1),
    "infinity": (float, math.inf),
    "a negative zero": (float, -0.0),
    "true": (bool, True),
    "text": (str, "größe 鍵 🗝 \0 \n"),
    "empty text": (str, ""),
    "bytes": (bytes, bytes(range(256))),
    "no bytes": (bytes, b""),
    "a list": (list[int], [3, 1, 2]),
    "an empty list": (list[int], []),
    "a tuple": (tuple[int, str], (1, "1")),
    "a set": (frozenset[int], frozenset({1, 2, 3})),
    "a dict": (dict[str, float], {"b": 1.5, "a": -1e300}),
    "keys that are numbers": (dict[int, str], {1: "one", -2: "minus two"}),
    "a moment": (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)),
    "a moment elsewhere": (datetime, datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5)))),
    "a day": (date, date(1999, 12, 31)),
    "a time": (time, time(1, 2, 3, 4)),
    "a span": (timedelta, timedelta(-3, 4, 5)),
    "a decimal": (Decimal, Decimal("1.10")),
    "an id": (UUID, UUID(int=2**100)),
    "an enumeration": (Colour, Colour.BLUE),
    "a named tuple": (Point, Point(1, 2.5)),
    "a dataclass": (Size, Size(1920, 1080)),
    "a model": (Whole, _whole()),
    "a model of models": (Whole, _whole(parts=(Part(partNumber=1), Part(partNumber=2, label="ä")), notes={"n": 1})),
    "a model with bytes": (Whole, _whole(data=b"\x00\xff", weight=2.5, colour=Colour.BLUE)),
    "models in a list": (list[Whole], [_whole(weight=1.0), _whole()]),
    "a choice": (int | str, "1"),
    "the other choice": (int | str, 1),
}
"""What each codec has to carry exactly: a declared type, and a value of it."""


def _refuse_unsigned(codec: Codec, body: bytes) -> None:
    """Check that a body which is dangerous to read does not come through without a signature."""
    header = Header(Schema.of(Whole, codec=codec).fingerprint, 1.0, 2.0, 2.0)
    payload = Pipeline(namespace="suite").seal("k", header, body)
    with pytest.raises(DecodeError):
        Pipeline(namespace="suite", signing_keys=[bytes(range(32))]).open("k", payload, logical="k", name="Whole")


class CodecSuite:
    """The behaviour of a codec. A subclass overrides `codec`.

    >>> class TestMyCodec(CodecSuite):
    ...     @pytest.fixture
    ...     def codec(self): ...
    """

    @pytest.fixture
    def codec(self) -> Any:
        """Return the codec, which has been registered."""
        raise NotImplementedError("a subclass of CodecSuite overrides the fixture `codec`")

    # -- what it is called ------------------------------------------------------------------------------------------

    def test_it_is_found_by_its_name_and_by_its_number(self, codec: Codec) -> None:
        assert codec_named(codec.name) is codec
        assert codec_numbered(codec.format_id) is codec

    def test_its_name_and_its_number_belong_to_no_other(self, codec: Codec) -> None:
        other: Any = type("Other", (type(codec),), {})
        with pytest.raises(SettingsError):
            register(other())

    # -- what it carries --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", VALUES)
    def test_what_was_written_is_read_to_the_last_type(self, codec: Codec, name: str) -> None:
        declared, value = VALUES[name]
        schema: Schema[Any] = Schema.of(declared, codec=codec)
        body = schema.encode(value)
        assert type(body) is bytes
        assert difference(value, schema.decode(body)) is None

    @pytest.mark.parametrize("name", VALUES)
    def test_the_fast_way_and_the_plain_one_read_what_the_other_writes(self, codec: Codec, name: str) -> None:
        declared, value = VALUES[name]
        schema: Schema[Any] = Schema.of(declared, codec=codec)
        exact, plain = schema.encode(value, exact=schema.is_exact(value)), schema.encode(value)
        assert difference(schema.decode(exact), schema.decode(plain)) is None

    @pytest.mark.parametrize("name", ["a model of models", "a dict", "a moment", "a set"])
    def test_a_value_is_written_in_the_same_bytes_each_time(self, codec: Codec, name: str) -> None:
        declared, value = VALUES[name]
        assert Schema.of(declared, codec=codec).encode(value) == Schema.of(declared, codec=codec).encode(value)

    def test_a_value_of_a_megabyte_is_carried(self, codec: Codec) -> None:
        schema: Schema[list[str]] = Schema.of(list[str], codec=codec)
        value = [f"entry {number} " + "x" * 90 for number in range(10_000)]
        assert schema.decode(schema.encode(value)) == value

    def test_two_values_that_differ_are_written_differently(self, codec: Codec) -> None:
        schema: Schema[int | str] = Schema.of(int | str, codec=codec)
        bodies = [schema.encode(value) for value in (1, "1", 2, "")]
        assert len(set(bodies)) == len(bodies)

    # -- what it refuses --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("declared", "value"), [(int, "1"), (list[int], [1, "2"]), (Whole, {"id": UUID(int=1)}), (Size, (1, 2))]
    )
    def test_a_value_of_another_type_is_not_written(self, codec: Codec, declared: Any, value: Any) -> None:
        schema: Schema[Any] = Schema.of(declared, codec=codec)
        with pytest.raises(CachedValueError):
            schema.validate(value, key="k", label="the test")

    @pytest.mark.parametrize("name", ["a model of models", "a dict", "a tuple", "text"])
    def test_what_is_damaged_is_refused_or_is_a_value_of_the_type(self, codec: Codec, name: str) -> None:
        declared, value = VALUES[name]
        if codec.signed_only:
            _refuse_unsigned(codec, Schema.of(declared, codec=codec).encode(value))
            return
        schema: Schema[Any] = Schema.of(declared, codec=codec)
        body, chance = schema.encode(value), random.Random(7)  # noqa: S311 - makes damage, hides nothing
        for _ in range(200):
            at = chance.randrange(len(body))
            damaged = chance.choice([body[:at], body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :], b""])
            try:
                read = schema.decode(damaged)
            except DecodeError:
                continue
            schema.validate(read, key="k", label="what was read")

    @pytest.mark.parametrize("foreign", [b"", b"\0", b"\xff" * 40, b"[" * 100_000, b"\x91" * 100_000, b"null", b"\xc1"])
    def test_what_another_program_wrote_is_refused(self, codec: Codec, foreign: bytes) -> None:
        if codec.signed_only:
            _refuse_unsigned(codec, foreign)
            return
        with pytest.raises(DecodeError):
            Schema.of(Whole, codec=codec).decode(foreign)

    def test_what_is_read_belongs_to_its_reader(self, codec: Codec) -> None:
        schema: Schema[dict[str, list[int]]] = Schema.of(dict[str, list[int]], codec=codec)
        body = schema.encode({"a": [1]})
        schema.decode(body)["a"].append(2)
        assert schema.decode(body) == {"a": [1]}

    # -- in a payload -----------------------------------------------------------------------------------------------

    def test_a_schema_by_this_codec_is_not_one_by_another(self, codec: Codec) -> None:
        schema: Schema[Whole] = Schema.of(Whole, codec=codec)
        assert schema.fingerprint[0] == codec.format_id
        assert schema.fingerprint == Schema.of(Whole, codec=codec).fingerprint

    def test_a_body_comes_through_the_envelope_as_it_was(self, codec: Codec) -> None:
        schema: Schema[Any] = Schema.of(Whole, codec=codec)
        value, tags = _whole(notes={str(n): n for n in range(200)}), ("rack:1",)
        ids = tuple((dep, new_id()) for dep in dependencies("whole:1", "Whole", tags))
        header = Header(schema.fingerprint, 1_700_000_000.0, 1_700_000_030.0, 1_700_000_090.0, ids, tags)
        pipeline = Pipeline(namespace="suite", compression="zlib", min_bytes=64, signing_keys=[bytes(range(32))])
        payload = pipeline.seal("Whole~whole:<i1>", header, schema.encode(value))
        opened, body = pipeline.open("Whole~whole:<i1>", payload, logical="whole:1", name="Whole")
        assert opened == header
        assert difference(value, schema.decode(body)) is None
