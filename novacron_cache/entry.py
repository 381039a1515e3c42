"""What the first tier holds: live entries, the clock that ages them, and the sentinel for "nothing there"."""

from __future__ import annotations

import math
import time
from enum import Enum
from typing import Any, Final, Literal, Protocol, TypeAlias


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return False


MissingType: TypeAlias = Literal[_Missing.MISSING]
MISSING: Final = _Missing.MISSING
"""What `peek` returns when nothing is cached; `None` is a value. It is falsy and compares by identity."""

DEAD: Final = float("-inf")
"""The deadline of a killed entry: no clock reading is before it."""


class Clock(Protocol):
    """Two readings of time; injected, so that tests move it by hand."""

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences mean something."""
        ...

    def time(self) -> float:
        """Return seconds since the epoch."""
        ...


class SystemClock:
    """The clock of the operating system."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


CLOCK_AGE: Final = 60.0
"""Seconds after which the authority's clock is read again: two quartz clocks drift apart by about 2 ms meanwhile."""


class AuthorityClock:
    """Epoch seconds by the clock of the server that keeps the markers, counted on from its last reading.

    Args:
        clock: the clock of this process, which stands in until the server's was read.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None
        self._read_at = -math.inf

    def time(self) -> float:
        """Return epoch seconds."""
        return self._clock.time() if self._offset is None else self._clock.monotonic() + self._offset

    def is_old(self) -> bool:
        """Return whether the server's clock should be read (again); says so once for each due time."""
        now = self._clock.monotonic()
        if now - self._read_at < CLOCK_AGE:
            return False
        self._read_at = now
        return True

    def set(self, asked: float, epoch: float | None) -> None:
        """Note what the server's clock said; None, when it did not answer, makes the next call ask again.

        Args:
            asked: the monotonic time at which it was asked; it answered halfway between then and now.
            epoch: its epoch seconds.
        """
        if epoch is None:
            self.forget()
        else:
            self._offset = epoch - (asked + self._clock.monotonic()) / 2

    def forget(self) -> None:
        """Have the server's clock read again by the next call that asks for it."""
        self._read_at = -math.inf


class Entry:
    """One cached value in process memory, shared by the memory tier and by the fronts of decorated functions.

    A hit reads `deadline` and `value` and adds one to `hits`; everything else is for the slow path. Killing an entry
    (`deadline = DEAD`) makes every holder of a reference miss at once, without finding them first.

    Attributes:
        key: the stored key.
        logical: the logical key, which patterns match.
        name: the name of the model or function whose entry this is.
        value: the live value when it is deeply immutable; meaningless while `body` is set.
        body: the serialised value when callers could change a live one; each hit decodes its own copy.
        tags: the rendered tags.
        ids: (dependency, id) pairs under which the value is valid in shared tiers; empty when it lives here alone.
        deadline: monotonic seconds before which the entry may be served without asking anyone.
        epoch: the epoch of the link that vouches for it; zero while its own deadline is all there is.
        expires: monotonic seconds at which its ttl ends.
        stale_until: monotonic seconds until which it may stand in for a failing loader; never before `expires`.
        created: epoch seconds at which the value was stored.
        hits: how often it was served; the eviction policy reads it as recency.
        mark: the part of `hits` that the eviction policy has already seen.
        size: bytes it is accounted with; zero where bytes are not bounded.
        refresh_at: monotonic seconds from which a hit starts an early refresh; infinite where it never does.
        refreshing: whether one early refresh of it is already under way.
        fronts: (mapping, raw key) pairs under which decorated functions know it.
    """

    __slots__ = (
        "body", "created", "deadline", "epoch", "expires", "fronts", "hits", "ids", "key", "logical", "mark", "name",
        "refresh_at", "refreshing", "size", "stale_until", "tags", "value",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        value: Any,
        *,
        logical: str = "",
        name: str = "",
        tags: tuple[str, ...] = (),
        ids: tuple[tuple[str, bytes], ...] = (),
        expires: float,
        deadline: float | None = None,
        stale_until: float | None = None,
        created: float = 0.0,
        size: int = 0,
        body: bytes | None = None,
    ) -> None:
        self.key = key
        self.value = value
        self.body = body
        self.refreshing = False
        self.epoch = 0
        self.refresh_at = float("inf")
        self.logical = logical
        self.name = name
        self.tags = tags
        self.ids = ids
        self.expires = expires
        self.deadline = expires if deadline is None else deadline
        self.stale_until = expires if stale_until is None else stale_until
        self.created = created
        self.size = size
        self.hits = 0
        self.mark = 0
        self.fronts: tuple[tuple[dict[Any, Entry], Any], ...] = ()

    @property
    def alive(self) -> bool:
        """Whether no invalidation has killed the entry; it may still be past its deadline."""
        return self.deadline != DEAD

    def kill(self) -> None:
        """Make every holder of this entry miss from now on."""
        self.deadline = DEAD

    def __repr__(self) -> str:
        return f"<Entry {self.key!r} deadline={self.deadline:.3f} hits={self.hits}>"
