"""The what-if curve: as good as a simulation of everything, and free for keys that are not in the sample."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import accumulate

import pytest

from novacron_cache import Cache, CacheSettings
from novacron_cache.entry import Entry
from novacron_cache.observe.curves import Curve, curve_of
from novacron_cache.observe.snapshot import Snapshot
from novacron_cache.observe.whatif import FACT, FEW, MINIATURE, SIZES, Miniatures, WhatIf
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.policies import make_policy

ITEMS = 10_000


def spread(key: str) -> int:
    """A hash that is the same in each run."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big")


def zipf(calls: int, keys: int, alpha: float, seed: int) -> Iterator[str]:
    """Keys of which the n-th is asked for in proportion to n to the power of -alpha."""
    chance = random.Random(seed)  # noqa: S311 - a trace
    bounds = list(accumulate((rank + 1) ** -alpha for rank in range(keys)))
    for _ in range(calls):
        yield f"k:{bisect(bounds, chance.random() * bounds[-1])}"


def polluted(calls: int, keys: int, seed: int) -> Iterator[str]:
    """The same, with a scan over keys that nobody asks for again after every few thousand calls."""
    scanned = 0
    for number, key in enumerate(zipf(calls, keys, 0.9, seed)):
        yield key
        if number % 10_000 == 9_999:
            for _ in range(4_000):
                scanned += 1
                yield f"scan:{scanned}"


def simulated(policy: str, items: int, trace: list[str]) -> float:
    """The hit rate of a whole cache."""
    cache, hits = make_policy(policy, items), 0
    for key in trace:
        entry = cache.get(key)
        if entry is None:
            cache.add(Entry(key, None, expires=1e9))
        else:
            entry.hits += 1
            hits += 1
    return hits / len(trace)


def curve_from(sampler: WhatIf) -> Curve:
    curve = curve_of([Snapshot("one", facts={FACT: sampler.look()})])
    assert curve is not None
    return curve


def estimated(policy: str, items: int, trace: list[str], look: int = 5_000) -> Curve:
    """The curve that a working cache gives, looked at again and again."""
    settings = CacheSettings(memory={"max_items": items, "policy": policy, "ttl": "10h"}, default_ttl="10h")
    with Cache(settings, clock=ManualClock()) as cache:

        @cache.cached(int, key="<key>")
        def get(key: str) -> int:
            return len(key)

        sampler = WhatIf(cache, hashed=spread)
        sampler.look()
        for number, key in enumerate(trace):
            get(key)
            if number % look == 0:
                sampler.look()
        return curve_from(sampler)


TRACES: dict[str, Callable[[], list[str]]] = {
    "zipf 0.8": lambda: list(zipf(60_000, 60_000, 0.8, 1)),
    "zipf 1.0": lambda: list(zipf(60_000, 60_000, 1.0, 2)),
    "a scan in between": lambda: list(polluted(50_000, 40_000, 3)),
}


class TestAgainstAFullSimulation:
    @pytest.mark.parametrize("name", TRACES)
    def test_a_working_cache_tells_each_size_within_two_points(self, name: str) -> None:
        trace = TRACES[name]()
        for size, items, rate in estimated("s3fifo", ITEMS, trace).points:
            if size in (0.25, 1.0, 2.0):
                assert rate == pytest.approx(simulated("s3fifo", items, trace), abs=0.02), f"{size} times the size"

    # None of those that take one of several at random: it is another one in the simulation.
    @pytest.mark.parametrize("policy", ["lru", "FIFOCache"])
    def test_so_it_does_with_other_policies(self, policy: str) -> None:
        items, trace = 3_000, list(zipf(20_000, 10_000, 0.9, 4))
        for size, held, rate in estimated(policy, items, trace).points:
            if size in (0.25, 1.0):
                assert rate == pytest.approx(simulated(policy, held, trace), abs=0.02), f"{size} times the size"

    def test_miniatures_that_see_everything_are_the_whole_cache(self) -> None:
        trace = list(zipf(10_000, 4_000, 0.9, 5))
        caches = Miniatures("s3fifo", 500, None, 1.0)
        for key in trace:
            caches.asked(key, 0.0)
            caches.keep(key, 0, 0.0, 1e9)
        for size, missed in zip(SIZES, caches.misses, strict=True):
            assert 1 - missed / len(trace) == pytest.approx(simulated("s3fifo", round(500 * size), trace))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Iterator[Cache]:
    with Cache(CacheSettings(memory={"max_items": 100, "ttl": "1h"}), clock=clock) as made:
        yield made


def held(cache: Cache) -> list[Entry]:
    assert cache.engine.memory is not None
    return cache.engine.memory.entries()


