"""Where an embedded server lives: a directory that its user alone can enter, which processes find without being told.

Who can write there can pose as the server, so a directory is taken only when it is this user's, closed to everybody
else, and not a link to another. What does not fit is refused, not mended: somebody else may have put it there.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import SettingsError
from .supervisor import SOCKET, own_place

__all__ = ["claim", "of_its_own", "of_project"]

_SETTING: Final = "redis.state_directory"
_LONGEST_SOCKET_PATH: Final = 103 if sys.platform == "darwin" else 107  # bytes the kernel keeps, less the final zero


def of_project() -> Path:
    """Return the directory that stands for the current one: the same for all processes of this user in it.

    Raises:
        SettingsError: the current directory is gone, or no temporary directory has a path that is short enough.
    """
    from ..settings.values import project_namespace  # what checks settings takes a while to import

    try:
        project = Path.cwd().resolve()
    except OSError as error:
        raise SettingsError(f"the current directory is gone; set {_SETTING}", variable=_SETTING) from error
    digest = hashlib.sha256(os.fsencode(project)).hexdigest()
    name = f"{project_namespace()[:12]}-{digest[:10]}"
    for parent in (*_runtime(), *_temporary()):
        if _fits(directory := parent / own_place() / name):
            return directory
    raise _too_long("TMPDIR")


def of_its_own() -> Path:
    """Make and return a directory that no other process looks for.

    Raises:
        SettingsError: no temporary directory has a path that is short enough.
    """
    for parent in _temporary():
        directory = Path(tempfile.mkdtemp(prefix="novacron-", dir=parent))
        if _fits(directory):
            return directory
        directory.rmdir()
    raise _too_long("TMPDIR")


def claim(directory: Path) -> None:
    """Make a directory that its user alone can enter, or see that it is one.

    Raises:
        SettingsError: it is somebody else's, others can enter it, it is a link, or it cannot be made.
        FileNotFoundError: its parent went while this looked; for a directory of `of_project`.
    """
    if not _fits(directory):
        raise _too_long(_SETTING, directory)
    ours = directory.parent.name == own_place()
    if ours:
        _claim(directory.parent)
    try:
        _claim(directory)
    except FileNotFoundError as error:
        if ours or directory.parent.is_dir():  # another process has just left
            raise
        raise _refused(directory, "cannot be made: there is no directory to make it in") from error


def _claim(directory: Path) -> None:
    try:
        with suppress(FileExistsError):
            directory.mkdir(0o700)
        found = directory.lstat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(directory, f"cannot be made: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise _refused(directory, "is a symbolic link; name the directory it leads to")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(directory, "is not a directory")
    if found.st_uid != os.geteuid():
        raise _refused(directory, "belongs to another user; name one of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _refused(directory, "can be entered by others; chmod 700 it, or name another")


def _runtime() -> Iterator[Path]:
    """Yield the directory that a session gives its user, if it is this user's: `sudo` hands on another's."""
    path = Path(os.environ.get("XDG_RUNTIME_DIR") or ".")
    with suppress(OSError):
        if path.is_absolute() and path.stat().st_uid == os.geteuid() and os.access(path, os.W_OK):
            yield path


def _temporary() -> Iterator[Path]:
    yield Path(tempfile.gettempdir()).absolute()
    yield Path("/tmp")  # noqa: S108 - what is made in it is private


def _fits(directory: Path) -> bool:
    return len(os.fsencode(directory / SOCKET)) <= _LONGEST_SOCKET_PATH


def _too_long(variable: str, directory: Path | None = None) -> SettingsError:
    most = _LONGEST_SOCKET_PATH - len(SOCKET) - 1
    if directory is None:
        return SettingsError(
            f"no temporary directory has a path short enough for a unix socket; set {variable} to a shorter one",
            variable=variable,
        )
    return SettingsError(
        f"{variable}={str(directory)!r}: a unix socket in it would have too long a path; "
        f"name a directory whose path has at most {most} bytes",
        variable=variable,
    )


def _refused(directory: Path, why: str) -> SettingsError:
    return SettingsError(f"{_SETTING}={str(directory)!r}: {why}", variable=_SETTING)
