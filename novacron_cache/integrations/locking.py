"""Mutual exclusion between threads and processes, made of the cache's public operations alone.

Two frameworks need it: a counter is read, changed and written back, and dogpile.cache asks its backend for a mutex.
`get_or_load` lets one caller in the fleet load a key, and `consistency="strong"` has it ask the shared tier; so whoever
ran the loader owns the key until it is invalidated. Threads of one process queue before a lock of their own, which is
given back only when the shared tier has taken the release: otherwise the next owner's entry could be invalidated by the
release of the one before.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from novacron_cache import MISSING, Cache

_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class _ProcessLock:
    """A lock that a weak dictionary can hold."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


_registry = threading.Lock()
_locks: weakref.WeakValueDictionary[tuple[int, str], _ProcessLock] = weakref.WeakValueDictionary()


def _after_fork() -> None:
    global _registry
    _registry = threading.Lock()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Once:
    """A loader of a value that is there already, which remembers whether it was called."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.called = False

    def __call__(self) -> Any:
        """Return the value."""
        self.called = True
        return self._value


class CacheMutex:
    """A mutex that threads and processes share, named by a key of a cache.

    It excludes as long as its owner takes less than `hold`, and the shared tier answers; without it the threads of one
    process exclude each other alone. It is not re-entrant.

    Args:
        cache: the cache whose tiers the parties share.
        key: what is locked; a logical key that nothing else uses.
        hold: seconds after which an owner that has died, or takes too long, is no longer waited for.
    """

    def __init__(self, cache: Cache, key: str, *, hold: float = 10.0) -> None:
        self._cache = cache
        self._key = key
        self._hold = hold
        with _registry:
            self._process = _locks.setdefault((id(cache), key), _ProcessLock())

    def acquire(self, wait: bool = True) -> bool:
        """Take the mutex; return whether this caller owns it now, which is always so where it was willing to wait."""
        if not self._process.lock.acquire(wait):
            return False
        pause = _SHORTEST_PAUSE
        try:
            while not self._own():
                if not wait:
                    self._process.lock.release()
                    return False
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            self._process.lock.release()
            raise
        return True

    def _own(self) -> bool:
        once = Once(True)
        self._cache.get_or_load(self._key, once, ttl=self._hold, consistency="strong")
        return once.called

    def release(self) -> None:
        """Give the mutex back, for whoever waits."""
        try:
            self._cache.invalidate(self._key)
        finally:
            self._process.lock.release()

    def locked(self) -> bool:
        """Return whether somebody owns the mutex."""
        return self._process.lock.locked() or self._cache.exists(self._key, consistency="strong")

    def __enter__(self) -> CacheMutex:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def changed(cache: Cache, key: str, change: Callable[[Any], Any], *, ttl: float, tags: tuple[str, ...] = ()) -> Any:
    """Replace what is stored under a key by what a function makes of it, letting in one caller after the other.

    Args:
        cache: the cache.
        key: the key.
        change: given what is stored, or `MISSING`; what it raises is raised, and nothing is changed.
        ttl: seconds for what was not there before; what was keeps the time that it has left, and its tags.
        tags: the tags of what was not there before.

    Returns:
        What is stored now.
    """
    with CacheMutex(cache, f"lock of {key}"):
        known = cache.explain(key)
        before = cache.get(key, MISSING, consistency="strong")
        after = change(before)
        if before is MISSING:
            cache.set(key, after, ttl=ttl, tags=tags)
        else:
            cache.set(key, after, ttl=known.remaining or ttl, tags=known.tags)
        return after
