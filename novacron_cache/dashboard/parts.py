"""The parts of the page that are text, as HTML made from the board; all that comes from elsewhere is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ..observe.alerting import Alert
from ..observe.happening import Happening
from ..observe.histogram import BOUNDS
from ..observe.rules import RULES
from .board import COLUMN, Now, gauge
from .charts import LABELS, NAMES, described, ordered, shown_buckets
from .tables import REASONS, tone_of
from .views import Look
from .words import clock, count, escaped, percent, rate, seconds, table

__all__ = [
    "alerts", "curve_table", "curve_words", "feed", "heat_table", "legend", "problems", "rates_table", "reports",
    "states", "status", "tiles", "times_legend", "times_table",
]  # fmt: skip

Shown = Callable[[str], str]


def status(now: Now) -> tuple[str, str]:
    """Return the tone and the word for how it all is."""
    if now.look is None:
        return "idle", "Looking"
    if now.problem is not None:
        return "bad", "Cannot look"
    firing = [alert for alert in now.look.alerts if alert.state == "firing"]
    if now.look.health.get("status") == "down" or any(alert.severity == "critical" for alert in firing):
        return "bad", "Down" if now.look.health.get("status") == "down" else "Critical"
    if now.look.health.get("status") != "healthy" or firing:
        return "warn", "Degraded" if not firing else "Alert"
    return "good", "Healthy"


def problems(now: Now) -> list[str]:
    """Return what is wrong, one sentence each."""
    if now.problem is not None:
        return [now.problem]
    return [] if now.look is None else [str(one) for one in now.look.health.get("problems", ())]


def reports(now: Now) -> bool:
    """Return whether there is a process to show anything of."""
    return now.look is not None and bool(now.look.processes)


# -- figures ---------------------------------------------------------------------------------------------------------


def tiles(now: Now) -> dict[str, tuple[str, str]]:
    """Return the figure and the note of each tile, by the tile's name."""
    rates, minute = now.rates, now.per_minute
    if now.look is None:
        return {}
    total = now.look.total
    items, limit = sum(gauge(total, "items").values()), sum(gauge(total, "items_limit").values())
    quiet = not rates.calls
    beyond = [times for tier, times in now.times.items() if tier in ("redis", "disk")]
    slow = max((times.quantile(0.95) for times in beyond if times.count), default=None)
    loader = now.times.get("loader")
    reasons = {name.removeprefix("misses "): value for name, value in minute.items() if name.startswith("misses ")}
    top = max(reasons.items(), key=lambda one: one[1], default=("", 0.0))
    return {
        "hit rate": ("–" if quiet else percent(rates.hit_rate), "of calls, over the last 5 seconds"),
        "calls": (rate(rates.calls), f"{count(minute.get('loads', 0.0))} loads a minute"),
        "memory": (
            "–" if quiet else percent(rates.share.get("memory", 0.0)),
            f"{count(items)} of {count(limit)} entries" if limit else "process memory is off",
        ),
        "shared": (seconds(slow), "95 % of answers within"),
        "loader": (
            seconds(loader.quantile(0.95)) if loader is not None and loader.count else "–",
            f"{count(minute.get('load_errors', 0.0))} failed a minute",
        ),
        "misses": (
            f"{count(sum(reasons.values()))}/min",
            f"{percent(top[1] / sum(reasons.values()), 0)} {REASONS.get(top[0], top[0])}" if top[1] else "none",
        ),
    }


def legend(now: Now) -> str:
    """Return which colour is which tier, with its share of this moment."""
    tiers = ordered(now.rates.share or {"memory": 0.0})
    return "".join(
        f'<li class="{tone_of(tier)}"><i></i>{escaped(NAMES.get(tier, tier))} '
        f"<b>{percent(now.rates.share.get(tier, 0.0)) if now.rates.calls else '–'}</b></li>"
        for tier in tiers
    )


def times_legend(now: Now) -> str:
    """Return which colour is which, with the median and the slow end of each."""
    return "".join(
        f'<li class="{tone_of(tier)}"><i></i>{escaped(NAMES.get(tier, tier))} '
        f"<b>{seconds(times.quantile(0.5))}</b> · {seconds(times.quantile(0.99))}</li>"
        for tier, times in ((tier, now.times[tier]) for tier in ordered(now.times))
        if times.count
    )


def rates_table(now: Now) -> str:
    """Return the hit rates over time as a table."""
    tiers = ordered({tier: None for one in now.series for tier in one.share})
    rows = [
        [clock(one.at), percent(one.hit_rate), *(percent(one.share.get(tier, 0.0)) for tier in tiers), rate(one.calls)]
        for one in now.series[::-15]
    ]
    heads = ["Time", "Hit rate", *(NAMES.get(tier, tier) for tier in tiers), "Calls"]
    return table("Hit rate by tier over time", heads, rows)


