"""What `explain` tells where a tier is down, and of values that are there and may not be served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.parts import ArchiveTier, Shelf

from novacron_cache import Cache, CacheSettings
from novacron_cache.effects import Fetch
from novacron_cache.errors import TierUnavailableError
from novacron_cache.markers import new_id, tag_dep
from novacron_cache.testing import ManualClock


class Failing(ArchiveTier):
    """A tier whose questions fail that a test names, by their class and what they ask for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.failing: Callable[[Any], bool] = lambda operation: False

    def perform(self, operation: Any) -> Any:
        if self.failing(operation):
            raise TierUnavailableError("down", tier=self.name)
        return super().perform(operation)


class Attic(Failing):
    name = "attic"


@pytest.fixture
def tiers(clock: ManualClock) -> list[Failing]:
    return [Failing(Shelf(), clock=clock), Attic(Shelf(), clock=clock)]


@pytest.fixture
def cache(tiers: list[Failing], clock: ManualClock) -> Iterator[Cache]:
    settings = CacheSettings(namespace="shop", memory={"enabled": False})
    with Cache(settings, tiers=tiers, clock=clock) as cache:
        yield cache


def test_a_cache_without_process_memory_tells_of_the_others_alone(cache: Cache) -> None:
    cache.set("k", 1, tags=["t"])
    found = cache.explain("k")
    assert (found.tier, found.tiers) == ("archive", {"archive": "fresh", "attic": "fresh"})
    assert found.tag_states == {"t": "current"}
    assert cache.explain("other").reason == "cold"


def test_a_far_tier_that_is_down_takes_nothing_from_a_nearer_one(cache: Cache, tiers: list[Failing]) -> None:
    cache.set("k", 1)
    tiers[1].failing = lambda operation: True
    found = cache.explain("k")
    assert (found.tier, found.tiers) == ("archive", {"archive": "fresh", "attic": "down"})


def test_without_the_markers_nothing_further_away_is_asked(cache: Cache, tiers: list[Failing]) -> None:
    cache.set("k", 1)
    tiers[0].failing = lambda operation: True
    found = cache.explain("k")
    assert (found.tier, found.reason, found.tiers) == (None, "tier_down", {"archive": "down"})


def test_a_value_whose_ids_cannot_be_asked_for_is_not_served(cache: Cache, tiers: list[Failing]) -> None:
    cache.set("k", 1, tags=["t"])
    tiers[0].failing = lambda operation: isinstance(operation, Fetch) and not operation.keys
    found = cache.explain("k")
    assert (found.tier, found.tiers["archive"]) == (None, "invalidated")


def test_a_value_stored_with_other_tags_than_are_declared_now_is_another_schema_s(cache: Cache) -> None:
    before = cache.cached(int, key="n:<n>", name="n", tags=["red"])(lambda n: 1)
    before(1)
    after = cache.cached(int, key="n:<n>", name="n", tags=["red", "round"])(lambda n: 2)
    assert before.explain(1).reason == "hit"
    found = after.explain(1)
    assert (found.tier, found.reason) == (None, "schema")


def test_a_value_that_an_undelivered_invalidation_names_is_pending(cache: Cache) -> None:
    cache.set("k", 1, tags=["t"])
    assert cache.explain("k").tier == "archive"
    cache.engine.pending.add([(tag_dep("t"), new_id())])
    found = cache.explain("k")
    assert (found.tier, found.reason) == (None, "pending")


@pytest.mark.parametrize("consistency", ["bounded", "strong"])
def test_process_memory_alone_tells_of_a_hit_wherever_the_next_call_is_one(
    clock: ManualClock, consistency: Any
) -> None:
    with Cache(clock=clock) as alone:
        load = alone.cached(int, key="n:<n>", ttl=10, refresh_ahead=0.5, consistency=consistency)(lambda n: n)
        load(1)
        for seconds in (1, 5):  # the second time an early refresh is due
            clock.advance(seconds)
            found = load.explain(1)
            assert (found.tier, found.reason, found.tiers) == ("memory", "hit", {"memory": "fresh"})
        assert load(1) == 1
        assert load.stats().loads == 1
        clock.advance(4)
        assert load.explain(1).reason == "expired"
