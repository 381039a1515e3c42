"""Seeing: events, counters, health, metrics, and why a call would miss."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..drivers import adrive
from ..events import Event, NameCounters, Stats, summarise
from ..explaining import Explanation, explain
from .requesting import Requesting

if TYPE_CHECKING:
    from ..decorators import Controller
    from ..observe import Health, MetricsServer
    from ..observe.observer import Observer


class Seeing(Requesting):
    """The operations that look.

    Attributes:
        observer: what counts, and answers for the cache.
    """

    observer: Observer
    _controllers: weakref.WeakSet[Controller]

    def on(self, event: str | type[Event], listener: Callable[[Any], None]) -> Callable[[], None]:
        """Call a listener for every event of a kind (see `events`); return a function that ends it."""
        return self.engine.listeners.on(event, listener)

    def stats(self, name: str | None = None) -> Stats:
        """Return the counters of this process: of one model's or function's name, or of all together.

        With `enable_metrics` off nothing is counted and every number is zero.
        """
        if not self.settings.enable_metrics:
            return summarise([], 0)
        fronts = self.fronts()
        counters = self.engine.all_counters()
        chosen = list(counters.values()) if name is None else [counters.get(name, NameCounters())]
        hits = self.front_hits(fronts)
        return summarise(chosen, sum(hits.values()) if name is None else hits.get(name, 0))

    def stats_by_name(self) -> dict[str, Stats]:
        """Return the counters of every name seen so far; plain keys have an empty name."""
        names = {*self.engine.all_counters(), *(one.declaration.name for one in list(self._controllers))}
        return {name: self.stats(name) for name in sorted(names)}

    def fronts(self) -> list[Controller]:
        """Return the functions that count hits in fronts of their own.

        A function that is collected leaves its hits to the counters: whoever adds the two up holds the functions until
        both have been read, or counts the hits of one of them twice, or not at all.
        """
        return list(self._controllers)

    @staticmethod
    def front_hits(fronts: Iterable[Controller]) -> dict[str, int]:
        """Return how many calls the fronts of functions have answered, by name."""
        found: dict[str, int] = {}
        for controller in fronts:
            name = controller.declaration.name
            found[name] = found.get(name, 0) + controller.front_hits()
        return found

    def health(self) -> Health:
        """Return how the cache is, having asked each tier; never raises.

        It is `degraded`, and not `down`, while calls are answered: without its server it serves from memory and loads.
        """
        return self.observer.health()

    async def ahealth(self) -> Health:
        """Do what `health` does, asynchronously."""
        return await self.observer.ahealth()

    def record_operation(self, name: str, seconds: float, success: bool = True, pattern: str = "") -> None:
        """Count an operation of the application's own among the metrics.

        Args:
            name: what it is called; the first 50 names have a label of their own, later ones share `other`.
            seconds: how long it took.
            success: whether it succeeded.
            pattern: what it was about, such as `"vm:"`; bounded as names are.

        Raises:
            DeclarationError: `seconds` is no duration.
        """
        self.observer.record(name, seconds, success, pattern)

    def export_prometheus(self, *, openmetrics: bool = False) -> str:
        """Return the metrics as text for Prometheus, or in the format of OpenMetrics, which has exemplars.

        With `monitor.directory` set they are the sum over the processes that share it. No server is asked: what one
        said last about its memory is repeated.
        """
        return self.observer.exported(openmetrics=openmetrics)

    def metrics_json(self) -> str:
        """Return the metrics as a JSON document: `basic`, `response_times`, `tiers`, `models` and more."""
        return self.observer.as_json()

    def serve_metrics(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        token: str | None = None,
        allow: Iterable[str] | None = None,
        hosts: Iterable[str] | None = None,
    ) -> MetricsServer:
        """Serve `/health`, `/metrics` and `/api/metrics` from a thread, until it is closed or the cache is.

        Args:
            host: the address to listen on; None is `monitor.host`, by default this machine alone.
            port: None is `monitor.metrics_port`, by default 9091; 0 takes a free one.
            token: what the header `Authorization: Bearer <token>` has to hold; None is `monitor.token`. Listening to
                other machines needs one.
            allow: addresses or networks that are answered; None is `monitor.allow`, by default this machine, or
                everybody with the token.
            hosts: names beside this machine's under which it is asked; None is `monitor.hosts`.

        Raises:
            SettingsError: the port is taken, the address is not this machine's, or a token is missing.
        """
        self.check_open()
        return self.observer.serve(host, port, token=token, allow=allow, hosts=hosts)

    def explain(self, key: str, *, model: Any = None) -> Explanation:
        """Return which tier would answer for a key, and why the next call would miss; nothing is changed."""
        return self._run(explain(self.engine, self._request(key, model)))

    async def aexplain(self, key: str, *, model: Any = None) -> Explanation:
        """Do what `explain` does, asynchronously."""
        return await adrive(self.engine, explain(self.engine, self._request(key, model)))
