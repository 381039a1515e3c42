"""What a simulated fleet has shown: as plain data, and as text.

Rates are given in the fleet's time: what was counted in a second of the run, divided by the fleet seconds in it. Only
the heartbeats of the links keep real time, whatever the speed; they are told separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fleet_process import Plan, Seen
from fleet_server import READS, Figures
from fleet_world import NODE_KINDS, SECONDS, VM_KINDS

TIERS = ("memory", "redis")


def outcome(
    plan: Plan, seen: Sequence[Seen], load: Figures, messages: Figures, contents: dict[str, Any], server: str
) -> dict[str, Any]:
    """Return everything about a run.

    Args:
        plan: what it was made of.
        seen: what each process has told.
        load: what the server counted during the measurement.
        messages: what one link heard during it.
        contents: what the server held at its end.
        server: which it was.
    """
    models = {kind: _model(kind, seen) for kind in (*VM_KINDS, *NODE_KINDS)}
    everything = _sum(models.values())
    asked = _total(one.asked for one in seen)
    changes = _total(one.changes for one in seen)
    reads = everything["reads"]
    real = plan.seconds / plan.speed
    commands = {name: count for name, count in load.items() if " " not in name and name not in ("evicted", "info")}
    work = sum(commands.values())
    return {
        "plan": asdict(plan),
        "server": server,
        "real_seconds": real,
        "reads": {
            "count": reads,
            "a_second": round(reads / plan.seconds),
            "late_ms": _per(1e3 * sum(one.late_sum for one in seen), sum(one.begun for one in seen)),
            "latest_seconds": round(max((one.late for one in seen), default=0.0), 3),
            "cpu_us_each": _per(1e6 * sum(one.cpu_seconds for one in seen), reads),
        },
        "all": everything,
        "models": models,
        "hypervisors": {
            "asked": sum(asked[question] for question in SECONDS),
            "asked_a_second": round(sum(asked[question] for question in SECONDS) / plan.seconds, 1),
            "by_question": {question: asked[question] for question in SECONDS},
            "avoided": reads - everything["loads"],
            "seconds_avoided": round(
                sum(SECONDS[kind] * (one["reads"] - one["loads"]) for kind, one in models.items())
            ),
        },
        "audit": {
            "compared": sum(_total(one.compared for one in seen).values()),
            "stale": sum(_total(one.stale for one in seen).values()),
            "stale_by_model": dict(+_total(one.stale for one in seen)),
            "behind_within_bound": sum(_total(one.behind for one in seen).values()),
            "oldest_seconds": round(max((one.oldest for one in seen), default=0.0), 4),
            "metrics_oldest_seconds": round(max((one.metrics_age for one in seen), default=0.0), 3),
            "metrics_ttl_seconds": 15 / plan.speed,
        },
        "changes": {
            "count": sum(changes.values()),
            "a_second": round(sum(changes.values()) / plan.seconds, 2),
            "of": dict(changes),
            "pending": sum(one.pending for one in seen),
        },
        "redis": {
            "commands_a_second": round(work / plan.seconds),
            "infos_a_real_second": round(load["info"] / real, 1),
            "by_command": dict(sorted(commands.items(), key=lambda one: -one[1])),
            "share_of_lookups": round(sum(commands.get(name, 0) for name in READS) / work, 4) if work else 0.0,
            "bytes_in_a_second": round(load["bytes in"] / plan.seconds),
            "bytes_out_a_second": round(load["bytes out"] / plan.seconds),
            "cpu_share": round(load["cpu us"] / 1e6 / real, 4),
            "cpu_us_a_command": _per(load["cpu us"], work),
            "evicted": load["evicted"],
            **contents,
        },
        "link": {
            "messages_a_second": round(messages["messages"] / plan.seconds, 2),
            "names_a_second": round(messages["names"] / plan.seconds, 2),
            "names_a_change": _per(messages["names"], sum(changes.values())),
            "bytes_a_name": _per(messages["bytes"], messages["names"]),
            "bytes_a_second": round(messages["bytes"] / plan.seconds),
        },
        "events": dict(_total(one.events for one in seen)),
        "errors": [error for one in seen for error in one.errors],
    }


def _total(counters: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counters:
        total.update(one)
    return total


def _per(part: float, whole: float) -> float:
    return round(part / whole, 2) if whole else 0.0


def _model(kind: str, seen: Sequence[Seen]) -> dict[str, Any]:
    stats = [one.stats[kind] for one in seen if kind in one.stats]
    hits = _total(one.hits for one in stats)
    return _rates(
        {tier: hits[tier] for tier in TIERS},
        dict(_total(one.misses for one in stats)),
        sum(one.joined for one in stats),
        sum(one.loads for one in stats),
    )


def _sum(models: Any) -> dict[str, Any]:
    models = list(models)
    return _rates(
        dict(_total(one["hits"] for one in models)),
        dict(_total(one["misses"] for one in models)),
        sum(one["joined"] for one in models),
        sum(one["loads"] for one in models),
    )


def _rates(hits: dict[str, int], misses: dict[str, int], joined: int, loads: int) -> dict[str, Any]:
    reads = sum(hits.values()) + sum(misses.values()) + joined
    return {
        "reads": reads,
        "hits": hits,
        "misses": {reason: count for reason, count in misses.items() if count},
        "joined": joined,
        "loads": loads,
        "hit_rate": round(sum(hits.values()) / reads, 4) if reads else 0.0,
        "memory_rate": round(hits.get("memory", 0) / reads, 4) if reads else 0.0,
    }


# -- for people -------------------------------------------------------------------------------------------------------


def told(result: dict[str, Any]) -> str:
    """Return the outcome as text."""
    plan = result["plan"]
    head = (
        f"{plan['vms']:,} VMs on {plan['nodes']} nodes, {plan['processes']} processes, {result['server']}; "
        f"{plan['seconds']:g} s of the fleet in {result['real_seconds']:g} s"
    )
    parts = {
        "reads": _reads(result["reads"], plan),
        "hypervisors": _hypervisors(result["hypervisors"]),
        "changes": _changes(result["changes"]),
        "audit": _audit(result["audit"], plan),
        "server": _server(result["redis"]),
        "each link": _link(result["link"]),
        "events": ["; ".join(f"{count} {name}" for name, count in result["events"].items()) or "none"],
    }
    lines = [
        f"{name if not place else '':14} {line}" for name, part in parts.items() for place, line in enumerate(part)
    ]
    return "\n".join([head, "", *_models(result), "", *lines])


def _models(result: dict[str, Any]) -> list[str]:
    lines = [f"{'':16}{'reads':>10}{'hit rate':>10}{'memory':>9}{'server':>9}{'loads':>9}  misses"]
    for name, one in {**result["models"], "all": result["all"]}.items():
        share = one["hit_rate"] - one["memory_rate"]
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(one["misses"].items()))
        lines.append(
            f"{name:16}{one['reads']:>10,}{one['hit_rate']:>10.1%}{one['memory_rate']:>9.1%}{share:>9.1%}"
            f"{one['loads']:>9,}  {why}"
        )
    return lines


def _reads(reads: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    return [
        (
            f"{reads['count']:,}, {reads['a_second']:,} a second of {plan['reads']:,} wanted; "
            f"{reads['cpu_us_each']:g} us of CPU each; begun "
            f"{reads['late_ms']:g} ms late on average, {reads['latest_seconds']:g} s at most"
        )
    ]


def _hypervisors(asked: dict[str, Any]) -> list[str]:
    return [
        (
            f"asked {asked['asked']:,} times, {asked['asked_a_second']:,} a second; "
            f"{asked['avoided']:,} loads avoided, {asked['seconds_avoided']:,} s of their time"
        )
    ]


def _changes(changes: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{count} {what}" for what, count in sorted(changes["of"].items()))
    return [f"{changes['count']:,}, {changes['a_second']:g} a second, {changes['pending']} pending: {kinds}"]


def _audit(audit: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    return [
        (
            f"{audit['stale']} stale of {audit['compared']:,} compared; {audit['behind_within_bound']} behind within "
            f"{plan['bound']:g} s, the oldest by {1000 * audit['oldest_seconds']:.1f} ms"
        ),
        (
            f"metrics, of which no event tells, at most {audit['metrics_oldest_seconds']:.1f} s old; they live "
            f"{audit['metrics_ttl_seconds']:g} s"
        ),
    ]


def _server(redis: dict[str, Any]) -> list[str]:
    held = (redis["used_bytes"] - redis["before_bytes"]) / 1e6
    return [
        (
            f"{redis['commands_a_second']:,} commands a second, {redis['cpu_us_a_command']:g} us of CPU each: "
            f"{redis['cpu_share']:.1%} of a core at this speed; {redis['infos_a_real_second']:g} questions of links"
        ),
        (
            f"{redis['bytes_in_a_second'] / 1e6:.2f} MB/s in, {redis['bytes_out_a_second'] / 1e6:.2f} MB/s out, "
            f"{held:.1f} MB held, {redis['evicted']} evicted"
        ),
        (
            f"{redis['values']:,} values of {redis['bytes_of_values']} bytes, {redis['markers']:,} markers of "
            f"{redis['bytes_of_markers']} bytes"
        ),
    ]


def _link(link: dict[str, Any]) -> list[str]:
    return [
        (
            f"{link['messages_a_second']:g} messages a second with {link['names_a_second']:g} names "
            f"({link['names_a_change']:g} a change, {link['bytes_a_name']:g} bytes each): "
            f"{link['bytes_a_second']:,} bytes a second"
        )
    ]
