"""Sets, touches and holds to the letter: what they leave, what they tell, and for how long it may be believed."""

from __future__ import annotations

from typing import Any

import pytest
from flows.harness import BOUND, MISSING, TTL, Call, Capture, Fetch, Invalidation, ManualClock, MemoryTier, Process
from flows.harness import plan as make_plan

from novacron_cache import flows
from novacron_cache.effects import Hold, Release
from novacron_cache.errors import CachedValueError
from novacron_cache.events import Invalidated, InvalidationDelayed, Miss, NotStored, TierUp
from novacron_cache.markers import NAMESPACE, key_dep, model_dep, new_id, tag_dep

KEY = "vm:1"


@pytest.fixture
def tiers(clock: ManualClock) -> list[MemoryTier]:
    return [MemoryTier(clock=clock)]


def touch(process: Process, *keys: str, ttl: float = TTL) -> list[bool]:
    found: list[bool] = process.run(flows.touch(process.engine, [process.request(key) for key in keys], ttl))
    return found


def set_many(process: Process, *items: tuple[Any, Any]) -> Any:
    return process.run(flows.set_many(process.engine, items))


class TestSetting:
    def test_what_a_writer_holds_is_not_stored_and_that_is_told(self, ours: Process) -> None:
        ours.ways[0].perform(Hold([tag_dep("t")], new_id(), 60.0))
        set_many(ours, (ours.request(KEY, tags=["t"]), 1), (ours.request("vm:2"), 2))
        assert ours.seen(NotStored) == [NotStored("thing", KEY, "held")]
        assert ours.peek(KEY) is MISSING
        assert ours.peek("vm:2") == 2

    def test_one_value_that_cannot_be_stored_keeps_all_from_being_stored(self, ours: Process) -> None:
        ours.set(KEY, "before")
        with pytest.raises(CachedValueError):
            set_many(ours, (ours.request(KEY), "after"), (ours.request("vm:2"), object()))
        assert ours.peek(KEY) == "before"

    def test_a_none_that_stands_for_not_found_lives_as_long_as_that_may(
        self, clock: ManualClock, ours: Process
    ) -> None:
        brief = make_plan(negative_ttl=5.0, none_allowed=True)
        ours.set(KEY, None, plan=brief)
        clock.advance(4.9)
        assert ours.peek(KEY, plan=brief) is None
        clock.advance(0.2)
        assert ours.peek(KEY, plan=brief) is MISSING

    def test_a_set_without_the_server_is_pending_and_says_for_what(self, ours: Process) -> None:
        ours.ways[0].down = True
        assert ours.set(KEY, 1) is False
        assert ours.seen(InvalidationDelayed) == [InvalidationDelayed((key_dep(KEY),))]
        assert ours.peek(KEY) == 1
        ours.ways[0].down = False

    def test_an_invalidation_elsewhere_between_the_ids_and_the_store_wins(self, ours: Process, theirs: Process) -> None:
        call = Call(ours.engine, flows.set_many(ours.engine, [(ours.request(KEY), "old")]))
        while call.kind is not Capture:
            call.step()
        call.step()
        theirs.invalidate(Invalidation.keys([KEY]))
        call.finish()
        assert theirs.peek(KEY) is MISSING

    def test_an_invalidation_elsewhere_before_the_ids_are_read_wins_too(self, ours: Process, theirs: Process) -> None:
        """The key's own id is the one that was drawn here, whatever the answer says it has become meanwhile."""
        stranger = new_id()
        perform = ours.ways[0].perform

        def overtaken(operation: Any) -> Any:
            answer = perform(operation)
            if isinstance(operation, Capture):
                # As if the answer were of a moment later, when somebody else had renewed the key.
                answer = [
                    stranger if dep == key_dep(KEY) else id_ for dep, id_ in zip(operation.deps, answer, strict=True)
                ]
            return answer

        ours.ways[0].perform = overtaken  # type: ignore[method-assign]  # this one way alone
        ours.set(KEY, "value")
        entry = ours.engine.old(ours.request(KEY).key)
        assert entry is not None
        assert dict(entry.ids)[key_dep(KEY)] != stranger


