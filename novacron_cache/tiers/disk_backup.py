"""A copy of the disk tier in one file: written while others use the directory, and restored without bringing back
what has been invalidated since. What the file looks like is told in `backup_file`.

Theory. A payload carries the ids it was loaded under, so restoring one can do no harm where the *current* markers are:
what was invalidated after the copy was made has another id by now and does not match. Therefore payloads are restored
and markers are not. With a server in front of the disk that is all there is to it, for the server keeps the markers.
Where the disk itself keeps them, they may be lost together with the payloads. Then nobody knows what was invalidated
since; a directory without markers believes nothing, and restoring the markers as well brings back the time of the copy.
So that is done only for somebody who says that nothing has changed since then, and only where no marker has been drawn
meanwhile: two histories are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..codecs.envelope import REFUSED
from ..errors import TierUnavailableError
from ..markers import RULES, is_id
from .backup_file import BackupError, Facts, Record, Records, write_file
from .disk_database import Database
from .disk_markers import BATCH

__all__ = ["Place", "Restored", "copy", "put_back"]

_PAYLOADS = (
    "SELECT key, expire_time, mode, filename, value, size FROM Cache"
    " WHERE key >= ? AND key < ? AND raw = 1 AND expire_time > ?"
)
_MARKERS = "SELECT dep, id, expires FROM Marker WHERE dep >= ? AND dep < ? AND expires > ?"
_RULES_OF = "SELECT id, rule FROM Rule WHERE namespace = ? ORDER BY position"
_ANY_MARKER = "SELECT 1 FROM Marker WHERE dep >= ? AND dep < ? AND expires > ? LIMIT 1"
_ANY_HOLD = "SELECT 1 FROM Hold WHERE dep >= ? AND dep < ? AND until > ? LIMIT 1"
_ADD_MARKER = "INSERT OR IGNORE INTO Marker (dep, id, expires) VALUES (?, ?, ?)"
_DROP_EXPIRED_MARKERS = "DELETE FROM Marker WHERE dep >= ? AND dep < ? AND expires <= ?"
_DROP_RULES = "DELETE FROM Rule WHERE namespace = ?"
_ADD_RULE = "INSERT INTO Rule (namespace, id, rule) VALUES (?, ?, ?)"
_PUT_NEW = (
    "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, size, mode, filename, value)"
    " VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, raw) DO NOTHING"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to restore.

    Attributes:
        directory: what messages call it.
        namespace: whose payloads are restored.
        prefix: what their keys begin with in the tables.
        now: epoch seconds.
    """

    directory: str
    namespace: str
    prefix: str
    now: float


@dataclass(slots=True)
class Restored:
    """What restoring did.

    Attributes:
        stored: payloads that are there again.
        present: payloads that were left out because the directory has one under the same key.
        expired: payloads whose time is over.
        unreadable: payloads that are damaged, or not signed by a key known here.
        markers: markers that were restored.
    """

    stored: int = 0
    present: int = 0
    expired: int = 0
    unreadable: int = 0
    markers: int = 0


# -- writing ----------------------------------------------------------------------------------------------------------


def copy(
    database: Database, prefix: str, path: Path, facts: Facts, *, replace: bool, progress: Callable[[int], None]
) -> tuple[int, int]:
    """Write a backup of one namespace; return the number of payloads and the size of the file in bytes.

    Args:
        database: where from.
        prefix: what the keys of the namespace begin with.
        path: the file.
        facts: what the backup says about itself.
        replace: whether an existing file may be replaced.
        progress: called with the number of payloads written so far, now and then.

    Raises:
        BackupError: the file exists, or cannot be written, or what was written cannot be read back.
    """
    count = 0

    def records() -> Generator[Record, None, None]:
        nonlocal count
        yield "h", {"namespace": facts.namespace, "created": facts.created, "markers": facts.markers}
        with closing(_export(database, prefix, facts)) as exported:
            for record in exported:
                yield record
                if record[0] == "p":
                    count += 1
                    if not count % BATCH:
                        progress(count)

    with closing(records()) as found:  # its transaction ends here, also when the file cannot be written
        size = write_file(path, found, replace=replace)
    return count, size


