"""What the README says of other caches is true of those that are installed."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import aiocache  # type: ignore[import-untyped]  # it has no stubs
import cashews
from aiocache.serializers import JsonSerializer  # type: ignore[import-untyped]  # likewise
from cashews.backends.redis import client_side
from cashews.backends.redis.backend import _Redis as Redis
from django.core.cache.backends.base import BaseCache as DjangoCache
from django.core.cache.backends.locmem import LocMemCache
from dogpile.cache import make_region

from novacron_cache import Cache

Outcome = tuple[Any, Any]


def in_threads(load: Callable[[Callable[[], str]], str], invalidate: Callable[[], object]) -> Outcome:
    """Return what a load that an invalidation overtook returned, and what the next caller gets."""
    begun, go_on = threading.Event(), threading.Event()
    first: list[str] = []

    def old() -> str:
        begun.set()
        assert go_on.wait(10)
        return "old"

    thread = threading.Thread(target=lambda: first.append(load(old)))
    thread.start()
    assert begun.wait(10)
    invalidate()
    go_on.set()
    thread.join()
    return first[0], load(lambda: "new")


async def in_tasks(function: Callable[[], Any], invalidate: Callable[[], Any], source: Source) -> Outcome:
    """Do the same with a function that reads a source."""
    first = asyncio.create_task(function())
    await source.begun.wait()
    await invalidate()
    source.value = "new"
    source.go_on.set()
    return await first, await function()


class Source:
    """A value that is read and, when the source is told to go on, returned."""

    def __init__(self) -> None:
        self.value = "old"
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self) -> str:
        value = self.value
        self.begun.set()
        await self.go_on.wait()
        return value


class TestALoadThatAnInvalidationOvertakes:
    def test_is_never_served_afterwards_here(self) -> None:
        with Cache() as cache:
            overtaken = in_threads(lambda loader: cache.get_or_load("k", loader), lambda: cache.invalidate("k"))
        assert overtaken == ("old", "new")

    def test_is_stored_by_django(self) -> None:
        cache = LocMemCache("overtaken", {})
        overtaken = in_threads(lambda loader: cache.get_or_set("k", loader), lambda: cache.delete("k"))
        assert overtaken == ("old", "old")

    def test_is_stored_by_dogpile(self) -> None:
        region = make_region().configure("dogpile.cache.memory", expiration_time=60)
        overtaken = in_threads(lambda loader: region.get_or_create("k", loader), lambda: region.delete("k"))
        assert overtaken == ("old", "old")

    def test_is_stored_by_aiocache(self) -> None:
        source, memory = Source(), aiocache.SimpleMemoryCache()

        decorator = aiocache.cached(ttl=60, key="overtaken")
        decorator.cache = memory

        async def function() -> Any:
            return await decorator.decorator(source.read)

        assert asyncio.run(in_tasks(function, lambda: memory.delete("overtaken"), source)) == ("old", "old")

    def test_is_stored_by_cashews(self) -> None:
        source, cache = Source(), cashews.Cache()
        cache.setup("mem://")

        @cache(ttl="1m", key="overtaken", tags=["t"])
        async def function() -> str:
            return await source.read()

        async def run() -> Outcome:
            try:
                return await in_tasks(function, lambda: cache.delete_tags("t"), source)
            finally:
                await cache.close()

        assert asyncio.run(run()) == ("old", "old")


class TestNone:
    def test_is_a_value_for_django_dogpile_and_cashews(self) -> None:
        calls: list[str] = []

        def nothing() -> None:
            calls.append("call")

        django = LocMemCache("none", {})
        region = make_region().configure("dogpile.cache.memory", expiration_time=60)
        for _ in range(2):
            django.get_or_set("k", nothing)
            region.get_or_create("k", nothing)
        assert len(calls) == 2

        cache = cashews.Cache()
        cache.setup("mem://")

        @cache(ttl="1m", key="none")
        async def no_user() -> None:
            calls.append("call")

        async def twice() -> None:
            await no_user()
            await no_user()
            await cache.close()

        asyncio.run(twice())
        assert len(calls) == 3

    def test_is_none_for_aiocache(self) -> None:
        calls: list[str] = []

        @aiocache.cached(ttl=60, key="none")  # type: ignore[untyped-decorator]  # it has no types
        async def no_user() -> None:
            calls.append("call")

        async def twice() -> None:
            await no_user()
            await no_user()

        asyncio.run(twice())
        assert len(calls) == 2


def test_what_is_asynchronous_in_the_others_is_what_the_table_says() -> None:
    assert inspect.iscoroutinefunction(aiocache.SimpleMemoryCache.get)
    assert inspect.iscoroutinefunction(cashews.Cache.get)
    assert "sync_to_async" in inspect.getsource(DjangoCache.aget)
    assert not inspect.iscoroutinefunction(make_region().get)


def test_aiocache_writes_json_to_a_server_unless_told_otherwise() -> None:
    assert isinstance(aiocache.RedisCache().serializer, JsonSerializer)


def test_cashews_searches_the_server_for_a_pattern_and_can_keep_memory_before_it() -> None:
    assert "client.scan" in inspect.getsource(Redis)
    assert "CLIENT TRACKING" in client_side.BCAST_ON
