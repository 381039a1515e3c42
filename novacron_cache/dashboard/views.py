"""What a dashboard looks at: one cache and the processes it shares a directory with, or a whole fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..observe.alerting import Alert, Alerts
from ..observe.snapshot import Snapshot

if TYPE_CHECKING:
    from ..cache import Cache
    from ..observe.fleet import Fleet

__all__ = ["CacheView", "FleetView", "Look", "View"]

_ALERTS_APART: Final = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be seen at one moment.

    Attributes:
        at: epoch seconds.
        namespace: whose figures they are.
        total: the sum of all processes.
        processes: the latest snapshot of each process that is there.
        health: the health as plain data.
        alerts: each alert rule with its state.
        fleet: whether it is a fleet, whose processes come and go.
    """

    at: float
    namespace: str
    total: Snapshot
    processes: Sequence[Snapshot]
    health: dict[str, Any]
    alerts: Sequence[Alert]
    fleet: bool


class View(Protocol):
    """Looks; it may wait for servers, and runs in a thread of its own."""

    def look(self) -> Look:
        """Return what is to be seen now."""
        ...

    def close(self) -> None:
        """Release what it holds."""


class CacheView:
    """Looks at one cache, from within its application.

    Args:
        cache: the cache.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._alerts = Alerts(cache, sinks=[])
        self._alerted = -_ALERTS_APART

    def look(self) -> Look:
        """Return what is to be seen now."""
        cache = self._cache
        observer = cache.observer
        own = observer.watched_figures()
        total = observer.figures(ask=True)
        if time.monotonic() - self._alerted >= _ALERTS_APART:
            self._alerted = time.monotonic()
            self._alerts.look()
        return Look(
            time.time(), cache.settings.namespace or "", total, [own], cache.health().as_dict(), self._alerts.states(),
            fleet=False,
        )  # fmt: skip

    def close(self) -> None:
        """Release what it holds."""
        self._alerts.close()


class FleetView:
    """Looks at the processes that share a server; somebody else has the fleet look again and again.

    Args:
        fleet: the fleet.
        namespace: its namespace.
        alerts: returns the alerts of now.
    """

    def __init__(self, fleet: Fleet, namespace: str, alerts: Callable[[], Sequence[Alert]]) -> None:
        self._fleet = fleet
        self._namespace = namespace
        self._alerts = alerts

    def look(self) -> Look:
        """Return what is to be seen now."""
        health, _ = self._fleet.health()
        return Look(
            time.time(), self._namespace, self._fleet.news(), self._fleet.processes, health, self._alerts(),
            fleet=True,
        )  # fmt: skip

    def close(self) -> None:
        """Do nothing: the fleet is somebody else's."""
