"""What the Grafana dashboard shows, as data: panels, the queries they draw, and how they are to be read.

Every metric is in one of them, which the tests see to; they also run every query against a real Prometheus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from .snapshot import FAMILIES, PREFIX

Kind: TypeAlias = Literal["stat", "timeseries", "heatmap"]

_CHOSEN: Final = 'cache=~"$cache"'
_MODEL: Final = 'model=~"$model"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: what it shows.
        says: how to read it, in a sentence.
        queries: pairs of a query and the legend of its series.
        unit: Grafana's name of the unit.
        kind: how it is drawn.
        width: of 24 columns.
        steps: values from which on it is drawn in another colour, after the colour of those below the first.
        stacked: whether series are drawn on top of each other.
        top: the upper end of the axis; None leaves that to the figures.
    """

    title: str
    says: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    width: int = 8
    steps: tuple[Any, ...] = ()
    stacked: bool = False
    top: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that belong together, under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _series(family: str, *matchers: str, suffix: str = "") -> str:
    ending = suffix or ("_total" if FAMILIES[family].kind == "counter" else "")
    return f"{PREFIX}{family}{ending}{{{', '.join((_CHOSEN, *matchers))}}}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _rate(family: str, by: str = "", *matchers: str, suffix: str = "") -> str:
    """Return the rate of a counter, summed by some labels."""
    return f"sum{_by(by)} (rate({_series(family, *matchers, suffix=suffix)}[$__rate_interval]))"


def _zero(query: str) -> str:
    """Return a query that says 0 where nothing was counted yet."""
    return f"({query} or sum ({_series('processes')}) * 0)"


def _count(family: str, by: str = "", suffix: str = "") -> str:
    """Return how often something happened lately, summed by some labels."""
    return f"sum{_by(by)} (increase({_series(family, suffix=suffix)}[$__rate_interval]))"


def _quantile(share: float, family: str, by: str = "", *matchers: str) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_rate(family, labels, *matchers, suffix='_bucket')})"


def _sum(family: str, by: str = "") -> str:
    return f"sum{_by(by)} ({_series(family)})"


def _max(family: str, by: str = "") -> str:
    return f"max{_by(by)} ({_series(family)})"


_CALLS: Final = " + ".join(_zero(_rate(family)) for family in ("hits", "misses", "joined"))

# Added up by name, not by `+`: a model that never had one of the three would have no sum.
_CALLS_BY_MODEL: Final = (
    f'sum by (model) (rate({{__name__=~"{PREFIX}(hits|misses|joined)_total", {_CHOSEN}, {_MODEL}}}[$__rate_interval]))'
)
_FAILED: Final = f"{_zero(_rate('tier_errors'))} + {_zero(_rate('load_errors'))}"
_ATTEMPTED: Final = " + ".join(
    (_zero(_rate("tier_seconds", suffix="_count")), _zero(_rate("loads")), _zero(_rate("load_errors")))
)
_GOOD: Final = ("green",)
_BAD_ABOVE_ZERO: Final = ("green", 1, "red")

