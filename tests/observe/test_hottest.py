"""The hottest keys: counted without a cost to hits, since the last look, and added up over processes."""

from __future__ import annotations

import pytest

from novacron_cache import Cache
from novacron_cache.observe.hottest import FACT, KEPT, UNWATCHED, HotKey, Hottest, hottest_of
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
        assert hottest.since_last(memory) == {"seconds": 2.0, "keys": [["hot", "", 5, 0, 0]]}
        cache.get("cold")
        clock.advance(1.0)
        assert hottest.since_last(memory) == {"seconds": 1.0, "keys": [["cold", "", 1, 0, 0]]}


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
        assert hottest.since_last(memory)["keys"] == [["replaced", "", 1, 0, 0]]


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


def test_what_memory_could_not_answer_makes_the_hit_rate_while_somebody_looks() -> None:
    clock = ManualClock()
    with Cache() as cache:
        memory = cache.engine.memory
        assert memory is not None
        hottest = Hottest(clock.monotonic, cache.engine.listeners)
        cache.get_or_load("k", lambda: 1)
        assert not hottest.listening
        assert hottest.since_last(memory)["keys"] == [], "nobody had looked before"
        cache.invalidate("k")
        for _ in range(4):
            cache.get_or_load("k", lambda: 1)
        told = Snapshot(facts={FACT: hottest.since_last(memory)})
        assert told.facts[FACT]["keys"] == [["k", "", 3, 0, 1]]
        (found,) = hottest_of([told])
        assert (found.key, found.hit_rate) == ("k", 0.75)
        clock.advance(UNWATCHED + 1)
        cache.get_or_load("other", lambda: 1)
        assert not hottest.listening


def test_a_bounded_number_of_keys_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("novacron_cache.observe.hottest.MAX_COUNTED", 2)
    with Cache() as cache:
        memory = cache.engine.memory
        assert memory is not None
        hottest = Hottest(listeners=cache.engine.listeners)
        hottest.since_last(memory)
        for number in range(5):
            cache.get_or_load(f"k{number}", lambda: 1)
            cache.get(f"k{number}")
        missed = {key: row for key, *_, row in hottest.since_last(memory)["keys"]}
        assert sum(missed.values()) == 2


def test_processes_are_added_up_by_their_rates_and_nonsense_is_left_out() -> None:
    def told(fact: object) -> Snapshot:
        return Snapshot(facts={FACT: fact})

    found = hottest_of(
        [
            told({"seconds": 2.0, "keys": [["a", "M", 10, 4, 6], ["b", "M", 2, 0, 0]]}),
            told({"seconds": 1.0, "keys": [["b", "M", 5, 0, 2]]}),
            told({"seconds": 0, "keys": [["c", "M", 5, 0, 0]]}),
            told({"seconds": 1.0, "keys": [["d", "M", 5]]}),
            told({"seconds": "x", "keys": 5}),
            told(None),
            Snapshot(),
        ]
    )
    assert found == [HotKey("b", "M", 6.0, 0.75), HotKey("a", "M", 5.0, 0.7)]
