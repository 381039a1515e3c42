"""The board: looks once a second and keeps the last minutes, for however many pages are open.

Pages read `Board.now`, which is replaced as a whole and never changed, so that nobody waits for anybody. What is kept
is small: a few numbers for each second, the counters of models for some moments of the last minutes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..events import logger
from ..observe.curves import Curve, curve_of
from ..observe.happening import Happening, happenings_of
from ..observe.histogram import BOUNDS, Histogram
from ..observe.hottest import HotKey, hottest_of
from ..observe.snapshot import Snapshot
from .views import Look, View

__all__ = ["Board", "Model", "Now", "Point"]

INTERVAL: Final = 1.0
"""Seconds between two looks."""

SERIES: Final = 180
"""For how many seconds rates are shown."""

SMOOTH: Final = 5
"""Seconds over which a rate is taken; processes publish at moments of their own."""

COLUMN: Final = 5
"""Seconds of one column of the heatmap."""

COLUMNS: Final = 60
WINDOW: Final = 60
"""Seconds over which times and models are counted."""

FEED: Final = 40
"""How many happenings are shown."""

BUCKETS: Final = len(BOUNDS) + 1


@dataclass(slots=True)
class Point:
    """What had been counted at one moment."""

    at: float
    calls: float
    hits: dict[str, float]
    misses: dict[str, float]
    counts: dict[str, float]
    times: dict[str, Histogram]


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened within some seconds.

    Attributes:
        at: epoch seconds at their end.
        calls: calls a second.
        share: of the calls, by the tier that answered.
    """

    at: float
    calls: float
    share: Mapping[str, float]

    @property
    def hit_rate(self) -> float:
        """The share of the calls that a tier answered."""
        return min(1.0, sum(self.share.values()))


@dataclass(frozen=True, slots=True)
class Model:
    """One model or function, over the last minute."""

    name: str
    calls: float
    hits: Mapping[str, float]
    misses: Mapping[str, float]

    @property
    def hit_rate(self) -> float:
        """The share of the calls that a tier answered."""
        return min(1.0, sum(self.hits.values()) / self.calls) if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Now:
    """Everything a page shows.

    Attributes:
        look: what was seen last; None before the first time.
        problem: why it could not be looked, or None.
        beat: goes up with each look.
        series: rates over time, the oldest first.
        per_minute: counters by name, over the last minute.
        times: how long answers took, by who gave them, over the last minute.
        heat: for each column its epoch seconds and the answers by bucket, the oldest first.
        models: models by their calls over the last minute, the most called first.
        hottest: the keys that process memory is asked for most, the hottest first.
        happenings: the latest first.
        curve: the hit rate at other sizes, or None while nothing is known.
    """

    look: Look | None = None
    problem: str | None = None
    beat: int = 0
    series: Sequence[Rates] = ()
    per_minute: Mapping[str, float] = field(default_factory=dict)
    times: Mapping[str, Histogram] = field(default_factory=dict)
    heat: Sequence[tuple[float, Sequence[int]]] = ()
    models: Sequence[Model] = ()
    hottest: Sequence[HotKey] = ()
    happenings: Sequence[Happening] = ()
    curve: Curve | None = None

    @property
    def rates(self) -> Rates:
        """The rates of this moment."""
        return self.series[-1] if self.series else Rates(0.0, 0.0, {})


_COUNTED: Final = ("loads", "load_errors", "stale_served", "evictions", "invalidations", "failovers", "link_losses")


