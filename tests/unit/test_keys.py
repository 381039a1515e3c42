"""Keys: what a template, a glob and a stored key promise."""

from __future__ import annotations

import enum
import math
import re
import time as clock
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from novacron_cache.errors import KeyValueError, TemplateError
from novacron_cache.keys import (
    Glob,
    KeyTemplate,
    Placeholder,
    first_segment,
    glob_escape,
    percent_escape,
    printable,
    server_safe,
    stored_key,
    stored_text_key,
)


class Colour(enum.Enum):
    RED = 1
    BLUE = "1"


class Power(enum.StrEnum):
    ON = "on"


class Level(enum.IntEnum):
    LOW = 1


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclass(frozen=True)
class Node:
    id: str


@dataclass(frozen=True)
class VM:
    id: str
    node: Node


class VMName(str):
    """A mere renaming of str."""

    __slots__ = ()


class Loud(str):
    """A str with a text of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


class Odd(int):
    """An int with an equality of its own."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


UUID_1 = UUID("123e4567-e89b-12d3-a456-426614174000")

# Text that is likely to break an encoding: its own delimiters, escapes and the words that tags stand for.
tricky = st.text(st.sampled_from("a1:%<>~*?[]{}\\ ,;().ihnt\n\x00é\ud800"), max_size=6)
texts = st.one_of(tricky, st.text(max_size=8), st.sampled_from(["None", "True", "1", "1.0", "~n", "~i1", "nan", ""]))
scalars = st.one_of(
    texts,
    st.integers(-3, 3),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0]),
    st.binary(max_size=4),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.one_of(st.none(), st.sampled_from([UTC, ZoneInfo("Europe/Paris")]))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.sampled_from([Colour.RED, Colour.BLUE, Power.ON, Level.LOW]),
    texts.map(VMName),
)
hashable = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
values = st.one_of(
    hashable,
    st.lists(scalars, max_size=3),
    st.frozensets(scalars, max_size=3),
    st.sets(scalars, max_size=3),
)
names = st.one_of(st.sampled_from(["", "a", "a:b", "VMState", "pkg.f.<locals>.g"]), tricky)


def identity(value: Any) -> Any:
    """What tells two values apart, built without the code under test."""
    kind = type(value)
    if kind in (tuple, list):
        return kind, tuple(map(identity, value))
    if kind in (set, frozenset):
        return kind, sorted(repr(identity(item)) for item in value)
    if kind is datetime:
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    if kind in (float, Decimal, time):
        return kind, repr(value)
    return kind, value


# --- first segment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "segment"), [("vm:1:disk", "vm"), ("vm", "vm"), ("", ""), (":x", ""), ("vm:", "vm")])
def test_the_first_segment_ends_before_the_first_colon(text: str, segment: str) -> None:
    assert first_segment(text) == segment


# --- globs ------------------------------------------------------------------------------------------------------------


