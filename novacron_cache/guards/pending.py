"""Invalidations that the shared tier has not taken yet, or may have lost; this process never reads around them."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from .history import Matcher


class PendingView:
    """What was pending at one moment.

    A read takes its view before it asks for ids: an invalidation that is delivered while the read is under way may have
    come after the ids it got.
    """

    __slots__ = ("_deps", "_matchers")

    def __init__(self, deps: frozenset[str], matchers: tuple[Matcher, ...]) -> None:
        self._deps = deps
        self._matchers = matchers

    def blocks(self, deps: Iterable[str], logical: str, tags: Sequence[str]) -> bool:
        """Return whether a value with these dependencies must not be read from a shared tier."""
        return not self._deps.isdisjoint(deps) or any(matches(logical, tags) for matches in self._matchers)


NOTHING_PENDING = PendingView(frozenset(), ())


class Pending:
    """Invalidations that have not reached the shared tier; this process never reads around them.

    What has arrived is remembered for a while: should the server that took it turn out to have been replaced before,
    everything is pending once more.

    Args:
        monotonic: the clock.
        everything: the dependency that stands for all others, where there are too many to be kept one by one.
        new_id: draws ids.
        memory: seconds for which what has arrived is remembered.
        limit: how many dependencies are remembered one by one.
        most: how many may be pending one by one.

    Attributes:
        generation: goes up whenever the server turned out to be another one than before.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        everything: str,
        new_id: Callable[[], bytes],
        *,
        memory: float = 60.0,
        limit: int = 16_384,
        most: int = 262_144,
    ) -> None:
        self.generation = 0
        self._monotonic = monotonic
        self._everything = everything
        self._new_id = new_id
        self._view: PendingView | None = None
        self._memory = memory
        self._limit = limit
        self._most = most
        self._lock = threading.Lock()
        self._markers: dict[str, bytes] = {}
        self._rules: dict[bytes, tuple[bytes, Matcher]] = {}
        self._arrived: deque[tuple[float, str, tuple[bytes, Matcher] | None]] = deque()
        self._forgotten = -math.inf

    def __bool__(self) -> bool:
        return bool(self._markers or self._rules)

    def __len__(self) -> int:
        return len(self._markers) + len(self._rules)

    def add(self, markers: Iterable[tuple[str, bytes]], rules: Iterable[tuple[bytes, bytes, Matcher]] = ()) -> None:
        """Note invalidations before they are sent."""
        with self._lock:
            self._view = None
            self._markers.update(markers)
            for rule_id, data, matcher in rules:
                self._rules[rule_id] = (data, matcher)
            if len(self._markers) + len(self._rules) > self._most:
                # In a long outage, rather than grow without end, and be searched by every read.
                self._markers, self._rules = {self._everything: self._new_id()}, {}

    def delivered(
        self, markers: Iterable[tuple[str, bytes]], rules: Iterable[bytes] = (), *, generation: int | None = None
    ) -> bool:
        """Take off what has arrived; a later invalidation of the same dependency stays pending.

        Args:
            markers: (dependency, id) pairs.
            rules: ids of rules.
            generation: the generation before they were sent. Where there is another one by now, whoever took them may
                not be the one that counts, and everything stays pending.

        Returns:
            Whether it counts as delivered.
        """
        with self._lock:
            if generation is not None and generation != self.generation:
                return False
            self._view = None
            now = self._monotonic()
            for dep, marker_id in markers:
                if self._markers.get(dep) == marker_id:
                    del self._markers[dep]
                    self._arrived.append((now, dep, None))
            for rule_id in rules:
                rule = self._rules.pop(rule_id, None)
                if rule is not None:
                    self._arrived.append((now, "", rule))
            arrived = self._arrived
            while arrived and (now - arrived[0][0] > self._memory or len(arrived) > self._limit):
                self._forgotten = arrived.popleft()[0]
            return True

    def replay(self, known_for: float) -> int:
        """Begin another generation: what arrived lately is pending again; return how much that is.

        Args:
            known_for: seconds for which the fleet has known the server that counts now. What was acknowledged before
                that concerns values that are invalid by now.
        """
        with self._lock:
            self.generation += 1
            self._view = None
            again = {dep: self._new_id() for _, dep, rule in self._arrived if rule is None}
            # The server counts whole seconds.
            if self._forgotten > self._monotonic() - known_for - 2.0:
                again[self._everything] = self._new_id()
            rules = {self._new_id(): rule for _, _, rule in self._arrived if rule is not None}
            self._arrived.clear()
            self._markers = again | self._markers
            self._rules = rules | self._rules
            return len(again) + len(rules)

    def snapshot(self) -> tuple[list[tuple[str, bytes]], list[tuple[bytes, bytes]]]:
        """Return the pending markers and the (id, rule) pairs, oldest first."""
        with self._lock:
            return list(self._markers.items()), [(rule_id, data) for rule_id, (data, _) in self._rules.items()]

    def view(self) -> PendingView:
        """Return what is pending now; it does not change when something is delivered."""
        if not self:
            return NOTHING_PENDING
        with self._lock:
            if self._view is None:
                self._view = PendingView(
                    frozenset(self._markers), tuple(matches for _, matches in self._rules.values())
                )
            return self._view

    def blocks(self, deps: Iterable[str], logical: str, tags: Sequence[str]) -> bool:
        """Return what the view of this moment says."""
        return self.view().blocks(deps, logical, tags)

    def reset(self) -> None:
        """Make the lock anew in a forked child; what is pending stays pending there too."""
        self._lock = threading.Lock()
