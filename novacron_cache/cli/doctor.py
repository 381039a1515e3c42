"""`novacron-cache doctor`: is this configuration one that the cache can keep its promises with?

It looks at the live servers and directories as the application would meet them, with its user and its settings, and
changes nothing. Each finding comes with what to do about it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from .targets import Target, cache_of, explained, json_option, said, settings_of, target_options

if TYPE_CHECKING:
    from .. import CacheSettings
    from .findings import Finding

__all__ = ["doctor"]

_MARKS: Final = {"ok": "ok", "note": "note", "warning": "WARN", "problem": "FAIL"}
_COLOURS: Final = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}


@click.command(
    epilog="Exit codes: 0 no problem was found, 1 there are warnings (with --strict), 2 there are problems, or the "
    "check could not start."
)
@click.option("--strict", is_flag=True, help="Let warnings fail the command too.")
@click.option("--quiet", "-q", is_flag=True, help="Leave out what is well.")
@json_option
@target_options
def doctor(strict: bool, quiet: bool, as_json: bool, target: Target) -> None:
    """Check a live configuration, and say the fix for each finding.

    Servers: version, role, history, persistence, memory and eviction, replicas, permissions, TLS, latency, clock,
    connections and push messages. The disk: owner, permissions, free space and file system. The settings that bear on
    them. It connects as a process of the application does, and changes nothing.
    """
    from .findings import SEVERITIES

    found: list[Finding] = []
    for one in _checked(target):
        found.append(one)
        if not as_json and not (quiet and one.severity == "ok"):
            _print(one)
    worst = max(found, key=lambda one: SEVERITIES.index(one.severity)).severity if found else "ok"
    counts = {severity: sum(one.severity == severity for one in found) for severity in SEVERITIES}
    if as_json:
        told: dict[str, Any] = {"worst": worst, "counts": counts, "findings": [one.as_dict() for one in found]}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['note']} notes")
    if worst == "problem":
        raise click.exceptions.Exit(2)
    if worst == "warning" and strict:
        raise click.exceptions.Exit(1)


def _print(one: Finding) -> None:
    mark = click.style(f"{_MARKS[one.severity]:<4}", fg=_COLOURS[one.severity])
    where = f" [{one.server}]" if one.server else ""
    click.echo(f"{mark} {one.check:<12} {one.text}{where}")
    if one.fix:
        click.echo(f"     {'':<12} fix: {one.fix}")


def _checked(target: Target) -> Iterator[Finding]:
    """Yield what each check finds, as it does."""
    from .. import Cache, CacheError
    from .findings import note, problem

    with ExitStack() as stage:
        with explained():
            if target.app is not None:
                cache = stage.enter_context(cache_of(target.app, "--app"))
                settings, tier = cache.settings, cache.engine.authority
            else:
                settings, tier = settings_of(target), None
        yield from _settings(settings)
        if settings.redis_on:
            if tier is None:
                # Without the disk, which may be unsafe to open, and has checks of its own.
                alone = settings.model_copy(update={"disk": type(settings.disk)()})
                try:
                    tier = stage.enter_context(Cache(alone)).engine.authority
                except CacheError as error:
                    yield problem("connection", said(error), "correct the setting that the message names")
                    tier = None
            if tier is not None:
                from .doctor_servers import check_servers

                yield from check_servers(tier, settings)
        if settings.disk_on:
            from .doctor_disk import check_disk

            yield from check_disk(settings)
        if not settings.redis_on and not settings.disk_on:
            yield note("tiers", "process memory alone: nothing is shared, and nothing survives the process")


def _settings(settings: CacheSettings) -> Iterator[Finding]:
    """Check what the settings say by themselves."""
    from .findings import note, ok, warning

    if settings.namespace:
        yield ok("namespace", f"{settings.namespace!r} keeps this application's entries apart")
    if settings.serialization == "pickle":
        yield warning(
            "signing",
            "values are pickled: whoever has a signing key can run code in every process that reads",
            "set serialization to json or msgpack, or keep the keys as you keep a root password",
        )
    elif settings.signing_keys:
        yield ok("signing", f"values are signed; {len(settings.signing_keys)} keys verify")
    elif settings.redis_on:
        yield note(
            "signing",
            "values are not signed: whoever can write to the server can plant any value",
            "set signing_keys where others than this application can write",
        )
    if settings.on_outage == "serve":
        yield note("outage", "on_outage='serve': while the server is away, invalidated values may be served")
    if not settings.memory_on:
        yield note("memory", "process memory is off: every call asks the shared tier", "leave memory.enabled on")
    bound = settings.staleness_bound
    beat = min(0.5, bound / 6)
    timeout = settings.redis.socket_timeout
    if settings.redis_on and bound / 2 <= timeout:
        yield warning(
            "staleness",
            f"staleness_bound is {bound:g} s; the link gives an answer up after half of it, which is less than "
            f"redis.socket_timeout ({timeout:g} s)",
            f"set staleness_bound to {4 * timeout:g} s or more",
        )
    elif settings.redis_on:
        yield ok("staleness", f"at most {bound:g} s, watched by a heartbeat every {beat:.2g} s")