class Board:
    """Looks again and again, in a thread of its own, until it is closed.

    Args:
        view: what is looked at.
        interval: seconds between two looks.

    Attributes:
        now: what is to be seen now.
    """

    def __init__(self, view: View, *, interval: float = INTERVAL) -> None:
        self.now = Now()
        self._view = view
        self._interval = interval
        self._points: deque[Point] = deque(maxlen=WINDOW + 2)
        self._series: deque[Rates] = deque(maxlen=SERIES)
        self._heat: deque[tuple[float, Sequence[int]]] = deque(maxlen=COLUMNS)
        self._column: Point | None = None
        self._models: deque[tuple[float, dict[str, Any]]] = deque(maxlen=8)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="novacron_cache dashboard board", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and wait for it unless it is this one."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)
        self._view.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            self.tick()
            due = max(due + self._interval, time.monotonic())
            self._stopped.wait(due - time.monotonic())

    def tick(self) -> None:
        """Look once."""
        try:
            look = self._view.look()
            self.now = self._seen(look)
        except Exception as error:
            logger.debug("the dashboard could not look", exc_info=True)
            before = self.now
            self.now = Now(
                before.look, f"{type(error).__name__}: {error}", before.beat + 1, before.series, before.per_minute,
                before.times, before.heat, before.models, before.hottest, before.happenings, before.curve,
            )  # fmt: skip

    def _seen(self, look: Look) -> Now:
        point = _point(look)
        self._points.append(point)
        points = self._points
        self._series.append(_rates(points[max(0, len(points) - 1 - SMOOTH)], point))
        first = points[0]
        if self._column is None:
            self._column = point
        elif point.at - self._column.at >= COLUMN * self._interval:
            self._heat.append((point.at, _answers(self._column, point)))
            self._column = point
        return Now(
            look,
            None,
            self.now.beat + 1,
            tuple(self._series),
            _per_minute(first, point),
            {tier: one.minus(first.times[tier]) if tier in first.times else one for tier, one in point.times.items()},
            tuple(self._heat),
            self._modelled(look),
            hottest_of(look.processes)[:12],
            happenings_of(look.processes)[:FEED],
            curve_of(look.processes),
        )

    def _modelled(self, look: Look) -> list[Model]:
        kept, total = self._models, look.total
        figures = {family: dict(total.values.get(family, {})) for family in ("hits", "misses", "joined")}
        if not kept or look.at - kept[-1][0] >= WINDOW / 6:
            kept.append((look.at, figures))
        within = [one for at, one in kept if look.at - at <= WINDOW] or [kept[-1][1]]
        before = within[0]
        hits: dict[str, dict[str, float]] = {}
        misses: dict[str, dict[str, float]] = {}
        calls: dict[str, float] = {}
        for (tier, model), count in figures["hits"].items():
            since = max(0.0, count - before["hits"].get((tier, model), 0.0))
            hits.setdefault(model, {})[tier] = since
            calls[model] = calls.get(model, 0.0) + since
        for (model, reason), count in figures["misses"].items():
            since = max(0.0, count - before["misses"].get((model, reason), 0.0))
            if since:
                misses.setdefault(model, {})[reason] = since
            calls[model] = calls.get(model, 0.0) + since
        for (model,), count in figures["joined"].items():
            calls[model] = calls.get(model, 0.0) + max(0.0, count - before["joined"].get((model,), 0.0))
        found = [Model(name, made, hits.get(name, {}), misses.get(name, {})) for name, made in calls.items()]
        return sorted(found, key=lambda one: (-one.calls, one.name))


def _point(look: Look) -> Point:
    total = look.total
    hits = total.by("hits", "tier")
    return Point(
        look.at,
        sum(hits.values()) + total.total("misses") + total.total("joined"),
        hits,
        total.by("misses", "reason"),
        {name: total.total(name) for name in _COUNTED},
        {tier: one.copy() for (tier,), one in total.histograms.get("response_seconds", {}).items()},
    )


def _rates(earlier: Point, point: Point) -> Rates:
    calls = max(0.0, point.calls - earlier.calls)
    share = {tier: max(0.0, count - earlier.hits.get(tier, 0.0)) for tier, count in point.hits.items()}
    seconds = max(point.at - earlier.at, 0.1)
    return Rates(point.at, calls / seconds, {tier: count / calls if calls else 0.0 for tier, count in share.items()})


def _answers(earlier: Point, point: Point) -> list[int]:
    counts = [0] * BUCKETS
    for tier, one in point.times.items():
        since = one.minus(earlier.times[tier]) if tier in earlier.times else one
        counts = [a + b for a, b in zip(counts, since.counts, strict=True)]
    return counts


def _per_minute(first: Point, point: Point) -> dict[str, float]:
    seconds = max(point.at - first.at, INTERVAL)
    since = {name: max(0.0, count - first.counts[name]) * 60.0 / seconds for name, count in point.counts.items()}
    for reason, count in point.misses.items():
        since[f"misses {reason}"] = max(0.0, count - first.misses.get(reason, 0.0)) * 60.0 / seconds
    return since


def gauge(snapshot: Snapshot, family: str) -> dict[str, float]:
    """Return a gauge by its only label."""
    return {labels[0]: value for labels, value in snapshot.values.get(family, {}).items() if labels}
