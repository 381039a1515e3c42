"""The hottest keys: counted without a cost to hits, since the last look, and added up over processes."""

from __future__ import annotations

from novacron_cache import Cache
from novacron_cache.observe.hottest import FACT, KEPT, Hottest, hottest_of
from novacron_cache.observe.snapshot import Snapshot
from novacron_cache.testing import ManualClock


def test_only_hits_since_the_last_look_count() -> None:
    clock = ManualClock()
    with Cache() as cache:
        memory = cache.engine.memory
        assert memory is not None
        hottest = Hottest(clock.monotonic)
        cache.set("cold", 1)
        cache.set("hot", 1)
        for _ in range(5):
            cache.get("hot")
        clock.advance(2.0)
        assert hottest.since_last(memory) == {"seconds": 2.0, "keys": [["hot", "", 5]]}
        cache.get("cold")
        clock.advance(1.0)
        assert hottest.since_last(memory) == {"seconds": 1.0, "keys": [["cold", "", 1]]}


def test_a_value_that_was_replaced_begins_anew_and_one_that_was_invalidated_is_gone() -> None:
    with Cache() as cache:
        memory = cache.engine.memory
        assert memory is not None
        hottest = Hottest()
        for key in ("replaced", "gone"):
            cache.set(key, 1)
            cache.get(key)
        hottest.since_last(memory)
        cache.set("replaced", 2)
        cache.get("replaced")
        cache.get("gone")
        cache.invalidate("gone")
        assert hottest.since_last(memory)["keys"] == [["replaced", "", 1]]


def test_a_process_tells_a_bounded_number() -> None:
    with Cache() as cache:
        memory = cache.engine.memory
        assert memory is not None
        for number in range(3 * KEPT):
            cache.set(f"k:{number}", number)
            for _ in range(number):
                cache.get(f"k:{number}")
        keys = Hottest().since_last(memory)["keys"]
        assert [key for key, *_ in keys] == [f"k:{number}" for number in range(3 * KEPT - 1, 2 * KEPT - 1, -1)]


def test_processes_are_added_up_by_their_rates_and_nonsense_is_left_out() -> None:
    def told(fact: object) -> Snapshot:
        return Snapshot(facts={FACT: fact})

    found = hottest_of(
        [
            told({"seconds": 2.0, "keys": [["a", "M", 10], ["b", "M", 2]]}),
            told({"seconds": 1.0, "keys": [["b", "M", 5]]}),
            told({"seconds": 0, "keys": [["c", "M", 5]]}),
            told({"seconds": "x", "keys": 5}),
            told(None),
            Snapshot(),
        ]
    )
    assert found == [("b", "M", 6.0), ("a", "M", 5.0)]
