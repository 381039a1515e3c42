"""dogpile.cache over the cache: the backend `novacron_cache`, with a mutex that processes share.

A region hands its backend bytes, by default the pickle of a value, so what is shared is signed. When a value is too old
is the region's to say (`expiration_time`); the backend only bounds how long it is kept at all, so that a region can
serve the old value while one caller makes the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from novacron_cache import MISSING, Cache, DeclarationError, seconds

from .locking import CacheMutex
from .sharing import shared_cache

try:
    from dogpile.cache import api
    from dogpile.cache.api import NO_VALUE, BytesBackend, KeyType, SerializedReturnType
except ImportError as missing:
    raise ImportError(
        "novacron_cache.integrations.dogpile needs dogpile.cache: pip install 'novacron-cache[dogpile]'"
    ) from missing

__all__ = ["NovacronBackend"]


class NovacronBackend(BytesBackend):
    """The backend `novacron_cache` of dogpile.cache.

    Args:
        arguments: `url` (of the server; without it, and without the other tiers' settings, process memory alone);
            `expiration` (how long anything is kept; by default as long as the tiers keep anything, and more than the
            region's `expiration_time`); `distributed_lock` (whether one caller in the fleet makes a value, by default
            true, or one in each process); `lock_timeout` (seconds after which a caller that makes a value is no longer
            waited for, by default 30); `tags` (a function from a key to its tags); `consistency`; `cache` (a `Cache` of
            the application's, its dotted path, or `"default"`); and what `CacheSettings` takes, of which a shared tier
            needs `namespace` and `signing_keys`.

    Raises:
        SettingsError: a setting is wrong.
        DeclarationError: an argument is wrong.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        options = dict(arguments)
        lifetime = options.pop("expiration", None)
        self._distributed = _boolean("distributed_lock", options.pop("distributed_lock", True))
        self._hold = seconds(_number(options.pop("lock_timeout", 30)))
        self._tags_of: Callable[[str], Iterable[str]] = options.pop("tags", None) or _no_tags
        self._consistency = options.pop("consistency", "bounded")
        if self._consistency not in ("bounded", "strong"):
            raise DeclarationError(f"consistency={self._consistency!r}: expected 'bounded' or 'strong'")
        if not callable(self._tags_of):
            raise DeclarationError(f"tags={self._tags_of!r}: expected a function from a key to its tags")
        self._shared = shared_cache(str(options.pop("url", "")), options, (), tag="dogpile")
        self._ttl = self._shared.forever if lifetime is None else seconds(_number(lifetime))

    @property
    def cache(self) -> Cache:
        """The cache behind this backend, with its tags and everything else that dogpile.cache has no name for."""
        return self._shared.find()

    def has_lock_timeout(self) -> bool:
        """Return whether a lock ends by itself."""
        return self._distributed

    def get_mutex(self, key: KeyType) -> api.CacheMutex | None:
        """Return the mutex of a key, which all processes share; None, for one of threads, where that is not wanted."""
        if not self._distributed:
            return None
        return cast("api.CacheMutex", CacheMutex(self.cache, f"dogpile lock of {key}", hold=self._hold))

    def get_serialized(self, key: KeyType) -> SerializedReturnType:
        """Return the bytes of a key, or `NO_VALUE`."""
        return _bytes(self.cache.get(key, MISSING, consistency=self._consistency))

    def get_serialized_multi(self, keys: Iterable[KeyType]) -> Sequence[SerializedReturnType]:
        """Return the bytes of several keys in their order, in one trip to each tier."""
        asked = list(keys)
        found = self.cache.get_many(asked, consistency=self._consistency)
        return [_bytes(found.get(key, MISSING)) for key in asked]

    def set_serialized(self, key: KeyType, value: bytes) -> None:
        """Store the bytes of a key."""
        self.cache.set(key, value, ttl=self._ttl, tags=self._shared.all_tags(self._tags_of(key)))

    def set_serialized_multi(self, mapping: Mapping[KeyType, bytes]) -> None:
        """Store the bytes of several keys, in one trip where they have no tags of their own."""
        if self._tags_of is _no_tags:
            self.cache.set_many(mapping, ttl=self._ttl, tags=self._shared.tags)
            return
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete(self, key: KeyType) -> None:
        """Forget a key."""
        self.cache.invalidate(key)

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        """Forget several keys, in one trip."""
        if named := list(keys):
            self.cache.invalidate(*named)


def _no_tags(_key: str) -> tuple[str, ...]:
    return ()


def _bytes(stored: Any) -> SerializedReturnType:
    return stored if isinstance(stored, bytes) else NO_VALUE


def _boolean(name: str, value: Any) -> bool:
    """Return a truth value that may come from a configuration file as text."""
    if isinstance(value, str):
        if value.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise DeclarationError(f"{name}={value!r}: expected true or false")
        return value.lower() in ("true", "1", "yes", "on")
    return bool(value)


def _number(value: Any) -> Any:
    """Return seconds that may come from a configuration file as text without a unit."""
    return float(value) if isinstance(value, str) and value.replace(".", "", 1).isdigit() else value
