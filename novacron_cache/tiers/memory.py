"""The first tier: process memory.

Its live entries are what the engine works with (see `entries`). It also carries out the operations every tier has, so
that a single process can use its memory as a shared tier as well, markers included.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from ..effects import Capture, Delete, Fetch, Fetched, Operation, Purge, ReadRules, Renew, Store
from ..entry import Clock, Entry
from ..markers import MAX_RULES, RULES, new_id
from . import BlockingTier
from .entries import Entries

__all__ = ["MemoryTier"]


class MemoryTier(Entries, BlockingTier):
    """Process memory as a tier: live entries for the engine, and the operations of a shared tier within one process.

    The arguments are those of `Entries`. Operations never fail, and nothing outlives the object.
    """

    name: ClassVar[str] = "memory"

    def __init__(
        self,
        *,
        max_items: int = 10_000,
        max_bytes: int | None = None,
        policy: str | type[Any] = "s3fifo",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(max_items=max_items, max_bytes=max_bytes, policy=policy, clock=clock)
        self._markers: dict[str, tuple[bytes, float]] = {}
        self._tidy_at = 1024
        self._rules: deque[tuple[bytes, bytes]] = deque(maxlen=MAX_RULES)

    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does, which waits for nothing."""
        return self.perform(operation)

    def fetch(self, operation: Fetch) -> Fetched:
        """Carry out `effects.Fetch`."""
        with self.lock:
            now = self.clock.monotonic()
            found = [self.lookup(key) for key in operation.keys]
            return Fetched(
                [entry.value if entry is not None and now < entry.expires else None for entry in found],
                [self._id(dep, now) for dep in operation.deps],
            )

    def capture(self, operation: Capture) -> list[bytes]:
        """Carry out `effects.Capture`."""
        with self.lock:
            now = self.clock.monotonic()
            for dep, new in operation.renew:
                self._mark(dep, new, now + operation.life)
            ids = []
            for dep in operation.deps:
                current = self._id(dep, now) or new_id()
                self._mark(dep, current, now + operation.life)
                ids.append(current)
            return ids

    def store(self, operation: Store) -> bool:
        """Carry out `effects.Store`."""
        with self.lock:
            now = self.clock.monotonic()
            for dep in operation.extend:
                if (current := self._id(dep, now)) is not None:
                    self._mark(dep, current, now + operation.life)
            for item in operation.items:
                payload = item.payload
                self.insert(
                    Entry(item.key, payload, logical=item.key, expires=now + item.ttl, size=len(payload)),
                )
        return True

    def renew(self, operation: Renew) -> bool:
        """Carry out `effects.Renew`."""
        with self.lock:
            expires = self.clock.monotonic() + operation.life
            for dep, new in operation.markers:
                self._mark(dep, new, expires)
            for rule in operation.rules:
                self._rules.appendleft(rule)
                self._mark(RULES, rule[0], expires)
        return True

    def read_rules(self, operation: ReadRules) -> list[tuple[bytes, bytes]]:
        """Carry out `effects.ReadRules`."""
        with self.lock:
            return list(self._rules)

    def delete(self, operation: Delete) -> bool:
        """Carry out `effects.Delete`."""
        for key in operation.keys:
            self.remove(key)
        return True

    def purge(self, operation: Purge) -> bool:
        """Carry out `effects.Purge`."""
        self.clear()
        return True

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""

    def _id(self, dep: str, now: float) -> bytes | None:
        marker = self._markers.get(dep)
        return marker[0] if marker is not None and now < marker[1] else None

    def _mark(self, dep: str, new: bytes, expires: float) -> None:
        """Give a marker an id; its life is never shortened."""
        if (old := self._markers.get(dep)) is not None:
            expires = max(expires, old[1])
        self._markers[dep] = (new, expires)
        if len(self._markers) > self._tidy_at:
            now = self.clock.monotonic()
            self._markers = {dep: marker for dep, marker in self._markers.items() if now < marker[1]}
            self._tidy_at = max(1024, 2 * len(self._markers))
