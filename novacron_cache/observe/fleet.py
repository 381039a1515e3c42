"""The figures of a fleet: announce that somebody watches, read what processes publish, and add it up.

A counter must not fall when a process ends, so what has ended stays in the sum for as long as the monitor runs. A
process that was only out of reach may come back with counters that go on, so what is missing is kept by name for a
while before it is added for good.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from ..drivers import drive
from ..effects import DOWN, Operation, Renew
from ..errors import TierError
from ..markers import WATCHED, new_id
from .publishing import ANNOUNCE
from .snapshot import Snapshot, merged
from .taking import AGE

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..cache import Cache

MISSING_KEPT: Final = 256
"""How many processes that are missing are kept by name."""


class Aggregate:
    """The sum over processes that come and go."""

    def __init__(self) -> None:
        self._present: dict[str, Snapshot] = {}
        self._missing: OrderedDict[str, Snapshot] = OrderedDict()
        self._ended = Snapshot()

    def update(self, snapshots: Iterable[Snapshot]) -> None:
        """Take in the latest snapshot of each process that there is; those that are not among them are missing."""
        present = {one.process: one for one in snapshots}
        for process, one in self._present.items():
            if process not in present:
                self._missing[process] = one.counters_only()
        for process in present:
            self._missing.pop(process, None)
        while len(self._missing) > MISSING_KEPT:
            self._ended = merged([self._ended, self._missing.popitem(last=False)[1]])
        self._present = present

    def knows(self, process: str) -> bool:
        """Return whether a process is there, or is missing and known by name still."""
        return process in self._present or process in self._missing

    def total(self) -> Snapshot:
        """Return the sum of all, those that are missing with their counters only."""
        return merged([*self._present.values(), *self._missing.values(), self._ended])

    @property
    def processes(self) -> list[Snapshot]:
        """The latest snapshot of each process that is there."""
        return [one for one in self._present.values() if not one.facts.get("ended")]


class Fleet:
    """Watches the processes that share a server.

    Args:
        cache: a cache of the same namespace, whose server is asked.
        clock: monotonic seconds.

    Raises:
        TierError: the cache has no server that processes could publish to.
    """

    def __init__(self, cache: Cache, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._tier: Any = cache.engine.authority
        if not hasattr(self._tier, "published"):
            raise TierError("a fleet is watched through redis; set redis.url", tier="redis")
        self._clock = clock
        self._lock = threading.Lock()
        self._aggregate = Aggregate()
        self._before = Snapshot()
        self._began = clock()
        self._announced_at = -ANNOUNCE
        self.problem: str | None = None

    def look(self) -> None:
        """Announce, read and add up; a server that does not answer leaves what is known as it is."""
        with self._lock:
            if self._clock() - self._announced_at >= ANNOUNCE:
                self._announce()
            try:
                found = [one for data in self._tier.published() if (one := Snapshot.decode(data)) is not None]
            except TierError as error:
                self.problem = str(error)
                return
            namespace = self._cache.settings.namespace or ""
            found = [one for one in found if one.facts.get("namespace", "") == namespace]
            old = [one.counters_only() for one in found if not self._aggregate.knows(one.process) and self._is_old(one)]
            self._before = merged([self._before, *old])
            self._aggregate.update(one.counters_only() if one.facts.get("ended") else one for one in found)
            self.problem = None

    def _is_old(self, one: Snapshot) -> bool:
        """Return whether a process has counted for longer than it could be watched; one that does not say so has.

        No two clocks are compared, so one that began moments before, and published then, may pass for one that is new.
        """
        try:
            return not float(one.facts[AGE]) <= self._clock() - self._began
        except (LookupError, TypeError, ValueError):
            return True

    def _announce(self) -> None:
        engine = self._cache.engine

        def ask() -> Generator[tuple[Any, Operation], Any, bool]:
            reply = yield self._tier, Renew([(WATCHED, new_id())], 60.0)
            return reply is not DOWN

        if drive(engine, ask()):
            self._announced_at = self._clock()

    @property
    def processes(self) -> list[Snapshot]:
        """The latest snapshot of each process that is there."""
        with self._lock:
            return self._aggregate.processes

    def figures(self) -> Snapshot:
        """Return the sum of what is known, with what the server says about its memory."""
        observer = self._cache.observer
        observer.ask_servers()
        with self._lock:
            total = self._aggregate.total()
        total.values.setdefault("processes", {}).setdefault((), 0.0)
        for family in ("server_bytes", "server_bytes_limit"):
            total.values.pop(family, None)
        for tier, (used, limit) in observer.taker.server_memory.items():
            total.values.setdefault("server_bytes", {})[tier,] = used
            if limit:
                total.values.setdefault("server_bytes_limit", {})[tier,] = limit
        total.at = time.time()
        total.facts = {"namespace": self._cache.settings.namespace or ""}
        return total

    def news(self) -> Snapshot:
        """Return the figures without what processes had counted before they could be watched.

        Processes come to be known one by one, and each brings along what it has counted in its life: to what looks at
        differences, such as alerts, that is no news.
        """
        figures = self.figures()
        with self._lock:
            return figures.minus(self._before)

    def health(self) -> tuple[dict[str, Any], bool]:
        """Return the health as the monitor sees it, with what processes say; and whether the cache is usable."""
        own = self._cache.health()
        plain = own.as_dict()
        now = time.time()
        with self._lock:
            processes = self._aggregate.processes
        plain["processes"] = [
            {
                "process": one.process,
                "age": max(0.0, now - one.at),
                "link_up": bool(one.total("link_up")) if "link_up" in one.values else None,
                "breakers_open": sorted(tier for (tier,), open_ in one.values.get("breaker_open", {}).items() if open_),
                "pending_invalidations": int(one.total("pending_invalidations")),
            }
            for one in processes
        ]
        told = [
            f"{sum(map(bool, found))} of {len(found)} processes {what}"
            for what, found in (
                ("have an open breaker", [one["breakers_open"] for one in plain["processes"]]),
                ("have lost the link", [one["link_up"] is False for one in plain["processes"]]),
                ("have invalidations pending", [one["pending_invalidations"] for one in plain["processes"]]),
            )
            if any(found)
        ]
        if self.problem is not None:
            told.append(f"what processes publish cannot be read: {self.problem}")
        plain["problems"] += told
        if told and own.status == "healthy":
            plain["status"] = "degraded"
        return plain, own.usable
