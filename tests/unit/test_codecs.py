"""Codecs: bytes that come back as what they were, and refusals where they would not."""

import enum
import math
import pickle
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, TypeAdapter, computed_field
from pydantic.alias_generators import to_camel
from pydantic_core import TzInfo

from novacron_cache.codecs import JSON, MSGPACK, PICKLE, PLAIN_VALUES, Codec, codec_named, codec_numbered, register
from novacron_cache.codecs.packing import is_scalar
from novacron_cache.codecs.sameness import difference
from novacron_cache.errors import CachedValueError, SettingsError

TYPED = [JSON, MSGPACK, PICKLE]


def back(value: Any) -> Any:
    return PLAIN_VALUES.load(None, PLAIN_VALUES.dump(None, value))


# -- registry ----------------------------------------------------------------------------------------------------------


def test_ids_on_the_wire_never_change():
    assert {codec.name: codec.format_id for codec in [*TYPED, PLAIN_VALUES]} == {
        "json": 1, "msgpack": 2, "pickle": 3, "plain": 4,
    }  # fmt: skip


@pytest.mark.parametrize("codec", [*TYPED, PLAIN_VALUES])
def test_a_codec_is_found_by_name_and_by_id(codec):
    assert codec_named(codec.name) is codec
    assert codec_numbered(codec.format_id) is codec


def test_an_unknown_codec_suggests_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'msgpack'") as caught:
        codec_named("msgpak")
    assert caught.value.variable == "serialization"
    assert codec_numbered(77) is None


class _Clash(Codec):
    name, format_id = "clash", 1

    def dump(self, adapter, value):
        return b""

    def load(self, adapter, data):
        return None


def test_a_codec_cannot_take_anothers_id():
    with pytest.raises(SettingsError, match="taken by 'json'"):
        register(_Clash())
    assert codec_numbered(1) is JSON


def test_a_codec_cannot_take_an_id_out_of_range(monkeypatch):
    monkeypatch.setattr(_Clash, "format_id", 256)
    with pytest.raises(SettingsError, match="1 to 255"):
        register(_Clash())


# -- declared types ----------------------------------------------------------------------------------------------------


class Aliased(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, extra="forbid")
    vm_id: str
    node: str = Field(validation_alias=AliasChoices("host", AliasPath("where", 0)))
    cpu: int = Field(alias="vCPU")
    inner: tuple["Aliased", ...] = ()

    @computed_field
    def double(self) -> int:
        return self.cpu * 2


@pytest.mark.parametrize("codec", TYPED)
def test_aliases_and_computed_fields_do_not_stand_in_the_way(codec):
    leaf = Aliased.model_validate({"vmId": "1", "host": "n", "vCPU": 2})
    value = Aliased.model_validate({"vmId": "1", "host": "n", "vCPU": 2, "inner": (leaf,)})
    adapter = TypeAdapter(Aliased)
    assert codec.load(adapter, codec.dump(adapter, value)) == value


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
def test_a_value_that_is_not_of_its_declared_type_is_not_written(codec):
    wrong = Aliased.model_construct(vm_id=3, node=b"x", cpu="many")
    with pytest.raises(Exception, match="Expected `str`"):
        codec.dump(TypeAdapter(Aliased), wrong)


@pytest.mark.parametrize("codec", TYPED)
def test_bound_methods_read_what_the_plain_ones_wrote(codec):
    adapter = TypeAdapter(Aliased)
    value = Aliased.model_validate({"vmId": "1", "host": "n", "vCPU": 2})
    dump, load = codec.bind(adapter, by_name=False)
    assert dump(value) == codec.dump(adapter, value)
    assert load(dump(value)) == value


# -- plain values ------------------------------------------------------------------------------------------------------

ZONES = st.one_of(
    st.none(),
    st.just(UTC),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    st.builds(timezone, st.just(timedelta(hours=2)), st.just("CEST")),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo),
    st.integers(-80_000, 80_000).map(TzInfo),
)


@st.composite
def scalars(draw):
    return draw(st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(),
        st.text(st.characters()), st.text(st.characters(categories=["Cs"]), max_size=3), st.binary(),
        st.datetimes(timezones=ZONES), st.dates(), st.times(timezones=ZONES), st.timedeltas(),
        st.decimals().filter(lambda number: not number.is_snan()), st.uuids(),
    ))  # fmt: skip


@st.composite
def keys(draw):
    some = st.lists(scalars(), max_size=3)
    return draw(st.one_of(scalars(), some.map(tuple), some.map(frozenset), some.map(lambda each: (tuple(each), 1))))


VALUES = st.recursive(
    scalars(),
    lambda each: st.one_of(
        st.lists(each, max_size=4),
        st.lists(each, max_size=4).map(tuple),
        st.dictionaries(keys(), each, max_size=4),
        st.sets(keys(), max_size=4),
        st.frozensets(keys(), max_size=4),
    ),
    max_leaves=12,
)


@given(VALUES)
def test_plain_values_come_back_exactly(value):
    assert difference(value, back(value)) is None


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400, -(256**9), 0])
def test_integers_of_any_size_come_back(number):
    assert back(number) == number
    assert type(back(number)) is int


