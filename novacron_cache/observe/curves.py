"""The curve that what-if figures make: the hit rate of process memory by its size, of one process or of several."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .whatif import FACT, SIZES

if TYPE_CHECKING:
    from .snapshot import Snapshot

__all__ = ["Curve", "curve_of"]

WANTED: Final = 0.95
"""The hit rate for which a size is looked for."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The hit rate of process memory by its size.

    Attributes:
        points: (multiple of the present size, entries of one process, hit rate), the smallest first.
        measured: the hit rate there is.
        items: how many entries one process holds at present.
        max_bytes: how many bytes it may hold; None is no bound.
        policy: the eviction policy.
        calls: how many calls it is made of; early ones count less.
        seconds: for how long it has been measured.
    """

    points: tuple[tuple[float, int, float], ...]
    measured: float
    items: int
    max_bytes: int | None
    policy: str
    calls: float
    seconds: float

    @property
    def best(self) -> float:
        """The highest hit rate of the sizes that were tried; what expires or is invalidated is beyond any size."""
        return max(rate for _, _, rate in self.points)

    def size_for(self, wanted: float = WANTED) -> int | None:
        """Return how many entries would reach a hit rate, or None where no size that was tried does."""
        before: tuple[float, float] | None = None
        for multiple, items, rate in self.points:
            if rate >= wanted:
                if before is None or rate <= before[1]:
                    return items
                share = (wanted - before[1]) / (rate - before[1])
                between = math.log(before[0]) + share * (math.log(multiple) - math.log(before[0]))
                return max(1, math.ceil(self.items * math.exp(between)))
            before = multiple, rate
        return None


def _pinned(rates: list[float], measured: float) -> list[float]:
    """Return rates that agree with the one that is known exactly.

    By what the sample is wrong about the present size, for having too many or too few keys of the middle ranks, it is
    wrong about smaller ones too; of larger ones, the less the nearer they come to holding everything.
    """
    present = rates[SIZES.index(1.0)]
    rest = rates[-1] - present
    shift = measured - present
    shares = [1.0 if rate <= present or rest <= 0 else (rates[-1] - rate) / rest for rate in rates]
    return [min(1.0, max(0.0, rate + shift * share)) for rate, share in zip(rates, shares, strict=True)]


def curve_of(snapshots: Iterable[Snapshot]) -> Curve | None:
    """Return the curve of several processes together, each with its own size; nonsense is left out."""
    calls = hits = seconds = 0.0
    misses = [0.0] * len(SIZES)
    largest: tuple[float, int, int | None, str] | None = None
    for one in snapshots:
        try:
            fact = one.facts[FACT]
            told = [float(count) for count in fact["misses"]]
            made, answered, lasted = float(fact["calls"]), float(fact["hits"]), float(fact["seconds"])
            limit = None if fact["bytes"] is None else int(fact["bytes"])
            known = (made, int(fact["items"]), limit, str(fact["policy"]))
        except (KeyError, TypeError, ValueError):
            continue
        if len(told) != len(SIZES) or not all(map(math.isfinite, (*told, made, answered, lasted))):
            continue
        calls, hits, seconds = calls + made, hits + answered, max(seconds, lasted)
        misses = [a + b for a, b in zip(misses, told, strict=True)]
        if largest is None or known[0] > largest[0]:
            largest = known
    if largest is None or calls <= 0:
        return None
    rates = _pinned([1.0 - count / calls for count in misses], hits / calls)
    # A larger memory is not worse but by chance, or by a few steps of a policy.
    for place in range(1, len(rates)):
        rates[place] = max(rates[place], rates[place - 1])
    _, items, max_bytes, policy = largest
    points = tuple((size, max(1, round(items * size)), rate) for size, rate in zip(SIZES, rates, strict=True))
    return Curve(points, min(1.0, hits / calls), items, max_bytes, policy, calls, seconds)
