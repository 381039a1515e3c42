"""The files of the disk tier: a directory nobody else writes to, rows that are only ever bytes, and connections.

diskcache brings the schema, the value files and their culling. What it trusts, this module does not: it would unpickle
a row that says it is a pickle, and open whatever path a row names, so whoever can write to the directory could run code
in every process that reads it. Here a row is text to bytes or it is not there, and a value file is opened component by
component below the directory, never through a link. It also keeps account of connections, because SQLite forbids to
carry one over a fork, and because `close()` must reach those of all threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, Final, cast

import diskcache
from diskcache.core import DBNAME, METADATA, MODE_BINARY, MODE_RAW

from ..codecs.envelope import REFUSED
from ..errors import SettingsError
from .disk_mark import NAME, Mark

__all__ = ["Damaged", "Database", "RawDisk", "confined_path", "erase", "locked", "remove_trash"]

_DATABASE_FILES: Final = (DBNAME, DBNAME + "-wal", DBNAME + "-shm", DBNAME + "-journal", NAME)
_VALUE_FILE: Final = re.compile(r"([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{28}\.val)")
_FOLDER: Final = re.compile(r"[0-9a-f]{2}")
_TRASH: Final = re.compile(r"trash-[0-9a-f]{16}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not waiting: a pipe in place of a file would otherwise hold the reader for ever.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})

_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS Marker (dep TEXT PRIMARY KEY, id BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID",
    (
        "CREATE TABLE IF NOT EXISTS Rule (position INTEGER PRIMARY KEY AUTOINCREMENT,"
        " namespace TEXT NOT NULL, id BLOB NOT NULL, rule BLOB NOT NULL)"
    ),
    (
        "CREATE TABLE IF NOT EXISTS Hold (dep TEXT NOT NULL, holder BLOB NOT NULL, until REAL NOT NULL,"
        " PRIMARY KEY (dep, holder)) WITHOUT ROWID"
    ),
    "CREATE TABLE IF NOT EXISTS Change (seq INTEGER PRIMARY KEY, dep TEXT NOT NULL, id BLOB NOT NULL)",
    # The first row tells this database from any other, and so its log of changes from any other.
    "INSERT INTO Change (dep, id) SELECT '', randomblob(12) WHERE NOT EXISTS (SELECT 1 FROM Change)",
)
_PROBES: Final = (
    (
        "SELECT rowid, key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value"
        " FROM Cache LIMIT 0"
    ),
    "SELECT dep, id, expires FROM Marker LIMIT 0",
    "SELECT position, namespace, id, rule FROM Rule LIMIT 0",
    "SELECT dep, holder, until FROM Hold LIMIT 0",
    "SELECT seq, dep, id FROM Change LIMIT 0",
)
_DISBELIEVE: Final = ("DELETE FROM Marker", "DELETE FROM Hold")
# A write touches some five pages; by default every two hundredth would have to copy the log back.
_LOG: Final = "PRAGMA wal_autocheckpoint = 4000"
_CONNECTION: Final = ("PRAGMA synchronous = 1", "PRAGMA mmap_size = 0", "PRAGMA trusted_schema = 0", _LOG)


_LOOK: Final = 0.02
"""Seconds after which it is looked at again whether somebody removed a file that is in use."""


class Damaged(sqlite3.DatabaseError):
    """The database is not one of ours."""


def confined_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of the tier's directory, which need not exist yet.

    Raises:
        SettingsError: something is there that others could have put there, or could change.
    """
    directory = Path(os.path.expandvars(Path(path).expanduser())).absolute()
    if os.path.expandvars(directory) != str(directory):
        raise SettingsError(f"disk.path={str(path)!r}: its name still holds a variable", variable="disk.path")
    with suppress(OSError):  # what cannot even be looked at is a matter of availability, not of settings
        _refuse_unsafe(directory, os.lstat(directory))
    return directory


def _refuse_unsafe(directory: Path, facts: os.stat_result) -> None:
    if stat.S_ISLNK(facts.st_mode):
        why = "is a symbolic link; name the directory itself"
    elif not stat.S_ISDIR(facts.st_mode):
        why = "is not a directory; remove it or name another"
    elif facts.st_uid != os.geteuid():
        why = f"belongs to user {facts.st_uid}; name a directory of this process's own user ({os.geteuid()})"
    elif facts.st_mode & 0o022:
        why = f"can be written to by others; run: chmod 700 {directory}"
    else:
        return
    raise SettingsError(f"disk.path={str(directory)!r} {why}", variable="disk.path")


