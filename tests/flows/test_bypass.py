"""`cache.bypassed()`: calls inside go straight to their loaders; nobody else notices, and hits pay nothing for it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from flows.harness import until

from novacron_cache import MISSING, Cache, CacheModel
from novacron_cache.events import Event, Miss, Stored


class Source:
    """Counts its loads and gives another value each time."""

    def __init__(self) -> None:
        self.calls = 0

    def load(self, n: int) -> int:
        self.calls += 1
        return self.calls

    async def aload(self, n: int) -> int:
        await asyncio.sleep(0)
        return self.load(n)


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache() as cache:
        yield cache


@pytest.fixture
def source() -> Source:
    return Source()


def test_calls_inside_load_and_store_nothing_and_those_outside_go_on_as_before(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    events: list[Event] = []
    assert [load(1), load(1)] == [1, 1]
    cache.on("*", events.append)
    with cache.bypassed():
        assert [load(1), load(1), load(2)] == [2, 3, 4]
    assert [load(1), load.peek(2)] == [1, MISSING]
    assert [event.reason for event in events if isinstance(event, Miss)] == ["bypassed"] * 3
    assert not any(isinstance(event, Stored) for event in events)
    assert load.stats().misses == {"cold": 1, "bypassed": 3}
    assert load.stats().hits["memory"] == 2


def test_looks_inside_find_nothing(cache: Cache, source: Source) -> None:
    class State(CacheModel, key="state:<no>"):
        no: str

    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)
    cache.set("key", "value")
    State.entries.using(cache).set(State(no="1"))
    with cache.bypassed():
        assert load.peek(1) is MISSING
        assert cache.get("key") is None
        assert cache.get_many(["key"]) == {}
        assert not cache.exists("key")
        assert State.entries.using(cache).get("1") is None
        assert load.explain(1).reason == "bypassed"
        assert load.explain(1).tiers["memory"] == "fresh"
    assert cache.get("key") == "value"
    assert load.explain(1).reason == "hit"


def test_every_way_to_load_is_bypassed(cache: Cache, source: Source) -> None:
    class State(CacheModel, key="state:<no>"):
        no: str

    @cache.cached_many(int, key="n:<n>", each="ns")
    def several(ns: list[int]) -> dict[int, int]:
        return dict.fromkeys(ns, source.load(0))

    class Host:
        @cache.cached(int, key="host")
        def load(self) -> int:
            return source.load(0)

    State.entries.loader(lambda no: State(no=f"{no}-{source.load(0)}"))
    load = cache.cached(int, key="one:<n>")(source.load)
    host, entries = Host(), State.entries.using(cache)
    for _ in range(2):
        several([1, 2])
        host.load()
        cache.get_or_load("key", lambda: source.load(0))
        load.many([1, 2])
        entries.load("1")
    assert source.calls == 6
    with cache.bypassed():
        assert several([1, 2]) == {1: 7, 2: 7}
        assert host.load() == 8
        assert cache.get_or_load("key", lambda: source.load(0)) == 9
        assert load.many([1, 2]) == [10, 11]
        assert entries.load("1") == State(no="1-12")
    assert (several([1]), host.load(), cache.get("key")) == ({1: 1}, 2, 3)


def test_orders_inside_are_carried_out(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)
    with cache.bypassed():
        load.set(100, 2)
        cache.set("key", "value")
        assert load.refresh(3) == 2
        assert load.warm([1, 4]).loaded == 1
        load.invalidate(1)
        assert cache.touch("key", 60)
    assert [load.peek(n) for n in (1, 2, 3, 4)] == [MISSING, 100, 2, 3]
    assert cache.get("key") == "value"


def test_with_refresh_what_is_loaded_inside_is_stored(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)
    with cache.bypassed(refresh=True):
        assert load(1) == 2
        assert load.peek(1) is MISSING
    assert load(1) == 2
    assert load.stats().misses == {"cold": 1, "bypassed": 1}


async def test_a_block_concerns_its_task_and_those_begun_inside(source: Source) -> None:
    async with Cache() as cache:
        load = cache.cached(int, key="n:<n>")(source.aload)
        assert await load(1) == 1
        inside, over = asyncio.Event(), asyncio.Event()

        async def elsewhere() -> int:
            await inside.wait()
            return await load(1)

        async def later() -> int:
            await over.wait()
            return await load(1)

        other = asyncio.create_task(elsewhere())
        async with cache.bypassed():
            inside.set()
            child = asyncio.create_task(load(1))
            behind = asyncio.create_task(later())
            assert await other == 1
            assert await child == 2
            assert await load(1) == 3
        over.set()
        assert await behind == 1  # begun inside, and the block is over
        assert await load(1) == 1


def test_other_threads_are_served_while_a_block_is_open(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)
    with ThreadPoolExecutor(1) as pool, cache.bypassed():
        assert pool.submit(load, 1).result(10) == 1
        assert pool.submit(contextvars.copy_context().run, load, 1).result(10) == 2
    assert load.stats().hits == {"memory": 1}


def test_a_loader_inside_calls_others_past_the_cache_too(cache: Cache, source: Source) -> None:
    inner = cache.cached(int, key="inner:<n>")(source.load)
    outer = cache.cached(int, key="outer:<n>")(lambda n: inner(n))
    assert outer(1) == 1
    with cache.bypassed():
        assert outer(1) == 2
    assert (inner(1), outer(1)) == (1, 1)


def test_blocks_may_be_nested_and_raise_and_fronts_come_back_with_the_last(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)

    def fail() -> None:
        with cache.bypassed():
            with cache.bypassed(refresh=True):
                assert load(1) == 2
            assert load(1) == 3
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    before = load.cache_controller.front_hits()
    assert [load(1), load(1)] == [2, 2]
    # The entry that was stored inside enters the front with the first call from outside.
    assert load.cache_controller.front_hits() >= before + 1
    assert cache.engine.bypass.active == 0


def test_a_block_is_opened_once(cache: Cache) -> None:
    block = cache.bypassed()
    with block, pytest.raises(RuntimeError, match="open already"):
        block.__enter__()
    assert cache.engine.bypass.active == 0


def test_the_front_answers_nobody_while_a_block_is_open_anywhere(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)
    load(1)
    opened, close = threading.Event(), threading.Event()

    def block() -> None:
        with cache.bypassed():
            opened.set()
            assert close.wait(10)

    thread = threading.Thread(target=block)
    thread.start()
    assert opened.wait(10)
    try:
        before = load.cache_controller.front_hits()
        assert load(1) == 1  # from memory, by the slower way
        assert load.cache_controller.front_hits() == before
        assert load.stats().hits["memory"] == 2
    finally:
        close.set()
        thread.join(10)
    assert load(1) == 1
    assert load.cache_controller.front_hits() == before + 1


def test_a_function_that_is_first_called_inside_is_bypassed(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    with cache.bypassed():
        assert [load(1), load(1)] == [1, 2]
    assert [load(1), load(1)] == [3, 3]


def test_one_cache_is_bypassed_and_no_other(source: Source) -> None:
    with Cache() as one, Cache() as other:
        ours = one.cached(int, key="n:<n>", name="ours")(source.load)
        theirs = other.cached(int, key="n:<n>", name="theirs")(source.load)
        assert [ours(1), theirs(1)] == [1, 2]
        with one.bypassed():
            assert [ours(1), theirs(1)] == [3, 2]


async def test_callers_inside_do_not_join_the_loads_of_those_outside() -> None:
    async with Cache() as cache:
        go, calls = asyncio.Event(), [0]

        @cache.cached(int, key="n")
        async def load() -> int:
            calls[0] += 1
            mine = calls[0]
            await go.wait()
            return mine

        outside = asyncio.create_task(load())
        await until(lambda: calls[0] == 1)
        async with cache.bypassed():
            inside = asyncio.create_task(load())
            await until(lambda: calls[0] == 2)
            go.set()
            assert (await outside, await inside) == (1, 2)
        assert await load() == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is nothing to fork")
def test_a_forked_child_has_no_part_in_the_blocks_of_other_threads(cache: Cache, source: Source) -> None:
    load = cache.cached(int, key="n:<n>")(source.load)
    load(1)
    opened, close = threading.Event(), threading.Event()

    def block() -> None:
        with cache.bypassed():
            opened.set()
            assert close.wait(10)

    thread = threading.Thread(target=block)
    thread.start()
    assert opened.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if cache.engine.bypass.active == 0 and load(1) == 1 else 1)
    close.set()
    thread.join(10)
    assert os.waitpid(child, 0)[1] == 0
