"""The last tier: a directory that survives restarts and that the processes of one machine share.

Payloads are rows of diskcache and expire with it. Markers and rules have tables of their own in the same database (see
`disk_markers`), so that culling never takes one, and one transaction covers both. A read writes nothing and is one
statement, whatever the number of keys.

Nothing here may slow a caller down or reach him as an error. A lock that another process holds costs `timeout` at most;
a full disk, a read-only one or a damaged file is a `TierUnavailableError`. A damaged database is erased and made anew,
by whoever meets it first: it loses its markers with its payloads, and a missing marker matches nothing. Processes that
still have the old file open notice it after their next operation, which they then do not believe.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import diskcache

from ..effects import Capture, Delete, Fetch, Fetched, Hold, Item, Operation, Purge, ReadRules, Release, Renew, Store
from ..entry import Clock, SystemClock
from ..errors import SettingsError, TierUnavailableError
from ..events import logger
from . import BlockingTier, disk_backup
from .backup_file import Facts, Records
from .disk_database import Damaged, Database, confined_path, erase, locked, remove_trash
from .disk_markers import BATCH, Markers, Place, batches, slots
from .gate import Gate

__all__ = ["DiskTier"]

T = TypeVar("T")
R = TypeVar("R")

THREADS: Final = 2
FEW: Final = 16
"""How many payloads go at once where there are too many: large ones soon make enough room."""

TIDY_EVERY: Final = 1024
"""After how many payloads what is expired or too much is removed."""

TIDY_FIRST: Final = 16
"""After how many payloads this happens first, so that processes that live briefly do their share."""

END_PATIENCE: Final = 0.5
"""Seconds to wait for operations to end before a fork and before closing."""

FULL_FOR: Final = 0.4
"""Seconds for which the disk has to be full before the directory is emptied: a call fails, and one after a pause."""

FULL_SPELL: Final = 10.0
"""Seconds without such a failure after which the disk counts as having had room."""

_FAILURES: Final = (sqlite3.Error, diskcache.Timeout, OSError, UnicodeError)
"""All that SQLite, diskcache and the file system raise; each becomes a `TierUnavailableError`."""

_ONE = "SELECT mode, filename, value, size FROM Cache WHERE key = ? AND raw = 1 AND expire_time > ?"
_MANY = "SELECT key, mode, filename, value, size FROM Cache WHERE key IN (%s) AND raw = 1 AND expire_time > ?"
_FILES = "SELECT filename FROM Cache WHERE key IN (%s) AND raw = 1 AND filename IS NOT NULL"
_PUT = (
    "INSERT INTO Cache (key, raw, store_time, expire_time, access_time, size, mode, filename, value)"
    " VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, raw) DO UPDATE SET store_time = excluded.store_time,"
    " expire_time = excluded.expire_time, size = excluded.size, mode = excluded.mode, filename = excluded.filename,"
    " value = excluded.value"
)
_PUT_INLINE = _PUT + " WHERE filename IS NULL"
"""The same, but for a row whose value is in a file, which has to be removed with it: that stays as it is."""
_NAMED = "SELECT rowid, filename FROM Cache WHERE key IN (%s) AND raw = 1"
_EXPIRED = "SELECT rowid, filename FROM Cache WHERE expire_time <= ? LIMIT ?"
_FIRST_TO_EXPIRE = "SELECT rowid, filename FROM Cache ORDER BY expire_time LIMIT ?"
_KEYS = "SELECT key FROM Cache WHERE key > ? AND key < ? AND raw = 1 AND expire_time > ? ORDER BY key LIMIT ?"
_OWN = "SELECT rowid, filename FROM Cache WHERE key >= ? AND key < ? AND raw = 1 AND rowid <= ? LIMIT ?"


class _MovedError(OSError):
    """The database that is open is no longer the one in the directory."""


class DiskTier(BlockingTier):
    """A directory as a tier.

    Args:
        path: the directory; it is created for this user alone. A symbolic link, another user's directory, or one that
            others can write to is refused.
        size_limit: bytes that payloads may take; beyond it those go that would expire first.
        namespace: keeps applications apart that share a directory.
        timeout: seconds to wait for another process that is writing, and twice that for one that is opening the
            database, or making it anew.
        clock: what payloads and markers are aged by; only its `time()` is used, for the files outlive the process.

    Raises:
        SettingsError: the path or the size limit cannot be used.
    """

    name: ClassVar[str] = "disk"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size_limit: int = 2**30,
        namespace: str = "",
        timeout: float = 0.02,
        clock: Clock | None = None,
    ) -> None:
        if size_limit < 1:
            raise SettingsError(f"disk.size_limit={size_limit!r}: expected bytes", variable="disk.size_limit")
        self._directory = confined_path(path)
        self._namespace = namespace
        self._size_limit = size_limit
        self._timeout = timeout
        self._patience = 2 * timeout
        self._clock: Clock = clock if clock is not None else SystemClock()
        # The length keeps ("a", "b:c") and ("a:b", "c") apart.
        self._prefix = f"{len(namespace)}:{namespace}:"
        self._markers = Markers(namespace, self._prefix)
        self._database: Database | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._stored = TIDY_EVERY - TIDY_FIRST
        self._full = (0.0, 0.0)
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        self._gate = Gate()
        self._opening = threading.Lock()

    # -- carrying out -------------------------------------------------------------------------------------------

    def perform(self, operation: Operation) -> Any:
        """Carry out an operation.

        Raises:
            TierUnavailableError: the directory cannot be used now.
        """
        # Payloads alone may come from anywhere, for whoever asks judges them by ids from elsewhere.
        return self._guarded(super().perform, operation, anywhere=type(operation) is Fetch and not operation.deps)

    def newest_change(self) -> Place:
        """Return the place in the log of changes from which on `changes` tells what happens.

        Raises:
            TierUnavailableError: as for `perform`.
        """
        return self._guarded(lambda _: self._markers.newest(self._open()), None)

    def changes(self, since: Place) -> tuple[Place, list[tuple[str, bytes]]] | None:
        """Return what lost its id after a place in the log of changes, by any process, and the place to go on from.

        Returns:
            The place and (dependency, new id) pairs in their order, with the holder as the new id of what is held; None
            where the log does not reach back to `since`.

        Raises:
            TierUnavailableError: as for `perform`.
        """
        return self._guarded(lambda place: self._markers.changes(self._open(), place), since)

    # -- for operators --------------------------------------------------------------------------------------------

    def scan(self, count: int = 1000) -> Iterator[list[str]]:
        """Yield the keys of all payloads that have not expired, `count` at a time.

        Raises:
            TierUnavailableError: as for `perform`.
        """
        last, end = self._prefix, self._prefix[:-1] + ";"
        while True:
            arguments = (last, end, self._clock.time(), count)
            rows = self._guarded(lambda given: self._open().execute(_KEYS, given).fetchall(), arguments)
            if rows:
                yield [key[len(self._prefix) :] for (key,) in rows]
            if len(rows) < count:
                return
            ((last,),) = rows[-1:]

    def volume(self) -> int:
        """Return the bytes that the directory's payloads and database take; raises what `perform` raises."""
        return self._guarded(lambda _: int(self._open().volume()), None)

    def back_up(
        self,
        path: Path,
        *,
        markers: bool,
        replace: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> tuple[int, int]:
        """Copy what there is to one file, at one moment, while others go on using the directory.

        Args:
            path: the file.
            markers: whether the markers are copied too: they are in this tier only where no server is in front of it.
            replace: whether an existing file may be replaced.
            progress: called with the number of payloads written so far.

        Returns:
            The number of payloads, and the size of the file in bytes.

        Raises:
            BackupError: the file exists, or cannot be written, or cannot be read back.
            TierUnavailableError: as for `perform`.
        """
        facts = Facts(self._namespace, self._clock.time(), markers)

        def copy(_: None) -> tuple[int, int]:
            return disk_backup.copy(self._open(), self._prefix, path, facts, replace=replace, progress=progress)

        return self._guarded(copy, None)

    def restore(
        self,
        records: Records,
        until: Callable[[str, bytes], float | None],
        *,
        markers: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> disk_backup.Restored:
        """Put back the payloads of a backup that are not there; see `disk_backup` for what keeps that coherent.

        Args:
            records: the backup.
            until: returns for how long a payload may be of use (epoch seconds), or None where it cannot be read.
            markers: whether markers are restored too, for nothing was invalidated since the backup was made.
            progress: called with the number of payloads gone through.

        Raises:
            BackupError: it is of another namespace, or markers are asked for that it does not have, or that have been
                drawn anew here.
            TierUnavailableError: as for `perform`.
        """
        where = disk_backup.Place(str(self._directory), self._namespace, self._prefix, self._clock.time())

        def put_back(_: None) -> disk_backup.Restored:
            database = self._open()
            while self._delete_rows(database, _EXPIRED, (where.now, BATCH)):
                pass
            done = disk_backup.put_back(database, where, records, until, markers=markers, progress=progress)
            self._stored = TIDY_EVERY
            self._tidy(database, [])
            return done

        return self._guarded(put_back, None)

    def _guarded(self, work: Callable[[T], R], argument: T, *, anywhere: bool = False) -> R:
        """Do something with the database; whatever fails is one kind of error, and is repaired where it can be."""
        database: Database | None = None
        gate = self._gate
        try:
            gate.enter(self._patience)
            try:
                database = self._open()
                result = work(argument)
                # Asked afterwards: what was done up to here counts if the file was still the one.
                if database.torn():
                    raise Damaged("files that belong to it were removed while it was in use")
                if not anywhere and database.moved():
                    raise _MovedError("the database was replaced")
                return result
            except _FAILURES:
                if database is not None:
                    _drop_broken(database)
                raise
            finally:
                gate.leave()
        except _FAILURES as error:
            with suppress(*_FAILURES):
                self._recover(database, error)
            raise TierUnavailableError(
                f"{self._directory}: {str(error) or type(error).__name__}", tier=self.name
            ) from error

    async def aperform(self, operation: Operation) -> Any:
        """Do what `perform` does in one of the tier's own threads."""
        try:
            with self._opening:
                if self._pool is None and not self._closed:
                    self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="novacron-cache-disk")
                pool = self._pool
            if pool is None:
                raise RuntimeError("closed")
            pending = asyncio.get_running_loop().run_in_executor(pool, self.perform, operation)
        except RuntimeError as error:
            raise TierUnavailableError(f"{self._directory}: {error}", tier=self.name) from error
        return await pending

    def close(self) -> None:
        """Close the connections of all threads; a second call does nothing."""
        with self._opening:
            self._closed = True
            pool, self._pool = self._pool, None
        held = self._gate.hold(END_PATIENCE)
        try:
            self._retire(self._database)
        finally:
            if held:
                self._gate.free()
        if pool is not None:
            pool.shutdown(wait=False)

    def _open(self) -> Database:
        if self._closed:
            raise TierUnavailableError(f"{self._directory}: closed", tier=self.name)
        if (database := self._database) is not None:
            return database
        with self._opening:
            if self._database is None:
                with locked(self._directory, self._patience):
                    try:
                        self._database = Database(self._directory, size_limit=self._size_limit, timeout=self._timeout)
                        remove_trash(self._directory)
                    except sqlite3.DatabaseError as error:
                        if _is_damage(error):
                            _tell(self._directory, error)
                            erase(self._directory)
                        raise
            return self._database

    def _retire(self, database: Database | None) -> None:
        if database is not None and self._database is database:
            self._database = None
            database.close_all()

    def _recover(self, database: Database | None, error: BaseException) -> None:
        """See to it that the next operation finds a database that works."""
        damaged = isinstance(error, sqlite3.DatabaseError) and _is_damage(error)
        if database is not None and _is_full(error):
            damaged = self._without_room(database)
        if database is None or not (damaged or _is_foreign(error) or database.moved()):
            return
        if not self._gate.hold(self._patience):
            return
        try:
            self._retire(database)
            if damaged:
                with locked(self._directory, self._patience):
                    # Another process may have made it anew in the meantime.
                    if not database.moved():
                        _tell(self._directory, error)
                        erase(self._directory)
        finally:
            self._gate.free()

    def _without_room(self, database: Database) -> bool:
        """Give back what the log takes; return whether that has not helped, so that the directory has to be emptied.

        Nothing can be deleted from a database that cannot grow. And where an invalidation cannot be written, what it
        should have reached must not stay.
        """
        now = time.monotonic()
        since, last = self._full
        self._full = since, last = (since if now - last < FULL_SPELL else now), now
        if last - since > FULL_FOR:
            self._full = (0.0, 0.0)
            return True
        self._gate.enter(self._patience)
        try:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._gate.leave()
        return False

    # -- operations ---------------------------------------------------------------------------------------------

    def fetch(self, operation: Fetch) -> Fetched:
        """Carry out `effects.Fetch`, with one statement for payloads and one for ids."""
        database, now = self._open(), self._clock.time()
        keys, deps = operation.keys, operation.deps
        if len(keys) == 1:
            rows = database.execute(_ONE, (self._prefix + keys[0], now)).fetchall()
            payloads = [database.values.payload(mode, name, value, size) for mode, name, value, size in rows] or [None]
        else:
            found: dict[str, bytes | None] = {}
            for names in batches(self._prefix, keys):
                for key, mode, name, value, size in database.execute(_MANY % slots(names), (*names, now)):
                    found[key] = database.values.payload(mode, name, value, size)
            payloads = [found.get(self._prefix + key) for key in keys]
        if not deps:
            return Fetched(payloads, [])
        ids = self._markers.ids(database, deps, now)
        return Fetched(payloads, [ids[dep][0] if dep in ids else None for dep in deps])

    def capture(self, operation: Capture) -> list[bytes | None]:
        """Carry out `effects.Capture`."""
        return self._markers.capture(self._open(), operation, self._clock.time())

    def store(self, operation: Store) -> bool:
        """Carry out `effects.Store`: the markers in the same transaction as the first payloads."""
        database, now = self._open(), self._clock.time()
        if len(operation.items) == 1 and not operation.extend and self._put_inline(database, operation.items[0], now):
            self._tidy(database, operation.items)
            return True
        expires = now + operation.life
        items = list({item.key: item for item in operation.items}.values())  # of one key the last counts
        for start in range(0, len(items) or 1, BATCH):
            with self._replacing(database, items[start : start + BATCH], now):
                if start == 0:
                    self._markers.extend(database, operation.extend, expires, now)
        self._tidy(database, items)
        return True

    def renew(self, operation: Renew) -> bool:
        """Carry out `effects.Renew`."""
        self._markers.renew(self._open(), operation, self._clock.time())
        return True

    def hold(self, operation: Hold) -> list[bool]:
        """Carry out `effects.Hold`."""
        return self._markers.hold(self._open(), operation, self._clock.time())

    def release(self, operation: Release) -> bool:
        """Carry out `effects.Release`."""
        self._markers.release(self._open(), operation, self._clock.time())
        return True

    def read_rules(self, operation: ReadRules) -> list[tuple[bytes, bytes]]:
        """Carry out `effects.ReadRules`."""
        return self._markers.rules(self._open())

    def delete(self, operation: Delete) -> bool:
        """Carry out `effects.Delete`."""
        database = self._open()
        for names in batches(self._prefix, operation.keys):
            self._delete_rows(database, _NAMED % slots(names), names)
        return True

    def purge(self, operation: Purge) -> bool:
        """Carry out `effects.Purge`, a few rows in each transaction, and empty the write-ahead log."""
        database = self._open()
        database.execute("PRAGMA secure_delete = 1")  # else some builds of SQLite leave the bytes where they are
        ((last,),) = database.execute("SELECT coalesce(max(rowid), 0) FROM Cache").fetchall()
        # All that begins with the prefix: its last character is ":", and ";" is the next one.
        own = (self._prefix, self._prefix[:-1] + ";", last, BATCH)
        while self._delete_rows(database, _OWN, own):
            pass
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return True

    # -- statements ---------------------------------------------------------------------------------------------

    def _put_inline(self, database: Database, item: Item, now: float) -> bool:
        """Write one payload in one statement, where neither it nor what it replaces takes a file.

        A transaction of several statements takes twice as long. Returns whether it was written.
        """
        values = database.values
        if len(item.payload) >= values.min_file_size:
            return False
        row = (self._prefix + item.key, now, now + item.ttl, now, *values.store(item.payload))
        return database.execute(_PUT_INLINE, row).rowcount == 1

    @contextmanager
    def _replacing(self, database: Database, items: Sequence[Item], now: float) -> Iterator[None]:
        """Write payloads in one transaction with what is done inside, which comes before them."""
        values, files, rows = database.values, list[str](), list[tuple[Any, ...]]()
        try:
            # The value files come first, so that no other process waits for them.
            for item in items:
                size, mode, filename, value = values.store(item.payload)
                if filename is not None:
                    files.append(filename)
                rows.append((self._prefix + item.key, now, now + item.ttl, now, size, mode, filename, value))
            replaced: list[tuple[Any]] = []
            with database.transact():
                yield
                for names in batches(self._prefix, [item.key for item in items]):
                    replaced += database.execute(_FILES % slots(names), names).fetchall()
                database.executemany(_PUT, rows)
        except BaseException:
            for filename in files:
                values.remove(filename)
            raise
        for (filename,) in replaced:
            values.remove(filename)

    def _delete_rows(self, database: Database, select: str, arguments: Sequence[Any]) -> int:
        """Delete the rows that a statement selects, then their files; return how many there were."""
        with database.transact():
            rows = database.execute(select, arguments).fetchall()
            if rows:
                # Row ids are integers, so they may be part of the text.
                chosen = ",".join(str(int(row)) for row, _ in rows)
                database.execute(f"DELETE FROM Cache WHERE rowid IN ({chosen})")  # noqa: S608
        for _, filename in rows:
            if filename is not None:
                database.values.remove(filename)
        return len(rows)

    def _tidy(self, database: Database, items: Sequence[Item]) -> None:
        """Now and then remove what has expired and what is too much."""
        # A payload that is large for the limit counts as many, so that the limit is never passed by far.
        self._stored += sum(1 + len(item.payload) * TIDY_EVERY * 32 // self._size_limit for item in items)
        if self._stored < TIDY_EVERY:
            return
        self._stored = 0
        # The payloads are stored; that a busy database is not tidied now is no failure.
        with suppress(diskcache.Timeout):
            now = self._clock.time()
            self._markers.forget(database, now)
            while self._delete_rows(database, _EXPIRED, (now, BATCH)):
                pass
            while database.volume() > self._size_limit and self._delete_rows(database, _FIRST_TO_EXPIRE, (FEW,)):
                pass


def _drop_broken(database: Database) -> None:
    """Close this thread's connection where a failed statement has left it inside a transaction."""
    with suppress(*_FAILURES):
        if database.in_transaction():
            database.close()


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    # A log that was cut short under those who have it open stays so: nobody recovers it while it is in use.
    whole = code != sqlite3.SQLITE_IOERR_SHORT_READ
    return isinstance(error, Damaged) or not whole or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _tell(directory: Path, error: BaseException) -> None:
    logger.warning("the database in %s is not believed any more and is made anew: %s", directory, error)


def _is_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_foreign(error: BaseException) -> bool:
    """Return whether a table is missing: opening the database again makes it, or finds that it cannot be ours."""
    return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY_DBMOVED)


# SQLite forbids to carry a connection over a fork: the child would believe in locks that only the parent holds.
_alive: weakref.WeakSet[DiskTier] = weakref.WeakSet()
_forking = threading.local()


def _before_fork() -> None:
    _forking.held = []
    for tier in sorted(_alive, key=id):
        if tier._gate.hold(END_PATIENCE):
            _forking.held.append(tier)
            tier._retire(tier._database)


def _after_fork_in_parent() -> None:
    for tier in _forking.__dict__.pop("held", ()):
        tier._gate.free()


def _after_fork_in_child() -> None:
    _forking.__dict__.clear()
    for tier in _alive:
        tier._database = None
        tier._pool = None
        tier._reset()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
