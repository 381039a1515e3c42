"""The shared tier is gone: calls still return, nothing overdue is served, and no invalidation is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

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
    Store,
    plan,
    until,
)
from servers import wait_until

from novacron_cache import Cache, CacheSettings, flows
from novacron_cache.delivery import Delivery
from novacron_cache.effects import Item
from novacron_cache.errors import InvalidationPending, TierUnavailableError
from novacron_cache.events import (
    Corrupt,
    InvalidationDelayed,
    InvalidationDelivered,
    Miss,
    TierDown,
    TierFailed,
    TierUp,
)

KEY = "vm:1"
RECOVERY = 60.0


def fail() -> str:
    raise LookupError("the loader was called")


# -- reading ----------------------------------------------------------------------------------------------------------


def test_calls_return_and_say_why_they_missed(ours: Process) -> None:
    ours.ways[0].down = True
    assert ours.get(KEY, lambda: "loaded") == "loaded"
    assert [event.reason for event in ours.seen(Miss)] == ["tier_down"]
    assert len(ours.seen(TierFailed)) >= 1


def test_a_breaker_opens_after_two_failures_lets_one_call_try_and_closes(ours: Process, clock: ManualClock) -> None:
    way = ours.ways[0]
    way.down = True
    for number in range(5):
        ours.get(f"vm:{number}", lambda: "loaded")
    assert len(ours.seen(TierFailed)) == 2
    assert len(ours.seen(TierDown)) == 1
    assert not ours.seen(TierUp)
    clock.advance(0.6)
    ours.get("vm:again", lambda: "loaded")
    assert len(ours.seen(TierFailed)) == 3
    way.down = False
    ours.get("vm:soon", lambda: "loaded")
    assert not way.operations
    clock.advance(RECOVERY)
    ours.get("vm:later", lambda: "loaded")
    assert way.count(Store) == 1
    assert len(ours.seen(TierUp)) == 1
    assert len(ours.seen(TierDown)) == 1


def test_the_far_tier_is_not_written_while_the_authority_is_down(ours: Process) -> None:
    ours.ways[0].down = True
    ours.get(KEY, lambda: "loaded")
    assert ours.ways[1].count(Store) == 0


def test_a_far_tier_that_is_down_costs_nothing_but_itself(ours: Process, theirs: Process) -> None:
    ours.ways[1].down = True
    assert ours.get(KEY, lambda: "loaded") == "loaded"
    assert theirs.peek(KEY) == "loaded"


def test_by_default_process_memory_answers_within_the_bound_and_no_far_tier_does(
    ours: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "before")
    ours.ways[0].down = True
    assert ours.get(KEY, fail) == "before"
    clock.advance(BOUND + 0.1)
    asked = ours.ways[1].count(Fetch)
    assert ours.get(KEY, lambda: "during") == "during"
    assert ours.ways[1].count(Fetch) == asked
    clock.advance(BOUND - 0.1)
    assert ours.get(KEY, fail) == "during"
    clock.advance(0.2)
    assert ours.get(KEY, lambda: "then") == "then"


def test_on_outage_serve_answers_from_memory_and_the_far_tier_within_their_ttl(
    clock: ManualClock, tiers: list[MemoryTier]
) -> None:
    brief = plan("brief", ttl=60.0)
    Process(clock, tiers).get("vm:2", lambda: "far", plan=brief)
    process = Process(clock, tiers, on_outage="serve")
    process.get(KEY, lambda: "near", plan=brief)
    process.ways[0].down = True
    clock.advance(50.0)
    assert process.get(KEY, fail, plan=brief) == "near"
    assert process.get("vm:2", fail, plan=brief) == "far"
    clock.advance(11.0)
    for key in (KEY, "vm:2"):
        assert process.get(key, lambda: "loaded", plan=brief) == "loaded"


def test_on_outage_serve_does_not_serve_what_this_process_invalidated(
    clock: ManualClock, tiers: list[MemoryTier]
) -> None:
    process = Process(clock, tiers, on_outage="serve")

    def late(value: Any) -> tuple[str, ...]:
        return (f"late:{value}",)

    process.set(KEY, "old", tags=["tag"], late=late)
    process.set("vm:2", "old", tags=["tag"], late=late)
    process.set("vm:3", "kept")
    process.ways[0].down = True
    process.invalidate(Invalidation.keys([KEY]))
    process.invalidate(Invalidation.tags(["late:old"]))
    clock.advance(BOUND + 0.1)
    assert process.peek(KEY, tags=["tag"], late=late) is MISSING
    assert process.peek("vm:2", tags=["tag"], late=late) is MISSING
    assert process.peek("vm:3") == "kept"


def test_a_value_in_grace_does_not_stand_in_when_nobody_knows_whether_it_was_invalidated(
    ours: Process, clock: ManualClock
) -> None:
    graceful = plan("graceful", ttl=10.0, grace=600.0)
    ours.get(KEY, lambda: "old", plan=graceful)
    clock.advance(11.0)
    ours.ways[0].down = True
    with pytest.raises(LookupError):
        ours.get(KEY, fail, plan=graceful)


# -- invalidating -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "invalidation",
    [
        Invalidation.keys([KEY]),
        Invalidation.tags(["a"]),
        Invalidation.tags(["a", "b"], match_all=True),
        Invalidation.pattern("vm:*"),
        Invalidation.pattern("*m:1"),
        Invalidation.model("thing"),
        Invalidation.everything(),
    ],
    ids=lambda one: f"{one.what} {' '.join(one.values)}",
)
def test_an_invalidation_during_an_outage_is_obeyed_here_and_delivered_afterwards(
    ours: Process, theirs: Process, clock: ManualClock, invalidation: Invalidation
) -> None:
    tags = ("a", "b")
    ours.get(KEY, lambda: "old", tags=tags)
    ours.ways[0].down = True
    assert not ours.invalidate(invalidation)
    assert ours.engine.pending
    assert len(ours.seen(InvalidationDelayed)) == 1
    assert theirs.get(KEY, lambda: "unseen", tags=tags) == "old"  # nobody told it
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    asked = ours.ways[0].count(Fetch)
    assert ours.get(KEY, lambda: "new", tags=tags) == "new"
    assert ours.ways[0].count(Fetch) == asked
    assert ours.seen(Miss)[-1].reason == "pending"
    assert ours.deliver()
    assert not ours.engine.pending
    assert len(ours.seen(InvalidationDelivered)) == 1
    assert theirs.get(KEY, lambda: "new", tags=tags) == "new"


def test_what_is_not_named_is_read_in_the_shared_tier_while_something_is_pending(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.get("vm:1", lambda: "one")
    theirs.get("vm:2", lambda: "two")
    ours.ways[0].down = True
    ours.invalidate(Invalidation.keys(["vm:1"]))
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    assert ours.peek("vm:1") is MISSING
    assert ours.peek("vm:2") == "two"


def test_what_is_loaded_while_its_invalidation_is_pending_stays_in_process_memory(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.ways[0].down = True
    ours.invalidate(Invalidation.keys([KEY]))
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    ours.get(KEY, lambda: "new")
    assert ours.peek(KEY) == "new"
    assert theirs.peek(KEY) is MISSING


def test_an_invalidation_whose_answer_was_lost_is_pending_too(ours: Process, clock: ManualClock) -> None:
    ours.ways[0].lossy = True
    assert not ours.invalidate(Invalidation.keys([KEY]))
    ours.ways[0].lossy = False
    clock.advance(RECOVERY)
    assert ours.deliver()


def test_a_delivery_does_not_undo_what_is_invalidated_meanwhile(ours: Process, clock: ManualClock) -> None:
    ours.ways[0].down = True
    ours.invalidate(Invalidation.keys([KEY]))
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    delivery = Call(ours.engine, flows.deliver(ours.engine)).after(Renew)
    ours.ways[0].down = True
    assert not ours.invalidate(Invalidation.keys([KEY]))
    assert delivery.finish() is False
    assert ours.engine.pending


def test_a_set_during_an_outage_is_served_here_and_hides_what_the_shared_tiers_hold(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.set(KEY, "old")
    ours.ways[0].down = True
    assert not ours.set(KEY, "new")
    assert ours.peek(KEY) == "new"
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    assert ours.peek(KEY) is MISSING  # past the bound; the old value is not read
    assert ours.deliver()
    assert theirs.peek(KEY) is MISSING


def test_a_set_whose_answer_was_lost_does_not_come_back_after_a_later_set(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    call = Call(ours.engine, flows.set_many(ours.engine, [(ours.request(KEY), "first")])).before(Store)
    while not isinstance(call.effect, tuple) or call.effect[0] is not ours.ways[0]:
        call.step()
        call.before(Store)
    ours.ways[0].lossy = True
    assert call.finish() is False
    theirs.set(KEY, "second")
    ours.ways[0].lossy = False
    clock.advance(RECOVERY)
    assert ours.deliver()
    assert ours.peek(KEY) in (MISSING, "second")
    assert theirs.peek(KEY) in (MISSING, "second")


# -- through the cache ------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(ours: Process) -> Any:
    cache = Cache(CacheSettings(), clock=ours.clock)
    cache.engine = ours.engine
    cache._delivery = Delivery(cache._deliver, lambda: bool(cache.engine.pending), shortest=0.002, longest=0.01)
    yield cache
    cache.close()


def test_a_receipt_is_pending_until_the_delivery_thread_has_delivered(
    cache: Cache, ours: Process, clock: ManualClock
) -> None:
    ours.ways[0].down = True
    receipt = cache.invalidate(KEY)
    assert receipt.pending
    assert "pending" in repr(receipt)
    thread = cache._delivery._thread
    assert thread is not None
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    wait_until(lambda: receipt.done, what="the delivery")
    thread.join(10)
    assert not thread.is_alive()
    assert "done" in repr(receipt)
    # A later outage has a thread again.
    ours.ways[0].down = True
    again = cache.invalidate(KEY)
    assert again.pending
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    wait_until(lambda: again.done, what="the second delivery")


def test_only_wait_makes_a_pending_invalidation_an_error(cache: Cache, ours: Process) -> None:
    ours.ways[0].down = True
    assert cache.invalidate_tags("a").pending
    with pytest.raises(InvalidationPending) as raised:
        cache.invalidate_pattern("vm:*", wait=True)
    assert raised.value.receipt.pending  # type: ignore[attr-defined]  # of this error


async def test_a_cancelled_caller_does_not_stop_an_invalidation_nor_its_delivery(cache: Cache, ours: Process) -> None:
    ours.ways[0].down = True
    arrived, go_on = asyncio.Event(), asyncio.Event()
    perform = ours.ways[0].perform

    async def slowly(operation: Any) -> Any:
        arrived.set()
        await go_on.wait()
        return perform(operation)

    ours.ways[0].aperform = slowly  # type: ignore[method-assign]  # of this test alone
    task = asyncio.create_task(cache.ainvalidate(KEY))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await until(lambda: cache._delivery._thread is not None)
    assert ours.engine.pending


async def test_a_cancelled_set_is_pending_and_retried(cache: Cache, ours: Process) -> None:
    arrived = asyncio.Event()

    async def never(operation: Any) -> Any:
        arrived.set()
        await asyncio.Event().wait()

    ours.ways[0].down = True
    ours.ways[0].aperform = never  # type: ignore[method-assign]  # of this test alone
    task = asyncio.create_task(cache.aset(KEY, "value"))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ours.engine.pending
    assert cache._delivery._thread is not None


def test_closing_tries_what_is_pending_once_more(cache: Cache, ours: Process, clock: ManualClock) -> None:
    cache._delivery = Delivery(cache._deliver, lambda: bool(cache.engine.pending), shortest=60.0)
    ours.ways[0].down = True
    receipt = cache.invalidate(KEY)
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    cache.close()
    assert receipt.done


def test_closing_ends_when_the_shared_tier_stays_away(cache: Cache, ours: Process) -> None:
    ours.ways[0].down = True
    receipt = cache.invalidate(KEY)
    cache.close()
    assert receipt.pending


# -- deferring --------------------------------------------------------------------------------------------------------


def test_deferred_invalidations_are_applied_together_at_the_end(cache: Cache, ours: Process) -> None:
    cache.set("a", 1)
    cache.set("b", 1, tags=["t"])
    renewed = ours.ways[0].count(Renew)
    with cache.deferred_invalidation() as deferral:
        first = cache.invalidate("a")
        second = cache.invalidate_tags("t")
        assert (cache.get("a"), cache.get("b")) == (1, 1)
        assert first.pending
        assert second.pending
    assert cache.get("a") is cache.get("b") is None
    assert first.done
    assert second.done
    assert deferral.receipt is not None
    assert deferral.receipt.done
    assert ours.ways[0].count(Renew) == renewed + 1


def test_deferred_invalidations_are_dropped_when_the_block_raises(cache: Cache) -> None:
    cache.set("a", 1)

    def rolled_back() -> None:
        with cache.deferred_invalidation():
            cache.invalidate("a")
            raise LookupError

    with pytest.raises(LookupError):
        rolled_back()
    assert cache.get("a") == 1
    assert cache.invalidate("a").done


def test_a_nested_block_hands_its_invalidations_to_the_outer_one(cache: Cache) -> None:
    cache.set("a", 1)
    with cache.deferred_invalidation():
        with cache.deferred_invalidation() as inner:
            receipt = cache.invalidate("a")
        assert cache.get("a") == 1
        assert receipt.pending
    assert cache.get("a") is None
    assert inner.receipt is not None
    assert inner.receipt.done
    assert receipt.done


async def test_deferred_invalidations_work_in_tasks_and_stay_theirs(cache: Cache) -> None:
    await cache.aset("a", 1)
    await cache.aset("b", 1)
    inside = asyncio.Event()
    done = asyncio.Event()

    async def transaction() -> None:
        async with cache.deferred_invalidation():
            await cache.ainvalidate("a")
            inside.set()
            await done.wait()

    task = asyncio.create_task(transaction())
    await inside.wait()
    assert (await cache.ainvalidate("b")).done
    assert await cache.aget("a") == 1
    done.set()
    await task
    assert await cache.aget("a") is None


def test_an_empty_block_sends_nothing(cache: Cache, ours: Process) -> None:
    with cache.deferred_invalidation() as deferral:
        pass
    assert deferral.receipt is None
    assert ours.ways[0].count(Renew) == 0


def test_a_payload_that_arrives_long_after_it_was_given_up_brings_nothing_back(clock: ManualClock) -> None:
    tier = MemoryTier(clock=clock)
    ours, theirs = Process(clock, [tier]), Process(clock, [tier])
    given_up: list[Store] = []
    perform = ours.ways[0].perform

    def slow(operation: Any) -> Any:
        if isinstance(operation, Store):
            given_up.append(operation)
            raise TierUnavailableError("no answer", tier="memory")
        return perform(operation)

    ours.ways[0].perform = slow  # type: ignore[method-assign]  # of this test alone
    ours.set("vm:1", "old")
    assert ours.invalidate(Invalidation.keys(["vm:1"]))
    for operation in given_up:
        tier.perform(operation)
    assert given_up
    assert ours.get("vm:1", lambda: "new") == "new"
    assert theirs.get("vm:1", lambda: "new") == "new"


# -- to the last step -------------------------------------------------------------------------------------------------


def test_what_is_delivered_is_named_and_asks_for_no_replicas(ours: Process) -> None:
    ours.ways[0].down = True
    assert not ours.invalidate(Invalidation.tags(["a", "b"]))
    ours.ways[0].down = False
    ours.engine.breakers["redis"].retry_now()
    assert ours.deliver()
    (delivered,) = ours.seen(InvalidationDelivered)
    assert set(delivered.dependencies) == {"t:a", "t:b"}
    (renewal,) = [one for one in ours.ways[0].operations if isinstance(one, Renew)]
    assert renewal.replicas == 0


def test_on_outage_serve_ends_at_the_ttl_and_not_after_it(clock: ManualClock, tiers: list[MemoryTier]) -> None:
    ours = Process(clock, tiers, on_outage="serve")
    ours.get(KEY, lambda: "old", ttl=100)
    for way in ours.ways:
        way.down = True
    clock.advance(100)
    assert ours.peek(KEY) is MISSING


def test_a_value_whose_own_tag_is_pending_is_a_miss_that_says_so(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.set(KEY, "old", late=lambda value: (f"late:{value}",))
    ours.ways[0].down = True
    ours.invalidate(Invalidation.tags(["late:old"]))
    ours.ways[0].down = False
    clock.advance(RECOVERY)
    ours.events.clear()
    assert ours.get(KEY, lambda: "new", late=lambda value: (f"late:{value}",)) == "new"
    assert [miss.reason for miss in ours.seen(Miss)] == ["pending"]


def test_a_value_in_grace_does_not_stand_in_once_a_pattern_has_hit_it_during_the_load(
    ours: Process, clock: ManualClock
) -> None:
    ours.get("a:1", lambda: "old", plan=plan(ttl=10.0, grace=100.0))
    clock.advance(11)
    call = ours.loading("a:1", fail, plan=plan(ttl=10.0, grace=100.0)).before(Load)
    ours.invalidate(Invalidation.pattern("*:1"))
    with pytest.raises(LookupError):
        call.finish()


@pytest.mark.parametrize("replicas", [0, 1])
def test_whether_replicas_have_a_pattern_is_not_known_while_it_is_pending(ours: Process, replicas: int) -> None:
    invalidation = Invalidation.pattern("*:1")
    invalidation.replicas = replicas
    ours.ways[0].down = True
    done = ours.run(flows.invalidate(ours.engine, invalidation))
    assert (done.local, done.delivered, done.replicated) == (0, False, None)


def test_on_outage_serve_tells_of_a_far_payload_that_is_damaged_and_loads(
    clock: ManualClock, tiers: list[MemoryTier]
) -> None:
    process = Process(clock, tiers, on_outage="serve")
    process.ways[0].down = True
    tiers[1].perform(Store([Item(process.request(KEY).key, b"rubbish", 60.0)]))
    assert process.get(KEY, lambda: "loaded") == "loaded"
    assert process.seen(Corrupt) == [Corrupt("disk", KEY, "foreign")]
    assert process.seen(Miss) == [Miss("thing", KEY, "tier_down")]
