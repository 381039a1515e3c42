"""What outlives a `deferred_invalidation()` block is not deferred any more."""

from __future__ import annotations

import asyncio
import contextvars

from novacron_cache import Cache


async def test_a_task_that_outlives_its_block_invalidates_at_once() -> None:
    async with Cache() as cache:
        go = asyncio.Event()

        async def later() -> bool:
            await go.wait()
            return (await cache.ainvalidate("key")).done

        async with cache.deferred_invalidation():
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        cache.set("key", "old")
        go.set()
        assert await task
        assert cache.get("key") is None


def test_a_copied_context_that_outlives_its_block_invalidates_at_once() -> None:
    with Cache() as cache:
        with cache.deferred_invalidation():
            context = contextvars.copy_context()
        cache.set("key", "old")
        assert context.run(cache.invalidate, "key").done
        assert cache.get("key") is None