def test_true_one_and_one_point_zero_stay_apart():
    assert [type(item) for item in back([True, 1, 1.0, Decimal(1)])] == [bool, int, float, Decimal]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_special_floats_come_back(value):
    assert repr(back(value)) == repr(value)


@pytest.mark.parametrize("text", ["NaN", "sNaN42", "-Infinity", "1.10", "0E+5", "-0"])
def test_decimals_keep_their_digits(text):
    assert str(back(Decimal(text))) == text


def test_keys_of_a_dict_keep_their_types_and_order():
    value = {2: "int", "2": "str", None: 0, (1, "a"): [], date(2026, 1, 1): {}, 1.5: b"", frozenset({1}): ()}
    assert list(back(value).items()) == list(value.items())


@pytest.mark.parametrize(
    "zone", [UTC, timezone(timedelta(hours=5, seconds=7), "X"), ZoneInfo("Europe/Paris"), TzInfo(5)]
)
@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_keeps_its_zone_and_fold(zone, fold):
    moment = datetime(2026, 10, 25, 2, 30, 0, 7, tzinfo=zone, fold=fold)
    for value in (moment, moment.timetz()):
        got = back(value)
        assert (got, got.fold, got.tzinfo, got.tzname()) == (value, fold, zone, value.tzname())
        assert type(got.tzinfo) is type(zone)


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Odd(tzinfo):
    def utcoffset(self, moment):
        return timedelta(hours=1)


@dataclass
class Record:
    a: int


class Model(BaseModel):
    a: int = 1


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [
        Color.RED, Text("x"), OrderedDict(a=1), defaultdict(int), Pair(1, 2), Record(1), Model(), object(), int, 1j,
        bytearray(b"x"), memoryview(b"x"), msgpack.ExtType(1, b""), msgpack.Timestamp(1, 2), range(3), len,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [1, v], lambda v: {"a": {"b": v}}, lambda v: (v,)])
def test_any_other_type_is_refused_wherever_it_hides(value, wrap):
    with pytest.raises(CachedValueError, match="pass model="):
        PLAIN_VALUES.dump(None, wrap(value))


def test_a_refusal_says_where():
    with pytest.raises(CachedValueError, match=r"the value\['vms'\]\[1\] is of type Record"):
        PLAIN_VALUES.dump(None, {"vms": [1, Record(1)]})


@pytest.mark.parametrize("value", [datetime(2026, 1, 1, tzinfo=Odd()), time(1, tzinfo=Odd())])
def test_a_zone_that_cannot_be_written_is_refused(value):
    with pytest.raises(CachedValueError, match="time zone"):
        PLAIN_VALUES.dump(None, [value])


def test_a_value_that_contains_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = ()
    for _ in range(5000):
        deep = (deep,)
    for value in (loop, deep):
        with pytest.raises(CachedValueError, match="nested too deeply"):
            PLAIN_VALUES.dump(None, value)


@pytest.mark.parametrize(
    ("value", "scalar"),
    [
        (1, True), ("x", True), (None, True), (b"", True), (1.5, True), (True, True), (Decimal(1), True),
        (UUID(int=1), True), (datetime.fromisoformat("2026-01-01"), True),
        (datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), True),
        (timedelta(1), True), (datetime(2026, 1, 1, tzinfo=Odd()), False), (time(tzinfo=Odd()), False),
        (Color.RED, False), (Text("x"), False), ((), False), ([], False), (frozenset(), False), ({}, False),
    ],
)  # fmt: skip
def test_only_exact_scalars_may_be_shared(value, scalar):
    assert is_scalar(value) is scalar


# -- sameness ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        (1, True, "the value of type int comes back as bool"),
        ({"a": [1, (2,)]}, {"a": [1, [2]]}, r"\['a'\]\[1\] of type tuple comes back as list"),
        ({1: "x"}, {"1": "x"}, "key 1 of type int comes back as str"),
        ([1], [1, 2], "another list"),
        ({1}, {True}, "another set"),
        (math.nan, 0.0, "another float"),
        (0.0, -0.0, "another float"),
        (Decimal("1.0"), Decimal("1.00"), "another Decimal"),
        (Record(1), Record(2), r"\.a comes back as another int"),
        (Model(a=1), Model(a=2), r"\.a comes back"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=TzInfo(3600)), "another datetime"),
    ],
)
def test_a_difference_is_found_and_named(before, after, where):
    found = difference(before, after)
    assert found is not None
    with pytest.raises(ValueError, match=where):
        raise ValueError(found)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (math.nan, math.nan),
        (1, 1.0),
        ([math.nan, {math.nan}], [math.nan, {math.nan}]),
        (datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Paris")), datetime(2026, 1, 1, tzinfo=TzInfo(3600))),
    ],
)
def test_what_counts_as_the_same(before, after):
    assert difference(before, after) is None


def test_pickle_round_trips_what_others_flatten():
    value = {"color": Color.RED, "text": Text("x"), "pair": Pair(1, 2)}
    assert difference(value, PICKLE.load(None, PICKLE.dump(None, value))) is None
    assert PICKLE.dump(None, 1) == pickle.dumps(1, protocol=5)