class TestTouching:
    def test_each_is_told_by_itself_and_one_that_is_missing_stops_nobody(
        self, clock: ManualClock, ours: Process
    ) -> None:
        ours.set(KEY, 1, ttl=10.0)
        ours.set("vm:3", 3, ttl=10.0)
        assert touch(ours, KEY, "vm:2", "vm:3", ttl=100.0) == [True, False, True]
        clock.advance(50.0)
        assert (ours.peek(KEY), ours.peek("vm:2"), ours.peek("vm:3")) == (1, MISSING, 3)

    def test_it_reaches_the_shared_tier(self, clock: ManualClock, ours: Process, theirs: Process) -> None:
        ours.set(KEY, 1, ttl=10.0)
        touch(ours, KEY, ttl=100.0)
        clock.advance(50.0)
        assert theirs.peek(KEY) == 1

    def test_what_another_process_invalidates_afterwards_is_not_served_past_the_bound(
        self, clock: ManualClock, ours: Process, theirs: Process
    ) -> None:
        ours.set(KEY, 1)
        clock.advance(BOUND - 1.0)
        touch(ours, KEY)
        theirs.invalidate(Invalidation.keys([KEY]))
        clock.advance(1.1)
        assert ours.peek(KEY) is MISSING

    def test_with_a_link_the_word_of_the_link_is_what_counts(self, clock: ManualClock, ours: Process) -> None:
        engine = ours.engine
        engine.link_up(clock.monotonic() + 30.0)
        ours.set(KEY, 1)
        touch(ours, KEY)
        entry = engine.old(ours.request(KEY).key)
        assert entry is not None
        assert entry.deadline <= clock.monotonic() + 30.0
        clock.advance(BOUND + 1.0)
        reads = ours.ways[0].count(Fetch)
        assert ours.peek(KEY) == 1
        assert ours.ways[0].count(Fetch) <= reads + 1

    def test_what_is_here_alone_stays_here_alone(self, ours: Process, theirs: Process) -> None:
        ours.ways[0].down = True
        ours.set(KEY, 1)
        ours.ways[0].down = False
        assert touch(ours, KEY) in ([True], [False])
        assert theirs.peek(KEY) is MISSING

    def test_it_keeps_the_age_and_the_tags(self, clock: ManualClock, ours: Process) -> None:
        ours.set(KEY, 1, tags=["t"])
        created = clock.time()
        clock.advance(1.0)
        touch(ours, KEY)
        entry = ours.engine.old(ours.request(KEY).key)
        assert entry is not None
        assert (entry.created, entry.tags) == (created, ("t",))
        ours.invalidate(Invalidation.tags(["t"]))
        assert ours.peek(KEY) is MISSING


class TestHolding:
    def test_from_the_hold_to_its_end_nothing_is_served_and_then_the_new_value_is(self, ours: Process) -> None:
        ours.set(KEY, "old")
        what, holder = Invalidation.keys([KEY]), new_id()
        assert ours.run(flows.hold(ours.engine, what, holder, 60.0)) is True
        assert ours.peek(KEY) is MISSING
        ours.set(KEY, "too early")
        assert ours.peek(KEY) is MISSING
        done = ours.run(flows.invalidate(ours.engine, what, holder))
        assert done.delivered
        assert ours.ways[0].count(Release) == 1
        ours.set(KEY, "new")
        assert ours.peek(KEY) == "new"

    def test_prolonging_a_hold_says_whether_it_was_taken_and_forgets_nothing_more(self, ours: Process) -> None:
        what, holder = Invalidation.keys([KEY]), new_id()
        assert ours.run(flows.hold(ours.engine, what, holder, 60.0)) is True
        told = len(ours.events)
        assert ours.run(flows.hold(ours.engine, what, holder, 60.0, again=True)) is True
        assert len(ours.events) == told
        ours.ways[0].down = True
        assert ours.run(flows.hold(ours.engine, what, holder, 60.0, again=True)) is False
        assert not ours.seen(Invalidated)

    def test_without_the_server_it_is_an_invalidation_that_is_retried(
        self, clock: ManualClock, ours: Process, theirs: Process
    ) -> None:
        theirs.set(KEY, "old")
        assert ours.peek(KEY) == "old"
        ours.ways[0].down = True
        assert ours.run(flows.hold(ours.engine, Invalidation.keys([KEY]), new_id(), 60.0)) is False
        assert ours.peek(KEY) is MISSING
        assert ours.seen(InvalidationDelayed)
        ours.ways[0].down = False
        clock.advance(60.0)
        assert ours.deliver()
        assert theirs.peek(KEY) is MISSING

    def test_in_a_process_without_a_server_it_holds_here(self, clock: ManualClock) -> None:
        alone = Process(clock, [])
        alone.set(KEY, "old")
        what, holder = Invalidation.keys([KEY]), new_id()
        assert alone.run(flows.hold(alone.engine, what, holder, 60.0)) is True
        assert alone.peek(KEY) is MISSING
        alone.set(KEY, "too early")
        assert alone.peek(KEY) is MISSING
        alone.run(flows.invalidate(alone.engine, what, holder))
        alone.set(KEY, "new")
        assert alone.peek(KEY) == "new"