def reference(pattern: str, text: str) -> bool:
    """Match naively, by trying everything."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return reference(pattern[1:], text) or (bool(text) and reference(pattern, text[1:]))
    if not text:
        return False
    if pattern[0] == "[":
        end = 1 + (pattern[1] in "^!")
        negated, found = end == 2, False
        while pattern[end] != "]":
            end += pattern[end] == "\\"
            low = high = pattern[end]
            end += 1
            if pattern[end] == "-" and pattern[end + 1] != "]":
                end += 1 + (pattern[end + 1] == "\\")
                high = pattern[end]
                end += 1
            found |= low <= text[0] <= high
        return found != negated and reference(pattern[end + 1 :], text[1:])
    if pattern[0] == "\\":
        return pattern[1] == text[0] and reference(pattern[2:], text[1:])
    return pattern[0] in ("?", text[0]) and reference(pattern[1:], text[1:])


glob_tokens = st.sampled_from(
    ["*", "*", "?", "a", "b", ":", "]", "\n", "[ab]", "[a-c]", "[^a]", "[!b:]", "[\\]a]", "[a\\-c]", "[-a]", "[a-]",
     "[b^]", "\\*", "\\?", "\\[", "\\\\", "\\a"]
)  # fmt: skip
globs = st.lists(glob_tokens, min_size=1, max_size=7).map("".join)


@given(globs, st.text("abc:*?[]\\-^\n", max_size=8))
def test_a_glob_agrees_with_a_naive_matcher(pattern: str, text: str) -> None:
    assert Glob(pattern).matches(text) is reference(pattern, text)


@given(globs, st.data())
def test_a_glob_agrees_with_a_naive_matcher_on_texts_made_from_it(pattern: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.sampled_from(["", "a", "b:", char])) if char == "*" else char for char in pattern)
    assert Glob(pattern).matches(text) is reference(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "hit", "missed"),
    [
        ("vm:*", ["vm:", "vm:1", "vm:1:disk", "vm:a\nb"], ["vm", "xvm:1", "VM:1"]),
        ("vm:?", ["vm:1", "vm::"], ["vm:", "vm:12"]),
        ("*:disk", ["vm:1:disk", ":disk"], ["disk", "vm:disk:1"]),
        ("vm:[a-c]1", ["vm:a1", "vm:c1"], ["vm:d1", "vm:-1"]),
        ("vm:[^a-c]", ["vm:d", "vm:^"], ["vm:a"]),
        ("vm:[!a]", ["vm:b", "vm:!"], ["vm:a"]),
        ("vm:[a!]", ["vm:a", "vm:!"], ["vm:b"]),
        (r"[\]a]", ["]", "a"], ["\\", "b"]),
        (r"[a\-c]", ["a", "-", "c"], ["b", "\\"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[-a]", ["a", "-"], ["b"]),
        ("[+--]", ["+", ",", "-"], ["."]),
        ("[[a]", ["[", "a"], ["b"]),
        ("[a&&b||c~~d]", ["&", "|", "~", "a", "d"], ["-"]),
        (r"vm:\*", ["vm:*"], ["vm:1"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a*b*c", ["abc", "a:b:b:c"], ["acb", "abcd"]),
    ],
)
def test_a_glob_matches_whole_texts(pattern: str, hit: list[str], missed: list[str]) -> None:
    glob = Glob(pattern)
    assert [text for text in hit if not glob.matches(text)] == []
    assert [text for text in missed if glob.matches(text)] == []


def test_a_glob_that_nearly_matches_answers_at_once() -> None:
    glob = Glob("*a*a*a*a*a*a*a*b")
    started = clock.process_time()
    assert not glob.matches("a" * 5000)
    assert clock.process_time() - started < 2


@given(st.text(min_size=1, max_size=40))
def test_escaped_text_is_a_glob_for_exactly_itself(text: str) -> None:
    glob = Glob(glob_escape(text))
    assert glob.matches(text)
    assert glob.literal == text
    assert not glob.matches(text + "a")
    assert not glob.matches(text[1:])


@given(st.text("*?[]\\!^-a", min_size=1, max_size=6), st.text("*?[]\\!^-a", max_size=6))
def test_escaped_text_matches_no_other_text(text: str, other: str) -> None:
    assert Glob(glob_escape(text)).matches(other) is (text == other)


@pytest.mark.parametrize(
    ("pattern", "segment"),
    [
        ("vm:*", "vm"), ("vm:**", "vm"), (r"v\*m:*", "v*m"), (r"vm\:*", "vm"), (":*", ""),
        ("vm:a*", None), ("vm:1:*", None), ("*", None), ("vm*", None), ("v?:*", None), ("vm:*:*", None), ("vm:", None),
        ("vm:?", None), (r"vm:\*", None), ("*vm:", None), ("[v]m:*", None), ("vm:[a]", None),
    ],
)  # fmt: skip
def test_only_a_literal_first_segment_and_a_star_has_a_segment(pattern: str, segment: str | None) -> None:
    assert Glob(pattern).segment == segment


@given(globs, st.text("ab:", max_size=6))
def test_a_segment_pattern_matches_only_keys_of_that_segment(pattern: str, text: str) -> None:
    glob = Glob(pattern)
    if glob.segment is not None and glob.matches(text):
        assert first_segment(text) == glob.segment


@pytest.mark.parametrize(("pattern", "literal"), [("vm:1", "vm:1"), (r"vm:\*", "vm:*"), ("vm:*", None), ("[a]", None)])
def test_a_pattern_without_wildcards_is_literal(pattern: str, literal: str | None) -> None:
    glob = Glob(pattern)
    assert glob.literal == literal
    assert glob.pattern == pattern
    assert repr(glob) == f"Glob({pattern!r})"


@pytest.mark.parametrize(
    ("pattern", "fix"),
    [
        ("", "write '*' to match every key"),
        ("a" * 513, "at most 512 characters and this one 513"),
        ("a*" * 9, "at most 8 wildcards, and this has 9"),
        ("?" * 9, "at most 8 wildcards, and this has 9"),
        ("[a]" * 9, "at most 8 wildcards, and this has 9"),
        ("vm:[a", r"end it with `]`, or write `\[`"),
        ("vm:[]", "a class that is empty or not closed"),
        ("vm:[^]", "a class that is empty or not closed"),
        ("vm:[a\\]", "a class that is empty or not closed"),
        ("vm:\\", r"double it, or write `\\`"),
        ("vm:[z-a]", "the range `z-a` is reversed; write `a-z`"),
    ],
)
def test_a_wrong_pattern_says_the_fix(pattern: str, fix: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(fix)) as caught:
        Glob(pattern)
    assert caught.value.template == pattern


def test_patterns_at_the_limits_are_accepted() -> None:
    assert Glob("a" * 512).matches("a" * 512)
    assert Glob("a*" * 8).matches("a" * 9)
    assert Glob("*" * 100).matches("anything")


# --- templates: parsing -----------------------------------------------------------------------------------------------


def test_a_template_knows_its_parts() -> None:
    template = KeyTemplate.parse("vm:<int:vm.node.id>:<<disk>>:<path:p>")
    assert template.text == str(template) == "vm:<int:vm.node.id>:<<disk>>:<path:p>"
    assert template.placeholders == (
        Placeholder("vm", ("node", "id"), "int", "<int:vm.node.id>"),
        Placeholder("p", (), "path", "<path:p>"),
    )
    assert template.placeholders[0].name == "vm.node.id"
    assert template.roots == {"vm", "p"}
    assert template.literals == ("vm:", ":<disk>:", "")
    assert template.skeleton == "vm:<int:>:<<disk>>:<path:>"
    assert repr(template) == f"KeyTemplate({template.text!r})"


def test_parsing_the_same_text_twice_gives_the_same_template() -> None:
    assert KeyTemplate.parse("vm:<a>") is KeyTemplate.parse("vm:<a>")
    assert KeyTemplate.parse("vm:<a>", label="tag").label == "tag"


def test_templates_that_differ_in_names_alone_have_one_skeleton() -> None:
    skeletons = [
        KeyTemplate.parse(text).skeleton for text in ("vm:<a>", "vm:<b.c>", "vm:<int:a>", "vm:<a>:", "vm:<<>>")
    ]
    assert skeletons == ["vm:<>", "vm:<>", "vm:<int:>", "vm:<>:", "vm:<<>>"]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [("<<<a>>>", "<1>"), ("<<a>>", "<a>"), ("<a><a>", "11"), ("a<<b", "a<b"), ("a>>b", "a>b"), ("plain", "plain")],
)
def test_doubled_brackets_are_literal(text: str, rendered: str) -> None:
    assert KeyTemplate.parse(text).build(a=1) == rendered


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("", "key='': the template is empty; write text such as 'vm:<vm_id>'"),
        ("vm:<vm_id", "`<vm_id` is not closed; add `>`, or write `<<` for a literal bracket"),
        ("vm:<vm_id<n>", "`<vm_id` is not closed; add `>`"),
        ("vm:vm_id>", "stray `>` at character 9; write `>>`"),
        ("vm:<vm_id>>", "stray `>` at character 11; write `>>`"),
        ("vm:<>", "`<>` names nothing; write a name such as `<vm_id>`, or `<<` and `>>`"),
        ("vm:<int:>", "`<int:>` names nothing"),
        ("vm:<vm-id>", "`vm-id` in `<vm-id>` is not an identifier; write `vm_id`"),
        ("vm:< vm_id >", "` vm_id ` in `< vm_id >` is not an identifier; write `vm_id`"),
        ("vm:<1>", "`1` in `<1>` is not an identifier; write a parameter's name"),
        ("vm:<vm.>", "`` in `<vm.>` is not an identifier; write a parameter's name"),
        ("vm:<.id>", "`` in `<.id>` is not an identifier"),
        ("vm:<f(x)>", "`f(x)` in `<f(x)>` is not an identifier; write `f_x`"),
        ("vm:<x!r>", "`x!r` in `<x!r>` is not an identifier"),
        ("vm:<class>", "`class` in `<class>` is a Python keyword, which names nothing; rename it to `class_`"),
        ("vm:<vm.class>", "`class` in `<vm.class>` is a Python keyword"),
        ("vm:<uid:x>", "unknown converter `uid` in `<uid:x>`; did you mean 'uuid'?"),
        ("vm:<zz:x>", "unknown converter `zz` in `<zz:x>`; known are int, path, str, uuid"),
        ("vm:<:x>", "unknown converter `` in `<:x>`; known are int"),
        ("vm:<n:int>", "the converter comes first; write `<int:n>`"),
        ("vm:<x.__class__>", "attribute `__class__` in `<x.__class__>` is private; use a public one"),
        ("vm:<x._id>", "attribute `_id` in `<x._id>` is private"),
        ("vm:<x.＿id>", "is private"),
    ],
)
def test_a_wrong_template_says_the_fix(text: str, fix: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(fix)) as caught:
        KeyTemplate.parse(text)
    assert caught.value.template == text
    assert str(caught.value).startswith(f"key={text!r}: ")


def test_a_template_that_is_not_text_is_refused() -> None:
    with pytest.raises(TemplateError, match=re.escape("tag=7: a template is text, such as 'vm:<vm_id>'")):
        KeyTemplate.parse(7, label="tag")  # type: ignore[arg-type]  # that is the mistake


def test_a_normalised_name_is_the_one_python_knows() -> None:
    assert KeyTemplate.parse("<ﬁle>").roots == {"file"}


# --- templates: names -------------------------------------------------------------------------------------------------


def test_check_names_the_nearest_parameter() -> None:
    with pytest.raises(TemplateError) as caught:
        KeyTemplate.parse("vm:<vmid>").check(["vm_id", "region"], owner="get_vm")
    assert str(caught.value) == "key='vm:<vmid>': `get_vm` has no parameter `vmid`; did you mean `vm_id`?"


def test_check_lists_what_there_is_when_nothing_is_near() -> None:
    template = KeyTemplate.parse("vm:<zz>", label="tag")
    with pytest.raises(TemplateError, match=re.escape("tag='vm:<zz>': `VM` has no field `zz`; it has `a`, `b`")):
        template.check(["a", "b"], owner="VM", kind="field")
    with pytest.raises(TemplateError, match=re.escape("each='vm:<zz>': `f` has no parameter `zz`; it has none")):
        template.check([], owner="f", label="each")


def test_check_reports_an_unused_parameter_unless_it_may_be() -> None:
    template = KeyTemplate.parse("vm:<vm.id>")
    template.check(["vm", "region"], owner="f")
    template.check(["vm", "region"], owner="f", unused_ok=["region"])
    template.check(["vm"], owner="f", unused_ok=False)
    fix = "parameter `region` of `f` is not in it; add `<region>` or ignore=['region']"
    with pytest.raises(TemplateError, match=re.escape(fix)):
        template.check(["vm", "region"], owner="f", unused_ok=False)
    with pytest.raises(TemplateError, match=re.escape(fix)):
        template.check(["vm", "region"], owner="f", unused_ok=["other"])


# --- templates: values and text ---------------------------------------------------------------------------------------


def test_attributes_are_read_from_the_values() -> None:
    template = KeyTemplate.parse("node:<vm.node.id>:vm:<vm.id>:<n>")
    vm = VM("vm-1", Node("node-9"))
    assert template.values({"vm": vm, "n": 3, "other": 0}) == ("node-9", "vm-1", 3)
    assert template.build({"vm": vm, "n": 3}) == template.build({"vm": vm}, n=3) == "node:node-9:vm:vm-1:3"


def test_a_missing_value_names_the_nearest() -> None:
    with pytest.raises(TemplateError, match=re.escape("no value for `<vm_id>`; did you mean 'vmid'?")):
        KeyTemplate.parse("vm:<vm_id>").build(vmid=1)
    with pytest.raises(TemplateError, match=re.escape("no value for `<vm_id>`; pass vm_id=...")):
        KeyTemplate.parse("vm:<vm_id>").build()


def test_a_missing_attribute_names_the_nearest() -> None:
    message = "`<vm.nod.id>` of key 'vm:<vm.nod.id>': a VM object has no attribute `nod`; did you mean 'node'?"
    with pytest.raises(KeyValueError, match=re.escape(message)) as caught:
        KeyTemplate.parse("vm:<vm.nod.id>").values({"vm": VM("a", Node("b"))})
    assert caught.value.value_type is VM


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_values_is_refused(count: int) -> None:
    template = KeyTemplate.parse("<a>:<b>")
    for use in (template.render, lambda values: stored_key("n", template, values)):
        with pytest.raises(TemplateError, match=f"takes 2 values and got {count}; use `values`"):
            use((1,) * count)


def unordered(value: Any) -> bool:
    if isinstance(value, set | frozenset):
        return len(value) > 1
    return isinstance(value, tuple | list) and any(map(unordered, value))


@given(values, values)
def test_the_logical_text_is_what_an_f_string_gives(vm_id: Any, disk: Any) -> None:
    assume(not unordered(vm_id) and not unordered(disk))
    assert KeyTemplate.parse("vm:<vm_id>:disk:<disk>").build(vm_id=vm_id, disk=disk) == f"vm:{vm_id}:disk:{disk}"


def test_the_elements_of_a_set_are_put_in_order() -> None:
    template = KeyTemplate.parse("<x>")
    assert template.build(x={"c", "a", "b"}) == "{'a', 'b', 'c'}"
    assert template.build(x=frozenset({8, 0})) == template.build(x=frozenset({0, 8})) == "frozenset({0, 8})"
    assert template.build(x=[{"b", "a"}, ({"d", "c"},)]) == "[{'a', 'b'}, ({'c', 'd'},)]"
    assert [template.build(x=empty) for empty in (set(), frozenset(), (), [])] == ["set()", "frozenset()", "()", "[]"]


def test_the_message_about_an_object_names_an_attribute() -> None:
    message = "`<vm>` of key 'vm:<vm>' got a VM object, which has no stable text; use an attribute such as `<vm.id>`"
    template = KeyTemplate.parse("vm:<vm>")
    vm = VM("vm-1", Node("n"))
    for use in (template.render, lambda values: stored_key("n", template, values)):
        with pytest.raises(KeyValueError) as caught:
            use((vm,))
        assert str(caught.value) == message
        assert (caught.value.placeholder, caught.value.value_type) == ("<vm>", VM)


def test_the_message_blames_the_right_placeholder_of_a_tag() -> None:
    template = KeyTemplate.parse("<a>:<b>:<c>", label="tag")
    for use in (template.render, lambda values: stored_key("n", template, values)):
        with pytest.raises(KeyValueError, match=re.escape("`<b>` of tag '<a>:<b>:<c>' got a dict object")):
            use(("x", {}, "y"))


class NoText(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "?"


recursive: list[Any] = []
recursive.append(recursive)


@pytest.mark.parametrize(
    ("value", "fix"),
    [
        ({}, "got a dict object, which has no stable text; pass what identifies it"),
        (object(), "use an attribute such as `<x.id>`"),
        (bytearray(b"a"), "got a bytearray object, which has no stable text; pass what identifies it"),
        (Fraction(1, 2), "got a Fraction object"),
        ((1, {}), "got a tuple object that holds a dict object, which has no stable text; pass what identifies it"),
        ([{1}, (object(),)], "got a list object that holds a object object"),
        (Loud("a"), "got a Loud object, which has no stable text; pass a plain str"),
        (Odd(1), "pass a plain int"),
        (datetime(2024, 1, 1, tzinfo=NoText()), "use a zoneinfo.ZoneInfo or a datetime.timezone"),
        (10**5000, "got a int object, which has no stable text; Exceeds the limit"),
        (recursive, "got a list object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_stable_text_is_refused_by_both_keys(value: Any, fix: str) -> None:
    template = KeyTemplate.parse("<x>")
    for use in (template.render, lambda values: stored_key("n", template, values)):
        with pytest.raises(KeyValueError, match=re.escape(fix)):
            use((value,))


def test_a_str_with_state_of_its_own_is_refused() -> None:
    class Tagged(str):  # noqa: SLOT000 - its state is the point
        region = ""

    plain, tagged = Tagged("vm-1"), Tagged("vm-1")
    tagged.region = "eu"
    template = KeyTemplate.parse("<x>")
    assert template.render((plain,)) == "vm-1"
    with pytest.raises(KeyValueError, match="pass a plain str"):
        template.render((tagged,))


@pytest.mark.parametrize(
    ("converter", "good", "bad", "wanted"),
    [
        ("int", [0, -7], ["7", True, 1.0, Level.LOW, None], "takes an int"),
        ("uuid", [UUID_1, str(UUID_1)], [str(UUID_1).upper(), UUID_1.hex, "x", 5, f"{UUID_1}\n"], "takes a uuid.UUID"),
        ("str", ["", "a:b", Power.ON], [1, None, b"a"], "takes a str"),
        ("path", ["a/b:c", PurePosixPath("/a/b")], [1, None], "takes a str or a path"),
    ],
)
def test_a_converter_checks_and_leaves_the_text_alone(
    converter: str, good: list[Any], bad: list[Any], wanted: str
) -> None:
    template = KeyTemplate.parse(f"k:<{converter}:x>")
    assert [template.build(x=value) for value in good] == [f"k:{value}" for value in good]
    for value in bad:
        with pytest.raises(KeyValueError, match=wanted) as caught:
            template.build(x=value)
        assert f"`<{converter}:x>` of key" in str(caught.value)
        assert "convert it, or write `<x>`" in str(caught.value)


# --- templates: globs, matching, source -------------------------------------------------------------------------------


def test_wildcards_of_a_template_count_and_those_of_a_value_do_not() -> None:
    glob = Glob(KeyTemplate.parse("vm:<vm_id>:*").glob({"vm_id": "a*"}))
    assert glob.matches("vm:a*:disk")
    assert not glob.matches("vm:ab:disk")


@given(st.text(max_size=10), st.text(max_size=10))
def test_the_glob_of_a_template_matches_only_the_keys_of_its_values(given_id: str, other: str) -> None:
    template = KeyTemplate.parse("vm:<vm_id>")
    glob = Glob(template.glob({"vm_id": given_id}))
    assert glob.matches(template.build(vm_id=given_id))
    assert glob.matches(template.build(vm_id=other)) is (given_id == other)


@pytest.mark.parametrize("text", ["vm:[<x>]", "vm:\\<x>"])
def test_a_placeholder_where_its_value_would_become_syntax_is_refused(text: str) -> None:
    with pytest.raises(TemplateError, match="around a placeholder"):
        KeyTemplate.parse(text).glob({"x": "a"})


segments = st.text(max_size=6).filter(lambda text: ":" not in text)


@given(segments, segments, st.integers(), st.uuids(), st.text(max_size=6))
def test_match_is_the_inverse_of_build(a: str, b: str, n: int, u: UUID, path: str) -> None:
    template = KeyTemplate.parse("vm:<a>:<b>:<int:n>:<uuid:u>:<path:p>")
    found = template.match(template.build(a=a, b=b, n=n, u=u, p=path))
    assert found == {"a": a, "b": b, "n": str(n), "u": str(u), "p": path}


@given(st.text("ab-1:", max_size=6), st.text("ab-1:", max_size=6), st.integers(-2, 20))
def test_match_never_returns_a_wrong_parse(a: str, b: str, n: int) -> None:
    assume(":" not in a + b)
    for text in ("<a>-<b>", "<a><b>", "<a>b<a>", "<a><int:n>", "<int:n>1<b>", "<a>-<b>-<a>"):
        template = KeyTemplate.parse(text)
        given_values = {name: str(value) for name, value in {"a": a, "b": b, "n": n}.items() if name in template.roots}
        found = template.match(template.build(a=a, b=b, n=n))
        assert found in (None, given_values)


@pytest.mark.parametrize(
    ("template", "text", "found"),
    [
        ("vm:<a>", "vm:", {"a": ""}),
        ("vm:<a>", "vm:x\n", {"a": "x\n"}),
        ("vm:<a>", "vm:x:y", None),
        ("vm:<a>", "node:x", None),
        ("vm:<a.b>", "vm:x", {"a.b": "x"}),
        ("vm.<a>", "vmx1", None),
        ("<a>-<b>", "x-y", {"a": "x", "b": "y"}),
        ("<a>-<b>", "x-y-z", None),
        ("<int:n>", "007", None),
        ("<int:n>", "-0", None),
        ("<int:n>", "٣", None),
        ("<uuid:u>", str(UUID_1).upper(), None),
        ("<a>:<a>", "x:x", {"a": "x"}),
        ("<a>:<a>", "x:y", None),
        ("<a>:<int:a>", "x:x", None),
        ("<path:p>", "a:b\n", {"p": "a:b\n"}),
        ("plain", "plain", {}),
        ("plain", "other", None),
        ("<<<a>>>", "<x>", {"a": "x"}),
    ],
)
def test_match_gives_the_only_reading_or_none(template: str, text: str, found: dict[str, str] | None) -> None:
    assert KeyTemplate.parse(template).match(text) == found


def test_the_source_is_an_f_string_over_the_parameters() -> None:
    template = KeyTemplate.parse("vm:<vm_id>:<vm.node.id>")
    assert template.expressions() == ("vm_id", "vm.node.id")
    assert template.logical_source() == "f'vm:{vm_id}:{vm.node.id}'"


@given(st.text(max_size=10), st.text("{}'\"\\N<>\n\r\té\ud800", max_size=10), scalars)
def test_the_source_evaluates_to_the_logical_text(before: str, after: str, x: Any) -> None:
    written = [text.replace("<", "<<").replace(">", ">>") for text in (before, after)]
    template = KeyTemplate.parse(f"{written[0]}<x>{written[1]}<x.real>" if type(x) is int else "<x>".join(written))
    assert eval(template.logical_source(), {"x": x}) == template.build(x=x)  # noqa: S307 - the subject of the test


# --- stored keys ------------------------------------------------------------------------------------------------------

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


# --- escaping ---------------------------------------------------------------------------------------------------------


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
