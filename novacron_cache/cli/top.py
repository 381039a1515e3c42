"""`novacron-cache top`: the models and keys that are busiest right now, over all processes of the application.

Only differences between what processes publish are shown, so one that has run for weeks counts like one that has just
begun.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from .targets import CannotStart, Target, json_option, opened, target_options

if TYPE_CHECKING:
    from ..observe.fleet import Fleet
    from ..observe.snapshot import Snapshot

__all__ = ["Lately", "Screen", "busiest", "looks", "top"]

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
        screen = Screen(shown=not as_json and sys.stdout.isatty())
        try:
            with screen:
                for number, look in enumerate(looks(Fleet(cache), interval), 1):
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


def looks(fleet: Fleet, interval: float) -> Iterator[dict[str, Any]]:
    """Yield what goes on, again and again."""
    from ..observe.hottest import hottest_of

    lately = Lately()
    fleet.look()
    lately.take(fleet.processes)
    time.sleep(interval)
    fleet.look()
    lately.take(fleet.processes)
    then = time.monotonic()
    while True:
        time.sleep(interval)
        fleet.look()
        # What is known of processes stays while the server does not answer; it says nothing about now.
        processes = fleet.processes if fleet.problem is None else []
        lately.take(processes)
        now = time.monotonic()
        keys = [
            {
                "key": one.key,
                "model": one.model or "(plain)",
                "hits": round(one.hits, 2),
                "hit_rate": round(one.hit_rate, 4),
            }
            for one in hottest_of(processes)
        ]
        yield {
            "seconds": round(now - then, 3),
            "processes": len(processes),
            **lately.rates(),
            "keys": keys,
            "problem": fleet.problem,
        }
        then = now


class Lately:
    """What each process has counted between its two latest publications, as rates.

    Processes publish when it suits them, so what was counted between two looks may be none of it or twice as much as
    belongs there. And the first publication of a process has all that it has counted in its life.
    """

    def __init__(self) -> None:
        self._latest: dict[str, tuple[Snapshot | None, Snapshot]] = {}

    def take(self, processes: Iterable[Snapshot]) -> None:
        """Take in the latest publication of each process that there is; the others are forgotten."""
        found: dict[str, tuple[Snapshot | None, Snapshot]] = {}
        for one in processes:
            earlier, latest = self._latest.get(one.process, (None, one))
            found[one.process] = (latest, one) if one.at > latest.at else (earlier, latest)
        self._latest = found

    def rates(self) -> dict[str, Any]:
        """Return what goes on a second: in all, and by model where there is something."""
        from ..observe.snapshot import merged
        from ..observe.summary import summarised

        counted = [
            (latest.minus(earlier), latest.at - earlier.at)
            for earlier, latest in self._latest.values()
            if earlier is not None
        ]
        found: dict[str, _Rates] = {}
        for since, seconds in counted:
            for name, one in summarised(since)["models"].items():
                if one["calls"] or one["loads"]:
                    found.setdefault(name, _Rates()).add(one, seconds)
        times = merged(since for since, _ in counted).histograms.get("load_seconds", {})
        models = []
        for name, rates in sorted(found.items()):
            p99 = times[name,].quantile(0.99) if (name,) in times else 0.0
            models.append({"model": name or "(plain)", **rates.as_dict(), "load_p99": p99})
        calls = sum((rates.calls for rates in found.values()), 0.0)
        answered = sum(sum(rates.hits.values()) for rates in found.values())
        return {"calls": round(calls, 2), "hit_rate": round(answered / calls, 4) if calls else 0.0, "models": models}


@dataclass(slots=True)
class _Rates:
    """What goes on with one model in all processes, a second."""

    calls: float = 0.0
    misses: float = 0.0
    loads: float = 0.0
    hits: dict[str, float] = field(default_factory=dict)

    def add(self, counted: dict[str, Any], seconds: float) -> None:
        """Add what one process has counted in so many seconds."""
        self.calls += counted["calls"] / seconds
        self.misses += sum(counted["misses"].values()) / seconds
        self.loads += counted["loads"] / seconds
        for tier, count in counted["hits"].items():
            self.hits[tier] = self.hits.get(tier, 0.0) + count / seconds

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data, without tiers that answered nothing."""
        return {
            "calls": round(self.calls, 2),
            "hit_rate": round(sum(self.hits.values()) / self.calls, 4) if self.calls else 0.0,
            "hits": {tier: round(rate, 2) for tier, rate in self.hits.items() if rate},
            "misses": round(self.misses, 2),
            "loads": round(self.loads, 2),
        }


class Screen:
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
        problem = look["problem"]
        if self._live is None:
            click.echo(head)
            if problem is not None:
                click.echo(f"  {printable(problem)}")
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
        self._live.update(self._table(head, problem, look["models"], look["keys"]), refresh=True)

    @staticmethod
    def _table(head: str, problem: str | None, models: list[dict[str, Any]], keys: list[dict[str, Any]]) -> Any:
        from rich.console import Group
        from rich.markup import escape as escape_markup
        from rich.table import Table
        from rich.text import Text

        from ..keys import printable

        def escape(text: str) -> str:
            return escape_markup(printable(text))

        table = Table(title=head, box=None, pad_edge=False, header_style="bold", title_justify="left")
        table.add_column("model")
        for name in ("calls/s", "hits", "memory/s", "redis/s", "disk/s", "misses/s", "loads/s", "load p99"):
            table.add_column(name, justify="right", no_wrap=True)
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
        told: list[Text | str] = [] if problem is None else [Text(printable(problem), style="red"), ""]
        return Group(*told, table, "", hottest)

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