def times_table(now: Now) -> str:
    """Return the histograms as a table."""
    tiers = [tier for tier in ordered(now.times) if now.times[tier].count]
    rows = [
        [LABELS[place], *(f"{now.times[tier].counts[place]:,}" for tier in tiers)] for place in shown_buckets(now.times)
    ]
    return table("Answers of the last minute by the time they took", ["Took", *(NAMES.get(t, t) for t in tiers)], rows)


def heat_table(now: Now) -> str:
    """Return the heatmap as a table: for each moment, how long the typical and the slow answers took."""
    rows = []
    for at, counts in reversed(now.heat[-12:]):
        made = sum(counts)
        rows.append([clock(at), f"{made:,}", _bound(counts, 0.5), _bound(counts, 0.95), _bound(counts, 1.0)])
    return table(
        f"Answers of each {COLUMN} seconds", ["Time", "Answers", "Half within", "95 % within", "All within"], rows
    )


def _bound(counts: Iterable[int], share: float) -> str:
    held = list(counts)
    wanted, seen = sum(held) * share, 0
    if not wanted:
        return "–"
    for place, one in enumerate(held):
        seen += one
        if seen >= wanted:
            return seconds(BOUNDS[place]) if place < len(BOUNDS) else f"over {seconds(BOUNDS[-1])}"
    return "–"


def curve_table(now: Now) -> str:
    """Return the what-if curve as a table."""
    if now.curve is None:
        return ""
    rows = [[f"{items:,}", f"{size:g} ×", percent(share)] for size, items, share in now.curve.points]
    return table(
        "Estimated hit rate of process memory by its size", ["Entries", "Of the present size", "Hit rate"], rows
    )


def curve_words(now: Now) -> str:
    """Return what the curve says, and of what it was made."""
    if now.curve is None:
        return described(None)
    of = f"Policy {now.curve.policy}; from a sample of the keys, over {count(now.curve.calls)} calls."
    return f"{described(now.curve)} {of}"


# -- states ----------------------------------------------------------------------------------------------------------


def states(now: Now) -> str:
    """Return the tiers with their breakers, the link, and the servers with their roles."""
    if now.look is None:
        return ""
    health, total = now.look.health, now.look.total
    rows = []
    for name, tier in (health.get("tiers") or {}).items():
        ok, is_open = bool(tier.get("ok")), tier.get("breaker") == "open"
        word = "answers" if ok else "left alone" if is_open else "does not answer"
        notes = []
        if name == "memory":
            notes.append(
                f"{count(sum(gauge(total, 'items').values()))} entries in all processes" if now.look.fleet else ""
            )
        else:
            notes.append(f"breaker {tier.get('breaker', 'closed')}")
            if tier.get("latency") is not None:
                notes.append(f"answers in {seconds(tier['latency'])}")
            used, limit = gauge(total, "server_bytes").get(name), gauge(total, "server_bytes_limit").get(name)
            if used:
                notes.append(f"{used / 2**20:,.1f} MB used" + (f" of {limit / 2**20:,.0f} MB" if limit else ""))
            if not ok and tier.get("last_error"):
                notes.append(str(tier["last_error"]))
        rows.append(_state("good" if ok else "bad", NAMES.get(name, name), word, notes))
    rows += _link(now.look)
    rows += _servers(health.get("topology"))
    failovers = total.total("failovers")
    if failovers:
        rows.append(
            _state("idle", "Failovers", f"{failovers:.0f}", ["masters that were replaced, since the monitor began"])
        )
    return f'<ul class="states">{"".join(rows)}</ul>'


def _link(look: Look) -> list[str]:
    """Return the state of the link: of a fleet, in how many processes it is up."""
    known = [bool(one.total("link_up")) for one in look.processes if "link_up" in one.values]
    own = look.health.get("link")
    if own is None and not known:
        return []
    pending = sum(one.total("pending_invalidations") for one in look.processes)
    up = sum(known)
    tone = "idle" if not known or (own == "idle" and not look.fleet) else "good" if up == len(known) else "warn"
    word = (
        "not needed yet" if tone == "idle" else f"up in {up} of {len(known)}" if look.fleet else "up" if up else "lost"
    )
    notes = ["invalidations arrive at once" if tone == "good" else ""]
    if tone == "warn":
        notes = ["where it is lost, invalidations of others arrive within the staleness bound"]
    if pending:
        notes.append(f"{count(pending)} invalidations wait to be delivered")
    return [_state(tone, "Link", word, notes)]


