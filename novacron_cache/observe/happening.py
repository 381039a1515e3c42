"""What happened lately, for whoever looks: invalidations, tiers and links that came and went, masters that changed.

Figures say how often; an operator who looks at a page wants to see the last of them pass by. A process remembers a few,
and a snapshot takes them along while somebody watches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from ..events import (
    FailedOver,
    GenerationChanged,
    Invalidated,
    InvalidationDelayed,
    InvalidationDelivered,
    LinkLost,
    LinkUp,
    RuleLogFull,
    StaleFound,
    TierDown,
    TierUp,
)

if TYPE_CHECKING:
    from ..engine import Engine
    from .snapshot import Snapshot

__all__ = ["FACT", "Happening", "Happenings", "happenings_of"]

FACT: Final = "happened"
"""The fact of a snapshot that has them: rows of (number, epoch seconds, kind, what, named)."""

KEPT: Final = 24
"""How many a process remembers."""

NAMED: Final = 3
"""Of how many things that one invalidation names, the names are kept."""

_LONGEST: Final = 120


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened.

    Attributes:
        at: epoch seconds, by the clock of the process.
        kind: the kind of the event.
        what: of an invalidation `key`, `tag`, `model`, `pattern` or `namespace`; else the tier or the shard.
        names: what was named; keys and tags as they are.
        more: how many more were named.
        process: in which process.
        number: which one of its process.
    """

    at: float
    kind: str
    what: str
    names: tuple[str, ...]
    more: int
    process: str
    number: int


class Happenings:
    """Remembers what happened to one cache.

    Args:
        engine: whose events they are.
    """

    def __init__(self, engine: Engine) -> None:
        self._rows: deque[list[Any]] = deque(maxlen=KEPT)
        self._numbers = count(1)
        on = engine.listeners.on
        on(Invalidated, lambda event: self._add(event.kind, event.what, event.values))
        on(InvalidationDelayed, lambda event: self._add(event.kind, "", (), len(event.dependencies)))
        on(InvalidationDelivered, lambda event: self._add(event.kind, "", (), len(event.dependencies)))
        on(TierDown, lambda event: self._add(event.kind, event.tier))
        on(TierUp, lambda event: self._add(event.kind, event.tier))
        on(LinkUp, lambda event: self._add(event.kind))
        on(LinkLost, lambda event: self._add(event.kind, "", (event.reason,)))
        on(FailedOver, lambda event: self._add(event.kind, event.shard, (event.old, event.new)))
        on(GenerationChanged, lambda event: self._add(event.kind, "", (), event.replayed))
        on(RuleLogFull, lambda event: self._add(event.kind))
        on(StaleFound, lambda event: self._add(event.kind, event.tier, (event.key,)))

    def _add(self, kind: str, what: str = "", names: Iterable[str] = (), more: int = 0) -> None:
        named = list(names)
        shown = [name[:_LONGEST] for name in named[:NAMED]]
        self._rows.append([next(self._numbers), time.time(), kind, what, shown, more + len(named) - len(shown)])

    def rows(self) -> list[list[Any]]:
        """Return the latest as plain data, the oldest first."""
        return list(self._rows)


def happenings_of(snapshots: Iterable[Snapshot]) -> list[Happening]:
    """Return what several processes remember, the latest first; nonsense is left out."""
    found: list[Happening] = []
    for one in snapshots:
        rows = one.facts.get(FACT)
        for row in rows if isinstance(rows, list) else ():
            try:
                number, at, kind, what, names, more = row
                found.append(
                    Happening(
                        float(at), str(kind), str(what), tuple(map(str, names)), int(more), one.process, int(number)
                    )
                )
            except (TypeError, ValueError):
                continue
    return sorted(found, key=lambda one: (one.at, one.number), reverse=True)
