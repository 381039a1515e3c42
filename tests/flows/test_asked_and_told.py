"""Every operation to the letter: what it asks of which tier, in what order, what it tells, and what it counts."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest
from flows.harness import (
    BOUND,
    MISSING,
    TTL,
    Capture,
    Fetch,
    Invalidation,
    Load,
    ManualClock,
    MemoryTier,
    Process,
    ReadRules,
    Renew,
    StillLink,
    Store,
    Together,
    plan,
)

from novacron_cache import flows
from novacron_cache.effects import Ending, Hold, Item, Purge, Release, ReturnLease
from novacron_cache.events import (
    Corrupt,
    Event,
    Hit,
    Invalidated,
    InvalidationDelayed,
    InvalidationDelivered,
    Loaded,
    LoadFailed,
    Miss,
    NameCounters,
    NotStored,
    Stored,
)
from novacron_cache.flows.storing import STALE_RETRY
from novacron_cache.guards import Outcome
from novacron_cache.markers import NAMESPACE, RULES, dependencies, key_dep

KEY = "vm:1"
DEPS = dependencies(KEY, "thing", ("tag",))
LIFE = 2 * 86_400.0
DISK = 86_400.0


def near(process: Process) -> list[Any]:
    """Return what was asked of the authority since the last look."""
    return _taken(process.ways[0].operations)


def far(process: Process) -> list[Any]:
    """Return what was asked of the tier behind it since the last look."""
    return _taken(process.ways[1].operations)


def told(process: Process) -> list[Event]:
    """Return what was told since the last look."""
    return _taken(process.events)


def _taken(items: list[Any]) -> list[Any]:
    taken = list(items)
    items.clear()
    return taken


def stored(process: Process, key: str = KEY) -> str:
    return process.request(key).key


def forget(process: Process) -> None:
    """Have process memory evict everything."""
    assert process.engine.memory is not None
    process.engine.memory.clear()


def counted(**counts: Any) -> NameCounters:
    made = NameCounters(**counts)
    made.load_seconds = ANY
    return made


def never() -> Any:
    raise AssertionError("nobody should load this")


def failing() -> Any:
    raise LookupError("no such thing")


class TestLoading:
    def test_a_first_load_reads_ids_loads_and_stores_far_to_near(self, ours: Process) -> None:
        assert ours.get(KEY, lambda: 1, tags=["tag"]) == 1
        key = stored(ours)
        assert near(ours) == [
            Fetch([key], list(DEPS)),
            Capture(list(DEPS), LIFE),
            Store([Item(key, ANY, TTL)], extend=[], life=LIFE),
        ]
        assert far(ours) == [Fetch([key]), Store([Item(key, ANY, TTL)])]
        assert told(ours) == [
            Miss("thing", KEY, "cold"),
            Loaded("thing", KEY, ANY),
            Stored("thing", KEY, ("disk", "redis", "memory")),
        ]
        assert ours.engine.counters("thing") == counted(misses=Counter(cold=1), loads=1)

    def test_markers_that_were_there_are_prolonged_with_the_first_value_that_needs_them(
        self, ours: Process, theirs: Process, clock: ManualClock
    ) -> None:
        theirs.get(KEY, lambda: 1, tags=["tag"])
        theirs.get("vm:2", lambda: 1)
        for way in ours.ways:
            way.tier.perform(Purge())

        def prolonged(key: str) -> list[str]:
            forget(ours)
            near(ours)
            ours.get(key, lambda: 2, tags=["tag"], plan=plan(ttl=1.0))
            return list(near(ours)[-1].extend)

        assert prolonged(KEY) == list(DEPS)
        clock.advance(1.0)
        assert prolonged(KEY) == []
        assert prolonged("vm:2") == [key_dep("vm:2")], "the others are those of the key before"
        clock.advance(LIFE / 4 - 1.1)
        assert prolonged(KEY) == []
        clock.advance(1.0)
        assert prolonged(KEY) == list(DEPS)
        clock.advance(1.0)
        ours.engine.met_another_authority(0.0)
        assert prolonged(KEY) == list(DEPS), "this server may know of none of it"

    def test_what_nobody_has_confirmed_is_prolonged_again(
        self, ours: Process, theirs: Process, clock: ManualClock
    ) -> None:
        theirs.get(KEY, lambda: 1, tags=["tag"])
        for way in ours.ways:
            way.tier.perform(Purge())
        call = ours.loading(KEY, lambda: 2, tags=["tag"]).before(Store)
        ours.ways[0].lossy = True
        assert call.finish() == 2
        ours.ways[0].lossy = False
        clock.advance(60.0)
        for way in ours.ways:
            way.tier.perform(Purge())
        forget(ours)
        near(ours)
        assert ours.get(KEY, lambda: 3, tags=["tag"]) == 3
        assert list(near(ours)[-1].extend) == list(DEPS)

    def test_only_the_tiers_of_the_plan_take_part(self, ours: Process) -> None:
        ours.get(KEY, lambda: 1, plan=plan(tiers=frozenset({"disk"})))
        assert [type(one) for one in near(ours)] == [Fetch, Capture, Store]
        assert far(ours) == [Fetch([stored(ours)]), Store([Item(stored(ours), ANY, TTL)])]
        assert told(ours)[-1] == Stored("thing", KEY, ("disk",))
        ours.get("vm:2", lambda: 2, plan=plan(tiers=frozenset({"memory"})))
        assert told(ours)[-1] == Stored("thing", "vm:2", ("memory",))

    def test_a_value_stays_in_a_tier_for_its_grace_too_but_no_longer_than_the_tier_allows(self, ours: Process) -> None:
        ours.get(KEY, lambda: 1, plan=plan(ttl=800.0, grace=400.0))
        assert near(ours)[-1].items == [Item(stored(ours), ANY, TTL)]
        assert far(ours)[-1].items == [Item(stored(ours), ANY, 1200.0)]

    def test_what_is_left_of_an_early_load_is_told_to_have_failed(self, ours: Process) -> None:
        with pytest.raises(LookupError):
            ours.get(KEY, failing)
        miss, failed = told(ours)
        assert miss == Miss("thing", KEY, "cold")
        assert isinstance(failed, LoadFailed)
        assert (failed.name, failed.key, type(failed.error), failed.served_stale) == ("thing", KEY, LookupError, False)
        assert ours.engine.counters("thing") == counted(misses=Counter(cold=1), load_errors=1)
        assert ours.ways[0].count(Store) == 0

    def test_a_value_in_its_grace_answers_for_an_error_for_a_moment(self, ours: Process, clock: ManualClock) -> None:
        graceful = plan(ttl=10.0, grace=600.0)
        ours.get(KEY, lambda: 1, plan=graceful)
        clock.advance(11.0)
        told(ours)
        assert ours.get(KEY, failing, plan=graceful) == 1
        miss, failed = told(ours)
        assert miss == Miss("thing", KEY, "expired")
        assert isinstance(failed, LoadFailed)
        assert failed.served_stale
        counters = ours.engine.counters("thing")
        assert (counters.stale, counters.load_errors) == (1, 1)
        clock.advance(STALE_RETRY - 0.01)
        assert ours.get(KEY, never, plan=graceful) == 1
        clock.advance(0.02)
        assert ours.get(KEY, lambda: 2, plan=graceful) == 2

    def test_a_value_in_its_grace_that_another_process_stored_answers_for_an_error_too(
        self, ours: Process, theirs: Process, clock: ManualClock
    ) -> None:
        graceful = plan(ttl=10.0, grace=600.0)
        theirs.get(KEY, lambda: 1, plan=graceful)
        clock.advance(11.0)
        assert ours.get(KEY, failing, plan=graceful) == 1
        assert ours.get(KEY, never, plan=graceful) == 1, "it is here for a moment"

    def test_an_entry_of_another_type_is_a_miss_for_its_schema(self, ours: Process, theirs: Process) -> None:
        theirs.get(KEY, lambda: 1)
        assert ours.get(KEY, lambda: 2, tags=["more"]) == 2
        assert told(ours)[0] == Miss("thing", KEY, "schema")

    def test_a_refresh_asks_no_tier_for_the_value(self, ours: Process) -> None:
        ours.get(KEY, lambda: 1, tags=["tag"])
        near(ours), far(ours), told(ours)
        request = ours.request(KEY, lambda: 2, tags=["tag"])
        assert ours.run(flows.refresh(ours.engine, request)).value == 2
        assert [type(one) for one in near(ours)] == [Capture, Store]
        assert [type(one) for one in far(ours)] == [Store]
        assert told(ours) == [
            Loaded("thing", KEY, ANY), Stored("thing", KEY, ("disk", "redis", "memory")),
        ]  # fmt: skip

    def test_several_keys_are_fetched_captured_and_stored_together(self, ours: Process) -> None:
        requests = [ours.request(key, partial(str, key)) for key in ("a:1", "b:1")]
        entries = ours.run(flows.get_many(ours.engine, requests))
        assert [entry.value for entry in entries] == ["a:1", "b:1"]
        deps = list(dict.fromkeys((*requests[0].deps, *requests[1].deps)))
        keys = [request.key for request in requests]
        assert near(ours) == [
            Fetch(keys, deps),
            Capture(deps, LIFE),
            Store([Item(key, ANY, TTL) for key in keys], extend=[], life=LIFE),
        ]
        assert [event.key for event in told(ours) if isinstance(event, Miss)] == ["a:1", "b:1"]

    def test_a_batch_that_leaves_a_key_out_stores_and_tells_the_others(self, ours: Process) -> None:
        requests = [ours.request(key) for key in ("a", "b")]
        asked: list[list[str]] = []

        def load(some: Any) -> Load:
            asked.append([request.logical for request in some])
            return Load(lambda: {"b": 2})

        absent, entry = ours.run(flows.get_many(ours.engine, requests, load))
        assert (absent, entry.value) == (None, 2)
        assert asked == [["a", "b"]]
        assert [event.key for event in told(ours) if isinstance(event, Stored)] == ["b"]
        counters = ours.engine.counters("thing")
        assert (counters.loads, counters.load_errors) == (2, 0)
        assert ours.peek("a") is MISSING

    def test_what_a_batch_leaves_out_is_kept_as_absent_where_the_plan_says_so(self, ours: Process) -> None:
        negative = plan(negative_ttl=5.0)
        requests = [ours.request(key, plan=negative) for key in ("a", "b")]
        ours.run(flows.get_many(ours.engine, requests, lambda _: Load(lambda: {"b": 2})))
        assert ours.peek("a", plan=negative) is None

    def test_an_error_of_a_batch_is_that_of_each_key_and_counts_for_each(self, ours: Process) -> None:
        requests = [ours.request(key) for key in ("a", "b")]
        with pytest.raises(LookupError):
            ours.run(flows.get_many(ours.engine, requests, lambda _: Load(failing)))
        assert ours.engine.counters("thing").load_errors == 2
        assert [event.key for event in told(ours) if isinstance(event, LoadFailed)] == ["a", "b"]
        assert len(ours.engine.flights) == 0

    def test_of_several_loaders_one_may_fail_and_the_others_are_stored(self, ours: Process) -> None:
        requests = [ours.request("a", failing), ours.request("b", lambda: 2)]
        with pytest.raises(LookupError):
            ours.run(flows.get_many(ours.engine, requests))
        assert ours.peek("b") == 2
        counters = ours.engine.counters("thing")
        assert (counters.loads, counters.load_errors) == (1, 1)
        assert len(ours.engine.flights) == 0


class TestFinding:
    def test_a_value_of_another_process_takes_one_trip(self, ours: Process, theirs: Process) -> None:
        theirs.get(KEY, lambda: 1, tags=["tag"])
        assert ours.get(KEY, never, tags=["tag"]) == 1
        assert near(ours) == [Fetch([stored(ours)], list(DEPS)), ReadRules()]
        assert far(ours) == []
        assert told(ours) == [Hit("thing", KEY, "redis", 0.0)]
        assert ours.engine.counters("thing") == NameCounters(hits=Counter(redis=1))

    def test_a_hit_tells_how_long_it_took(self, ours: Process, theirs: Process, clock: ManualClock) -> None:
        theirs.get(KEY, lambda: 1)
        seen: list[Any] = []
        ours.engine.responded = lambda *what: seen.append(what)
        call = ours.loading(KEY, never).after(Fetch)
        clock.advance(0.25)
        assert call.finish() == 1
        assert told(ours) == [Hit("thing", KEY, "redis", 0.25)]
        assert seen == [("redis", pytest.approx(0.25), 1)]

    def test_a_value_that_only_the_far_tier_has_is_put_into_the_near_one_with_the_life_it_has_left(
        self, ours: Process, theirs: Process, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        theirs.get(KEY, lambda: 1, plan=plan(ttl=100.0, grace=50.0))
        tiers[0].remove(stored(ours))
        clock.advance(60.0)
        assert ours.get(KEY, never) == 1
        key = stored(ours)
        assert near(ours) == [Fetch([key], ANY), ReadRules(), Store([Item(key, ANY, 90.0)])]
        assert far(ours) == [Fetch([key])]
        assert told(ours) == [Hit("thing", KEY, "disk", 0.0)]
        clock.advance(39.0)
        assert ours.peek(KEY) == 1
        clock.advance(2.0)
        assert ours.peek(KEY) is MISSING

    def test_a_value_of_the_far_tier_stays_in_the_near_one_no_longer_than_that_allows(
        self, ours: Process, theirs: Process, tiers: list[MemoryTier]
    ) -> None:
        theirs.get(KEY, lambda: 1, plan=plan(ttl=5000.0))
        tiers[0].remove(stored(ours))
        ours.get(KEY, never)
        assert near(ours)[-1] == Store([Item(stored(ours), ANY, TTL)])

    def test_a_value_that_may_not_be_in_the_near_tier_is_not_put_there(self, ours: Process, theirs: Process) -> None:
        outside = plan(tiers=frozenset({"memory", "disk"}))
        theirs.get(KEY, lambda: 1, plan=outside)
        assert ours.get(KEY, never, plan=outside) == 1
        assert ours.ways[0].count(Store) == 0

    def test_a_far_tier_is_not_asked_for_what_it_may_not_hold(self, ours: Process) -> None:
        outside = plan(tiers=frozenset({"memory", "redis"}))
        requests = [ours.request("a", lambda: 1, plan=outside), ours.request("b", lambda: 2)]
        ours.run(flows.get_many(ours.engine, requests))
        assert far(ours)[0] == Fetch([requests[1].key])

    def test_a_near_tier_is_asked_for_ids_but_not_for_what_it_may_not_hold(self, ours: Process) -> None:
        ours.get(KEY, lambda: 1, plan=plan(tiers=frozenset({"memory", "disk"})))
        assert near(ours)[0] == Fetch([], list(dependencies(KEY, "thing", ())))

    def test_what_is_past_its_bound_is_asked_about_and_goes_on(self, ours: Process, clock: ManualClock) -> None:
        ours.get(KEY, lambda: 1, tags=["tag"])
        near(ours), far(ours), told(ours)
        clock.advance(BOUND)
        assert ours.get(KEY, never, tags=["tag"]) == 1
        assert near(ours) == [Fetch([stored(ours)], list(DEPS)), ReadRules()]
        assert far(ours) == []
        assert told(ours) == []
        assert ours.engine.counters("thing").hits == {"memory": 1}
        clock.advance(BOUND - 0.1)
        ours.get(KEY, never, tags=["tag"])
        assert near(ours) == []

    def test_a_look_counts_nothing_and_a_counted_one_everything(self, ours: Process) -> None:
        ours.set(KEY, 1)
        told(ours)
        requests = [ours.request(KEY), ours.request("vm:2")]
        ours.run(flows.peek_many(ours.engine, requests))
        assert ours.engine.counters("thing") == NameCounters()
        assert told(ours) == []
        found, absent = ours.run(flows.peek_many(ours.engine, requests, counted=True))
        assert (found.value, absent) == (1, None)
        assert ours.engine.counters("thing") == NameCounters(hits=Counter(memory=1), misses=Counter(cold=1))
        assert told(ours) == [Miss("thing", "vm:2", "cold")]

    def test_a_payload_whose_value_does_not_fit_the_type_is_a_miss_for_its_schema(
        self, ours: Process, theirs: Process, tiers: list[MemoryTier]
    ) -> None:
        request = theirs.request(KEY, lambda: 1)
        entry = theirs.run(flows.get_or_load(theirs.engine, request))
        tiers[0].perform(Store([Item(request.key, theirs.engine.values.seal(request, entry, b"{no json"), 60.0)]))
        tiers[1].remove(request.key)
        assert ours.get(KEY, lambda: 2) == 2
        assert told(ours)[0] == Miss("thing", KEY, "schema")

    def test_a_payload_that_is_damaged_is_told_with_its_tier(self, ours: Process, tiers: list[MemoryTier]) -> None:
        tiers[1].perform(Store([Item(stored(ours), b"rubbish", 60.0)]))
        assert ours.get(KEY, lambda: 2) == 2
        assert told(ours)[:2] == [Corrupt("disk", KEY, "foreign"), Miss("thing", KEY, "foreign")]


class TestGiving:
    def test_a_set_gives_the_key_a_new_id_and_stores_under_it(self, ours: Process) -> None:
        assert ours.set(KEY, 1, tags=["tag"]) is True
        key = stored(ours)
        others = sorted(set(DEPS) - {key_dep(KEY)})
        assert near(ours) == [
            Capture([*others, key_dep(KEY)], LIFE, [(key_dep(KEY), ANY)]),
            Store([Item(key, ANY, TTL)], extend=[], life=LIFE),
        ]
        assert far(ours) == [Store([Item(key, ANY, TTL)])]
        assert told(ours) == [Stored("thing", KEY, ("disk", "redis", "memory"))]
        assert not ours.engine.pending

    def test_a_ttl_that_is_asked_for_comes_before_that_of_the_plan(self, ours: Process, clock: ManualClock) -> None:
        ours.set(KEY, 1, ttl=50.0)
        assert near(ours)[-1].items == [Item(stored(ours), ANY, 50.0)]
        clock.advance(49.0)
        assert ours.peek(KEY) == 1
        clock.advance(2.0)
        assert ours.peek(KEY) is MISSING

    def test_a_touch_stores_the_same_value_for_longer_under_the_same_ids(
        self, ours: Process, theirs: Process, clock: ManualClock
    ) -> None:
        ours.set(KEY, 1, tags=["tag"], ttl=50.0)
        near(ours), far(ours), told(ours)
        request = ours.request(KEY, tags=["tag"])
        assert ours.run(flows.touch(ours.engine, [request, ours.request("vm:2")], 200.0)) == [True, False]
        assert near(ours)[-1] == Store([Item(request.key, ANY, 200.0)], extend=[], life=LIFE)
        assert told(ours) == [Stored("thing", KEY, ("disk", "redis", "memory"))]
        clock.advance(150.0)
        assert theirs.peek(KEY, tags=["tag"]) == 1
        theirs.invalidate(Invalidation.tags(["tag"]))
        assert Process(clock, [theirs.ways[0].tier]).peek(KEY, tags=["tag"]) is MISSING

    def test_a_touch_in_process_memory_alone_is_told_too(self, clock: ManualClock) -> None:
        process = Process(clock, [])
        process.set(KEY, 1, ttl=50.0)
        told(process)
        assert process.run(flows.touch(process.engine, [process.request(KEY)], 200.0)) == [True]
        assert told(process) == [Stored("thing", KEY, ("memory",))]
        clock.advance(150.0)
        assert process.peek(KEY) == 1

    def test_a_set_in_process_memory_alone_asks_nobody(self, clock: ManualClock) -> None:
        process = Process(clock, [])
        assert process.set(KEY, 1) is True
        assert told(process) == [Stored("thing", KEY, ("memory",))]


class TestInvalidating:
    @pytest.mark.parametrize(
        ("invalidation", "deps"),
        [
            (Invalidation.keys(["a", "b"]), ["k:a", "k:b"]),
            (Invalidation.tags(["a", "b", "a"]), ["t:a", "t:b"]),
            (Invalidation.tags(["a"], match_all=True), ["t:a"]),
            (Invalidation.model("thing"), ["m:thing"]),
            (Invalidation.pattern("vm:*"), ["p:vm"]),
            (Invalidation.pattern("vm:1"), ["k:vm:1"]),
            (Invalidation.pattern("**"), [NAMESPACE]),
            (Invalidation.everything(), [NAMESPACE]),
        ],
        ids=["keys", "tags", "all of one tag", "model", "segment", "literal", "stars", "everything"],
    )
    def test_what_has_a_name_takes_one_write(self, ours: Process, invalidation: Invalidation, deps: list[str]) -> None:
        done = ours.run(flows.invalidate(ours.engine, invalidation))
        assert done == flows.Done(0, True, None)
        assert near(ours) == [Renew([(dep, ANY) for dep in deps], LIFE, [], 0, obeyed=True)]
        assert told(ours) == [Invalidated(invalidation.what, invalidation.values, 0)]

    def test_who_listens_here_is_told_when_others_know_it_already(self, ours: Process) -> None:
        ours.set(KEY, 1)
        told(ours)
        flow = flows.invalidate(ours.engine, Invalidation.keys([KEY]))
        next(flow)
        assert ours.engine.old(KEY) is None
        assert told(ours) == []
        with pytest.raises(StopIteration):
            flow.send(True)
        assert told(ours) == [Invalidated("key", (KEY,), 1)]

    def test_who_listens_here_is_told_also_where_the_trip_is_interrupted(self, ours: Process) -> None:
        flow = flows.invalidate(ours.engine, Invalidation.keys([KEY]))
        next(flow)
        with pytest.raises(KeyboardInterrupt):
            flow.throw(KeyboardInterrupt())
        # Whether it has arrived nobody knows, so it is pending.
        assert told(ours) == [Invalidated("key", (KEY,), 0), InvalidationDelayed((key_dep(KEY),))]
        assert ours.engine.pending

    @pytest.mark.parametrize(
        "invalidation",
        [Invalidation.pattern("*:1"), Invalidation.tags(["a", "b"], match_all=True)],
        ids=["glob", "all tags"],
    )
    def test_what_has_none_is_appended_to_the_log(self, ours: Process, invalidation: Invalidation) -> None:
        ours.set(KEY, 1, tags=["a", "b"])
        near(ours), told(ours)
        assert ours.run(flows.invalidate(ours.engine, invalidation)) == flows.Done(1, True, None)
        head, rules, capture, renew = near(ours)
        assert (head, rules, capture) == (Fetch([], [RULES]), ReadRules(), Capture([RULES], LIFE))
        assert renew == Renew([], LIFE, [(ANY, ANY)], 0, obeyed=True)
        assert told(ours) == [Invalidated(invalidation.what, invalidation.values, 1)]

    def test_two_at_once_are_several_and_each_is_named_once(self) -> None:
        both = Invalidation.keys(["a"]) + Invalidation.tags(["b"]) + Invalidation.keys(["a"])
        assert (both.what, both.values, both.deps) == ("several", ("a", "b", "a"), ["k:a", "t:b"])
        again = Invalidation.keys(["a"]) + Invalidation.keys(["b"])
        assert (again.what, again.values) == ("key", ("a", "b"))
        rules = Invalidation.pattern("*:1") + Invalidation.pattern("*:1")
        assert len(rules.rules) == 1
        few, many = Invalidation.keys(["a"]), Invalidation.keys(["b"])
        many.replicas = 2
        assert ((few + many).replicas, (many + few).replicas) == (2, 2)

    def test_nothing_to_invalidate_is_done_at_once(self, ours: Process) -> None:
        assert ours.run(flows.invalidate(ours.engine, Invalidation.keys([]))) == flows.Done(0, True, None)
        assert near(ours) == []
        assert told(ours) == []

    @pytest.mark.parametrize(
        ("invalidation", "named"),
        [(Invalidation.tags(["a"]), ("t:a",)), (Invalidation.pattern("*:1"), ("*:1",))],
        ids=["a marker", "a rule"],
    )
    def test_what_cannot_be_delivered_is_told_by_its_name(
        self, ours: Process, invalidation: Invalidation, named: tuple[str, ...]
    ) -> None:
        ours.ways[0].down = True
        assert ours.run(flows.invalidate(ours.engine, invalidation)) == flows.Done(0, False, None)
        assert InvalidationDelayed(named) in told(ours)

    def test_what_was_pending_is_sent_with_ids_of_its_own_and_told(self, ours: Process, clock: ManualClock) -> None:
        ours.ways[0].down = True
        ours.invalidate(Invalidation.tags(["a"]))
        ours.invalidate(Invalidation.pattern("*:1"))
        ours.ways[0].down = False
        clock.advance(60.0)
        near(ours), told(ours)
        assert ours.deliver()
        assert near(ours) == [Capture([RULES], LIFE), Renew([("t:a", ANY)], LIFE, [(ANY, ANY)], 0, obeyed=True)]
        assert InvalidationDelivered(("t:a",)) in told(ours)
        assert ours.deliver()
        assert near(ours) == []

    def test_replicas_are_asked_for_and_their_answer_is_passed_on(self, ours: Process) -> None:
        invalidation = Invalidation.keys(["a"])
        invalidation.replicas = 2
        assert ours.run(flows.invalidate(ours.engine, invalidation)) == flows.Done(0, True, True)
        assert near(ours) == [Renew([("k:a", ANY)], LIFE, [], 2, obeyed=True)]

    def test_a_hold_and_its_end_take_one_write_each(self, ours: Process) -> None:
        held, holder = Invalidation.tags(["a"]), b"h" * 8
        assert ours.run(flows.hold(ours.engine, held, holder, 5.0)) is True
        assert ours.run(flows.hold(ours.engine, held, holder, 7.0, again=True)) is True
        assert near(ours) == [Hold(["t:a"], holder, 5.0), Hold(["t:a"], holder, 7.0)]
        assert ours.run(flows.invalidate(ours.engine, held, holder)) == flows.Done(0, True, None)
        assert near(ours) == [Release([("t:a", ANY)], holder, LIFE)]
        assert not ours.engine.pending

    def test_a_hold_that_cannot_be_had_is_an_invalidation_once(self, ours: Process) -> None:
        held, holder = Invalidation.tags(["a"]), b"h" * 8
        ours.ways[0].down = True
        assert ours.run(flows.hold(ours.engine, held, holder, 5.0)) is False
        assert [type(event) for event in told(ours) if type(event).__name__.startswith("Inv")] == [
            Invalidated, InvalidationDelayed,
        ]  # fmt: skip
        assert ours.run(flows.hold(ours.engine, held, holder, 5.0, again=True)) is False
        assert ours.seen(Invalidated) == []

    def test_a_hold_that_ran_out_meanwhile_makes_this_process_forget(self, ours: Process, clock: ManualClock) -> None:
        held, holder = Invalidation.tags(["tag"]), b"h" * 8
        ours.set(KEY, 1, tags=["tag"])
        assert ours.run(flows.hold(ours.engine, held, holder, 5.0)) is True
        assert ours.peek(KEY, tags=["tag"]) is MISSING


class TestWithLateTags:
    def late(self, value: Any) -> tuple[str, ...]:
        return (f"node:{value}",)

    def linked(self, clock: ManualClock, tiers: list[MemoryTier], **options: Any) -> Process:
        process = Process(clock, tiers, **options)
        process.engine.use_link(StillLink())
        process.engine.link_up(clock.monotonic() + BOUND)
        process.events.clear()
        return process

    def test_without_a_link_their_ids_are_not_asked_for_after_the_load(self, ours: Process) -> None:
        ours.get(KEY, lambda: "a", late=self.late)
        assert [type(one) for one in near(ours)] == [Fetch, Capture]
        assert told(ours)[-1] == Stored("thing", KEY, ("memory",))

    def test_with_one_they_are_captured_after_the_load_and_the_value_is_shared(
        self, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        process = self.linked(clock, tiers)
        process.get(KEY, lambda: "a", late=self.late)
        deps = list(dependencies(KEY, "thing", ()))
        assert near(process) == [
            Fetch([stored(process)], deps),
            Capture(deps, LIFE),
            Capture(["t:node:a"], LIFE),
            Store([Item(stored(process), ANY, TTL)], extend=[], life=LIFE),
        ]
        assert told(process)[-1] == Stored("thing", KEY, ("disk", "redis", "memory"))

    def test_where_there_are_none_nothing_is_asked_after_the_load(
        self, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        process = self.linked(clock, tiers)
        process.get(KEY, lambda: "a", late=lambda _: ())
        assert [type(one) for one in near(process)] == [Fetch, Capture, Store]

    def test_a_value_with_one_that_a_writer_holds_is_not_kept(
        self, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        process = self.linked(clock, tiers)
        tiers[0].perform(Hold(["t:node:a"], b"h" * 8, 60.0))
        assert process.get(KEY, lambda: "a", late=self.late) == "a"
        assert told(process)[-1] == NotStored("thing", KEY, "held")
        assert process.ways[0].count(Store) == 0
        assert process.peek(KEY, late=self.late) is MISSING

    def test_of_several_values_only_those_with_the_held_one_are_not_kept(
        self, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        process = self.linked(clock, tiers)
        tiers[0].perform(Hold(["t:node:a"], b"h" * 8, 60.0))
        requests = [process.request(value, partial(str, value), late=self.late) for value in ("a", "b")]
        process.run(flows.get_many(process.engine, requests))
        assert process.seen(NotStored) == [NotStored("thing", "a", "held")]
        assert process.seen(Stored) == [Stored("thing", "b", ("disk", "redis", "memory"))]

    def test_ids_that_the_link_watches_need_not_be_asked_for_again(
        self, clock: ManualClock, tiers: list[MemoryTier]
    ) -> None:
        process = self.linked(clock, tiers)
        process.get(KEY, lambda: "a", late=self.late)
        forget(process)
        process.peek(KEY, late=self.late)
        forget(process)
        near(process)
        strong = plan(strong=True)
        assert process.get(KEY, never, late=self.late, plan=strong) == "a"
        assert near(process) == [Fetch([stored(process)], list(dependencies(KEY, "thing", ())))]

    def test_without_a_link_they_take_a_second_trip(self, ours: Process, theirs: Process) -> None:
        theirs.set(KEY, "a", late=self.late)
        assert ours.get(KEY, never, late=self.late) == "a"
        assert near(ours) == [
            Fetch([stored(ours)], list(dependencies(KEY, "thing", ()))), ReadRules(), Fetch([], ["t:node:a"]),
        ]  # fmt: skip


class TestLeases:
    def leasing(self, clock: ManualClock, tiers: list[MemoryTier]) -> Process:
        return Process(clock, tiers[:1], leases=True)

    @pytest.mark.parametrize(
        ("error", "ending"),
        [(RuntimeError(), Ending.IN_VAIN), (KeyboardInterrupt(), Ending.GIVEN_UP)],
        ids=["an error", "an interruption"],
    )
    def test_one_that_is_given_up_says_whether_another_try_is_worth_it(
        self, clock: ManualClock, tiers: list[MemoryTier], error: BaseException, ending: Ending
    ) -> None:
        process = self.leasing(clock, tiers)
        call = process.loading(KEY, lambda: 1).after(Load)
        call.step()
        assert call.kind is Together, "about to store"
        tier, operation = call.flow.throw(error)
        assert (tier, operation) == (process.ways[0], ReturnLease(stored(process), ANY, ending))
        with pytest.raises(type(error)):
            call.flow.send(True)


def test_a_flight_that_nobody_waits_for_is_gone_when_it_has_landed(ours: Process) -> None:
    call = ours.loading(KEY, lambda: 1).before(Load)
    (flight,) = ours.engine.flights._by_key.values()
    assert call.finish() == 1
    assert (flight.outcome, flight.result.value) == (Outcome.LANDED, 1)
    assert len(ours.engine.flights) == 0


def test_a_flight_that_fails_says_so_with_its_error(ours: Process) -> None:
    call = ours.loading(KEY, failing).before(Load)
    (flight,) = ours.engine.flights._by_key.values()
    with pytest.raises(LookupError) as caught:
        call.finish()
    assert (flight.outcome, flight.error) == (Outcome.FAILED, caught.value)
