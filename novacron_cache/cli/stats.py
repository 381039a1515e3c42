"""`novacron-cache stats`: what the servers keep, and what the processes of the application have counted.

Processes publish their figures while somebody watches; asking for them here is watching for a moment.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import click

from .progress import Progress
from .targets import Target, json_option, opened, target_options

if TYPE_CHECKING:
    from .. import Cache

__all__ = ["stats"]

KINDS: Final = {
    "v": "values", "m": "markers", "s": "signals", "l": "leases", "g": "histories", "o": "figures", "r": "rule logs",
}  # fmt: skip
"""What the keys of a namespace are, by the letter behind it."""

PATIENCE: Final = 1.0
"""Seconds for processes to hear that somebody watches, and to publish."""


@click.command(epilog="Exit codes: 0 done, 2 the command could not start.")
@click.option(
    "--max-scanned", type=click.IntRange(1), default=100_000, show_default=True,
    help="How many keys of each tier are gone through; counts of what is left out are missing.",
)  # fmt: skip
@click.option("--no-processes", is_flag=True, help="Do not wait for the figures of processes.")
@json_option
@target_options
def stats(max_scanned: int, no_processes: bool, as_json: bool, target: Target) -> None:
    """Count the keys of the namespace by kind and model, and show memory, hit rates and invalidations.

    Hit rates are those of the processes that run now. What each server keeps is counted from its keys' names.
    """
    with opened(target) as cache, Progress("scanning", quiet=as_json) as progress:
        outcome: dict[str, Any] = {"namespace": cache.settings.namespace or ""}
        fleet = None if no_processes else _watching(cache)
        began = time.monotonic()
        outcome["tiers"] = _tiers(cache, max_scanned, progress)
        if fleet is not None:
            from ..observe.summary import summarised

            time.sleep(max(0.0, PATIENCE - (time.monotonic() - began)))
            fleet.look()
            outcome["processes"] = summarised(fleet.figures())
    if as_json:
        click.echo(json.dumps(outcome, indent=2))
    else:
        _print(outcome)


def _watching(cache: Cache) -> Any:
    """Ask the processes of the application for their figures; None where they have no server to tell them to."""
    from ..observe.fleet import Fleet

    if not hasattr(cache.engine.authority, "published"):
        return None
    fleet = Fleet(cache)
    fleet.look()
    return fleet


def _tiers(cache: Cache, limit: int, progress: Progress) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tier in cache.engine.shared:
        look = _of_servers if hasattr(tier, "ask") else _of_disk
        found[tier.name] = look(tier, limit, progress)
    return found


def _of_servers(tier: Any, limit: int, progress: Progress) -> dict[str, Any]:
    from ..keys import is_dictionary_key
    from .stored import Name

    prefix = tier.commands.value_key("").removesuffix("v:")
    kinds: Counter[str] = Counter()
    models: Counter[str] = Counter()
    seen: set[bytes] = set()
    complete = True
    for found in tier.scan(prefix + "*"):
        progress.to(found.progress, f"{found.server}: {len(seen)} keys")
        for key in found.keys:
            if key in seen:
                continue
            seen.add(key)
            kind, _, rest = key.decode("utf-8", "surrogateescape").removeprefix(prefix).partition(":")
            dictionary = kind == "v" and is_dictionary_key(rest)
            kinds["dictionaries" if dictionary else KINDS.get(kind, "other")] += 1
            if kind == "v" and not dictionary:
                models[Name.of(rest).model or "(plain)"] += 1
        if len(seen) >= limit:
            complete = False
            break
    servers = [_server(tier, server) for server in tier.servers()]
    return {
        "keys": dict(kinds.most_common()),
        "values_by_model": dict(models.most_common()),
        "complete": complete,
        "servers": servers,
    }


def _server(tier: Any, server: str) -> dict[str, Any]:
    """Return what a server says about itself; its counts are of all that use it."""
    text = tier.ask(server, "INFO")
    info = dict(line.split(":", 1) for line in text.decode("utf-8", "replace").splitlines() if ":" in line)
    hits, misses = (int(info.get(f"keyspace_{what}", "0")) for what in ("hits", "misses"))
    return {
        "server": server,
        "memory_bytes": int(info.get("used_memory", "0")),
        "memory_limit": int(info.get("maxmemory", "0")) or None,
        "hits": hits,
        "misses": misses,
        "evicted": int(info.get("evicted_keys", "0")),
        "expired": int(info.get("expired_keys", "0")),
        "clients": int(info.get("connected_clients", "0")),
        "operations_per_second": int(info.get("instantaneous_ops_per_sec", "0")),
    }


def _of_disk(tier: Any, limit: int, progress: Progress) -> dict[str, Any]:
    from ..tiers.stored import stored_keys
    from .stored import Name

    models: Counter[str] = Counter()
    complete = True
    for _, _, keys in stored_keys(tier):
        models.update(Name.of(key).model or "(plain)" for key in keys)
        progress.to(0.0, f"disk: {models.total()} keys")
        if models.total() >= limit:
            complete = False
            break
    return {
        "keys": {"values": models.total()},
        "values_by_model": dict(models.most_common()),
        "complete": complete,
        "bytes": tier.volume(),
    }


def _print(outcome: dict[str, Any]) -> None:
    from ..keys import printable

    click.echo(f"namespace {outcome['namespace']}")
    for tier, told in outcome["tiers"].items():
        more = "" if told["complete"] else " (not all were gone through)"
        counts = ", ".join(f"{count} {kind}" for kind, count in told["keys"].items()) or "nothing"
        click.echo(f"{tier}: {counts}{more}")
        for model, count in told["values_by_model"].items():
            click.echo(f"  {count:>8} {printable(model)}")
        if "bytes" in told:
            click.echo(f"  {told['bytes'] / 2**20:.1f} MB on disk")
        for server in told.get("servers", ()):
            limit = server["memory_limit"]
            of = f" of {limit / 2**20:.0f} MB" if limit else ""
            click.echo(
                f"  {server['server']}: {server['memory_bytes'] / 2**20:.1f} MB{of}, {server['clients']} clients, "
                f"{server['operations_per_second']} operations/s, {server['evicted']} evicted"
            )
    figures = outcome.get("processes")
    if figures is None:
        return
    basic = figures["basic"]
    click.echo(
        f"{figures['processes']} processes: {basic['calls']} calls, {basic['hit_rate']:.1%} hits, "
        f"{basic['loads']} loads"
    )
    for model, one in figures["models"].items():
        name = printable(model) or "(plain)"
        click.echo(f"  {name}: {one['calls']} calls, {one['hit_rate']:.1%} hits, {one['loads']} loads")
