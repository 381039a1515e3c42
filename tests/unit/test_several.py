"""The columns of a batch say what its requests say, or there are none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.declaring import KeyMaker
from novacron_cache.keys import KeyTemplate
from novacron_cache.requests import Plan, Request
from novacron_cache.schema import plain_schema

LETTERS = "abé1-_/:. %<~*\n\u2028\ud800"
PLAN = Plan("disk: 1", plain_schema(), ttl=60.0)


def maker(key: str, *tags: str) -> KeyMaker:
    return KeyMaker(
        KeyTemplate.parse(key), tags, names=["zone", "x"], result_fields=["pool"], owner="get", elements="x"
    )


def each(keys: KeyMaker, values: dict[str, Any], elements: list[Any]) -> list[Request]:
    return [keys.request(PLAN, {**values, "x": element}, subject=element) for element in elements]


@given(
    key=st.sampled_from(
        ["d:<x>", "d:<str:x>", "d:<path:x>", "d:<int:x>", "d:<x>:<zone>", "<zone>:<x>:é", "a b:<x>-<x>", "<x>:d", "<x>"]
    ),
    tags=st.sets(st.sampled_from(["all", "zone:<zone>", "x:<x>", "<x>/<zone>", "pool:<pool>"])),
    zone=st.one_of(st.text(max_size=8), st.integers(), st.none(), st.decimals(allow_nan=False)),
    elements=st.one_of(
        st.lists(
            st.text(st.sampled_from("abé1-_/:. %<~*\n\u2028\ud800"), max_size=6), min_size=1, max_size=5, unique=True
        ),
        st.lists(st.integers(), min_size=1, max_size=5, unique=True),
    ),
)
def test_columns_are_those_of_the_requests(key: str, tags: set[str], zone: Any, elements: list[Any]) -> None:
    keys = maker(key, *sorted(tags))
    values = {"zone": zone}
    if ("int:" in key and isinstance(elements[0], str)) or (("str:" in key or "path:" in key) and elements[0] == 0):
        return
    several = keys.several(PLAN, values, "x", elements)
    if several is None:
        return
    requests = each(keys, values, elements)
    assert several.keys == [request.key for request in requests]
    assert several.key_deps == [request.deps[4] for request in requests]
    assert {several.common} == {request.deps[:4] for request in requests}
    assert [set(of) for of in several.tags] == [set(request.tags) for request in requests]
    assert [several.logical(place) for place in range(len(several))] == [request.logical for request in requests]
    assert [(made.key, made.subject) for made in several] == [(one.key, one.subject) for one in requests]
    assert several[0] is several[0]


@pytest.mark.parametrize("elements", [["a", "b"], [1, 2], ["é", "", "1"]])
def test_plain_text_and_whole_numbers_are_taken_together(elements: list[Any]) -> None:
    several = maker("d:<x>", "x:<x>", "pool:<pool>").several(PLAN, {}, "x", elements)
    assert several is not None
    assert len(several) == len(elements)


@pytest.mark.parametrize(
    "elements",
    [[], ["a", 1], [True, False], ["a b"], ["a", "%"], ["<"], ["\n"], ["x" * 300], [1.0], [None], [b"a"], [Decimal(1)]],
)
def test_anything_else_is_looked_at_one_by_one(elements: list[Any]) -> None:
    assert maker("d:<x>").several(PLAN, {}, "x", elements) is None


@pytest.mark.parametrize(
    ("key", "elements"), [("d:<x.y>", ["a"]), ("d:<uuid:x>", ["a"]), ("d:<int:x>", ["1"]), ("<x>:d", ["a"])]
)
def test_so_are_placeholders_that_check_their_values_and_keys_that_begin_differently(
    key: str, elements: list[Any]
) -> None:
    assert maker(key).several(PLAN, {}, "x", elements) is None


def test_some_of_them_are_the_same_in_less() -> None:
    several = maker("d:<x>", "x:<x>").several(PLAN, {}, "x", ["a", "b", "c"])
    assert several is not None
    some = several.some([2, 0])
    assert [request.logical for request in some] == ["d:c", "d:a"]
    assert some.tags == [("x:c",), ("x:a",)]
    with pytest.raises(IndexError):
        some[2]
    assert [request.subject for request in some[1:]] == ["a"]


def test_so_are_keys_too_long_for_a_name_and_tags_that_have_to_be_written_one_by_one() -> None:
    assert maker("d:<x>").several(PLAN, {}, "x", ["a" * 200]) is not None
    assert maker(f"d:{'y' * 600}<x>").several(PLAN, {}, "x", ["a"]) is None
    assert maker("d:<x>", "first:<x.real>").several(PLAN, {}, "x", [1, 2]) is None
