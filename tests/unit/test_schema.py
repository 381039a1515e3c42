"""Schemas: every stored value comes back as itself, or is refused, at the declaration where possible."""

import dataclasses
import enum
import functools
import ipaddress
import math
import os
import pathlib
import re
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    PrivateAttr,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic import dataclasses as pydantic_dataclasses
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from novacron_cache.codecs import JSON, MSGPACK, PICKLE, wire
from novacron_cache.codecs.sameness import difference
from novacron_cache.errors import CachedValueError, DecodeError, SchemaError
from novacron_cache.schema import Schema, _Canon, plain_schema

CODECS = [JSON, MSGPACK, PICKLE]
both = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
every = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


class Status(enum.Enum):
    RUNNING = "running"
    STOPPED = "stopped"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Disk(Frozen):
    name: str
    size: int
    used: float = 0.0


class Zone(NamedTuple):
    name: str
    level: int = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    at: datetime | None = None


class Options(TypedDict, total=False):
    name: str
    sizes: list[int]


class Machine(Frozen):
    none: None
    flag: bool
    count: int
    ratio: float
    name: str
    raw: bytes
    day: date
    clock: time
    moment: datetime
    span: timedelta
    price: Decimal
    uid: UUID
    status: Status
    level: Level
    kind: Literal["vm", "container"]
    disk: Disk
    spare: Disk | None
    disks: tuple[Disk, ...]
    pair: tuple[int, str]
    labels: frozenset[str]
    point: Point
    slot: Slotted
    either: int | float | str | bool | None
    by_name: dict[str, int]
    by_number: dict[int, Disk]
    by_status: dict[Status, list[datetime]]
    options: Options
    numbers: set[int]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
WHOLE = st.one_of(st.none(), st.integers(-1000, 1000).map(lambda minutes: timezone(timedelta(minutes=minutes))))
FLOATS = st.floats()
DISKS = st.builds(Disk, name=TEXT, size=st.integers(), used=FLOATS)
MOMENTS = st.datetimes(timezones=WHOLE)


@st.composite
def machines(draw):
    return Machine(
        none=None, flag=draw(st.booleans()), count=draw(st.integers()), ratio=draw(FLOATS), name=draw(TEXT),
        raw=draw(st.binary(max_size=10)), day=draw(st.dates()), clock=draw(st.times(timezones=WHOLE)),
        moment=draw(MOMENTS), span=draw(st.timedeltas()), uid=draw(st.uuids()),
        price=draw(st.decimals(allow_nan=False, allow_infinity=False)), status=draw(st.sampled_from(Status)),
        level=draw(st.sampled_from(Level)), kind=draw(st.sampled_from(["vm", "container"])), disk=draw(DISKS),
        spare=draw(st.none() | DISKS), disks=tuple(draw(st.lists(DISKS, max_size=2))),
        pair=(draw(st.integers()), draw(TEXT)), labels=draw(st.frozensets(TEXT, max_size=3)),
        point=Point(draw(FLOATS), draw(FLOATS)), slot=Slotted(draw(TEXT), draw(st.none() | MOMENTS)),
        either=draw(st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, TEXT)),
        by_name=draw(st.dictionaries(TEXT, st.integers(), max_size=2)),
        by_number=draw(st.dictionaries(st.integers(), DISKS, max_size=2)),
        by_status=draw(st.dictionaries(st.sampled_from(Status), st.lists(MOMENTS, max_size=2), max_size=2)),
        options=draw(st.sampled_from([{}, {"name": "x"}, {"name": "", "sizes": [1]}])),
        numbers=draw(st.sets(st.integers(), max_size=3)),
    )  # fmt: skip


MACHINES = {codec.name: Schema.of(Machine, codec=codec) for codec in CODECS}


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
    default: dict[str, int] = {}
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


class Tree(Frozen):
    name: str
    children: tuple["Tree", ...] = ()


