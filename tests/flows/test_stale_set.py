"""A slow loader never brings back what was invalidated while it ran, whoever invalidated it and by what name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flows.harness import (
    BOUND,
    MISSING,
    Call,
    Capture,
    Fetch,
    Invalidation,
    Load,
    ManualClock,
    MemoryTier,
    Process,
    ReadRules,
    Renew,
    Store,
    plan,
)

from novacron_cache import flows
from novacron_cache.events import NotStored
from novacron_cache.markers import RULES, key_dep, tag_dep

KEY = "vm:1"
TAGS = ("node:1", "rack:7")

MEANS: dict[str, Callable[[], Invalidation]] = {
    "key": lambda: Invalidation.keys([KEY]),
    "tag": lambda: Invalidation.tags(["node:1"]),
    "one of several tags": lambda: Invalidation.tags(["other", "rack:7"]),
    "all of several tags": lambda: Invalidation.tags(TAGS, match_all=True),
    "model": lambda: Invalidation.model("thing"),
    "pattern of a segment": lambda: Invalidation.pattern("vm:*"),
    "pattern without wildcards": lambda: Invalidation.pattern("vm:1"),
    "pattern of everything": lambda: Invalidation.pattern("*"),
    "another glob": lambda: Invalidation.pattern("v?:[0-9]"),
    "everything": Invalidation.everything,
}


@pytest.fixture(params=[1, 2], ids=["one shared tier", "two shared tiers"])
def tiers(request: pytest.FixtureRequest, clock: ManualClock) -> list[MemoryTier]:
    return [MemoryTier(clock=clock) for _ in range(request.param)]


def overrule(process: Process, means: str) -> None:
    if means == "set":
        process.set(KEY, "new", tags=TAGS)
    else:
        process.invalidate(MEANS[means]())


every_means = pytest.mark.parametrize("means", [*MEANS, "set"])
every_moment = pytest.mark.parametrize(
    ("kind", "carried_out"),
    [(Fetch, True), (Capture, False), (Capture, True), (Load, False), (Load, True), (Store, False), (Store, True)],
    ids=lambda value: value.__name__ if isinstance(value, type) else ("after" if value else "before"),
)


def stop(call: Call, kind: type, carried_out: bool) -> None:
    (call.after if carried_out else call.before)(kind)


@every_means
@every_moment
def test_a_value_invalidated_here_while_it_loads_is_never_served_again(
    ours: Process, theirs: Process, clock: ManualClock, means: str, kind: type, carried_out: bool
) -> None:
    source = ["old"]
    call = ours.loading(KEY, lambda: source[0], tags=TAGS)
    stop(call, kind, carried_out)
    source[0] = "new"
    overrule(ours, means)
    assert call.finish() in ("old", "new")  # it began before
    assert ours.get(KEY, lambda: "new", tags=TAGS) == "new"
    assert theirs.get(KEY, lambda: "new", tags=TAGS) == "new"
    clock.advance(BOUND + 0.1)
    assert ours.get(KEY, lambda: "new", tags=TAGS) == "new"


@every_means
@every_moment
def test_a_value_invalidated_elsewhere_while_it_loads_is_served_within_the_bound_at_most(
    ours: Process, theirs: Process, clock: ManualClock, means: str, kind: type, carried_out: bool
) -> None:
    source = ["old"]
    call = ours.loading(KEY, lambda: source[0], tags=TAGS)
    stop(call, kind, carried_out)
    source[0] = "new"
    overrule(theirs, means)
    assert theirs.get(KEY, lambda: "new", tags=TAGS) == "new"
    assert call.finish() in ("old", "new")
    assert theirs.get(KEY, lambda: "new", tags=TAGS) == "new"
    clock.advance(BOUND + 0.1)
    assert ours.get(KEY, lambda: "new", tags=TAGS) == "new"
    assert theirs.get(KEY, lambda: "new", tags=TAGS) == "new"


@every_means
def test_the_shared_tiers_never_hand_out_what_was_stored_under_older_ids(
    ours: Process, theirs: Process, means: str
) -> None:
    call = ours.loading(KEY, lambda: "old", tags=TAGS).after(Load)
    overrule(theirs, means)
    call.finish()
    overruled = "new" if means == "set" else MISSING
    # The late payload may have displaced the one that was set; it is not served in its place.
    assert theirs.peek(KEY, tags=TAGS) is overruled or theirs.peek(KEY, tags=TAGS) == overruled
    others = Process(ours.clock, [way.tier for way in ours.ways])
    assert others.peek(KEY, tags=TAGS) in (overruled, MISSING)
    assert others.get(KEY, lambda: "new", tags=TAGS) == "new"


@every_means
def test_memory_alone_does_not_keep_what_was_invalidated_while_it_loaded(clock: ManualClock, means: str) -> None:
    process = Process(clock, [])
    call = process.loading(KEY, lambda: "old", tags=TAGS).after(Load)
    overrule(process, means)
    assert call.finish() == "old"
    assert process.get(KEY, lambda: "new", tags=TAGS) == "new"
    assert [event.reason for event in process.seen(NotStored)] == ["invalidated"]


@every_means
def test_a_far_tier_that_kept_a_value_through_an_invalidation_never_serves_it(clock: ManualClock, means: str) -> None:
    near, far = MemoryTier(clock=clock), MemoryTier(clock=clock)
    ours = Process(clock, [near, far])
    assert ours.get(KEY, lambda: "old", tags=TAGS) == "old"
    near.clear()  # payloads only: the markers stay
    overrule(Process(clock, [near]), means)
    near.clear()
    restarted = Process(clock, [near, far])
    assert restarted.peek(KEY, tags=TAGS) is MISSING
    assert restarted.get(KEY, lambda: "new", tags=TAGS) == "new"


def test_a_far_tier_serves_what_was_not_invalidated_and_hands_it_nearer(clock: ManualClock) -> None:
    near, far = MemoryTier(clock=clock), MemoryTier(clock=clock)
    Process(clock, [near, far]).get(KEY, lambda: "value", tags=TAGS)
    near.clear()
    process = Process(clock, [near, far])
    assert process.peek(KEY, tags=TAGS) == "value"
    assert process.ways[0].count(Store) == 1
    assert Process(clock, [near]).peek(KEY, tags=TAGS) == "value"


@pytest.mark.parametrize("dep", [key_dep(KEY), tag_dep("node:1"), "n", RULES, "m:thing", "p:vm"])
def test_a_value_whose_marker_is_lost_is_not_served(
    ours: Process, tiers: list[MemoryTier], clock: ManualClock, dep: str
) -> None:
    ours.get(KEY, lambda: "old", tags=TAGS)
    del tiers[0]._markers[dep]
    others = Process(clock, tiers)
    assert others.get(KEY, lambda: "new", tags=TAGS) == "new"
    clock.advance(BOUND + 0.1)
    assert ours.get(KEY, lambda: "newest", tags=TAGS) == "new"


def test_an_emptied_authority_costs_misses_and_no_stale_value(ours: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "old", tags=TAGS)
    emptied = ours.ways[0].tier
    emptied.clear()
    emptied._markers.clear()
    emptied._rules.clear()
    clock.advance(BOUND + 0.1)
    assert ours.get(KEY, lambda: "new", tags=TAGS) == "new"


def test_a_rule_spares_what_it_does_not_match_even_where_the_log_was_never_read(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.get("vm:1", lambda: "one", tags=TAGS)
    ours.get("vm:2", lambda: "two")
    before = ours.ways[0].count(ReadRules)
    theirs.invalidate(Invalidation.pattern("v*:1"))
    clock.advance(BOUND + 0.1)
    assert ours.peek("vm:2") == "two"
    assert ours.peek("vm:1", tags=TAGS) is MISSING
    assert ours.ways[0].count(ReadRules) == before + 1


def test_two_processes_that_append_rules_at_once_lose_neither(ours: Process, theirs: Process) -> None:
    ours.get("vm:1", lambda: "old")
    ours.get("db:2", lambda: "old")
    first = Call(ours.engine, flows.invalidate(ours.engine, Invalidation.pattern("v*:1"))).after(Capture)
    second = Call(theirs.engine, flows.invalidate(theirs.engine, Invalidation.pattern("d*:2"))).after(Capture)
    first.finish()
    second.finish()
    others = Process(ours.clock, [way.tier for way in ours.ways])
    assert others.peek("vm:1") is MISSING
    assert others.peek("db:2") is MISSING


def test_a_slow_load_does_not_lengthen_the_bound(ours: Process, theirs: Process, clock: ManualClock) -> None:
    call = ours.loading(KEY, lambda: "old").after(Load)
    theirs.invalidate(Invalidation.keys([KEY]))
    clock.advance(BOUND + 0.1)
    call.finish()
    assert ours.get(KEY, lambda: "new") == "new"


def test_who_joins_a_slow_load_late_does_not_get_what_was_invalidated_elsewhere_before_the_bound(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    call = ours.loading(KEY, lambda: "old").after(Load)
    theirs.invalidate(Invalidation.keys([KEY]))
    clock.advance(BOUND + 0.1)
    late = ours.loading(KEY, lambda: "new")
    while not late.stuck:
        late.step()
    call.finish()
    assert late.finish() == "new"


def test_who_joins_a_slow_load_late_shares_it_when_nothing_was_invalidated(ours: Process, clock: ManualClock) -> None:
    call = ours.loading(KEY, lambda: "value").after(Load)
    clock.advance(BOUND + 0.1)
    late = ours.loading(KEY, lambda: "another")
    while not late.stuck:
        late.step()
    call.finish()
    assert late.finish() == "value"


def test_a_slow_answer_of_the_shared_tier_does_not_lengthen_the_bound(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.get(KEY, lambda: "old")
    call = ours.loading(KEY, lambda: "old").after(Fetch)
    theirs.invalidate(Invalidation.keys([KEY]))
    clock.advance(BOUND + 0.1)
    call.finish()
    assert ours.get(KEY, lambda: "new") == "new"


def test_touching_a_value_does_not_lengthen_the_bound(ours: Process, theirs: Process, clock: ManualClock) -> None:
    ours.get(KEY, lambda: "old")
    theirs.invalidate(Invalidation.keys([KEY]))
    for _ in range(4):
        clock.advance(BOUND / 3)
        ours.run(flows.touch(ours.engine, [ours.request(KEY)], 600.0))
    assert ours.get(KEY, lambda: "new") == "new"


def test_touching_a_value_with_late_tags_does_not_lengthen_the_bound(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.get(KEY, lambda: "old", late=lambda _: ("late",))
    theirs.invalidate(Invalidation.tags(["late"]))
    for _ in range(4):
        clock.advance(BOUND / 3)
        ours.run(flows.touch(ours.engine, [ours.request(KEY)], 600.0))
    assert ours.get(KEY, lambda: "new", late=lambda _: ("late",)) == "new"


def test_an_invalidation_that_is_sent_twice_does_not_bring_back_what_came_between(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    ours.ways[0].lossy = True
    assert not ours.invalidate(Invalidation.keys([KEY]))  # it arrived; its answer was lost
    assert theirs.get(KEY, lambda: "old") == "old"
    theirs.invalidate(Invalidation.keys([KEY]))
    ours.ways[0].lossy = False
    clock.advance(60.0)
    assert ours.deliver()
    assert theirs.get(KEY, lambda: "new") == "new"
    assert ours.get(KEY, lambda: "newest") == "new"


def test_a_rule_that_is_sent_twice_does_not_bring_back_what_came_between(
    ours: Process, theirs: Process, clock: ManualClock
) -> None:
    theirs.get("warm:up", lambda: 0)
    flow = Call(ours.engine, flows.invalidate(ours.engine, Invalidation.pattern("x*:1"))).before(Renew)
    ours.ways[0].lossy = True
    flow.finish()
    assert ours.engine.pending
    assert theirs.get(KEY, lambda: "old") == "old"
    theirs.invalidate(Invalidation.pattern("v*:1"))
    ours.ways[0].lossy = False
    clock.advance(60.0)
    assert ours.deliver()
    others = Process(clock, [way.tier for way in ours.ways])
    assert others.get(KEY, lambda: "new") == "new"
    assert theirs.get(KEY, lambda: "newest") == "new"


def test_grace_never_stands_in_with_a_value_invalidated_while_the_loader_failed(
    ours: Process, clock: ManualClock
) -> None:
    def fail() -> str:
        raise RuntimeError("no")

    graceful = plan("graceful", ttl=10.0, grace=600.0)
    Process(clock, [way.tier for way in ours.ways]).get(KEY, lambda: "old", plan=graceful)
    clock.advance(11.0)
    call = ours.loading(KEY, fail, plan=graceful).after(Load)
    ours.invalidate(Invalidation.keys([KEY]))
    with pytest.raises(RuntimeError, match="no"):
        call.finish()
