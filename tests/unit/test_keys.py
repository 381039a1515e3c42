"""Stored keys: two different calls never share one."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.key_values import UUID_1, Bits, Colour, Level, Power, VMName, identity, names, texts, tricky, values

from novacron_cache.errors import TemplateError
from novacron_cache.keys import Glob, KeyTemplate, percent_escape, printable, server_safe, stored_key, stored_text_key

# -- stored keys -------------------------------------------------------------------------------------------------------


ONE = KeyTemplate.parse("vm:<x>")
TWO = KeyTemplate.parse("vm:<x>:<y>")


@given(names, values, names, values)
def test_different_names_or_values_never_share_a_stored_key(n1: str, v1: Any, n2: str, v2: Any) -> None:
    same = (n1, identity(v1)) == (n2, identity(v2))
    assert (stored_key(n1, ONE, (v1,)) == stored_key(n2, ONE, (v2,))) is same


@given(values, values, values, values)
def test_two_values_never_run_into_each_other(a: Any, b: Any, c: Any, d: Any) -> None:
    same = (identity(a), identity(b)) == (identity(c), identity(d))
    assert (stored_key("n", TWO, (a, b)) == stored_key("n", TWO, (c, d))) is same


@given(tricky, tricky, tricky, tricky)
def test_adjacent_values_are_kept_apart(a: str, b: str, c: str, d: str) -> None:
    template = KeyTemplate.parse("<x><y>")
    assert (stored_key("n", template, (a, b)) == stored_key("n", template, (c, d))) is ((a, b) == (c, d))


template_parts = st.lists(st.sampled_from(["<a>", "<b.c>", "<int:n>", "<str:s>", "<<", ">>", ":", "~", "%3C", "int~:"]))


@given(template_parts, template_parts, names, names, st.lists(tricky, min_size=20, max_size=20))
def test_different_skeletons_never_share_a_stored_key(
    parts_1: list[str], parts_2: list[str], name_1: str, name_2: str, given_values: list[str]
) -> None:
    assume(parts_1 and parts_2)
    first, second = KeyTemplate("".join(parts_1[:9])), KeyTemplate("".join(parts_2[:9]))
    values_1 = tuple(given_values[: len(first.placeholders)])
    values_2 = tuple(given_values[: len(second.placeholders)])
    same = (name_1, first.skeleton) == (name_2, second.skeleton)
    assert (stored_key(name_1, first, values_1) == stored_key(name_2, second, values_2)) is same


@pytest.mark.parametrize(
    "alike",
    [
        [
            1,
            True,
            1.0,
            "1",
            Decimal(1),
            b"1",
            Level.LOW,
            Colour.RED,
            Colour.BLUE,
            (1,),
            [1],
            {1},
            frozenset({1}),
            {True},
        ],
        [None, "", "None", b"", (), [], "~n", ("",), ((),), (None,), ("", ""), "()"],
        ["a:b", "a", "b", ("a", "b"), "a,b", ("a,b",), ("a~,b",), VMName("a")],
        [0.0, -0.0, 0, False, "0.0", timedelta(0), Decimal("0.0"), Decimal(0)],
        [math.inf, -math.inf, math.nan, "inf", "nan", Decimal("Infinity"), Decimal("NaN"), Decimal("sNaN")],
        ["on", Power.ON, "Power.ON"],
        [Bits(0), Bits.A, Bits.B, Bits.A | Bits.B],
        [UUID_1, str(UUID_1), UUID_1.hex, UUID_1.bytes, UUID_1.int],
        ["/a", PurePosixPath("/a")],
        [date(2024, 1, 1), datetime.fromisoformat("2024-01-01"), "2024-01-01", time(0), time(0, tzinfo=UTC)],
        [
            datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris")),
            datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=1),
            datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
            datetime(2024, 10, 27, 2, 30, tzinfo=timezone(timedelta(hours=2))),
            datetime(2024, 10, 27, 2, 30, tzinfo=timezone(timedelta(hours=2), "x")),
            datetime.fromisoformat("2024-10-27T02:30"),
        ],
    ],
    ids=lambda alike: repr(alike[0]),
)
def test_look_alikes_are_stored_apart(alike: list[Any]) -> None:
    assert len({stored_key("n", ONE, (value,)) for value in alike}) == len(alike)
    assert len({stored_key("n", ONE, ((value,),)) for value in alike}) == len(alike)


@given(values, values)
def test_equal_stored_keys_have_equal_logical_texts(a: Any, b: Any) -> None:
    if stored_key("n", ONE, (a,)) == stored_key("n", ONE, (b,)):
        assert ONE.render((a,)) == ONE.render((b,))


@given(st.lists(st.one_of(st.text(max_size=3), st.integers()), unique=True, max_size=6), st.randoms())
def test_a_set_has_one_stored_and_one_logical_key_whatever_its_order(elements: list[Any], random: Any) -> None:
    shuffled = list(elements)
    random.shuffle(shuffled)
    assert stored_key("n", ONE, (set(elements),)) == stored_key("n", ONE, (set(shuffled),))
    assert ONE.render((set(elements),)) == ONE.render((set(shuffled),))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("a:b", "c", ()), ("a", "b:c", ())),
        (("", "a", ()), ("a", "a", ())),
        (("n", "<x>>>", ("a",)), ("n", "<x>", ("a>",))),
        (("n", "<x>", ("a",)), ("n", "<<a>>", ())),
        (("n", "<x>:<y>", ("a", "b")), ("n", "<x>", ("a>:<b",))),
        (("n", "<str:x>", ("a",)), ("n", "<x>", ("str:a",))),
        (("n", "<str:x>", ("a",)), ("n", "<x>", ("str~:a",))),
        (("n", "<uuid:x>", (str(UUID_1),)), ("n", "<x>", (f"uuid:{UUID_1}",))),
        (("n", "<int:x>", (1,)), ("n", "<x>", (1,))),
        (("n", "a%20b", ()), ("n", "a b", ())),
    ],
)
def test_one_part_of_a_stored_key_cannot_imitate_another(first: Any, second: Any) -> None:
    keys = {stored_key(name, KeyTemplate.parse(text), given_values) for name, text, given_values in (first, second)}
    assert len(keys) == 2


def test_a_nan_is_found_again() -> None:
    assert stored_key("n", ONE, (math.nan,)) == stored_key("n", ONE, (float("nan"),))


@given(names, values)
def test_a_stored_key_is_printable_bounded_and_free_of_server_syntax(name: str, value: Any) -> None:
    key = stored_key(name, ONE, (value,))
    assert key.isprintable()
    assert len(key) <= 240
    assert not re.search(r"[\s*?\[\]{}\\]", key)
    assert server_safe(key.replace("%", "")) == key.replace("%", "")


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("vm-1", "VMState:vm:<vm-1>"),
        ("a:b", "VMState:vm:<a:b>"),
        ("é", "VMState:vm:<é>"),
        ("a b%~", "VMState:vm:<a%20b%25%7E>"),
        ("\u200b", "VMState:vm:<%E2%80%8B>"),
        (7, "VMState:vm:<~i7>"),
        (None, "VMState:vm:<~n>"),
        (True, "VMState:vm:<~t>"),
        (False, "VMState:vm:<~f>"),
        (1.5, "VMState:vm:<~d1.5>"),
        (b"\x01a", "VMState:vm:<~b0161>"),
        (UUID_1, "VMState:vm:<~u123e4567e89b12d3a456426614174000>"),
        (Decimal("1.50"), "VMState:vm:<~N1.50>"),
        (date(2024, 1, 2), "VMState:vm:<~Y2024-01-02>"),
        (timedelta(days=1, seconds=2), "VMState:vm:<~P1;2;0>"),
        (datetime(2024, 1, 2, tzinfo=UTC), "VMState:vm:<~D2024-01-02T00:00:00+00:00;0;datetime.timezone.utc>"),
        (("a", 1, ()), "VMState:vm:<~(a~,~i1~,~(~)~,~)>"),
        (["a"], "VMState:vm:<~la~,~)>"),
        ({"b", "a"}, "VMState:vm:<~sa~,b~,~)>"),
    ],
)
def test_the_stored_form_stays_as_it_is(value: Any, key: str) -> None:
    assert stored_key("VMState", ONE, (value,)) == key


def test_a_class_is_part_of_an_enum_member_and_of_a_renamed_type() -> None:
    assert stored_key("", ONE, (Colour.RED,)).endswith("Colour~.RED>")
    assert stored_key("", ONE, (VMName("a b"),)).endswith("VMName~.a%20b>")


def test_long_keys_are_cut_and_stay_apart() -> None:
    long = "x" * 1000
    keys = {stored_key("n", ONE, (long + tail,)) for tail in ("", "a", "b")}
    assert len(keys) == 3
    for key in keys:
        assert len(key) == 240
        assert re.fullmatch(r"n:vm:<x+~h[0-9a-f]{40}", key)
    assert stored_key("n", ONE, (long,)) == stored_key("n", ONE, (long,))


def test_a_key_of_exactly_the_limit_is_kept_whole() -> None:
    fitting = "x" * (240 - len("n:vm:<>"))
    assert stored_key("n", ONE, (fitting,)) == f"n:vm:<{fitting}>"
    assert "~h" in stored_key("n", ONE, (fitting + "x",))


def test_a_value_cannot_imitate_a_cut_key() -> None:
    cut = stored_key("n", ONE, ("x" * 1000,))
    assert stored_key("n", KeyTemplate.parse("<x>"), (cut[2:],)) != cut
    assert stored_text_key("n", cut[2:]) != cut
    assert stored_key("n", KeyTemplate.parse(cut[2:].replace("<", "<<")), ()) != cut


@given(names, texts, names, texts)
def test_text_keys_are_injective(n1: str, t1: str, n2: str, t2: str) -> None:
    assert (stored_text_key(n1, t1) == stored_text_key(n2, t2)) is ((n1, t1) == (n2, t2))


@given(names, texts.filter(bool), values)
def test_a_text_key_is_never_that_of_a_template(name: str, text: str, value: Any) -> None:
    literal = KeyTemplate(text.replace("<", "<<").replace(">", ">>"))
    key = stored_text_key(name, text)
    assert key != stored_key(name, literal, ())
    assert key != stored_key(name, KeyTemplate.parse("<x>"), (value,))
    assert key != stored_key(name, KeyTemplate.parse("<str:x>"), (text,))


def test_the_stored_form_of_a_text_key_stays_as_it_is() -> None:
    assert stored_text_key("", "some key") == ":~ksome%20key"
    assert len(stored_text_key("", "k" * 1000)) == 240


# -- escaping ----------------------------------------------------------------------------------------------------------


@given(tricky, tricky)
def test_both_escapes_are_injective(a: str, b: str) -> None:
    assert (percent_escape(a) == percent_escape(b)) is (a == b)
    assert (server_safe(a) == server_safe(b)) is (a == b)


@given(st.text())
def test_server_safe_text_has_no_server_syntax_and_encodes(text: str) -> None:
    safe = server_safe(text)
    safe.encode()
    assert not re.search(r"[\s*?\[\]{}\\\x00-\x1f\x7f-\x9f]", safe)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("k:vm:1", "k:vm:1"), ("{a}", "%7Ba%7D"), ("100%", "100%25"), ("a b\n", "a%20b%0A"), ("[*?]", "%5B%2A%3F%5D"),
        ("\\", "%5C"), ("é<~>", "é<~>"), ("\ud800", "%ED%A0%80"), ("\u3000", "%E3%80%80"),
    ],
)  # fmt: skip
def test_server_safe_escapes_what_a_server_could_misread(text: str, safe: str) -> None:
    assert server_safe(text) == safe


def test_a_range_of_one_character_is_one() -> None:
    assert Glob("[a-a]").matches("a")
    assert not Glob("[a-a]").matches("b")
    with pytest.raises(TemplateError, match=r"the range `b-a` is reversed; write `a-b`"):
        Glob("[b-a]")


@pytest.mark.parametrize(
    ("text", "shown"), [("plain ü", "plain ü"), ("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("", "")]
)
def test_text_from_outside_is_shown_without_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert printable(text) == shown
