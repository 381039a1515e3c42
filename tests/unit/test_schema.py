"""Schemas: every stored value comes back as itself, or is refused."""

import ipaddress
import math
import pathlib
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    RootModel,
    computed_field,
    create_model,
)
from pydantic_core import PydanticSerializationError
from unit.kinds import (
    MACHINES,
    Bigger,
    Disk,
    Frozen,
    Halved,
    Hidden,
    Loose,
    Machine,
    Page,
    Permission,
    Point,
    Tree,
    Upper,
    Zone,
    both,
    every,
    hidden,
    machines,
    model,
)

from novacron_cache.codecs import JSON, MSGPACK, PICKLE, wire
from novacron_cache.codecs.sameness import difference
from novacron_cache.errors import CachedValueError, DecodeError
from novacron_cache.schema import Schema, plain_schema

# -- round trip --------------------------------------------------------------------------------------------------------


@every
@given(machine=machines())
def test_every_value_of_a_rich_model_comes_back_exactly(codec, machine):
    schema = MACHINES[codec.name]
    assert difference(machine, schema.decode(schema.encode(machine))) is None


@both
def test_a_type_made_of_known_parts_needs_no_check_of_each_value(codec):
    assert not MACHINES[codec.name].verified


@every
@given(machine=machines())
def test_what_comes_back_is_exactly_of_the_declared_types(codec, machine):
    schema = Schema.of(tuple[Machine, ...], codec=codec)
    back = schema.decode(schema.encode((machine,)))
    assert type(back) is tuple
    assert difference(schema.decode(schema.encode(back)), back) is None


