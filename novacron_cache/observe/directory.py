"""Figures of several processes of one machine, summed through a directory.

For servers that fork workers: any worker may be the one that is asked, and each has counted its own calls alone. So
each keeps its latest snapshot in a file, and whoever is asked adds them up. A worker that has ended leaves its file:
its counters stay in the sum, for a counter must not fall, and its gauges do not. Many files of the dead become one,
`retired`, which names those it holds; they are ignored from then on, so nothing is counted twice however the process
that put them together dies.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import SettingsError
from .snapshot import Snapshot, merged

MANY: Final = 16
"""How many files of processes that have ended are kept before they are put together."""

_TRIES: Final = 3

_FILE: Final = re.compile(r"novacron_cache-[^/]*\.snapshot")


class SnapshotDirectory:
    """The snapshots that processes keep in a directory.

    Args:
        path: the directory; it is created where it is missing. Processes see each other by their process ids, so that
            those of two containers need two directories.
        namespace: whose snapshots are summed; a directory may serve several applications.

    Raises:
        SettingsError: the directory cannot be made, or not be written to.
    """

    def __init__(self, path: str | os.PathLike[str], namespace: str) -> None:
        self._path = Path(path)
        self._namespace = namespace
        self._stem = f"novacron_cache-{namespace}"
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"monitor.directory={str(path)!r} cannot be made: {error}", variable="monitor.directory"
            ) from None
        if not os.access(self._path, os.W_OK | os.X_OK):
            raise SettingsError(f"monitor.directory={str(path)!r} cannot be written to", variable="monitor.directory")

    def write(self, snapshot: Snapshot, *, final: bool = False) -> None:
        """Keep the snapshot of this process in place of its last one; a disk that is full costs its freshness alone.

        Args:
            snapshot: the figures.
            final: whether it is the last one, so that only its counters matter from now on.
        """
        snapshot.facts = {
            **snapshot.facts, "pid": os.getpid(), "started": _started(os.getpid()), "ended": final,
        }  # fmt: skip
        name = self._name(snapshot.process)
        with contextlib.suppress(OSError):
            self._replace(name, snapshot.encode())

    def others(self, process: str) -> list[Snapshot]:
        """Return the snapshots of all processes but one; of those that have ended, without gauges."""
        found: list[Snapshot] = []
        for _ in range(_TRIES):
            before = self._mark()
            found = self._others(process)
            if self._mark() == before:
                break  # else what was read from one file may have moved to the other meanwhile
        return found

    def _others(self, process: str) -> list[Snapshot]:
        own = self._name(process)
        retired = self._read(self._retired())
        held = _held(retired) if retired is not None else set()
        found: list[Snapshot] = [] if retired is None else [retired.counters_only()]
        dead: dict[str, Snapshot] = {}
        for name in self._names():
            if name in (own, self._retired()) or name in held:
                continue
            one = self._read(name)
            if one is None or one.facts.get("namespace", "") != self._namespace:
                continue
            if one.facts.get("ended") or not _alive(one):
                dead[name] = one
                one = one.counters_only()
            found.append(one)
        if len(dead) > MANY or held:
            self._tidy(len(dead) > MANY)
        return found

    def _tidy(self, many: bool) -> None:
        """Put the files of the dead together, one process at a time; who finds another at it leaves it to that one."""
        with self._locked() as locked:
            if not locked:
                return
            retired = self._read(self._retired()) or Snapshot(facts={"namespace": self._namespace})
            held = _held(retired)
            remaining = {name for name in held if (self._path / name).exists()}
            dead: dict[str, Snapshot] = {}
            for name in self._names() if many else ():
                if name == self._retired() or name in held:
                    continue
                one = self._read(name)
                if (
                    one is not None
                    and one.facts.get("namespace", "") == self._namespace
                    and (one.facts.get("ended") or not _alive(one))
                ):
                    dead[name] = one.counters_only()
            if dead:
                retired = merged([retired, *dead.values()])
            retired.facts = {"namespace": self._namespace, "holds": sorted({*remaining, *dead})}
            with contextlib.suppress(OSError):
                self._replace(self._retired(), retired.encode())
                # Only now: until it is said that they are held, they have to be read.
                for name in (*remaining, *dead):
                    (self._path / name).unlink(missing_ok=True)

    def _name(self, process: str) -> str:
        return f"{self._stem}-{re.sub(r'[^A-Za-z0-9_.]', '_', process)}.snapshot"

    def _mark(self) -> tuple[int, int] | None:
        """Return what changes whenever files of the dead were put together."""
        try:
            stat = (self._path / self._retired()).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def _retired(self) -> str:
        return f"{self._stem}-retired.snapshot"

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._path.iterdir() if _FILE.fullmatch(path.name))
        except OSError:
            return []

    def _read(self, name: str) -> Snapshot | None:
        try:
            handle = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as file:  # noqa: PTH123 - it is a handle, not a path
                return Snapshot.decode(file.read())
        except OSError:
            return None

    def _replace(self, name: str, data: bytes) -> None:
        temporary = self._path / f"{name}.{os.getpid()}.new"
        try:
            # A link that somebody left under this name is removed below, and not followed.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o600)
            with open(handle, "wb") as file:  # noqa: PTH123 - it is a handle, not a path
                file.write(data)
            temporary.replace(self._path / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        try:
            import fcntl

            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            lock = open(os.open(self._path / f"{self._stem}.lock", flags, 0o600), "wb")  # noqa: PTH123, SIM115
        except (ImportError, OSError):
            yield False
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


def _held(retired: Snapshot) -> set[str]:
    """Return the names of the files that a snapshot holds; what it says is removed, so nothing else may be named."""
    names = retired.facts.get("holds", ())
    names = names if isinstance(names, list) else ()
    return {name for name in names if isinstance(name, str) and _FILE.fullmatch(name)}


def _started(pid: int) -> str:
    """Return when a process began, in a form of the system's own, to tell it from a later one with its number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(snapshot: Snapshot) -> bool:
    pid = snapshot.facts.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists and is another user's
    return str(snapshot.facts.get("started", "")) == _started(pid)