@both
def test_recursive_types_work(codec):
    schema = Schema.of(Tree, codec=codec)
    value = Tree(name="a", children=(Tree(name="b", children=(Tree(name="c"),)), Tree(name="d")))
    assert schema.decode(schema.encode(value)) == value
    assert schema.immutable
    assert schema.is_exact(value)
    assert not schema.verified


T = TypeVar("T")


class Page(Frozen, Generic[T]):
    items: tuple[T, ...]


@both
def test_generic_models_work(codec):
    schema = Schema.of(Page[Disk], codec=codec)
    value = Page[Disk](items=(Disk(name="a", size=1),))
    assert schema.decode(schema.encode(value)) == value
    assert schema.is_exact(value)


# -- refused values ----------------------------------------------------------------------------------------------------


class Loose(Frozen):
    value: Any


class Bigger(Disk):
    extra: int = 1


class Hidden(Frozen):
    name: str
    _secret: int = PrivateAttr(default=1)


class Halved(Frozen):
    n: int

    @field_serializer("n")
    def _half(self, n: int) -> int:
        return n // 2


class Upper(Frozen):
    name: str

    @field_validator("name")
    @classmethod
    def _upper(cls, name: str) -> str:
        return name.upper() + "!"


def hidden() -> Hidden:
    value = Hidden(name="a")
    value._secret = 2
    return value


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


# -- declarations ------------------------------------------------------------------------------------------------------


def model(**fields: Any) -> type[BaseModel]:
    return create_model("Vm", **fields)


class Plain:
    pass


class WithArbitrary(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    thing: Plain


@dataclasses.dataclass
class WithInitVar:
    a: int
    b: dataclasses.InitVar[int]


class Crossed(BaseModel):
    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: f"in_{name}", serialization_alias=str.upper)
    )
    name: str


BAD: dict[str, tuple[Any, str]] = {
    "SecretStr": (model(password=(SecretStr, ...)), r"Vm\.password is a secret.*leave it out, or declare str or bytes"),
    "SecretBytes": (model(token=(SecretBytes | None, None)), r"Vm\.token is a secret"),
    "Secret": (list[Secret[int]], r"is a secret"),
    "nested secret": (dict[str, list[model(pin=(SecretStr, ...))]], r"Vm\.pin is a secret"),
    "exclude": (model(a=(int, Field(1, exclude=True))), r"Vm\.a has exclude=True.*drop exclude"),
    "exclude_if": (model(a=(int, Field(1, exclude_if=lambda a: a == 1))), r"Vm\.a has exclude_if"),
    "asymmetric aliases": (
        model(a=(int, Field(validation_alias="x", serialization_alias="y"))), r"Vm\.a is written as 'y'.* read as 'x'",
    ),
    "asymmetric generator": (Crossed, r"Crossed\.name is written as 'NAME' but read as 'in_name'"),
    "iterator": (Iterable[int], r"is an iterator.*declare list\[\.\.\.\]"),
    "iterator field": (model(rows=(Iterable[int], ...)), r"Vm\.rows is an iterator"),
    "function": (model(call=(Callable[[], int], ...)), r"Vm\.call is a function"),
    "class": (type[int], "is a class.*cache its name"),
    "arbitrary class": (Plain, "Plain cannot be cached:.*make it a pydantic model, a dataclass or a TypedDict"),
    "list of an arbitrary class": (list[Plain], r"list\[Plain\] cannot be cached"),
    "arbitrary field": (WithArbitrary, r"WithArbitrary\.thing is a Plain.*make it a pydantic model"),
    "InitVar": (WithInitVar, r"WithInitVar\.b is an InitVar"),
}  # fmt: skip


@every
@pytest.mark.parametrize(("declared", "message"), BAD.values(), ids=BAD)
def test_a_type_that_cannot_survive_is_refused_at_declaration_with_the_fix(codec, declared, message):
    with pytest.raises(SchemaError, match=message):
        Schema.of(declared, codec=codec)


def test_all_problems_of_a_type_are_told_at_once():
    with pytest.raises(SchemaError, match=r"Vm\.a .*; Vm\.b "):
        Schema.of(model(a=(SecretStr, ...), b=(int, Field(1, exclude=True))), codec=JSON)


