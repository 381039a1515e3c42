"""Templates: how they are read, what they make of values, and what they make of a key."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, tzinfo
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.key_values import UUID_1, VM, Level, Loud, Node, Odd, Power, scalars, values

from novacron_cache.errors import KeyValueError, TemplateError
from novacron_cache.keys import Glob, KeyTemplate, Placeholder, stored_key

# -- parsing -----------------------------------------------------------------------------------------------------------


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


# -- names -------------------------------------------------------------------------------------------------------------


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


# -- values and text ---------------------------------------------------------------------------------------------------


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


# -- globs, matching, source -------------------------------------------------------------------------------------------


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
