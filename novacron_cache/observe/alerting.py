"""Alerts: the rules looked at again and again, what state each is in, and who is told.

A rule that sees a problem is *pending* until the problem has lasted; then it *fires*, and goes on firing until the
figure has recovered beyond the threshold for a while; then it is *resolved*. A figure that is missing changes nothing
that fires, and lets nothing begin: no news is not good news. Sinks hear of `firing` and `resolved`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from ..durations import Duration, seconds
from ..events import logger
from .rules import RULES, Rule
from .sinks import LogSink, Sink
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ..cache import Cache

State: TypeAlias = Literal["inactive", "pending", "firing", "resolved"]

KEEP: Final = 128
"""How many earlier snapshots are kept; a window is never longer than they reach back."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule at one moment.

    Attributes:
        name: the rule's name.
        state: `inactive`, `pending`, `firing` or `resolved`.
        severity: `warning` or `critical`.
        value: the figure, or None where there is none.
        threshold: where the problem begins.
        unit: of both.
        since: epoch seconds at which the state began.
        says: what is wrong.
        does: what to look at first.
        namespace: whose figures they are.
    """

    name: str
    state: State
    severity: str
    value: float | None
    threshold: float
    unit: str
    since: float
    says: str
    does: str
    namespace: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for JSON."""
        return asdict(self)


class _Track:
    """The state of one rule, from one look to the next."""

    __slots__ = ("calm_since", "changed_at", "problem_since", "rule", "state", "value")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.state: State = "inactive"
        self.value: float | None = None
        self.changed_at = time.time()
        self.problem_since: float | None = None
        self.calm_since: float | None = None

    def look(self, value: float | None, now: float) -> bool:
        """Take in a figure; return whether there is something to tell."""
        self.value = value
        rule, firing = self.rule, self.state == "firing"
        if value is None:
            if not firing:
                self.problem_since = None
                if self.state == "pending":
                    self._become("inactive")
            return False
        if rule.is_problem(value, firing=firing):
            self.calm_since = None
            if firing:
                return False
            if self.problem_since is None:
                self.problem_since = now
            if now - self.problem_since >= rule.lasting:
                self._become("firing")
                return True
            if self.state != "pending":
                self._become("pending")
            return False
        self.problem_since = None
        if not firing:
            if self.state == "pending":
                self._become("inactive")
            return False
        if self.calm_since is None:
            self.calm_since = now
        if now - self.calm_since >= rule.calm:
            self.calm_since = None
            self._become("resolved")
            return True
        return False

    def _become(self, state: State) -> None:
        self.state, self.changed_at = state, time.time()


class Alerts:
    """Watches the figures and tells sinks.

    Use it as a context, where it looks every `interval` seconds from a thread of its own; or call `look` when you like.

    Args:
        source: a cache, or what returns the figures of now.
        rules: the rules; `dataclasses.replace` changes one.
        sinks: who is told; by default the log. They are closed with it.
        interval: seconds between two looks, or a duration such as `"15s"`.
        clock: monotonic seconds.

    Example:
        >>> from novacron_cache import Cache
        >>> from novacron_cache.observe import Alerts, CallbackSink
        >>> cache = Cache()
        >>> told = []
        >>> alerts = Alerts(cache, sinks=[CallbackSink(told.append)])
        >>> alerts.look()
        >>> {alert.state for alert in alerts.states()}
        {'inactive'}
        >>> alerts.close()
        >>> cache.close()
    """

    def __init__(
        self,
        source: Cache | Callable[[], Snapshot],
        *,
        rules: Iterable[Rule] = RULES,
        sinks: Iterable[Sink] | None = None,
        interval: Duration = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._figures: Callable[[], Snapshot] = (
            source if callable(source) else lambda: source.observer.figures(ask=True)
        )
        self._sinks = [LogSink()] if sinks is None else list(sinks)
        self._interval = seconds(interval, what="interval")
        self._clock = clock
        self._lock = threading.Lock()
        self._tracks = [_Track(rule) for rule in rules]
        self._earlier: deque[tuple[float, Snapshot]] = deque(maxlen=KEEP)
        # Thinned, so that a short interval does not shorten the windows.
        longest = max((track.rule.window for track in self._tracks), default=0.0)
        self._apart = longest / (KEEP - 2)
        self._namespace = ""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Look at the figures once, and tell sinks what changed."""
        snapshot = self._figures()
        now = self._clock()
        told: list[Alert] = []
        with self._lock:
            self._namespace = str(snapshot.facts.get("namespace", ""))
            for track in self._tracks:
                value = self._measured(track.rule, snapshot, now)
                if track.look(value, now):
                    told.append(self._alert(track))
            if not self._earlier or now - self._earlier[-1][0] >= self._apart:
                self._earlier.append((now, snapshot))
        for alert in told:
            for sink in self._sinks:
                try:
                    sink.send(alert)
                except Exception:
                    logger.exception("a sink could not be told of %s", alert.name)

    def _measured(self, rule: Rule, snapshot: Snapshot, now: float) -> float | None:
        """Return the figure of a rule over its window, or over what is known of it."""
        within = [(at, earlier) for at, earlier in self._earlier if now - at <= rule.window]
        if not within:
            # The first look: what was counted before it, nobody knows when.
            return rule.measure(snapshot.minus(snapshot), rule.window)
        at, earlier = within[0]
        # A window that has only begun counts as a whole one: two failures in a second are not 120 a minute.
        return rule.measure(snapshot.minus(earlier), max(rule.window, now - at))

    def states(self) -> list[Alert]:
        """Return each rule with its state."""
        with self._lock:
            return [self._alert(track) for track in self._tracks]

    def firing(self) -> list[Alert]:
        """Return those that fire."""
        return [alert for alert in self.states() if alert.state == "firing"]

    def _alert(self, track: _Track) -> Alert:
        rule = track.rule
        return Alert(
            rule.name, track.state, rule.severity, track.value, rule.threshold, rule.unit, track.changed_at, rule.says,
            rule.does, self._namespace,
        )  # fmt: skip

    # -- in the background --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Look again and again from a thread, until `close()`; a second call does nothing."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="novacron_cache alerts", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:
                logger.warning("the figures for alerts could not be read: %s: %s", type(error).__name__, error)
            if self._stopped.wait(self._interval):
                return

    def close(self) -> None:
        """End the thread, and close the sinks; what a webhook still has to send is given a few seconds."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for sink in self._sinks:
            sink.close()

    def __enter__(self) -> Alerts:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
