"""S3-FIFO, the default eviction policy of process memory: own code, because no hit may take a lock.

The published policy gives newcomers a tenth of the room. Measured on recorded requests of services, that is too little
where what is asked for comes in bursts: there it fell 15 points behind LRU. So the share moves, by what the ghosts of
those that left say: whoever comes back after leaving the small queue would have stayed in a larger one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from enum import Enum
from typing import Final

from ..entry import Entry
from ..errors import DeclarationError

__all__ = ["S3Fifo", "bounds"]

MAX_FREQUENCY: Final = 3
SMALL_SHARE: Final = 0.1
"""The share of the room that the small queue begins with."""

LEAST_SHARE: Final = 0.01
MOST_SHARE: Final = 0.9
"""How far that share moves."""

MAX_REINSERTIONS: Final = 1000
"""How many used entries one eviction passes over, so that its pause stays bounded even where every entry is in use."""


class S3Fifo:
    """S3-FIFO: Yang, Zhang, Qiu, Yue, Vigfusson, "FIFO queues are all you need for cache eviction", SOSP 2023.

    New entries pass through a small queue and leave soon unless they were used more than once, which moves them to the
    main queue; there a used entry gets another round, at most three in a row. The keys of those that left stay in a
    ghost queue for a while: whoever comes back in that time goes straight to the main queue.

    The frequency of an entry is `min(entry.hits - entry.mark, 3)`: readers only ever add to `hits`, the policy only
    ever moves `mark`. Four deviations from the paper: the share of the small queue moves, by the rule of Megiddo and
    Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003; a replaced entry keeps its place and counts
    one use (it is one value to its users); a key removed by an invalidation from the main queue leaves a ghost (it had
    proved itself); and one eviction reinserts at most `MAX_REINSERTIONS` entries.

    Args:
        max_items: how many entries may be there.
        max_bytes: how many bytes they may sum up to; None means no bound.
    """

    lockfree = True

    def __init__(self, max_items: int, max_bytes: int | None = None) -> None:
        self._max_items, self._max_bytes = bounds(max_items, max_bytes)
        self.table: dict[str, Entry] = {}
        self._small = _Queue()
        self._main = _Queue()
        self._ghost: OrderedDict[int, _Left] = OrderedDict()
        self._small_ghosts = 0
        self._share = SMALL_SHARE
        self.bytes = 0

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key; uses are counted by whoever serves it."""
        return self.table.get(key)

    def add(self, entry: Entry) -> list[Entry]:
        """Take an entry in and return those that had to leave."""
        key, old = entry.key, self.table.get(entry.key)
        if entry.size > self._max_bytes:
            if old is not None:
                self._take(old)
            return [entry]
        evicted: list[Entry] = []
        if old is not None:
            self._replace(old, entry)
            self._make_room(0, 0, evicted)
            return evicted
        returning = self._returns(key)
        self._make_room(1, entry.size, evicted)
        entry.mark = entry.hits
        (self._main if returning else self._small).append(entry)
        self.bytes += entry.size
        self.table[key] = entry
        return evicted

    def remove(self, key: str) -> Entry | None:
        """Take an entry out and return it; None when there is none."""
        entry = self.table.get(key)
        if entry is not None and self._take(entry):
            self._haunt(key, _Left.REMOVED)
        return entry

    def clear(self) -> None:
        """Forget every entry and every ghost."""
        # The table itself stays: readers hold on to it.
        self.table.clear()
        self._small.clear()
        self._main.clear()
        self._ghost.clear()
        self.bytes = self._small_ghosts = 0
        self._share = SMALL_SHARE

    def entries(self) -> list[Entry]:
        """Return all entries as of now."""
        return list(self.table.values())

    def __len__(self) -> int:
        return len(self.table)

    def _take(self, entry: Entry) -> bool:
        """Remove an entry that is in the table; return whether it was in the main queue."""
        del self.table[entry.key]
        self.bytes -= entry.size
        proved = entry.queue is self._main
        entry.queue.remove(entry)
        return proved

    def _replace(self, old: Entry, entry: Entry) -> None:
        entry.mark = entry.hits - min(_frequency(old) + 1, MAX_FREQUENCY)
        old.queue.replace(old, entry)
        self.bytes += entry.size - old.size
        self.table[entry.key] = entry

    def _make_room(self, items: int, size: int, evicted: list[Entry]) -> None:
        while True:
            if len(self.table) + items > self._max_items:
                small_is_full = len(self._small) >= max(1, int(self._share * self._max_items))
            elif self.bytes + size > self._max_bytes:
                small_is_full = self._small.bytes >= self._share * self._max_bytes
            else:
                return
            if self._small and (small_is_full or not self._main):
                self._evict_small(evicted)
            else:
                self._evict_main(evicted)

    def _evict_small(self, evicted: list[Entry]) -> None:
        """Let the oldest newcomer leave, or move it on when it was used more than once."""
        entry = self._small.popleft()
        if _frequency(entry) > 1:
            entry.mark = entry.hits
            self._main.append(entry)
            return
        self._leave(entry, evicted)
        self._haunt(entry.key, _Left.SMALL)

    def _evict_main(self, evicted: list[Entry]) -> None:
        """Let the oldest entry leave that was not used since it was last looked at."""
        for _ in range(MAX_REINSERTIONS):
            entry = self._main.popleft()
            frequency = _frequency(entry)
            if frequency <= 0:
                break
            entry.mark = entry.hits - (frequency - 1)
            self._main.append(entry)
        else:
            entry = self._main.popleft()
        self._leave(entry, evicted)
        self._haunt(entry.key, _Left.MAIN)

    def _leave(self, entry: Entry, evicted: list[Entry]) -> None:
        del self.table[entry.key]
        self.bytes -= entry.size
        evicted.append(entry)

    def _haunt(self, key: str, left: _Left) -> None:
        """Remember a key that left; as many are remembered as entries are there."""
        ghost, name = self._ghost, hash(key)
        self._small_ghosts += (left is _Left.SMALL) - (ghost.pop(name, None) is _Left.SMALL)
        ghost[name] = left
        # Measured by what is there, so that it also fits where bytes bind long before items do.
        while len(ghost) > len(self.table) + 1:
            self._small_ghosts -= ghost.popitem(last=False)[1] is _Left.SMALL

    def _returns(self, key: str) -> bool:
        """Return whether a key left not long ago, and let the queue grow in which it would have stayed.

        The step is one entry, or more where the ghosts of the other queue are the more numerous: their returns are the
        less telling.
        """
        left = self._ghost.pop(hash(key), None)
        if left is None:
            return False
        if left is _Left.SMALL:
            self._small_ghosts -= 1
        small = self._small_ghosts
        main, there = len(self._ghost) - small, max(1, len(self.table))
        if left is _Left.SMALL:
            self._share = min(MOST_SHARE, self._share + max(1.0, main / max(1, small)) / there)
        elif left is _Left.MAIN:
            self._share = max(LEAST_SHARE, self._share - max(1.0, small / max(1, main)) / there)
        return True