class TestNames:
    """What an invalidation is called in the event that tells of it."""

    @pytest.mark.parametrize(
        ("invalidation", "what", "values"),
        [
            (Invalidation.keys(["a", "b"]), "key", ("a", "b")),
            (Invalidation.tags(["t"]), "tag", ("t",)),
            (Invalidation.tags(["t", "u"], match_all=True), "tag", ("t", "u")),
            (Invalidation.model("VMState"), "model", ("VMState",)),
            (Invalidation.pattern("vm:*"), "pattern", ("vm:*",)),
            (Invalidation.pattern("v*1"), "pattern", ("v*1",)),
            (Invalidation.pattern("vm:1"), "pattern", ("vm:1",)),
            (Invalidation.everything(), "namespace", ()),
            (Invalidation.keys(["a"]) + Invalidation.keys(["b"]), "key", ("a", "b")),
            (Invalidation.keys(["a"]) + Invalidation.tags(["t"]), "several", ("a", "t")),
        ],
    )
    def test_it_names_what_was_named(
        self, ours: Process, invalidation: Invalidation, what: str, values: tuple[str, ...]
    ) -> None:
        ours.invalidate(invalidation)
        (event,) = ours.seen(Invalidated)
        assert (event.what, event.values) == (what, values)

    def test_only_stars_are_the_whole_namespace(self) -> None:
        assert Invalidation.pattern("*").deps == Invalidation.pattern("***").deps == [NAMESPACE]
        assert Invalidation.model("VMState").deps == [model_dep("VMState")]

    def test_a_sum_waits_for_as_many_replicas_as_any_of_its_parts(self) -> None:
        one, other = Invalidation.keys(["a"]), Invalidation.keys(["b"])
        other.replicas = 1
        assert (one + other).replicas == (other + one).replicas == 1


class TestLooking:
    """A look that is counted counts as what it was."""

    def look(self, process: Process, *keys: str) -> None:
        process.run(flows.peek_many(process.engine, [process.request(key) for key in keys], counted=True))

    def test_hits_and_misses_are_counted_each_once_under_their_tier_and_reason(self, ours: Process) -> None:
        ours.set(KEY, 1)
        counters = ours.engine.counters("thing")
        self.look(ours, KEY, "vm:2")
        assert (counters.hits, counters.misses) == ({"memory": 1}, {"cold": 1})
        self.look(ours, KEY)
        self.look(ours, "vm:2")
        assert (counters.hits, counters.misses) == ({"memory": 2}, {"cold": 2})
        assert ours.seen(Miss) == [Miss("thing", "vm:2", "cold")] * 2

    def test_a_mere_look_is_not_counted(self, ours: Process) -> None:
        ours.peek("vm:2")
        assert ours.engine.counters("thing").misses == {}
        assert not ours.seen(Miss)

    def test_what_the_link_vouched_for_counts_as_a_hit_of_memory_when_the_server_is_gone(
        self, clock: ManualClock, ours: Process
    ) -> None:
        engine = ours.engine
        engine.link_up(clock.monotonic() + BOUND)
        ours.set(KEY, 1)
        ours.set("vm:2", 2)
        engine.link_lost("gone")
        ours.ways[0].down = True
        before = engine.counters("thing").hits["memory"]
        self.look(ours, KEY, "vm:2")
        assert engine.counters("thing").hits["memory"] == before + 2
        clock.advance(BOUND)
        self.look(ours, KEY)
        assert engine.counters("thing").hits["memory"] == before + 2
        assert engine.counters("thing").misses["tier_down"] == 1


def test_a_tier_that_answers_again_is_told_once(clock: ManualClock, ours: Process) -> None:
    ours.ways[0].down = True
    for number in range(20):
        ours.peek(f"vm:{number}")
    ours.ways[0].down = False
    clock.advance(120.0)
    ours.peek(KEY)
    ours.peek("vm:2")
    assert len(ours.seen(TierUp)) == 1