def _export(database: Database, prefix: str, facts: Facts) -> Generator[Record, None, None]:
    """Yield the records of one namespace as they are at one moment; others may read and write meanwhile.

    A value file that somebody removes before its turn comes is left out: its payload is not current any more.

    Raises:
        TierUnavailableError: a value file cannot be read.
    """
    cut, own = len(prefix), (prefix, prefix[:-1] + ";", facts.created)
    database.execute("BEGIN")  # what is read from here on is one state of the database
    try:
        if facts.markers:
            for dep, marker_id, expires in database.execute(_MARKERS, own):
                if is_id(marker_id):
                    yield "m", dep[cut:], marker_id, expires
            for rule_id, rule in database.execute(_RULES_OF, (facts.namespace,)):
                if is_id(rule_id):
                    yield "r", rule_id, rule
        for key, expires, mode, filename, value, size in database.execute(_PAYLOADS, own):
            try:
                payload = database.values.payload(mode, filename, value, size if filename is not None else None)
            except OSError as error:  # not of the file that is being written
                raise TierUnavailableError(f"the value file {filename} cannot be read: {error}", tier="disk") from error
            if payload is not None and payload is not REFUSED:
                yield "p", key[cut:], expires, payload
    finally:
        database.execute("ROLLBACK")


# -- restoring --------------------------------------------------------------------------------------------------------


def put_back(
    database: Database,
    place: Place,
    records: Records,
    until: Callable[[str, bytes], float | None],
    *,
    markers: bool,
    progress: Callable[[int], None],
) -> Restored:
    """Restore payloads that are not there, and markers where that is asked for.

    Args:
        database: where to.
        place: where to, too.
        records: the backup.
        until: returns for how long a payload may be of use (epoch seconds), or None where it cannot be read.
        markers: whether markers and rules are restored.
        progress: called with the number of payloads gone through.

    Raises:
        BackupError: it is of another namespace, or markers are asked for that it does not have, or the namespace has
            markers here.
    """
    facts, done = records.facts, Restored()
    if facts.namespace != place.namespace:
        raise BackupError(f"the backup is of the namespace {facts.namespace!r}, not {place.namespace!r}; name that one")
    if markers and not facts.markers:
        raise BackupError(
            "the backup has no markers, because a server kept them when it was made; restore it behind that server"
        )
    if markers:
        # First, so that what is invalidated from here on is known when the payloads come.
        done.markers = _restore_markers(database, place, records)
    seen, payloads = 0, (record for record in records if record[0] == "p")
    while batch := list(islice(payloads, BATCH)):
        _put(database, place, batch, until, done)
        seen += len(batch)
        progress(seen)
    return done


def _restore_markers(database: Database, place: Place, records: Iterable[Record]) -> int:
    """Restore markers and rules where the namespace has none; return how many.

    In one transaction: whoever draws a marker at the same time does so before it, or finds what was restored.
    """
    prefix, namespace, now = place.prefix, place.namespace, place.now
    own = (prefix, prefix[:-1] + ";", now)
    rules: list[tuple[bytes, bytes]] = []
    count = 0
    with database.transact():
        if any(database.execute(known, own).fetchone() for known in (_ANY_MARKER, _ANY_HOLD)):
            raise BackupError(
                f"{place.directory} has markers of its own, so it is in use and nothing of the backup can be believed; "
                f"let the application load"
            )
        database.execute(_DROP_EXPIRED_MARKERS, own)
        database.execute(_DROP_RULES, (namespace,))
        for record in records:
            if record[0] == "m" and record[3] > now:
                database.execute(_ADD_MARKER, (prefix + record[1], *record[2:]))
                count += record[1] != RULES
            elif record[0] == "r":
                rules.append((record[1], record[2]))
        database.executemany(_ADD_RULE, [(namespace, *rule) for rule in rules])
    return count


def _put(
    database: Database,
    place: Place,
    batch: list[Record],
    until: Callable[[str, bytes], float | None],
    done: Restored,
) -> None:
    values, now = database.values, place.now
    rows: list[tuple[Any, ...]] = []
    unused: list[str | None] = []
    try:
        for _, key, expires, payload in batch:
            end = until(key, payload)
            if end is None:
                done.unreadable += 1
            elif min(end, expires) <= now:
                done.expired += 1
            else:
                size, mode, filename, value = values.store(payload)
                unused.append(filename)
                rows.append((place.prefix + key, now, float(min(end, expires)), now, size, mode, filename, value))
        with database.transact():
            there = [row for row in rows if not database.execute(_PUT_NEW, row).rowcount]
        unused = [row[6] for row in there]
        done.stored += len(rows) - len(there)
        done.present += len(there)
    finally:
        for filename in unused:
            if filename is not None:
                values.remove(filename)
