"""The database that a scenario's processes share: a version for each key, and when each version was announced.

It is a mapped file, so that reading it costs nothing, every process sees one truth, and what a killed process wrote
stays. Times are `time.monotonic_ns()`, which on Linux is one clock for all processes. Each key has one writer.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

VERSIONS = 8192
"""How many versions of a key there is room for."""

_PHASE, _RUNNING, _WRITING, _HEADER = 0, 1, 2, 8


class Database:
    """Versions of `keys` keys, and the times at which the invalidations of each version were acknowledged.

    Args:
        path: the file; it is made when `create` is set.
        keys: how many keys it has.
    """

    def __init__(self, path: Path, keys: int, *, create: bool = False) -> None:
        self.path, self.keys = path, keys
        size = 8 * (_HEADER + keys * (2 + VERSIONS))
        if create:
            with path.open("wb") as file:
                file.truncate(size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._words = memoryview(self._map).cast("q")
        self._told = _HEADER + 2 * keys
        if create:
            for key in range(keys):
                self._words[_HEADER + key] = 1

    # -- what is true -------------------------------------------------------------------------------------------

    def version(self, key: int) -> int:
        """The newest version, as a loader reads it."""
        return self._words[_HEADER + key]

    def commit(self, key: int) -> int:
        """Write the next version and return it; nobody has been told of it yet."""
        version = self._words[_HEADER + key] + 1
        if version >= VERSIONS:
            raise RuntimeError(f"key {key} has {VERSIONS} versions; write less often")
        self._words[_HEADER + key] = version
        return version

    def announce(self, key: int, version: int, at: int = 0) -> None:
        """Note that the invalidation of a version was acknowledged: now, or at a time that is known."""
        self._words[self._told + key * VERSIONS + version] = at or time.monotonic_ns()

    def announced(self, key: int, version: int) -> bool:
        """Whether it is known from when on everybody has to see a version."""
        return self._words[self._told + key * VERSIONS + version] != 0

    def age(self, key: int, version: int, began: int) -> int:
        """Return for how long (ns) something newer had been announced when a call began that returned `version`.

        Zero or less: nothing newer had been.
        """
        first = self._told + key * VERSIONS
        told = (self._words[first + newer] for newer in range(version + 1, self.version(key) + 1))
        return max((began - at for at in told if at), default=0)

    # -- what the controller says -------------------------------------------------------------------------------

    @property
    def phase(self) -> int:
        """The phase of the scenario, by which processes sort what they record."""
        return self._words[_PHASE]

    @phase.setter
    def phase(self, value: int) -> None:
        self._words[_PHASE] = value

    @property
    def reading(self) -> bool:
        """Whether readers run."""
        return bool(self._words[_RUNNING])

    @reading.setter
    def reading(self, value: bool) -> None:
        self._words[_RUNNING] = value

    @property
    def writing(self) -> bool:
        """Whether writers run."""
        return bool(self._words[_WRITING])

    @writing.setter
    def writing(self, value: bool) -> None:
        self._words[_WRITING] = value

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._map.close()
