"""`novacron-cache warm`: load what is not cached yet, before somebody waits for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Final

import click

from .progress import Progress
from .targets import (
    CannotStart,
    Target,
    cache_of,
    default_of_environment,
    explained,
    found_at,
    json_option,
    require_answer,
    said,
    settings_of,
    target_options,
)

if TYPE_CHECKING:
    from .. import Cache
    from ..events import TierFailed

__all__ = ["warm"]

LINK_PATIENCE: Final = 2.0
"""Seconds that the link is waited for; without it all is loaded, but only what has its tags beforehand is stored."""


@click.command(epilog="Exit codes: 0 all is cached, 1 some could not be loaded, 2 the command could not start.")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--arg", "args", multiple=True, metavar="VALUE", help="The only argument of one call; can be repeated.")
@click.option(
    "--args-file", type=click.File(), metavar="FILE",
    help='One call a line, as JSON: "vm-1", ["vm-1", 2] or {"vm_id": "vm-1"}; - reads standard input.',
)  # fmt: skip
@click.option(
    "--args-from", metavar="MODULE:FUNCTION",
    help="A function without parameters that returns the calls: an argument, a tuple or a dict each.",
)  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Calls in one step.")
@json_option
@target_options
def warm(
    function: str,
    args: tuple[str, ...],
    args_file: IO[str] | None,
    args_from: str | None,
    batch: int,
    as_json: bool,
    target: Target,
) -> None:
    """Call the cached function MODULE:FUNCTION for what is not cached yet, and store the results.

    The function's own cache is used; where it has none, that of --app, of the other options, or of the environment.
    Texts become what the parameters are annotated as.
    """
    import asyncio

    from .arguments import call_of, chunks, controller_of, read_lines

    found = found_at(function, "MODULE:FUNCTION")
    controller = controller_of(found)
    if controller is None or not hasattr(found, "warm"):
        raise click.BadParameter(
            f"{function} cannot be warmed: name a function decorated with @cached", param_hint="MODULE:FUNCTION"
        )
    if not args and args_file is None and args_from is None:
        raise click.UsageError("say which calls to make: --arg, --args-file or --args-from")
    if controller.bound is not None and not hasattr(found, "__self__"):
        raise click.BadParameter(
            f"{function} is a method: name it on an instance, as MODULE:INSTANCE.METHOD", param_hint="MODULE:FUNCTION"
        )
    given = [*args, *(read_lines(args_file) if args_file is not None else ())]
    calls: Iterator[Any] = (call_of(controller, one) for one in given)
    with explained():
        _give_cache(controller, target)
        cache = controller.bind()
        if cache.engine.authority is None:
            raise CannotStart(
                "the function's cache is process memory alone, which ends with this command; give it a server or a disk"
            )
        require_answer(cache.engine.authority)
        failures: list[TierFailed] = []
        cache.on("tier_failed", failures.append)
        extra = [] if args_from is None else _calls(args_from)
        _await_link(cache)
        steps = chunks([*calls, *extra], batch)
        total = len(given) + len(extra)
        with Progress(f"warming {controller.label}", total, quiet=as_json) as progress:
            if controller.asynchronous:
                cached, loaded, failed = asyncio.run(_awarm(found, cache, steps, progress))
            else:
                with cache:
                    cached, loaded, failed = _summed(map(found.warm, steps), progress)
    if as_json:
        told = {
            "function": function, "cached": cached, "loaded": loaded, "failed": len(failed),
            "errors": [{"key": key, "error": type(error).__name__} for key, error in failed],
            "tier_errors": len(failures),
        }  # fmt: skip
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(f"{loaded} loaded, {cached} cached already, {len(failed)} failed")
        from ..keys import printable

        for key, error in failed[:20]:
            click.echo(f"  {printable(key)}: {type(error).__name__}: {said(error)}", err=True)
    if failures:
        last = failures[-1]
        click.echo(f"the {last.tier} tier failed meanwhile, so some may not be stored: {said(last.error)}", err=True)
    if failed or failures:
        raise click.exceptions.Exit(1)


def _give_cache(controller: Any, target: Target) -> None:
    """See to it that a function without a cache of its own uses the one that the options name."""
    from .. import Cache, configure

    if controller.given_cache is not None:
        if target.url or target.namespace or target.disk:
            raise CannotStart(f"{controller.label} has a cache of its own; leave out --url, --namespace and --disk")
    elif target.app is not None:
        configure(cache_of(target.app, "--app"))
    elif target.url or target.namespace or target.disk:
        configure(Cache(settings_of(target)))
    else:
        default_of_environment()


def _await_link(cache: Cache) -> None:
    """Wait until the link is up, or for a moment where it does not come up.

    A value whose tags only it names is not stored on a server while nobody can tell what was invalidated meanwhile.
    """
    link = cache.engine.link
    if link is not None:
        link.ensure()
        deadline = time.monotonic() + LINK_PATIENCE
        while not cache.engine.watches(cache.engine.history.seq) and time.monotonic() < deadline:
            time.sleep(0.002)


def _calls(place: str) -> list[Any]:
    """Return what a function of the application gives as calls."""
    source = found_at(place, "--args-from")
    try:
        calls = source() if callable(source) else source
    except Exception as error:
        text = f"{place} raised {type(error).__name__}: {said(error)}"
        raise click.BadParameter(text, param_hint="--args-from") from error
    if isinstance(calls, str | bytes) or not isinstance(calls, Iterable):
        raise click.BadParameter(
            f"{place} returned {type(calls).__name__}; expected several calls, such as a list", param_hint="--args-from"
        )
    return list(calls)


Outcome = tuple[int, int, list[tuple[str, BaseException]]]


def _summed(reports: Iterable[Any], progress: Progress) -> Outcome:
    """Return what all steps have done together, in (cached, loaded, failed)."""
    cached = loaded = 0
    failed: list[tuple[str, BaseException]] = []
    for report in reports:
        cached += report.cached
        loaded += report.loaded
        failed += report.failed
        progress.to(cached + loaded + len(failed))
    return cached, loaded, failed


async def _awarm(function: Any, cache: Any, steps: Iterable[list[Any]], progress: Progress) -> Outcome:
    """Do what `_summed` does with a coroutine function; what the loop opened is closed in it."""
    reports: list[Any] = []
    async with cache:
        for calls in steps:
            reports.append(await function.warm(calls))
            _summed(reports, progress)
    return _summed(reports, progress)
