"""The default cache: the one that `@cached` uses when no other is named."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import Cache
    from .decorators import Controller
    from .settings import CacheSettings

_lock = threading.RLock()
_default: Cache | None = None
_users: weakref.WeakSet[Controller] = weakref.WeakSet()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def default_cache(user: Controller | None = None) -> Cache:
    """Return the default cache, making one of process memory alone where none was configured.

    Args:
        user: a function that asks on its own behalf; it is told when another cache becomes the default.
    """
    global _default
    with _lock:
        if user is not None:
            _users.add(user)
        if _default is None or _default.closed:
            from .cache import Cache

            _default = Cache()
        return _default


def configure(settings: CacheSettings | Cache | None = None, /, **options: Any) -> Cache:
    """Set the default cache and return it; the previous default is closed.

    Args:
        settings: settings or a cache; None makes settings of the options.
        options: what `CacheSettings` takes.

    Raises:
        SettingsError: an option is wrong.
        TypeError: both were given.
    """
    global _default
    from .cache import Cache
    from .settings import CacheSettings

    if settings is not None and options:
        raise TypeError("configure() takes settings, a cache or options, not several of them")
    cache = settings if isinstance(settings, Cache) else Cache(settings or CacheSettings(**options))
    with _lock:
        previous, _default = _default, cache
        for user in list(_users):
            user.unbind()
    if previous is not None and previous is not cache:
        previous.close()
    return cache


@contextmanager
def substituted(cache: Cache) -> Iterator[Cache]:
    """Have a cache be the default one for the length of a block; the one before comes back as it was, for tests.

    Whatever is configured inside the block is closed at its end, but for the given cache.
    """
    previous = _replace(cache)
    try:
        yield cache
    finally:
        last = _replace(previous)
        if last is not None and last is not cache and last is not previous:
            last.close()


def _replace(cache: Cache | None) -> Cache | None:
    global _default
    with _lock:
        previous, _default = _default, cache
        for user in list(_users):
            user.unbind()
    return previous
