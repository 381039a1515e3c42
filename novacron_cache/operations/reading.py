"""Reading: what is cached, and what is loaded where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import flows, straight
from ..drivers import adrive
from ..durations import Duration
from ..effects import Load
from ..entry import MISSING, Entry
from ..requests import Request
from .arguments import Consistency, checked_keys, checked_tags, is_strong
from .requesting import Requesting


class Reading(Requesting):
    """The operations that read."""

    def get(self, key: str, default: Any = None, *, model: Any = None, consistency: Consistency = "bounded") -> Any:
        """Return the value stored under a key, or `default`; nothing is loaded.

        Args:
            key: the logical key.
            default: what to return when nothing is cached; a cached None is returned as None.
            model: the type it was stored as; needed for anything but plain values.
            consistency: `"strong"` asks the shared tier, whatever process memory has: what was invalidated anywhere
                before this call, and acknowledged, is not returned.
        """
        request = self._request(key, model, strong=is_strong(consistency))
        (entry,) = self._run(flows.peek_many(self.engine, [request], counted=True))
        return default if entry is None else self.engine.hand_out(entry, request.plan)

    async def aget(
        self, key: str, default: Any = None, *, model: Any = None, consistency: Consistency = "bounded"
    ) -> Any:
        """Do what `get` does, asynchronously."""
        request = self._request(key, model, strong=is_strong(consistency))
        (entry,) = await adrive(self.engine, flows.peek_many(self.engine, [request], counted=True))
        return default if entry is None else self.engine.hand_out(entry, request.plan)

    def get_many(
        self, keys: Iterable[str], *, model: Any = None, consistency: Consistency = "bounded"
    ) -> dict[str, Any]:
        """Return those that are cached, by key, in one trip to each tier."""
        strong = is_strong(consistency)
        requests = [self._request(key, model, strong=strong) for key in dict.fromkeys(checked_keys(keys))]
        return _found(requests, self._run(flows.look(self.engine, requests)))

    async def aget_many(
        self, keys: Iterable[str], *, model: Any = None, consistency: Consistency = "bounded"
    ) -> dict[str, Any]:
        """Do what `get_many` does, asynchronously."""
        strong = is_strong(consistency)
        requests = [self._request(key, model, strong=strong) for key in dict.fromkeys(checked_keys(keys))]
        return _found(requests, await adrive(self.engine, flows.look(self.engine, requests)))

    def exists(self, key: str, *, model: Any = None, consistency: Consistency = "bounded") -> bool:
        """Return whether a value is cached under a key."""
        request = self._request(key, model, strong=is_strong(consistency))
        return self._run(flows.peek_many(self.engine, [request]))[0] is not None

    async def aexists(self, key: str, *, model: Any = None, consistency: Consistency = "bounded") -> bool:
        """Do what `exists` does, asynchronously."""
        request = self._request(key, model, strong=is_strong(consistency))
        return (await adrive(self.engine, flows.peek_many(self.engine, [request])))[0] is not None

    def ttl(self, key: str, *, model: Any = None) -> float | None:
        """Return the seconds a cached value has left, or None where nothing is cached."""
        return self._left(self._run(flows.peek_many(self.engine, [self._request(key, model)]))[0])

    async def attl(self, key: str, *, model: Any = None) -> float | None:
        """Do what `ttl` does, asynchronously."""
        return self._left((await adrive(self.engine, flows.peek_many(self.engine, [self._request(key, model)])))[0])

    def _left(self, entry: Entry | None) -> float | None:
        return None if entry is None else max(0.0, entry.expires - self.engine.clock.monotonic())

    def get_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        model: Any = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        consistency: Consistency = "bounded",
    ) -> Any:
        """Return the value under a key; on a miss call the loader, store what it returns and return it.

        Args:
            key: the logical key.
            loader: called without arguments, once however many callers wait.
            model: the type of the value; needed for anything but plain values.
            ttl: its lifetime; None takes the model's or the default.
            tags: its tags.
            consistency: as for `get`.

        Raises:
            CachedValueError: the loader returned another type, or something that cannot be stored.
            Exception: what the loader raised, for every caller that waited for it.
        """
        request = self._request(key, model, tags=tags, ttl=ttl, load=Load(loader), strong=is_strong(consistency))
        self.check_threads(request.plan)
        value, entry = straight.get_or_load(self.engine, request)
        if entry is not None:
            self.refresh_early(request, entry, asynchronous=False)
            return self.engine.hand_out(entry, request.plan) if value is MISSING else value
        return value

    async def aget_or_load(
        self,
        key: str,
        loader: Callable[[], Any],
        *,
        model: Any = None,
        ttl: Duration | None = None,
        tags: Iterable[str] = (),
        consistency: Consistency = "bounded",
    ) -> Any:
        """Do what `get_or_load` does, asynchronously; the loader may return an awaitable."""
        request = self._request(key, model, tags=tags, ttl=ttl, load=Load(loader), strong=is_strong(consistency))
        entry = await adrive(self.engine, flows.get_or_load(self.engine, request))
        self.refresh_early(request, entry, asynchronous=True)
        return self.engine.hand_out(entry, request.plan)

    def warm(self, loaders: Mapping[str, Callable[[], Any]], *, model: Any = None, tags: Iterable[str] = ()) -> int:
        """Load what is not cached yet among several keys; return how many were loaded. The first error is raised."""
        named = tuple(checked_tags(tags))
        requests = [self._request(k, model, tags=named, load=Load(loader)) for k, loader in loaders.items()]
        for request in requests[:1]:
            self.check_threads(request.plan)
        entries = self._run(flows.find(self.engine, requests))
        absent = [request for request, entry in zip(requests, entries, strict=True) if entry is None]
        self._run(flows.fill(self.engine, absent))
        return len(absent)

    async def awarm(
        self, loaders: Mapping[str, Callable[[], Any]], *, model: Any = None, tags: Iterable[str] = ()
    ) -> int:
        """Do what `warm` does, asynchronously, several loaders at once."""
        named = tuple(checked_tags(tags))
        requests = [self._request(k, model, tags=named, load=Load(loader)) for k, loader in loaders.items()]
        entries = await adrive(self.engine, flows.find(self.engine, requests))
        absent = [request for request, entry in zip(requests, entries, strict=True) if entry is None]
        await adrive(self.engine, flows.fill(self.engine, absent))
        return len(absent)


def _found(requests: Sequence[Request], values: Sequence[Any]) -> dict[str, Any]:
    return {request.logical: value for request, value in zip(requests, values, strict=True) if value is not MISSING}