def _servers(topology: Mapping[str, Any] | None) -> list[str]:
    if not topology:
        return []
    rows = []
    order = {"master": 0, "replica": 1, "sentinel": 2}
    for node in sorted(topology.get("nodes", ()), key=lambda one: (order.get(one["role"], 3), one["address"])):
        notes = [
            f"slots {node['slots']}" if node.get("slots") else "",
            f"of {node['master']}" if node.get("master") else "",
        ]
        word = str(node["role"]) if node.get("ok") else f"{node['role']}, does not answer"
        rows.append(_state("good" if node.get("ok") else "bad", str(node["address"]), word, notes))
    if not topology.get("confirmed", True):
        said = "as it was last seen; no majority has confirmed it lately"
        rows.insert(0, _state("warn", "Topology", "unconfirmed", [said]))
    return rows


def _state(tone: str, name: str, word: str, notes: Iterable[str]) -> str:
    said = " · ".join(note for note in notes if note)
    return (
        f'<li class="{tone}"><i class="dot"></i><b>{escaped(name)}</b><em>{escaped(word)}</em>'
        f"{f'<small>{escaped(said)}</small>' if said else ''}</li>"
    )


_LOW: Final = frozenset(rule.name for rule in RULES if not rule.over)


def alerts(found: Iterable[Alert]) -> str:
    """Return the alert rules with their states, those that fire first."""
    order = {"firing": 0, "pending": 1, "resolved": 2, "inactive": 3}
    rows = []
    for alert in sorted(found, key=lambda one: (order[one.state], one.name)):
        tone = {"firing": "bad" if alert.severity == "critical" else "warn", "pending": "warn"}.get(alert.state, "good")
        loud = alert.state in ("firing", "pending")
        side = "below" if alert.name in _LOW else "above"
        notes = [_figure(alert.value, alert.unit), f"alerts {side} {_figure(alert.threshold, alert.unit)}"]
        if loud:
            notes = [alert.says, alert.does, *notes]
        word = {"inactive": "quiet"}.get(alert.state, alert.state)
        rows.append(_state(tone if alert.value is not None or loud else "idle", _spaced(alert.name), word, notes))
    return (
        f'<ul class="states">{"".join(rows)}</ul>' if rows else '<p class="quiet">Nobody watches for alerts here.</p>'
    )


def _spaced(name: str) -> str:
    name = name.removeprefix("Cache")
    return "".join(f" {one.lower()}" if one.isupper() and place else one for place, one in enumerate(name))


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "no figure yet"
    if unit == "ratio":
        return percent(value)
    return seconds(value) if unit == "seconds" else f"{count(value)} {unit}"


_SAID: Final = {
    "invalidated": ("", "invalidated"),
    "invalidation_delayed": ("warn", "waiting to be delivered"),
    "invalidation_delivered": ("good", "delivered"),
    "tier_down": ("bad", "breaker opened"),
    "tier_up": ("good", "answers again"),
    "link_up": ("good", "link up"),
    "link_lost": ("warn", "link lost"),
    "failed_over": ("warn", "new master"),
    "generation_changed": ("warn", "server began another history"),
    "rule_log_full": ("bad", "pattern refused, the log is full"),
    "stale_found": ("bad", "stale value found"),
}


def feed(happenings: Iterable[Happening], shown: Shown) -> str:
    """Return what happened lately, the latest first."""
    rows = []
    for one in happenings:
        tone, word = _SAID.get(one.kind, ("", one.kind))
        if one.kind == "invalidated":
            names = ", ".join(f'<span class="key">{escaped(shown(name))}</span>' for name in one.names)
            said = f"{escaped(one.what)} {names}"
            if one.more:
                said += f" and {one.more} more"
        elif one.kind == "failed_over":
            said = f'<b class="tag {tone}">{escaped(word)}</b> {escaped(one.what)}: {escaped(" → ".join(one.names))}'
        elif one.kind == "stale_found":
            said = f'<b class="tag {tone}">{escaped(word)}</b> {escaped(", ".join(map(shown, one.names)))}'
        else:
            more = escaped(" ".join((one.what, *one.names)).strip()) or (str(one.more) if one.more else "")
            said = f'<b class="tag {tone}">{escaped(word)}</b> {more}'
        rows.append(f"<li><time>{clock(one.at)}</time><span>{said}</span></li>")
    if not rows:
        return '<p class="quiet">Nothing was invalidated since the processes began to report.</p>'
    return f'<ul class="feed">{"".join(rows)}</ul>'
