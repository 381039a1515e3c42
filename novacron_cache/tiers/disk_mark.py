"""What tells a database that has lost its latest transactions from one that has them.

SQLite recovers what is whole of its log and says nothing of the rest. After the log was cut short, spoiled or removed,
the tables are as they were a while ago, with ids that have been replaced since: what was invalidated meanwhile would be
valid again. Nothing inside a database can say that it was newer once. So a small file beside it keeps the number of the
latest change (see the log of changes in `disk_markers`). It is written after the transaction and before anybody is told
of it, so a database whose newest change has a lower number has lost one that somebody relied on.

A machine that loses its power may lose a part of either file. So the file also names the boot of the machine, and ids
that were drawn before it are not believed.

Processes write here in any order. Each number has a slot of its own, of which there are some; the highest counts.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

__all__ = ["NAME", "Mark"]

NAME: Final = "cache.db-mark"

_SLOTS: Final = 64
_SLOT: Final = struct.Struct(">QI")
_BOOT_BYTES: Final = 36
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _boot() -> bytes:
    """Return what no other boot of this machine has; nothing where the system does not tell."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()[:_BOOT_BYTES].ljust(_BOOT_BYTES)
    return b"?" * _BOOT_BYTES


class Mark:
    """The file in a directory; the caller holds `locked` while it is opened and until `begin` or `newest` was called.

    Args:
        directory: the tier's directory.

    Raises:
        OSError: it cannot be opened, or is no file.
    """

    __slots__ = ("_boot", "_handle")

    def __init__(self, directory: Path) -> None:
        self._boot = _boot()
        self._handle = os.open(directory / NAME, _FLAGS, 0o600)
        if not stat.S_ISREG(os.fstat(self._handle).st_mode):
            self.close()
            raise OSError(f"{NAME} is not a file")

    def is_current(self) -> bool:
        """Return whether it was begun since the machine was started."""
        return os.pread(self._handle, _BOOT_BYTES, 0) == self._boot

    def begin(self, newest: int) -> None:
        """Begin anew, with the number of the newest change."""
        os.ftruncate(self._handle, 0)
        self.note(newest)
        os.pwrite(self._handle, self._boot, 0)

    def newest(self) -> int:
        """Return the highest number that was noted; slots that are spoiled do not count."""
        data = os.pread(self._handle, _SLOTS * _SLOT.size, _BOOT_BYTES)
        whole = len(data) // _SLOT.size * _SLOT.size
        return max((number for number, check in _SLOT.iter_unpack(data[:whole]) if check == _check(number)), default=0)

    def note(self, number: int) -> None:
        """Keep the number of a change that was committed; raises OSError when that cannot be."""
        data = _SLOT.pack(number, _check(number))
        if os.pwrite(self._handle, data, _BOOT_BYTES + number % _SLOTS * _SLOT.size) != len(data):
            raise OSError(f"{NAME} could not be written")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            self.close()


def _check(number: int) -> int:
    return crc32(b"mark %d" % number)
