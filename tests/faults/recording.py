"""What a process records of its calls: counts, durations and every stale read, apart for each phase of a scenario."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import Any

STEP = 1.1
"""The ratio between two neighbouring classes of durations."""

LATE = 50_000_000
"""Nanoseconds after which a read counts as stale: what comes earlier is the way of the signal."""


class Phase:
    """The calls of one phase."""

    def __init__(self) -> None:
        self.reads = self.writes = self.strong = self.loads = self.pending = self.held = 0
        self.longest = self.longest_write = 0
        self.errors: Counter[str] = Counter()
        self.durations: Counter[int] = Counter()

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in vars(self).items() if isinstance(value, int)},
            "errors": dict(self.errors),
            "durations": dict(self.durations),
        }


class Recording:
    """The calls of one process; its threads share it."""

    def __init__(self) -> None:
        self.phases: dict[int, Phase] = {}
        self.stale: list[tuple[int, int, int, bool]] = []
        """(when the call began, age, key, whether it was strong) of each read that was older than announced."""
        self.own = 0
        """Reads that were older than what this process itself had invalidated before."""
        self.wrong = 0
        """Reads that returned the value of another key."""
        self.events: list[tuple[int, str]] = []
        self.delayed: list[tuple[int, int, list[str]]] = []
        """(when it began, how long it was pending, what it named) of each invalidation that was not taken at once."""
        self._lock = threading.Lock()

    def phase(self, number: int) -> Phase:
        with self._lock:
            return self.phases.setdefault(number, Phase())

    def read(self, number: int, duration: int, *, strong: bool) -> None:
        phase = self.phase(number)
        with self._lock:
            phase.reads += 1
            phase.strong += strong
            phase.longest = max(phase.longest, duration)
            phase.held += duration < 10_000_000
            phase.durations[int(math.log(max(duration, 1), STEP))] += 1

    def wrote(self, number: int, duration: int, *, pending: bool) -> None:
        phase = self.phase(number)
        with self._lock:
            phase.writes += 1
            phase.pending += pending
            phase.longest_write = max(phase.longest_write, duration)

    def loaded(self, number: int) -> None:
        phase = self.phase(number)
        with self._lock:
            phase.loads += 1

    def failed(self, number: int, error: BaseException) -> None:
        phase = self.phase(number)
        with self._lock:
            phase.errors[f"{type(error).__name__}: {error}"[:160]] += 1

    def older(self, began: int, age: int, key: int, *, strong: bool, own: bool) -> None:
        with self._lock:
            self.own += own
            if age > 0:
                self.stale.append((began, age, key, strong))

    def as_dict(self) -> dict[str, Any]:
        with self._lock:
            return {
                "phases": {number: phase.as_dict() for number, phase in self.phases.items()},
                "stale": self.stale,
                "own": self.own,
                "wrong": self.wrong,
                "events": self.events,
                "delayed": self.delayed,
            }


class Totals:
    """What the processes of a scenario recorded, together; `phases` restricts it to some of them."""

    def __init__(self, reports: list[dict[str, Any]], phases: set[int] | None = None) -> None:
        self._parts = [
            part
            for report in reports
            for number, part in report["phases"].items()
            if phases is None or int(number) in phases
        ]
        self.reports = reports

    def sum(self, name: str) -> int:
        return sum(part[name] for part in self._parts)

    def most(self, name: str) -> int:
        return max((part[name] for part in self._parts), default=0)

    @property
    def errors(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for part in self._parts:
            found.update(part["errors"])
        return found

    def percentile(self, share: float) -> float:
        """Return a duration of reads, seconds, to within ten percent."""
        counted: Counter[int] = Counter()
        for part in self._parts:
            counted.update({int(number): count for number, count in part["durations"].items()})
        wanted = share * sum(counted.values())
        for number in sorted(counted):
            wanted -= counted[number]
            if wanted <= 0:
                return STEP ** (number + 1) / 1e9
        return 0.0

    def stale(self, *, since: int = 0, until: int = 1 << 62, strong: bool | None = None) -> list[tuple[int, int]]:
        """Return (began, age) in ns of the stale reads that began within a span."""
        return [
            (began, age)
            for report in self.reports
            for began, age, _, was_strong in report["stale"]
            if since <= began < until and strong in (None, was_strong)
        ]

    def events(self, *names: str, since: int = 0) -> list[int]:
        return sorted(at for report in self.reports for at, name in report["events"] if name in names and at >= since)