class Unfinished(BaseModel):
    later: "Later"  # noqa: F821 - never defined


@pytest.mark.parametrize("declared", [Unfinished, list[Unfinished], "Nowhere"])
def test_a_type_that_is_not_complete_says_what_to_define(declared):
    with pytest.raises(SchemaError, match="before this declaration"):
        Schema.of(declared, codec=JSON)


def test_a_set_of_models_is_refused_where_the_codec_cannot_write_it():
    with pytest.raises(SchemaError, match=r"set of models.*tuple\[\.\.\.\]"):
        Schema.of(frozenset[Disk], codec=MSGPACK)
    schema = Schema.of(frozenset[Disk], codec=JSON)
    value = frozenset({Disk(name="a", size=1), Disk(name="b", size=1)})
    assert schema.decode(schema.encode(value)) == value


@pytest.mark.parametrize(
    "declared",
    [
        Loose, Hidden, Halved, Upper, Any, complex, Zone, pathlib.Path, AnyUrl, dict[tuple[int, ...], int],
        Disk | Point, Annotated[int, AfterValidator(abs)], Json[int], Permission, Literal[1, True],
        model(name=(Annotated[str, Field(pattern="x")], ...), extra=(Any, None)),
    ],
    ids=str,
)  # fmt: skip
def test_types_that_promise_too_little_are_checked_value_by_value(declared):
    assert Schema.of(declared, codec=JSON).verified


# -- validation of what loaders return ---------------------------------------------------------------------------------


def test_the_value_itself_is_returned_not_a_copy():
    disk, disks = Disk(name="a", size=1), [Disk(name="a", size=1)]
    assert Schema.of(Disk, codec=JSON).validate(disk, "k") is disk
    assert Schema.of(list[Disk], codec=JSON).validate(disks, "k") is disks


FITTING: list[tuple[Any, Any]] = [
    (float, 1), (Disk | None, None), (list[Disk], []), (Options, {"name": "x"}), (Point, Point(1.0, 2.0)),
    (Zone, Zone("a")), (dict[str, Disk], {"a": Disk(name="a", size=1)}), (Disk, Bigger(name="a", size=1)),
    (tuple[Point, ...], (Point(1.0, 2.0),)), (Status, Status.RUNNING), (Any, object()), (Tree, Tree(name="a")),
    (dict[str, Tree], {"a": Tree(name="a")}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), FITTING)
def test_values_of_the_declared_type_pass(declared, value):
    assert Schema.of(declared, codec=JSON).validate(value, "k") is value


