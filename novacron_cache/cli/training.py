"""`novacron-cache train-dictionary`: have what is stored of one model compressed with what it has in common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .progress import Progress
from .targets import Target, explained, json_option, opened, said, target_options

if TYPE_CHECKING:
    from ..training import TrainedDictionary

__all__ = ["train_dictionary"]


@click.command(
    name="train-dictionary",
    epilog="Exit codes: 0 trained, or worth it with --dry-run, 1 not worth it, 2 the command could not start.",
)
@click.argument("model", metavar="MODEL")
@click.option(
    "--samples", type=click.IntRange(100, 100_000), default=1000, show_default=True,
    help="How many stored values are read at most; one in five is measured and not trained on.",
)  # fmt: skip
@click.option(
    "--size", type=click.IntRange(1024, 114_688), default=16_384, show_default=True,
    help="How long the dictionary may be, in bytes.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Train and measure, and change nothing.")
@json_option
@target_options
def train_dictionary(model: str, samples: int, size: int, dry_run: bool, as_json: bool, target: Target) -> None:
    """Train a dictionary on stored values of MODEL, the name of a model or function, and have it used.

    Values are read from the server, and no value is shown. Processes with compression_dictionaries on write with the
    dictionary within a minute, and read what was written before.
    """
    from ..errors import DictionaryRefused
    from ..training import home_of, train

    with opened(target) as cache, explained():
        engine = cache.engine
        home = home_of(engine, cache.tiers_of(model))
        try:
            with Progress("reading", quiet=as_json) as progress:
                found = train(
                    engine, model, home, samples=samples, size=size, store=not dry_run, progress=progress.to
                )  # fmt: skip
        except DictionaryRefused as error:
            if as_json:
                told = {"name": model, "stored": False, "samples": error.samples, "gain": error.gain}
                click.echo(json.dumps({**told, "refused": said(error)}, indent=2))
            else:
                click.echo(said(error), err=True)
            raise click.exceptions.Exit(1) from error
        used = cache.settings.compression_dictionaries
    if as_json:
        click.echo(json.dumps({**found.as_dict(), "used": used}, indent=2))
    else:
        _print(found, used=used)


def _print(found: TrainedDictionary, *, used: bool) -> None:
    instead = f", in place of {found.replaces}" if found.replaces not in (None, found.version) else ""
    click.echo(
        f"{found.name}: a value takes {found.after:,.0f} bytes in place of {found.before:,.0f} ({-found.gain:.0%}), "
        f"measured on {found.measured_on:,}"
    )
    click.echo(
        f"dictionary {found.version} of {found.size:,} bytes, trained on {found.trained_on:,}"
        + (instead if found.stored else "; it was not stored")
    )
    if found.stored and not used:
        click.echo("nobody uses it yet: set compression=zstd and compression_dictionaries=true", err=True)
