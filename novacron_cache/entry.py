"""What the first tier holds: live entries, the clock that ages them, and the sentinel for "nothing there"."""

from __future__ import annotations

import math
import time
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

T = TypeVar("T")


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


FOREVER: Final = math.inf
"""A time that does not come, or a span without an end; seconds."""
_UNDER_WAY: Final = -math.inf
"""What stands for the time of an early refresh that has begun."""

_MOST_SHARED: Final = 1024
"""How many things are kept once at a time; where entries have tags of their own, sharing them gains nothing."""


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


Ids: TypeAlias = tuple[tuple[str, bytes], ...]
"""The (dependency, id) pairs under which a value is valid."""


class Kind(NamedTuple):
    """What entries have in common.

    Attributes:
        name: the name of the model or function.
        tags: the rendered tags.
        grace: seconds after its ttl for which a value may stand in for a failing loader.
    """

    name: str
    tags: tuple[str, ...]
    grace: float


_shared: dict[Any, Any] = {}


def _once(value: T) -> T:
    """Return the value that stands for all that are equal to this one, as long as few different ones are in use."""
    found: T | None = _shared.get(value)
    if found is not None:
        return found
    if len(_shared) >= _MOST_SHARED:
        _shared.clear()
    kept: T = _shared.setdefault(value, value)
    return kept


def share_ids(ids: Ids) -> Ids:
    """Return (dependency, id) pairs of which all but that of the key are shared with other entries."""
    return tuple([pair if pair[0].startswith("k:") else _once(pair) for pair in ids])


class Entry:
    """One cached value in process memory, shared by the memory tier and by the fronts of decorated functions.

    A hit reads `deadline` and `value` and adds one to `hits`; everything else is for the slow path. Killing an entry
    (`deadline = DEAD`) makes every holder of a reference miss at once, without finding them first.

    There may be a million of them, so each attribute counts: what is the same for many is kept once.

    Attributes:
        key: the stored key.
        logical: the logical key, which patterns match.
        kind: its name, tags and grace, which entries that are equal in them share.
        value: the live value when it is deeply immutable; meaningless while `body` is set.
        body: the serialised value when callers could change a live one; each hit decodes its own copy.
        ids: (dependency, id) pairs under which the value is valid in shared tiers; empty when it lives here alone.
        deadline: monotonic seconds before which the entry may be served without asking anyone.
        epoch: the epoch of the link that vouches for it; zero while its own deadline is all there is.
        expires: monotonic seconds at which its ttl ends.
        created: epoch seconds at which the value was stored.
        hits: how often it was served; the eviction policy reads it as recency.
        mark: the part of `hits` that the eviction policy has already seen.
        size: bytes it is accounted with; zero where bytes are not bounded.
        refresh_at: monotonic seconds from which a hit starts an early refresh; infinite where it never does.
        fronts: the mappings in which decorated functions know it, each followed by the raw key under which they do.
        queue: the queue of the eviction policy that it is in, `before` and `after` its neighbours there.
    """

    __slots__ = (
        "after", "before", "body", "created", "deadline", "epoch", "expires", "fronts", "hits", "ids", "key", "kind",
        "logical", "mark", "queue", "refresh_at", "size", "value",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        value: Any,
        *,
        logical: str = "",
        name: str = "",
        tags: tuple[str, ...] = (),
        ids: Ids = (),
        expires: float,
        deadline: float | None = None,
        grace: float = 0.0,
        created: float = 0.0,
        size: int = 0,
        body: bytes | None = None,
    ) -> None:
        self.key = key
        self.value = value
        self.body = body
        self.epoch = 0
        self.refresh_at = FOREVER
        self.logical = logical
        self.kind = _once(Kind(name, tags, grace))
        self.ids = ids
        self.expires = expires
        self.deadline = expires if deadline is None else deadline
        self.created = created
        self.size = size
        self.hits = 0
        self.mark = 0
        self.fronts: tuple[Any, ...] = ()
        self.queue: Any = None
        self.before: Entry | None = None
        self.after: Entry | None = None

    @property
    def name(self) -> str:
        """The name of the model or function whose entry this is."""
        return self.kind.name

    @property
    def tags(self) -> tuple[str, ...]:
        """The rendered tags."""
        return self.kind.tags

    @property
    def stale_until(self) -> float:
        """Monotonic seconds until which it may stand in for a failing loader; never before `expires`."""
        return self.expires + self.kind.grace

    @property
    def refreshing(self) -> bool:
        """Whether one early refresh of it is under way; when that has ended, it is time for another one."""
        return self.refresh_at == _UNDER_WAY

    @refreshing.setter
    def refreshing(self, under_way: bool) -> None:
        self.refresh_at = _UNDER_WAY if under_way else 0.0

    @property
    def alive(self) -> bool:
        """Whether no invalidation has killed the entry; it may still be past its deadline."""
        return self.deadline != DEAD

    def kill(self) -> None:
        """Make every holder of this entry miss from now on."""
        self.deadline = DEAD

    def __repr__(self) -> str:
        return f"<Entry {self.key!r} deadline={self.deadline:.3f} hits={self.hits}>"
