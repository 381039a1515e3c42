"""What an audit found, counted as it goes and handed out as a snapshot."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final

MAX_AGES: Final = 10_000
"""How many ages are kept for the percentiles, the newest ones."""

MAX_EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class Ages:
    """How long stale values were served, in seconds from noticing the difference until last seen served.

    Attributes:
        max: the longest.
        p50: half of them were no longer than this.
        p99: all but one in a hundred were no longer than this.
    """

    max: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class StaleExample:
    """One stale value that was found.

    Attributes:
        name: the model or function.
        key: the logical key; unless the audit shows keys, the template and a mark that tells keys of one audit apart.
        tier: the tier that served it.
        age: seconds from noticing the difference until the value was last seen served: it was stale at least so long.
        still: whether it was still served when the watch was given up.
        stored_ago: seconds since the value was stored, when the difference was noticed.
    """

    name: str
    key: str
    tier: str
    age: float
    still: bool
    stored_ago: float


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit, or one round of it, found.

    Attributes:
        checked: values that were compared with the source: `matched`, `in_flight` and `stale` together.
        matched: values that were what the source said.
        in_flight: values that differed and were no longer served within the time to settle.
        stale: values that differed for longer.
        still_stale: those of them that were still served when the watch was given up.
        hits: how many sampled hits the checked values stand for.
        stale_hits: how many sampled hits the stale ones stand for.
        unknown: values whose source could not be read, by the type of the error.
        skipped: values that were not compared, by reason.
        ages: of the stale ones; None where there are none.
        examples: the newest of the stale ones.
        by_name: the same for each model or function, without examples.
    """

    checked: int = 0
    matched: int = 0
    in_flight: int = 0
    stale: int = 0
    still_stale: int = 0
    hits: int = 0
    stale_hits: int = 0
    unknown: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    ages: Ages | None = None
    examples: tuple[StaleExample, ...] = ()
    by_name: dict[str, AuditReport] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Share of the checked hits that were answered with a stale value, from 0 to 1; 0.0 where none was checked."""
        return self.stale_hits / self.hits if self.hits else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data, for JSON."""
        names = {name: report.as_dict() for name, report in self.by_name.items()}
        for report in names.values():
            del report["examples"], report["by_name"]
        return {**asdict(self), "rate": self.rate, "by_name": names}


class _Counts:
    """Plain numbers of one name, or of all together."""

    def __init__(self) -> None:
        self.matched = self.in_flight = self.stale = self.still = self.hits = self.stale_hits = 0
        self.unknown: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.ages: deque[float] = deque(maxlen=MAX_AGES)
        self.longest = 0.0

    def add_age(self, age: float) -> None:
        self.ages.append(age)
        self.longest = max(self.longest, age)

    def report(self, examples: tuple[StaleExample, ...] = (), names: dict[str, AuditReport] | None = None) -> Any:
        return AuditReport(
            self.matched + self.in_flight + self.stale, self.matched, self.in_flight, self.stale, self.still, self.hits,
            self.stale_hits, dict(self.unknown), dict(self.skipped), self._ages(), examples, names or {},
        )  # fmt: skip

    def _ages(self) -> Ages | None:
        if not self.ages:
            return None
        ordered = sorted(self.ages)
        p50, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99))
        return Ages(self.longest, p50, p99)


class Tally:
    """Counts what is found; several threads may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all = _Counts()
        self._names: dict[str, _Counts] = {}
        self._examples: deque[StaleExample] = deque(maxlen=MAX_EXAMPLES)

    def _of(self, name: str) -> tuple[_Counts, _Counts]:
        return self._all, self._names.setdefault(name, _Counts())

    def matched(self, name: str, weight: int) -> None:
        """Count a value that was what the source said."""
        with self._lock:
            for counts in self._of(name):
                counts.matched += 1
                counts.hits += weight

    def in_flight(self, name: str, weight: int) -> None:
        """Count a value that differed for no longer than a change takes."""
        with self._lock:
            for counts in self._of(name):
                counts.in_flight += 1
                counts.hits += weight

    def stale(self, example: StaleExample, weight: int) -> None:
        """Count a stale value."""
        with self._lock:
            self._examples.append(example)
            for counts in self._of(example.name):
                counts.stale += 1
                counts.still += example.still
                counts.hits += weight
                counts.stale_hits += weight
                counts.add_age(example.age)

    def unknown(self, name: str, error: BaseException) -> None:
        """Count a value whose source could not be read."""
        with self._lock:
            for counts in self._of(name):
                counts.unknown[type(error).__name__] += 1

    def skipped(self, name: str, reason: str) -> None:
        """Count a value that was not compared."""
        with self._lock:
            for counts in self._of(name):
                counts.skipped[reason] += 1

    def report(self) -> AuditReport:
        """Return the figures so far."""
        with self._lock:
            names = {name: counts.report() for name, counts in sorted(self._names.items())}
            report: AuditReport = self._all.report(tuple(self._examples), names)
            return report
