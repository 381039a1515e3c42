"""`novacron-cache audit`: is what the server keeps still what the sources say?

An application audits its own hits with `cache.audit()`. This command has no hits of its own: it takes a sample of the
values that the server serves to everybody, finds the functions that load them in the module it is given, and compares.
Exit codes: 0 the rate of stale values is within the limit, 1 it is above, 2 the audit could not start.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

import click

from .progress import Progress
from .targets import CannotStart, cache_of, said

if TYPE_CHECKING:
    from .. import Cache
    from ..auditing import Audit, AuditReport

TICK: Final = 0.1
"""Seconds between two steps of the progress bar."""


@click.command(epilog="Exit codes: 0 the rate is within --fail-over, 1 it is above, 2 the audit could not start.")
@click.argument("target", metavar="MODULE[:CACHE]")
@click.option(
    "--sample", type=click.FloatRange(0, 1, min_open=True), default=0.01, show_default=True,
    help="Share of the stored values that is looked at in each second.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, help="How long it runs."
)
@click.option(
    "--max-per-second", type=click.FloatRange(0, 10_000, min_open=True), default=10.0, show_default=True,
    help="How often sources are read at most.",
)  # fmt: skip
@click.option(
    "--fail-over", metavar="RATE", type=click.FloatRange(0, 1), default=0.0, show_default=True,
    help="The share of stale values above which the exit code is 1.",
)  # fmt: skip
@click.option("--show-keys", is_flag=True, help="Show the keys of stale values; they may hold personal data.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON and nothing else.")
def audit(
    target: str,
    sample: float,
    seconds: float,
    max_per_second: float,
    fail_over: float,
    show_keys: bool,
    as_json: bool,
) -> None:
    """Compare what the server keeps with what its sources say, and measure how stale it is.

    MODULE is imported, from the current directory too; its cached functions and the loaders of its models are called.
    CACHE names a cache in it, whose functions are audited wherever they are; without one, the functions of the module
    are, and have to share a cache. Nothing is stored and nothing is invalidated. Ctrl-C ends it early, with the outcome
    so far.
    """
    import asyncio

    from ..auditing import Audit, StoredSampler
    from ..errors import CacheError

    cache = cache_of(target, "MODULE[:CACHE]")
    try:
        with cache:
            sampler = StoredSampler(cache.engine, sample)
            # Before anything else: a server that does not answer would look like one that keeps nothing.
            sampler.pick(1)
            one = Audit(
                cache, sample=sample, max_per_second=max_per_second, show_keys=show_keys, sampler=sampler
            )  # fmt: skip
            try:
                asyncio.run(_run(one, cache, seconds, quiet=as_json))
            except KeyboardInterrupt:
                click.echo("ended early", err=True)
    except CacheError as error:
        raise CannotStart(said(error)) from error
    report = one.report
    passed = report.rate <= fail_over
    if as_json:
        click.echo(
            json.dumps({"target": target, "passed": passed, "fail_over": fail_over, **report.as_dict()}, indent=2)
        )
    else:
        _print(report)
    if not report.checked:
        click.echo("Nothing was compared, so the exit code says nothing about staleness.", err=True)
    if not passed:
        raise click.exceptions.Exit(1)


# -- running and telling -----------------------------------------------------------------------------------------------


async def _run(one: Audit, cache: Cache, seconds: float, *, quiet: bool) -> None:
    import asyncio

    start = time.monotonic()
    with Progress("auditing", seconds, quiet=quiet) as progress:
        try:
            async with one:
                while (elapsed := time.monotonic() - start) < seconds:
                    progress.to(elapsed, f"{one.report.checked} checked, {one.report.stale} stale")
                    await asyncio.sleep(min(TICK, seconds - elapsed))
        finally:
            # What the running loop opened has to be closed in it.
            await cache.aclose()


def _print(report: AuditReport) -> None:
    from ..keys import printable

    click.echo(
        f"{report.checked} checked: {report.matched} matched, {report.in_flight} changing, {report.stale} stale "
        f"({report.rate:.2%})"
    )
    if report.ages is not None:
        ages = report.ages
        click.echo(f"stale for at least: p50 {ages.p50:.3f} s, p99 {ages.p99:.3f} s, longest {ages.max:.3f} s")
    for name, part in report.by_name.items():
        if part.checked:
            click.echo(f"  {printable(name)}: {part.checked} checked, {part.stale} stale")
    for one in report.examples:
        more = "still served" if one.still else "no longer served"
        click.echo(f"  stale in {one.tier}: {printable(one.key)} for {one.age:.3f} s, {more}")
    for what, counts in (("not compared", report.skipped), ("unknown", report.unknown)):
        for reason, number in counts.items():
            click.echo(f"  {number} {what}: {reason}")
