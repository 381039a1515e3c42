"""Writing: storing values that the caller has, and giving cached ones a new life."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import flows
from ..drivers import adrive
from ..durations import Duration, seconds
from ..flows.invalidating import Invalidation
from ..requests import Request
from .arguments import CacheItem, checked_tags, items_of
from .invalidating import Invalidating


class Writing(Invalidating):
    """The operations that store."""

    def set(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: Iterable[str] = (), model: Any = None
    ) -> None:
        """Store a value under a key, overruling loads that are still running.

        Args:
            key: the logical key.
            value: a plain value (None, numbers, text, bytes, dates, UUIDs and containers of those) or a cache model.
            ttl: its lifetime; None takes the model's or the default; zero stores nothing and invalidates the key.
            tags: its tags.
            model: its type, where it is neither plain nor a cache model.

        Raises:
            CachedValueError: the value cannot be stored; what was cached before stays.
        """
        self._set([(key, CacheItem(value, ttl, tuple(checked_tags(tags))))], model)

    async def aset(
        self, key: str, value: Any, *, ttl: Duration | None = None, tags: Iterable[str] = (), model: Any = None
    ) -> None:
        """Do what `set` does, asynchronously."""
        await self._aset([(key, CacheItem(value, ttl, tuple(checked_tags(tags))))], model)

    def set_many(
        self,
        items: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        model: Any = None,
    ) -> None:
        """Store several values together; each may be a `CacheItem` with its own ttl and tags.

        Raises:
            CachedValueError: one of the values cannot be stored; then none is.
        """
        self._set(items_of(items, ttl, tags), model)

    async def aset_many(
        self,
        items: Mapping[str, Any],
        *,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        model: Any = None,
    ) -> None:
        """Do what `set_many` does, asynchronously."""
        await self._aset(items_of(items, ttl, tags), model)

    def _split(self, items: Sequence[tuple[str, CacheItem]], model: Any) -> tuple[list[tuple[Request, Any]], list[str]]:
        stored, dropped = [], []
        for key, item in items:
            if item.ttl is not None and seconds(item.ttl) == 0:
                dropped.append(key)
            else:
                request = self._request(key, model, value=item.value, tags=item.tags, ttl=item.ttl)
                stored.append((request, item.value))
        return stored, dropped

    def _set(self, items: Sequence[tuple[str, CacheItem]], model: Any) -> None:
        stored, dropped = self._split(items, model)
        if stored:
            self.run_set(stored)
        if dropped:
            self.run_invalidation(Invalidation.keys(dropped))

    async def _aset(self, items: Sequence[tuple[str, CacheItem]], model: Any) -> None:
        stored, dropped = self._split(items, model)
        if stored:
            await self.arun_set(stored)
        if dropped:
            await self.arun_invalidation(Invalidation.keys(dropped))

    def run_set(self, items: Sequence[tuple[Request, Any]]) -> None:
        """Store prepared requests."""
        try:
            self._run(flows.set_many(self.engine, items))
        finally:
            self.undelivered()

    async def arun_set(self, items: Sequence[tuple[Request, Any]]) -> None:
        """Do what `run_set` does, asynchronously."""
        try:
            await adrive(self.engine, flows.set_many(self.engine, items))
        finally:
            self.undelivered()

    def touch(self, key: str, ttl: Duration | None = None, *, model: Any = None) -> bool:
        """Give a cached value a new lifetime, counted from now; return whether there was one.

        Args:
            key: the logical key.
            ttl: the new lifetime; None takes the model's or the default; zero invalidates the key. A shorter one is not
                told to other processes: what they have in memory goes on until the end they know.
            model: the type it was stored as; needed for anything but plain values.
        """
        request, life = self._touched(key, ttl, model)
        (found,) = self._run(flows.touch(self.engine, [request], life))
        if life == 0:
            self.run_invalidation(Invalidation.keys([key]))
        return found

    async def atouch(self, key: str, ttl: Duration | None = None, *, model: Any = None) -> bool:
        """Do what `touch` does, asynchronously."""
        request, life = self._touched(key, ttl, model)
        (found,) = await adrive(self.engine, flows.touch(self.engine, [request], life))
        if life == 0:
            await self.arun_invalidation(Invalidation.keys([key]))
        return found

    def _touched(self, key: str, ttl: Duration | None, model: Any) -> tuple[Request, float]:
        request = self._request(key, model)
        return request, request.plan.ttl if ttl is None else seconds(ttl)
