"""Flask-Caching over the cache: `CACHE_TYPE = "novacron_cache.integrations.flask_caching.NovacronCache"`.

Views, memoized functions and template fragments are stored as pickles, so what is shared is signed: by keys derived
from the application's `SECRET_KEY` and its fallbacks, or by those in `CACHE_OPTIONS`.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Iterable
from typing import Any

from novacron_cache import MISSING, Cache, CacheItem, DeclarationError, Receipt

from .locking import Once, changed
from .pickling import packed, unpacked
from .sharing import Shared, shared_cache

try:
    from flask import Flask
    from flask_caching.backends.base import BaseCache
except ImportError as missing:
    raise ImportError(
        "novacron_cache.integrations.flask_caching needs Flask-Caching: pip install 'novacron-cache[flask]'"
    ) from missing

__all__ = ["NovacronCache", "signing_keys"]


def signing_keys(app: Flask) -> tuple[bytes, ...]:
    """Return the keys that an application's payloads are signed with: of `SECRET_KEY`, then of its fallbacks.

    A cache that Flask-Caching and `@cached` functions share is made with `signing_keys=signing_keys(app)`.
    """
    secrets = [app.config.get("SECRET_KEY"), *(app.config.get("SECRET_KEY_FALLBACKS") or ())]
    purpose = b"novacron_cache.integrations.flask_caching"
    return tuple(
        hmac.digest(secret.encode() if isinstance(secret, str) else secret, purpose, "sha256").hex().encode()
        for secret in secrets
        if secret
    )


class NovacronCache(BaseCache):
    """A backend of Flask-Caching.

    `CACHE_REDIS_URL` is the URL of the server and `CACHE_KEY_PREFIX` stands before each key. `CACHE_OPTIONS` are
    settings of `CacheSettings` (`namespace`, `disk`, `memory`, `signing_keys`...) or `cache`, a `Cache` of the
    application's, its dotted path, or `"default"`; and `consistency`, `"strong"` to have every read ask the shared
    tier. `set`, `add` and `set_many` take `tags=` too.

    Raises:
        SettingsError: a setting is wrong, or a tier would be shared and nothing signed.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        key_prefix: str = "",
        consistency: str = "bounded",
        default_timeout: int | dt.timedelta = 300,
        ignore_delete_many_errors: bool = False,
    ) -> None:
        super().__init__(default_timeout, ignore_delete_many_errors)  # type: ignore[arg-type]  # cachelib, which keeps it, takes both
        if consistency not in ("bounded", "strong"):
            raise DeclarationError(f"CACHE_OPTIONS: consistency={consistency!r}: expected 'bounded' or 'strong'")
        self._shared, self._prefix = shared, key_prefix
        self._consistency: Any = consistency

    @classmethod
    def factory(cls, app: Flask, config: dict[str, Any], args: list[Any], kwargs: dict[str, Any]) -> NovacronCache:
        """Return the backend of an application's configuration."""
        options = dict(kwargs)
        own = {
            name: options.pop(name)
            for name in ("consistency", "default_timeout", "ignore_delete_many_errors")
            if name in options
        }
        location = "" if "cache" in options else str(config.get("CACHE_REDIS_URL") or "")
        shared = shared_cache(location, options, signing_keys(app), tag="flask-caching")
        return cls(shared, *args, key_prefix=config.get("CACHE_KEY_PREFIX") or "", **own)

    @property
    def cache(self) -> Cache:
        """The cache behind this backend, with everything that Flask-Caching has no name for."""
        return self._shared.find()

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _ttl(self, timeout: int | dt.timedelta | None) -> float:
        """Return seconds; of a timeout of zero as many as anything is kept, and zero for what is over already."""
        asked = self._normalize_timeout(timeout)
        return self._shared.forever if asked == 0 else max(0.0, float(asked))

    def get(self, key: str) -> Any:
        """Return the value of a key, or None."""
        return unpacked(self.cache.get(self._key(key), MISSING, consistency=self._consistency), None)

    def get_many(self, *keys: str) -> list[Any]:
        """Return the values of several keys in their order, None where there is none, in one trip to each tier."""
        found = self.cache.get_many([self._key(key) for key in keys], consistency=self._consistency)
        return [unpacked(found.get(self._key(key), MISSING), None) for key in keys]

    def has(self, key: str) -> bool:
        """Return whether a key has a value."""
        return self.cache.exists(self._key(key), consistency=self._consistency)

    def set(self, key: str, value: Any, timeout: int | dt.timedelta | None = None, *, tags: Iterable[str] = ()) -> bool:
        """Store a value; return True."""
        self.cache.set(self._key(key), packed(value), ttl=self._ttl(timeout), tags=self._shared.all_tags(tags))
        return True

    def add(self, key: str, value: Any, timeout: int | dt.timedelta | None = None, *, tags: Iterable[str] = ()) -> bool:
        """Store a value unless the key has one; return whether this call did. Of all callers in the fleet one does."""
        ttl = self._ttl(timeout)
        if not ttl:
            return not self.has(key)
        once = Once(packed(value))
        all_tags = self._shared.all_tags(tags)
        self.cache.get_or_load(self._key(key), once, ttl=ttl, tags=all_tags, consistency="strong")
        return once.called

    def set_many(
        self, mapping: dict[str, Any], timeout: int | dt.timedelta | None = None, *, tags: Iterable[str] = ()
    ) -> list[str]:
        """Store several values in one trip; return their keys."""
        all_tags = self._shared.all_tags(tags)
        items = {self._key(key): CacheItem(packed(value), None, all_tags) for key, value in mapping.items()}
        self.cache.set_many(items, ttl=self._ttl(timeout))
        return list(mapping)

    def delete(self, key: str) -> bool:
        """Forget a key; return whether it had a value."""
        existed = self.has(key)
        self.cache.invalidate(self._key(key))
        return existed

    def delete_many(self, *keys: str) -> list[str]:
        """Forget several keys in one trip; return them, for none of them has a value any more."""
        if keys:
            self.cache.invalidate(*(self._key(key) for key in keys))
        return list(keys)

    unlink = delete_many

    def clear(self) -> bool:
        """Forget everything; of a cache of the application's own, what Flask-Caching has stored."""
        if self._shared.tags:
            self.cache.invalidate_tags(*self._shared.tags)
        else:
            self.cache.clear()
        return True

    def inc(self, key: str, delta: int = 1) -> Any:
        """Add to a number, or to zero where there is none, and return the sum; no caller's count is lost."""

        def add(stored: Any) -> Any:
            return packed((unpacked(stored, None) or 0) + delta)

        return unpacked(changed(self.cache, self._key(key), add, ttl=self._ttl(None), tags=self._shared.tags), None)

    def dec(self, key: str, delta: int = 1) -> Any:
        """Subtract from a number as `inc` adds to it."""
        return self.inc(key, -delta)

    def invalidate_tags(self, *tags: str, match: str = "any", **values: Any) -> Receipt:
        """Forget every value with any of these tags; see `Cache.invalidate_tags`."""
        return self.cache.invalidate_tags(*tags, match=match, **values)
