"""Django's cache framework over a `Cache`: views, templates, sessions and the low-level API, with tags as an addition.

Django caches whatever can be pickled, and reading a pickle runs what its writer wanted. So nothing unsigned is ever
unpickled from a tier that others can write to: the keys that sign payloads are derived from `SECRET_KEY` (and
`SECRET_KEY_FALLBACKS`, which still verify), and a cache of the application's own is taken only if it signs too. Numbers
and text are stored as they are; everything else is a pickle, read anew by each caller, as in Django's own backends.

Django makes one backend for each thread and alias. All of one process that are configured alike share one `Cache`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from novacron_cache import MISSING, Cache, CacheItem, Receipt, SettingsError

from .locking import Once, changed
from .pickling import packed, unpacked
from .sharing import close_all, shared_cache

try:
    from asgiref.sync import sync_to_async
    from django.conf import settings as django_settings
    from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
    from django.core.exceptions import ImproperlyConfigured
    from django.core.signals import setting_changed
    from django.utils.crypto import salted_hmac
except ImportError as missing:
    raise ImportError(
        "novacron_cache.integrations.django needs Django: pip install 'novacron-cache[django]'"
    ) from missing

__all__ = ["NovacronCache", "signing_keys"]


def signing_keys() -> tuple[bytes, ...]:
    """Return the keys that this project's payloads are signed with: of `SECRET_KEY`, then of its fallbacks.

    A cache that Django and `@cached` functions share is made with `signing_keys=signing_keys()`.
    """
    secrets = (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS)
    return tuple(
        salted_hmac("novacron_cache.integrations.django", "signing", secret=secret, algorithm="sha256")
        .hexdigest()
        .encode()
        for secret in secrets
    )


class NovacronCache(BaseCache):  # type: ignore[misc]  # Django ships no types
    """A cache backend for `CACHES`.

    `LOCATION` is the URL of a server, or any other name for a store in process memory alone. `OPTIONS` are settings of
    `CacheSettings` (`namespace`, `disk`, `redis`, `memory`, `compression`...) and three of its own: `cache`, the dotted
    path of a `Cache` of the application's or of a function that returns one, or `"default"`; `consistency`, `"strong"`
    to have every read ask the shared tier; and Django's `MAX_ENTRIES`, the entries that process memory holds.

    Every method has Django's meaning. `set`, `add`, `set_many` and `get_or_set` take `tags=` too.

    Raises:
        ImproperlyConfigured: a setting is wrong, or a shared cache signs nothing.
    """

    def __init__(self, location: str, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        options = dict(params.get("OPTIONS") or {})
        options.pop("CULL_FREQUENCY", None)
        if (most := options.pop("MAX_ENTRIES", None)) is not None:
            options["memory"] = {"max_items": most, **options.get("memory", {})}
        self._consistency = options.pop("consistency", "bounded")
        if self._consistency not in ("bounded", "strong"):
            raise ImproperlyConfigured(
                f"CACHES: OPTIONS['consistency']={self._consistency!r}: expected 'bounded' or 'strong'"
            )
        try:
            self._shared = shared_cache(location, options, signing_keys(), tag="django")
        except SettingsError as error:
            raise ImproperlyConfigured(f"CACHES: {error}") from error

    @property
    def cache(self) -> Cache:
        """The cache behind this backend, with everything that Django has no name for."""
        return self._shared.find()

    # -- values and timeouts ----------------------------------------------------------------------------------------

    def _ttl(self, timeout: Any) -> float:
        """Return seconds; zero for what is to expire at once."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        return self._shared.forever if timeout is None else max(0.0, float(timeout))

    def _key(self, key: Any, version: int | None) -> str:
        return str(self.make_and_validate_key(key, version=version))

    # -- one key ----------------------------------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or the default."""
        key = self._key(key, version)
        return unpacked(self.cache.get(key, MISSING, consistency=self._consistency), default)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Do what `get` does, asynchronously."""
        key = self._key(key, version)
        return unpacked(await self.cache.aget(key, MISSING, consistency=self._consistency), default)

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> None:
        """Store a value under a key; a timeout of zero or less removes it."""
        key = self._key(key, version)
        self.cache.set(key, packed(value), ttl=self._ttl(timeout), tags=self._shared.all_tags(tags))

    async def aset(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> None:
        """Do what `set` does, asynchronously."""
        key = self._key(key, version)
        await self.cache.aset(key, packed(value), ttl=self._ttl(timeout), tags=self._shared.all_tags(tags))

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> bool:
        """Store a value unless the key has one; return whether this call did. Of all callers in the fleet one does."""
        key = self._key(key, version)
        once, ttl = Once(packed(value)), self._ttl(timeout)
        if not ttl:
            return not self.cache.exists(key, consistency="strong")
        self.cache.get_or_load(key, once, ttl=ttl, tags=self._shared.all_tags(tags), consistency="strong")
        return once.called

    async def aadd(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> bool:
        """Do what `add` does, asynchronously."""
        key = self._key(key, version)
        once, ttl = Once(packed(value)), self._ttl(timeout)
        if not ttl:
            return not await self.cache.aexists(key, consistency="strong")
        await self.cache.aget_or_load(key, once, ttl=ttl, tags=self._shared.all_tags(tags), consistency="strong")
        return once.called

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> Any:
        """Return the value of a key; without one, store the default, which may be a function, and return it.

        However many threads and processes ask at once, the function runs once.
        """
        ttl = self._ttl(timeout)
        if not ttl:
            found = self.get(key, MISSING, version=version)
            return _made(default) if found is MISSING else found
        key = self._key(key, version)
        all_tags = self._shared.all_tags(tags)

        def load() -> Any:
            return packed(_made(default))

        stored = self.cache.get_or_load(key, load, ttl=ttl, tags=all_tags, consistency=self._consistency)
        value = unpacked(stored, MISSING)
        if value is MISSING:  # an object that this release can no longer read
            value = _made(default)
            self.cache.set(key, packed(value), ttl=ttl, tags=all_tags)
        return value

    async def aget_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> Any:
        """Do what `get_or_set` does, asynchronously; the function may be asynchronous too."""
        ttl = self._ttl(timeout)
        if not ttl:
            found = await self.aget(key, MISSING, version=version)
            return await _amade(default) if found is MISSING else found
        key = self._key(key, version)
        all_tags = self._shared.all_tags(tags)

        async def load() -> Any:
            """Return the default, called where it can be."""
            return packed(await _amade(default))

        stored = await self.cache.aget_or_load(key, load, ttl=ttl, tags=all_tags, consistency=self._consistency)
        value = unpacked(stored, MISSING)
        if value is MISSING:
            value = await _amade(default)
            await self.cache.aset(key, packed(value), ttl=ttl, tags=all_tags)
        return value

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key a new timeout, counted from now; return whether it has a value."""
        ttl = self._ttl(timeout)
        if not ttl:
            return self.delete(key, version=version)
        return self.cache.touch(self._key(key, version), ttl)

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Do what `touch` does, asynchronously."""
        ttl = self._ttl(timeout)
        if not ttl:
            return await self.adelete(key, version=version)
        return await self.cache.atouch(self._key(key, version), ttl)

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Remove a key; return whether it had a value."""
        key = self._key(key, version)
        existed = self.cache.exists(key, consistency=self._consistency)
        self.cache.invalidate(key)
        return existed

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """Do what `delete` does, asynchronously."""
        key = self._key(key, version)
        existed = await self.cache.aexists(key, consistency=self._consistency)
        await self.cache.ainvalidate(key)
        return existed

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Return whether a key has a value."""
        key = self._key(key, version)
        return self.cache.exists(key, consistency=self._consistency)

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """Do what `has_key` does, asynchronously."""
        key = self._key(key, version)
        return await self.cache.aexists(key, consistency=self._consistency)

    # -- counters and versions --------------------------------------------------------------------------------------

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """Add to a number and return the sum; its timeout and tags stay.

        Callers in one process and in others are let in one after the other, so no count is lost.

        Raises:
            ValueError: the key has no value.
        """

        def add(stored: Any) -> Any:
            value = unpacked(stored, MISSING)
            if value is MISSING:
                raise ValueError(f"Key '{key}' not found")
            return packed(value + delta)

        ttl = self._ttl(DEFAULT_TIMEOUT)
        return unpacked(changed(self.cache, self._key(key, version), add, ttl=ttl), None)

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        """Do what `incr` does, in a thread: others may have to be waited for."""
        return await sync_to_async(self.incr, thread_sensitive=False)(key, delta, version)

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to a later version of its key, its timeout and tags with it; return that version.

        Raises:
            ValueError: the key has no value.
        """
        version = self.version if version is None else version
        made = self._key(key, version)
        known, stored = self.cache.explain(made), self.cache.get(made, MISSING, consistency="strong")
        if stored is MISSING:
            raise ValueError(f"Key '{key}' not found")
        later = self._key(key, version + delta)
        self.cache.set(later, stored, ttl=known.remaining or self._ttl(DEFAULT_TIMEOUT), tags=known.tags)
        self.cache.invalidate(made)
        return int(version + delta)

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Do what `incr_version` does, in a thread."""
        moved: int = await sync_to_async(self.incr_version, thread_sensitive=False)(key, delta, version)
        return moved

    # -- many keys --------------------------------------------------------------------------------------------------

    def _keys(self, keys: Iterable[Any], version: int | None) -> dict[str, Any]:
        return {self._key(key, version): key for key in keys}

    def _items(self, data: Mapping[Any, Any], tags: Iterable[str], version: int | None) -> dict[str, CacheItem]:
        all_tags = self._shared.all_tags(tags)
        return {self._key(key, version): CacheItem(packed(value), None, all_tags) for key, value in data.items()}

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return those of the keys that have a value, in one trip to each tier."""
        names = self._keys(keys, version)
        return _found(names, self.cache.get_many(names, consistency=self._consistency))

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Do what `get_many` does, asynchronously."""
        names = self._keys(keys, version)
        return _found(names, await self.cache.aget_many(names, consistency=self._consistency))

    def set_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> list[Any]:
        """Store several values in one trip; return the keys that could not be stored, of which there are none."""
        self.cache.set_many(self._items(data, tags, version), ttl=self._ttl(timeout))
        return []

    async def aset_many(
        self,
        data: Mapping[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        tags: Iterable[str] = (),
    ) -> list[Any]:
        """Do what `set_many` does, asynchronously."""
        await self.cache.aset_many(self._items(data, tags, version), ttl=self._ttl(timeout))
        return []

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Remove several keys in one trip."""
        if names := self._keys(keys, version):
            self.cache.invalidate(*names)

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Do what `delete_many` does, asynchronously."""
        if names := self._keys(keys, version):
            await self.cache.ainvalidate(*names)

    def clear(self) -> None:
        """Remove everything; of a cache of the application's own, what Django has stored."""
        if tags := self._shared.tags:
            self.cache.invalidate_tags(*tags)
        else:
            self.cache.clear()

    async def aclear(self) -> None:
        """Do what `clear` does, asynchronously."""
        if tags := self._shared.tags:
            await self.cache.ainvalidate_tags(*tags)
        else:
            await self.cache.aclear()

    # -- tags -------------------------------------------------------------------------------------------------------

    def invalidate_tags(self, *tags: str, match: str = "any", **values: Any) -> Receipt:
        """Remove every value with any of these tags, whatever its key and version; see `Cache.invalidate_tags`."""
        return self.cache.invalidate_tags(*tags, match=match, **values)

    async def ainvalidate_tags(self, *tags: str, match: str = "any", **values: Any) -> Receipt:
        """Do what `invalidate_tags` does, asynchronously."""
        return await self.cache.ainvalidate_tags(*tags, match=match, **values)


def _found(names: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[Any, Any]:
    values = {names[key]: unpacked(value, MISSING) for key, value in stored.items()}
    return {key: value for key, value in values.items() if value is not MISSING}


def _made(default: Any) -> Any:
    return default() if callable(default) else default


async def _amade(default: Any) -> Any:
    value = _made(default)
    return await value if inspect.isawaitable(value) else value


def _reconfigured(*, setting: str, **_: Any) -> None:
    # In tests, `override_settings` makes new backends; the caches of the former ones go with them.
    if setting in ("CACHES", "SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        close_all()


setting_changed.connect(_reconfigured, dispatch_uid="novacron_cache.integrations.django")
