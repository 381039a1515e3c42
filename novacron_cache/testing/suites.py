"""What every tier must do, as tests that a tier's own tests inherit.

A tier conforms when a subclass of `TierSuite` with its own `tier` fixture passes. Each behaviour is written once and
run twice: through `perform`, and through `aperform` on an event loop.
"""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names say what they say

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from ..effects import (
    Capture,
    Delete,
    Fetch,
    Fetched,
    Hold,
    Item,
    Purge,
    ReadRules,
    Renew,
    Store,
)
from ..markers import MAX_RULES, NAMESPACE, RULES, key_dep, new_id, tag_dep
from ..tiers import Tier
from .clock import ManualClock
from .driving import LIFE, Drive, eventually
from .holding import HoldSuite

__all__ = ["Drive", "TierSuite", "eventually"]


class TierSuite(HoldSuite):
    """The behaviour of a tier. A subclass overrides `tier`, and what else of the fixtures fits it.

    >>> class TestMyTier(TierSuite):
    ...     @pytest.fixture
    ...     def tier(self): ...
    """

    @pytest.fixture
    def tier(self) -> Any:
        """Return (or yield) an empty tier."""
        raise NotImplementedError("a subclass of TierSuite overrides the fixture `tier`")

    @pytest.fixture
    def clock(self) -> ManualClock | None:
        """Return the clock that `tier` was given, when it is moved by hand; by default time passes by itself."""
        return None

    @pytest.fixture
    def other_namespace(self) -> Any:
        """Return (or yield) a tier of the same kind under another namespace, over the same storage where it is kept."""
        raise NotImplementedError("a subclass of TierSuite overrides the fixture `other_namespace`")

    @pytest.fixture(params=["sync", "async"])
    def drive(self, request: pytest.FixtureRequest, tier: Tier, clock: ManualClock | None) -> Iterator[Drive]:
        """Return what carries out operations; each test runs with both."""
        if request.param == "sync":
            yield Drive(tier, None, clock)
            return
        with asyncio.Runner() as runner:
            drive = Drive(tier, runner, clock)
            yield drive
            drive.close()

    # -- payloads -----------------------------------------------------------------------------------------------

    def test_nothing_is_found_where_nothing_was_stored(self, drive: Drive) -> None:
        assert drive(Fetch(["a", "b"])).payloads == [None, None]

    def test_a_fetch_of_nothing_finds_nothing(self, drive: Drive) -> None:
        assert drive(Fetch([], [])) == Fetched([], [])

    def test_a_store_of_nothing_is_done(self, drive: Drive) -> None:
        assert drive(Store([])) is True

    @pytest.mark.parametrize(
        "payload",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\0", id="nul"),
            pytest.param(bytes(range(256)), id="every byte"),
            pytest.param(b"novacron" * 2**17, id="1 MB"),
        ],
    )
    def test_what_was_stored_is_found_byte_for_byte(self, drive: Drive, payload: bytes) -> None:
        assert drive(Store([Item("a", payload, LIFE)])) is True
        found = drive.payload("a")
        assert type(found) is bytes
        assert found == payload

    @pytest.mark.parametrize(
        "key",
        [
            "vm:1",
            "with space",
            "schlüssel:Ω:鍵:🗝",
            "{slot}:a",
            "a{b}c",
            "*",
            "vm:[ab]?*",
            "line\nbreak\ttab",
            "nul\0inside",
            "quote'\"\\%_",
            "x" * 300,
        ],
    )
    def test_any_text_is_a_key(self, drive: Drive, key: str) -> None:
        drive(Store([Item(key, b"its own", LIFE), Item(key + "x", b"another", LIFE)]))
        assert drive(Fetch([key, key + "x"])).payloads == [b"its own", b"another"]
        drive(Delete([key]))
        assert drive(Fetch([key, key + "x"])).payloads == [None, b"another"]

    def test_keys_that_differ_in_case_or_in_trailing_space_differ(self, drive: Drive) -> None:
        keys = ["a", "A", "a ", " a"]
        drive(Store([Item(key, key.encode(), LIFE) for key in keys]))
        assert drive(Fetch(keys)).payloads == [key.encode() for key in keys]

    def test_answers_come_in_the_order_of_the_questions(self, drive: Drive) -> None:
        drive(Store([Item(f"k{n}", b"%d" % n, LIFE) for n in range(50)]))
        keys = [f"k{n}" for n in range(60, -1, -1)]
        assert drive(Fetch(keys)).payloads == [b"%d" % n if n < 50 else None for n in range(60, -1, -1)]

    def test_a_key_asked_for_twice_is_answered_twice(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", LIFE)]))
        assert drive(Fetch(["a", "b", "a"])).payloads == [b"1", None, b"1"]

    def test_thousands_of_keys_go_in_one_operation(self, drive: Drive) -> None:
        keys = [f"k{n}" for n in range(2500)]
        drive(Store([Item(key, key.encode(), LIFE) for key in keys]))
        assert drive(Fetch(keys)).payloads == [key.encode() for key in keys]

    def test_a_later_payload_replaces_an_earlier_one(self, drive: Drive) -> None:
        for payload in (b"first", b"second" * 10_000, b"third"):
            drive(Store([Item("a", payload, LIFE)]))
            assert drive.payload("a") == payload

    def test_a_payload_goes_when_its_time_is_over(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", self.short), Item("b", b"2", LIFE)]))
        drive.let_pass(self.short)
        assert eventually(lambda: drive(Fetch(["a", "b"])).payloads == [None, b"2"])

    def test_a_replacement_brings_its_own_time(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", self.short), Item("b", b"1", LIFE)]))
        drive(Store([Item("a", b"2", LIFE), Item("b", b"2", self.short)]))
        drive.let_pass(self.short)
        assert eventually(lambda: drive(Fetch(["a", "b"])).payloads == [b"2", None])

    def test_what_was_deleted_is_gone_and_the_rest_is_not(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", LIFE), Item("b", b"2" * 100_000, LIFE), Item("c", b"3", LIFE)]))
        assert drive(Delete(["a", "b", "never stored"])) is True
        assert drive(Fetch(["a", "b", "c"])).payloads == [None, None, b"3"]

    def test_a_deletion_of_nothing_is_done(self, drive: Drive) -> None:
        assert drive(Delete([])) is True

    def test_a_purge_takes_every_payload_and_no_marker(self, drive: Drive) -> None:
        (captured,) = drive(Capture([NAMESPACE], LIFE))
        drive(Renew([], LIFE, [(new_id(), b"rule")]))
        drive(Store([Item(f"k{n}", b"%d" % n, LIFE) for n in range(300)]))
        assert drive(Purge()) is True
        assert drive(Fetch([f"k{n}" for n in range(300)])).payloads == [None] * 300
        assert drive.id(NAMESPACE) == captured
        assert len(drive(ReadRules())) == 1

    # -- markers ------------------------------------------------------------------------------------------------

    def test_a_missing_marker_has_no_id_and_asking_does_not_make_one(self, drive: Drive) -> None:
        assert drive(Fetch([], [NAMESPACE])).ids == [None]
        assert drive(Fetch([], [NAMESPACE])).ids == [None]

    def test_payloads_and_ids_come_in_one_answer(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", LIFE)]))
        first, second = drive(Capture([tag_dep("x"), tag_dep("y")], LIFE))
        assert drive(Fetch(["b", "a"], [tag_dep("y"), tag_dep("z"), tag_dep("x")])) == Fetched(
            [None, b"1"], [second, None, first]
        )

    def test_capture_gives_each_missing_dependency_an_id_of_its_own(self, drive: Drive) -> None:
        ids = drive(Capture([NAMESPACE, RULES, key_dep("a"), tag_dep("a")], LIFE))
        assert all(type(found) is bytes and found for found in ids)
        assert len(set(ids)) == 4

    def test_capture_is_stable(self, drive: Drive) -> None:
        first = drive(Capture([tag_dep("a"), tag_dep("b")], LIFE))
        assert drive(Capture([tag_dep("b"), tag_dep("c"), tag_dep("a")], LIFE))[::2] == first[::-1]
        assert drive(Fetch([], [tag_dep("a"), tag_dep("b")])).ids == first

    def test_capture_of_nothing_is_empty(self, drive: Drive) -> None:
        assert drive(Capture([], LIFE)) == []

    def test_a_dependency_captured_twice_in_one_operation_has_one_id(self, drive: Drive) -> None:
        first, second = drive(Capture([tag_dep("a"), tag_dep("a")], LIFE))
        assert first == second

    def test_all_who_capture_at_once_get_the_same_ids(self, drive: Drive) -> None:
        deps = [NAMESPACE, tag_dep("a"), tag_dep("b")]
        answers = drive.at_once([Capture(deps, LIFE) for _ in range(8)])
        assert len({tuple(ids) for ids in answers}) == 1
        assert drive(Fetch([], deps)).ids == answers[0]

    def test_a_dependency_is_not_a_payload(self, drive: Drive) -> None:
        drive(Capture([key_dep("a")], LIFE))
        drive(Store([Item("n", b"payload", LIFE)]))
        assert drive(Fetch(["k:a", "a", "n"], [NAMESPACE])) == Fetched([None, None, b"payload"], [None])

    @pytest.mark.parametrize("name", ["vm:1", "with space", "schlüssel:Ω:🗝", "{a}", "*[?", "x" * 300, ""])
    def test_any_text_is_a_dependency(self, drive: Drive, name: str) -> None:
        (captured,) = drive(Capture([tag_dep(name)], LIFE))
        assert drive(Fetch([], [tag_dep(name), tag_dep(name + "x")])).ids == [captured, None]

    def test_renewing_changes_the_id_to_the_one_named(self, drive: Drive) -> None:
        drive(Capture([tag_dep("a"), tag_dep("b")], LIFE))
        first, second = new_id(), new_id()
        assert drive(Renew([(tag_dep("a"), first), (tag_dep("never captured"), second)], LIFE)) is True
        ids = drive(Fetch([], [tag_dep("a"), tag_dep("b"), tag_dep("never captured")])).ids
        assert ids[0] == first
        assert ids[1] not in (None, first)
        assert ids[2] == second
        assert drive(Capture([tag_dep("a")], LIFE)) == [first]

    def test_a_renewal_of_nothing_is_done(self, drive: Drive) -> None:
        assert drive(Renew([], LIFE)) is True

    def test_a_capture_sets_the_ids_it_renews(self, drive: Drive) -> None:
        (before, kept) = drive(Capture([key_dep("a"), tag_dep("t")], LIFE))
        after = new_id()
        assert drive(Capture([tag_dep("t"), tag_dep("u")], LIFE, renew=[(key_dep("a"), after)]))[0] == kept
        assert drive(Fetch([], [key_dep("a"), tag_dep("t")])).ids == [after, kept]
        assert before != after

    def test_a_marker_goes_when_its_life_is_over_and_comes_back_different(self, drive: Drive) -> None:
        (before,) = drive(Capture([tag_dep("a")], self.short))
        drive.let_pass(4 * self.short)
        assert eventually(lambda: drive.id(tag_dep("a")) is None)
        assert drive(Capture([tag_dep("a")], LIFE)) != [before]

    def test_nothing_shortens_the_life_of_a_marker(self, drive: Drive) -> None:
        captured, extended = drive(Capture([tag_dep("captured"), tag_dep("extended")], LIFE))
        drive(Capture([tag_dep("renewed"), tag_dep("both")], LIFE))
        expected = {"captured": captured, "extended": extended, "renewed": new_id(), "both": new_id()}
        drive(Capture([tag_dep("captured")], self.short))
        drive(Renew([(tag_dep("renewed"), expected["renewed"])], self.short))
        drive(Capture([], self.short, renew=[(tag_dep("both"), expected["both"])]))
        drive(Store([Item("a", b"1", LIFE)], extend=[tag_dep("extended")], life=self.short))
        drive.let_pass(4 * self.short)
        assert {by: drive.id(tag_dep(by)) for by in expected} == expected

    def test_a_marker_lives_as_long_as_it_was_last_asked_to(self, drive: Drive) -> None:
        captured, _, extended = drive(
            Capture([tag_dep("captured"), tag_dep("renewed"), tag_dep("extended")], 10 * self.short)
        )
        expected = {"captured": captured, "renewed": new_id(), "extended": extended}
        assert drive(Capture([tag_dep("captured")], LIFE)) == [captured]
        drive(Renew([(tag_dep("renewed"), expected["renewed"])], LIFE))
        drive(Store([Item("a", b"1", LIFE)], extend=[tag_dep("extended")], life=LIFE))
        drive.let_pass(12 * self.short)
        assert {by: drive.id(tag_dep(by)) for by in expected} == expected

    def test_extending_a_missing_marker_does_not_make_one(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", LIFE)], extend=[tag_dep("a")], life=LIFE))
        assert drive(Fetch(["a"], [tag_dep("a")])) == Fetched([b"1"], [None])

    # -- the rule log -------------------------------------------------------------------------------------------

    def test_the_rule_log_begins_empty(self, drive: Drive) -> None:
        assert drive(ReadRules()) == []
        assert drive.id(RULES) is None

    def test_rules_are_read_newest_first_and_the_head_is_the_newest(self, drive: Drive) -> None:
        first, second, third = new_id(), new_id(), new_id()
        drive(Renew([], LIFE, [(first, b"one")]))
        assert drive.id(RULES) == first
        assert drive(Renew([(tag_dep("a"), new_id())], LIFE, [(second, b"two"), (third, bytes(range(256)))])) is True
        assert drive(ReadRules()) == [(third, bytes(range(256))), (second, b"two"), (first, b"one")]
        assert drive.id(RULES) == third

    def test_a_renewal_without_rules_leaves_the_head(self, drive: Drive) -> None:
        head = new_id()
        drive(Renew([], LIFE, [(head, b"one")]))
        drive(Renew([(tag_dep("a"), new_id())], LIFE))
        assert drive.id(RULES) == head

    def test_a_captured_head_is_the_head(self, drive: Drive) -> None:
        head = new_id()
        drive(Renew([], LIFE, [(head, b"one")]))
        assert drive(Capture([RULES], LIFE)) == [head]

    def test_the_rule_log_keeps_the_newest_rules(self, drive: Drive) -> None:
        rules = [(new_id(), b"%d" % n) for n in range(MAX_RULES + 10)]
        drive(Renew([], LIFE, rules[:200]))
        drive(Renew([], LIFE, rules[200:]))
        kept = drive(ReadRules())
        assert kept[:MAX_RULES] == rules[: -MAX_RULES - 1 : -1]
        assert len(kept) <= 2 * MAX_RULES

    # -- namespaces and closing ---------------------------------------------------------------------------------

    def test_namespaces_do_not_see_each_other(self, drive: Drive, other_namespace: Tier) -> None:
        other = other_namespace
        drive(Store([Item("a", b"mine", LIFE)]))
        (mine,) = drive(Capture([NAMESPACE], LIFE))
        drive(Renew([], LIFE, [(new_id(), b"rule")]))
        assert drive.on(other, Fetch(["a"], [NAMESPACE, RULES])) == Fetched([None], [None, None])
        assert drive.on(other, ReadRules()) == []
        assert drive.on(other, Capture([NAMESPACE], LIFE)) != [mine]
        drive.on(other, Hold([NAMESPACE], new_id(), LIFE))
        assert drive(Capture([NAMESPACE], LIFE)) == [mine]
        drive.on(other, Store([Item("a", b"theirs", LIFE)]))
        assert drive.payload("a") == b"mine"
        drive.on(other, Delete(["a"]))
        drive.on(other, Purge())
        assert drive.payload("a") == b"mine"

    def test_closing_twice_is_closing_once(self, drive: Drive) -> None:
        drive(Store([Item("a", b"1", LIFE)]))
        drive.close()
        drive.close()
