"""Many tasks of one event loop that want different keys of a server at once.

What can be gained here is sharing: commands that are asked for in the same turn of the loop can travel together. The
limit does nothing else. The clients get a connection for each task, for fewer would make them wait for each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import perf_counter_ns, process_time_ns
from typing import Any

from l2_world import TTL, Decode, Loads, Machine, Raw, cache, command, decode, ids, machine, open_pipe
from measuring import LIMIT, OURS, Area, Contender, Effort, Figure, compare_each, inverse, own, same
from serving import Server, server

TASKS = 64
EACH = 4
"""How many keys a task asks for in a turn, one after the other."""
KEYS = ids(TASKS * EACH)
Call = Callable[[str], Awaitable[Any]]


async def _one(call: Call, keys: list[str]) -> None:
    for key in keys:
        await call(key)


async def _turn(call: Call) -> tuple[float, float]:
    wall, cpu = perf_counter_ns(), process_time_ns()
    await asyncio.gather(*(_one(call, KEYS[number::TASKS]) for number in range(TASKS)))
    return (perf_counter_ns() - wall) / len(KEYS), (process_time_ns() - cpu) / len(KEYS)


def _contender(name: str, make: Callable[[], Awaitable[Call]], loop: Any, note: str = "") -> Contender:
    def start() -> tuple[Callable[[], tuple[float, float]], Callable[[], None]]:
        async def warm() -> Call:
            call = await make()
            # One after the other, so that nobody has to wait for whoever loads.
            await _one(call, KEYS)
            return call

        async def values() -> list[Any]:
            return [await call(key) for key in KEYS]

        turn = own(_turn)
        call = loop.run(warm())
        return lambda: loop.run(turn(call)), lambda: same([machine(key) for key in KEYS], loop.run(values()))

    return Contender(name, start, note)


class _Contenders:
    def __init__(self, running: Server, stack: AsyncExitStack) -> None:
        self._server, self._stack = running, stack
        self._loads: list[Loads] = []
        raw = Raw(running)
        raw.fill("raw:", KEYS)
        raw.close()

    def check(self) -> None:
        """Raise unless those who load have loaded each key once."""
        for loads in self._loads:
            loads.check([], []) if not loads.count else loads.check(KEYS, [machine(key) for key in KEYS])

    def _loader(self) -> Loads:
        self._loads.append(Loads())
        return self._loads[-1]

    async def limit(self) -> Call:
        pipe = await open_pipe(self._server)
        self._stack.callback(pipe.close)
        decoded: Decode = decode

        async def get(key: str) -> Any:
            return decoded(await pipe.ask(command(b"GET", b"raw:" + key.encode())))

        return get

    async def redis_py(self) -> Call:
        import redis.asyncio

        client: Any = redis.asyncio.Redis.from_url(self._server.url, max_connections=TASKS)
        self._stack.push_async_callback(client.aclose)

        async def get(key: str) -> Any:
            return Machine.model_validate_json(await client.get(f"raw:{key}"))

        return get

    async def glide(self) -> Call:
        import glide

        address = glide.NodeAddress("127.0.0.1", self._server.port)
        client = await glide.GlideClient.create(glide.GlideClientConfiguration([address], request_timeout=5000))
        self._stack.push_async_callback(client.close)

        async def get(key: str) -> Any:
            return Machine.model_validate_json(await client.get(f"raw:{key}") or b"")

        return get

    async def aiocache(self) -> Call:
        import aiocache
        from aiocache.serializers import PickleSerializer

        backend: Any = aiocache.Cache(
            aiocache.Cache.REDIS, endpoint="127.0.0.1", port=self._server.port, pool_max_size=TASKS,
            serializer=PickleSerializer(), namespace="aiocache", timeout=0,
        )  # fmt: skip
        self._stack.push_async_callback(backend.close)
        loads = self._loader()

        async def get(key: str) -> Any:
            if (value := await backend.get(key)) is None:
                value = loads.load(key)
                await backend.set(key, value, ttl=TTL)
            return value

        return get

    async def cashews(self) -> Call:
        import cashews

        made = cashews.Cache()
        made.setup(self._server.url, max_connections=TASKS, check_repr=False)
        self._stack.push_async_callback(made.close)
        loads = self._loader()

        @made(ttl=TTL, key="machine:{machine_id}")
        async def get(machine_id: str) -> Any:
            return loads.load(machine_id)

        return get

    async def ours(self) -> Call:
        made = await asyncio.to_thread(cache, self._server)
        self._stack.push_async_callback(made.aclose)
        loads = self._loader()

        @made.cached(Machine, key="machine:<machine_id>", tiers=["redis"], name="tasks")
        async def get(machine_id: str) -> Machine:
            return loads.load(machine_id)

        return get


def run(effort: Effort) -> Area:
    """Measure hits of many tasks."""
    with server() as running, asyncio.Runner() as loop:
        stack = AsyncExitStack()
        made = _Contenders(running, stack)
        try:
            wall, cpu = compare_each(
                [f"L2 hit, {TASKS} tasks, wall", f"L2 hit, {TASKS} tasks, CPU"],
                [
                    _contender(LIMIT, made.limit, loop, "one connection, pipelined; decoded"),
                    _contender("redis.asyncio", made.redis_py, loop, f"GET, {TASKS} connections, model_validate_json"),
                    _contender(OURS, made.ours, loop, "markers, tags, ttl checked; L1 left out"),
                    _contender("valkey-glide", made.glide, loop, "one connection, model_validate_json"),
                    _contender("aiocache", made.aiocache, loop, "pickles; timeout=0"),
                    _contender("cashews", made.cashews, loop, f"pickles; {TASKS} connections"),
                ],
                rounds=effort.of(60, 8, 1),
                passes=1,
            )
            made.check()
        finally:
            loop.run(stack.aclose())
    ns = wall.row(OURS).value
    return Area(
        "l2_tasks",
        [wall, cpu],
        [
            Figure(f"L2 hit, {TASKS} tasks: redis.asyncio / ours", wall.row("redis.asyncio").ours, 5.0, at_most=False),
            Figure(f"L2 hit, {TASKS} tasks: cashews / ours", wall.row("cashews").ours, 10.0, at_most=False),
            Figure(f"L2 hit, {TASKS} tasks / pipelined limit, decoded", inverse(wall.row(LIMIT).ours), None, 1.3),
            Figure(
                "L2 hits of one loop", None if ns is None else 1e9 / ns, 10_000, at_most=False, unit=" /s", floor=True
            ),
        ],
    )
