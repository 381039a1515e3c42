"""Which keys are asked for most: told from the counters that entries have anyway, and only while somebody watches.

An entry in process memory counts its hits for the eviction policy. What was added between two looks says how hot its
key is, so a hit pays nothing for it. A look goes through a bounded number of entries, for a few milliseconds.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ..entry import DEAD

if TYPE_CHECKING:
    from ..tiers.memory import MemoryTier
    from .snapshot import Snapshot

__all__ = ["FACT", "Hottest", "hottest_of"]

FACT: Final = "hottest"
"""The fact of a snapshot that has them: the seconds between two looks, and rows of (key, model, hits)."""

KEPT: Final = 20
"""How many keys a process tells."""

MAX_LOOKED_AT: Final = 10_000
"""How many entries one look goes through; of more, as many are drawn at random."""


class Hottest:
    """Finds the hottest keys of one process, again and again.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: dict[str, tuple[float, int]] = {}
        self._at = clock()

    def since_last(self, memory: MemoryTier) -> dict[str, Any]:
        """Return the keys with the most hits since the last look, as plain data."""
        entries = memory.entries()
        if len(entries) > MAX_LOOKED_AT:
            entries = random.sample(entries, MAX_LOOKED_AT)
        before, self._marks = self._marks, {}
        then, self._at = self._at, self._clock()
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
        return {"seconds": max(self._at - then, 1e-3), "keys": [[key, name, hits] for hits, key, name in hottest]}


def hottest_of(snapshots: Iterable[Snapshot]) -> list[tuple[str, str, float]]:
    """Return (key, model, hits a second) over several processes, the hottest first; nonsense is left out."""
    rates: Counter[tuple[str, str]] = Counter()
    for one in snapshots:
        try:
            seconds = float(one.facts[FACT]["seconds"])
            rows = [(str(key), str(model), float(hits)) for key, model, hits in one.facts[FACT]["keys"]]
        except (KeyError, TypeError, ValueError):
            continue
        for key, model, hits in rows:
            if seconds > 0:
                rates[key, model] += hits / seconds  # type: ignore[assignment]  # a Counter of floats adds up as well
    return [(key, model, rate) for (key, model), rate in rates.most_common()]
