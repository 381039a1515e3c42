"""The figures for people and programs: one JSON document, whose shape is part of the contract."""

from __future__ import annotations

from typing import Any, Final

from .histogram import Histogram
from .recording import CONNECTION_ERRORS
from .snapshot import Snapshot

_COUNTS: Final = ("joined", "loads", "load_errors", "stale_served", "lease_waits", "evictions")
"""Families that have the model as their only label, and whose names are those of the document."""

_SIZES: Final = tuple(
    name + limit for name in ("items", "bytes", "disk_bytes", "server_bytes") for limit in ("", "_limit")
)
"""Gauges of tiers whose names are those of the document."""


def calls(snapshot: Snapshot) -> float:
    """Return how many calls were made: hits, misses and joined ones."""
    return snapshot.total("hits") + snapshot.total("misses") + snapshot.total("joined")


def hit_rate(snapshot: Snapshot) -> float:
    """Return the share of calls that a tier answered, from 0 to 1; 0.0 before the first call."""
    made = calls(snapshot)
    return snapshot.total("hits") / made if made else 0.0


def attempts(snapshot: Snapshot) -> float:
    """Return how many operations of tiers, and loads, were attempted."""
    return snapshot.histogram("tier_seconds").count + snapshot.total("loads") + snapshot.total("load_errors")


def errors(snapshot: Snapshot) -> float:
    """Return how many of them failed."""
    return snapshot.total("tier_errors") + snapshot.total("load_errors")


def error_rate(snapshot: Snapshot) -> float:
    """Return the share of operations of tiers, and of loads, that failed; 0.0 before the first."""
    made = attempts(snapshot)
    return min(1.0, errors(snapshot) / made) if made else 0.0


def connection_failures(snapshot: Snapshot) -> float:
    """Return how often a shared tier could not be reached."""
    return sum(snapshot.total("tier_errors", error=kind) for kind in sorted(CONNECTION_ERRORS))


def memory_use(snapshot: Snapshot) -> float | None:
    """Return the share of its memory that the fullest server uses, from 0 to 1; None where none has a bound."""
    limits = snapshot.values.get("server_bytes_limit", {})
    used = snapshot.values.get("server_bytes", {})
    return max((used.get(key, 0.0) / limit for key, limit in limits.items() if limit), default=None)


def summarised(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as plain data for JSON; rates are shares from 0 to 1, times are seconds."""
    tiers = dict.fromkeys([*_tiers(snapshot)])
    hits = snapshot.by("hits", "tier")
    pool = snapshot.values.get("pool_connections", {})
    return {
        "at": snapshot.at,
        "namespace": snapshot.facts.get("namespace", ""),
        "processes": int(snapshot.total("processes")),
        "basic": {
            "hit_rate": hit_rate(snapshot),
            "calls": int(calls(snapshot)),
            "hits": int(snapshot.total("hits")),
            "misses": int(snapshot.total("misses")),
            "joined": int(snapshot.total("joined")),
            "loads": int(snapshot.total("loads")),
            "load_errors": int(snapshot.total("load_errors")),
            "stale_served": int(snapshot.total("stale_served")),
            "lease_waits": int(snapshot.total("lease_waits")),
            "evictions": int(snapshot.total("evictions")),
            "error_rate": error_rate(snapshot),
            "miss_reasons": _whole(snapshot.by("misses", "reason")),
        },
        "response_times": {
            tier: _times(snapshot.histogram("response_seconds", tier=tier))
            for (tier,) in snapshot.histograms.get("response_seconds", {})
        },
        "tiers": {
            tier: {
                "hits": int(hits.get(tier, 0)),
                "hit_share": hits.get(tier, 0) / calls(snapshot) if calls(snapshot) else 0.0,
                "operations": {
                    operation: _times(histogram)
                    for (known, operation), histogram in snapshot.histograms.get("tier_seconds", {}).items()
                    if known == tier
                },
                "errors": {
                    error: int(count)
                    for (known, error), count in snapshot.values.get("tier_errors", {}).items()
                    if known == tier
                },
                **{
                    name: int(snapshot.values[name][tier,])
                    for name in _SIZES
                    if (tier,) in snapshot.values.get(name, {})
                },
                "breaker_open": int(snapshot.total("breaker_open", tier=tier)),
                "connections": {state: int(count) for (known, state), count in pool.items() if known == tier},
            }
            for tier in tiers
        },
        "models": _by_model(snapshot),
        "coherence": {
            "invalidations": _whole(snapshot.by("invalidations", "kind")),
            "delayed": int(snapshot.total("invalidations_delayed")),
            "pending": int(snapshot.total("pending_invalidations")),
            "pending_seconds": snapshot.total("pending_seconds"),
            "link_up": int(snapshot.total("link_up")),
            "link_losses": int(snapshot.total("link_losses")),
            "generation_changes": int(snapshot.total("generation_changes")),
            "failovers": int(snapshot.total("failovers")),
            "audited": int(snapshot.total("audited")),
            "audited_stale": int(snapshot.total("audited_stale")),
            "staleness_seconds": max(snapshot.values.get("staleness_seconds", {}).values(), default=0.0),
        },
        "errors": {
            "tiers": _whole(snapshot.by("tier_errors", "error")),
            "loads": _whole(snapshot.by("load_error_types", "error")),
            "corrupt": _whole(snapshot.by("corrupt", "reason")),
            "security": _whole(snapshot.by("security_events", "kind")),
            "connection_failures": int(connection_failures(snapshot)),
        },
        "operations": _operations(snapshot),
    }


def _by_model(snapshot: Snapshot) -> dict[str, Any]:
    """Return the figures of each model, in one pass over those of all."""
    found: dict[str, Any] = {}

    def of(model: str) -> Any:
        known = found.get(model)
        if known is None:
            known = found[model] = {"hit_rate": 0.0, "calls": 0, "hits": {}, "misses": {}, **dict.fromkeys(_COUNTS, 0)}
            known["load_times"] = _times(snapshot.histograms.get("load_seconds", {}).get((model,), Histogram()))
        return known

    for (tier, model), hits in snapshot.values.get("hits", {}).items():
        of(model)["hits"][tier] = int(hits)
    for (model, reason), misses in snapshot.values.get("misses", {}).items():
        of(model)["misses"][reason] = int(misses)
    for family in _COUNTS:
        for (model,), count in snapshot.values.get(family, {}).items():
            of(model)[family] = int(count)
    for one in found.values():
        answered = sum(one["hits"].values())
        one["calls"] = answered + sum(one["misses"].values()) + one["joined"]
        one["hit_rate"] = answered / one["calls"] if one["calls"] else 0.0
    return dict(sorted(found.items()))


def _times(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "mean": histogram.mean,
        "p50": histogram.quantile(0.5),
        "p95": histogram.quantile(0.95),
        "p99": histogram.quantile(0.99),
    }


def _operations(snapshot: Snapshot) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (name, pattern), histogram in snapshot.histograms.get("operation_seconds", {}).items():
        outcomes = {
            outcome: int(snapshot.total("operations", operation=name, pattern=pattern, outcome=outcome))
            for outcome in ("success", "failure")
        }
        found.setdefault(name, {})[pattern] = {**outcomes, **_times(histogram)}
    return found


def _whole(figures: dict[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in sorted(figures.items())}


def _tiers(snapshot: Snapshot) -> list[str]:
    return [
        *(tier for (tier,) in snapshot.values.get("items", {})),
        *(tier for (tier,) in snapshot.values.get("breaker_open", {})),
        *(tier for tier, _ in snapshot.values.get("hits", {})),
    ]