OTHERS: dict[str, tuple[Any, Any]] = {
    "list of models": (list[Disk], [Disk(name="a", size=1)]),
    "optional": (Disk | None, Disk(name="a", size=1)),
    "bytes that are not text": (bytes, b"\xff\x00"),
    "bytes in a dict": (dict[str, bytes], {"a": b"\x80"}),
    "nan": (float | None, math.nan),
    "infinity": (list[float], [math.inf, -math.inf, -0.0]),
    "big integer": (int, 10**100),
    "named tuple": (Zone, Zone("a", 2)),
    "dict of tuples": (dict[int, tuple[int, ...]], {1: (2, 3)}),
    "json": (Json[list[int]], [1, 2]),
    "path": (pathlib.Path, pathlib.PosixPath("/a/b")),
    "ip": (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    "url": (HttpUrl, HttpUrl("http://example.org/x")),
    "complex": (complex, 1 + 2j),
    "deque": (Sequence[int], [1, 2]),
    "mapping": (Mapping[str, int], {"a": 1}),
    "ordered dict": (OrderedDict[str, int], OrderedDict(a=1)),
    "union of models": (Disk | Point, Point(1.0, 2.0)),
    "root model": (RootModel[list[int]], RootModel[list[int]]([1])),
    "any, when plain": (dict[str, Any], {"a": [1, "x", None, 2.5, {"b": True}]}),
    "flag": (Permission, Permission.READ | Permission.WRITE),
}


@every
@pytest.mark.parametrize(("declared", "value"), OTHERS.values(), ids=OTHERS)
def test_other_types_come_back_exactly(codec, declared, value):
    schema = Schema.of(declared, codec=codec)
    schema.validate(value, "k")
    assert difference(value, schema.decode(schema.encode(value))) is None


class Behaved(Frozen):
    model_config = ConfigDict(
        extra="forbid", strict=True, ser_json_bytes="utf8", ser_json_inf_nan="null", ser_json_timedelta="float",
        alias_generator=lambda name: name.upper(), serialize_by_alias=True,
    )  # fmt: skip
    raw: bytes = b"\xff"
    ratio: float | None = math.nan
    span: timedelta = timedelta(microseconds=1)
    other: str = Field("x", validation_alias=AliasChoices("OTHER", "b"))
    written: str = Field("y", alias="w")
    when: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    many: tuple[int, ...] = (1, 2)
    default: dict[str, int] = Field(default_factory=dict)
    type: Literal["metadata"] = "metadata"

    @computed_field
    def double(self) -> float:
        return 2.0


@every
def test_a_models_own_configuration_for_users_does_not_cost_a_value(codec):
    schema = Schema.of(Behaved, codec=codec)
    value = Behaved()
    assert not schema.verified
    assert difference(value, schema.decode(schema.encode(value))) is None
    with pytest.raises(PydanticSerializationError, match="invalid utf-8"):
        value.model_dump_json()  # the model itself is as it was


@both
def test_fields_named_like_parts_of_a_schema_are_fields(codec):
    model = create_model(
        "Odd", **dict.fromkeys(["type", "schema_", "members", "expected", "metadata", "default"], (bytes, ...))
    )
    value = model(**dict.fromkeys(model.model_fields, b"\xff"))
    schema = Schema.of(model, codec=codec)
    assert difference(value, schema.decode(schema.encode(value))) is None


@both
def test_recursive_types_work(codec):
    schema = Schema.of(Tree, codec=codec)
    value = Tree(name="a", children=(Tree(name="b", children=(Tree(name="c"),)), Tree(name="d")))
    assert schema.decode(schema.encode(value)) == value
    assert schema.immutable
    assert schema.is_exact(value)
    assert not schema.verified


@both
def test_generic_models_work(codec):
    schema = Schema.of(Page[Disk], codec=codec)
    value = Page[Disk](items=(Disk(name="a", size=1),))
    assert schema.decode(schema.encode(value)) == value
    assert schema.is_exact(value)


# -- refused values ----------------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a date in Any": (Loose, Loose(value=date(2026, 1, 1)), r"\.value of type date comes back as str"),
    "a tuple in Any": (Loose, Loose(value=[(1,)]), r"\.value\[0\] of type tuple comes back as list"),
    "a model in Any": (Loose, Loose(value=Disk(name="a", size=1)), "of type Disk comes back as dict"),
    "integer keys in Any": (Loose, Loose(value={1: 2}), "key 1 of type int comes back as str"),
    "a subclass": (Disk, Bigger(name="a", size=1), "of type Bigger comes back as Disk"),
    "a nested subclass": (list[Disk], [Bigger(name="a", size=1)], r"\[0\] of type Bigger comes back as Disk"),
    "a dict subclass": (dict[str, int], defaultdict(int, a=1), "of type defaultdict comes back as dict"),
    "a private attribute": (Hidden, hidden(), r"\._secret comes back as another int"),
    "a lossy serialiser": (Halved, Halved(n=3), r"\.n comes back as another int"),
    "a validator that is not idempotent": (Upper, Upper(name="a"), r"\.name comes back as another str"),
    "a tuple as Sequence": (Sequence[int], (1, 2), "of type tuple comes back as list"),
    "an offset JSON has no room for": (
        datetime, datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "another datetime",
    ),
    "an offset of seconds": (time, time(1, tzinfo=timezone(timedelta(seconds=61))), "another time"),
    "a constructed model": (Disk, Disk.model_construct(name=1, size="x"), "Expected `str`"),
    "an unwritable text": (str, "\ud800", "cannot be written by json"),
}  # fmt: skip


@pytest.mark.parametrize(("declared", "value", "message"), REFUSED.values(), ids=REFUSED)
def test_a_value_that_would_come_back_as_something_else_is_refused(declared, value, message):
    with pytest.raises(CachedValueError, match=message) as caught:
        Schema.of(declared, codec=JSON).encode(value)
    assert caught.value.expected


@pytest.mark.parametrize(
    "case", ["a date in Any", "a tuple in Any", "integer keys in Any", "an offset JSON has no room for"]
)
def test_msgpack_carries_what_json_cannot(case):
    declared, value, _ = REFUSED[case]
    schema = Schema.of(declared, codec=MSGPACK)
    assert difference(value, schema.decode(schema.encode(value))) is None