WRONG: list[tuple[Any, Any]] = [
    (Disk, {"name": "a", "size": 1}), (list[Disk], [{"name": "a", "size": 1}]), (list[Disk], (Disk(name="a", size=1),)),
    (Disk, None), (int, "1"), (int, True), (int, 1.0), (str, b"x"), (Status, "running"), (tuple[int, ...], [1]),
    (Point, {"x": 1.0, "y": 2.0}), (dict[str, Tree], {"a": {"name": "x"}}), (Annotated[int, Field(gt=0)], -1),
    (Options, {"name": 3}), (date, "2026-01-01"), (Tree, {"name": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), WRONG)
def test_values_of_another_type_are_refused(declared, value):
    with pytest.raises(CachedValueError):
        Schema.of(declared, codec=JSON).validate(value, "k")


def test_the_refusal_names_function_key_and_both_types():
    with pytest.raises(CachedValueError) as caught:
        Schema.of(Disk, codec=JSON).validate({"name": "hunter2"}, key="vm:1", label="get_vm")
    assert str(caught.value).startswith("get_vm for key 'vm:1' returned dict, expected Disk: ")
    assert (caught.value.key, caught.value.expected) == ("vm:1", "Disk")
    assert "hunter2" not in str(caught.value), "values do not belong into logs"


def test_the_refusal_of_a_generic_model_without_its_arguments_says_how_to_make_it():
    with pytest.raises(CachedValueError, match=re.escape("; make it by `Page[Disk](...)`")):
        Schema.of(Page[Disk], codec=JSON).validate(Page(items=(Disk(name="a", size=1),)), "k")
    with pytest.raises(CachedValueError) as caught:
        Schema.of(Page[Disk], codec=JSON).validate(Page[int](items=(1,)), "k")
    assert "make it by" not in str(caught.value)


def test_the_refusal_says_where_in_the_value():
    with pytest.raises(CachedValueError, match=r"expected dict\[str, list\[Disk\]\]: a\.0: "):
        Schema.of(dict[str, list[Disk]], codec=JSON).validate({"a": [1]}, "k")


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


# -- fingerprints ------------------------------------------------------------------------------------------------------


def fingerprint(declared: Any, codec: Any = JSON, salt: bytes = b"") -> bytes:
    return Schema.of(declared, codec=codec, salt=salt).fingerprint


def test_a_fingerprint_is_eight_bytes_and_begins_with_the_codecs_id():
    assert {len(fingerprint(Disk, codec)) for codec in CODECS} == {8}
    assert [fingerprint(Disk, codec)[0] for codec in CODECS] == [1, 2, 3]


BASE = {"a": (int, ...), "b": (tuple[model(x=(int, 1)), ...], ())}


@pytest.mark.parametrize(
    "changed",
    [
        {**BASE, "c": (int, 1)},
        {"a": BASE["a"]},
        {"renamed": BASE["a"], "b": BASE["b"]},
        {**BASE, "a": (str, ...)},
        {**BASE, "a": (int | None, ...)},
        {**BASE, "b": (tuple[model(x=(float, 1)), ...], ())},
        {**BASE, "b": (tuple[model(x=(int, 1), y=(int, 1)), ...], ())},
        {**BASE, "b": (list[model(x=(int, 1))], ())},
    ],
    ids=["added", "removed", "renamed", "retyped", "optional", "nested retyped", "nested added", "container"],
)
def test_a_changed_field_changes_the_fingerprint(changed):
    assert fingerprint(model(**changed)) != fingerprint(model(**BASE))


@pytest.mark.parametrize(
    "same",
    [
        dict(BASE),
        {**BASE, "a": (int, Field(description="documented", title="A"))},
        {**BASE, "a": (int, Field(alias="A"))},
        {**BASE, "b": (BASE["b"][0], (1, 2))},
    ],
    ids=["rebuilt", "documented", "aliased", "another default"],
)
def test_what_the_wire_does_not_carry_leaves_the_fingerprint(same):
    assert fingerprint(model(**same)) == fingerprint(model(**BASE))


def test_codec_salt_and_class_are_part_of_the_fingerprint():
    other = create_model("Other", **BASE)
    prints = [
        fingerprint(model(**BASE)), fingerprint(model(**BASE), salt=b"2"), fingerprint(other),
        fingerprint(model(**BASE), MSGPACK), fingerprint(model(**BASE), PICKLE), plain_schema().fingerprint,
    ]  # fmt: skip
    assert len(set(prints)) == len(prints)


def test_an_enum_with_another_member_has_another_fingerprint():
    one, two = (enum.Enum("Same", members, module=__name__) for members in ({"A": "a"}, {"A": "b"}))
    assert fingerprint(one) != fingerprint(two)


_PRINT = """
import enum, re
from typing import Annotated, Any, Literal
from pydantic import BaseModel, AfterValidator, Field
from novacron_cache.codecs import JSON
from novacron_cache.schema import Schema

class E(enum.Enum):
    A = frozenset({"x", "y", "zz"})

class Leaf(BaseModel):
    a: Literal["p", "q", 3] = "p"
    b: Annotated[str, Field(pattern="a+")] = ""
    e: E = E.A

class Tree(BaseModel):
    leaf: Leaf
    leaves: dict[str, Leaf]
    trees: "list[Tree]"
    call: Annotated[int, AfterValidator(lambda v: v)]
    any: Any
    either: int | Leaf | None

print(Schema.of(Tree, codec=JSON).fingerprint.hex(), Schema.of(list[Tree], codec=JSON).fingerprint.hex())
"""


def test_a_fingerprint_is_the_same_in_every_process_and_under_every_hash_seed():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=pathlib.Path(__file__).parents[2],
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 34


# -- immutability ------------------------------------------------------------------------------------------------------


class Thawed(BaseModel):
    a: int = 1


class FrozenFields(BaseModel):
    a: int = Field(1, frozen=True)


class FrozenWithList(Frozen):
    a: list[int] = []


class FrozenWithExtra(Frozen):
    model_config = ConfigDict(extra="allow")


class FrozenLazy(Frozen):
    a: int = 1

    @functools.cached_property
    def parts(self) -> list[int]:
        return [self.a]


class FrozenNested(Frozen):
    disk: Disk
    points: frozenset[Point] = frozenset()
    zone: Zone | None = None


@dataclasses.dataclass
class Thing:
    a: int


@pydantic_dataclasses.dataclass(frozen=True)
class Checked:
    a: int


@dataclasses.dataclass(frozen=True)
class HoldsList:
    a: list[int]


class ZoneOfLists(NamedTuple):
    items: list[int]


class Validated(Frozen):
    a: int

    @model_validator(mode="after")
    def _fine(self) -> "Validated":
        return self


IMMUTABLE: list[tuple[Any, Any]] = [
    (str, "x"), (int, 1), (float, 1.5), (bool, True), (None, None), (bytes, b"x"), (complex, 1j), (Decimal, Decimal(1)),
    (UUID, UUID(int=1)), (date, date(2026, 1, 1)), (datetime, datetime(2026, 1, 1, tzinfo=UTC)), (time, time(1)),
    (datetime, datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))), (timedelta, timedelta(1)),
    (Status, Status.RUNNING), (Level, Level.LOW), (Literal["a", 1], "a"), (tuple[int, ...], (1, 2)), (tuple[()], ()),
    (tuple[int, str], (1, "a")), (frozenset[str], frozenset("a")), (int | str, "x"), (Disk | None, None),
    (Disk, Disk(name="a", size=1)), (Point, Point(1.0, 2.0)), (Slotted, Slotted("a")), (Zone, Zone("a")),
    (FrozenFields, FrozenFields()), (Checked, Checked(1)), (Validated, Validated(a=1)), (tuple[Disk, ...], ()),
    (FrozenNested, FrozenNested(disk=Disk(name="a", size=1), points=frozenset({Point(1.0, 2.0)}), zone=Zone("a"))),
    (Tree, Tree(name="a", children=(Tree(name="b"),))), (Page[int], Page[int](items=(1,))),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")), (pathlib.Path, pathlib.PosixPath("/")),
    (HttpUrl, HttpUrl("http://example.org")), (Annotated[str, AfterValidator(str.strip)], "x"),
    (Disk | Point, Point(1.0, 2.0)),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), IMMUTABLE)
