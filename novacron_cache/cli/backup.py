"""`novacron-cache backup` and `restore`: the disk tier in one file, and back.

What keeps a restored value from being older than it should be is told in `novacron_cache.tiers.disk_backup`: values
carry ids, and the ids that count are those of today.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .progress import Progress
from .targets import (
    CannotStart,
    Target,
    cache_of,
    directory_of,
    explained,
    json_option,
    said,
    settings_of,
    target_options,
)

if TYPE_CHECKING:
    from .. import CacheSettings
    from ..tiers.disk import DiskTier

__all__ = ["backup", "restore"]

PATIENCE: Final = 5.0
"""Seconds to wait for a process that is writing; nobody but an operator waits for this."""

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Exit codes: 0 the backup is written and was read back, 2 it was not written.")
@click.argument("file", type=_FILE)
@click.option("--replace", is_flag=True, help="Replace FILE where it exists.")
@json_option
@target_options
def backup(file: Path, replace: bool, as_json: bool, target: Target) -> None:
    """Copy the disk tier to FILE, at one moment, while the application goes on.

    The file has a checksum and is read back before it gets its name. It holds values as they are stored, so nobody but
    its owner can read it.
    """
    with _disk(target) as (settings, tier):
        if not directory_of(settings).is_dir():
            raise CannotStart(f"there is no directory {directory_of(settings)}; name the one the application uses")
        with Progress("copying", None, quiet=as_json) as progress:
            count, size = tier.back_up(
                file,
                markers=not settings.redis_on,
                replace=replace,
                progress=lambda done: progress.to(done, f"{done} values"),
            )
    if as_json:
        click.echo(json.dumps({"file": str(file), "values": count, "bytes": size, "verified": True}, indent=2))
    else:
        click.echo(f"{count} values, {size} bytes, verified: {file}")


@click.command(epilog="Exit codes: 0 restored, 1 some values of the file cannot be read, 2 nothing was restored.")
@click.argument("file", type=_FILE)
@click.option(
    "--nothing-changed-since", is_flag=True,
    help="Believe the values of the file although nobody knows what was invalidated since: nothing was.",
)  # fmt: skip
@json_option
@target_options
def restore(file: Path, nothing_changed_since: bool, as_json: bool, target: Target) -> None:
    """Put the values of FILE back into the disk tier, while the application goes on.

    What was invalidated since the backup is not served: a value counts only under the ids of today, which a server
    keeps, or else the directory itself. Values that are there already stay. Where the directory was lost and no server
    knows, nothing in FILE can be believed, and the command says so.
    """
    from ..tiers.backup_file import Records

    with _disk(target) as (settings, tier):
        try:
            stream = file.open("rb")
        except OSError as error:
            raise CannotStart(f"{file}: {error.strerror}; name a file that `backup` wrote") from error
        with stream:
            records = Records(stream, str(file))
            markers = _markers(settings, tier, nothing_changed_since=nothing_changed_since)
            with Progress("restoring", None, quiet=as_json) as progress:
                done = tier.restore(
                    records,
                    _until(settings),
                    markers=markers,
                    progress=lambda done: progress.to(done, f"{done} values"),
                )
    told = {
        "file": str(file),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(records.facts.created)),
        "restored": done.stored,
        "present": done.present,
        "expired": done.expired,
        "unreadable": done.unreadable,
        "markers": done.markers,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(
            f"{done.stored} values restored; {done.present} were there, {done.expired} have expired, "
            f"{done.unreadable} cannot be read"
        )
    if done.unreadable:
        raise click.exceptions.Exit(1)


def _markers(settings: CacheSettings, tier: DiskTier, *, nothing_changed_since: bool) -> bool:
    """Return whether markers have to be restored too.

    Raises:
        CannotStart: nothing that is restored could be served, or the option makes no sense here.
    """
    from ..effects import Fetch
    from ..markers import NAMESPACE

    if settings.redis_on:
        if nothing_changed_since:
            raise CannotStart("--nothing-changed-since is for a disk without a server; the server knows what changed")
        return False
    known = tier.perform(Fetch([], [NAMESPACE])).ids[0] is not None
    if not known and not nothing_changed_since:
        raise CannotStart(
            f"{directory_of(settings)} knows nothing of what was invalidated since the backup, so no value in it can "
            f"be believed; if nothing has changed since then, say --nothing-changed-since, else let the application "
            f"load"
        )
    return not known


def _until(settings: CacheSettings) -> Any:
    """Return what tells for how long a payload may be of use, or that it cannot be read."""
    from ..codecs import make_pipeline, read_times
    from ..errors import DecodeError, DictionaryUnknown

    pipeline = make_pipeline(
        namespace=settings.namespace or "",
        max_decoded_bytes=settings.max_decoded_bytes,
        signing_keys=[key.get_secret_value() for key in settings.signing_keys],
    )

    def until(key: str, payload: bytes) -> float | None:
        try:
            return pipeline.open(key, payload)[0].stale_until
        except DictionaryUnknown:
            # It has its proof. Whether its dictionary is in the file too, or on the server, is seen when it is read.
            return read_times(payload)[2]
        except DecodeError:
            return None

    return until


@contextmanager
def _disk(target: Target) -> Iterator[tuple[CacheSettings, DiskTier]]:
    """Open the directory of the disk tier by itself, without the cache around it.

    Raises:
        CannotStart: there is none, or it cannot be used.
    """
    from ..tiers.disk import DiskTier

    with explained():
        if target.app is not None:
            cache = cache_of(target.app, "--app")
            settings = cache.settings
            cache.close()
        else:
            settings = settings_of(target)
        if not settings.disk_on:
            raise CannotStart("there is no disk tier: give --disk, or set NOVACRON_CACHE_DISK__PATH")
        tier = DiskTier(
            directory_of(settings),
            size_limit=settings.disk.size_limit,
            namespace=settings.namespace or "",
            timeout=PATIENCE,
        )
        try:
            yield settings, tier
        except OSError as error:
            raise CannotStart(said(error)) from error
        finally:
            tier.close()
