"""Globs: what a pattern matches, and how text is kept from being one."""

from __future__ import annotations

import re
import time as clock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novacron_cache.errors import TemplateError
from novacron_cache.keys import Glob, first_segment, glob_escape

# -- first segment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "segment"), [("vm:1:disk", "vm"), ("vm", "vm"), ("", ""), (":x", ""), ("vm:", "vm")])
def test_the_first_segment_ends_before_the_first_colon(text: str, segment: str) -> None:
    assert first_segment(text) == segment


# -- globs -------------------------------------------------------------------------------------------------------------


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