def _make_directory(directory: Path) -> None:
    with suppress(FileExistsError):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    try:
        _refuse_unsafe(directory, os.lstat(directory))
    except SettingsError as error:
        raise PermissionError(errno.EACCES, str(error)) from error


@contextmanager
def locked(directory: Path, patience: float) -> Iterator[None]:
    """Keep other processes from opening or erasing the database meanwhile; creates the directory.

    Raises:
        OSError: the directory cannot be used, or another process holds the lock for longer than `patience` seconds.
    """
    _make_directory(directory)
    handle = os.open(directory / (DBNAME + "-lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, f"{directory} is being opened by another process") from None
                time.sleep(0.002)
        yield
    finally:
        os.close(handle)


def erase(directory: Path) -> None:
    """Remove the database and all value files, and nothing else; the caller holds `locked`."""
    # The database first: SQLite throws away a log that it finds beside an empty database, so that being killed
    # halfway leaves nothing that could be replayed into a new one.
    for name in _DATABASE_FILES:
        (directory / name).unlink(missing_ok=True)
    trash = directory / f"trash-{os.urandom(8).hex()}"
    trash.mkdir(mode=0o700)
    for folder in _folders(directory, _FOLDER):
        with suppress(OSError):
            folder.rename(trash / folder.name)
    remove_trash(directory)


def remove_trash(directory: Path) -> None:
    """Remove what was erased, also by others who were killed before they had: in a thread.

    There may be a million files, and whoever has found the damage is in the middle of a call.
    """
    for trash in _folders(directory, _TRASH):
        try:
            threading.Thread(target=rmtree, args=(trash, True), name="novacron_cache disk", daemon=True).start()
        except RuntimeError:
            rmtree(trash, ignore_errors=True)


def _folders(directory: Path, names: re.Pattern[str]) -> list[Path]:
    with os.scandir(directory) as found:
        return [Path(one.path) for one in found if names.fullmatch(one.name) and one.is_dir(follow_symlinks=False)]


class RawDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Rows and value files that hold bytes under text keys, and nothing else."""

    def put(self, key: Any) -> Any:
        """Return the row's form of a key, which is text itself."""
        if type(key) is not str:
            raise TypeError(f"the disk tier's keys are text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> Any:
        """Return the key of a row."""
        if not raw or type(key) is not str:
            raise Damaged("a row whose key is not text")
        return key

    def store(self, value: Any, read: Any = False, key: Any = None) -> Any:
        """Return the columns (size, mode, filename, value) of a payload; a large one goes to a file."""
        if type(value) is not bytes or read:
            raise TypeError(f"the disk tier's values are bytes, not {type(value).__name__}")
        if len(value) < self.min_file_size:
            return 0, MODE_RAW, None, value
        filename, _ = self.filename()
        self.write_file(filename, value)
        return len(value), MODE_BINARY, filename, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:
        """Return the payload of a row; what cannot be ours is refused as unreadable."""
        payload = None if read else self.payload(mode, filename, value)
        if payload is None or payload is REFUSED:
            raise FileNotFoundError(errno.ENOENT, "not a payload")
        return payload

    def payload(self, mode: Any, filename: Any, value: Any, size: int | None = None) -> bytes | None:
        """Return the payload of a row; None where there is none any more, and `REFUSED` where none of ours is there.

        Raises:
            OSError: the value file is there, but cannot be read.
        """
        if mode == MODE_RAW and filename is None:
            return value if type(value) is bytes else REFUSED
        if mode == MODE_BINARY and value is None:
            return self.read_file(filename, size)
        return REFUSED

    def write_file(self, filename: str, payload: bytes) -> None:
        """Write a new value file, or none at all."""
        for last in (False, False, False, True):
            try:
                with self._folder(filename, create=True) as (folder, name):
                    handle = os.open(name, _WRITE, 0o600, dir_fd=folder)
                    try:
                        with open(handle, "wb") as file:  # noqa: PTH123 - it is a handle, not a path
                            file.write(payload)
                    except BaseException:
                        os.unlink(name, dir_fd=folder)
                        raise
                    return
            except FileNotFoundError:  # another process removed the folder, which was empty until now
                if last:
                    raise

    def read_file(self, filename: Any, size: int | None) -> bytes | None:
        """Return what a value file holds; None when it is gone or was cut short, `REFUSED` when it is not ours."""
        if not isinstance(filename, str) or _VALUE_FILE.fullmatch(filename) is None:
            return REFUSED
        try:
            with self._folder(filename) as (folder, name):
                handle = os.open(name, _READ, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _LINKED:
                return REFUSED
            raise
        with open(handle, "rb") as file:  # noqa: PTH123 - it is a handle, not a path
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                return REFUSED
            return file.read() if size is None or facts.st_size == size else None

    def remove(self, file_path: Any) -> None:
        """Remove a value file, and the folders that it leaves empty; failing to is not an error."""
        with suppress(OSError):
            with self._folder(file_path) as (folder, name):
                os.unlink(name, dir_fd=folder)
            inner = Path(self._directory, file_path).parent
            inner.rmdir()
            inner.parent.rmdir()

    @contextmanager
    def _folder(self, filename: Any, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of a value file without following any link, and give the file's name in it."""
        match = _VALUE_FILE.fullmatch(filename) if isinstance(filename, str) else None
        if match is None:
            raise FileNotFoundError(errno.ENOENT, "not the name of a value file")
        handle = os.open(self._directory, _DIRECTORY)
        try:
            for part in match.group(1, 2):
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=handle)
                inner = os.open(part, _DIRECTORY, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle, match[3]
        finally:
            os.close(handle)


_inherited: list[sqlite3.Connection] = []
"""Connections that came over a fork: SQLite forbids even to close them here, so they stay as they are."""


class _Link:
    """One thread's connection; it is closed when the thread ends, or from outside."""

    __slots__ = ("__weakref__", "_process", "beside", "connection", "look_at")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.beside: tuple[Any, ...] | None = None
        self.look_at = 0.0
        self._process = os.getpid()

    def close(self) -> None:
        if os.getpid() != self._process:
            _inherited.append(self.connection)
            return
        with suppress(sqlite3.Error):
            self.connection.close()

    __del__ = close


class Database(diskcache.Cache):  # type: ignore[misc]  # diskcache has no types
    """The open database in a directory; the caller holds `locked` while it is created.

    Attributes:
        identity: device and inode of the database file when it was opened.

    Raises:
        sqlite3.Error: it cannot be opened; `Damaged` when it is not one of ours.
        OSError: the file cannot be made.
    """

    def __init__(self, directory: Path, *, size_limit: int, timeout: float) -> None:
        self._file = directory / DBNAME
        self._path = str(self._file)
        self._wait = timeout
        self._links: weakref.WeakSet[_Link] = weakref.WeakSet()
        self._links_lock = threading.Lock()
        self._local = threading.local()
        self._mark: Mark | None = None
        _make_private(self._file)
        settings = {
            **diskcache.DEFAULT_SETTINGS,
            "size_limit": size_limit,
            # The tier culls on its own, now and then, by an index that is there anyway; within each write, and with
            # an index for it, culling would be half of a write's cost.
            "cull_limit": 0,
            "eviction_policy": "none",
            # A mapped file that someone else cuts short ends the process, not the operation.
            "sqlite_mmap_size": 0,
        }
        try:
            self._refuse_foreign_settings(settings)
            super().__init__(str(directory), disk=RawDisk, **{**settings, "timeout": timeout})
            for statement in _SCHEMA:
                self.execute(statement)
            for statement in _PROBES:
                self.execute(statement).fetchall()
            facts = self._file.stat()
            self.identity = (facts.st_dev, facts.st_ino)
            self._mark = Mark(directory)
            self._refuse_older(self._mark)
        except BaseException as error:
            self.close_all()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
                raise Damaged(f"the tables are not ours: {error}") from error
            raise

    @property
    def values(self) -> RawDisk:
        """The value files."""
        return cast(RawDisk, self._disk)

    def execute(self, statement: str, arguments: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement on this thread's connection."""
        return self._con.execute(statement, arguments)

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row on this thread's connection."""
        self._con.executemany(statement, rows)

    def moved(self) -> bool:
        """Return whether the file at the database's path is no longer the one that is open."""
        return _identity(self._path) != self.identity

    def torn(self) -> bool:
        """Return whether a file that this thread's connection needs was removed or replaced; asked now and then.

        SQLite goes on with what it has open, and whoever opens the database meanwhile has other files.
        """
        link: _Link | None = getattr(self._local, "link", None)
        if link is None or (now := time.monotonic()) < link.look_at:
            return False
        link.look_at = now + _LOOK
        beside = (_identity(self._path + "-wal"), _identity(self._path + "-shm"))
        if link.beside is None:
            link.beside = None if None in beside else beside
            return False
        return beside != link.beside

    def changed(self, number: int) -> None:
        """Have the number of a change kept when the transaction that it is part of has been committed."""
        self._local.changed = number

    @contextmanager
    def transact(self, retry: bool = False) -> Iterator[None]:
        """Open a transaction that is committed at the end of the block; raises `diskcache.Timeout` on a busy one."""
        self._local.changed = 0
        with super().transact(retry):
            yield
        if self._local.changed and self._mark is not None:
            self._mark.note(self._local.changed)

    def in_transaction(self) -> bool:
        """Return whether this thread's connection is inside a transaction."""
        return self._con.in_transaction

    def close(self) -> None:
        """Close this thread's connection."""
        link = self._local.__dict__.pop("link", None)
        if link is not None:
            link.close()

    def close_all(self) -> None:
        """Close the connections of all threads; the caller sees to it that none is in use."""
        with self._links_lock:
            links = list(self._links)
            self._links.clear()
        for link in links:
            link.close()
        if self._mark is not None:
            self._mark.close()

    @property
    def _con(self) -> sqlite3.Connection:
        link: _Link | None = getattr(self._local, "link", None)
        if link is None:
            link = self._local.link = self._connect()
        return link.connection

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        # The original goes on for a minute while another process holds the database.
        return self._con.execute

    def _connect(self) -> _Link:
        link = _Link(
            # Whoever closes the tier closes the connections of all threads; each is used by its own alone.
            sqlite3.connect(self._file, timeout=self._wait, isolation_level=None, check_same_thread=False)
        )
        with self._links_lock:
            self._links.add(link)
        # Not from the table of settings, as the original does: whatever is there would become a statement.
        for statement in _CONNECTION:
            link.connection.execute(statement)
        return link

    def _refuse_older(self, mark: Mark) -> None:
        """Refuse a database that has lost changes, and the ids in one that may have."""
        noted = mark.newest()  # first: what others commit from here on is in the tables before it is noted
        ((newest,),) = self.execute("SELECT coalesce(max(seq), 0) FROM Change").fetchall()
        if not mark.is_current():
            with self.transact():
                for statement in _DISBELIEVE:
                    self.execute(statement)
            mark.begin(newest)
        elif newest < noted:
            raise Damaged("it has lost its latest changes")

    def _refuse_foreign_settings(self, settings: dict[str, Any]) -> None:
        """diskcache makes an attribute of each stored setting, so each must be one it knows."""
        if self.execute("SELECT name FROM sqlite_master WHERE name = 'Settings'").fetchone() is None:
            return
        known = settings.keys() | METADATA.keys()
        for key, value in self.execute("SELECT key, value FROM Settings"):
            if key not in known or (key in METADATA and not isinstance(value, int)):
                raise Damaged(f"a setting that is none: {key!r}")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)  # noqa: PTH116 - with a Path it takes three times as long
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino


def _make_private(file: Path) -> None:
    """Create the database file for this user alone; an existing one is not opened, for closing it would unlock it."""
    for name in _DATABASE_FILES:
        with suppress(FileNotFoundError):
            facts = os.lstat(file.with_name(name))
            if not stat.S_ISREG(facts.st_mode):
                raise Damaged(f"{name} is not a file")
            if facts.st_uid != os.geteuid():
                raise Damaged(f"{name} belongs to user {facts.st_uid}, who can change it")
            if facts.st_mode & 0o077:
                file.with_name(name).chmod(0o600)
    with suppress(FileExistsError):
        os.close(os.open(file, _WRITE, 0o600))
