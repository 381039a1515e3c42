"""Tags that only the result names: at once obeyed here, within the bound elsewhere, shared once they are foreseen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flows.harness import (
    BOUND,
    MISSING,
    Call,
    Fetch,
    Invalidation,
    Load,
    ManualClock,
    MemoryTier,
    Process,
    Renew,
    StillLink,
    Store,
    plan,
)  # fmt: skip

from novacron_cache import flows
from novacron_cache.effects import Barrier

KEY = "vm:1"


def late(value: object) -> tuple[str, ...]:
    return (f"node:{value}",)


@pytest.fixture
def tier(clock: ManualClock) -> MemoryTier:
    return MemoryTier(clock=clock)


@pytest.fixture
def ours(clock: ManualClock, tier: MemoryTier) -> Process:
    return Process(clock, [tier])


@pytest.fixture
def theirs(clock: ManualClock, tier: MemoryTier) -> Process:
    return Process(clock, [tier])


def test_the_first_value_with_late_tags_stays_in_process_memory(ours: Process, theirs: Process) -> None:
    assert ours.get(KEY, lambda: "a", late=late) == "a"
    assert ours.peek(KEY, late=late) == "a"
    assert ours.ways[0].count(Store) == 0
    assert theirs.peek(KEY, late=late) is MISSING


def test_a_late_tag_invalidates_here_at_once(ours: Process) -> None:
    ours.get(KEY, lambda: "a", late=late)
    ours.invalidate(Invalidation.tags(["node:a"]))
    assert ours.peek(KEY, late=late) is MISSING


def test_a_late_tag_invalidated_elsewhere_is_obeyed_within_the_bound(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "a", late=late)
    theirs.invalidate(Invalidation.tags(["node:a"]))
    clock.advance(BOUND + 0.1)
    assert ours.peek(KEY, late=late) is MISSING


def test_without_shared_tiers_late_tags_are_as_good_as_any(clock: ManualClock) -> None:
    process = Process(clock, [])
    process.get(KEY, lambda: "a", late=late)
    clock.advance(60.0)
    assert process.peek(KEY, late=late) == "a"
    process.invalidate(Invalidation.tags(["node:a"]))
    assert process.peek(KEY, late=late) is MISSING


def test_tags_foreseen_from_the_last_value_are_captured_before_the_load_and_the_value_is_shared(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "a", late=late)
    clock.advance(BOUND + 0.1)
    ours.get(KEY, lambda: "a", late=late)
    assert theirs.peek(KEY, late=late) == "a"
    theirs.invalidate(Invalidation.tags(["node:a"]))
    assert theirs.get(KEY, lambda: "b", late=late) == "b"
    clock.advance(BOUND + 0.1)
    assert ours.get(KEY, lambda: "b", late=late) == "b"


def test_tags_foreseen_wrongly_keep_the_value_out_of_the_shared_tiers(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "a", late=late)
    clock.advance(BOUND + 0.1)
    assert ours.get(KEY, lambda: "b", late=late) == "b"
    assert theirs.peek(KEY, late=late) is MISSING


def test_a_foreseen_tag_invalidated_while_the_value_loads_voids_it_everywhere(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "a", late=late)
    clock.advance(BOUND + 0.1)
    call = ours.loading(KEY, lambda: "a", late=late).after(Load)
    theirs.invalidate(Invalidation.tags(["node:a"]))
    call.finish()
    assert theirs.peek(KEY, late=late) is MISSING
    clock.advance(BOUND + 0.1)
    assert ours.peek(KEY, late=late) is MISSING


def test_a_value_that_is_set_is_shared_with_its_late_tags_at_once(ours: Process, theirs: Process) -> None:
    ours.set(KEY, "a", late=late)
    assert theirs.peek(KEY, late=late) == "a"
    assert theirs.ways[0].count(Fetch) == 2  # the tag became known with the payload
    ours.invalidate(Invalidation.tags(["node:a"]))
    other = Process(ours.clock, [ours.ways[0].tier])
    assert other.peek(KEY, late=late) is MISSING


def test_a_read_that_begins_after_a_late_tag_was_invalidated_does_not_share_an_older_load(ours: Process) -> None:
    source = ["a"]
    call = ours.loading(KEY, lambda: source[0], late=late).after(Load)
    source[0] = "b"
    ours.invalidate(Invalidation.tags(["node:a"]))
    joined = ours.loading(KEY, lambda: source[0], late=late)
    while not joined.stuck:
        joined.step()
    assert call.finish() == "a"
    assert joined.finish() == "b"


def test_a_late_tag_whose_invalidation_is_pending_keeps_its_values_from_being_read_in_the_shared_tier(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.set(KEY, "a", late=late)
    invalidation = Invalidation.tags(["node:a"])
    ours.ways[0].down = True
    assert not ours.invalidate(invalidation)
    ours.ways[0].down = False
    clock.advance(10.0)
    assert ours.peek(KEY, late=late) is MISSING
    assert ours.deliver()
    assert ours.ways[0].count(Renew) == 1
    assert theirs.get(KEY, lambda: "b", late=late) == "b"


def test_a_pending_late_tag_is_not_read_around_by_a_call_that_began_before_it_was_delivered(
    ours: Process, theirs: Process
) -> None:
    theirs.set(KEY, "a", late=late)
    ours.ways[0].down = True
    assert not ours.invalidate(Invalidation.tags(["node:a"]))
    ours.ways[0].down = False
    # The ids of the payload's own tags take a second trip; its answer is travelling when the pending one arrives.
    read = ours.loading(KEY, lambda: "b", late=late).after(Fetch)
    read.step()
    read.after(Fetch)
    assert ours.deliver()
    assert read.finish() == "b"


class TestWaitingForTheLink:
    OTHER = "vm:2"

    @pytest.fixture
    def begun(self, ours: Process, theirs: Process, clock: ManualClock) -> Call:
        """Two misses that wait for the link: one for the tags of its result, the other has a value in its grace."""
        graceful = plan(ttl=10.0, grace=600.0)

        def fail() -> str:
            raise LookupError("no loader today")

        theirs.set(self.OTHER, "old", plan=graceful)
        clock.advance(11.0)
        ours.engine.use_link(StillLink())
        wanted = [
            ours.request(KEY, lambda: "a", late=late, plan=graceful), ours.request(self.OTHER, fail, plan=graceful),
        ]  # fmt: skip
        return Call(ours.engine, flows.get_many(ours.engine, wanted)).before(Barrier)

    def test_an_error_is_answered_by_a_value_in_its_grace(self, begun: Call) -> None:
        assert [entry.value for entry in begun.finish()] == ["a", "old"]

    @pytest.mark.parametrize(
        "invalidate",
        [
            pytest.param(lambda ours, theirs: ours, id="here"),
            pytest.param(lambda ours, theirs: theirs, id="elsewhere"),
        ],
    )
    def test_what_was_invalidated_meanwhile_answers_for_nothing_whichever_key_the_link_was_awaited_for(
        self, begun: Call, ours: Process, theirs: Process, invalidate: Callable[[Process, Process], Process]
    ) -> None:
        invalidate(ours, theirs).invalidate(Invalidation.keys([self.OTHER]))
        with pytest.raises(LookupError, match="no loader today"):
            begun.finish()
