"""`novacron-cache top`: the models and keys that are busiest right now, over all processes of the application.

Only differences between two looks are shown, so a process that has run for weeks counts like one that has just begun.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from .targets import CannotStart, Target, json_option, opened, target_options

if TYPE_CHECKING:
    from ..observe.fleet import Fleet
    from ..observe.snapshot import Snapshot

__all__ = ["busiest", "top"]

SORTS: Final = ("calls", "misses", "loads", "hit_rate")


@click.command(epilog="Exit codes: 0 ended by Ctrl-C or --rounds, 2 the command could not start.")
@click.option("--interval", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, help="Seconds a look.")
@click.option("--rounds", type=click.IntRange(1), help="End after so many looks.")
@click.option("--sort", type=click.Choice(SORTS), default="calls", show_default=True, help="What comes first.")
@click.option("--lines", "-n", type=click.IntRange(1), default=20, show_default=True, help="How many models and keys.")
@json_option
@target_options
def top(interval: float, rounds: int | None, sort: str, lines: int, as_json: bool, target: Target) -> None:
    """Show the busiest models of all processes, live: calls, hits by tier, misses and loads a second.

    Below them the keys that process memory is asked for most. Processes publish while somebody looks, so the first
    figures come after a moment. With --json each look is one line.
    """
    from ..observe.fleet import Fleet

    with opened(target) as cache:
        if not hasattr(cache.engine.authority, "published"):
            raise CannotStart("processes tell their figures to a server; give --url, or set NOVACRON_CACHE_REDIS__URL")
        screen = _Screen(shown=not as_json and sys.stdout.isatty())
        try:
            with screen:
                for number, look in enumerate(_looks(Fleet(cache), interval), 1):
                    look["models"] = busiest(look["models"], sort, lines)
                    look["keys"] = look["keys"][:lines]
                    if as_json:
                        click.echo(json.dumps(look))
                    else:
                        screen.show(look)
                    if number == rounds:
                        return
        except KeyboardInterrupt:
            return


def busiest(models: list[dict[str, Any]], sort: str, lines: int) -> list[dict[str, Any]]:
    """Return the first of some models: by hit rate the worst, by anything else the most."""
    return sorted(models, key=lambda one: (one[sort] if sort == "hit_rate" else -one[sort], one["model"]))[:lines]


def _looks(fleet: Fleet, interval: float) -> Iterator[dict[str, Any]]:
    """Yield what happened between two looks, again and again."""
    from ..observe.hottest import hottest_of

    fleet.look()
    time.sleep(interval)
    fleet.look()
    before, then = fleet.figures(), time.monotonic()
    while True:
        time.sleep(interval)
        fleet.look()
        after, now = fleet.figures(), time.monotonic()
        keys = [
            {
                "key": one.key,
                "model": one.model or "(plain)",
                "hits": round(one.hits, 2),
                "hit_rate": round(one.hit_rate, 4),
            }
            for one in hottest_of(fleet.processes)
        ]
        yield {**between(before, after, now - then), "keys": keys}
        before, then = after, now


def between(before: Snapshot, after: Snapshot, seconds: float) -> dict[str, Any]:
    """Return the rates of what was counted between two snapshots."""
    from ..observe.summary import summarised

    told = summarised(after.minus(before))
    models = []
    for name, one in told["models"].items():
        if one["calls"] or one["loads"]:
            models.append(
                {
                    "model": name or "(plain)",
                    "calls": round(one["calls"] / seconds, 2),
                    "hit_rate": round(one["hit_rate"], 4),
                    "hits": {tier: round(count / seconds, 2) for tier, count in one["hits"].items() if count},
                    "misses": round(sum(one["misses"].values()) / seconds, 2),
                    "loads": round(one["loads"] / seconds, 2),
                    "load_p99": one["load_times"]["p99"],
                }
            )
    return {
        "seconds": round(seconds, 3),
        "processes": told["processes"],
        "calls": round(told["basic"]["calls"] / seconds, 2),
        "hit_rate": round(told["basic"]["hit_rate"], 4),
        "models": models,
    }


class _Screen:
    """A table that is drawn over and over on a terminal, and written line by line elsewhere."""

    def __init__(self, *, shown: bool) -> None:
        self._live: Any = None
        if shown:
            from rich.live import Live

            self._live = Live(auto_refresh=False)

    def show(self, look: dict[str, Any]) -> None:
        """Show one look."""
        from ..keys import printable

        head = f"{look['processes']} processes, {look['calls']:.0f} calls/s, {look['hit_rate']:.1%} hits"
        if self._live is None:
            click.echo(head)
            for one in look["models"]:
                click.echo(
                    f"  {printable(one['model'])}: {one['calls']:.1f} calls/s, {one['hit_rate']:.1%} hits, "
                    f"{one['misses']:.1f} misses/s, {one['loads']:.1f} loads/s"
                )
            for one in look["keys"]:
                click.echo(
                    f"    {printable(one['key'])} ({printable(one['model'])}): {one['hits']:.1f} hits/s in memory"
                )
            return
        self._live.update(self._table(head, look["models"], look["keys"]), refresh=True)

    @staticmethod
    def _table(head: str, models: list[dict[str, Any]], keys: list[dict[str, Any]]) -> Any:
        from rich.console import Group
        from rich.markup import escape as escape_markup
        from rich.table import Table

        from ..keys import printable

        def escape(text: str) -> str:
            return escape_markup(printable(text))

        table = Table(title=head, box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column("model")
        for name in ("calls/s", "hits", "memory/s", "redis/s", "disk/s", "misses/s", "loads/s", "load p99"):
            table.add_column(name, justify="right")
        for one in models:
            tiers = [f"{one['hits'].get(tier, 0):.1f}" for tier in ("memory", "redis", "disk")]
            rates = [f"{one[what]:.1f}" for what in ("misses", "loads")]
            p99 = f"{one['load_p99'] * 1000:.1f} ms" if one["load_p99"] else ""
            table.add_row(escape(one["model"]), f"{one['calls']:.1f}", f"{one['hit_rate']:.1%}", *tiers, *rates, p99)
        hottest = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("key", "model"):
            hottest.add_column(name)
        for name in ("memory/s", "hits"):
            hottest.add_column(name, justify="right")
        for one in keys:
            hottest.add_row(escape(one["key"]), escape(one["model"]), f"{one['hits']:.1f}", f"{one['hit_rate']:.1%}")
        return Group(table, "", hottest)

    def __enter__(self) -> _Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
