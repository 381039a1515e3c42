"""Tasks that use a cache are cancelled at random: what their cancellation leaves behind is counted afterwards.

Every value tells the key that it belongs to, so that a reply that reached the wrong caller shows. Some tasks are
cancelled after a time, some after a number of steps of the loop, some by a time-out, and some twice: the second
cancellation comes while they clean up after the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from servers import ServerProcess

from novacron_cache import Cache, CacheModel, CacheSettings, cached, cached_many
from novacron_cache.events import TierFailed
from novacron_cache.link import LinkState
from novacron_cache.tiers.redis import RedisTier
from novacron_cache.tiers.redis_connections import CLIENT_NAME

KEYS = 40
TASKS = 24
POOL = 8
"""Fewer connections than tasks, so that some are cancelled while they wait for one."""
PATIENCE = 5.0
"""Seconds to wait for the server: what a busy machine takes its time for would be a failure of the tier otherwise."""
SOON = 5.0
"""Seconds in which everything that was cancelled has to have come to its end."""


class Box(CacheModel, key="box:<n>", ttl="20s", tags=["shelf:<shelf>"]):
    n: int
    shelf: int
    text: str


@dataclass
class Remains:
    """What was found afterwards.

    Attributes:
        cancelled: how many calls were cancelled before they ended.
        finished: how many ended first.
        wrong: values of another key.
        errors: what calls raised besides.
        failures: what went wrong with the server, which a cache does not tell its callers.
        lent: connections that nobody gave back.
        tasks: tasks that are still there.
        flights: loads that others would wait for.
        leases: leases that the server still has for a load that is over, and what this process believes of its own.
        connections: how many the server has beyond those that the pools and the link know of.
        left: how many the server has when the cache is closed.
        slowest: seconds that the slowest load of another process took.
    """

    cancelled: int = 0
    finished: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    lent: int = 0
    tasks: int = 0
    flights: int = 0
    leases: int = 0
    connections: int = 0
    left: int = 0
    slowest: float = 0.0


class Calls:
    """The calls that are cancelled, each with a check of what it returns."""

    def __init__(self, cache: Cache, chance: random.Random) -> None:
        self.cache, self.chance = cache, chance

        @cached(Box, cache=cache)
        async def box(n: int) -> Box:
            return await self.load(n)

        @cached(Box, key="late:<n>", name="late", tags=["shelf:<shelf>"], cache=cache)
        async def late(n: int) -> Box:
            return await self.load(n)

        @cached_many(Box, key="many:<n>", each="ns", name="many", cache=cache)
        async def boxes(ns: list[int]) -> dict[int, Box]:
            return {n: await self.load(n) for n in ns}

        self.box, self.late, self.boxes = box, late, boxes
        self.all: list[Callable[[int], Awaitable[bool]]] = [
            self.one, self.one, self.one, self.of_late_tags, self.several, self.loaded, self.strong, self.refreshed,
            self.stored, self.looked, self.invalidated, self.invalidated_by_tag, self.held,
        ]  # fmt: skip

    async def load(self, n: int) -> Box:
        await asyncio.sleep(self.chance.choice((0.0, 0.001, 0.005)))
        return make(n)

    async def one(self, n: int) -> bool:
        return right(n, await self.box(n))

    async def of_late_tags(self, n: int) -> bool:
        return right(n, await self.late(n))

    async def several(self, n: int) -> bool:
        ns = [(n + step) % KEYS for step in range(5)]
        found = await self.boxes(ns)
        return list(found) == ns and all(right(one, found[one]) for one in ns)

    async def loaded(self, n: int) -> bool:
        return right(n, await self.cache.aget_or_load(f"plain:{n}", lambda: self.load(n), model=Box))

    async def strong(self, n: int) -> bool:
        load = self.cache.aget_or_load(f"plain:{n}", lambda: self.load(n), model=Box, consistency="strong")
        return right(n, await load)

    async def refreshed(self, n: int) -> bool:
        return right(n, await self.box.refresh(n))

    async def stored(self, n: int) -> bool:
        await self.cache.aset(f"set:{n}", make(n).text, tags=[f"shelf:{n % 4}"])
        return True

    async def looked(self, n: int) -> bool:
        keys = [f"set:{(n + step) % KEYS}" for step in range(3)]
        found = await self.cache.aget_many(keys)
        return all(found[key] == make(int(key[4:])).text for key in found)

    async def invalidated(self, n: int) -> bool:
        await self.cache.ainvalidate(f"box:{n}", f"plain:{n}", f"late:{n}")
        return True

    async def invalidated_by_tag(self, n: int) -> bool:
        await self.cache.ainvalidate_tags(f"shelf:{n % 4}")
        return True

    async def held(self, n: int) -> bool:
        async with self.cache.invalidating(keys=[f"box:{n}"]):
            await asyncio.sleep(0.001)
        return True


def make(n: int) -> Box:
    return Box(n=n, shelf=n % 4, text=f"{n} " * (1 + 40 * (n % 7)))


def right(n: int, found: Any) -> bool:
    return bool(found == make(n))


def settings_at(redis: dict[str, Any]) -> CacheSettings:
    """Return the settings of a cache whose process memory is small enough that the server is asked often."""
    return CacheSettings(
        namespace="cancel",
        staleness_bound=1.0,
        redis={**redis, "max_connections": POOL, "connect_timeout": PATIENCE, "socket_timeout": PATIENCE},
        memory={"max_items": KEYS // 4},
    )


def cancel_at_random(
    servers: list[ServerProcess], redis: dict[str, Any], count: int, seed: int, *, by: dict[str, Any] | None = None
) -> Remains:
    """Use a cache until so many calls were cancelled, and return what that has left behind.

    Args:
        servers: those that keep its keys.
        redis: the settings by which others find them.
        count: how many calls to cancel.
        seed: of everything that is random.
        by: the settings by which the cache finds them, where what is between the two is slow.
    """
    chance = random.Random(seed)  # noqa: S311 - it is to be repeated
    return asyncio.run(_cancel(servers, redis, count, chance, redis if by is None else by))


async def _cancel(
    servers: list[ServerProcess], redis: dict[str, Any], count: int, chance: random.Random, by: dict[str, Any]
) -> Remains:
    remains = Remains()
    cache = Cache(settings_at(by))
    try:
        await cache.aget("anything")
        link = cache.engine.link
        assert link is not None
        await soon(lambda: link.state is LinkState.UP)
        cache.on(TierFailed, lambda event: remains.failures.update([str(event.error)]))
        calls = Calls(cache, chance)
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(_work(calls, remains, count))
        await _look(cache, servers, remains)
        remains.slowest = await asyncio.to_thread(load_all, redis)
    finally:
        await cache.aclose()
    await soon(lambda: _connections(servers) == 0)
    remains.left = _connections(servers)
    remains.tasks += len(asyncio.all_tasks()) - 1
    return remains


async def _work(calls: Calls, remains: Remains, count: int) -> None:
    chance = calls.chance
    while remains.cancelled < count:
        n = chance.randrange(KEYS)
        task = asyncio.ensure_future(chance.choice(calls.all)(n))
        how = chance.random()
        if how < 0.4:
            await asyncio.sleep(chance.random() * 0.012)
        elif how < 0.8:
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.random() * 0.012):
                    await asyncio.wait([task])
        task.cancel()
        if chance.random() < 0.3:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            remains.wrong += not await task
            remains.finished += 1
        except asyncio.CancelledError:
            remains.cancelled += 1
        except Exception as error:
            remains.errors[f"{type(error).__name__}: {error}"] += 1


async def _look(cache: Cache, servers: list[ServerProcess], remains: Remains) -> None:
    engine = cache.engine
    tier = engine.authority
    assert isinstance(tier, RedisTier)
    await soon(lambda: len(asyncio.all_tasks()) == 1 and not engine.pending and not tier.pool_use().in_use)
    remains.tasks = len(asyncio.all_tasks()) - 1
    remains.lent = tier.pool_use().in_use
    remains.flights = len(engine.flights)
    leases = engine.leases
    remains.leases = sum(map(_held, servers)) + len(leases._ours) + len(leases._waiting) + len(engine.asking)
    # Each server has the link besides, and the masters of a cluster are asked about each other.
    known = tier.pool_use().idle + len(servers) * (1 if len(servers) == 1 else 2)
    remains.connections = max(0, _connections(servers) - known)


def _held(server: ServerProcess) -> int:
    with redis.Redis(port=server.port) as client:
        return sum((client.get(key) or b"")[:1] == b"h" for key in client.scan_iter("nc:cancel:l:*", count=1000))


def _connections(servers: list[ServerProcess]) -> int:
    return sum(server.connections(CLIENT_NAME) for server in servers)


def load_all(redis: dict[str, Any]) -> float:
    """Load every key as another process would, and return the seconds that the slowest took."""
    slowest = 0.0
    with Cache(settings_at(redis)) as cache:

        @cached(Box, cache=cache)
        def box(n: int) -> Box:
            return make(n)

        @cached(Box, key="late:<n>", name="late", tags=["shelf:<shelf>"], cache=cache)
        def late(n: int) -> Box:
            return make(n)

        def plain(n: int) -> Box:
            return cache.get_or_load(f"plain:{n}", lambda: make(n), model=Box)

        for n in range(KEYS):
            cache.invalidate(f"box:{n}", f"late:{n}", f"plain:{n}")
            for load in (box, late, plain):
                began = time.perf_counter()
                assert load(n) == make(n)
                slowest = max(slowest, time.perf_counter() - began)
        # Nor may a hold be left, under which nothing could be kept.
        with Cache(settings_at(redis)) as other:
            kept = other.get_many([f"plain:{n}" for n in range(KEYS)], model=Box)
        assert len(kept) == KEYS, f"only {len(kept)} of {KEYS} values could be kept"
    return slowest


async def soon(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true; what is still not true after a while shows in what is counted."""
    end = time.monotonic() + SOON
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - nothing tells when
        await asyncio.sleep(0.005)
