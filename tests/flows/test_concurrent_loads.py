"""`max_concurrent_loads`: how many loads of a function run at once in a process, and how long others wait."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from abandoned import let_go, waiting_in_a_closed_loop
from flows.harness import until
from servers import wait_until

from novacron_cache import Cache, CacheModel, CacheSettings, LoaderTimeout
from novacron_cache.events import Loaded, LoadQueued
from novacron_cache.limits import Slots


class Crowd:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self.inside = self.most = self.calls = 0
        self.go = threading.Event()
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self._lock:
            self.inside -= 1

    def load(self, n: int) -> int:
        self.enter()
        try:
            assert self.go.wait(10)
            return n
        finally:
            self.leave()

    async def aload(self, n: int) -> int:
        self.enter()
        try:
            await until(self.go.is_set)
            return n
        finally:
            self.leave()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.go.set()


def test_no_more_threads_load_at_once_than_are_allowed_and_each_gets_its_value(crowd: Crowd) -> None:
    with Cache() as cache:
        load = cache.cached(int, key="n:<n>", name="load", max_concurrent_loads=2)(crowd.load)
        queued: list[LoadQueued] = []
        cache.on(LoadQueued, queued.append)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(load, n) for n in range(8)]
            wait_until(lambda: cache.plan(load.cache_controller.declaration).slots.waiting == 6)
            assert crowd.inside == 2
            crowd.go.set()
            assert [answer.result(10) for answer in answers] == list(range(8))
        assert (crowd.most, crowd.calls) == (2, 8)
        assert cache.stats("load").queued == len(queued) == 6
        assert all(event.got and event.seconds > 0 for event in queued)


async def test_no_more_tasks_load_at_once_than_are_allowed(crowd: Crowd) -> None:
    async with Cache() as cache:
        load = cache.cached(int, key="n:<n>", max_concurrent_loads=3)(crowd.aload)
        answers = asyncio.gather(*(load(n) for n in range(12)))
        await until(lambda: crowd.inside == 3)
        crowd.go.set()
        assert await answers == list(range(12))
        assert crowd.most == 3


async def test_a_batch_of_single_loads_keeps_to_it(crowd: Crowd) -> None:
    async with Cache() as cache:
        load = cache.cached(int, key="n:<n>", max_concurrent_loads=2)(crowd.aload)
        crowd.go.set()
        assert await load.many(range(9)) == list(range(9))
        assert crowd.most <= 2


def test_a_load_that_gets_no_slot_in_time_fails_and_says_why(crowd: Crowd) -> None:
    with Cache(CacheSettings(background_threads=4)) as cache:
        load = cache.cached(int, key="n:<n>", max_concurrent_loads=1, hard_timeout=1.0)(crowd.load)
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(load, n) for n in range(2)]
            errors = [answer.exception(10) for answer in answers]
        assert [type(error) for error in errors] == [LoaderTimeout, LoaderTimeout]
        assert crowd.calls == 1
        crowd.go.set()
        wait_until(lambda: cache.plan(load.cache_controller.declaration).slots.taken == 0)


async def test_a_task_that_gets_no_slot_in_time_fails_and_says_why(crowd: Crowd) -> None:
    async with Cache() as cache:
        load = cache.cached(int, key="n:<n>", max_concurrent_loads=1)(crowd.aload)
        slow = asyncio.create_task(load(1))
        await until(lambda: crowd.inside == 1)
        slots = cache.plan(load.cache_controller.declaration).slots
        assert slots is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("novacron_cache.running.LONGEST_WAIT", 0.05)
            with pytest.raises(LoaderTimeout, match="one of the 1 loads that max_concurrent_loads allows") as caught:
                await load(2)
        assert caught.value.waiting
        assert (slots.taken, slots.waiting) == (1, 0)
        crowd.go.set()
        assert await slow == 1
        assert slots.taken == 0


async def test_cancelling_those_who_wait_or_load_loses_no_slot(crowd: Crowd) -> None:
    async with Cache() as cache:
        load = cache.cached(int, key="n:<n>", max_concurrent_loads=2)(crowd.aload)
        tasks = [asyncio.create_task(load(n)) for n in range(20)]
        await until(lambda: crowd.inside == 2)
        for task in tasks[::2]:
            task.cancel()
        crowd.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == list(range(1, 20, 2))
        slots = cache.plan(load.cache_controller.declaration).slots
        assert slots is not None
        assert (slots.taken, slots.waiting) == (0, 0)


def test_a_recursive_function_needs_one_slot_for_all_of_it() -> None:
    with Cache() as cache:

        @cache.cached(int, key="fib:<n>", max_concurrent_loads=1)
        def fib(n: int) -> int:
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        assert fib(12) == 144


async def test_a_blocking_call_on_the_loop_of_who_has_the_slots_does_not_wait_for_it(crowd: Crowd) -> None:
    class State(CacheModel, key="state:<no>", max_concurrent_loads=1):
        no: str

    async def slowly() -> State:
        return State(no=str(await crowd.aload(1)))

    async with Cache() as cache:
        slow = asyncio.create_task(cache.aget_or_load("state:1", slowly, model=State))
        await until(lambda: crowd.inside == 1)
        assert cache.get_or_load("state:2", lambda: State(no="2"), model=State) == State(no="2")
        crowd.go.set()
        assert await slow == State(no="1")


def test_slots_are_given_in_the_order_of_coming() -> None:
    slots = Slots(1)
    order: list[int] = []
    assert slots.take()

    def wait(n: int) -> None:
        assert slots.wait(10)
        order.append(n)
        slots.leave()

    threads = []
    for n in range(5):
        thread = threading.Thread(target=wait, args=(n,))
        thread.start()
        threads.append(thread)
        wait_until(lambda n=n: slots.waiting == n + 1)
    slots.leave()
    for thread in threads:
        thread.join(10)
    assert order == list(range(5))
    assert slots.taken == 0


def test_a_waiter_whose_loop_is_gone_does_not_keep_a_slot() -> None:
    slots = Slots(1)
    assert slots.take()
    gone = waiting_in_a_closed_loop(slots.await_())
    slots.leave()
    assert slots.taken == 0
    let_go(gone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
def test_a_forked_child_starts_with_every_slot_free() -> None:
    slots = Slots(1)
    assert slots.take()
    child = os.fork()
    if child == 0:
        os._exit(0 if slots.take() else 1)
    assert os.waitpid(child, 0)[1] == 0
    slots.leave()


def test_the_time_of_a_loader_does_not_count_its_waiting(crowd: Crowd) -> None:
    with Cache() as cache:
        load = cache.cached(int, key="n:<n>", max_concurrent_loads=1)(crowd.load)
        loaded: list[Any] = []
        cache.on(Loaded, loaded.append)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(load, 1)
            wait_until(lambda: crowd.inside == 1)
            began = time.perf_counter()
            threading.Timer(0.3, crowd.go.set).start()
            assert load(2) == 2
            took = time.perf_counter() - began
            assert first.result(10) == 1
        assert next(event.seconds for event in loaded if event.key == "n:2") <= took - 0.3
