"""Which entry leaves when process memory is full.

A policy owns the table of live entries and says, on every insertion, what has to go. Two kinds exist because their hits
cost differently. S3-FIFO needs nothing from a hit but `entry.hits += 1`, so readers take no lock and may even bypass
the table; it is the default. The classes of cachetools move something on every read, so every read is a call under the
tier's lock; they are here for whoever knows that their workload wants one of them.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import cachetools

from ..entry import Entry
from ..errors import DeclarationError, nearest
from .s3fifo import S3Fifo, bounds

__all__ = ["CachetoolsPolicy", "Lru", "Policy", "S3Fifo", "make_policy"]


class Policy(Protocol):
    """What the memory tier asks of an eviction policy; every call is made with the tier's lock held.

    Attributes:
        lockfree: whether a reader may take an entry from `table` with no lock and no call, only counting `hits`.
        table: the entries by stored key; reading it is never a use.
    """

    lockfree: bool

    @property
    def table(self) -> Mapping[str, Entry]:
        """The entries by stored key; reading it is never a use."""
        ...

    @property
    def bytes(self) -> int:
        """The sum of the sizes of all entries."""
        ...

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key and count this as a use of it, where the policy counts uses itself."""

    def add(self, entry: Entry) -> list[Entry]:
        """Take an entry in, in place of one of the same key if there is one.

        Returns:
            The entries that had to leave, without the replaced one. An entry that alone exceeds the bound on bytes is
            not taken in and is its own only victim.
        """
        ...

    def remove(self, key: str) -> Entry | None:
        """Take an entry out and return it; None when there is none."""

    def clear(self) -> None:
        """Forget every entry, and whatever was remembered of those that left."""

    def entries(self) -> list[Entry]:
        """Return all entries as of now."""
        ...

    def __len__(self) -> int: ...


