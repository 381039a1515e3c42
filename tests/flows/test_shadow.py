"""Shadow mode: the cache is tried and held against the loader, and never answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flows.harness import MemoryTier, Process
from flows.harness import plan as plan_of

from novacron_cache import MISSING, Cache, CacheModel, CacheSettings, DeclarationError, flows
from novacron_cache.events import Event, Hit, ShadowMismatch
from novacron_cache.flows.invalidating import Invalidation
from novacron_cache.testing import ManualClock


class Source:
    """A value that can be changed, and how often it was read."""

    def __init__(self) -> None:
        self.value: Any = "first"
        self.calls = 0

    def load(self, n: int = 0) -> Any:
        self.calls += 1
        return self.value

    async def aload(self, n: int = 0) -> Any:
        return self.load(n)


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(clock=clock) as cache:
        yield cache


@pytest.fixture
def source() -> Source:
    return Source()


def mismatches(cache: Cache) -> list[ShadowMismatch]:
    seen: list[ShadowMismatch] = []
    cache.on(ShadowMismatch, seen.append)
    return seen


def test_every_call_loads_and_what_the_cache_would_have_done_is_counted(cache: Cache, source: Source) -> None:
    load = cache.cached(str, key="n:<n>", shadow=1)(source.load)
    seen = mismatches(cache)
    assert [load(1), load(1), load(1), load(2)] == ["first"] * 4
    assert source.calls == 4
    stats = load.stats()
    assert (stats.shadow_hits, stats.shadow_misses, stats.shadow_mismatches) == ({"memory": 2}, 2, {})
    assert stats.shadow_hit_rate == 0.5
    assert (stats.hits, stats.misses, stats.hit_rate) == ({}, {"shadow": 4}, 0.0)
    assert seen == []


def test_a_value_that_is_out_of_date_is_told_with_how_long_it_has_been_and_never_answers(
    cache: Cache, source: Source, clock: ManualClock
) -> None:
    load = cache.cached(str, key="n:<n>", ttl=100, name="load", shadow=1)(source.load)
    seen = mismatches(cache)
    assert load(1) == "first"
    clock.advance(5)
    source.value = "second"
    assert load(1) == "second"
    clock.advance(7)
    assert load(1) == "second"
    assert [(one.key, one.tier, one.verdict) for one in seen] == [("n:1", "memory", "stale")] * 2
    assert [one.age for one in seen] == pytest.approx([5, 12])
    assert [one.seen_for for one in seen] == pytest.approx([0, 7])
    assert load.stats().shadow_mismatches == {"stale": 2}
    load.invalidate(1)
    assert [load(1), load(1)] == ["second", "second"]  # stored anew, and right from then on
    assert len(seen) == 2


def test_a_change_that_is_invalidated_while_the_loader_runs_is_no_staleness(cache: Cache, source: Source) -> None:
    seen = mismatches(cache)

    @cache.cached(str, key="key", shadow=1)
    def load() -> str:
        if source.calls:
            source.value = "second"
            cache.invalidate("key")
        return str(source.load())

    assert [load(), load()] == ["first", "second"]
    assert [one.verdict for one in seen] == ["in_flight"]


async def test_asynchronous_functions_have_it_too(source: Source) -> None:
    async with Cache() as cache:
        load = cache.cached(str, key="n:<n>", shadow=1)(source.aload)
        seen = mismatches(cache)
        assert [await load(1), await load(1)] == ["first", "first"]
        source.value = "second"
        assert await load(1) == "second"
        assert [one.verdict for one in seen] == ["stale"]


def test_batches_are_compared_value_by_value_in_one_load(cache: Cache) -> None:
    values = {1: "a", 2: "b"}
    asked: list[list[int]] = []

    @cache.cached_many(str, key="n:<n>", each="ns", shadow=1)
    def load(ns: list[int]) -> dict[int, str]:
        asked.append(ns)
        return {n: values[n] for n in ns if n in values}

    seen = mismatches(cache)
    assert load([1, 2, 3]) == {1: "a", 2: "b"}
    values[2] = "changed"
    assert load([1, 2, 3]) == {1: "a", 2: "changed"}
    assert asked == [[1, 2, 3], [1, 2, 3]]
    assert [one.key for one in seen] == ["n:2"]


def test_methods_and_many_are_in_shadow_too(cache: Cache, source: Source) -> None:
    class Host:
        @cache.cached(str, key="host:<n>", shadow=1)
        def load(self, n: int) -> str:
            return str(source.load())

    host = Host()
    assert host.load.many([1, 2]) == host.load.many([1, 2]) == ["first", "first"]
    assert [host.load(1), host.load(1)] == ["first", "first"]
    assert source.calls == 6
    assert host.load.stats().shadow_hits == {"memory": 4}


def test_looks_find_nothing_of_what_is_in_shadow(cache: Cache) -> None:
    class State(CacheModel, key="state:<no>", shadow=1):
        no: str

    load = cache.cached(State)(lambda no: State(no=no))
    load("1")
    assert load.peek("1") is MISSING
    assert State.entries.using(cache).get("1") is None
    assert cache.get("state:1", model=State) is None
    assert load.explain("1").reason == "shadow"
    assert load.explain("1").tiers == {"memory": "fresh"}
    assert cache.stats("State").misses == {"shadow": 3}


def test_a_value_in_its_grace_does_not_stand_in_for_an_error(cache: Cache, source: Source, clock: ManualClock) -> None:
    @cache.cached(int, key="key", ttl=10, grace=600, shadow=1)
    def load() -> int:
        return 1 // source.value  # type: ignore[no-any-return]  # a number here

    source.value = 1
    assert load() == 1
    clock.advance(11)
    source.value = 0
    with pytest.raises(ZeroDivisionError):
        load()
    assert cache.stats().stale == 0


def test_a_share_of_the_calls_tries_the_cache_and_none_is_answered(
    cache: Cache, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = iter([0.1, 0.3, 0.1, 0.3, 0.1])
    monkeypatch.setattr("novacron_cache.flows.unserved.chance.random", lambda: next(dice))
    load = cache.cached(str, key="n:<n>", shadow=0.2)(source.load)
    for _ in range(5):
        assert load(1) == "first"
    assert source.calls == 5
    assert (load.stats().shadow_hits, load.stats().shadow_misses) == ({"memory": 2}, 1)
    assert load.stats().misses == {"shadow": 5}


def test_settings_put_everything_into_shadow_and_take_one_function_out(source: Source) -> None:
    with Cache(CacheSettings(shadow=1, models={"live": {"shadow": 0}})) as cache:
        shadowed = cache.cached(str, key="a", name="shadowed")(lambda: str(source.load()))
        live = cache.cached(str, key="b", name="live")(lambda: str(source.load()))
        for load in (shadowed, live):
            load()
            load()
        assert source.calls == 3
        assert cache.get_or_load("key", source.load) == cache.get_or_load("key", source.load) == "first"
        assert source.calls == 5


def test_models_with_sets_compare_by_value_and_not_by_form(cache: Cache) -> None:
    class Group(CacheModel, key="group:<no>", shadow=1):
        no: str
        members: frozenset[str]

    orders = iter([["a", "b", "c"], ["c", "b", "a"]])
    load = cache.cached(Group)(lambda no: Group(no=no, members=frozenset(next(orders))))
    seen = mismatches(cache)
    load("1")
    load("1")
    assert seen == []


def test_the_shared_tier_is_tried_and_its_ids_decide(clock: ManualClock) -> None:
    tiers = [MemoryTier(clock=clock)]
    ours, theirs = Process(clock, tiers), Process(clock, tiers)
    shadowed = plan_of(shadow=1.0)
    assert ours.get("key", lambda: "first", plan=shadowed) == "first"
    assert theirs.get("key", lambda: "second", plan=shadowed) == "second"
    (found,) = theirs.seen(ShadowMismatch)
    assert (found.tier, found.verdict) == ("redis", "stale")
    assert not theirs.seen(Hit)
    assert theirs.engine.counters("thing").shadow_hits == {"redis": 1}
    ours.invalidate(Invalidation.keys(["key"]))
    clock.advance(3.1)
    assert theirs.get("key", lambda: "third", plan=shadowed) == "third"
    assert theirs.engine.counters("thing").shadow_misses == 1
    assert len(theirs.seen(ShadowMismatch)) == 1


def test_what_differs_is_remembered_within_bounds(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("novacron_cache.flows.unserved.MAX_DIFFERING", 3)
    process = Process(clock, [])
    shadowed = plan_of(shadow=1.0)
    for value in ("first", "second"):
        for n in range(5):
            process.get(f"key:{n}", lambda value=value: value, plan=shadowed)
    assert len(process.engine.differing) == 3


def test_warm_fills_the_cache_of_what_is_in_shadow(clock: ManualClock) -> None:
    process = Process(clock, [])
    request = process.request("key", lambda: "value", plan=plan_of(shadow=1.0))
    process.run(flows.fill(process.engine, [request]))
    assert process.run(flows.find(process.engine, [request]))[0].value == "value"


@pytest.mark.parametrize("share", [-0.1, 1.1, True, "half"])
def test_a_share_that_is_none_is_refused(cache: Cache, share: Any) -> None:
    with pytest.raises(DeclarationError, match="the share of calls"):
        cache.cached(str, key="key", shadow=share)(lambda: "value")


def test_events_of_shadow_mode_name_no_value(cache: Cache, source: Source) -> None:
    load = cache.cached(str, key="n:<n>", shadow=1)(source.load)
    events: list[Event] = []
    cache.on("*", events.append)
    load(1)
    source.value = "a secret"
    load(1)
    assert not any("secret" in repr(event) for event in events)


def test_how_long_a_value_has_differed_counts_anew_after_it_was_right(clock: ManualClock) -> None:
    process, shadowed = Process(clock, []), plan_of(shadow=1.0, ttl=200.0)
    for value in ("first", "second", "first"):
        process.get("key", lambda value=value: value, plan=shadowed)
        clock.advance(10)
    assert process.engine.differing == {}
    process.get("key", lambda: "third", plan=shadowed)
    assert [one.seen_for for one in process.seen(ShadowMismatch)] == pytest.approx([0, 0])
    assert [one.age for one in process.seen(ShadowMismatch)] == pytest.approx([10, 30])


def test_how_long_a_value_has_differed_is_that_of_this_value(clock: ManualClock) -> None:
    process, shadowed = Process(clock, []), plan_of(shadow=1.0, ttl=200.0)
    process.get("key", lambda: "first", plan=shadowed)
    process.get("key", lambda: "second", plan=shadowed)
    clock.advance(10)
    process.set("key", "third")
    process.get("key", lambda: "fourth", plan=shadowed)
    assert [one.seen_for for one in process.seen(ShadowMismatch)] == pytest.approx([0, 0])


def test_values_that_callers_could_change_are_compared_as_they_are_handed_out(clock: ManualClock) -> None:
    process, shadowed = Process(clock, []), plan_of(shadow=1.0)
    for value in (["a"], ["a"], ["b"]):
        assert process.get("key", lambda value=value: value, plan=shadowed) == value
    assert len(process.seen(ShadowMismatch)) == 1


def test_values_that_cannot_be_compared_count_as_different(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(one: Any, two: Any) -> None:
        raise ValueError("ambiguous")

    monkeypatch.setattr("novacron_cache.flows.unserved.difference", fail)
    process, shadowed = Process(clock, []), plan_of(shadow=1.0)
    for _ in range(2):
        assert process.get("key", lambda: "value", plan=shadowed) == "value"
    assert [one.verdict for one in process.seen(ShadowMismatch)] == ["stale"]


def test_what_is_equal_by_an_equality_of_its_own_does_not_differ(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("novacron_cache.flows.unserved.difference", lambda one, two: "somewhere")
    process, shadowed = Process(clock, []), plan_of(shadow=1.0)
    for value in (1, 1, 2):
        process.get("key", lambda value=value: value, plan=shadowed)
    assert len(process.seen(ShadowMismatch)) == 1


@pytest.mark.parametrize(("share", "tried"), [(1.0, 1), (0.0, 0)])
def test_all_calls_or_none_need_no_dice(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, share: float, tried: int
) -> None:
    thrown: list[float] = []

    def dice() -> float:
        thrown.append(0.0)
        return 0.0

    monkeypatch.setattr("novacron_cache.flows.unserved.chance.random", dice)
    process = Process(clock, [])
    process.set("key", "value")
    process.get("key", lambda: "value", plan=plan_of(shadow=share))
    assert process.engine.counters("thing").shadow_hits.total() == tried
    assert len(thrown) == 1 - tried
