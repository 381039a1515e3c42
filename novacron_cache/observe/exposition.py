"""The figures in Prometheus' words: a collector for the client library, for programs with figures of their own too.

`prometheus_client` is imported when a registry collects, not with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from .histogram import BOUNDS, Histogram
from .snapshot import FAMILIES, PREFIX, Snapshot
from .text import rendered

if TYPE_CHECKING:
    from ..cache import Cache

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_BOUNDS: Final = [*(repr(bound) for bound in BOUNDS), "+Inf"]


class CacheCollector:
    """A collector for a registry of `prometheus_client`.

    Args:
        snapshot: returns the figures of now.
        names: names of labels that each sample gets besides, with their values.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], names: dict[str, str] | None = None) -> None:
        self._snapshot = snapshot
        self._names = names or {}

    def describe(self) -> list[Any]:
        """Return nothing, so that registering the collector takes no snapshot."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield each metric family that has samples."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        snapshot = self._snapshot()
        extra = tuple(self._names.values())
        for name, family in FAMILIES.items():
            labels = (*family.labels, *self._names)
            metric: Any
            if family.kind == "histogram":
                metric = HistogramMetricFamily(PREFIX + name, family.help, labels=labels)
                for key, histogram in snapshot.histograms.get(name, {}).items():
                    metric.add_metric((*key, *extra), _buckets(histogram), histogram.total)
            else:
                kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                metric = kind(PREFIX + name, family.help, labels=labels)
                for key, value in snapshot.values.get(name, {}).items():
                    metric.add_metric((*key, *extra), value)
            if metric.samples:
                yield metric


def _buckets(histogram: Histogram) -> list[Any]:
    from prometheus_client.samples import Exemplar

    rows: list[Any] = []
    count = 0
    for place, bound in enumerate(_BOUNDS):
        count += histogram.counts[place]
        exemplar = histogram.exemplars.get(place)
        if exemplar is None:
            rows.append((bound, count))
        else:
            rows.append((bound, count, Exemplar(exemplar.labels, exemplar.seconds, exemplar.at)))
    return rows


def collector(cache: Cache) -> CacheCollector:
    """Return a collector of a cache's figures, for `prometheus_client.REGISTRY.register`.

    With `monitor.directory` set they are those of all processes that share it.
    """
    return CacheCollector(cache.observer.figures, {"cache": cache.settings.namespace or ""})


def exposed(snapshot: Snapshot, *, openmetrics: bool = False, namespaced: bool = True) -> bytes:
    """Return a snapshot as text.

    Args:
        snapshot: the figures.
        openmetrics: whether in the format of OpenMetrics, which has exemplars.
        namespaced: whether each sample says of which namespace it is.
    """
    names = {"cache": str(snapshot.facts.get("namespace", ""))} if namespaced else {}
    return rendered(snapshot, names, openmetrics=openmetrics)


def wants_openmetrics(accept: str) -> bool:
    """Return whether an `Accept` header asks for OpenMetrics."""
    return any(part.split(";")[0].strip() == "application/openmetrics-text" for part in accept.split(","))
