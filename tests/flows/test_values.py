"""How long values live, what stands in for them, how they move between tiers, and how few trips that takes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from flows.harness import (
    BOUND,
    MISSING,
    Call,
    Capture,
    Fetch,
    Invalidation,
    ManualClock,
    MemoryTier,
    Process,
    Renew,
    Store,
    plan,
    until,
)
from servers import wait_until

from novacron_cache import Cache, CachedValueError, CacheSettings, flows
from novacron_cache.effects import Item, Load
from novacron_cache.events import Corrupt, Hit, Invalidated, LoadFailed, Miss, Stored

KEY = "vm:1"


def fail() -> str:
    raise LookupError("the loader was called")


# -- life -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_none_is_a_value_in_every_tier(clock: ManualClock, tiers: list[MemoryTier], shared: int) -> None:
    process = Process(clock, tiers[:shared])
    assert process.get(KEY, lambda: None) is None
    assert process.get(KEY, fail) is None
    if shared:
        assert Process(clock, tiers[:shared]).get(KEY, fail) is None


def test_none_lives_for_its_own_ttl(ours: Process, theirs: Process, clock: ManualClock) -> None:
    doubtful = plan("doubtful", ttl=60.0, negative_ttl=5.0)
    ours.get(KEY, lambda: None, plan=doubtful)
    ours.get("vm:2", lambda: "there", plan=doubtful)
    clock.advance(4.9)
    assert theirs.get(KEY, fail, plan=doubtful) is None
    clock.advance(0.2)
    for process in (ours, theirs):
        assert process.peek(KEY, plan=doubtful) is MISSING
        assert process.peek("vm:2", plan=doubtful) == "there"


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_a_value_ends_with_its_ttl_in_every_tier(clock: ManualClock, tiers: list[MemoryTier], shared: int) -> None:
    process = Process(clock, tiers[:shared])
    process.get(KEY, lambda: "value", ttl=10.0)
    clock.advance(9.9)
    assert process.get(KEY, fail) == "value"
    clock.advance(0.1)
    assert process.peek(KEY) is MISSING
    assert Process(clock, tiers[:shared]).peek(KEY) is MISSING


def test_without_shared_tiers_process_memory_keeps_no_value_longer_than_its_cap(clock: ManualClock) -> None:
    process = Process(clock, [])
    process.get(KEY, lambda: "value")
    clock.advance(299.9)
    assert process.peek(KEY) == "value"
    clock.advance(0.2)
    assert process.peek(KEY) is MISSING


def test_jitter_only_shortens_and_by_its_share_at_most() -> None:
    lives = [plan(ttl=100.0, jitter=0.2).life("value") for _ in range(200)]
    assert all(80.0 <= life <= 100.0 for life in lives)
    assert max(lives) - min(lives) > 5.0


def test_process_memory_asks_again_at_the_bound_and_no_payload_travels_into_it_twice(
    ours: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "value")
    for _ in range(3):
        clock.advance(BOUND + 0.1)
        assert ours.get(KEY, fail) == "value"
        assert ours.get(KEY, fail) == "value"
    assert ours.ways[0].count(Fetch) == 1 + 3
    assert ours.ways[1].count(Fetch) == 1
    assert not ours.seen(Hit)  # the entry in memory was good for another round


def test_a_value_keeps_its_remaining_life_on_its_way_nearer(
    ours: Process, clock: ManualClock, tiers: list[MemoryTier]
) -> None:
    ours.get(KEY, lambda: "value", ttl=100.0)
    clock.advance(40.0)
    tiers[0].clear()
    second = Process(clock, tiers)
    assert second.peek(KEY) == "value"
    assert second.seen(Hit)[-1].tier == "disk"
    third = Process(clock, tiers[:1])
    assert third.peek(KEY) == "value"
    assert third.seen(Hit)[-1].tier == "redis"
    for process in (second, third):
        entry = process.engine.old(process.request(KEY).key)
        assert entry is not None
        assert entry.expires - clock.monotonic() == pytest.approx(60.0, abs=0.01)
    clock.advance(60.1)
    assert second.peek(KEY) is third.peek(KEY) is MISSING


def test_touch_counts_a_new_life_from_now_in_every_tier(ours: Process, theirs: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "value", tags=["tag"], ttl=10.0)
    clock.advance(8.0)
    requests = [ours.request(KEY, tags=["tag"]), ours.request("absent")]
    assert ours.run(flows.touch(ours.engine, requests, 30.0)) == [True, False]
    clock.advance(29.0)
    assert ours.peek(KEY, tags=["tag"]) == theirs.peek(KEY, tags=["tag"]) == "value"
    theirs.invalidate(Invalidation.tags(["tag"]))
    assert theirs.peek(KEY, tags=["tag"]) is MISSING
    clock.advance(1.1)
    assert ours.peek(KEY, tags=["tag"]) is MISSING


def test_touching_does_not_bring_back_what_is_invalidated_meanwhile(ours: Process, theirs: Process) -> None:
    ours.get(KEY, lambda: "value")
    touch = Call(ours.engine, flows.touch(ours.engine, [ours.request(KEY)], 600.0)).before(Store)
    ours.invalidate(Invalidation.keys([KEY]))
    touch.finish()
    assert ours.peek(KEY) is MISSING
    assert theirs.peek(KEY) is MISSING


@pytest.mark.parametrize("kept", ["memory", "redis", "disk"])
def test_a_plan_says_which_tiers_may_hold_a_value(
    ours: Process, clock: ManualClock, tiers: list[MemoryTier], kept: str
) -> None:
    only = plan("only", tiers=frozenset({kept}))
    ours.get(KEY, lambda: "value", plan=only)
    assert [event.tiers for event in ours.seen(Stored)] == [(kept,)]
    holds = {
        "memory": len(ours.engine.memory or ()) == 1,
        "redis": len(tiers[0]) == 1,
        "disk": len(tiers[1]) == 1,
    }
    assert holds == {name: name == kept for name in holds}
    assert ours.get(KEY, fail, plan=only) == "value"
    ours.invalidate(Invalidation.keys([KEY]))
    assert ours.peek(KEY, plan=only) is MISSING


def test_a_value_of_the_wrong_kind_is_an_error_and_leaves_what_was_cached(ours: Process) -> None:
    ours.set(KEY, "value")
    with pytest.raises(CachedValueError):
        ours.set(KEY, object())
    assert ours.peek(KEY) == "value"
    assert not ours.engine.pending


# -- grace ------------------------------------------------------------------------------------------------------------

GRACEFUL = plan("graceful", ttl=10.0, grace=60.0)


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_in_grace_a_value_stands_in_for_a_failing_loader_and_the_loader_rests_for_a_moment(
    clock: ManualClock, tiers: list[MemoryTier], shared: int
) -> None:
    process = Process(clock, tiers[:shared])
    calls = []

    def failing() -> str:
        calls.append(clock.monotonic())
        raise LookupError

    process.get(KEY, lambda: "old", plan=GRACEFUL)
    clock.advance(10.1)
    for _ in range(3):
        assert process.get(KEY, failing, plan=GRACEFUL) == "old"
    assert len(calls) == 1
    assert process.seen(LoadFailed)[0].served_stale
    assert process.engine.counters("graceful").stale == 1
    clock.advance(1.1)
    assert process.get(KEY, failing, plan=GRACEFUL) == "old"
    assert len(calls) == 2
    clock.advance(60.0)
    with pytest.raises(LookupError):
        process.get(KEY, failing, plan=GRACEFUL)


def test_in_grace_a_value_of_a_shared_tier_stands_in_and_rests_its_loader_too(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.get(KEY, lambda: "old", plan=GRACEFUL)
    clock.advance(10.1)
    calls = []

    def failing() -> str:
        calls.append(1)
        raise LookupError

    for _ in range(3):
        assert ours.get(KEY, failing, plan=GRACEFUL) == "old"
    assert len(calls) == 1


def test_the_new_value_replaces_the_one_in_grace(ours: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "old", plan=GRACEFUL)
    clock.advance(10.1)
    assert ours.get(KEY, fail, plan=GRACEFUL) == "old"
    clock.advance(1.1)
    assert ours.get(KEY, lambda: "new", plan=GRACEFUL) == "new"


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_an_invalidated_value_has_no_grace(clock: ManualClock, tiers: list[MemoryTier], shared: int) -> None:
    process, other = Process(clock, tiers[:shared]), Process(clock, tiers[:shared])
    process.get(KEY, lambda: "old", plan=GRACEFUL)
    clock.advance(10.1)
    (other if shared else process).invalidate(Invalidation.keys([KEY]))
    with pytest.raises(LookupError):
        process.get(KEY, fail, plan=GRACEFUL)


# -- several at once --------------------------------------------------------------------------------------------------


def test_several_keys_cost_one_fetch_one_capture_and_one_store_per_tier(ours: Process) -> None:
    requests = [ours.request(f"vm:{n}", lambda n=n: n, tags=[f"node:{n % 3}"]) for n in range(50)]
    entries = ours.run(flows.get_many(ours.engine, requests))
    assert [entry.value for entry in entries] == list(range(50))
    near, far = ours.ways
    assert (near.count(Fetch), near.count(Capture), near.count(Store)) == (1, 1, 1)
    assert (far.count(Fetch), far.count(Store)) == (1, 1)


def test_setting_several_keys_costs_one_capture_and_one_store_per_tier(ours: Process, theirs: Process) -> None:
    items = [(ours.request(f"vm:{n}", tags=["all"]), n) for n in range(50)]
    assert ours.run(flows.set_many(ours.engine, items))
    near, far = ours.ways
    assert (near.count(Capture), near.count(Store), near.count(Renew)) == (1, 1, 0)
    assert far.count(Store) == 1
    requests = [theirs.request(f"vm:{n}", tags=["all"]) for n in range(50)]
    entries = theirs.run(flows.peek_many(theirs.engine, requests))
    assert [entry.value for entry in entries] == list(range(50))
    assert theirs.ways[0].count(Fetch) == 1
    assert theirs.ways[1].count(Fetch) == 0


def test_a_batch_loader_is_called_once_for_the_misses_alone(ours: Process) -> None:
    ours.set("vm:1", "cached")
    asked: list[list[Any]] = []

    def batch(requests: Any) -> Load:
        subjects = [request.subject for request in requests]
        asked.append(subjects)
        return Load(lambda: {"vm:2": "two", "vm:3": None})

    requests = [ours.request(f"vm:{n}") for n in range(1, 5)]
    entries = ours.run(flows.get_many(ours.engine, requests, batch))
    assert asked == [["vm:2", "vm:3", "vm:4"]]
    assert [None if entry is None else (entry.value,) for entry in entries] == [("cached",), ("two",), (None,), None]
    ours.run(flows.get_many(ours.engine, requests, batch))
    assert asked[1:] == [["vm:4"]]


def test_what_a_batch_loader_leaves_out_is_kept_as_none_where_the_plan_says_so(ours: Process) -> None:
    doubtful = plan("doubtful", negative_ttl=5.0)
    requests = [ours.request("vm:1", plan=doubtful)]
    (entry,) = ours.run(flows.get_many(ours.engine, requests, lambda _: Load(dict)))
    assert entry.value is None
    assert ours.get("vm:1", fail, plan=doubtful) is None


def test_a_failing_batch_loader_fails_the_call_and_leaves_no_flight(ours: Process) -> None:
    requests = [ours.request("vm:1"), ours.request("vm:2")]
    with pytest.raises(LookupError):
        ours.run(flows.get_many(ours.engine, requests, lambda _: Load(fail)))
    assert len(ours.engine.flights) == 0


def test_reading_what_is_fresh_in_memory_asks_nobody(ours: Process) -> None:
    ours.get(KEY, lambda: "value")
    trips = len(ours.ways[0].operations)
    for _ in range(10):
        ours.get(KEY, fail)
    assert len(ours.ways[0].operations) == trips
    assert [event.reason for event in ours.seen(Miss)] == ["cold"]


# -- refreshing early -------------------------------------------------------------------------------------------------


def early(clock: ManualClock, **settings: Any) -> tuple[Cache, Any]:
    cache = Cache(CacheSettings(**settings), clock=clock)
    return cache, cache.cached(str, key="vm:<n>", ttl=100.0, refresh_ahead=0.5)


async def test_a_hit_late_in_its_life_starts_one_refresh_in_a_task(clock: ManualClock) -> None:
    cache, cached = early(clock)
    values = iter(["first", "second", "third"])

    @cached
    async def load(n: int) -> str:
        await asyncio.sleep(0)
        return next(values)

    async with cache:
        assert await load(1) == "first"
        clock.advance(49.0)
        assert await load(1) == "first"
        assert not cache._tasks
        clock.advance(2.0)
        assert [await load(1), await load(1)] == ["first", "first"]
        await until(lambda: not cache._tasks)
        assert await load(1) == "second"
        clock.advance(60.0)
        assert await load(1) == "second"  # stored anew, so it lives on; and is refreshed early again
        await until(lambda: not cache._tasks)
        assert await load(1) == "third"


@pytest.mark.parametrize("threads", [0, 1])
def test_a_blocking_call_refreshes_early_only_with_background_threads(clock: ManualClock, threads: int) -> None:
    cache, cached = early(clock, background_threads=threads)
    calls: list[str] = []

    @cached
    def load(n: int) -> str:
        calls.append(threading.current_thread().name)
        return str(len(calls))

    with cache:
        assert load(1) == "1"
        clock.advance(51.0)
        assert [load(1), load(1)] == ["1", "1"] or threads
        if threads:
            wait_until(lambda: load(1) == "2")
            assert calls[1].startswith("novacron_cache refresh")
        assert len(calls) == 1 + threads


@pytest.mark.parametrize("threads", [0, 1])
def test_a_value_in_its_grace_is_not_refreshed_early_so_its_failing_loader_rests(
    clock: ManualClock, threads: int
) -> None:
    cache = Cache(CacheSettings(background_threads=threads), clock=clock)
    calls: list[float] = []

    @cache.cached(str, key="key", ttl=10, grace=600, refresh_ahead=0.5)
    def load() -> str:
        calls.append(clock.monotonic())
        if len(calls) > 1:
            raise LookupError
        return "value"

    with cache:
        load()
        clock.advance(11)
        assert [load() for _ in range(20)] == ["value"] * 20
        behind = threading.Event()
        if cache.engine.background.submit(behind.set, behind.set) is not None:
            assert behind.wait(10)
        assert len(calls) == 2


def test_refresh_loads_whatever_is_cached_and_shares_the_result(ours: Process, theirs: Process) -> None:
    ours.get(KEY, lambda: "old")
    request = ours.request(KEY, lambda: "new")
    ours.run(flows.refresh(ours.engine, request))
    assert ours.peek(KEY) == theirs.peek(KEY) == "new"


# -- explaining -------------------------------------------------------------------------------------------------------


def explained(process: Process, key: str = KEY, **options: Any) -> Any:
    from novacron_cache.explaining import explain

    engine = process.engine
    before = [(entry.key, entry.deadline, entry.hits) for entry in engine.memory.entries()] if engine.memory else []
    counters = repr(engine.all_counters())
    rules = engine.rules
    answer = process.run(explain(engine, process.request(key, **options)))
    after = [(entry.key, entry.deadline, entry.hits) for entry in engine.memory.entries()] if engine.memory else []
    assert (before, counters, rules) == (after, repr(engine.all_counters()), engine.rules)
    return answer


def test_explain_of_a_cold_key(ours: Process) -> None:
    answer = explained(ours, tags=["tag"])
    assert (answer.tier, answer.reason, answer.tags) == (None, "cold", ("tag",))
    assert answer.tiers == {"memory": "absent", "redis": "absent", "disk": "absent"}
    assert ours.ways[0].count(Capture) == ours.ways[0].count(Store) == 0


def test_explain_of_a_fresh_key(ours: Process, theirs: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "value", tags=["tag"], ttl=100.0)
    clock.advance(1.0)
    answer = explained(ours, tags=["tag"])
    assert (answer.tier, answer.reason, answer.tags) == ("memory", "hit", ("tag",))
    assert answer.age == pytest.approx(1.0)
    assert answer.remaining == pytest.approx(99.0)
    elsewhere = explained(theirs, tags=["tag"])
    assert (elsewhere.tier, elsewhere.tiers["memory"]) == ("redis", "absent")
    assert elsewhere.remaining == pytest.approx(99.0, abs=0.01)
    assert elsewhere.size is not None
    assert theirs.engine.memory is not None
    assert len(theirs.engine.memory) == 0


def test_explain_of_an_entry_that_has_to_ask(ours: Process, theirs: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "value")
    clock.advance(BOUND + 0.1)
    assert explained(ours).tiers["memory"] == "fresh"
    theirs.invalidate(Invalidation.pattern("v*:2"))
    assert explained(ours).tier == "memory"
    theirs.invalidate(Invalidation.keys([KEY]))
    answer = explained(ours)
    assert (answer.tier, answer.reason) == (None, "invalidated")
    assert set(answer.tiers.values()) == {"invalidated"}


def test_explain_of_an_expired_key(ours: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "value", plan=plan(ttl=10.0, grace=60.0))
    clock.advance(11.0)
    answer = explained(ours)
    assert (answer.tier, answer.reason) == (None, "expired")


def test_explain_with_the_authority_down_and_with_something_pending(ours: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "value")
    ours.ways[0].down = True
    clock.advance(BOUND + 0.1)
    answer = explained(ours)
    assert (answer.reason, answer.tiers["redis"]) == ("tier_down", "down")
    ours.invalidate(Invalidation.keys([KEY]))
    assert explained(ours).reason == "pending"


def test_explain_of_a_value_with_late_tags(ours: Process, theirs: Process) -> None:
    def late(value: Any) -> tuple[str, ...]:
        return (f"late:{value}",)

    ours.set(KEY, "a", late=late)
    assert explained(theirs, late=late).tier == "redis"
    ours.invalidate(Invalidation.tags(["late:a"]))
    assert explained(theirs, late=late).reason == "invalidated"


# -- to the last step -------------------------------------------------------------------------------------------------


def test_what_is_found_far_away_moves_nearer_up_to_its_last_moment(
    ours: Process, theirs: Process, clock: ManualClock, tiers: list[MemoryTier]
) -> None:
    ours.get(KEY, lambda: 1, ttl=10)
    tiers[0].clear()
    clock.advance(9.5)
    assert theirs.get(KEY, lambda: 2) == 1
    (item,) = [item for one in theirs.ways[0].operations if isinstance(one, Store) for item in one.items]
    assert item.ttl == pytest.approx(0.5)


def test_a_payload_that_cannot_be_read_is_an_event_and_a_miss_that_say_why(
    ours: Process, tiers: list[MemoryTier]
) -> None:
    key = ours.request(KEY).key
    tiers[1].perform(Store([Item(key, b"rubbish", 60.0)]))
    assert ours.get(KEY, lambda: 1) == 1
    (corrupt,) = ours.seen(Corrupt)
    assert (corrupt.tier, corrupt.key, corrupt.reason) == ("disk", KEY, "foreign")
    assert [miss.reason for miss in ours.seen(Miss)] == ["foreign"]


def test_a_failed_load_says_of_what_and_whether_another_value_stood_in(ours: Process, clock: ManualClock) -> None:
    error = LookupError("gone")

    def fail() -> Any:
        raise error

    ours.get(KEY, lambda: 1, plan=plan(ttl=10.0, grace=60.0))
    clock.advance(11)
    assert ours.get(KEY, fail, plan=plan(ttl=10.0, grace=60.0)) == 1
    with pytest.raises(LookupError):
        ours.get("other", fail)
    failures = [(one.name, one.key, one.error, one.served_stale) for one in ours.seen(LoadFailed)]
    assert failures == [("thing", KEY, error, True), ("thing", "other", error, False)]


def test_a_batch_that_joins_a_batch_takes_its_silence_for_an_answer(ours: Process) -> None:
    request = ours.request(KEY)
    engine = ours.engine

    def silent(_requests: Any) -> Load:
        return Load(dict)

    def never(_requests: Any) -> Load:
        raise AssertionError("the first batch has said that there is none")

    first = Call(engine, flows.get_many(engine, [request], silent)).before(Load)
    second = Call(engine, flows.get_many(engine, [ours.request(KEY)], never))
    while not second.stuck:
        second.step()
    assert first.finish() == [None]
    assert second.finish() == [None]
    assert engine.counters("thing").joined == 1


def test_all_of_one_tag_is_that_tag_and_takes_no_room_in_the_log() -> None:
    assert Invalidation.tags(["a"], match_all=True) == Invalidation.tags(["a"])
    assert Invalidation.tags(["a", "a"], match_all=True).rules == []
    assert len(Invalidation.tags(["a", "b"], match_all=True).rules) == 1


def test_without_process_memory_a_value_of_a_shared_tier_stands_in_unless_it_was_invalidated(
    ours: Process, clock: ManualClock
) -> None:
    def fail() -> Any:
        raise LookupError("gone")

    ours.engine.memory = None
    kept = plan(ttl=10.0, grace=60.0)
    ours.get("a:1", lambda: 1, plan=kept)
    clock.advance(11)
    assert ours.get("a:1", fail, plan=kept) == 1
    for invalidation in (Invalidation.pattern("*:1"), Invalidation.pattern("*:2")):
        ours.get("a:2", lambda: 2, plan=kept)
        clock.advance(11)
        call = ours.loading("a:2", fail, plan=kept).before(Load)
        ours.invalidate(invalidation)
        if invalidation.values == ("*:1",):
            assert call.finish() == 2
        else:
            with pytest.raises(LookupError):
                call.finish()


@pytest.mark.parametrize(
    ("invalidation", "what", "values"),
    [
        (Invalidation.keys(["a", "b"]), "key", ("a", "b")),
        (Invalidation.tags(["a"]), "tag", ("a",)),
        (Invalidation.tags(["a", "b"], match_all=True), "tag", ("a", "b")),
        (Invalidation.pattern("a:1"), "pattern", ("a:1",)),
        (Invalidation.pattern("**"), "pattern", ("**",)),
        (Invalidation.pattern("a:*"), "pattern", ("a:*",)),
        (Invalidation.pattern("*:1"), "pattern", ("*:1",)),
        (Invalidation.model("thing"), "model", ("thing",)),
        (Invalidation.everything(), "namespace", ()),
        (Invalidation.keys(["a"]) + Invalidation.keys(["b"]), "key", ("a", "b")),
        (Invalidation.keys(["a"]) + Invalidation.tags(["b"]), "several", ("a", "b")),
    ],
)
def test_an_invalidation_is_told_as_it_was_asked_for(
    ours: Process, invalidation: Invalidation, what: str, values: tuple[str, ...]
) -> None:
    assert ours.invalidate(invalidation)
    (told,) = ours.seen(Invalidated)
    assert (told.what, told.values) == (what, values)


def test_the_time_of_loaders_is_added_up_by_name(ours: Process) -> None:
    ours.get(KEY, lambda: 1)
    assert ours.engine.counters("thing").load_seconds > 0
    assert ours.engine.counters("thing").loads == 1
