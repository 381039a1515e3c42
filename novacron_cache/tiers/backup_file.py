"""A backup of the disk tier as a file: written so that it appears whole or not at all, and believed only when it is.

The file names no paths, so that none can lead out of the directory. All of it is covered by a SHA-256 at its end, which
is checked before anything is touched.

Layout: the magic; records, each a length in 4 bytes and a msgpack array; 32 bytes of SHA-256 of all before.
The first record is `("h", {...})`; then `("p", key, expires, payload)`, `("m", dependency, id, expires)`,
`("r", id, rule)`, the oldest rule first, and last `("e", number of records)`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, cast

import msgpack

from ..errors import CacheError
from ..markers import is_id

__all__ = ["BackupError", "Facts", "Record", "Records", "write_file"]

MAGIC: Final = b"NCL3\x02"
END_OF_TIME: Final = 253_402_300_800.0
"""The year 10000, which no calendar here can name."""

_LENGTH: Final = struct.Struct(">I")
_DIGEST: Final = 32
_PIECE: Final = 1 << 20

Record = tuple[Any, ...]


class BackupError(CacheError):
    """A file is no whole backup, or may not be restored here; the message says what to do."""


@dataclass(slots=True)
class Facts:
    """What a backup says about itself.

    Attributes:
        namespace: whose payloads they are.
        created: epoch seconds at which it was made.
        markers: whether it has the markers too, because the disk keeps them.
    """

    namespace: str
    created: float
    markers: bool


# -- writing -----------------------------------------------------------------------------------------------------------


def write_file(path: Path, records: Iterable[Record], *, replace: bool) -> int:
    """Write records to a new file that only this user can read, and read it back; return its size in bytes.

    The file appears under its name when it is whole, and on the disk.

    Args:
        path: the file.
        records: what it holds, the header first; the end is added.
        replace: whether an existing file may be replaced.

    Raises:
        BackupError: there is one of that name, or it cannot be written, or what was written cannot be read back.
    """
    path = path.absolute()
    if path.exists():
        if not replace:
            raise BackupError(f"{path} exists; name another file, or add --replace")
        if not path.is_file():  # a device would be gone with it
            raise BackupError(f"{path} is no ordinary file and is not replaced; name another one")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        handle = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "r+b") as file:  # noqa: PTH123 - it is a handle, not a path
                _write(file, records)
                file.flush()
                os.fsync(file.fileno())
                Records(file, str(path))  # verifies
                size = file.seek(0, os.SEEK_END)
            if replace:
                unfinished.replace(path)
            else:
                try:
                    os.link(unfinished, path)  # unlike a rename, this never takes the place of another file
                except FileExistsError:
                    raise BackupError(f"{path} exists; name another file, or add --replace") from None
            _sync_directory(path.parent)
        finally:
            with suppress(FileNotFoundError):
                unfinished.unlink()
    except FileExistsError:
        raise BackupError(f"{unfinished} is in the way of {path}; remove it") from None
    except OSError as error:  # it is no fault of the database, for which it would be taken
        raise BackupError(f"{path} cannot be written: {error.strerror or error}; name another place") from error
    return size


def _write(file: IO[bytes], records: Iterable[Record]) -> None:
    digest, number = sha256(), 0

    def put(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    def add(record: Record) -> None:
        packed = cast(bytes, msgpack.packb(record, use_bin_type=True, unicode_errors="surrogatepass"))
        put(_LENGTH.pack(len(packed)) + packed)

    put(MAGIC)
    for number, record in enumerate(records, 1):  # noqa: B007 - the last one counts
        add(record)
    add(("e", number))
    file.write(digest.digest())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- reading ----------------------------------------------------------------------------------------------------------


class Records:
    """The records of a backup whose checksum is right.

    Args:
        file: the file, open for reading.
        name: what messages call it.

    Attributes:
        facts: what it says about itself.

    Raises:
        BackupError: it is no backup, or not whole.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._end = file.seek(0, os.SEEK_END) - _DIGEST
        self._verify()
        first = next(self._all(), None)
        match first:
            case [
                "h",
                {"namespace": str() as namespace, "created": float() as created, "markers": bool() as markers},
            ] if 0.0 <= created < END_OF_TIME:
                self.facts = Facts(namespace, created, markers)
            case _:
                raise self._broken("it does not say what it is a backup of")

    def __iter__(self) -> Iterator[Record]:
        """Yield the records behind the first, each checked for its form."""
        for number, record in enumerate(self._all()):
            match record:
                case ["h", _]:
                    pass
                case ["p", str(), float() | int(), bytes()]:
                    yield tuple(record)
                case ["m", str(), marker_id, float()] if is_id(marker_id):
                    yield tuple(record)
                case ["r", rule_id, bytes()] if is_id(rule_id):
                    yield tuple(record)
                case ["e", int() as count] if count == number:
                    return
                case _:
                    raise self._broken("it has a record of an unknown form; it was written by a newer version")
        raise self._broken("it has no end")

    def _all(self) -> Iterator[Any]:
        self._file.seek(len(MAGIC))
        left = self._end - len(MAGIC)
        while left >= _LENGTH.size:
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            left -= _LENGTH.size + length
            if left < 0:
                break
            try:
                yield msgpack.unpackb(
                    self._file.read(length), raw=False, unicode_errors="surrogatepass", strict_map_key=True
                )
            except (ValueError, msgpack.UnpackException) as error:
                raise self._broken(f"a record cannot be read: {type(error).__name__}") from error

    def _verify(self) -> None:
        self._file.seek(0)
        if self._end < len(MAGIC) or self._file.read(len(MAGIC)) != MAGIC:
            raise BackupError(f"{self._name} is not a backup of the disk tier; name a file that `backup` wrote")
        digest, left = sha256(MAGIC), self._end - len(MAGIC)
        while left:
            piece = self._file.read(min(_PIECE, left))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
        if self._file.read(_DIGEST) != digest.digest():
            raise self._broken("its checksum is wrong")

    def _broken(self, why: str) -> BackupError:
        return BackupError(f"{self._name} is damaged: {why}; take another backup")
