"""From a framework's configuration to the one `Cache` of this process that it describes.

Frameworks make their backends often (Django one for each thread, Flask one for each application) and of plain
configuration. Those configured alike share one cache here, as those of one name share one store elsewhere. Or they name
a cache of the application's own; then tags reach the framework's entries and the application's together.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from novacron_cache import Cache, CacheSettings, SettingsError, default_cache

LONGEST = 30 * 86_400.0
"""Seconds for which tiers keep what has no end of its own, unless settings say otherwise: longer than any session."""

_URLS = ("redis://", "rediss://", "unix://")

_lock = threading.Lock()
_caches: dict[str, Cache] = {}


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class Shared:
    """The cache behind a backend.

    Attributes:
        find: returns it.
        forever: seconds that stand for "for ever": no tier keeps anything longer.
        tags: what everything has that the backend stores; empty where the whole cache is the backend's.
    """

    find: Callable[[], Cache]
    forever: float
    tags: tuple[str, ...]

    def all_tags(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Return the backend's tags and those of a call.

        Raises:
            TypeError: the call's are one text.
        """
        if isinstance(tags, str):
            raise TypeError(f"tags={tags!r}: expected a list of tags")
        return (*self.tags, *tags)


def shared_cache(location: str, options: Mapping[str, Any], keys: Sequence[bytes | str], *, tag: str) -> Shared:
    """Return the cache that a framework's configuration describes.

    Args:
        location: the URL of a server, or any other name for a store in process memory.
        options: what `CacheSettings` takes; `disk` may be a path. Or `cache` alone: a `Cache` of the application's, a
            function that returns one, the dotted path of either, or `"default"`.
        keys: what payloads are signed with where the options say nothing.
        tag: what everything has that the backend stores in a cache of the application's.

    Raises:
        SettingsError: a setting is wrong, or a tier would be shared and nothing signed.
    """
    options = dict(options)
    own = options.pop("cache", None)
    if own is None:
        settings, find = _of_settings(location, options, keys)
        return Shared(find, _longest(settings), ())
    if options or location:
        named = ", ".join([*([repr(location)] if location else []), *options])
        raise SettingsError(f"cache={own!r} is a cache that is made already; leave out {named}")
    find = _of_application(own)
    return Shared(find, _longest(find().settings), (tag,))


def _of_settings(
    location: str, options: Mapping[str, Any], keys: Sequence[bytes | str]
) -> tuple[CacheSettings, Callable[[], Cache]]:
    given: dict[str, Any] = {"signing_keys": list(keys), **options}
    memory: dict[str, Any] = dict(given.pop("memory", {}))
    redis: dict[str, Any] = dict(given.pop("redis", {}))
    place = given.pop("disk", {})
    disk: dict[str, Any] = {"path": place} if isinstance(place, str | os.PathLike) else dict(place)
    if location.startswith(_URLS):
        redis.setdefault("url", location)
    redis.setdefault("ttl", LONGEST)
    disk.setdefault("ttl", LONGEST)
    if not (redis.get("url") or redis.get("addresses") or redis.get("mode") or disk.get("path")):
        # Nothing farther away keeps what process memory lets go of.
        memory.setdefault("ttl", LONGEST)
    settings = CacheSettings(memory=memory, redis=redis, disk=disk, **given)
    if _shares(settings) and not settings.signing_keys:
        raise SettingsError(_UNSIGNED, variable="signing_keys")
    identity = repr(
        (location, sorted(given.items()), sorted(memory.items()), sorted(redis.items()), sorted(disk.items()))
    )

    def find() -> Cache:
        cache = _caches.get(identity)
        if cache is None or cache.closed:
            with _lock:
                cache = _caches.get(identity)
                if cache is None or cache.closed:
                    cache = _caches[identity] = Cache(settings)
        return cache

    return settings, find


_UNSIGNED = (
    "a tier is shared and nothing is signed, but objects are stored as pickles, which run code when they are read: "
    "give it signing_keys"
)


def _of_application(named: Any) -> Callable[[], Cache]:
    found: Any = default_cache if named == "default" else _imported(named) if isinstance(named, str) else named

    def find() -> Cache:
        cache = found() if callable(found) else found
        if not isinstance(cache, Cache):
            raise SettingsError(
                f"cache={named!r} is {type(cache).__name__}; expected a Cache or a function that returns one"
            )
        if _shares(cache.settings) and not cache.settings.signing_keys:
            raise SettingsError(f"cache={named!r}: {_UNSIGNED}", variable="signing_keys")
        return cache

    return find


def _shares(settings: CacheSettings) -> bool:
    return settings.redis_on or settings.disk_on


def _longest(settings: CacheSettings) -> float:
    caps = [settings.redis.ttl] * settings.redis_on + [settings.disk.ttl] * settings.disk_on
    return max(caps) if caps else settings.memory.ttl


def close_all() -> None:
    """Close the caches made of settings; whoever asks for one again gets a new one."""
    with _lock:
        closing = list(_caches.values())
        _caches.clear()
    for cache in closing:
        with contextlib.suppress(Exception):
            cache.close()


atexit.register(close_all)


def _imported(path: str) -> Any:
    module, dot, name = path.rpartition(".")
    try:
        if not dot:
            raise ImportError(f"{path!r} has no dot")
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"cache={path!r}: expected the dotted path of a Cache, such as 'shop.caching.cache', or 'default' ({error})"
        ) from error
