"""The first tier: process memory.

Its live entries are what the engine works with (see `entries`). It also carries out the operations every tier has, so
that a single process can use its memory as a shared tier as well, markers included.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from ..effects import (
    Capture,
    Delete,
    Ending,
    Fetch,
    Fetched,
    Hold,
    KeepLeases,
    Operation,
    Purge,
    ReadRules,
    Release,
    Renew,
    ReturnLease,
    Store,
    TakeLease,
    Taken,
)
from ..entry import Clock, Entry
from ..markers import MAX_RULES, RULES, new_id
from . import BlockingTier
from .entries import Entries

__all__ = ["MemoryTier"]

_DONE_LIFE = 0.25
"""Seconds for which a lease that has ended says that a value was stored."""
_MANY_LEASES = 1024


class MemoryTier(Entries, BlockingTier):
    """Process memory as a tier: live entries for the engine, and the operations of a shared tier within one process.

    The arguments are those of `Entries`. Operations never fail, and nothing outlives the object.
    """

    name: ClassVar[str] = "memory"
    has_leases: ClassVar[bool] = True

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
        self._holds: dict[str, dict[bytes, float]] = {}
        self._leases: dict[str, tuple[bytes, float, bool]] = {}
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

    def capture(self, operation: Capture) -> list[bytes | None]:
        """Carry out `effects.Capture`."""
        with self.lock:
            now = self.clock.monotonic()
            for dep, new in operation.renew:
                self._mark(dep, new, now + operation.life)
            for dep in operation.deps:
                self._mark(dep, self._id(dep, now) or new_id(), now + operation.life)
            return [self._id(dep, now) for dep in operation.deps]

    def store(self, operation: Store) -> bool:
        """Carry out `effects.Store`."""
        with self.lock:
            now = self.clock.monotonic()
            for dep in operation.extend:
                if (current := self._id(dep, now)) is not None:
                    self._mark(dep, current, now + operation.life)
            for item in operation.items:
                payload = item.payload
                if operation.new_only and (there := self.lookup(item.key)) is not None and now < there.expires:
                    continue
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

    def hold(self, operation: Hold) -> list[bool]:
        """Carry out `effects.Hold`."""
        with self.lock:
            now = self.clock.monotonic()
            held: dict[str, bool] = {}
            for dep in dict.fromkeys(operation.deps):
                holders = self._holders(dep, now)
                held[dep] = operation.holder in holders
                until = max(now + operation.seconds, holders.get(operation.holder, 0.0))
                self._holds[dep] = {**holders, operation.holder: until}
                # Without a marker it has no id, and should the holder die, there is none to come back.
                self._markers.pop(dep, None)
            return [held[dep] for dep in operation.deps]

    def release(self, operation: Release) -> bool:
        """Carry out `effects.Release`."""
        with self.lock:
            expires = self.clock.monotonic() + operation.life
            for dep, new in operation.markers:
                self._holds.get(dep, {}).pop(operation.holder, None)
                self._mark(dep, new, expires)
        return True

    def take_lease(self, operation: TakeLease) -> Taken | None:
        """Carry out `effects.TakeLease`; there is nobody to signal the end of a lease to."""
        with self.lock:
            now = self.clock.monotonic()
            lease = self._lease(operation.key, now)
            if lease is not None and not (lease[2] and self._has_looked(lease, operation, now)):
                return Taken(lease[0], lease[1] - now, done=lease[2])
            self._leases[operation.key] = operation.holder, now + operation.seconds, False
            return None

    @staticmethod
    def _has_looked(lease: tuple[bytes, float, bool], operation: TakeLease, now: float) -> bool:
        return lease[0] == operation.seen or now - operation.looked > lease[1] - _DONE_LIFE

    def keep_leases(self, operation: KeepLeases) -> list[bool]:
        """Carry out `effects.KeepLeases`."""
        with self.lock:
            now = self.clock.monotonic()
            kept = [self._lease(key, now) for key, _ in operation.leases]
            good = [
                lease is not None and lease[0] == holder and not lease[2]
                for lease, (_, holder) in zip(kept, operation.leases, strict=True)
            ]
            for (key, holder), still in zip(operation.leases, good, strict=True):
                if still:
                    self._leases[key] = holder, now + operation.seconds, False
            return good

    def return_lease(self, operation: ReturnLease) -> bool:
        """Carry out `effects.ReturnLease`."""
        with self.lock:
            now = self.clock.monotonic()
            lease = self._lease(operation.key, now)
            if lease is not None and lease[0] == operation.holder and not lease[2]:
                del self._leases[operation.key]
                if operation.ending is Ending.STORED:
                    self._leases[operation.key] = operation.holder, now + _DONE_LIFE, True
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

    def _lease(self, key: str, now: float) -> tuple[bytes, float, bool] | None:
        """Return the holder of a lease, until when, and whether it is done; those that have run out are removed."""
        if len(self._leases) > _MANY_LEASES:
            self._leases = {key: lease for key, lease in self._leases.items() if now < lease[1]}
        lease = self._leases.get(key)
        return lease if lease is not None and now < lease[1] else None

    def _id(self, dep: str, now: float) -> bytes | None:
        marker = self._markers.get(dep)
        return marker[0] if marker is not None and now < marker[1] else None

    def _holders(self, dep: str, now: float) -> dict[bytes, float]:
        """Return who holds a dependency, and until when; holds that have run out are removed."""
        holders = {holder: until for holder, until in self._holds.get(dep, {}).items() if now < until}
        if not holders:
            self._holds.pop(dep, None)
        return holders

    def _mark(self, dep: str, new: bytes, expires: float) -> None:
        """Give a marker an id unless it is held; its life is never shortened."""
        if dep in self._holds and self._holders(dep, self.clock.monotonic()):
            return
        if (old := self._markers.get(dep)) is not None:
            expires = max(expires, old[1])
        self._markers[dep] = (new, expires)
        if len(self._markers) > self._tidy_at:
            now = self.clock.monotonic()
            for held in list(self._holds):
                self._holders(held, now)
            self._markers = {dep: marker for dep, marker in self._markers.items() if now < marker[1]}
            self._tidy_at = max(1024, 2 * len(self._markers))