class TestWhatAHitPays:
    def test_a_key_outside_the_sample_is_answered_by_the_front(self) -> None:
        with Cache(CacheSettings(memory={"max_items": 100_000})) as cache:

            @cache.cached(int, key="n:<n>")
            def get(n: str) -> int:
                return 1

            WhatIf(cache, hashed=lambda key: 0 if key == "n:in" else 2**24 - 1).look()
            for _ in range(3):
                get("in"), get("out")
            fronts = {entry.logical: len(entry.fronts) // 2 for entry in held(cache)}
        assert fronts == {"n:in": 0, "n:out": 1}

    def test_a_sampled_key_that_was_in_a_front_is_taken_out_and_put_back_when_it_ends(self, cache: Cache) -> None:
        @cache.cached(int, key="n:<n>")
        def get(n: int) -> int:
            return n

        get(1)
        (entry,) = held(cache)
        assert entry.fronts
        sampler = WhatIf(cache, hashed=lambda _: 0)
        sampler.look()
        get(1)
        assert not entry.fronts
        sampler.stop()
        get(1)
        assert entry.fronts
        assert cache.engine.key_sample is None

    def test_a_hot_key_is_let_in_after_a_few_hits_and_watched_again_after_the_next_look(self, cache: Cache) -> None:
        @cache.cached(int, key="n:<n>")
        def get(n: int) -> int:
            return n

        sampler = WhatIf(cache)
        sampler.look()
        for _ in range(FEW + 2):
            get(1)
        (entry,) = held(cache)
        assert entry.fronts
        sampler.look()
        assert not entry.fronts

    def test_nobody_looking_ends_it(self, cache: Cache, clock: ManualClock) -> None:
        sampler = WhatIf(cache, patience=30.0)
        sampler.look()
        clock.advance(31)
        cache.get_or_load("a", lambda: 1)
        assert not sampler.runs
        assert cache.engine.key_sample is None

    def test_what_it_keeps_is_bounded(self, cache: Cache) -> None:
        sampler = WhatIf(cache)
        sampler.look()
        for number in range(2_000):
            cache.get_or_load(str(number), lambda: 1)
        sampler.look()
        assert sampler._miniatures is not None
        held = [len(one) for one in sampler._miniatures._caches]
        assert held == [round(100 * size) for size in SIZES]
        assert max(held) <= MINIATURE * SIZES[-1]


class TestWhatIsNoLongerValid:
    def test_an_invalidated_value_is_a_miss_at_every_size(self, cache: Cache) -> None:
        sampler = WhatIf(cache)
        sampler.look()
        for _ in range(10):
            cache.get_or_load("a", lambda: 1)
            cache.invalidate("a")
        figures = sampler.look()
        assert figures is not None
        assert figures["misses"] == [10.0] * len(SIZES)

    def test_so_is_an_expired_one(self, cache: Cache, clock: ManualClock) -> None:
        sampler = WhatIf(cache, patience=1e6)
        sampler.look()
        for _ in range(10):
            cache.get_or_load("a", lambda: 1, ttl=1.0)
            clock.advance(2)
            sampler.look()
        figures = sampler.look()
        assert figures is not None
        assert len(set(figures["misses"])) == 1
        assert figures["misses"][0] == pytest.approx(10, rel=0.2)  # what was counted first counts a little less

    def test_an_evicted_one_is_a_hit_of_a_larger_memory(self, cache: Cache) -> None:
        sampler = WhatIf(cache)
        sampler.look()
        for _ in range(3):
            for number in range(150):
                cache.get_or_load(str(number), lambda: 1)
        figures = sampler.look()
        assert figures is not None
        assert figures["misses"][SIZES.index(2.0)] == 150
        assert figures["misses"][SIZES.index(1.0)] > 150


def told(misses: list[float], calls: float = 1000.0, hits: float = 800.0, items: int = 1000) -> Snapshot:
    fact = {"policy": "s3fifo", "items": items, "bytes": None, "calls": calls, "hits": hits, "seconds": 9.0}
    return Snapshot(f"p{calls}", facts={FACT: {**fact, "misses": misses}})


class TestTheCurve:
    def test_it_goes_through_what_was_measured(self) -> None:
        curve = curve_of([told([400, 300, 210, 100, 50])])
        assert curve is not None
        assert [rate for size, _, rate in curve.points if size == 1.0] == [pytest.approx(0.8)]

    def test_the_size_for_a_hit_rate_lies_between_the_points(self) -> None:
        curve = curve_of([told([400, 300, 200, 100, 0])])
        assert curve is not None
        assert 2000 < (curve.size_for(0.95) or 0) < 4000
        assert curve.size_for(0.9) == pytest.approx(2000, abs=2)
        assert curve.size_for(0.5) == 250

    def test_a_hit_rate_that_no_size_reaches_has_none(self) -> None:
        curve = curve_of([told([400, 300, 200, 150, 120])])
        assert curve is not None
        assert (curve.size_for(0.95), curve.best) == (None, pytest.approx(0.88))

    def test_several_processes_are_added_up(self) -> None:
        curve = curve_of([told([400, 300, 200, 100, 0]), told([0, 0, 0, 0, 0], 3000, 3000)])
        assert curve is not None
        assert curve.measured == pytest.approx(0.95)

    @pytest.mark.parametrize("broken", [{}, {"misses": 3}, {"misses": ["x"] * 5}, {"misses": [float("nan")] * 5}])
    def test_nonsense_is_left_out(self, broken: dict[str, object]) -> None:
        good = told([400, 300, 200, 100, 0])
        bad = Snapshot("b", facts={FACT: {**good.facts[FACT], **broken}}) if broken else Snapshot("b")
        assert curve_of([good, bad]) == curve_of([good])
        assert curve_of([bad]) is None

    def test_it_travels_with_what_is_published_while_somebody_watches(self, cache: Cache) -> None:
        cache.observer.watched_figures()
        cache.get_or_load("a", lambda: 1)
        again = Snapshot.decode(cache.observer.watched_figures().encode())
        assert again is not None
        assert FACT in again.facts
        assert FACT not in cache.observer.own_figures().facts
