"""What `doctor` checks of the disk tier: that nobody else can write there, that there is room, and that it is local."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .findings import Finding, note, ok, problem, warning
from .targets import directory_of

if TYPE_CHECKING:
    from .. import CacheSettings

__all__ = ["check_disk", "file_system_of"]

CHECK: Final = "disk"

_REMOTE: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "lustre", "afs"}
)
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})


def check_disk(settings: CacheSettings) -> Iterator[Finding]:
    """Yield what is found about the directory that the settings name; nothing is created."""
    path = directory_of(settings).absolute()
    try:
        facts = path.lstat()
    except FileNotFoundError:
        yield from _missing(path)
        return
    except OSError as error:
        yield problem(CHECK, f"{path}: {error.strerror}", "name a directory that this user can reach")
        return
    unsafe = list(_unsafe(path, facts))
    yield from unsafe
    if not stat.S_ISDIR(facts.st_mode):
        return
    if facts.st_uid == os.geteuid() and not os.access(path, os.W_OK | os.X_OK):
        yield problem(
            CHECK,
            f"{path} cannot be written to, so that the tier cannot even read there",
            f"run: chmod 700 {path}; where that is its mode, mount its file system for writing",
        )
    elif not unsafe:
        yield ok(CHECK, f"{path} belongs to this user alone")
    yield from _files(path)
    yield from _place(path, settings.disk.size_limit)


def _missing(path: Path) -> Iterator[Finding]:
    parent = next(one for one in path.parents if one.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        yield note(CHECK, f"{path} does not exist yet; the application creates it, for its user alone")
    else:
        yield problem(
            CHECK,
            f"{path} does not exist, and {parent} cannot be written to",
            f"run: install -d -m 700 -o {os.geteuid()} {path}",
        )


def _unsafe(path: Path, facts: os.stat_result) -> Iterator[Finding]:
    """Yield why the tier would refuse the directory, or should."""
    if stat.S_ISLNK(facts.st_mode):
        yield problem(CHECK, f"{path} is a symbolic link, which could be turned", f"name {path.resolve()} itself")
        return
    if not stat.S_ISDIR(facts.st_mode):
        yield problem(CHECK, f"{path} is not a directory", "remove it, or name another")
        return
    if facts.st_uid != os.geteuid():
        yield problem(
            CHECK,
            f"{path} belongs to user {facts.st_uid}, not to this process's ({os.geteuid()})",
            "run doctor as the application's user, or name a directory of its own",
        )
    if facts.st_mode & 0o022:
        yield problem(CHECK, f"others can write to {path} (mode {facts.st_mode & 0o777:o})", f"run: chmod 700 {path}")
    elif facts.st_mode & 0o077:
        yield warning(CHECK, f"others can look into {path} (mode {facts.st_mode & 0o777:o})", f"run: chmod 700 {path}")


def _files(path: Path) -> Iterator[Finding]:
    """Check the database's own files."""
    for one in sorted(path.glob("cache.db*")):
        facts = one.lstat()
        if stat.S_ISLNK(facts.st_mode) or not stat.S_ISREG(facts.st_mode):
            yield problem(CHECK, f"{one} is not a plain file", f"remove it: {one}")
        elif facts.st_mode & 0o077:
            yield warning(CHECK, f"others can read {one} (mode {facts.st_mode & 0o777:o})", f"run: chmod 600 {one}")


def _place(path: Path, limit: int) -> Iterator[Finding]:
    """Check what the directory is on."""
    kind = file_system_of(path)
    if kind in _REMOTE:
        yield problem(
            CHECK,
            f"{path} is on a network file system ({kind}), whose locks do not hold what SQLite needs of them",
            "name a directory on a disk of this machine; a server is what machines share",
        )
    elif kind in _VOLATILE:
        yield note(CHECK, f"{path} is in memory ({kind}): it does not survive a reboot")
    used = sum(_size(Path(folder, name)) for folder, _, names in os.walk(path) for name in names)
    free = shutil.disk_usage(path).free
    needed = max(0, limit - used)
    if free < min(needed, 64 * 2**20):
        yield problem(
            CHECK, f"{_mb(free)} free, and the tier may take {_mb(needed)} more",
            "make room, or lower disk.size_limit",
        )  # fmt: skip
    elif free < needed:
        yield warning(
            CHECK, f"{_mb(free)} free, and the tier may take {_mb(needed)} more",
            f"make room, or set disk.size_limit to {(used + free // 2) // 2**20}mb",
        )  # fmt: skip
    else:
        yield ok(CHECK, f"{_mb(used)} used of {_mb(limit)}, {_mb(free)} free")


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the kind of file system that a path is on; empty where the system does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields = line.split()
        if len(fields) > 2:
            place = fields[1].replace("\\040", " ")
            if len(place) >= len(best) and path.resolve().is_relative_to(place):
                best, kind = place, fields[2]
    return kind


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _mb(size: int) -> str:
    return f"{size / 2**20:.0f} MB"