def test_deeply_immutable_values_are_shared(declared, value):
    schema = Schema.of(declared, codec=JSON)
    assert schema.immutable
    assert schema.is_exact(value)


MUTABLE: list[tuple[Any, Any]] = [
    (list[int], [1]), (dict[str, int], {}), (set[int], set()), (tuple[list[int], ...], ()), (Any, 1), (object, 1),
    (Thawed, Thawed()), (FrozenWithList, FrozenWithList()), (FrozenWithExtra, FrozenWithExtra()), (Hidden, hidden()),
    (FrozenLazy, FrozenLazy()), (Thing, Thing(1)), (HoldsList, HoldsList([])), (ZoneOfLists, ZoneOfLists([])),
    (Options, {}), (int | list[int], 1), (tuple[Thawed, ...], ()), (tuple[Any, ...], (1,)), (tuple, ()),
    (RootModel[list[int]], RootModel[list[int]]([])), (Sequence[int], (1,)), (Mapping[str, int], {}),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "value"), MUTABLE)
def test_anything_a_caller_could_change_is_not_shared(declared, value):
    schema = Schema.of(declared, codec=JSON)
    assert not schema.immutable
    assert not schema.is_exact(value)


class Weird(str):
    __slots__ = ("list",)


INEXACT: list[tuple[Any, Any]] = [
    (Disk, Bigger(name="a", size=1)),
    (Disk, Disk.model_construct(name=["a"], size=1)),
    (Disk, Disk.model_construct(name="a")),
    (tuple[Disk, ...], (Bigger(name="a", size=1),)),
    (tuple[int, ...], [1]),
    (tuple[int, str], (1, "a", [])),
    (tuple[int, str], (1,)),
    (str, Weird("a")),
    (int, True),
    (float, 1),
    (Point, Point([], {})),  # type: ignore[arg-type] # dataclasses do not check
    (Zone, Zone([], {})),  # type: ignore[arg-type] # named tuples do not check
    (frozenset[str], frozenset({1})),
    (Literal["a"], Weird("a")),
    (Disk, None),
    (Disk, {"name": "a", "size": 1, "used": 1.0}),
    (FrozenNested, FrozenNested.model_construct(disk=Disk(name="a", size=1), points=frozenset(), zone=[])),
]


