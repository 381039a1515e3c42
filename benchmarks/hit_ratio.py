"""Which share of requests finds its value, by policy, and how close that comes to the best there is.

The best is Belady's: let that leave which is wanted again last. It needs to know the future, so it is a bound and not a
policy. What is measured for novacron_cache is the policy in use, not a model of it, and the same for the peers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from measuring import OURS, Area, Case, Effort, Figure, Row
from workloads import Workload, made, recorded

from novacron_cache.entry import Entry
from novacron_cache.tiers.policies import Policy, make_policy

BEST = "Belady, who knows the future"
LRU = "lru"
_NONES = [None] * 5_000_000
"""References to None: theine gives back more of them than it takes, and before Python 3.12 that can run out."""
Simulate = Callable[[Sequence[int], int], int]


def belady(requests: Sequence[int], size: int) -> int:
    """Return how many requests would be hits if that left which is wanted again last."""
    never = len(requests)
    following = [never] * len(requests)
    seen: dict[int, int] = {}
    for at in range(len(requests) - 1, -1, -1):
        following[at] = seen.get(requests[at], never)
        seen[requests[at]] = at
    held: dict[int, int] = {}
    latest: list[tuple[int, int]] = []
    hits = 0
    for key, wanted in zip(requests, following, strict=True):
        if key in held:
            hits += 1
        elif wanted == never:
            continue  # it would leave at once
        elif len(held) >= size:
            while True:
                when, out = heapq.heappop(latest)
                if held.get(out) == -when:
                    break
            if -when < wanted:
                heapq.heappush(latest, (when, out))
                continue
            del held[out]
        held[key] = wanted
        heapq.heappush(latest, (-wanted, key))
    return hits


def by_policy(policy: str) -> Simulate:
    """Return a simulation with one of our policies."""

    def simulate(requests: Sequence[int], size: int) -> int:
        chosen: Policy = make_policy(policy, size)
        table, lockfree, hits = chosen.table, chosen.lockfree, 0
        for key in map(str, requests):
            entry = table.get(key) if lockfree else chosen.get(key)
            if entry is not None:
                entry.hits += 1
                hits += 1
            else:
                chosen.add(Entry(key, None, expires=1e9))
        return hits

    return simulate


def by_cachebox(requests: Sequence[int], size: int) -> int:
    """Return the hits of cachebox's cache with a ttl."""
    import cachebox

    held: Any = cachebox.TTLCache(size, 1e6)
    hits = 0
    for key in requests:
        if held.get(key) is not None:
            hits += 1
        else:
            held[key] = key + 1
    return hits


def by_theine(requests: Sequence[int], size: int) -> int:
    """Return the hits of theine."""
    import theine

    held: Any = theine.Cache(size)
    hits = 0
    for key in requests:
        _, found = held.get(key)
        if found:
            hits += 1
        else:
            held.set(key, key)
    return hits


def by_cachetools(requests: Sequence[int], size: int) -> int:
    """Return the hits of the cache of cachetools that has a ttl."""
    import cachetools

    held: cachetools.TTLCache[int, int] = cachetools.TTLCache(size, 1e6)
    hits = 0
    for key in requests:
        if held.get(key) is not None:
            hits += 1
        else:
            held[key] = key + 1
    return hits


POLICIES: dict[str, tuple[Simulate, str]] = {
    OURS: (by_policy("s3fifo"), "s3fifo, the default"),
    LRU: (by_policy("lru"), "novacron_cache with policy='lru'"),
    "LFUCache": (by_policy("LFUCache"), "novacron_cache with policy='LFUCache'"),
    "cachetools.TTLCache": (by_cachetools, "as it comes"),
    "cachebox.TTLCache": (by_cachebox, "as it comes"),
    "theine": (by_theine, "as it comes"),
}

PROMISED = {"Zipf", "services, made", "cache2k traces", "Corda traces", "Scarab traces"}
"""The families that the promise is about; the others show where a policy is weak."""

Cell = tuple[float, dict[str, float]]
"""Belady's hit ratio, and those of the policies."""


def cells(workload: Workload) -> list[Cell]:
    """Return the hit ratios on a workload, one by one for its sizes."""
    count = len(workload.requests)
    return [
        (
            belady(workload.requests, size) / count,
            {name: simulate(workload.requests, size) / count for name, (simulate, _) in POLICIES.items()},
        )
        for size in workload.sizes
    ]


def run(effort: Effort, traces: Path | None = None) -> Area:
    """Measure hit ratios.

    Args:
        effort: how long the workloads are.
        traces: a directory of recorded workloads; None takes none.
    """
    length = effort.of(200_000, 30_000, 3_000)
    workloads: Iterable[Workload] = made(length)
    families: dict[str, list[Cell]] = {}
    names: dict[str, list[str]] = {}
    for workload in workloads:
        families.setdefault(workload.family, []).extend(cells(workload))
    if traces is not None:
        for workload in recorded(traces, effort.of(400_000, 50_000, 5_000)):
            families.setdefault(workload.family, []).extend(cells(workload))
            names.setdefault(workload.family, []).append(workload.name)
    cases = []
    figures = []
    for family, found in families.items():
        best = mean(bound for bound, _ in found)
        title = f"hit ratio, {family}" + (f" ({', '.join(names[family])})" if family in names else "")
        case = Case(title, [Row(BEST, best, 1.0, note=f"mean of {len(found)} cells")], unit="share")
        shares = {name: mean(ratios[name] / bound for bound, ratios in found if bound) for name in POLICIES}
        for name, (_, note) in POLICIES.items():
            value = mean(ratios[name] for _, ratios in found)
            case.rows.append(Row(name, value, shares[name], shares[name] / shares[OURS], note))
        cases.append(case)
        promised = family in PROMISED
        figures.append(
            Figure(
                f"hit ratio / Belady, {family}", shares[OURS], 0.87 if promised else None, 0.90, at_most=False, unit=""
            )
        )
    everything = [cell for found in families.values() for cell in found]
    behind = max(ratios[LRU] - ratios[OURS] for _, ratios in everything)
    figures.append(Figure("most that LRU is ahead, of all cells", 100 * behind, 2.0, 2.0, unit=" points"))
    # The design asks for a hit rate of its own workload: keys of which a few are asked for most, all of which fit.
    zipf = next(made(length))
    fitting = by_policy("s3fifo")(zipf.requests, len(set(zipf.requests))) / len(zipf.requests)
    figures.append(Figure("hit rate where every key fits", 100 * fitting, 90.0, at_most=False, unit=" %", floor=True))
    return Area("hit_ratio", cases, figures)
