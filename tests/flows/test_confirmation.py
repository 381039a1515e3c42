"""What a tier says is as good as the word that it is the one that counts."""

from __future__ import annotations

from flows.harness import BOUND, Process

from novacron_cache.entry import MISSING
from novacron_cache.flows.invalidating import Invalidation
from novacron_cache.testing import ManualClock
from novacron_cache.tiers.memory import MemoryTier


def test_what_was_read_is_bounded_from_when_the_master_was_last_confirmed() -> None:
    clock = ManualClock()
    server = MemoryTier(clock=clock)
    ours, theirs = Process(clock, [server]), Process(clock, [server])
    ours.set("k", 1)
    confirmed = clock.monotonic()
    theirs.ways[0].confirmed_at = lambda: confirmed  # type: ignore[method-assign]  # of this test alone
    clock.advance(2.0)
    assert theirs.peek("k") == 1
    ours.invalidate(Invalidation.keys(["k"]))
    clock.advance(BOUND - 2.0 - 0.1)
    assert theirs.peek("k") == 1
    clock.advance(0.1)
    assert theirs.peek("k") is MISSING


def test_what_was_loaded_is_bounded_from_its_load() -> None:
    # Otherwise process memory would keep nothing while nobody can be asked who the master is.
    clock = ManualClock()
    process = Process(clock, [MemoryTier(clock=clock)])
    process.ways[0].confirmed_at = lambda: clock.monotonic() - 10.0  # type: ignore[method-assign]  # of this test alone
    assert process.get("k", lambda: 1) == 1
    clock.advance(BOUND - 0.1)
    assert process.get("k", lambda: 2) == 1


def test_ids_read_while_a_server_is_met_for_the_first_time_are_read_again() -> None:
    clock = ManualClock()
    server = MemoryTier(clock=clock)
    process = Process(clock, [server])
    process.set("k", 1)
    met = 0
    way = process.ways[0]
    perform = way.perform

    def meeting(operation: object) -> object:
        nonlocal met
        met += met < 1
        return perform(operation)  # type: ignore[arg-type]  # whatever a flow asks

    way.perform = meeting  # type: ignore[method-assign, assignment]  # of this test alone
    way.encounters = lambda: met  # type: ignore[method-assign]  # of this test alone
    way.operations.clear()
    clock.advance(BOUND)
    assert process.peek("k") == 1
    assert [type(one).__name__ for one in way.operations].count("Fetch") == 2