@pytest.mark.parametrize(("declared", "value"), INEXACT)
def test_an_immutable_declaration_does_not_excuse_a_value_that_is_something_else(declared, value):
    schema = Schema.of(declared, codec=JSON)
    assert schema.immutable
    assert not schema.is_exact(value)


@given(machines())
def test_machines_with_mutable_parts_are_never_shared(machine):
    assert not MACHINES["json"].is_exact(machine)


def test_a_value_already_known_to_be_exact_is_written_without_asking_again():
    schema, value = Schema.of(Slotted, codec=JSON), Slotted("a", datetime(2026, 1, 1, tzinfo=UTC))
    assert schema.encode(value, exact=True) == schema.encode(value)
    odd = Slotted("a", datetime(1890, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))
    assert schema.is_exact(odd)
    with pytest.raises(CachedValueError):
        schema.encode(odd, exact=True)


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


def test_how_a_type_is_checked_is_part_of_the_fingerprint():
    def limited(function, low):
        return Annotated[int, AfterValidator(functools.partial(function, low))]

    def at_least(low, value):
        return max(low, value)

    def at_most(high, value):
        return min(high, value)

    assert fingerprint(limited(at_least, 1)) != fingerprint(limited(at_most, 1))
    patterns = [
        Annotated[str, Field(pattern=re.compile(text, flags))]
        for text, flags in (("a+", 0), ("b+", 0), ("a+", re.IGNORECASE))
    ]
    assert len({fingerprint(one) for one in patterns}) == 3
    assert fingerprint(patterns[0]) == fingerprint(Annotated[str, Field(pattern=re.compile("a+"))])


def test_a_set_in_a_schema_is_described_in_an_order_of_its_own():
    one, two = ({"type": "x", "names": {*names}} for names in (["a", "b", "c"], ["c", "b", "a"]))
    assert _Canon().of(one) == _Canon().of(two) != _Canon().of({"type": "x", "names": {"a", "b"}})
    color = enum.Enum("Color", {"RED": 1, "BLUE": 2}, module=__name__)
    assert _Canon().of(color.RED) != _Canon().of(color.BLUE)


def test_a_type_whose_own_hook_fails_is_refused_at_declaration():
    class Broken:
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            raise LookupError("no schema today")

    with pytest.raises(SchemaError, match="Broken cannot be cached: no schema today"):
        Schema.of(Broken, codec=JSON)


def test_a_type_that_names_what_is_not_there_yet_says_to_define_it():
    with pytest.raises(SchemaError, match="; define what it refers to before this declaration"):
        Schema.of(list["NotYet"], codec=JSON)  # noqa: F821 - that is the mistake
