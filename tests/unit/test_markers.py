"""Markers: when a cached value is still valid."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.markers import (
    ID_BYTES,
    MAX_NAMED,
    NAMESPACE,
    RULES,
    Rule,
    RuleLog,
    dependencies,
    key_dep,
    model_dep,
    new_id,
    segment_dep,
    tag_dep,
    valid,
)

KEY = "vm:1:disk"
TAGS = ("vm:1", "node:9")

HIT = "vm:1:*"
MISS = "net:?:*"


def rule(pattern: str, after: bytes) -> bytes:
    return Rule(glob=pattern, after=after).encode()


# --- ids and dependencies ---------------------------------------------------------------------------------------------


def test_ids_are_never_repeated_and_all_of_one_length() -> None:
    ids = [new_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {ID_BYTES} == {8}


def test_a_long_name_is_cut_to_its_limit_and_ends_in_a_digest_of_all_of_it() -> None:
    exact, long, other = "x" * MAX_NAMED, "x" * (MAX_NAMED + 1), "x" * MAX_NAMED + "y"
    assert key_dep(exact) == f"k:{exact}"
    assert len(key_dep(long)) == len("k:") + MAX_NAMED
    assert re.fullmatch(r"k:x{470}~h[0-9a-f]{40}", key_dep(long))
    assert key_dep(long) != key_dep(other)
    assert key_dep(long)[2:] == tag_dep(long)[2:] == segment_dep(long)[2:]


def test_a_rule_that_is_appended_says_after_what_and_when_and_is_the_same_otherwise() -> None:
    for one in (Rule(glob="*:1"), Rule(all_tags=("a", "b"))):
        appended = Rule.decode(one.following(b"\x01\x02", 7.4).encode())
        assert appended == Rule(one.glob, one.all_tags, b"\x01\x02", 7.0)


@pytest.mark.parametrize("data", [b"[]", b"1", b"{}", b'{"g": 1}', b'{"t": "a"}', b"{", b'{"g": "*", "after": "xyz"}'])
def test_what_is_no_rule_is_not_read_as_one(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a rule|Expecting|hexadecimal"):
        Rule.decode(data)


def test_a_rule_of_an_older_writer_lacks_what_came_later() -> None:
    assert Rule.decode(b'{"g": "*"}') == Rule(glob="*", after=b"", at=0.0)
    assert Rule.decode(b'{"t": [1, "a"]}') == Rule(all_tags=("1", "a"))


def test_a_log_counts_the_rules_that_are_younger_than_a_moment() -> None:
    rules = [(bytes([n]), Rule(glob="*", after=bytes([n - 1]), at=float(n)).encode()) for n in (3, 2, 1)]
    log = RuleLog(b"\x03", rules)
    assert [log.since(epoch) for epoch in (0.0, 1.0, 1.5, 3.0)] == [3, 2, 2, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_repeat_ids() -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, new_id())
        os._exit(0)
    os.waitpid(pid, 0)
    child = os.read(read, ID_BYTES)
    os.close(read)
    os.close(write)
    assert len(child) == ID_BYTES
    assert child != new_id()


def test_dependencies_of_different_kinds_never_share_a_marker() -> None:
    kinds: list[Callable[[str], str]] = [key_dep, tag_dep, model_dep, segment_dep]
    deps = [kind(name) for kind in kinds for name in ("", "x", "n", "g", "k:x")]
    assert len({*deps, NAMESPACE, RULES}) == len(deps) + 2


def test_a_value_depends_on_the_fixed_things_first_and_then_on_its_tags() -> None:
    deps = dependencies(KEY, "VMState", TAGS)
    fixed = (NAMESPACE, RULES, model_dep("VMState"), segment_dep("vm"), key_dep(KEY))
    assert deps == (*fixed, tag_dep("vm:1"), tag_dep("node:9"))
    assert dependencies("settings", "", ())[3] == segment_dep("settings")


# --- rules ------------------------------------------------------------------------------------------------------------


@given(st.text(), st.lists(st.text(), min_size=1), st.binary(max_size=12))
def test_a_rule_survives_its_own_encoding(pattern: str, tags: list[str], after: bytes) -> None:
    for each in (Rule(glob=pattern, after=after), Rule(all_tags=tuple(tags), after=after)):
        assert Rule.decode(each.encode()) == each


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"7", b'"g"', b"{}", b'{"g": 7}', b'{"t": "ab"}', b'{"x": "y"}', b"\xff\xfe",
        b'{"g": "vm:*", "after": "zz"}',
    ],
)  # fmt: skip
def test_anything_else_is_not_a_rule(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the contract names no more
        Rule.decode(data)


def test_a_glob_rule_looks_at_the_key_alone() -> None:
    hits = Rule(glob="vm:*:disk").matcher()
    assert hits("vm:1:disk", ())
    assert not hits("vm:1", ("vm:1:disk",))


def test_an_all_tags_rule_hits_values_that_have_every_tag() -> None:
    hits = Rule(all_tags=("a", "b")).matcher()
    assert hits("x", ("b", "c", "a"))
    assert not hits("x", ("a", "c"))
    assert not hits("a", ())


# --- the log ----------------------------------------------------------------------------------------------------------


def test_rules_newer_than_the_captured_head_are_tested() -> None:
    log = RuleLog(b"3", [(b"3", rule(MISS, b"2")), (b"2", rule(HIT, b"1")), (b"1", rule(MISS, b"0"))])
    assert not log.spares(b"0", KEY, TAGS)
    assert not log.spares(b"1", KEY, TAGS)
    assert log.spares(b"2", KEY, TAGS)
    assert log.spares(b"3", KEY, TAGS)
    assert log.spares(b"0", "vm:2", TAGS)


def test_the_rule_that_made_the_captured_head_is_not_tested() -> None:
    log = RuleLog(b"2", [(b"2", rule(MISS, b"1")), (b"1", rule(HIT, b"0"))])
    assert log.spares(b"1", KEY, TAGS)
    assert not log.spares(b"0", KEY, TAGS)


@pytest.mark.parametrize(("newest", "oldest"), [(HIT, MISS), (MISS, HIT)])
def test_two_rules_appended_to_one_head_are_both_tested(newest: str, oldest: str) -> None:
    log = RuleLog(b"b", [(b"b", rule(newest, b"0")), (b"a", rule(oldest, b"0"))])
    assert not log.spares(b"0", KEY, TAGS)
    log = RuleLog(b"b", [(b"b", rule(newest, b"1")), (b"a", rule(oldest, b"1")), (b"1", rule(MISS, b"0"))])
    assert not log.spares(b"1", KEY, TAGS)


def test_an_unknown_captured_head_is_invalid() -> None:
    log = RuleLog(b"1", [(b"1", rule(MISS, b"0"))])
    assert not log.spares(b"forgotten", KEY, TAGS)


def test_a_log_that_lost_its_own_head_spares_nothing() -> None:
    log = RuleLog(b"elsewhere", [(b"1", rule(MISS, b"0"))])
    assert not log.complete
    assert not log.spares(b"0", KEY, TAGS)
    assert not log.spares(b"1", KEY, TAGS)


def test_an_empty_log_spares_nothing() -> None:
    log = RuleLog(b"0", [])
    assert not log.complete
    assert not log.spares(b"0", KEY, TAGS)


def test_a_log_is_complete_when_it_reaches_its_head() -> None:
    rules = [(b"2", rule(MISS, b"1")), (b"1", rule(MISS, b"0"))]
    assert RuleLog(b"2", rules).complete
    assert RuleLog(b"1", rules).complete


def test_rules_beyond_the_head_that_was_read_are_left_for_the_next_reading() -> None:
    log = RuleLog(b"1", [(b"2", rule(HIT, b"1")), (b"1", rule(MISS, b"0"))])
    assert log.spares(b"0", KEY, TAGS)


@pytest.mark.parametrize("unreadable", [b"", b"\xff", b'{"v": 9}', rule("vm:[", b"0"), rule("a*" * 9, b"0"), b"[]"])
def test_a_rule_that_cannot_be_read_matches_everything(unreadable: bytes) -> None:
    log = RuleLog(b"3", [(b"3", rule(MISS, b"2")), (b"2", unreadable), (b"1", rule(MISS, b"0"))])
    assert not log.spares(b"1", KEY, TAGS)
    assert not log.spares(b"1", "anything", ())
    assert log.spares(b"2", KEY, TAGS)


@pytest.mark.parametrize("opening", [b"[", b'{"t":', b'{"g": "net:*", "more": ['])
def test_a_rule_nested_too_deeply_to_be_decoded_matches_everything(opening: bytes) -> None:
    nested = opening * 100_000
    with pytest.raises(RecursionError):
        Rule.decode(nested)
    log = RuleLog(b"3", [(b"3", rule(MISS, b"2")), (b"2", nested), (b"1", rule(MISS, b"0"))])
    assert not log.spares(b"1", KEY, TAGS)
    assert log.spares(b"2", KEY, TAGS)


def test_an_all_tags_rule_in_the_log_reads_the_tags() -> None:
    log = RuleLog(b"1", [(b"1", Rule(all_tags=TAGS, after=b"0").encode())])
    assert not log.spares(b"0", KEY, (*TAGS, "more"))
    assert log.spares(b"0", KEY, TAGS[:1])


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_a_chain_of_rules_spares_what_no_later_rule_hits(hits: Sequence[bool], data: st.DataObject) -> None:
    heads = [b"%d" % number for number in range(len(hits) + 1)]
    oldest_first = [(heads[i + 1], rule(HIT if hit else MISS, heads[i])) for i, hit in enumerate(hits)]
    log = RuleLog(heads[-1], oldest_first[::-1])
    captured = data.draw(st.integers(0, len(hits)))
    assert log.spares(heads[captured], KEY, TAGS) is not any(hits[captured:])


# --- validity ---------------------------------------------------------------------------------------------------------

CAPTURED = tuple((dep, b"id-" + dep.encode()) for dep in dependencies(KEY, "VMState", TAGS))
CURRENT = dict(CAPTURED)
HEAD = CURRENT[RULES]


def test_a_value_is_valid_while_every_id_is_current() -> None:
    assert valid(CAPTURED, CURRENT.get, KEY, TAGS)


@pytest.mark.parametrize("dep", list(CURRENT))
def test_a_new_id_of_any_dependency_makes_it_invalid(dep: str) -> None:
    assert not valid(CAPTURED, {**CURRENT, dep: b"new"}.get, KEY, TAGS)


@pytest.mark.parametrize("dep", list(CURRENT))
def test_a_missing_marker_never_matches(dep: str) -> None:
    current = {name: each for name, each in CURRENT.items() if name != dep}
    log = RuleLog(HEAD, [(HEAD, rule(MISS, b"0"))])
    assert not valid(CAPTURED, current.get, KEY, TAGS)
    assert not valid(CAPTURED, current.get, KEY, TAGS, log)


def test_a_value_without_captured_ids_is_invalid() -> None:
    assert not valid((), CURRENT.get, KEY, TAGS)


def test_a_moved_head_is_forgiven_when_the_log_spares_the_value() -> None:
    current = {**CURRENT, RULES: b"new"}
    assert valid(CAPTURED, current.get, KEY, TAGS, RuleLog(b"new", [(b"new", rule(MISS, HEAD))]))
    assert not valid(CAPTURED, current.get, KEY, TAGS, RuleLog(b"new", [(b"new", rule(HIT, HEAD))]))


def test_a_log_of_another_head_forgives_nothing() -> None:
    log = RuleLog(b"new", [(b"new", rule(MISS, HEAD))])
    assert not valid(CAPTURED, {**CURRENT, RULES: b"newer"}.get, KEY, TAGS, log)


def test_a_spared_value_still_needs_its_other_ids() -> None:
    log = RuleLog(b"new", [(b"new", rule(MISS, HEAD))])
    current = {**CURRENT, RULES: b"new", tag_dep("node:9"): b"new"}
    assert not valid(CAPTURED, current.get, KEY, TAGS, log)
