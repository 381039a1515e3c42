"""The latest invalidations of a process, numbered, so that a slow load learns what came after it began.

A load notes the number before it begins and, when it stores, looks at those that came after: if one of them names a
dependency of the value, the value is not kept. The ring is bounded; a load older than the ring is treated as hit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

Matcher = Callable[[str, Sequence[str]], bool]


class History:
    """The latest invalidations of this process, numbered. The caller holds the memory tier's lock when it appends.

    Args:
        limit: how many are kept.
        names: how many dependencies they may have together, but for those of the latest.
    """

    def __init__(self, limit: int = 4096, names: int = 65_536) -> None:
        self.seq = 0
        self._most = names
        self._names = 0
        self._lock = threading.Lock()
        self._ring: deque[tuple[frozenset[str], tuple[Matcher, ...]]] = deque(maxlen=limit)

    def append(self, deps: Iterable[str], matchers: tuple[Matcher, ...] = ()) -> int:
        """Record an invalidation and return its number."""
        named = frozenset(deps)
        ring = self._ring
        with self._lock:
            if len(ring) == ring.maxlen:
                self._names -= len(ring[0][0])
            ring.append((named, matchers))
            self._names += len(named)
            while self._names > self._most and len(ring) > 1:
                self._names -= len(ring.popleft()[0])
            self.seq += 1
            return self.seq

    def hits(
        self, token: int, deps: Collection[str], logical: str, tags: Sequence[str], *, until: int | None = None
    ) -> bool:
        """Return whether an invalidation after number `token` reaches a value with these dependencies.

        Args:
            token: the number after which to look.
            deps: the value's dependencies.
            logical: its logical key.
            tags: its tags.
            until: the last number to look at; None is the latest.
        """
        if token >= (self.seq if until is None else until):
            return False
        with self._lock:
            # The number and the ring are read together: an append between the two would shift what is looked at.
            first = self.seq - len(self._ring)
            if token < first:
                return True
            newer = list(islice(self._ring, token - first, None if until is None else until - first))
        return any(
            not named.isdisjoint(deps) or any(matches(logical, tags) for matches in matchers)
            for named, matchers in newer
        )

    def names_since(self, token: int) -> frozenset[str] | None:
        """Return every dependency that was invalidated after a number; None where more was, or it is not known."""
        if token >= self.seq:
            return frozenset()
        with self._lock:
            first = self.seq - len(self._ring)
            if token < first:
                return None
            newer = list(islice(self._ring, token - first, None))
        if any(matchers for _, matchers in newer):
            return None
        return frozenset().union(*(named for named, _ in newer))

    def reset(self) -> None:
        """Make the lock anew in a forked child."""
        self._lock = threading.Lock()