ROWS: Final[tuple[Row, ...]] = (
    Row(
        "At a glance",
        (
            Panel(
                "Hit rate",
                "The share of calls that a tier answered.",
                ((f"{_zero(_rate('hits'))} / ({_CALLS})", ""),),
                "percentunit", "stat", 4, ("red", 0.85, "orange", 0.9, "green"), top=1,
            ),
            Panel("Calls a second", "Of all processes.", ((_CALLS, ""),), "reqps", "stat", 4, _GOOD),
            Panel(
                "Operation of a tier, p95",
                "Nineteen of twenty operations of shared tiers are faster.",
                ((_quantile(0.95, "tier_seconds"), ""),),
                "s", "stat", 4, ("green", 0.05, "orange", 0.1, "red"),
            ),
            Panel(
                "Errors",
                "The share of operations of tiers, and of loads, that fail.",
                ((f"({_FAILED}) / ({_ATTEMPTED})", ""),),
                "percentunit", "stat", 4, ("green", 0.005, "orange", 0.01, "red"),
            ),
            Panel("Processes", "Whose figures these are.", ((_sum("processes"), ""),), "short", "stat", 4, _GOOD),
            Panel(
                "Alerts firing",
                "The rules are in `prometheus/alerts.yml`.",
                (('count (ALERTS{alertname=~"Cache.+", alertstate="firing", cache=~"$cache"}) or vector(0)', ""),),
                "short", "stat", 4, _BAD_ABOVE_ZERO,
            ),
        ),
    ),
    Row(
        "Calls",
        (
            Panel(
                "Calls by outcome",
                "Hits by tier, misses, and calls that joined the load of another one.",
                ((_rate("hits", "tier"), "hit: {{tier}}"), (_rate("misses"), "miss"), (_rate("joined"), "joined")),
                "reqps", stacked=True,
            ),
            Panel(
                "Hit rate by model",
                "The ten models with the most calls.",
                ((f"{_rate('hits', 'model', _MODEL)} / topk(10, {_CALLS_BY_MODEL})", "{{model}}"),),
                "percentunit", top=1,
            ),
            Panel(
                "Misses by reason",
                "`expired` wants a longer ttl, `evicted` more room, `cold` warming.",
                ((_rate("misses", "reason", _MODEL), "{{reason}}"),),
                "reqps", stacked=True,
            ),
            Panel(
                "Calls by model",
                "The ten models with the most calls.",
                ((f"topk(10, {_CALLS_BY_MODEL})", "{{model}}"),),
                "reqps", stacked=True,
            ),
            Panel(
                "Loads",
                "Loads by model, those that failed, and values in their grace period that stood in for them.",
                (
                    (f"topk(10, {_rate('loads', 'model', _MODEL)})", "{{model}}"),
                    (_rate("load_errors", "", _MODEL), "failed"),
                    (_rate("stale_served", "", _MODEL), "stale value served"),
                    (_rate("stale_overdue", "", _MODEL), "stale value served early"),
                ),
                "ops",
            ),
            Panel(
                "Why loads fail",
                "The types of the loaders' errors.",
                ((_rate("load_error_types", "error"), "{{error}}"),),
                "ops",
            ),
            Panel(
                "Waiting for loads of others",
                "Calls that waited for a load of their process or of another one, or for a slot of their own.",
                (
                    (_rate("joined", "", _MODEL), "same process"),
                    (_rate("lease_waits", "", _MODEL), "another process"),
                    (_rate("loads_queued", "", _MODEL), "for a slot"),
                ),
                "ops",
            ),
            Panel(
                "Shadow mode",
                "What the cache would have answered, and how often that differed from the loader's answer.",
                (
                    (_rate("shadow_hits", "tier", _MODEL), "hit: {{tier}}"),
                    (_rate("shadow_misses", "", _MODEL), "miss"),
                    (_rate("shadow_mismatches", "verdict", _MODEL), "differs: {{verdict}}"),
                ),
                "ops",
            ),
            Panel(
                "Loaded, but not kept",
                "Something that the value depends on was invalidated meanwhile, or is held by a writer.",
                ((_rate("not_stored", "reason"), "{{reason}}"),),
                "ops",
            ),
            Panel(
                "Evictions by model",
                "What process memory gives up for room; more room is `memory.max_items` or `memory.max_bytes`.",
                ((f"topk(10, {_rate('evictions', 'model', _MODEL)})", "{{model}}"),),
                "ops",
            ),
        ),
    ),
    Row(
        "Latency",
        (
            Panel(
                "Answers by tier, p95",
                "Of process memory one answer in sixteen, and none of those that a function's front gives.",
                ((_quantile(0.95, "response_seconds", "tier"), "{{tier}}"),),
                "s",
            ),
            Panel(
                "Answers over time",
                "How many answers took how long, of all tiers and loaders.",
                ((_count("response_seconds", "le", suffix="_bucket"), "{{le}}"),),
                "s", "heatmap", 16,
            ),
            Panel(
                "Operations of tiers, p50 and p99",
                "By what was asked of which tier.",
                (
                    (_quantile(0.5, "tier_seconds", "tier, operation"), "p50 {{tier}} {{operation}}"),
                    (_quantile(0.99, "tier_seconds", "tier, operation"), "p99 {{tier}} {{operation}}"),
                ),
                "s",
            ),
            Panel(
                "Operations of tiers",
                "How often what was asked of which tier.",
                ((_rate("tier_seconds", "tier, operation", suffix="_count"), "{{tier}} {{operation}}"),),
                "ops",
            ),
            Panel(
                "Loaders, p95",
                "The ten slowest.",
                ((f"topk(10, {_quantile(0.95, 'load_seconds', 'model', _MODEL)})", "{{model}}"),),
                "s",
            ),
        ),
    ),
    Row(
        "Tiers",
        (
            Panel(
                "Errors of tiers",
                "By tier and type.",
                ((_rate("tier_errors", "tier, error"), "{{tier}}: {{error}}"),),
                "ops",
            ),
            Panel(
                "Breakers",
                "In how many processes a tier is left alone, and how often that began.",
                ((_sum("breaker_open", "tier"), "open: {{tier}}"), (_count("tier_downs", "tier"), "opened: {{tier}}")),
            ),
            Panel(
                "Unreadable payloads",
                "What shared tiers held that is no payload of this cache.",
                ((_count("corrupt", "tier, reason"), "{{tier}}: {{reason}}"),),
            ),
            Panel(
                "Entries in process memory",
                "Of all processes together, and how many there may be.",
                ((_sum("items"), "entries"), (_sum("items_limit"), "limit")),
            ),
            Panel(
                "Bytes in process memory",
                "Where it is bounded by `memory.max_bytes`, of all processes together.",
                ((_sum("bytes", "tier"), "{{tier}}"), (_sum("bytes_limit", "tier"), "limit of {{tier}}")),
                "bytes",
            ),
            Panel(
                "Bytes on disk",
                "What a tier on disk takes, and what it may take; beyond that, what ends first goes.",
                ((_max("disk_bytes", "tier"), "{{tier}}"), (_max("disk_bytes_limit", "tier"), "limit of {{tier}}")),
                "bytes",
            ),
            Panel(
                "Memory of the server",
                "What it uses, and what it may use; a server that is full evicts, and every eviction is a miss.",
                ((_max("server_bytes", "tier"), "used"), (_max("server_bytes_limit", "tier"), "limit")),
                "bytes",
            ),
            Panel(
                "Connections",
                "Of the pools of all processes.",
                ((_sum("pool_connections", "tier, state"), "{{tier}} {{state}}"), (_sum("pool_limit"), "limit")),
            ),
        ),
    ),
    Row(
        "Coherence",
        (
            Panel(
                "Invalidations",
                "By what they named.",
                ((_rate("invalidations", "kind"), "{{kind}}"),),
                "ops", stacked=True,
            ),
            Panel(
                "Invalidations that wait",
                "Those that have not reached the shared tier yet, and those that had to wait at all.",
                ((_sum("pending_invalidations"), "pending"), (_count("invalidations_delayed"), "delayed")),
            ),
            Panel(
                "The longest wait",
                "For how long something has been pending.",
                ((_max("pending_seconds"), "seconds"),),
                "s",
            ),
            Panel(
                "Links",
                "In how many processes invalidations of others arrive at once, and how often links were lost.",
                ((_sum("link_up"), "up"), (_sum("processes"), "processes"), (_count("link_losses"), "lost")),
            ),
            Panel(
                "Failovers",
                "Masters that were replaced, and servers that began another history.",
                ((_count("failovers", "tier"), "{{tier}}"), (_count("generation_changes"), "another history")),
            ),
            Panel(
                "Refused patterns",
                "The shared log of patterns was full: name tags, or the first segment and `*`.",
                ((_count("rule_log_full"), "refused"),),
            ),
            Panel(
                "Staleness that audits found",
                "The longest that a stale value was seen to be served.",
                ((_max("staleness_seconds", "model"), "{{model}}"),),
                "s",
            ),
            Panel(
                "Audited values",
                "How many were compared with their source, and how many of those were stale.",
                ((_count("audited", "model"), "{{model}}"), (_count("audited_stale", "model"), "stale: {{model}}")),
            ),
            Panel(
                "Security",
                "Forged payloads, refused logins, missing permissions.",
                ((_count("security_events", "kind"), "{{kind}}"),),
            ),
        ),
    ),
    Row(
        "The application's own operations",
        (
            Panel(
                "Operations",
                "What `record_operation` was told.",
                ((_rate("operations", "operation, outcome"), "{{operation}} {{outcome}}"),),
                "ops", width=12,
            ),
            Panel(
                "Their time, p95",
                "By operation and pattern.",
                ((_quantile(0.95, "operation_seconds", "operation, pattern"), "{{operation}} {{pattern}}"),),
                "s", width=12,
            ),
        ),
    ),
)  # fmt: skip