class _Queue:
    """Entries in the order in which they came.

    They are linked by attributes of their own: one leaves from anywhere, or makes room for its successor, without being
    looked for, and a place in the queue takes 24 bytes.

    Attributes:
        bytes: the sum of their sizes.
    """

    __slots__ = ("_count", "_first", "_last", "bytes")

    def __init__(self) -> None:
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._count = 0
        self.bytes = 0

    def __len__(self) -> int:
        return self._count

    def append(self, entry: Entry) -> None:
        """Put an entry that is in no queue at the end."""
        entry.queue = self
        self._join(self._last, entry)
        self._join(entry, None)
        self._count += 1
        self.bytes += entry.size

    def remove(self, entry: Entry) -> None:
        """Take an entry out."""
        self._join(entry.before, entry.after)
        entry.queue = entry.before = entry.after = None
        self._count -= 1
        self.bytes -= entry.size

    def replace(self, old: Entry, new: Entry) -> None:
        """Put an entry that is in no queue into the place of another, which leaves."""
        if old is new:
            return
        before, after = old.before, old.after
        old.queue = old.before = old.after = None
        new.queue = self
        self._join(before, new)
        self._join(new, after)
        self.bytes += new.size - old.size

    def popleft(self) -> Entry:
        """Take the first entry out and return it; there has to be one."""
        if (entry := self._first) is None:
            raise IndexError("an empty queue")
        self.remove(entry)
        return entry

    def clear(self) -> None:
        """Take all entries out; linked to each other, they would wait for the garbage collector."""
        while self._first is not None:
            self.remove(self._first)

    def _join(self, before: Entry | None, after: Entry | None) -> None:
        """Make one entry follow another; None stands for what is beyond both ends."""
        if before is None:
            self._first = after
        else:
            before.after = after
        if after is None:
            self._last = before
        else:
            after.before = before


class _Left(Enum):
    """How a key that is remembered has left."""

    SMALL = 1
    MAIN = 2
    REMOVED = 3


def _frequency(entry: Entry) -> int:
    return min(entry.hits - entry.mark, MAX_FREQUENCY)


def bounds(max_items: int, max_bytes: int | None) -> tuple[int, float]:
    """Return the bounds of a policy, infinite where there is none.

    Raises:
        DeclarationError: a bound is not positive.
    """
    if max_items < 1:
        raise DeclarationError(f"max_items={max_items!r}: the memory tier holds at least one entry; disable it instead")
    if max_bytes is not None and max_bytes < 1:
        raise DeclarationError(f"max_bytes={max_bytes!r}: expected at least one byte, or None for no bound")
    return max_items, math.inf if max_bytes is None else max_bytes
