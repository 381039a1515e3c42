"""What a cache has for being seen: one object that counts, takes snapshots, answers and publishes.

`Cache` makes one and hands its own methods through to it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from ..errors import CacheClosedError, DeclarationError, TierError
from . import happening, health, hottest, whatif
from .directory import SnapshotDirectory
from .publishing import Publisher
from .recording import Recorder
from .snapshot import Snapshot, merged
from .taking import Taker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..cache import Cache
    from .health import Health
    from .histogram import ExemplarSource
    from .serving import MetricsServer

__all__ = ["Observer"]


class Closing(Protocol):
    """What is closed with the cache."""

    def close(self) -> None:
        """Release what it holds."""


S = TypeVar("S", bound=Closing)

ASK_AGAIN: Final = 10.0
"""Seconds for which what a server said about its memory, and what a disk takes, is repeated."""


class Observer:
    """Sees one cache.

    Args:
        cache: the cache; its settings say what is counted and where it is published.

    Raises:
        SettingsError: `monitor.directory` cannot be used, or `enable_tracing` lacks OpenTelemetry.
    """

    def __init__(self, cache: Cache) -> None:
        options = cache.settings.monitor
        # The cache holds this one.
        self._cache: weakref.ref[Cache] = weakref.ref(cache)
        self.recorder = Recorder(cache.engine, counting=cache.settings.enable_metrics, max_models=options.max_models)
        if cache.settings.enable_tracing:
            from .tracing import current_trace, start

            start(cache.engine, cache.settings, show_keys=cache.settings.trace_keys)
            self.recorder.exemplar = current_trace
        self.taker = Taker(weakref.proxy(cache), self.recorder)
        self._hottest = hottest.Hottest(listeners=cache.engine.listeners)
        self._happenings = happening.Happenings(cache.engine)
        self._what_if = whatif.WhatIf(weakref.proxy(cache))
        self._asked_at = self._measured_at = -ASK_AGAIN
        self._ended = False
        self._writing = threading.Lock()
        self._servers: list[Closing] = []
        self._directory: SnapshotDirectory | None = None
        if options.directory is not None and cache.settings.enable_metrics:
            self._directory = SnapshotDirectory(options.directory, cache.settings.namespace or "")
        self._publisher = Publisher(_weakly(self), options.publish_interval, always=self._directory is not None)
        if cache.settings.enable_metrics:
            cache.engine.on_watched = self._publisher.watched
            if self._directory is not None:
                self._publisher.ensure()
                _with_directories.add(self)

    @property
    def exemplar(self) -> ExemplarSource | None:
        """Names what stands behind an observation, such as the current trace; None where nothing does."""
        return self.recorder.exemplar

    @exemplar.setter
    def exemplar(self, source: ExemplarSource | None) -> None:
        """Have it named by this, from now on."""
        self.recorder.exemplar = source

    # -- figures ------------------------------------------------------------------------------------------------------

    def own_figures(self) -> Snapshot:
        """Return the figures of this process."""
        return self.taker.take()

    def figures(self, *, ask: bool = False) -> Snapshot:
        """Return the figures of this process, and of those it shares a directory with.

        Args:
            ask: whether servers may be asked for theirs, which waits for their answer; otherwise what they said last
                is repeated.
        """
        if ask:
            self.ask_servers()
        own = self.own_figures()
        if self._directory is None:
            return own
        return merged([own, *self._directory.others(own.process)])

    def watched_figures(self) -> Snapshot:
        """Return the figures of this process, with what is told only while somebody watches, and is looked for then."""
        own = self.own_figures()
        cache = self._cache()
        if cache is not None and not cache.closed:
            self._watch(cache, own)
        return own

    def _watch(self, cache: Cache, snapshot: Snapshot) -> None:
        snapshot.facts[happening.FACT] = self._happenings.rows()
        if cache.engine.memory is not None:
            snapshot.facts[hottest.FACT] = self._hottest.since_last(cache.engine.memory)
            if cache.settings.enable_metrics and (curve := self._what_if.look()) is not None:
                snapshot.facts[whatif.FACT] = curve

    def ask_servers(self) -> None:
        """Ask the servers of shared tiers how much memory they use, unless they said so lately."""
        cache = self._cache()
        now = time.monotonic()
        if cache is not None and not cache.closed and now - self._asked_at >= ASK_AGAIN:
            self._asked_at = now
            self._measure(cache)
            self.taker.server_memory = health.read_server_memory(cache)

    def record(self, name: str, seconds: float, success: bool, pattern: str) -> None:
        """Count an operation of the application's own.

        Raises:
            DeclarationError: `seconds` is no duration.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
            raise DeclarationError(f"seconds={seconds!r}: expected the duration of {name!r} in seconds, such as 0.025")
        self.recorder.record(str(name), float(seconds), bool(success), str(pattern))

    def exported(self, *, openmetrics: bool = False) -> str:
        """Return the figures as text for Prometheus."""
        from .exposition import exposed

        return exposed(self.figures(), openmetrics=openmetrics).decode()

    def as_json(self) -> str:
        """Return the figures as a JSON document."""
        from .summary import summarised

        return json.dumps(summarised(self.figures()))

    # -- health -------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Return how the cache is, having asked each tier; never raises."""
        cache = self._cache()
        return health.CLOSED if cache is None else health.check(cache, self.recorder)

    async def ahealth(self) -> Health:
        """Do what `health` does, asynchronously."""
        cache = self._cache()
        return health.CLOSED if cache is None else await health.acheck(cache, self.recorder)

    # -- serving ------------------------------------------------------------------------------------------------------

    def serve(
        self,
        host: str | None,
        port: int | None,
        *,
        token: str | None,
        allow: Iterable[str] | None,
        hosts: Iterable[str] | None,
    ) -> MetricsServer:
        """Return a server of the figures; None takes what the settings say."""
        from .routes import CacheSource
        from .serving import MetricsServer

        cache = self._cache()
        if cache is None:
            raise CacheClosedError("the cache is gone")
        options = cache.settings.monitor
        if token is None and options.token is not None:
            token = options.token.get_secret_value()
        server = MetricsServer(
            CacheSource(cache),
            host=options.host if host is None else host,
            port=options.metrics_port if port is None else port,
            token=token,
            allow=(options.allow or None) if allow is None else allow,
            hosts=options.hosts if hosts is None else hosts,
        )
        self._servers.append(server)
        return server

    def adopt(self, server: S) -> S:
        """Have a server closed with the cache, and return it."""
        self._servers.append(server)
        return server

    # -- publishing ---------------------------------------------------------------------------------------------------

    def publish(self, watched: bool) -> None:
        """Publish the figures of this process once, to the directory and, where somebody watches, to the server."""
        cache = self._cache()
        if cache is None or cache.closed:
            return
        self._measure(cache)
        snapshot = self.own_figures()
        if self._directory is not None:
            with self._writing:
                if not self._ended:  # what was left last is not to be replaced by what is older
                    self._directory.write(snapshot)
        if watched:
            self._watch(cache, snapshot)
            self._send(cache, snapshot)

    def _measure(self, cache: Cache) -> None:
        now = time.monotonic()
        if now - self._measured_at >= ASK_AGAIN:
            self._measured_at = now
            self.taker.disk_use = health.read_disk_use(cache)

    @staticmethod
    def _send(cache: Cache, snapshot: Snapshot) -> None:
        authority = cache.engine.authority
        keep = getattr(authority, "publish", None)
        if authority is None or keep is None or cache.engine.breakers[authority.name].is_open:
            return
        keep(snapshot.process, snapshot.encode(), max(10.0, 3 * cache.settings.monitor.publish_interval))

    def stop(self) -> None:
        """End what runs in the background, leaving the last figures where others find them."""
        while self._servers:
            self._servers.pop().close()
        self._publisher.stop()
        self._what_if.stop()
        cache = self._cache()
        if self._publisher.is_watched and cache is not None:
            last = self.own_figures()
            last.facts = {**last.facts, "ended": True}
            with contextlib.suppress(TierError):  # what was published before counts until it is forgotten
                self._send(cache, last)
        self.leave()

    def leave(self) -> None:
        """Leave the last figures in the directory."""
        if self._directory is None:
            return
        with self._writing, contextlib.suppress(ReferenceError):  # the cache has gone; what it said last stays
            if not self._ended:
                self._ended = True
                self._directory.write(self.own_figures(), final=True)

    def after_fork(self) -> None:
        """Begin at zero in a forked child."""
        self.taker.after_fork()
        self._what_if.after_fork()
        self._publisher.reset()
        self._servers = []
        self._ended = False
        self._writing = threading.Lock()
        self._publisher.ensure()


def _weakly(observer: Observer) -> Any:
    known = weakref.ref(observer)

    def publish(watched: bool) -> None:
        found = known()
        if found is not None:
            found.publish(watched)

    return publish


_with_directories: weakref.WeakSet[Observer] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    # A worker that ends without closing its cache.
    for observer in list(_with_directories):
        observer.leave()
