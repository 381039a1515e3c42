"""The log of globs is bounded: it refuses rather than overflows, and makes room when rules have lost their meaning."""

from __future__ import annotations

import pytest
from flows.harness import Invalidation, ManualClock, MemoryTier, Process

from novacron_cache.errors import PatternLogFull
from novacron_cache.events import RuleLogFull
from novacron_cache.markers import MAX_RULES


@pytest.fixture
def full(clock: ManualClock) -> Process:
    process = Process(clock, [MemoryTier(clock=clock)])
    process.get("vm:kept", lambda: "kept")
    for number in range(MAX_RULES):
        assert process.invalidate(Invalidation.pattern(f"v*:{number}"))
    return process


def test_a_full_log_refuses_a_glob_with_an_event_and_invalidates_nothing(full: Process) -> None:
    with pytest.raises(PatternLogFull, match="tag") as error:
        full.invalidate(Invalidation.pattern("v*:kept"))
    assert error.value.limit == MAX_RULES
    assert len(full.seen(RuleLogFull)) == 1
    assert full.peek("vm:kept") == "kept"


def test_a_full_log_still_spares_what_none_of_its_rules_hits(full: Process, clock: ManualClock) -> None:
    clock.advance(10.0)
    assert full.get("vm:kept", lambda: "loaded again") == "kept"


def test_what_needs_no_room_in_the_log_goes_on(full: Process) -> None:
    assert full.invalidate(Invalidation.pattern("vm:*"))
    assert full.get("vm:kept", lambda: "new") == "new"


def test_rules_older_than_any_value_make_room(full: Process, clock: ManualClock) -> None:
    clock.advance(full.engine.marker_life() / 2 + 1.0)
    assert full.invalidate(Invalidation.pattern("v*:kept"))


def test_what_is_named_beside_a_glob_that_is_refused_is_invalidated_all_the_same(full: Process) -> None:
    with pytest.raises(PatternLogFull):
        full.invalidate(Invalidation.keys(["vm:kept"]) + Invalidation.pattern("v*:kept"))
    assert full.get("vm:kept", lambda: "new") == "new"
    assert not full.engine.pending


def test_the_last_place_in_the_log_may_be_taken_and_no_two_at_once(clock: ManualClock) -> None:
    process = Process(clock, [MemoryTier(clock=clock)])
    for number in range(MAX_RULES - 1):
        process.invalidate(Invalidation.pattern(f"v*:{number}"))
    two = Invalidation.pattern("v*:a") + Invalidation.pattern("v*:b")
    with pytest.raises(PatternLogFull):
        process.invalidate(two)
    assert process.invalidate(Invalidation.pattern("v*:a"))


def test_a_log_that_cannot_be_asked_about_refuses_nothing(full: Process) -> None:
    full.ways[0].down = True
    assert not full.invalidate(Invalidation.pattern("v*:kept")), "it is pending"
