"""A tier and a codec as somebody else would write them: with what is public, and in the tests' own namespace."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from novacron_cache import effects
from novacron_cache.codecs import Codec
from novacron_cache.entry import Clock, SystemClock
from novacron_cache.markers import MAX_RULES, RULES, new_id
from novacron_cache.tiers import BlockingTier


class Shelf:
    """What outlives a tier: a store that several tiers, as several processes, may name."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.payloads: dict[str, tuple[bytes, float]] = {}
        self.markers: dict[str, tuple[bytes, float]] = {}
        self.holds: dict[str, dict[bytes, float]] = {}
        self.rules: list[tuple[bytes, bytes]] = []


class ArchiveTier(BlockingTier):
    """Keeps everything on a shelf, each namespace by itself."""

    name: ClassVar[str] = "archive"

    def __init__(self, shelf: Shelf, *, prefix: str = "", clock: Clock | None = None) -> None:
        self.shelf = shelf
        self.prefix = prefix
        self.clock = clock or SystemClock()
        self.asked: list[str] = []
        self.closed = 0

    def perform(self, operation: effects.Operation) -> Any:
        self.asked.append(type(operation).__name__)
        with self.shelf.lock:
            return super().perform(operation)

    def fetch(self, operation: effects.Fetch) -> effects.Fetched:
        now = self.clock.time()
        payloads = [self.shelf.payloads.get(self.prefix + key, (b"", 0.0)) for key in operation.keys]
        return effects.Fetched(
            [payload if now < until else None for payload, until in payloads], [self._id(dep) for dep in operation.deps]
        )

    def capture(self, operation: effects.Capture) -> list[bytes | None]:
        self._renew(operation.renew, operation.life)
        self._renew([(dep, self._id(dep) or new_id()) for dep in dict.fromkeys(operation.deps)], operation.life)
        return [self._id(dep) for dep in operation.deps]

    def store(self, operation: effects.Store) -> bool:
        self._renew([(dep, found) for dep in operation.extend if (found := self._id(dep))], operation.life)
        for item in operation.items:
            self.shelf.payloads[self.prefix + item.key] = item.payload, self.clock.time() + item.ttl
        return True

    def renew(self, operation: effects.Renew) -> bool:
        self._renew(operation.markers, operation.life)
        for rule in operation.rules:
            self.shelf.rules.insert(0, (self.prefix.encode() + rule[0], rule[1]))
            self._renew([(RULES, rule[0])], operation.life)
        del self.shelf.rules[2 * MAX_RULES :]
        return True

    def hold(self, operation: effects.Hold) -> list[bool]:
        held = {dep: operation.holder in self._holders(dep) for dep in operation.deps}
        for dep in held:
            holders, until = self._holders(dep), self.clock.time() + operation.seconds
            holders[operation.holder] = max(until, holders.get(operation.holder, 0.0))
            self.shelf.markers.pop(self.prefix + dep, None)
        return [held[dep] for dep in operation.deps]

    def release(self, operation: effects.Release) -> bool:
        for dep, _ in operation.markers:
            self._holders(dep).pop(operation.holder, None)
        self._renew(operation.markers, operation.life)
        return True

    def read_rules(self, operation: effects.ReadRules) -> list[tuple[bytes, bytes]]:
        mine = self.prefix.encode()
        return [(rule_id.removeprefix(mine), rule) for rule_id, rule in self.shelf.rules if rule_id.startswith(mine)]

    def delete(self, operation: effects.Delete) -> bool:
        for key in operation.keys:
            self.shelf.payloads.pop(self.prefix + key, None)
        return True

    def purge(self, operation: effects.Purge) -> bool:
        for key in [key for key in self.shelf.payloads if key.startswith(self.prefix)]:
            del self.shelf.payloads[key]
        return True

    def close(self) -> None:
        self.closed += 1

    def _holders(self, dep: str) -> dict[bytes, float]:
        holders, now = self.shelf.holds.setdefault(self.prefix + dep, {}), self.clock.time()
        for holder in [holder for holder, until in holders.items() if now >= until]:
            del holders[holder]
        return holders

    def _id(self, dep: str) -> bytes | None:
        found, until = self.shelf.markers.get(self.prefix + dep, (None, 0.0))
        return found if self.clock.time() < until else None

    def _renew(self, markers: Any, life: float) -> None:
        for dep, new in markers:
            if not self._holders(dep):
                _, until = self.shelf.markers.get(self.prefix + dep, (b"", 0.0))
                self.shelf.markers[self.prefix + dep] = new, max(until, self.clock.time() + life)


class NotedCodec(Codec):
    """JSON behind a note of who wrote it."""

    name = "noted"
    format_id = 201
    note = b"shop/1 "

    def dump(self, adapter: Any, value: Any) -> bytes:
        written: bytes = adapter.serializer.to_json(value, by_alias=False, round_trip=True, warnings="error")
        return self.note + written

    def load(self, adapter: Any, data: bytes) -> Any:
        if not data.startswith(self.note):
            raise ValueError("nobody noted this")
        return adapter.validator.validate_json(data[len(self.note) :], by_alias=False, by_name=True)


NOTED = NotedCodec()
