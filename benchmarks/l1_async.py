"""The hit of an async function in process memory: nothing is awaited, and it should cost as if it were so."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from time import monotonic, perf_counter_ns
from typing import Any

from l1_world import ROOM, TEXTS, TTL, Load, Loads, VMState, memory
from measuring import LIMIT, OURS, Area, Contender, Effort, Figure, compare, own


async def _awaits(function: Callable[[Any], Awaitable[Any]], keys: Sequence[Any]) -> float:
    start = perf_counter_ns()
    for key in keys:
        await function(key)
    return (perf_counter_ns() - start) / len(keys)


def _limit_async(load: Load) -> Callable[[str], Awaitable[Any]]:
    entries: dict[str, tuple[Any, float]] = {}

    async def get(vm_id: str) -> Any:
        key = f"vm:{vm_id}"
        entry = entries.get(key)
        if entry is not None and monotonic() < entry[1]:
            return entry[0]
        value = load(vm_id)
        entries[key] = (value, monotonic() + TTL)
        return value

    return get


def _ours_async(load: Load) -> Callable[[str], Awaitable[Any]]:
    @memory().cached(VMState, key="vm:<vm_id>")
    async def get(vm_id: str) -> VMState:
        value: VMState = load(vm_id)
        return value

    return get


def _async_lru(load: Load) -> Callable[[str], Awaitable[Any]]:
    from async_lru import alru_cache

    @alru_cache(maxsize=ROOM, ttl=TTL)
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _cachebox_async(load: Load) -> Callable[[str], Awaitable[Any]]:
    import cachebox

    @cachebox.cached(cachebox.TTLCache(ROOM, TTL), postprocess=None)
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _theine_async(load: Load) -> Callable[[str], Awaitable[Any]]:
    import theine

    @theine.Memoize(ROOM, timedelta(seconds=TTL))
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    get.key(lambda vm_id: vm_id)
    return get


def _aiocache(load: Callable[[Any], Any], **options: Any) -> Callable[[str], Awaitable[Any]]:
    import aiocache

    # In process memory its default serializer keeps the object as it is; its other ones would decode on each hit.
    decorate: Any = aiocache.cached(ttl=TTL, key_builder=lambda _, vm_id: f"vm:{vm_id}", **options)

    async def get(vm_id: str) -> Any:
        return load(vm_id)

    function: Callable[[str], Awaitable[Any]] = decorate(get)
    return function


def _cashews(load: Load) -> Callable[[str], Awaitable[Any]]:
    import cashews

    cache = cashews.Cache()
    # By default it holds 1,000 items, so these keys would only just fit, and looks for expired ones every second.
    cache.setup("mem://", size=ROOM, check_interval=60, check_repr=False)

    @cache(ttl=TTL, key="vm:{vm_id}")
    async def get(vm_id: str) -> Any:
        return load(vm_id)

    return get


def _async(
    name: str, make: Callable[[Callable[[Any], Any]], Callable[[str], Awaitable[Any]]], loop: Any, note: str = ""
) -> Contender:
    def start() -> tuple[Callable[[], float], Callable[[], None]]:
        loads = Loads()

        async def warm() -> Callable[[str], Awaitable[Any]]:
            function = make(loads.state)
            await awaits(function, TEXTS)
            return function

        async def values() -> list[Any]:
            return [await function(key) for key in TEXTS]

        awaits = own(_awaits)
        function = loop.run(warm())
        return lambda: loop.run(awaits(function, TEXTS)), lambda: loads.check(TEXTS, loop.run(values()))

    return Contender(name, start, note)


def run(effort: Effort) -> Area:
    """Measure the hits of async functions."""
    with asyncio.Runner() as loop:
        case = compare(
            "async, str",
            [
                _async(LIMIT, _limit_async, loop, "closure, dict, ttl, f-string key"),
                _async(OURS, _ours_async, loop),
                _async("cachebox.cached", _cachebox_async, loop, "TTLCache; evicts first in, first out"),
                _async("async_lru", _async_lru, loop, "ttl"),
                _async("theine", _theine_async, loop, "ttl, its own key function"),
                _async("aiocache", _aiocache, loop, "memory; as it comes"),
                _async("aiocache, no timeout", functools.partial(_aiocache, timeout=0), loop, "memory; timeout=0"),
                _async("cashews", _cashews, loop, "memory; room for all keys, check_repr off"),
            ],
            rounds=effort.of(100, 12, 2),
        )
    return Area(
        "l1_async",
        [case],
        [
            Figure("L1 hit, async function / limit", case.row(OURS).ratio, 1.15, 0.9),
            Figure("L1 hit, async: aiocache / ours", case.row("aiocache").ours, 45.0, 45.0, at_most=False),
            Figure("L1 hit, async: cashews / ours", case.row("cashews").ours, 75.0, 75.0, at_most=False),
        ],
    )
