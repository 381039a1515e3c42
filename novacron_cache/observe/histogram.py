"""A latency histogram of plain integers, cheap enough for every operation that waits for something.

It is written without a lock: an increment of a list's element is not interrupted by the interpreter, and a count that a
free-threaded build may lose is worth less than a lock in every operation of every thread.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""The upper bounds of the buckets, in seconds; one more bucket takes what is longer."""


class Exemplar(NamedTuple):
    """One observation that stands for its bucket: labels such as a trace id, its seconds, and when it was made."""

    labels: dict[str, str]
    seconds: float
    at: float


ExemplarSource = Callable[[], Mapping[str, str] | None]


class Histogram:
    """Counts durations by bucket.

    Attributes:
        counts: observations by bucket, one more than there are bounds.
        total: seconds in all.
        exemplars: the latest exemplar of each bucket that has one.
    """

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self, counts: list[int] | None = None, total: float = 0.0) -> None:
        self.counts = [0] * (len(BOUNDS) + 1) if counts is None else counts
        self.total = total
        self.exemplars: dict[int, Exemplar] = {}

    def add(self, seconds: float, source: ExemplarSource | None = None, times: int = 1) -> None:
        """Count a duration, or several that are the same; `source` names what stands behind it."""
        bucket = bisect_left(BOUNDS, seconds)
        self.counts[bucket] += times
        self.total += seconds * times
        if source is not None and (labels := source()):
            self.exemplars[bucket] = Exemplar(dict(labels), seconds, time.time())

    @property
    def count(self) -> int:
        """Observations in all."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean seconds; 0.0 without observations."""
        count = self.count
        return self.total / count if count else 0.0

    def quantile(self, share: float) -> float:
        """Return the seconds that a share of the observations did not exceed, interpolated within its bucket.

        Above the last bound nothing is known but that; 0.0 without observations.
        """
        wanted, seen, lower = share * self.count, 0, 0.0
        if not wanted:
            return 0.0
        for count, upper in zip(self.counts, BOUNDS, strict=False):
            if count and seen + count >= wanted:
                return lower + (upper - lower) * (wanted - seen) / count
            seen += count
            lower = upper
        return BOUNDS[-1]

    def plus(self, other: Histogram) -> Histogram:
        """Return the sum of two; exemplars are of one process and are left out."""
        return Histogram([a + b for a, b in zip(self.counts, other.counts, strict=True)], self.total + other.total)

    def minus(self, earlier: Histogram) -> Histogram:
        """Return what was counted since an earlier state of the same histogram."""
        counts = [max(0, a - b) for a, b in zip(self.counts, earlier.counts, strict=True)]
        rest = Histogram(counts, max(0.0, self.total - earlier.total))
        rest.exemplars = dict(self.exemplars)
        return rest

    def copy(self) -> Histogram:
        """Return the state of this moment."""
        copied = Histogram(list(self.counts), self.total)
        copied.exemplars = dict(self.exemplars)
        return copied
