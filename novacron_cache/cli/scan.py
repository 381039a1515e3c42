"""`novacron-cache scan`: the keys that the shared tiers keep, by pattern, with what is known of each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .progress import Progress
from .targets import MAX_SCANNED, Target, json_option, opened, target_options

if TYPE_CHECKING:
    from .stored import Stored

__all__ = ["scan"]


@click.command(epilog="Exit codes: 0 some keys were found, 1 none was, 2 the command could not start.")
@click.argument("pattern", default="*")
@click.option("--model", metavar="NAME", help="Only the values of this model or function.")
@click.option("--tag", metavar="TAG", help="Only values with this tag.")
@click.option("--state", type=click.Choice(["fresh", "expired", "invalidated"]), help="Only values in this state.")
@click.option("--show", type=click.IntRange(0), default=1000, show_default=True, help="How many are shown at most.")
@click.option(
    "--max-scanned", type=click.IntRange(1), default=MAX_SCANNED, show_default=True,
    help="How many keys of each tier are gone through.",
)  # fmt: skip
@json_option
@target_options
def scan(
    pattern: str,
    model: str | None,
    tag: str | None,
    state: str | None,
    show: int,
    max_scanned: int,
    as_json: bool,
    target: Target,
) -> None:
    """List the stored keys that match PATTERN, such as 'vm:*', with ttl, size, model and state.

    Every server and the disk are gone through, in steps that hold nobody up. A value is `fresh` when the next call
    would be answered with it. Values themselves are not shown.
    """
    from ..keys import Glob
    from .stored import Reader

    found: list[Stored] = []
    number = 0
    with opened(target) as cache, Progress("scanning", quiet=as_json) as progress:
        matches = Glob(pattern).matches
        reader = Reader(cache.engine, max_scanned)
        for tier in cache.engine.shared:
            names = (
                name
                for name in reader.names(tier, progress.to)
                if any(map(matches, name.logical or (name.stored,))) and model in (None, name.model)
            )
            for one in reader.values(tier, names):
                if (tag is None or tag in one.tags) and state in (None, one.state):
                    number += 1
                    if len(found) < show:
                        found.append(one)
    if as_json:
        outcome: dict[str, Any] = {
            "found": number, "scanned": reader.seen, "complete": not reader.cut,
            "keys": [one.as_dict() for one in found],
        }  # fmt: skip
        click.echo(json.dumps(outcome, indent=2))
    else:
        _print(found, number, reader.seen, complete=not reader.cut)
    if not number:
        raise click.exceptions.Exit(1)


def _print(found: list[Stored], number: int, seen: int, *, complete: bool) -> None:
    from ..keys import printable

    for one in found:
        key, model = printable(one.name.shown), printable(one.name.model) or "-"
        click.echo(f"{key}  {model}  {one.tier}  ttl {one.left:.0f} s  {one.size} B  {one.state}")
    click.echo(f"{number} of {seen} keys{'' if number <= len(found) else f', {len(found)} shown'}", err=True)
    if not complete:
        click.echo("There are more keys than --max-scanned; not all were gone through.", err=True)
