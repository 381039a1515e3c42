"""One process of the fleet loads: who gets the lease, who waits, and what ends the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from flows.harness import (
    AwaitLease,
    Call,
    Invalidation,
    Load,
    ManualClock,
    MemoryTier,
    Process,
    StillLink,
    Store,
    Together,
    plan,
    until,
)

from novacron_cache import flows
from novacron_cache.drivers import _perform, adrive
from novacron_cache.effects import Ending, Fetch, KeepLeases, Purge, ReturnLease, TakeLease
from novacron_cache.flows.leasing import LONGEST_PAUSE, PATIENCE
from novacron_cache.leases import ENDED, IN_VAIN, LIFE, Waiting, Woken


@pytest.fixture
def tier(clock: ManualClock) -> MemoryTier:
    return MemoryTier(clock=clock)


Open = Callable[[], Process]


@pytest.fixture
def process(clock: ManualClock, tier: MemoryTier) -> Open:
    return lambda: Process(clock, [tier], leases=True)


def never() -> Any:
    raise AssertionError("nobody should load this")


def kinds(process: Process) -> list[str]:
    """Return what was asked of the authority, an operation that travels with another one behind a plus sign."""
    return [
        "+".join(type(one).__name__ for one in (operation.first, operation.then))
        if isinstance(operation, Together)
        else type(operation).__name__
        for operation in process.ways[0].operations
    ]


def end(process: Process, call: Call, how: str = ENDED) -> None:
    """Signal to a process that the lease which a call of it waits for has ended."""
    process.engine.signalled([(how + call.effect.waiting.key, call.effect.holder)])


def forgotten(process: Process) -> bool:
    """Return whether a process knows of no lease, and waits for none."""
    return not process.engine.leases._ours and not process.engine.leases._waiting


# --- taking and returning ---------------------------------------------------------------------------------------------


def test_a_lease_costs_no_trip_of_its_own(process: Open) -> None:
    one = process()
    assert one.get("k", lambda: 1) == 1
    assert kinds(one) == ["Fetch", "Capture+TakeLease", "Store+ReturnLease"]
    assert one.engine.counters("thing").waited == 0


def test_where_no_id_is_missing_the_lease_is_asked_for_alone(process: Open) -> None:
    one, other = process(), process()
    one.get("k", lambda: 1)
    one.ways[0].tier.perform(Purge())
    other.clock.advance(1)
    assert other.get("k", lambda: 2) == 2
    assert [kind for kind in kinds(other) if kind != "ReadRules"] == ["Fetch", "TakeLease", "Store+ReturnLease"]


def test_what_the_authority_may_not_hold_is_loaded_without_a_lease(process: Open) -> None:
    one = process()
    one.get("k", lambda: 1, plan=plan(tiers=frozenset({"memory"})))
    assert not any("Lease" in kind for kind in kinds(one))


def test_several_keys_and_a_refresh_take_no_lease(process: Open) -> None:
    one = process()
    requests = [one.request(key, lambda: 1) for key in ("a", "b")]
    one.run(flows.get_many(one.engine, requests))
    one.run(flows.refresh(one.engine, requests[0]))
    one.run(flows.get_many(one.engine, [one.request("c")], lambda _: Load(lambda: {"c": 1})))
    assert not any("Lease" in kind for kind in kinds(one))


def test_a_tag_that_only_the_result_names_is_loaded_without_a_lease_where_no_link_can_prove_it(process: Open) -> None:
    one = process()
    one.get("k", lambda: "red", late=lambda value: (value,))
    assert not any("Lease" in kind for kind in kinds(one))


def test_a_lease_is_gone_once_its_value_is_stored(process: Open, clock: ManualClock, tier: MemoryTier) -> None:
    one = process()
    key = one.request("k").key
    call = one.loading("k", lambda: 1).before(Load)
    assert tier.perform(TakeLease(key, b"other", LIFE)).left == pytest.approx(LIFE)
    call.finish()
    assert tier.perform(TakeLease(key, b"other", LIFE)).done
    clock.advance(0.3)
    assert tier.perform(TakeLease(key, b"other", LIFE)) is None
    assert forgotten(one)


def test_a_value_that_is_invalidated_at_once_costs_its_next_load_no_more_trips(
    process: Open, clock: ManualClock
) -> None:
    one = process()
    one.get("k", lambda: 1)
    clock.advance(0.05)
    assert one.invalidate(Invalidation.keys(["k"]))
    before = len(kinds(one))
    assert one.get("k", lambda: 2) == 2
    assert [kind for kind in kinds(one)[before:] if kind != "ReadRules"] == ["Fetch", "TakeLease", "Store+ReturnLease"]


# --- waiting ----------------------------------------------------------------------------------------------------------


def waiting(process: Open, loader: Callable[[], Any] = never, **options: Any) -> tuple[Process, Call, Process, Call]:
    """Return a process whose call is about to load, and one whose call is about to wait for it."""
    one, other = process(), process()
    holder = one.loading("k", lambda: "theirs", **options).before(Load)
    return one, holder, other, other.loading("k", loader, **options).before(AwaitLease)


def test_who_waits_is_served_what_the_holder_stored(process: Open) -> None:
    _, holder, other, waiter = waiting(process)
    assert holder.finish() == "theirs"
    end(other, waiter)
    assert waiter.finish() == "theirs"
    counters = other.engine.counters("thing")
    assert (counters.waited, dict(counters.hits), dict(counters.misses)) == (1, {"redis": 1}, {})


def test_an_end_that_is_signalled_before_the_answer_was_read_is_not_missed(process: Open) -> None:
    one, other = process(), process()
    holder = one.loading("k", lambda: "theirs").before(Load)
    waiter = other.loading("k", never).before(Fetch).after(TakeLease)
    (lease,) = one.engine.leases._ours.values()
    holder.finish()
    other.engine.signalled([(ENDED + lease.key, lease.holder)])
    waiter.before(AwaitLease).step()
    assert waiter._answer == (Woken.ENDED, None)
    assert waiter.finish() == "theirs"


def test_a_value_stored_between_looking_and_asking_is_looked_for(process: Open) -> None:
    one, other = process(), process()
    late = other.loading("k", never).after(Fetch)
    one.get("k", lambda: "theirs")
    assert late.finish() == "theirs"
    assert other.engine.counters("thing").waited == 0


def test_a_holder_that_stored_what_is_invalid_by_now_is_followed_by_one_that_loads(
    process: Open, clock: ManualClock
) -> None:
    one, holder, other, waiter = waiting(process, lambda: "new")
    assert one.invalidate(Invalidation.keys(["k"]))
    holder.finish()
    end(other, waiter)
    assert waiter.finish() == "new"
    assert other.engine.counters("thing").misses == {"cold": 1}
    assert process().get("k", never) == "new"


def test_a_strong_read_waits_and_takes_what_is_valid_then(process: Open) -> None:
    strong = plan(strong=True)
    _, holder, other, waiter = waiting(process, plan=strong)
    holder.finish()
    end(other, waiter)
    assert waiter.finish() == "theirs"


def test_a_slow_holder_is_waited_for_as_long_as_it_keeps_its_lease(process: Open, clock: ManualClock) -> None:
    one, holder, other, waiter = waiting(process)
    for _ in range(5):
        clock.advance(0.6 * LIFE)
        one.run(flows.keep_leases(one.engine))
        clock.advance(0.2 * LIFE)
        waiter.step()
        waiter.step()
        waiter.before(AwaitLease)
    assert other.ways[0].count(TakeLease) == 6
    holder.finish()
    end(other, waiter)
    assert waiter.finish() == "theirs"


def test_patience_ends(process: Open, clock: ManualClock) -> None:
    one, holder, _, waiter = waiting(process, lambda: "mine")
    waited = 0.0
    while waiter.kind is AwaitLease:
        assert waited <= PATIENCE + LIFE
        clock.advance(0.5 * LIFE)
        waited += 0.5 * LIFE
        one.run(flows.keep_leases(one.engine))
        waiter.step()
        waiter.step()
        while waiter.kind not in (AwaitLease, Load):
            waiter.step()
    assert waited >= PATIENCE
    assert waiter.finish() == "mine"
    assert holder.finish() == "theirs"


def test_with_a_link_the_wait_is_for_the_lease_and_without_one_for_a_growing_pause(process: Open) -> None:
    _, _, _, waiter = waiting(process)
    pauses = []
    for _ in range(8):
        pauses.append(waiter.effect.seconds)
        waiter.step()
        waiter.step()
        waiter.before(AwaitLease)
    assert pauses[0] < pauses[1] < pauses[-1] == LONGEST_PAUSE
    linked = process()
    linked.engine.use_link(StillLink())
    assert linked.loading("k", never).before(AwaitLease).effect.seconds == pytest.approx(LIFE, rel=0.01)


def test_a_lost_link_wakes_who_waits(process: Open) -> None:
    _, holder, other, waiter = waiting(process)
    holder.finish()
    other.engine.link_lost("test")
    assert not waiter.effect.waiting._arm(b"", lambda: None)
    assert waiter.finish() == "theirs"


# --- holders that bring nothing ---------------------------------------------------------------------------------------


def failing() -> Any:
    raise LookupError("no such thing")


def test_after_a_holder_that_failed_nobody_waits_for_another(process: Open) -> None:
    one, other, third = process(), process(), process()
    holder = one.loading("k", failing).before(Load)
    waiters = [each.loading("k", failing).before(AwaitLease) for each in (other, third)]
    with pytest.raises(LookupError):
        holder.finish()
    assert kinds(one)[-1] == "ReturnLease"
    returned = one.ways[0].operations[-1]
    assert isinstance(returned, ReturnLease)
    assert returned.ending is Ending.IN_VAIN
    for each, waiter in zip((other, third), waiters, strict=True):
        end(each, waiter, IN_VAIN)
        waiter.before(Load)
        assert each.engine.counters("thing").waited == 1
    for waiter in waiters:
        with pytest.raises(LookupError):
            waiter.finish()


def test_a_holder_that_vanished_is_followed_by_one_waiter_for_whom_the_others_wait(
    process: Open, clock: ManualClock
) -> None:
    one, other, third = process(), process(), process()
    one.loading("k", never).before(Load)
    heir = other.loading("k", lambda: "mine").before(AwaitLease)
    waiter = third.loading("k", never).before(AwaitLease)
    clock.advance(1.1 * LIFE)
    heir.before(Load)
    waiter.step()
    waiter.step()
    waiter.before(AwaitLease)
    assert heir.finish() == "mine"
    end(third, waiter)
    assert waiter.finish() == "mine"


def test_two_holders_are_waited_for_and_no_third(process: Open, clock: ManualClock) -> None:
    waiter_of, waiter = process(), None
    for number in range(3):
        process().loading("k", never).before(Load)
        if waiter is None:
            waiter = waiter_of.loading("k", lambda: "mine")
        else:
            waiter.step()
            waiter.step()
        while waiter.kind not in (AwaitLease, Load):
            waiter.step()
        assert waiter.kind is (AwaitLease if number < 2 else Load)
        clock.advance(1.1 * LIFE)
    assert waiter is not None
    assert waiter.finish() == "mine"


def test_a_value_that_may_not_be_stored_is_waited_for_by_nobody_else(process: Open) -> None:
    one = process()
    holder = one.loading("k", lambda: 1, plan=plan(negative_ttl=None)).before(Load)
    other = process()
    waiter = other.loading("k", lambda: 2).before(AwaitLease)
    one.ways[0].down = True
    assert holder.finish() == 1
    end(other, waiter, IN_VAIN)
    assert waiter.finish() == 2


async def test_a_cancelled_holder_returns_its_lease(process: Open) -> None:
    one = process()
    loading: list[None] = []

    async def endless() -> None:
        loading.append(None)
        await asyncio.Event().wait()

    request = one.request("k", endless)

    async def cancel() -> None:
        task = asyncio.create_task(adrive(one.engine, flows.get_or_load(one.engine, request)))
        await until(lambda: loading)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await cancel()
    (returned,) = [one_ for one_ in one.ways[0].operations if isinstance(one_, ReturnLease)]
    assert returned.ending is Ending.GIVEN_UP
    assert process().get("k", lambda: "mine") == "mine"
    assert forgotten(one)


def test_a_flow_that_is_thrown_away_forgets_its_lease(process: Open) -> None:
    one = process()
    call = one.loading("k", never).before(Load)
    call.flow.close()
    assert forgotten(one)


# --- holders that come too late ---------------------------------------------------------------------------------------


def test_a_holder_that_lost_its_lease_overwrites_nothing(process: Open, clock: ManualClock) -> None:
    one, holder, other, waiter = waiting(process, lambda: "newer")
    clock.advance(1.1 * LIFE)
    assert waiter.finish() == "newer"
    assert holder.finish() == "theirs"
    assert process().get("k", never) == "newer"
    stored = one.ways[0].operations[-1]
    assert isinstance(stored, Together)
    assert isinstance(stored.first, Store)
    assert stored.first.new_only
    assert other.get("k", never) == "newer"


def test_a_holder_that_was_late_and_alone_stores_what_it_has(process: Open, clock: ManualClock) -> None:
    one = process()
    holder = one.loading("k", lambda: "mine").before(Load)
    clock.advance(1.1 * LIFE)
    holder.finish()
    assert process().get("k", never) == "mine"


def test_a_lease_that_is_another_ones_is_not_kept(process: Open, clock: ManualClock) -> None:
    one = process()
    holder = one.loading("k", lambda: 1).before(Load)
    (lease,) = one.engine.leases._ours.values()
    clock.advance(0.5 * LIFE)
    one.run(flows.keep_leases(one.engine))
    assert (lease.until, lease.lost) == (clock.monotonic() + LIFE, False)
    clock.advance(1.1 * LIFE)
    heir = process().loading("k", lambda: 2).before(Load)
    one.run(flows.keep_leases(one.engine))
    assert lease.lost
    asked = one.ways[0].count(KeepLeases)
    one.run(flows.keep_leases(one.engine))
    assert one.ways[0].count(KeepLeases) == asked
    assert (heir.finish(), holder.finish()) == (2, 1)


# --- nobody waits for nothing -----------------------------------------------------------------------------------------


def test_where_the_authority_is_down_nobody_waits(process: Open) -> None:
    one, other = process(), process()
    one.loading("k", never).before(Load)
    late = other.loading("k", lambda: "mine").after(Fetch)
    other.ways[0].down = True
    assert late.finish() == "mine"
    assert other.engine.counters("thing").waited == 0


def test_an_authority_that_goes_down_while_somebody_waits_is_loaded_around(process: Open) -> None:
    _, _, other, waiter = waiting(process, lambda: "mine")
    other.ways[0].down = True
    assert waiter.finish() == "mine"


def test_a_call_made_by_a_loader_waits_for_nobody(process: Open) -> None:
    one, other = process(), process()
    one.loading("inner", never).before(Load)
    assert other.get("outer", lambda: other.get("inner", lambda: "beside")) == "beside"
    assert other.engine.counters("thing").waited == 0


def test_a_loader_that_needs_its_own_key_does_not_wait_for_its_own_lease(process: Open) -> None:
    one = process()
    assert one.get("k", lambda: one.get("k", lambda: "inner") + " and outer") == "inner and outer"


def test_a_process_does_not_wait_for_a_load_of_its_own_that_was_overruled(process: Open) -> None:
    one = process()
    old = one.loading("k", lambda: "old").before(Load)
    assert one.invalidate(Invalidation.keys(["k"]))
    assert one.get("k", lambda: "new") == "new"
    assert old.finish() == "old"
    assert one.engine.counters("thing").waited == 0


def test_what_is_held_by_a_writer_is_waited_for_by_nobody(process: Open) -> None:
    one, other = process(), process()
    invalidation = Invalidation.keys(["k"])
    holder = one.loading("k", lambda: 1).before(Load)
    one.run(flows.hold(one.engine, invalidation, b"writer", 60.0, again=False))
    assert other.get("k", lambda: 2) == 2
    assert other.engine.counters("thing").waited == 0
    assert holder.finish() == 1


async def test_a_blocking_call_on_the_thread_of_a_loop_does_not_wait(process: Open) -> None:
    engine = process().engine
    assert _perform(engine, AwaitLease(Waiting("k"), b"holder", 60.0)) is Woken.REFUSED


# --- early refreshes --------------------------------------------------------------------------------------------------

EARLY = plan(refresh_ahead=0.5)


def refreshing(process: Process, loader: Callable[[], Any]) -> Call:
    request = process.request("k", loader, plan=EARLY)
    return Call(process.engine, flows.refresh_ahead(process.engine, request))


def both(process: Open) -> tuple[Process, Process]:
    one, other = process(), process()
    assert one.get("k", lambda: "old", plan=EARLY) == other.get("k", never, plan=EARLY) == "old"
    one.clock.advance(600)
    return one, other


def test_one_process_refreshes_and_the_others_skip_it(process: Open) -> None:
    one, other = both(process)
    first = refreshing(one, lambda: "new").before(Load)
    refreshing(other, never).finish()
    assert other.engine.counters("thing").waited == 0
    first.finish()
    assert one.get("k", never, plan=EARLY) == "new"


def test_who_comes_after_the_refresh_takes_over_what_it_stored(process: Open, clock: ManualClock) -> None:
    one, other = both(process)
    refreshing(one, lambda: "new").finish()
    clock.advance(1)
    refreshing(other, never).finish()
    assert other.get("k", never, plan=EARLY) == "new"


def test_a_refresh_waits_for_no_lease_either(process: Open) -> None:
    one, other = both(process)
    inner = one.loading("inner", never).before(Load)
    refreshing(other, lambda: other.get("inner", lambda: "beside")).finish()
    assert other.get("k", never, plan=EARLY) == "beside"
    assert other.engine.counters("thing").waited == 0
    assert inner.kind is Load


def test_a_refresh_that_fails_leaves_the_next_one_the_lease(process: Open) -> None:
    one, other = both(process)
    with pytest.raises(LookupError):
        refreshing(one, failing).finish()
    refreshing(other, lambda: "new").finish()
    assert other.get("k", never, plan=EARLY) == "new"


def test_a_refresh_with_the_authority_down_needs_no_lease(process: Open) -> None:
    one, _ = both(process)
    one.ways[0].down = True
    loads: list[int] = []
    refreshing(one, lambda: loads.append(1)).finish()
    assert loads == [1]


def test_a_refresh_of_what_was_invalidated_loads(process: Open, clock: ManualClock) -> None:
    one, other = both(process)
    refreshing(one, lambda: "new").finish()
    clock.advance(1)
    assert one.invalidate(Invalidation.keys(["k"]))
    refreshing(other, lambda: "newest").finish()
    assert process().get("k", never, plan=EARLY) == "newest"


# --- to the last step -------------------------------------------------------------------------------------------------


def test_a_tag_that_only_the_result_names_is_loaded_with_a_lease_where_a_link_can_prove_it(process: Open) -> None:
    one = process()
    one.engine.use_link(StillLink())
    one.engine.link_up(one.clock.monotonic() + 3)
    one.get("k", lambda: "red", late=lambda value: (value,))
    assert any("TakeLease" in kind for kind in kinds(one))


def test_who_gets_the_lease_and_then_finds_a_value_gives_the_lease_back(
    process: Open, clock: ManualClock, tier: MemoryTier
) -> None:
    one, holder, other, waiter = waiting(process)
    key = one.request("k").key
    holder.finish()
    clock.advance(1.1 * LIFE)  # nobody told the waiter, and the lease ran out: it is had for the asking
    assert waiter.finish() == "theirs"
    assert tier.perform(TakeLease(key, b"third", LIFE)) is None
    assert forgotten(other)
    assert kinds(other)[-1] == "ReturnLease"


def test_a_call_that_is_interrupted_while_it_asks_for_the_lease_returns_what_it_may_have_got(
    process: Open, tier: MemoryTier
) -> None:
    one = process()
    call = one.loading("k", never).after(Together)
    call._answer = None, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        call.finish()
    assert tier.perform(TakeLease(one.request("k").key, b"other", LIFE)) is None
    assert forgotten(one)


@pytest.mark.parametrize("where", [Fetch, Load], ids=["while it asks", "while it loads"])
def test_a_refresh_that_is_interrupted_returns_its_lease(process: Open, tier: MemoryTier, where: type) -> None:
    one, _ = both(process)
    call = refreshing(one, lambda: "new").before(Together if where is Fetch else Load)
    call.step()
    call._answer = None, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        call.finish()
    returned = [done for done in one.ways[0].operations if isinstance(done, ReturnLease)]
    assert [done.ending for done in returned] == [Ending.GIVEN_UP]
    assert tier.perform(TakeLease(one.request("k").key, b"other", LIFE)) is None
    assert forgotten(one)


def test_a_refresh_asks_for_the_value_the_ids_and_the_lease_in_one_trip(process: Open) -> None:
    one, _ = both(process)
    one.ways[0].operations.clear()
    refreshing(one, lambda: "new").finish()
    assert kinds(one) == ["Fetch+TakeLease", "Store+ReturnLease"]
    together, stored = one.ways[0].operations
    assert isinstance(together, Together)
    assert isinstance(together.first, Fetch)
    assert isinstance(together.then, TakeLease)
    request = one.request("k")
    assert (list(together.first.keys), list(together.first.deps)) == ([request.key], list(request.deps))
    assert (together.then.key, together.then.seconds) == (request.key, LIFE)
    assert isinstance(stored, Together)
    assert isinstance(stored.then, ReturnLease)
    assert (stored.then.key, stored.then.holder, stored.then.ending) == (
        request.key, together.then.holder, Ending.STORED,
    )  # fmt: skip


def test_a_refresh_of_what_is_pending_takes_no_lease_and_shares_nothing(process: Open) -> None:
    one, _ = both(process)
    request = one.request("k", lambda: "new", plan=EARLY)
    one.ways[0].down = True
    one.invalidate(Invalidation.tags(["other"]))
    one.invalidate(Invalidation.keys(["k"]))
    one.ways[0].down = False
    one.ways[0].operations.clear()
    one.run(flows.refresh_ahead(one.engine, request))
    assert kinds(one) == []
    assert forgotten(one)


def test_a_lease_is_asked_for_with_what_its_asker_has_seen(process: Open, clock: ManualClock) -> None:
    one = process()
    call = one.loading("k", lambda: 1).after(Fetch)
    clock.advance(0.25)
    call.before(Together)
    take = call.effect[1].then
    assert (take.key, take.seconds, take.seen, take.looked) == (one.request("k").key, LIFE, b"", 0.25)
    call.finish()


def test_leases_are_kept_for_another_while_from_the_asking(process: Open, clock: ManualClock) -> None:
    one = process()
    holder = one.loading("k", lambda: 1).before(Load)
    (lease,) = one.engine.leases._ours.values()
    clock.advance(0.6 * LIFE)
    asked = clock.monotonic()
    keeping = Call(one.engine, flows.keep_leases(one.engine)).after(KeepLeases)
    assert keeping.effect[1] == KeepLeases([(lease.key, lease.holder)], LIFE)
    clock.advance(0.1)
    keeping.finish()
    assert lease.until == pytest.approx(asked + LIFE)
    assert not lease.lost
    holder.finish()


def test_a_lease_that_could_not_be_kept_for_want_of_an_answer_is_not_lost(process: Open, clock: ManualClock) -> None:
    one = process()
    holder = one.loading("k", lambda: 1).before(Load)
    (lease,) = one.engine.leases._ours.values()
    clock.advance(0.6 * LIFE)
    one.ways[0].down = True
    one.run(flows.keep_leases(one.engine))
    assert not lease.lost
    one.ways[0].down = False
    holder.finish()


def test_who_stores_just_as_the_lease_runs_out_overwrites_nothing(process: Open, clock: ManualClock) -> None:
    one = process()
    call = one.loading("k", lambda: 1).after(Load)
    (lease,) = one.engine.leases._ours.values()
    clock.advance(lease.until - clock.monotonic())
    call.step()
    assert call.effect[1].first.new_only
    call.finish()


def test_who_waited_for_one_that_was_given_up_may_wait_for_the_next(process: Open) -> None:
    one, other, third = process(), process(), process()
    first = one.loading("k", lambda: 1).before(Load)
    waiter = other.loading("k", never).before(AwaitLease)
    first._answer = None, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        first.finish()
    second = third.loading("k", lambda: "second").before(Load)
    waiter._answer = Woken.RAN_OUT, None
    waiter.step()
    waiter.before(AwaitLease)
    second.finish()
    end(other, waiter)
    assert waiter.finish() == "second"
