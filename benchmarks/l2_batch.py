"""A thousand keys of a server in one call: where the time goes into decoding, unless somebody wastes it before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from time import perf_counter_ns
from typing import Any

from l2_world import TTL, Decode, Loads, Machine, Raw, cache, command, decode, ids, machine
from measuring import LIMIT, OURS, Area, Case, Contender, Effort, Figure, compare, own, same
from serving import Server, server

KEYS = ids(1_000)
Batch = Callable[[Sequence[str]], Sequence[Any]]
ABatch = Callable[[Sequence[str]], Awaitable[Sequence[Any]]]


def _turn(batch: Batch) -> float:
    start = perf_counter_ns()
    batch(KEYS)
    return (perf_counter_ns() - start) / len(KEYS)


async def _aturn(batch: ABatch) -> float:
    start = perf_counter_ns()
    await batch(KEYS)
    return (perf_counter_ns() - start) / len(KEYS)


def _contender(name: str, make: Callable[[], Batch], note: str = "") -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        batch = make()
        turn = own(_turn)
        turn(batch)
        return lambda: turn(batch), lambda: same([machine(key) for key in KEYS], batch(KEYS))

    return Contender(name, start, note)


def _acontender(name: str, make: Callable[[], Awaitable[ABatch]], loop: Any, note: str = "") -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        async def warm() -> ABatch:
            batch = await make()
            await batch(KEYS)
            return batch

        async def values() -> list[Any]:
            return list(await batch(KEYS))

        turn = own(_aturn)
        batch: ABatch = loop.run(warm())
        return lambda: loop.run(turn(batch)), lambda: same([machine(key) for key in KEYS], loop.run(values()))

    return Contender(name, start, note)


class _Contenders:
    def __init__(self, running: Server, stack: AsyncExitStack) -> None:
        self._server, self._stack = running, stack
        self.loads: list[Loads] = []
        raw = Raw(running)
        raw.fill("raw:", KEYS)
        raw.close()

    def limit(self) -> Batch:
        raw, decoded = Raw(self._server), decode
        self._stack.callback(raw.close)

        def batch(keys: Sequence[str]) -> Sequence[Any]:
            return [decoded(body) for body in raw.ask(command(b"MGET", *[b"raw:" + key.encode() for key in keys]))]

        return batch

    def redis_py(self) -> Batch:
        import redis

        client: Any = redis.Redis.from_url(self._server.url)
        self._stack.callback(client.close)
        decoded: Decode = decode
        return lambda keys: [decoded(body) for body in client.mget([f"raw:{key}" for key in keys])]

    def dogpile(self) -> Batch:
        from dogpile.cache import make_region

        region: Any = make_region().configure(
            "dogpile.cache.redis", expiration_time=TTL, arguments={"url": self._server.url}
        )
        region.set_multi({key: machine(key) for key in KEYS})
        self._stack.callback(lambda: region.backend.writer_client.close())
        return lambda keys: region.get_multi(keys)

    def ours(self) -> Batch:
        made = cache(self._server)
        self._stack.callback(made.close)
        loads = Loads()
        self.loads.append(loads)

        @made.cached_many(Machine, key="machine:<machine_id>", each="machine_id", tiers=["redis"], name="batch")
        def get(machine_id: list[str]) -> dict[str, Machine]:
            return {key: loads.load(key) for key in machine_id}

        return lambda keys: list(get(list(keys)).values())

    async def aredis_py(self) -> ABatch:
        import redis.asyncio

        client: Any = redis.asyncio.Redis.from_url(self._server.url)
        self._stack.push_async_callback(client.aclose)
        decoded: Decode = decode

        async def batch(keys: Sequence[str]) -> Sequence[Any]:
            return [decoded(body) for body in await client.mget([f"raw:{key}" for key in keys])]

        return batch

    async def aiocache(self) -> ABatch:
        import aiocache
        from aiocache.serializers import PickleSerializer

        backend: Any = aiocache.Cache(
            aiocache.Cache.REDIS, endpoint="127.0.0.1", port=self._server.port,
            serializer=PickleSerializer(), namespace="aiocache", timeout=0,
        )  # fmt: skip
        self._stack.push_async_callback(backend.close)
        await backend.multi_set([(key, machine(key)) for key in KEYS], ttl=TTL)

        async def batch(keys: Sequence[str]) -> Sequence[Any]:
            found: Sequence[Any] = await backend.multi_get(keys)
            return found

        return batch

    async def cashews(self) -> ABatch:
        import cashews

        made = cashews.Cache()
        made.setup(self._server.url, check_repr=False)
        self._stack.push_async_callback(made.close)
        await made.set_many({f"cashews:{key}": machine(key) for key in KEYS}, expire=TTL)

        async def batch(keys: Sequence[str]) -> Sequence[Any]:
            return await made.get_many(*[f"cashews:{key}" for key in keys])

        return batch

    async def aours(self) -> ABatch:
        made = await asyncio.to_thread(cache, self._server)
        self._stack.push_async_callback(made.aclose)
        loads = Loads()
        self.loads.append(loads)

        @made.cached_many(Machine, key="machine:<machine_id>", each="machine_id", tiers=["redis"], name="abatch")
        async def get(machine_id: list[str]) -> dict[str, Machine]:
            return {key: loads.load(key) for key in machine_id}

        async def batch(keys: Sequence[str]) -> Sequence[Any]:
            return list((await get(list(keys))).values())

        return batch


def run(effort: Effort) -> Area:
    """Measure batches."""
    rounds = effort.of(60, 8, 1)
    with server() as running, asyncio.Runner() as loop:
        stack = AsyncExitStack()
        made = _Contenders(running, stack)
        try:
            cases = _measure(made, loop, rounds)
            for loads in made.loads:
                loads.check(KEYS, [machine(key) for key in KEYS])
        finally:
            loop.run(stack.aclose())
    sync, waiting = cases
    return Area(
        "l2_batch",
        cases,
        [
            Figure(
                "batch of 1,000: redis-py MGET + validate_json / ours",
                sync.row("redis-py").ours,
                0.9,
                1.1,
                at_most=False,
            ),
            Figure("batch of 1,000: cashews / ours", waiting.row("cashews").ours, 2.5, at_most=False),
        ],
    )


def _measure(made: _Contenders, loop: Any, rounds: int) -> list[Case]:
    sync = compare(
        "batch of 1,000, each key",
        [
            _contender(LIMIT, made.limit, "MGET, socket, hiredis, decoded"),
            _contender("redis-py", made.redis_py, "MGET, decoded by pydantic-core's validator"),
            _contender(OURS, made.ours, "cached_many; L1 left out"),
            _contender("dogpile.cache", made.dogpile, "get_multi; pickles"),
        ],
        rounds=rounds,
        passes=1,
    )
    waiting = compare(
        "batch of 1,000, async, each key",
        [
            _acontender("redis.asyncio", made.aredis_py, loop, "MGET, decoded by pydantic-core's validator"),
            _acontender(OURS, made.aours, loop, "cached_many; L1 left out"),
            _acontender("aiocache", made.aiocache, loop, "multi_get; pickles"),
            _acontender("cashews", made.cashews, loop, "get_many; pickles"),
        ],
        rounds=rounds,
        passes=1,
    )
    return [sync, waiting]
