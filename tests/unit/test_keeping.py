"""The thread that prolongs: what is in it, how often it is prolonged, and when the thread ends."""

from __future__ import annotations

import threading
import time
from functools import partial

from servers import wait_until

from novacron_cache import Cache
from novacron_cache.keeping import Keeper, LeaseKeeping


class Kept:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.idle = threading.Event()
        self.idle.set()
        self.prolonged: list[float] = []
        self.finished = False

    def over(self) -> bool:
        return self.finished

    def prolong(self) -> None:
        assert not self.idle.is_set()
        self.prolonged.append(time.monotonic())


def _both(one: Kept, other: Kept) -> bool:
    return bool(one.prolonged and other.prolonged)


def threads() -> int:
    return sum(thread.name == "novacron_cache keeper" for thread in threading.enumerate())


def test_what_lasts_for_a_short_time_is_prolonged_in_time_beside_what_lasts_long() -> None:
    keeper, long_, short = Keeper(), Kept(600.0), Kept(0.15)
    keeper.add(long_)
    keeper.add(short)
    wait_until(lambda: len(short.prolonged) >= 4)
    keeper.stop()
    assert long_.prolonged == []
    assert short.idle.is_set()


def test_the_thread_ends_with_the_last_that_it_prolongs_and_comes_back_for_the_next() -> None:
    before, keeper = threads(), Keeper()
    for _ in range(2):
        one, other = Kept(0.03), Kept(0.03)
        keeper.add(one)
        keeper.add(other)
        wait_until(partial(_both, one, other))
        assert threads() == before + 1
        keeper.remove(one)
        other.finished = True
        wait_until(lambda: threads() == before)


def test_what_was_removed_is_not_prolonged_again() -> None:
    keeper, one, other = Keeper(), Kept(0.03), Kept(0.03)
    keeper.add(one)
    keeper.add(other)
    wait_until(lambda: one.prolonged)
    keeper.remove(one)
    assert one.idle.wait(10)
    count, seen = len(one.prolonged), len(other.prolonged)
    wait_until(lambda: len(other.prolonged) > seen + 3)
    assert len(one.prolonged) == count
    keeper.stop()


def test_leases_are_looked_after_for_a_while_longer_than_there_are_any() -> None:
    with Cache() as cache:
        leases = cache.engine.leases
        told: list[bool] = []

        def held() -> None:
            told.append(True)

        leases.on_held = held
        keeping = LeaseKeeping(cache.engine)
        for _ in range(2):
            lease = leases.begin("k")
            leases.hold(lease, 1.0)
            leases.end(lease)
        assert told == [True]
        wait_until(keeping.over)
        leases.hold(leases.begin("k"), 1.0)
        assert told == [True, True]
        assert not keeping.over()
