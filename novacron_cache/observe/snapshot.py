"""What a process has counted, as one value: it can be added to others, subtracted from a later one, and sent.

Everything that shows figures starts from here: the Prometheus exposition, the JSON, alerts, and the sums over the
processes of a fleet. `FAMILIES` says what there is, once; a figure that is not in it does not exist.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from .histogram import BOUNDS, Histogram

Labels: TypeAlias = tuple[str, ...]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

PREFIX: Final = "novacron_cache_"
"""What the names of all metrics begin with."""

MAX_BYTES: Final = 8 * 2**20
"""A snapshot that is longer than this when unpacked is not one of ours."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        kind: what it is to Prometheus.
        help: what it says, in one line.
        labels: the names of its labels.
        merge: how a gauge of several processes becomes one figure; counters and histograms are added up.
    """

    kind: Kind
    help: str
    labels: Labels = ()
    merge: Literal["sum", "max", "min"] = "sum"


FAMILIES: Final[dict[str, Family]] = {
    # -- calls
    "hits": Family("counter", "Calls that a tier answered.", ("tier", "model")),
    "misses": Family("counter", "Calls that no tier could answer, by reason.", ("model", "reason")),
    "joined": Family("counter", "Calls that waited for another call's load.", ("model",)),
    "loads": Family("counter", "Loaders that ran to their end.", ("model",)),
    "load_errors": Family("counter", "Loaders that raised.", ("model",)),
    "load_error_types": Family("counter", "Loaders that raised, by the type of the error.", ("error",)),
    "load_seconds": Family("histogram", "Time in loaders.", ("model",)),
    "stale_served": Family("counter", "Values in their grace period that stood in for a failing loader.", ("model",)),
    "stale_overdue": Family(
        "counter", "Values in their grace period that answered for a load that took long.", ("model",)
    ),
    "loads_queued": Family("counter", "Loads that waited for a slot of their function.", ("model",)),
    "shadow_hits": Family("counter", "Calls in shadow mode that a tier would have answered.", ("tier", "model")),
    "shadow_misses": Family("counter", "Calls in shadow mode that no tier would have answered.", ("model",)),
    "shadow_mismatches": Family(
        "counter", "Answers of shadow mode that differed from the loader's, by verdict.", ("model", "verdict")
    ),
    "not_stored": Family("counter", "Loaded values that were not kept, by reason.", ("reason",)),
    "lease_waits": Family("counter", "Calls that waited for a load of another process.", ("model",)),
    "response_seconds": Family(
        "histogram", "Time to an answer from a tier, or from a loader; of memory a sample.", ("tier",)
    ),
    # -- tiers
    "tier_seconds": Family("histogram", "Time of one operation of a tier.", ("tier", "operation")),
    "tier_errors": Family("counter", "Operations of a tier that failed, by type.", ("tier", "error")),
    "tier_downs": Family("counter", "How often a tier's breaker opened.", ("tier",)),
    "breaker_open": Family("gauge", "Whether a tier's breaker is open; of a fleet, in how many processes.", ("tier",)),
    "corrupt": Family("counter", "Stored payloads that could not be read, by reason.", ("tier", "reason")),
    "items": Family("gauge", "Entries in process memory.", ("tier",)),
    "items_limit": Family("gauge", "How many entries process memory may hold.", ("tier",)),
    "bytes": Family("gauge", "Bytes that a tier holds, where it is known.", ("tier",), "sum"),
    "bytes_limit": Family("gauge", "Bytes that a tier may hold, where it is bounded.", ("tier",), "sum"),
    "server_bytes": Family("gauge", "Memory that the server of a shared tier uses.", ("tier",), "max"),
    "server_bytes_limit": Family("gauge", "Memory that it may use; absent where it is unlimited.", ("tier",), "max"),
    "disk_bytes": Family(
        "gauge", "Bytes that a tier on disk takes; of several directories the largest.", ("tier",), "max"
    ),
    "disk_bytes_limit": Family("gauge", "Bytes that it may take; beyond it what ends first goes.", ("tier",), "max"),
    "evictions": Family("counter", "Entries that process memory gave up to stay within its bounds.", ("model",)),
    "pool_connections": Family("gauge", "Connections of a tier's pools, by state.", ("tier", "state")),
    "pool_limit": Family("gauge", "How many connections a tier's blocking pool may have.", ("tier",)),
    # -- coherence
    "invalidations": Family("counter", "Invalidations of this process, by what they named.", ("kind",)),
    "invalidations_delayed": Family("counter", "Invalidations that did not reach the shared tier at once."),
    "pending_invalidations": Family("gauge", "Invalidations that have not reached the shared tier yet."),
    "pending_seconds": Family("gauge", "For how long something has been pending.", (), "max"),
    "rule_log_full": Family("counter", "Patterns that were refused because the shared log was full."),
    "link_up": Family("gauge", "Whether invalidations of other processes arrive at once; of a fleet, where."),
    "link_losses": Family("counter", "How often the link was lost."),
    "generation_changes": Family("counter", "Servers that turned out to have begun another history."),
    "failovers": Family("counter", "Masters that were replaced.", ("tier",)),
    "audited": Family("counter", "Values that audits compared with their source.", ("model",)),
    "audited_stale": Family("counter", "Stale values that audits found.", ("model",)),
    "staleness_seconds": Family("gauge", "The longest that an audit saw a stale value served.", ("model",), "max"),
    # -- everything else
    "security_events": Family(
        "counter", "Forged and planted payloads, refused logins, missing permissions.", ("kind",)
    ),
    "operations": Family("counter", "Operations that the application recorded.", ("operation", "pattern", "outcome")),
    "operation_seconds": Family("histogram", "Time of operations that it recorded.", ("operation", "pattern")),
    "processes": Family("gauge", "Processes that these figures are of."),
}


@dataclass(slots=True)
class Snapshot:
    """The figures of one process, or of several.

    Attributes:
        process: which one; empty for a sum.
        at: epoch seconds.
        values: counters and gauges by family and labels.
        histograms: histograms by family and labels.
        facts: what is no figure: the namespace, the version, the health.
    """

    process: str = ""
    at: float = 0.0
    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, Histogram]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, family: str, value: float, *labels: str) -> None:
        """Add to a figure."""
        values = self.values.setdefault(family, {})
        values[labels] = values.get(labels, 0.0) + value

    def total(self, family: str, **labels: str) -> float:
        """Return the sum of a family's figures that have these labels; 0.0 where there is none."""
        return float(sum(value for _, value in self._chosen(self.values.get(family, {}), family, labels)))

    def histogram(self, family: str, **labels: str) -> Histogram:
        """Return the sum of a family's histograms that have these labels."""
        found = Histogram()
        for _, one in self._chosen(self.histograms.get(family, {}), family, labels):
            found = found.plus(one)
        return found

    def by(self, family: str, label: str) -> dict[str, float]:
        """Return a family's figures, added up by one label."""
        place = FAMILIES[family].labels.index(label)
        found: dict[str, float] = {}
        for labels, value in self.values.get(family, {}).items():
            found[labels[place]] = found.get(labels[place], 0.0) + value
        return found

    def _chosen(self, figures: dict[Labels, Any], family: str, labels: dict[str, str]) -> Iterable[tuple[Labels, Any]]:
        names = FAMILIES[family].labels
        places = [(names.index(name), value) for name, value in labels.items()]
        return ((key, figure) for key, figure in figures.items() if all(key[i] == value for i, value in places))

    def minus(self, earlier: Snapshot) -> Snapshot:
        """Return what was counted since an earlier snapshot of the same process; gauges are those of this one."""
        rest = Snapshot(self.process, self.at, facts=self.facts)
        for family, values in self.values.items():
            before = earlier.values.get(family, {}) if FAMILIES[family].kind == "counter" else {}
            rest.values[family] = {key: max(0.0, value - before.get(key, 0.0)) for key, value in values.items()}
        for family, histograms in self.histograms.items():
            old = earlier.histograms.get(family, {})
            rest.histograms[family] = {
                key: one.minus(old[key]) if key in old else one.copy() for key, one in histograms.items()
            }
        return rest

    def counters_only(self) -> Snapshot:
        """Return it without gauges, as of a process that has ended."""
        values = {family: dict(v) for family, v in self.values.items() if FAMILIES[family].kind == "counter"}
        return Snapshot(self.process, self.at, values, dict(self.histograms), {"ended": True})

    # -- on the wire --------------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Return it as compressed JSON, without exemplars."""
        plain = {
            "v": 1,
            "process": self.process,
            "at": self.at,
            "bounds": len(BOUNDS),
            "values": {family: [[*key, value] for key, value in v.items()] for family, v in self.values.items() if v},
            "histograms": {
                family: [[*key, one.counts, one.total] for key, one in h.items()]
                for family, h in self.histograms.items()
                if h
            },
            "facts": self.facts,
        }
        return zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 1)

    @classmethod
    def decode(cls, data: bytes) -> Snapshot | None:
        """Return the snapshot that was encoded, or None for anything else, one of another version included."""
        try:
            unpacker = zlib.decompressobj()
            plain = json.loads(unpacker.decompress(data, MAX_BYTES))
            if plain["v"] != 1 or plain["bounds"] != len(BOUNDS):
                return None
            snapshot = cls(str(plain["process"]), float(plain["at"]), facts=dict(plain["facts"]))
            for family, rows in plain["values"].items():
                if family in FAMILIES:
                    width = len(FAMILIES[family].labels)
                    snapshot.values[family] = {tuple(map(str, row[:width])): float(row[width]) for row in rows}
            for family, rows in plain["histograms"].items():
                if family in FAMILIES:
                    width = len(FAMILIES[family].labels)
                    snapshot.histograms[family] = {
                        tuple(map(str, row[:width])): Histogram(_counts(row[width]), float(row[width + 1]))
                        for row in rows
                    }
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, zlib.error, RecursionError):
            return None
        return snapshot


def _counts(row: Any) -> list[int]:
    counts = [int(count) for count in row]
    if len(counts) != len(BOUNDS) + 1:
        raise ValueError("another number of buckets")
    return counts


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the figures of several processes as one."""
    result = Snapshot()
    for one in snapshots:
        result.at = max(result.at, one.at)
        result.facts = result.facts or one.facts
        for family, values in one.values.items():
            known = FAMILIES[family]
            into = result.values.setdefault(family, {})
            for key, value in values.items():
                if key not in into:
                    into[key] = value
                elif known.kind == "gauge" and known.merge != "sum":
                    into[key] = max(into[key], value) if known.merge == "max" else min(into[key], value)
                else:
                    into[key] += value
        for family, histograms in one.histograms.items():
            held = result.histograms.setdefault(family, {})
            for key, histogram in histograms.items():
                held[key] = held[key].plus(histogram) if key in held else histogram
    return result
