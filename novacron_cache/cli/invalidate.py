"""`novacron-cache invalidate`: for what has changed behind the cache's back.

What a dry run counts are stored values that would still be served. Those that are invalid already are not hit again.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Final

import click

from .progress import Progress
from .targets import MAX_SCANNED, CannotStart, Target, explained, found_at, json_option, opened, target_options

if TYPE_CHECKING:
    from .. import Cache
    from ..flows.invalidating import Invalidation
    from .stored import Stored

__all__ = ["invalidate"]

EXAMPLES: Final = 20


@click.command(
    epilog="Exit codes: 0 done (with --dry-run: something would be hit), 1 --dry-run found nothing, 2 the command "
    "could not start, or the server has not taken it."
)
@click.option("--key", "keys", multiple=True, help="Everything under this logical key, whatever its model.")
@click.option("--tag", "tags", multiple=True, help="Everything with this tag.")
@click.option("--all-tags", is_flag=True, help="Of several tags, only what has all of them.")
@click.option("--pattern", "patterns", multiple=True, help="Every logical key that matches, such as 'vm:*'.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model or function: its name or MODULE:NAME.")
@click.option("--all", "everything", is_flag=True, help="Everything in the namespace.")
@click.option("--purge", is_flag=True, help="With --all: remove the stored values too, which takes longer.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.option("--dry-run", is_flag=True, help="Change nothing; count what is stored and would be hit.")
@click.option(
    "--max-scanned", type=click.IntRange(1), default=MAX_SCANNED, show_default=True,
    help="With --dry-run: how many keys of each tier are gone through.",
)  # fmt: skip
@json_option
@target_options
def invalidate(
    keys: tuple[str, ...],
    tags: tuple[str, ...],
    all_tags: bool,
    patterns: tuple[str, ...],
    models: tuple[str, ...],
    everything: bool,
    purge: bool,
    yes: bool,
    dry_run: bool,
    max_scanned: int,
    as_json: bool,
    target: Target,
) -> None:
    """Invalidate what is named, in every process of the application.

    All that is named is invalidated together. It costs the same however many values are hit, and none of them is
    served again. With --dry-run the stored values are gone through and counted.
    """
    if not (keys or tags or patterns or models or everything):
        raise click.UsageError("name what to invalidate: --key, --tag, --pattern, --model or --all")
    if purge and not everything:
        raise click.UsageError("--purge goes with --all")
    if all_tags and len(tags) < 2:
        raise click.UsageError("--all-tags needs several --tag")
    names = [_model(one) for one in models]
    with opened(target) as cache, explained():
        invalidation = _named(keys, tags, patterns, names, all_tags=all_tags, everything=everything)
        if dry_run:
            with Progress("scanning", quiet=as_json) as progress:
                hit, outcome = _foresee(cache, invalidation, max_scanned, progress)
            _tell(hit, outcome, as_json=as_json)
            if not outcome["hit"]:
                raise click.exceptions.Exit(1)
            return
        if everything and not yes:
            if as_json or not sys.stdin.isatty():
                raise CannotStart("--all invalidates the whole namespace; confirm it with --yes")
            click.confirm(f"Invalidate everything in {cache.settings.namespace!r}?", abort=True, err=True)
        cache.run_invalidation(invalidation, wait=True)
        if purge:
            cache.clear(purge=True, wait=True)
    if as_json:
        click.echo(json.dumps({"done": True, "what": invalidation.what, "named": list(invalidation.values)}, indent=2))
    else:
        click.echo("invalidated")


def _model(text: str) -> str:
    """Return the name of a model or function from that name, or from where it is."""
    from ..declaring import name_of
    from ..errors import DeclarationError

    if ":" not in text:
        return text
    try:
        return name_of(found_at(text, "--model"))
    except DeclarationError as error:
        raise click.BadParameter(str(error), param_hint="--model") from None


def _named(
    keys: tuple[str, ...],
    tags: tuple[str, ...],
    patterns: tuple[str, ...],
    models: list[str],
    *,
    all_tags: bool,
    everything: bool,
) -> Invalidation:
    from ..flows.invalidating import Invalidation

    if everything:
        return Invalidation.everything()
    parts: list[Invalidation] = [
        *([Invalidation.keys(keys)] if keys else []),
        *([Invalidation.tags(tags, match_all=all_tags)] if tags else []),
        *map(Invalidation.pattern, patterns),
        *map(Invalidation.model, models),
    ]
    return reduce(add, parts)


# -- the dry run ------------------------------------------------------------------------------------------------------


def _foresee(
    cache: Cache, invalidation: Invalidation, limit: int, progress: Progress
) -> tuple[list[Stored], dict[str, Any]]:
    """Return some of the values that would be hit, and the counts of all."""
    from ..markers import dependencies
    from .stored import UNREADABLE, Reader

    reader = Reader(cache.engine, limit)
    deps = set(invalidation.deps)
    rules = [rule.matcher() for rule in invalidation.rules]
    examples: list[Stored] = []
    by_tier: Counter[str] = Counter()
    by_model: Counter[str] = Counter()
    unknown = size = 0
    for tier in cache.engine.shared:
        for one in reader.values(tier, reader.names(tier, progress.to)):
            unknown += one.state == UNREADABLE
            if one.state != "fresh":
                continue
            logical = one.name.logical
            if any(
                not deps.isdisjoint(dependencies(text, one.name.model, one.tags))
                or any(matches(text, one.tags) for matches in rules)
                for text in logical
            ):
                by_tier[tier.name] += 1
                by_model[one.name.model or "(plain)"] += 1
                size += one.size
                if len(examples) < EXAMPLES:
                    examples.append(one)
    return examples, {
        "hit": sum(by_tier.values()),
        "bytes": size,
        "by_tier": dict(by_tier),
        "by_model": dict(by_model),
        "unknown": unknown,
        "scanned": reader.seen,
        "complete": not reader.cut,
    }


def _tell(hit: list[Stored], outcome: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**outcome, "examples": [one.as_dict() for one in hit]}, indent=2))
        return
    from ..keys import printable

    click.echo(f"{outcome['hit']} stored values ({outcome['bytes']} B) would be hit; nothing was changed")
    for what in ("by_tier", "by_model"):
        for name, count in sorted(outcome[what].items()):
            click.echo(f"  {count} {'in' if what == 'by_tier' else 'of'} {printable(name)}")
    for one in hit:
        click.echo(f"    {printable(one.name.shown)} ({one.tier})")
    if outcome["unknown"]:
        click.echo(f"{outcome['unknown']} values have keys too long to be read; they are not counted", err=True)
    if not outcome["complete"]:
        click.echo("There are more keys than --max-scanned; not all were gone through.", err=True)
    click.echo("What processes hold in memory is hit too and not counted.", err=True)
