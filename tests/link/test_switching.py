"""The interpreter's switch interval is short while a link runs that asks for it, and what it was afterwards."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import permutations

import pytest
from servers import ServerProcess, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.link import LinkState
from novacron_cache.link.switching import SWITCHING, Switching

BEFORE = 4000
"""Microseconds; not the interpreter's default, which a test could meet by chance."""


def now() -> int:
    return round(sys.getswitchinterval() * 1e6)


def put(microseconds: int) -> None:
    sys.setswitchinterval((microseconds + 0.5) / 1e6)


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    interval = now()
    put(BEFORE)
    yield
    put(interval)


class TestBlocks:
    def test_a_block_has_what_it_asks_for_and_leaves_what_was(self) -> None:
        with Switching().at_most(0.0005):
            assert now() == 500
        assert now() == BEFORE

    def test_whoever_asks_for_nothing_changes_nothing(self) -> None:
        switching = Switching()
        with switching.at_most(None):
            assert now() == BEFORE
            with switching.at_most(0.0005), switching.at_most(None):
                assert now() == 500
        assert now() == BEFORE

    def test_one_that_was_shorter_stays(self) -> None:
        put(100)
        with Switching().at_most(0.0005):
            assert now() == 100
        assert now() == 100

    def test_it_comes_back_when_the_block_raises(self) -> None:
        with pytest.raises(KeyError), Switching().at_most(0.0005):
            raise KeyError
        assert now() == BEFORE

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_the_shortest_of_several_counts_whichever_ends_first(self, order: tuple[int, ...]) -> None:
        switching, wanted = Switching(), [500, 200, 1000]
        blocks = [ExitStack() for _ in wanted]
        for block, each in zip(blocks, wanted, strict=True):
            block.enter_context(switching.at_most(each / 1e6))
        assert now() == 200
        left = dict(enumerate(wanted))
        for number in order:
            blocks[number].close()
            del left[number]
            assert now() == min([BEFORE, *left.values()])

    def test_what_somebody_else_has_set_meanwhile_stays(self) -> None:
        with Switching().at_most(0.0005):
            put(3000)
        assert now() == 3000

    def test_the_end_of_one_of_several_does_not_undo_what_somebody_else_has_set(self) -> None:
        switching = Switching()
        with switching.at_most(0.0005):
            with switching.at_most(0.0002):
                put(3000)
            assert now() == 3000
        assert now() == 3000

    def test_what_somebody_else_has_set_comes_back_after_a_block_that_began_later(self) -> None:
        switching = Switching()
        with switching.at_most(0.0005):
            put(3000)
            with switching.at_most(0.001):
                assert now() == 500
            assert now() == 500
        assert now() == 3000

    def test_the_next_block_comes_back_to_what_it_finds(self) -> None:
        switching = Switching()
        with switching.at_most(0.0005):
            pass
        put(2000)
        with switching.at_most(0.0005):
            assert now() == 500
        assert now() == 2000

    # A float is often a little less than the number of microseconds that it stands for.
    @pytest.mark.parametrize("microseconds", [10, 29, 57, 113, 201, 1001, 3333, 999_999])
    def test_no_microsecond_is_lost(self, microseconds: int) -> None:
        put(microseconds)
        with Switching().at_most(1e-5):
            assert now() == 10
        assert now() == microseconds
        put(1_000_000)
        with Switching().at_most(microseconds / 1e6):
            assert now() == microseconds

    def test_threads_may_begin_and_end_at_once(self) -> None:
        switching, together = Switching(), threading.Barrier(4)

        def work(wanted: float) -> None:
            together.wait()
            for _ in range(500):
                with switching.at_most(wanted):
                    assert now() <= wanted * 1e6
            done.append(wanted)

        done: list[float] = []
        threads = [threading.Thread(target=work, args=(wanted,)) for wanted in (0.001, 0.0005, 0.0002, 0.0001)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [0.0001, 0.0002, 0.0005, 0.001]
        assert now() == BEFORE


def in_child(work: Callable[[], bool]) -> bool:
    """Return whether something is true in a forked child."""
    child = os.fork()
    if not child:
        good = False
        try:
            good = work()
        finally:
            os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestForks:
    def test_a_child_begins_without_what_links_of_its_parent_asked_for(self) -> None:
        def child() -> bool:
            good = now() == BEFORE
            with SWITCHING.at_most(0.001):
                good = good and now() == 1000
            return good and now() == BEFORE

        with SWITCHING.at_most(0.0005):
            assert in_child(child)
            assert now() == 500
        assert now() == BEFORE

    def test_the_end_in_a_child_of_what_began_in_its_parent_changes_nothing(self) -> None:
        def child() -> bool:
            put(3000)
            block.close()
            with SWITCHING.at_most(0.001):
                block.close()
                return now() == 1000

        with ExitStack() as block:
            block.enter_context(SWITCHING.at_most(0.0005))
            assert in_child(child)

    def test_what_somebody_else_has_set_stays_in_a_child(self) -> None:
        with SWITCHING.at_most(0.0005):
            put(3000)
            assert in_child(lambda: now() == 3000)

    def test_a_child_that_begins_while_others_begin_and_end_is_in_order(self) -> None:
        ending = threading.Event()

        def work() -> None:
            while not ending.is_set():
                with SWITCHING.at_most(0.0005):
                    pass

        def child() -> bool:
            with SWITCHING.at_most(0.0002):
                short = now() == 200
            return short and now() == BEFORE

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert all(in_child(child) for _ in range(20))
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        assert now() == BEFORE


@pytest.mark.servers
class TestCaches:
    @staticmethod
    def linked(server: ServerProcess, interval: object = None) -> Cache:
        cache = Cache(CacheSettings(namespace="switch", redis={"url": server.url}, switch_interval=interval))
        TestCaches.listen(cache)
        return cache

    @staticmethod
    def listen(cache: Cache) -> None:
        cache.get("anything")
        link = cache.engine.link
        assert link is not None
        wait_until(lambda: link.state is LinkState.UP)

    def test_the_interval_is_short_while_the_link_runs(self, valkey_server: ServerProcess) -> None:
        with self.linked(valkey_server, "0.5ms"):
            assert now() == 500
        assert now() == BEFORE

    def test_it_is_left_alone_unless_somebody_asks(self, valkey_server: ServerProcess) -> None:
        with self.linked(valkey_server):
            assert now() == BEFORE

    def test_a_cache_without_a_server_leaves_it_alone(self) -> None:
        with Cache(CacheSettings(switch_interval="0.5ms")) as cache:
            cache.set("a", 1)
            assert now() == BEFORE

    @pytest.mark.parametrize("first", [0, 1])
    def test_of_several_caches_the_shortest_counts(self, valkey_server: ServerProcess, first: int) -> None:
        caches = [self.linked(valkey_server, "0.5ms"), self.linked(valkey_server, "0.2ms")]
        try:
            assert now() == 200
            caches[first].close()
            assert now() == [200, 500][first]
        finally:
            for cache in caches:
                cache.close()
        assert now() == BEFORE

    async def test_closing_it_in_a_task_puts_it_back(self, valkey_server: ServerProcess) -> None:
        async with self.linked(valkey_server, "0.5ms"):
            assert now() == 500
        assert now() == BEFORE

    def test_a_cache_that_nobody_has_closed_gives_it_back(self, valkey_server: ServerProcess) -> None:
        cache = self.linked(valkey_server, "0.5ms")
        assert now() == 500
        del cache

        def back() -> bool:
            gc.collect()
            return now() == BEFORE

        wait_until(back)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_child_has_it_with_its_own_link(self, valkey_server: ServerProcess) -> None:
        cache = self.linked(valkey_server, "0.5ms")

        def child() -> bool:
            alone = now() == BEFORE
            self.listen(cache)
            linked = now() == 500
            cache.close()
            return alone and linked and now() == BEFORE

        with cache:
            assert in_child(child)
            assert now() == 500
        assert now() == BEFORE
