"""Stored keys read backwards: what comes back is what went in, or nothing."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novacron_cache.keys import (
    KeyTemplate,
    StoredReader,
    head_of,
    is_cut,
    read_stored,
    stored_key,
    stored_text_key,
)


class Colour(enum.Enum):
    RED = 1


class Shop:
    class Colour(enum.Enum):
        BLUE = 1

    class Inner:
        class Colour(enum.Enum):
            GREEN = 1


class Text(str):
    __slots__ = ()


TEMPLATE = KeyTemplate.parse("vm:<a>:disk/<<x>>:<b>~%")
READER = StoredReader("shop.vm:s", TEMPLATE)

scalars = st.one_of(
    st.text(), st.integers(), st.booleans(), st.none(), st.binary(), st.floats(allow_nan=False), st.uuids(),
    st.dates(), st.datetimes(), st.timedeltas(), st.decimals(allow_nan=False),
)  # fmt: skip
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple))


@settings(max_examples=150)
@given(values, values)
def test_values_come_back_with_their_types(one: Any, two: Any) -> None:
    key = stored_key("shop.vm:s", TEMPLATE, (one, two))
    if is_cut(key):
        assert READER.read(key) is None
    else:
        found = READER.read(key)
        assert found is not None
        assert [repr(value) for value in found] == [repr(one), repr(two)]


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED, Shop.Colour.BLUE, Shop.Inner.Colour.GREEN,
        UUID(int=7), Decimal("1.10"), timedelta(days=-1, microseconds=5), date(2024, 2, 29),
        time(23, 59, fold=1), datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
        datetime(2024, 1, 1, tzinfo=UTC), PurePosixPath("/a b/c"), PureWindowsPath("c:\\x"), {1, 2}, frozenset({"a"}),
        (), ((), [[]]), float("inf"), "", "~t", "~,", "%41", "ü:<>",
    ],
    ids=repr,
)  # fmt: skip
def test_each_type_comes_back(value: Any) -> None:
    found = READER.read(stored_key("shop.vm:s", TEMPLATE, (value, 1)))
    assert found == (value, 1)
    assert type(found[0]) is type(value)
    assert repr(found[0]) == repr(value), "equality does not look at the fold"


@pytest.mark.parametrize("value", [Text("a"), datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1)))], ids=repr)
def test_what_has_no_inverse_is_not_read(value: Any) -> None:
    assert READER.read(stored_key("shop.vm:s", TEMPLATE, (value, 1))) is None


@pytest.mark.parametrize(
    "key",
    [
        stored_key("other", TEMPLATE, ("1", "2")),
        stored_key("shop.vm:s", KeyTemplate.parse("vm:<a>"), ("1",)),
        stored_text_key("shop.vm:s", "vm:1"),
        stored_key("shop.vm:s", TEMPLATE, ("x" * 300, "")),
        "",
        stored_key("shop.vm:s", TEMPLATE, ("~", "1")).replace("%7E", "~i"),
        stored_key("shop.vm:s", TEMPLATE, ("~", "1")).replace("%7E", "~i01"),
        stored_key("shop.vm:s", TEMPLATE, ("~", "1")).replace("%7E", "~("),
        stored_key("shop.vm:s", TEMPLATE, ("~", "1")).replace("%7E", "~enope.Nope~.A"),
        stored_key("shop.vm:s", TEMPLATE, ("~", "1")).replace("%7E", "~s~l~)~,~)"),
    ],
)
def test_any_other_text_is_not_read(key: str) -> None:
    assert READER.read(key) is None


def test_a_converter_and_a_key_without_placeholders_are_read() -> None:
    template = KeyTemplate.parse("vm:<int:n>")
    assert StoredReader("m", template).read(stored_key("m", template, (7,))) == (7,)
    alone = KeyTemplate.parse("all")
    assert StoredReader("m", alone).read(stored_key("m", alone, ())) == ()


def test_keys_of_one_name_begin_alike() -> None:
    head = head_of(stored_key("shop.vm:s", TEMPLATE, (1, 2)))
    assert head_of(stored_text_key("shop.vm:s", "x")) == head
    assert head_of(stored_key("shop.vm", TEMPLATE, (1, 2))) != head


@settings(max_examples=150)
@given(values, values)
def test_the_logical_key_is_read_without_knowing_the_template(one: Any, two: Any) -> None:
    key = stored_key("shop.vm:s", TEMPLATE, (one, two))
    logical = () if is_cut(key) else (TEMPLATE.render((one, two)),)
    assert read_stored(key) == ("shop.vm:s", logical)


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_plain_key_is_read_back_with_its_name(name: str, logical: str) -> None:
    key = stored_text_key(name, logical)
    assert read_stored(key) == (name, () if is_cut(key) else (logical,))


def test_a_converter_is_no_part_of_the_logical_key() -> None:
    template = KeyTemplate.parse("vm:<int:n>:<path:p>")
    assert read_stored(stored_key("vm", template, (7, PurePosixPath("/a/b")))) == ("vm", ("vm:7:/a/b",))


def test_a_scope_in_front_may_be_one_or_not() -> None:
    scoped = stored_key("vm", KeyTemplate.parse("<cache_scope>@vm:<n>"), ("east", 1))
    assert read_stored(scoped) == ("vm", ("east@vm:1", "vm:1"))


@pytest.mark.parametrize("stored", ["", "x", "x:<~q>", "x:<~i>", "x:<~cshop.Id~.~i5>", "x:<~eno.such.Enum~.A>", "x:<"])
def test_what_no_key_looks_like_has_no_logical_key_or_its_own_text(stored: str) -> None:
    name, logical = read_stored(stored)
    assert name == stored.partition(":")[0]
    assert logical in {(), (stored.partition(":")[2],)}
