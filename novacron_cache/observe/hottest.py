"""Which keys are asked for most: told from the counters that entries have anyway, and only while somebody watches.

An entry in process memory counts its hits for the eviction policy. What was added between two looks says how hot its
key is, so a hit pays nothing for it. A look goes through a bounded number of entries, for a few milliseconds. What
process memory could not answer is an event anyway; from the first look until nobody has looked for a while, these are
counted by key.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..chance import chance
from ..entry import DEAD
from ..events import Hit, Miss

if TYPE_CHECKING:
    from ..events import Listeners
    from ..tiers.memory import MemoryTier
    from .snapshot import Snapshot

__all__ = ["FACT", "HotKey", "Hottest", "hottest_of"]

FACT: Final = "hottest"
"""The fact of a snapshot that has them: the seconds between two looks, and rows of (key, model, hits, farther, misses).

`hits` are those of process memory, `farther` those of other tiers.
"""

KEPT: Final = 20
"""How many keys a process tells."""

MAX_LOOKED_AT: Final = 10_000
"""How many entries one look goes through; of more, as many are drawn at random."""


MAX_COUNTED: Final = 10_000
"""Of how many keys the answers from other tiers and the misses are counted between two looks; of more, the first."""

UNWATCHED: Final = 30.0
"""Seconds without a look after which nothing is counted any more."""


class HotKey(NamedTuple):
    """A key that is asked for often.

    Attributes:
        key: the logical key.
        model: the name of its model or function; empty for plain keys.
        hits: answers from process memory a second.
        hit_rate: the share of all calls for it that a tier answered.
    """

    key: str
    model: str
    hits: float
    hit_rate: float


class Hottest:
    """Finds the hottest keys of one process, again and again.

    Args:
        clock: monotonic seconds.
        listeners: of the cache, for what process memory does not answer; None leaves that uncounted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, listeners: Listeners | None = None) -> None:
        self._clock = clock
        self._listeners = listeners
        self._off: list[Callable[[], None]] = []
        self._answered: Counter[tuple[str, str]] = Counter()
        self._missed: Counter[tuple[str, str]] = Counter()
        self._marks: dict[str, tuple[float, int]] = {}
        self._at = clock()

    @property
    def listening(self) -> bool:
        """Whether what process memory does not answer is counted at present."""
        return bool(self._off)

    def since_last(self, memory: MemoryTier) -> dict[str, Any]:
        """Return the keys with the most hits since the last look, as plain data."""
        entries = memory.entries()
        if len(entries) > MAX_LOOKED_AT:
            entries = chance.sample(entries, MAX_LOOKED_AT)
        before, self._marks = self._marks, {}
        then, self._at = self._at, self._clock()
        answered, self._answered = self._answered, Counter()
        missed, self._missed = self._missed, Counter()
        self._listen()
        rows: list[tuple[int, str, str]] = []
        for entry in entries:
            hits = entry.hits
            self._marks[entry.key] = (entry.created, hits)
            created, mark = before.get(entry.key, (0.0, 0))
            # Another entry in the same place began to count anew.
            since = hits - mark if created == entry.created and hits >= mark else hits
            if since and entry.deadline != DEAD:
                rows.append((since, entry.logical, entry.name))
        hottest = heapq.nlargest(KEPT, rows)
        keys = [[key, name, hits, answered[key, name], missed[key, name]] for hits, key, name in hottest]
        return {"seconds": max(self._at - then, 1e-3), "keys": keys}

    def _listen(self) -> None:
        if self._listeners is not None and not self._off:
            on = self._listeners.on
            self._off = [on(Hit, self._count), on(Miss, self._count)]

    def _count(self, event: Hit | Miss) -> None:
        if self._clock() - self._at > UNWATCHED:
            for off in self._off:
                off()
            self._off = []
            self._answered, self._missed = Counter(), Counter()
            return
        counted = self._answered if isinstance(event, Hit) else self._missed
        where = (event.key, event.name)
        if where in counted or len(counted) < MAX_COUNTED:
            counted[where] += 1


def hottest_of(snapshots: Iterable[Snapshot]) -> list[HotKey]:
    """Return the hottest keys of several processes, the hottest first; nonsense is left out."""
    rates: dict[tuple[str, str], list[float]] = {}
    for one in snapshots:
        try:
            seconds = float(one.facts[FACT]["seconds"])
            rows = [
                (str(key), str(model), [float(number) for number in counts])
                for key, model, *counts in one.facts[FACT]["keys"]
            ]
        except (KeyError, TypeError, ValueError):
            continue
        for key, model, counts in rows:
            if seconds > 0 and len(counts) == 3:
                total = rates.setdefault((key, model), [0.0, 0.0, 0.0])
                for place, number in enumerate(counts):
                    total[place] += max(0.0, number) / seconds
    found = [
        HotKey(key, model, hits, (hits + farther) / calls if (calls := hits + farther + misses) else 0.0)
        for (key, model), (hits, farther, misses) in rates.items()
    ]
    return sorted(found, key=lambda one: -one.hits)
