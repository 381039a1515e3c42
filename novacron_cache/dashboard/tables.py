"""The tables of the page, as HTML made from the board; all that comes from elsewhere is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from .board import Now, gauge
from .charts import NAMES, ordered
from .words import ago, count, escaped, percent, rate

__all__ = ["REASONS", "hottest", "models", "processes", "tone_of"]

Shown = Callable[[str], str]

REASONS: Final = {
    "cold": "cold", "expired": "expired", "invalidated": "invalidated", "evicted": "evicted",
    "schema": "schema changed", "corrupt": "unreadable", "signature": "bad signature", "tier_down": "tier down",
    "pending": "pending", "bypassed": "bypassed", "dictionary": "dictionary lost",
}  # fmt: skip

_KNOWN_TIERS: Final = frozenset(NAMES)


def tone_of(tier: str) -> str:
    """Return the class of a tier's colour."""
    return f"tone-{tier}" if tier in _KNOWN_TIERS else "tone-other"


def models(now: Now) -> str:
    """Return the table of models and functions."""
    rows = []
    for one in now.models[:30]:
        meter = "".join(
            f'<i class="{tone_of(tier)}" style="width:{min(100.0, 100 * one.hits[tier] / one.calls):.1f}%"></i>'
            for tier in ordered(one.hits)
            if one.calls
        )
        missed = sum(one.misses.values())
        reasons = sorted(one.misses.items(), key=lambda each: -each[1])[:3]
        why = ", ".join(f"{REASONS.get(reason, reason)} {percent(held / missed, 0)}" for reason, held in reasons)
        share = percent(one.hit_rate if one.calls else None)
        rows.append(
            f'<tr><th scope="row" title="{escaped(one.name)}">{escaped(one.name)}</th><td>{count(one.calls)}</td>'
            f'<td><span class="meter" aria-hidden="true">{meter}</span><span class="number">{share}</span></td>'
            f'<td>{count(missed)}</td><td class="left">{escaped(why) or "–"}</td></tr>'
        )
    return _html_table(
        "Models and functions over the last minute",
        ("Model", "Calls", "Hit rate", "Misses", "<Why"),
        rows,
        "No calls yet.",
    )


def hottest(now: Now, shown: Shown) -> str:
    """Return the table of the keys that process memory is asked for most."""
    rows = [
        f'<tr><th scope="row" class="key" title="{escaped(shown(one.key))}">{escaped(shown(one.key))}</th>'
        f'<td class="left">{escaped(one.model or "(plain keys)")}</td><td>{rate(one.hits)}</td>'
        f"<td>{percent(one.hit_rate)}</td></tr>"
        for one in now.hottest
    ]
    return _html_table(
        "Hottest keys", ("Key", "<Model", "Hits", "Hit rate"), rows, "Nothing in process memory is asked for."
    )


def processes(now: Now) -> str:
    """Return the table of processes."""
    if now.look is None:
        return ""
    rows = []
    for one in sorted(now.look.processes, key=lambda each: each.process)[:60]:
        link = "–" if "link_up" not in one.values else "up" if one.total("link_up") else "lost"
        open_ = [tier for tier, state in gauge(one, "breaker_open").items() if state]
        tone = "bad" if open_ else "warn" if link == "lost" else "good"
        host = f"{one.facts.get('host', '')}:{one.facts.get('pid', '')}" if "pid" in one.facts else one.process
        rows.append(
            f'<tr><th scope="row" class="{tone}"><i class="dot"></i> {escaped(str(host))}</th><td>{link}</td>'
            f"<td>{escaped(', '.join(open_)) or 'closed'}</td><td>{count(sum(gauge(one, 'items').values()))}</td>"
            f"<td>{count(one.total('pending_invalidations'))}</td><td>{ago(max(0.0, now.look.at - one.at))}</td></tr>"
        )
    heads = ("Process", "Link", "Breakers", "Entries", "Pending", "Reported")
    return _html_table("Processes", heads, rows, "No process reports.")


def _html_table(caption: str, heads: Iterable[str], rows: Iterable[str], nothing: str) -> str:
    body = "".join(rows)
    if not body:
        return f'<p class="quiet">{escaped(nothing)}</p>'
    head = "".join(
        f'<th scope="col"{" class=left" if name.startswith("<") else ""}>{escaped(name.removeprefix("<"))}</th>'
        for name in heads
    )
    title = f'<caption class="only-read">{escaped(caption)}</caption>'
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
