"""What a planted threat has to leave behind: a miss, an event, a metric and, where it is somebody's doing, an alert."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest
from servers import ServerProcess, running, wait_until

from novacron_cache import Cache, CacheSettings
from novacron_cache.events import Corrupt, Miss, TierFailed
from novacron_cache.observe import Alerts, CallbackSink

NAMESPACE = "shop"
NEW_KEY, OLD_KEY = b"the new key has 32 bytes or more", b"the old key has 32 bytes or more"

LABELS = {"foreign": "corrupt", "too_large": "corrupt"}
"""The reasons of misses that share a label; those of unreadable payloads have their own each."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


class Trap:
    """Its unpickling would be seen."""

    sprung: ClassVar[list[bool]] = []

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Trap.sprung.append, (True,)


@dataclass
class Witness:
    """Watches a cache.

    Attributes:
        cache: the cache.
        events: what it said, in order.
        alerts: which alerts fired.
        looking: whether the figures are looked at before anything happens, which opens tiers.
    """

    cache: Cache
    events: list[Any] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    looking: bool = True

    def __post_init__(self) -> None:
        self.cache.on("*", self.events.append)
        self._watch = Alerts(self.cache, sinks=[CallbackSink(lambda alert: self.alerts.append(alert.name))])
        if self.looking:
            self._watch.look()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def refused(self, tier: str, reason: str, *, alert: bool) -> None:
        """Assert that a payload of a tier was refused, that everybody was told, and who is woken for it."""
        assert [event.reason for event in self.of(Miss)] == [reason]
        # Read once, or once more after the lease was taken.
        assert {(event.tier, event.reason) for event in self.of(Corrupt)} == {(tier, reason)}
        figures = self.cache.observer.figures()
        assert figures.total("misses", reason=LABELS.get(reason, reason)) == 1
        assert figures.total("corrupt", tier=tier, reason=reason) >= 1
        assert bool(figures.total("security_events", kind=reason)) == alert
        assert f'reason="{reason}"' in self.cache.export_prometheus()
        self._watch.look()
        assert self.alerts == (["CacheSecurityEvent"] if alert else [])

    def failed(self, tier: str, text: str) -> None:
        """Assert that a tier failed with this in its message, and that it was counted."""
        said = [str(event.error) for event in self.of(TierFailed) if event.tier == tier]
        assert any(text in one for one in said), said
        assert self.cache.observer.figures().total("tier_errors", tier=tier) >= 1

    def alarmed(self, kind: str) -> None:
        """Assert that a security event of a kind was counted, and that somebody is woken for it."""
        assert self.cache.observer.figures().total("security_events", kind=kind) >= 1
        self._watch.look()
        assert "CacheSecurityEvent" in self.alerts

    def not_opened(self, text: str, log: pytest.LogCaptureFixture) -> None:
        """Assert that the directory was refused when it was opened: by a call, or by the link, which may be earlier."""

        def told() -> bool:
            said = [str(event.error) for event in self.of(TierFailed)] + [log.text]
            figures = self.cache.observer.figures()
            counted = figures.total("tier_errors", tier="disk") + figures.total("link_losses")
            return counted >= 1 and any(text in one for one in said)

        wait_until(told, what=f"{text!r}, in an event and a metric")


class Store(Protocol):
    """A shared tier as an intruder sees it: the payloads by their stored keys, to read and to write."""

    name: str

    def settings(self, namespace: str = NAMESPACE) -> dict[str, Any]:
        """Return the settings of a cache that uses it."""
        ...

    def read(self, stored: str, namespace: str = NAMESPACE) -> bytes: ...
    def write(self, stored: str, payload: bytes, namespace: str = NAMESPACE) -> None: ...

    def close(self) -> None: ...


class Server:
    """L2, with nobody's permission asked."""

    name = "redis"

    def __init__(self, server: ServerProcess) -> None:
        import redis

        self.server = server
        self.client = redis.Redis.from_url(server.url)

    def settings(self, namespace: str = NAMESPACE) -> dict[str, Any]:
        # Patient, for a machine that has much else to do must not be taken for an outage.
        patient = {"connect_timeout": "10s", "socket_timeout": "10s"}
        return {"namespace": namespace, "redis": {"url": self.server.url, **patient}}

    def read(self, stored: str, namespace: str = NAMESPACE) -> bytes:
        payload = self.client.get(f"nc:{namespace}:v:{stored}")
        assert isinstance(payload, bytes), stored
        return payload

    def write(self, stored: str, payload: bytes, namespace: str = NAMESPACE) -> None:
        self.client.set(f"nc:{namespace}:v:{stored}", payload, px=60_000)

    def close(self) -> None:
        self.client.close()


class Directory:
    """L3, as a process of the same user can reach it."""

    name = "disk"

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self, namespace: str = NAMESPACE) -> dict[str, Any]:
        return {"namespace": namespace, "disk": {"path": str(self.path)}}

    def sql(self, statement: str, *arguments: Any) -> list[Any]:
        connection = sqlite3.connect(self.path / "cache.db", isolation_level=None, timeout=5.0)
        try:
            return connection.execute(statement, arguments).fetchall()
        finally:
            connection.close()

    def row(self, stored: str, namespace: str = NAMESPACE) -> str:
        """Return the key of a row."""
        return f"{len(namespace)}:{namespace}:{stored}"

    def plant(self, stored: str, **columns: Any) -> None:
        """Change a row to what an intruder would write."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self.sql(f"UPDATE Cache SET {names} WHERE key = ?", *columns.values(), self.row(stored))  # noqa: S608
        assert self.sql("SELECT changes()")

    def read(self, stored: str, namespace: str = NAMESPACE) -> bytes:
        ((value,),) = self.sql("SELECT value FROM Cache WHERE key = ?", self.row(stored, namespace))
        assert isinstance(value, bytes)
        return value

    def write(self, stored: str, payload: bytes, namespace: str = NAMESPACE) -> None:
        row = self.row(stored, namespace)
        self.sql("DELETE FROM Cache WHERE key = ?", row)
        self.sql(
            "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, size, mode, filename, value)"
            " SELECT ?, 1, now, now + 60, now, 0, 1, NULL, ? FROM (SELECT unixepoch() AS now)",
            row, payload,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def opened(store: Store, *, namespace: str = NAMESPACE, **more: Any) -> Iterator[Cache]:
    """Open a cache with nothing in its memory, as a process that has just started."""
    with Cache(CacheSettings(**store.settings(namespace), **more)) as cache:
        yield cache


@contextmanager
def secured(binary: Path, **options: Any) -> Iterator[ServerProcess]:
    """Run a server of one's own."""
    with ExitStack() as stack:
        yield stack.enter_context(running(binary, **options))
