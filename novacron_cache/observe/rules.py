"""The alert rules, as data: what is measured, from where on it is a problem, and for how long it has to be.

Each rule is stated twice, as a function of a snapshot for `alerting` and in Prometheus' language for the rules file,
side by side so that they stay the same. Rates are over a window; a figure that says nothing yet, such as a hit rate of
five calls, is no figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from .recording import CONNECTION_ERRORS
from .snapshot import FAMILIES, PREFIX, Snapshot
from .summary import attempts, calls, connection_failures, error_rate, hit_rate, memory_use

Severity: TypeAlias = Literal["warning", "critical"]
Measure: TypeAlias = Callable[[Snapshot, float], float | None]

ENOUGH_CALLS: Final = 100
"""A hit rate of fewer calls than this within the window says nothing."""

ENOUGH_ATTEMPTS: Final = 20
"""An error rate, or a response time, of fewer attempts than this within the window says nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert rule.

    Attributes:
        name: what it is called.
        says: what is wrong when it fires, in one sentence.
        does: what to look at first.
        severity: `warning` or `critical`.
        measure: the figure, from what was counted within the window and the window's length; None where there is none.
        expression: the same in PromQL, by cache.
        over: whether more than the threshold is the problem, or less.
        threshold: where the problem begins.
        recovery: where it ends; between the two an alert that fires goes on firing.
        window: seconds that rates are taken over.
        lasting: seconds for which it has to be a problem before the alert fires.
        calm: seconds for which it must have ended before the alert is resolved.
        unit: of the figure: `ratio`, `seconds`, `per minute`, or `events`.
    """

    name: str
    says: str
    does: str
    severity: Severity
    measure: Measure
    expression: str
    over: bool
    threshold: float
    recovery: float
    window: float = 300.0
    lasting: float = 300.0
    calm: float = 60.0
    unit: str = "ratio"

    def is_problem(self, value: float, *, firing: bool) -> bool:
        """Return whether a figure is a problem; one that fires has to recover for more than a moment."""
        limit = self.recovery if firing else self.threshold
        return value > limit if self.over else value < limit


def _rate(family: str, matchers: str = "", window: float = 300.0) -> str:
    """Return the rate of a counter by cache, 0 where nothing was counted ever."""
    kind = FAMILIES[family].kind
    suffix = "_total" if kind == "counter" else "_count"
    return (
        f"(sum by (cache) (rate({PREFIX}{family}{suffix}{matchers}[{round(window)}s]))"
        f" or sum by (cache) ({PREFIX}processes) * 0)"
    )


_CALLS = f"({_rate('hits')} + {_rate('misses')} + {_rate('joined')})"
_ATTEMPTS = f"({_rate('tier_seconds')} + {_rate('loads')} + {_rate('load_errors')})"
_REACH = "|".join(sorted(CONNECTION_ERRORS))


def _hit_rate(counted: Snapshot, seconds: float) -> float | None:
    return hit_rate(counted) if calls(counted) > ENOUGH_CALLS else None


def _response(counted: Snapshot, seconds: float) -> float | None:
    histogram = counted.histogram("tier_seconds")
    return histogram.quantile(0.95) if histogram.count > ENOUGH_ATTEMPTS else None


def _errors(counted: Snapshot, seconds: float) -> float | None:
    return error_rate(counted) if attempts(counted) > ENOUGH_ATTEMPTS else None


def _memory(counted: Snapshot, seconds: float) -> float | None:
    return memory_use(counted)


def _failures(counted: Snapshot, seconds: float) -> float | None:
    return connection_failures(counted) * 60.0 / seconds


def _security(counted: Snapshot, seconds: float) -> float | None:
    return counted.total("security_events")


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "CacheHitRateLow",
        "Fewer than 85 % of the calls are answered by the cache.",
        "Look at the misses by reason and model: `expired` wants a longer ttl, `evicted` more room.",
        "warning",
        _hit_rate,
        f"{_rate('hits')} / {_CALLS} and {_CALLS} > {ENOUGH_CALLS / 300:.4f}",
        over=False,
        threshold=0.85,
        recovery=0.87,
    ),
    Rule(
        "CacheResponseSlow",
        "One in twenty operations of a tier takes more than 100 ms.",
        "Look at the times by tier and operation, and at the server's slow log.",
        "warning",
        _response,
        f"histogram_quantile(0.95, sum by (cache, le) (rate({PREFIX}tier_seconds_bucket[300s])))"
        f" and {_rate('tier_seconds')} > {ENOUGH_ATTEMPTS / 300:.4f}",
        over=True,
        threshold=0.1,
        recovery=0.08,
        unit="seconds",
    ),
    Rule(
        "CacheErrorRateHigh",
        "More than 1 % of the operations of tiers, and of loads, fail.",
        "Look at the errors by type, and at /health.",
        "critical",
        _errors,
        f"({_rate('tier_errors')} + {_rate('load_errors')}) / {_ATTEMPTS}"
        f" and {_ATTEMPTS} > {ENOUGH_ATTEMPTS / 300:.4f}",
        over=True,
        threshold=0.01,
        recovery=0.008,
    ),
    Rule(
        "CacheMemoryHigh",
        "The server of a shared tier uses more than 90 % of its memory.",
        "Give it more, or shorten ttls; when it is full it evicts, and every eviction is a miss.",
        "warning",
        _memory,
        f"max by (cache) ({PREFIX}server_bytes / {PREFIX}server_bytes_limit)",
        over=True,
        threshold=0.9,
        recovery=0.88,
    ),
    Rule(
        "CacheConnectionFailures",
        "A shared tier cannot be reached more than five times a minute.",
        "Look at /health for the latest error, and at the server.",
        "critical",
        _failures,
        f"{_rate('tier_errors', '{error=~' + chr(34) + _REACH + chr(34) + '}', 60)} * 60",
        over=True,
        threshold=5.0,
        recovery=4.0,
        window=60.0,
        lasting=60.0,
        unit="per minute",
    ),
    Rule(
        "CacheSecurityEvent",
        "A payload was forged or planted, or the server refused a login or a permission.",
        "Look at the kind: a signing key that was not rolled out, a changed password, or somebody who writes.",
        "critical",
        _security,
        f"sum by (cache) (increase({PREFIX}security_events_total[300s]))",
        over=True,
        threshold=0.0,
        recovery=0.0,
        lasting=0.0,
        calm=300.0,
        unit="events",
    ),
)


def prometheus_rules(rules: tuple[Rule, ...] = RULES) -> str:
    """Return the rules as a rules file for Prometheus."""
    lines = [
        "# The alert rules of novacron_cache. Written by `python -m novacron_cache.observe.rules`; do not edit.",
        "groups:",
        "  - name: novacron_cache",
        "    rules:",
    ]
    for rule in rules:
        sign = ">" if rule.over else "<"
        lines += [
            f"      - alert: {rule.name}",
            "        expr: |-",
            *(f"          {line}" for line in _lines(f"({rule.expression}) {sign} {rule.threshold:g}")),
            f"        for: {rule.lasting:g}s",
            f"        keep_firing_for: {rule.calm:g}s",
            "        labels:",
            f"          severity: {rule.severity}",
            "        annotations:",
            f"          summary: {_quoted(rule.says)}",
            f"          description: {_quoted(rule.does)}",
        ]
    return "\n".join(lines) + "\n"


def _lines(expression: str) -> list[str]:
    """Return a long expression in lines that can be read."""
    for before in (" / (", " + (", " and ", " or sum"):
        expression = expression.replace(before, "\n" + before[1:])
    return expression.split("\n")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    import sys

    sys.stdout.write(prometheus_rules())