def test_a_named_zone_comes_back_as_its_offset_in_json_and_as_itself_in_msgpack():
    moment = datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"))
    json, packed = (Schema.of(datetime, codec=codec) for codec in (JSON, MSGPACK))
    back = json.decode(json.encode(moment))
    assert (back, back.utcoffset()) == (moment, timedelta(hours=2))
    assert packed.decode(packed.encode(moment)).tzinfo is moment.tzinfo


# -- reading -----------------------------------------------------------------------------------------------------------


def test_an_encode_error_does_not_show_the_value():
    with pytest.raises(CachedValueError, match="field_name='name', input_type=int") as caught:
        Schema.of(Disk, codec=JSON).encode(Disk.model_construct(name=4711, size=1))
    assert "4711" not in str(caught.value)


@both
@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"\x81\xa1a", b"\xc7\x09\x63hello"])
def test_bytes_that_are_not_of_the_type_are_a_schema_miss(codec, data):
    with pytest.raises(DecodeError) as caught:
        Schema.of(Disk, codec=codec).decode(data)
    assert caught.value.reason == "schema"


@both
@given(data=st.binary(max_size=60))
def test_any_bytes_raise_nothing_but_decode_errors(codec, data):
    with pytest.raises(DecodeError):
        MACHINES[codec.name].decode(data)


def test_a_failing_validator_of_the_users_own_is_a_schema_miss():
    def fail(value: int) -> int:
        if value > 1:
            raise ZeroDivisionError
        return value

    with pytest.raises(DecodeError, match="ZeroDivisionError"):
        Schema.of(Annotated[int, AfterValidator(fail)], codec=JSON).decode(b"2")


def test_a_decode_error_does_not_show_the_value():
    with pytest.raises(DecodeError) as caught:
        Schema.of(Disk, codec=JSON).decode(b'{"name":"a","size":"hunter2"}')
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


# -- values without a declared type ------------------------------------------------------------------------------------


def test_plain_values_are_carried_without_a_type():
    schema, value = plain_schema(), {"a": (1, {2: b"x"}), 3: {Decimal("1.0")}}
    assert schema.validate(value, "k") is value
    assert difference(value, schema.decode(schema.encode(value))) is None


@pytest.mark.parametrize(
    ("value", "shared"), [(1, True), ("x", True), (None, True), ([], False), ((1,), False), ({}, False)]
)
def test_plain_scalars_are_shared_and_nothing_else(value, shared):
    assert plain_schema().is_exact(value) is shared
    assert not plain_schema().immutable


def test_a_value_that_needs_a_type_says_so():
    with pytest.raises(CachedValueError, match="pass model=") as caught:
        plain_schema().encode({"disk": Disk(name="a", size=1)})
    assert caught.value.expected == "a plain value"


def test_damaged_plain_bodies_are_a_schema_miss():
    with pytest.raises(DecodeError) as caught:
        plain_schema().decode(b"\xc1")
    assert caught.value.reason == "schema"


def test_a_pickled_value_keeps_what_the_others_flatten():
    schema = Schema.of(Disk, codec=PICKLE)
    value = Bigger(name="a", size=1)
    assert type(schema.decode(schema.encode(value))) is Bigger


# -- a pydantic whose core cannot take a changed copy of a schema ------------------------------------------------------


def test_without_a_wire_schema_of_its_own_a_type_is_checked_value_by_value(monkeypatch):
    def older(*_args: Any, **_options: Any) -> None:
        raise TypeError("unexpected keyword argument '_use_prebuilt'")

    monkeypatch.setattr(wire, "SchemaSerializer", older)
    schema = Schema.of(Disk, codec=JSON)
    assert schema.verified
    value = Disk(name="a", size=1)
    assert difference(value, schema.decode(schema.encode(value))) is None
    with pytest.raises(CachedValueError, match="cannot be read back"):
        schema.encode(Disk(name="a", size=1, used=math.nan))
    aliased = Schema.of(model(a=(int, Field(alias="A"))), codec=JSON)
    assert aliased.verified
