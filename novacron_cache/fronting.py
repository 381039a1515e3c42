"""The front of a batch function: what process memory has, found by elements, with no key formatted for any of them.

A decorated function compiles its front into its hit path; a batch function looks through several elements at once, and
needs a loop and a dictionary. The memory tier keeps such dictionaries true: an entry that leaves it leaves them.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from .entry import Entry
from .finalizing import when_gone
from .requests import Plan

if TYPE_CHECKING:
    from .cache import Cache
    from .tiers.memory import MemoryTier

_registering = threading.Lock()


def _after_fork() -> None:
    global _registering
    _registering = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Front:
    """Entries of one function by element, in whichever cache it is bound to.

    Elements stand for keys only where they are text: of anything else, what is equal need not have the same key (`1`,
    `True` and `1.0`).
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[MemoryTier], dict[Any, Entry]] | None = None
        self._release: weakref.finalize[Any, Any] | None = None

    def of(self, cache: Cache) -> dict[Any, Entry] | None:
        """Return the entries in a cache; None where it has no process memory."""
        memory = cache.engine.memory
        if memory is None:
            return None
        known = self._known
        if known is not None and known[0]() is memory:
            return known[1]
        with _registering:
            known = self._known
            if known is None or known[0]() is not memory:
                if self._release is not None:
                    self._release()
                entries: dict[Any, Entry] = {}
                memory.register_front(entries)
                # A function that was decorated inside another one may go before the cache does, or the other way round.
                self._release = when_gone(self, _unregister, weakref.ref(memory), entries)
                self._known = known = (weakref.ref(memory), entries)
            return known[1]

    @staticmethod
    def look(cache: Cache, plan: Plan, entries: dict[Any, Entry], found: dict[Any, Any]) -> list[Any]:
        """Enter the values that may be served now into a dictionary of elements, and return the elements left over."""
        engine = cache.engine
        now, epoch, vouched = engine.clock.monotonic(), engine.epoch, engine.horizon.valid_until
        rest: list[Any] = []
        for element in found:
            entry = entries.get(element) if element.__class__ is str else None
            if entry is None or now >= entry.deadline or (entry.epoch and (entry.epoch != epoch or now >= vouched)):
                rest.append(element)
                continue
            entry.hits += 1
            found[element] = engine.hand_out(entry, plan)
        engine.counters(plan.name).hits["memory"] += len(found) - len(rest)
        return rest

    @staticmethod
    def attach(cache: Cache, entries: dict[Any, Entry], element: Any, entry: Entry) -> None:
        """Have an entry found by its element from now on."""
        if element.__class__ is str and entries.get(element) is not entry:
            cache.engine.attach(entries, element, entry)


def _unregister(memory: weakref.ref[MemoryTier], entries: dict[Any, Entry]) -> None:
    if (tier := memory()) is not None:
        tier.unregister_front(entries)
