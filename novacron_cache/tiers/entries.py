"""Live entries in process memory: the rules by which they come, are found and go.

Readers of the default policy take no lock, so everything here keeps three promises to them: the table changes one key
at a time, an entry that leaves is killed before the call that removed it returns, and no loop over many entries holds
the lock. Decorated functions keep *fronts*, dictionaries of their own from raw arguments to entries; an entry knows the
fronts it is in and leaves them when it leaves the table.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Final

from ..entry import DEAD, Clock, Entry, SystemClock
from ..keys import first_segment
from ..markers import NAMESPACE, short
from .policies import make_policy

__all__ = ["Entries"]

BATCH: Final = 256
"""How many entries are removed under one hold of the lock."""

MAX_FRONTS: Final = 8
"""Under how many raw keys one entry is known at once; arguments that are left out of the key may vary without end."""


class Entries:
    """The live entries of one cache.

    Args:
        max_items: how many entries are held at most.
        max_bytes: how many bytes they may sum up to, by `Entry.size`; None means no bound.
        policy: which entry leaves: `"s3fifo"`, `"lru"`, a class of cachetools or its name.
        clock: the clock that entries are aged by.

    Attributes:
        lock: held around every change; whoever decides by what is here holds it meanwhile. It may be taken again.
        lockfree: whether hits take no lock, which is what allows fronts.
        evictions: how many entries had to leave to stay within the bounds.
        on_evict: called with each of them, after the lock was left.
        on_kill: called with each entry that an invalidation removes; the lock may be held.
        on_remove: called with each entry that is removed because it is not valid any more; the lock may be held.

    Raises:
        DeclarationError: the policy is unknown, or a bound is not positive.
    """

    def __init__(
        self,
        *,
        max_items: int = 10_000,
        max_bytes: int | None = None,
        policy: str | type[Any] = "s3fifo",
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.lock = threading.RLock()
        self._policy = make_policy(policy, max_items, max_bytes, timer=self.clock.monotonic)
        self._table = self._policy.table
        self.lockfree = self._policy.lockfree
        self.evictions = 0
        self.on_evict: Callable[[Entry], None] | None = None
        self.on_kill: Callable[[Entry], None] | None = None
        self.on_remove: Callable[[Entry], None] | None = None
        self._by_logical = _Index()
        self._by_tag = _Index()
        self._fronts: dict[int, dict[Any, Entry]] = {}
        _alive.add(self)

    # -- reading ------------------------------------------------------------------------------------------------

    def lookup(self, key: str) -> Entry | None:
        """Return the entry of a stored key unless it was killed; whether it may still be served is not asked."""
        if self.lockfree:
            entry = self._table.get(key)
        else:
            with self.lock:
                entry = self._policy.get(key)
        return entry if entry is not None and entry.deadline != DEAD else None

    def lacks(self, keys: Iterable[str]) -> bool:
        """Return whether there is no entry under any of these stored keys."""
        if self.lockfree:
            return self._table.keys().isdisjoint(keys)
        with self.lock:
            return not any(key in self._table for key in keys)

    def entries(self) -> list[Entry]:
        """Return all entries as of now."""
        with self.lock:
            return self._policy.entries()

    def __len__(self) -> int:
        return len(self._table)

    @property
    def bytes(self) -> int:
        """The sum of the sizes of all entries."""
        return self._policy.bytes

    # -- inserting ----------------------------------------------------------------------------------------------

    def insert(self, entry: Entry, admit: Callable[[], bool] | None = None) -> bool:
        """Put an entry in, in place of the one of the same key; others may have to leave.

        Args:
            entry: the entry; one that was killed is not put in.
            admit: asked under the lock; when it returns False, nothing happens.

        Returns:
            Whether the entry is in now. One that alone exceeds `max_bytes` is not, but what it replaces is gone.
        """
        with self.lock:
            if entry.deadline == DEAD or (admit is not None and not admit()):
                return False
            replaced = self._table.get(entry.key)
            evicted = self._policy.add(entry)
            if replaced is not None and replaced is not entry:
                self._forget(replaced)
            for gone in evicted:
                self._forget(gone)
            admitted = self._table.get(entry.key) is entry
            if admitted:
                self._by_logical.add(short(entry.logical), entry)
                for tag in entry.tags:
                    self._by_tag.add(short(tag), entry)
            self.evictions += len(evicted)
        if self.on_evict is not None:
            for gone in evicted:
                self.on_evict(gone)
        return admitted

    # -- removing -----------------------------------------------------------------------------------------------

    def remove(self, key: str) -> Entry | None:
        """Kill and remove the entry of a stored key, and return it."""
        with self.lock:
            entry = self._policy.remove(key)
            if entry is not None:
                self._forget(entry)
                self._removed(entry)
            return entry

    def kill_deps(self, deps: Iterable[str]) -> int:
        """Kill and remove every entry that has one of these dependencies.

        Args:
            deps: names as `markers` forms them. Keys and tags are found in an index; a model or a first segment is
                looked for among all entries.

        Returns:
            How many entries there were.
        """
        removed = 0
        names: set[str] = set()
        segments: set[str] = set()
        for dep in deps:
            kind, _, what = dep.partition(":")
            if dep == NAMESPACE:
                return removed + self.clear()
            if kind == "k":
                removed += self._kill_indexed(self._by_logical, what)
            elif kind == "t":
                removed += self._kill_indexed(self._by_tag, what)
            elif kind == "m":
                names.add(what)
            elif kind == "p":
                segments.add(what)
        if names or segments:
            removed += self._remove_each(
                entry
                for entry in self.entries()
                if entry.name in names or short(first_segment(entry.logical)) in segments
            )
        return removed

    def kill_matching(self, predicate: Callable[[str, Sequence[str]], bool]) -> int:
        """Kill and remove every entry whose logical key and tags satisfy a predicate; return how many there were."""
        return self._remove_each(entry for entry in self.entries() if predicate(entry.logical, entry.tags))

    def sweep(self, now: float) -> int:
        """Remove the entries that can serve nothing any more.

        Args:
            now: monotonic seconds; entries whose `stale_until` is not after it go.

        Returns:
            How many there were. They do not count as evicted.
        """
        return self._remove_each((entry for entry in self.entries() if entry.stale_until <= now), expired=True)

    def clear(self) -> int:
        """Kill and remove every entry; return how many there were."""
        with self.lock:
            entries = self._policy.entries()
            self._policy.clear()
            self._by_logical.clear()
            self._by_tag.clear()
            self.set_aside()
        for entry in entries:
            entry.kill()
            self._removed(entry, expired=False)
        return len(entries)

    def _kill_indexed(self, index: _Index, name: str) -> int:
        with self.lock:
            # Whoever is in from now on is filed anew, so what was taken out can be gone through without the lock.
            entries = index.take(name)
        return self._remove_each(entries) if entries else 0

    def _remove_each(self, entries: Iterable[Entry], *, expired: bool = False) -> int:
        """Kill and remove entries, a few under each hold of the lock; finding them happens outside of it."""
        removed = 0
        found = iter(entries)
        while batch := list(islice(found, BATCH)):
            with self.lock:
                for entry in batch:
                    if self._table.get(entry.key) is entry:
                        self._policy.remove(entry.key)
                        self._removed(entry, expired=expired)
                        removed += 1
                    self._forget(entry)
            if len(batch) == BATCH:
                time.sleep(0)  # lets a thread run that waits for the interpreter, not only one that waits for the lock
        return removed

    def _removed(self, entry: Entry, *, expired: bool = True) -> None:
        if (tell := self.on_remove) is not None:
            tell(entry)
        if not expired and (tell := self.on_kill) is not None:
            tell(entry)

    def _forget(self, entry: Entry) -> None:
        """Kill an entry that has left the table, and take it out of the indexes and the fronts."""
        entry.kill()
        self._by_logical.discard(short(entry.logical), entry)
        for tag in entry.tags:
            self._by_tag.discard(short(tag), entry)
        _leave_fronts(entry)

    # -- fronts -------------------------------------------------------------------------------------------------

    def register_front(self, front: dict[Any, Entry]) -> None:
        """Make a dictionary a front: `attach` may fill it from now on."""
        with self.lock:
            self._fronts[id(front)] = front

    def unregister_front(self, front: dict[Any, Entry]) -> None:
        """Empty a front and forget it; unknown ones are ignored."""
        with self.lock:
            if self._fronts.pop(id(front), None) is not None:
                front.clear()

    def attach(self, front: dict[Any, Entry], raw: Any, entry: Entry) -> bool:
        """Enter an entry into a registered front, under the raw key of a call.

        Returns:
            Whether it is there now. It is not when the entry is no longer the one in the table, when the front is not
            registered, or when the policy wants to see every hit.
        """
        if not self.lockfree:
            return False
        with self.lock:
            if self._table.get(entry.key) is not entry or entry.deadline == DEAD or id(front) not in self._fronts:
                return False
            front[raw] = entry
            if not any(known is front and key == raw for known, key in _pairs(entry.fronts)):
                if len(entry.fronts) >= 2 * MAX_FRONTS:
                    first, key, *_ = entry.fronts
                    _detach(first, key, entry)
                    entry.fronts = entry.fronts[2:]
                entry.fronts = (*entry.fronts, front, raw)
            return True

    def detach(self, entry: Entry) -> None:
        """Take an entry out of all fronts, so that the next call asks the table for it."""
        with self.lock:
            _leave_fronts(entry)

    def set_aside(self) -> None:
        """Empty all fronts, so that every call asks the table again; the table stays as it is."""
        with self.lock:
            for front in self._fronts.values():
                front.clear()

    # -- sizes --------------------------------------------------------------------------------------------------

    def weigh(self, value: Any) -> int:
        """Return roughly how many bytes a live value takes, with what it refers to; classes and code weigh nothing."""
        total, seen, open_ = 0, set[int](), [value]
        while open_:
            one = open_.pop()
            if id(one) in seen or isinstance(one, _SHARED):
                continue
            seen.add(id(one))
            total += sys.getsizeof(one)
            if isinstance(one, dict):
                open_.extend(one)
                open_.extend(one.values())
            elif isinstance(one, list | tuple | set | frozenset | deque):
                open_.extend(one)
            elif not isinstance(one, str | bytes | bytearray | int | float | complex):
                open_.extend(_attributes(one))
        return total


_SHARED = (type, ModuleType, FunctionType, Enum, bool, type(None))


def _attributes(value: Any) -> list[Any]:
    """Return what an object keeps in its dictionary and in its slots."""
    found = [value.__dict__] if hasattr(value, "__dict__") else []
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and (held := getattr(value, slot, None)) is not None:
                found.append(held)  # noqa: PERF401 - three nested clauses read worse in one expression
    return found


def _pairs(fronts: tuple[Any, ...]) -> Iterable[tuple[dict[Any, Entry], Any]]:
    return zip(fronts[::2], fronts[1::2], strict=True)


def _leave_fronts(entry: Entry) -> None:
    for front, raw in _pairs(entry.fronts):
        _detach(front, raw, entry)
    entry.fronts = ()


def _detach(front: dict[Any, Entry], raw: Any, entry: Entry) -> None:
    # Another entry may have taken its place there.
    if front.get(raw) is entry:
        del front[raw]


class _Index:
    """Entries by a name of theirs: most names have one entry, which then needs nothing around it.

    Those of one name are the keys of a dictionary, which takes half of what a set takes.
    """

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: dict[str, Entry | dict[Entry, None]] = {}

    def add(self, name: str, entry: Entry) -> None:
        file = self._files.get(name)
        if file is None:
            self._files[name] = entry
        elif isinstance(file, dict):
            file[entry] = None
        elif file is not entry:
            self._files[name] = {file: None, entry: None}

    def discard(self, name: str, entry: Entry) -> None:
        file = self._files.get(name)
        if file is entry:
            del self._files[name]
        elif isinstance(file, dict):
            file.pop(entry, None)
            if len(file) == 1:
                (self._files[name],) = file

    def take(self, name: str) -> Collection[Entry]:
        file = self._files.pop(name, ())
        return (file,) if isinstance(file, Entry) else file

    def clear(self) -> None:
        self._files = {}

    def __len__(self) -> int:
        return len(self._files)


# A fork copies the lock in whatever state it is, and the thread that would leave it does not exist in the child.
_alive: weakref.WeakSet[Entries] = weakref.WeakSet()
_forking = threading.local()


def _before_fork() -> None:
    _forking.held = sorted(_alive, key=id)  # in one order, for two threads may fork at once
    for entries in _forking.held:
        entries.lock.acquire()


def _after_fork() -> None:
    for entries in _forking.__dict__.pop("held", ()):
        entries.lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