class CachetoolsPolicy:
    """Any class of cachetools, or one derived from them, as a policy.

    Its eviction order is taken from it, its expiry is not: entries carry their own deadlines, so a `TTLCache` that is
    given no `ttl` never expires anything, and a `TLRUCache` that is given no `ttu` drops what can serve nothing any
    more.

    Args:
        cache_class: the class; it is called with `maxsize` and with what else it requires.
        max_items: how many entries may be there.
        max_bytes: how many bytes they may sum up to; None means no bound.
        timer: the clock that entries are aged by, for classes that want one.
        options: further arguments of the class, such as `choice` of `RRCache`.

    Raises:
        DeclarationError: it is no class of cachetools, or requires an argument that is not known here.
    """

    lockfree = False

    def __init__(
        self,
        cache_class: type[cachetools.Cache[Any, Any]],
        max_items: int,
        max_bytes: int | None = None,
        *,
        timer: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self._max_items, self._max_bytes = bounds(max_items, max_bytes)
        self._gone: list[str] = []
        self._cache = _build(cache_class, max_items, self._gone, timer, options)
        # What is there, by our own books: reading the cache itself would count as a use, and some classes hide
        # what they hold once their own clock has run out.
        self.table: dict[str, Entry] = {}
        self.bytes = 0

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key; the cache counts it as a use."""
        found = self._cache.get(key)
        return found if isinstance(found, Entry) else None

    def add(self, entry: Entry) -> list[Entry]:
        """Take an entry in and return those that had to leave."""
        key, replaced = entry.key, self.table.get(entry.key)
        if entry.size > self._max_bytes:
            self.remove(key)
            return [entry]
        evicted: list[Entry] = []
        while self.table and self.bytes - self._size_of(key) + entry.size > self._max_bytes:
            try:
                self._cache.popitem()
            except KeyError:  # all that is left has expired by the cache's own clock
                self._reconcile(evicted)
                break
            self._settle(evicted)
        try:
            self._cache[key] = entry
        except ValueError:  # a class with a measure of its own finds it too large
            self.remove(key)
            return [*evicted, entry]
        self._settle(evicted)
        self.bytes += entry.size - self._size_of(key)
        self.table[key] = entry
        self._reconcile(evicted)
        return [gone for gone in evicted if gone is not replaced]

    def remove(self, key: str) -> Entry | None:
        """Take an entry out and return it; None when there is none."""
        with suppress(KeyError):  # it never was there, or the cache's own clock has run out on it
            del self._cache[key]
        entry = self.table.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size
        return entry

    def clear(self) -> None:
        """Forget every entry."""
        self._cache.clear()
        self._gone.clear()
        self.table.clear()
        self.bytes = 0

    def entries(self) -> list[Entry]:
        """Return all entries as of now."""
        return list(self.table.values())

    def __len__(self) -> int:
        return len(self.table)

    def _size_of(self, key: str) -> int:
        entry = self.table.get(key)
        return entry.size if entry is not None else 0

    def _settle(self, evicted: list[Entry]) -> None:
        """Enter into the books what the cache has given up."""
        for key in self._gone:
            self._strike(key, evicted)
        self._gone.clear()

    def _reconcile(self, evicted: list[Entry]) -> None:
        """Enter into the books what left in a way that was not observed, as classes of users may do it."""
        held = len(self._cache)  # a class with a clock gives up here what has expired
        self._settle(evicted)
        if held != len(self.table):
            for key in [key for key in self.table if key not in self._cache]:
                self._strike(key, evicted)

    def _strike(self, key: str, evicted: list[Entry]) -> None:
        entry = self.table.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size
            evicted.append(entry)


class Lru(CachetoolsPolicy):
    """The least recently used entry leaves.

    Args:
        max_items: how many entries may be there.
        max_bytes: how many bytes they may sum up to; None means no bound.
    """

    def __init__(self, max_items: int, max_bytes: int | None = None) -> None:
        super().__init__(cachetools.LRUCache, max_items, max_bytes)


def make_policy(
    policy: str | type[Any],
    max_items: int,
    max_bytes: int | None = None,
    *,
    timer: Callable[[], float] = time.monotonic,
) -> Policy:
    """Return the policy of a name or of a class.

    Args:
        policy: `"s3fifo"`, `"lru"`, a class of cachetools, or the name of one, such as `"LFUCache"`.
        max_items: how many entries may be there.
        max_bytes: how many bytes they may sum up to; None means no bound.
        timer: the clock that entries are aged by, for classes that want one.

    Raises:
        DeclarationError: there is no such policy, or a bound is not positive.
    """
    if isinstance(policy, str):
        match policy.lower():
            case "s3fifo":
                return S3Fifo(max_items, max_bytes)
            case "lru":
                return Lru(max_items, max_bytes)
        policy = _class_named(policy)
    return CachetoolsPolicy(policy, max_items, max_bytes, timer=timer)


def _class_named(name: str) -> type[Any]:
    classes = {
        known: value
        for known, value in vars(cachetools).items()
        if known in cachetools.__all__ and isinstance(value, type) and issubclass(value, cachetools.Cache)
    }
    if name in classes:
        return classes[name]
    hint = nearest(name, ["s3fifo", "lru", *classes])
    raise DeclarationError(f"policy={name!r}: unknown{hint}; expected 's3fifo', 'lru' or a class of cachetools")


def _build(
    cache_class: type[Any], maxsize: int, gone: list[str], timer: Callable[[], float], options: dict[str, Any]
) -> cachetools.Cache[str, Entry]:
    """Return a cache of this class that notes in `gone` the key of whatever it gives up by itself."""
    if not (isinstance(cache_class, type) and issubclass(cache_class, cachetools.Cache)):
        raise DeclarationError(f"policy={cache_class!r}: expected 's3fifo', 'lru' or a class of cachetools")
    name = cache_class.__name__
    known: dict[str, Any] = {
        "timer": timer,
        "ttl": math.inf,
        "ttu": lambda _key, entry, _now: entry.stale_until,
    } | options
    arguments: dict[str, Any] = dict(options)
    unknown: list[str] = []
    for parameter in list(inspect.signature(cache_class).parameters.values()):
        if parameter.name == "maxsize" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in known:
            arguments[parameter.name] = known[parameter.name]
        elif parameter.default is parameter.empty:
            unknown.append(parameter.name)
    if unknown:
        raise DeclarationError(
            f"policy={name}: its constructor also wants {', '.join(unknown)}; derive a class that gives it a value"
        )

    give_up: Callable[[Any, float | None], Iterable[tuple[str, Entry]] | None] | None
    give_up = getattr(cache_class, "expire", None)

    def popitem(self: Any) -> tuple[str, Entry]:
        key, entry = cache_class.popitem(self)
        gone.append(key)
        return key, entry

    observed: dict[str, Any] = {"popitem": popitem}
    if give_up is not None:

        def expire(self: Any, time: float | None = None) -> Iterable[tuple[str, Entry]]:
            expired = list(give_up(self, time) or ())
            gone.extend(key for key, _ in expired)
            return expired

        observed["expire"] = expire
    try:
        cache: cachetools.Cache[str, Entry] = type(name, (cache_class,), observed)(maxsize, **arguments)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"policy={name}: it cannot be built with maxsize={maxsize}: {error}") from error
    return cache
