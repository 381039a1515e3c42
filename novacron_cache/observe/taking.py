"""Taking a snapshot: the counters of names, the recorder's figures, and gauges read where they are.

Nothing here waits: what a server has to be asked for is asked by `health`, and remembered.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Final, Protocol

from ..link.machine import LinkState
from .recording import CONNECTION_ERRORS, PLANTED, REFUSED, Recorder
from .snapshot import FAMILIES, Snapshot

if TYPE_CHECKING:
    from ..cache import Cache

AGE: Final = "age"
"""The fact of a snapshot that says for how many seconds its process has counted."""

# Reasons that are one to an operator: what is stored cannot be read.
_REASONS: Final = {"foreign": "corrupt", "too_large": "corrupt"}


class Identity:
    """The name of this process among those of a fleet: host, process id, and a number that no other run has."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Take another one, in a forked child."""
        self.token = os.urandom(4).hex()
        self.text = f"{socket.gethostname()}:{os.getpid()}:{self.token}"


class Taker:
    """Takes snapshots of one cache.

    A forked child starts with the counters of its parent. They are the parent's to report: what stood there at the fork
    is subtracted.
    """

    def __init__(self, cache: Cache, recorder: Recorder) -> None:
        self._cache = cache
        self._recorder = recorder
        self._before_fork: Snapshot | None = None
        self._began = time.monotonic()
        self.identity = Identity()
        self.server_memory: dict[str, tuple[float, float | None]] = {}
        self.disk_use: dict[str, tuple[float, float]] = {}

    def after_fork(self) -> None:
        """Begin at zero."""
        self._before_fork = self._raw()
        self._began = time.monotonic()
        self.identity.renew()

    def take(self) -> Snapshot:
        """Return what this process has counted so far."""
        snapshot = self._raw()
        if self._before_fork is not None:
            snapshot = snapshot.minus(self._before_fork)
        self._gauges(snapshot)
        return snapshot

    def _raw(self) -> Snapshot:
        cache, recorder = self._cache, self._recorder
        snapshot = Snapshot(self.identity.text, time.time())
        for family, values in list(recorder.values.items()):
            if family in FAMILIES:
                snapshot.values[family] = dict(values)
        for family, histograms in list(recorder.histograms.items()):
            snapshot.histograms[family] = {labels: one.copy() for labels, one in list(histograms.items())}
        if not recorder.counting:
            return snapshot
        add, label = snapshot.add, recorder.models.of
        # A series that begins at one has no rate: what alerts look at is there from the beginning.
        for kind in sorted(PLANTED | REFUSED):
            add("security_events", 0, kind)
        for one in cache.engine.shared:
            for error in sorted(CONNECTION_ERRORS):
                add("tier_errors", 0, one.name, error)
        fronts = cache.fronts()
        for name, counters in cache.engine.all_counters().items():
            model = label(name)
            add("hits", 0, "memory", model)
            add("misses", 0, model, "cold")
            for tier, hits in dict(counters.hits).items():
                add("hits", hits, tier, model)
            for reason, misses in dict(counters.misses).items():
                add("misses", misses, model, _REASONS.get(reason, reason))
            add("joined", counters.joined, model)
            add("loads", counters.loads, model)
            add("load_errors", counters.load_errors, model)
            add("stale_served", counters.stale, model)
            add("lease_waits", counters.waited, model)
            for family, count in (
                ("stale_overdue", counters.overdue),
                ("loads_queued", counters.queued),
                ("shadow_misses", counters.shadow_misses),
            ):
                if count:  # most functions have none of these
                    add(family, count, model)
            for tier, hits in dict(counters.shadow_hits).items():
                add("shadow_hits", hits, tier, model)
            for verdict, differing in dict(counters.shadow_mismatches).items():
                add("shadow_mismatches", differing, model, verdict)
            add("audited", counters.audited, model)
            add("audited_stale", counters.audited_stale, model)
            if counters.audited_stale:
                staleness = snapshot.values.setdefault("staleness_seconds", {})
                staleness[model,] = max(staleness.get((model,), 0.0), counters.audited_age)
        for name, hits in cache.front_hits(fronts).items():
            add("hits", hits, "memory", label(name))
        for (model, reason), held in dict(recorder.values.get("misses_that_were_held", {})).items():
            # Counted as cold where it happened.
            add("misses", held, model, reason)
            add("misses", -held, model, "cold")
        return snapshot

    def _gauges(self, snapshot: Snapshot) -> None:
        cache, recorder = self._cache, self._recorder
        engine, memory = cache.engine, cache.engine.memory
        values = snapshot.values
        if memory is not None:
            values["items"] = {("memory",): float(len(memory))}
            values["items_limit"] = {("memory",): float(cache.settings.memory.max_items)}
            if memory.max_bytes is not None:
                values["bytes"] = {("memory",): float(memory.bytes)}
                values["bytes_limit"] = {("memory",): float(memory.max_bytes)}
        for tier in engine.shared:
            snapshot.add("breaker_open", float(engine.breakers[tier.name].is_open), tier.name)
            pool = getattr(tier, "pool_use", None)
            if pool is not None:
                use: PoolUse = pool()
                snapshot.add("pool_connections", use.in_use, tier.name, "in_use")
                snapshot.add("pool_connections", use.idle, tier.name, "idle")
                snapshot.add("pool_limit", use.limit, tier.name)
        for name, (taken, room) in self.disk_use.items():
            values.setdefault("disk_bytes", {})[name,] = taken
            values.setdefault("disk_bytes_limit", {})[name,] = room
        for name, (used, limit) in self.server_memory.items():
            values.setdefault("server_bytes", {})[name,] = used
            if limit:
                values.setdefault("server_bytes_limit", {})[name,] = limit
        pending = len(engine.pending)
        snapshot.add("pending_invalidations", pending)
        snapshot.add("pending_seconds", pending_seconds(cache, recorder))
        if engine.link is not None:
            snapshot.add("link_up", float(engine.link.state is LinkState.UP))
        snapshot.add("processes", 1)
        snapshot.facts = {
            "namespace": cache.settings.namespace or "",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            AGE: time.monotonic() - self._began,
        }


class PoolUse(Protocol):
    """How many connections of a tier's pools are lent out, how many wait, and how many there may be."""

    @property
    def in_use(self) -> int:
        """How many connections are lent out."""
        ...

    @property
    def idle(self) -> int:
        """How many wait."""
        ...

    @property
    def limit(self) -> int:
        """How many there may be."""
        ...


def pending_seconds(cache: Cache, recorder: Recorder) -> float:
    """Return for how long something has been pending; 0.0 where nothing is."""
    if not cache.engine.pending:
        recorder.pending_since = None
        return 0.0
    if recorder.pending_since is None:
        # A server that was replaced has made what had arrived pending again, without a delay to be told of.
        recorder.pending_since = cache.engine.clock.monotonic()
    return max(0.0, cache.engine.clock.monotonic() - recorder.pending_since)
