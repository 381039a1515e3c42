"""What happened, for whoever listens: metrics, logs, alerts, tests.

A hit in process memory is counted by a plain integer and emits nothing; everything slower emits one event. Listeners
run in the thread that caused the event, so they must be quick; an exception of theirs is logged and goes no further.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, overload

from .errors import DeclarationError, nearest

logger = logging.getLogger("novacron_cache")
"""The package's log.

It has no handler of its own, not even one that keeps silent: where a program has not set up logging, Python writes
warnings to the standard error, and a server that is not there is what its author wants to be told of.
"""


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events; `kind` is the name that `on()` takes."""

    kind: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True)
class Hit(Event):
    """A tier other than process memory answered."""

    kind: ClassVar[str] = "hit"
    name: str
    key: str
    tier: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Miss(Event):
    """No tier could answer.

    Attributes:
        reason: `cold`, `expired`, `invalidated`, `schema`, `corrupt`, `dictionary` (what it was compressed with is
            nowhere to be had), `foreign`, `signature`, `too_large`, `unsafe`, `tier_down`, `pending` (an invalidation
            of it has not reached the shared tier yet), or why the cache was not to answer: `bypassed`, `condition` or
            `shadow`.
    """

    kind: ClassVar[str] = "miss"
    name: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded(Event):
    """A loader returned; `seconds` is its own time."""

    kind: ClassVar[str] = "loaded"
    name: str
    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadFailed(Event):
    """A loader raised; `served_stale` says whether a value in its grace period answered instead."""

    kind: ClassVar[str] = "load_failed"
    name: str
    key: str
    error: BaseException
    served_stale: bool


@dataclass(frozen=True, slots=True)
class LoadOverdue(Event):
    """A loader takes longer than its `soft_timeout`; the value in its grace period answered, and the load goes on."""

    kind: ClassVar[str] = "load_overdue"
    name: str
    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadQueued(Event):
    """A load waited for one of its function's slots; `got` says whether it got one in time."""

    kind: ClassVar[str] = "load_queued"
    name: str
    key: str
    seconds: float
    got: bool


@dataclass(frozen=True, slots=True)
class ShadowMismatch(Event):
    """In shadow mode the cache would have served another value than the loader gave.

    Attributes:
        tier: the tier that would have served it.
        verdict: `stale`: it would be served still; `in_flight`: it would be no longer, for an invalidation or the end
            of its ttl came while the loader ran.
        age: seconds since that value was stored: it cannot be out of date for longer.
        seen_for: seconds since this process first saw that it differs: it is out of date for at least so long.
    """

    kind: ClassVar[str] = "shadow_mismatch"
    name: str
    key: str
    tier: str
    verdict: str
    age: float
    seen_for: float


@dataclass(frozen=True, slots=True)
class Stored(Event):
    """A value was stored; `tiers` names where."""

    kind: ClassVar[str] = "stored"
    name: str
    key: str
    tiers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotStored(Event):
    """A value was returned but not kept.

    Attributes:
        reason: `invalidated`: something it depends on was, while it was loading; `held`: a writer is about to change
            something it depends on; `skipped`: the function's `skip_if` said so.
    """

    kind: ClassVar[str] = "not_stored"
    name: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evicted(Event):
    """Process memory gave up an entry to stay within its bounds."""

    kind: ClassVar[str] = "evicted"
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Invalidated(Event):
    """This process invalidated something.

    Attributes:
        what: `key`, `tag`, `model`, `pattern` or `namespace`.
        values: what was named, as text.
        local: how many entries of this process it removed.
    """

    kind: ClassVar[str] = "invalidated"
    what: str
    values: tuple[str, ...]
    local: int


@dataclass(frozen=True, slots=True)
class InvalidationDelayed(Event):
    """An invalidation did not reach the shared tier; it is pending and retried."""

    kind: ClassVar[str] = "invalidation_delayed"
    dependencies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GenerationChanged(Event):
    """The server turned out to have begun another history: what it held before is invalid.

    Attributes:
        replayed: how many recent invalidations of this process are sent again.
    """

    kind: ClassVar[str] = "generation_changed"
    replayed: int


@dataclass(frozen=True, slots=True)
class InvalidationDelivered(Event):
    """Pending invalidations have reached the shared tier."""

    kind: ClassVar[str] = "invalidation_delivered"
    dependencies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleLogFull(Event):
    """A glob was refused: the shared log is full of rules that may still matter; `limit` is how many it holds."""

    kind: ClassVar[str] = "rule_log_full"
    limit: int


@dataclass(frozen=True, slots=True)
class Corrupt(Event):
    """A tier held something that is not a readable payload of this cache; it counts as a miss."""

    kind: ClassVar[str] = "corrupt"
    tier: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class TierFailed(Event):
    """One operation of a tier failed."""

    kind: ClassVar[str] = "tier_failed"
    tier: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class TierDown(Event):
    """A tier's breaker opened: it is not asked until its pause is over."""

    kind: ClassVar[str] = "tier_down"
    tier: str


@dataclass(frozen=True, slots=True)
class TierUp(Event):
    """A tier that was down answers again."""

    kind: ClassVar[str] = "tier_up"
    tier: str


@dataclass(frozen=True, slots=True)
class LinkUp(Event):
    """Invalidations of other processes arrive as they happen."""

    kind: ClassVar[str] = "link_up"


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    """Invalidations of other processes may be missed; entries are revalidated and keep to the staleness bound."""

    kind: ClassVar[str] = "link_lost"
    reason: str


@dataclass(frozen=True, slots=True)
class StaleFound(Event):
    """An audit found a value that differs from its source, and watched it.

    Attributes:
        age: seconds from noticing the difference until the value was last seen served.
        still: whether it was still served when the watch was given up, so that the age is what it had reached.
    """

    kind: ClassVar[str] = "stale_found"
    name: str
    key: str
    tier: str
    age: float
    still: bool


@dataclass(frozen=True, slots=True)
class FailedOver(Event):
    """Another server has become the master, of a deployment with sentinels or of one shard of a cluster.

    Attributes:
        shard: the name by which the sentinels know the master, or the slots of the shard.
        old: the address of the master before.
        new: the address of the master now.
    """

    kind: ClassVar[str] = "failed_over"
    tier: str
    shard: str
    old: str
    new: str


EVENTS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        Hit, Miss, Loaded, LoadFailed, LoadOverdue, LoadQueued, ShadowMismatch,
        Stored, NotStored, Evicted, Invalidated, InvalidationDelayed,
        InvalidationDelivered, GenerationChanged, Corrupt, TierFailed, TierDown, TierUp, LinkUp, LinkLost, RuleLogFull,
        FailedOver, StaleFound,
    )
}  # fmt: skip

E = TypeVar("E", bound=Event)


class Listeners:
    """Who wants to know about which kind of event."""

    def __init__(self) -> None:
        self._by_kind: dict[str, tuple[Callable[[Any], None], ...]] = {}

    @overload
    def on(self, event: type[E], listener: Callable[[E], None]) -> Callable[[], None]: ...
    @overload
    def on(self, event: str, listener: Callable[[Any], None]) -> Callable[[], None]: ...
    def on(self, event: str | type[Event], listener: Callable[[Any], None]) -> Callable[[], None]:
        """Call `listener(event)` for every event of a kind.

        Args:
            event: an event class or its `kind`; `"*"` or `Event` stands for every kind.
            listener: called in the thread that caused the event; a plain function, for nobody would await it.

        Returns:
            A function that ends the subscription.

        Raises:
            DeclarationError: there is no such kind, or what is to be called cannot be, or would have to be awaited.
        """
        if not callable(listener):
            raise DeclarationError(f"on({event!r}, {listener!r}): expected a function that is given the event")
        if inspect.iscoroutinefunction(listener):
            raise DeclarationError(
                f"on({event!r}): `{listener.__qualname__}` is asynchronous, and nobody would await it; use a plain "
                f"function, which may begin a task of its own"
            )
        kind = event if isinstance(event, str) else ("*" if event is Event else event.kind)
        if kind != "*" and kind not in EVENTS:
            raise DeclarationError(f"no event is called {kind!r}{nearest(kind, EVENTS)}")
        self._by_kind[kind] = (*self._by_kind.get(kind, ()), listener)

        def off() -> None:
            self._by_kind[kind] = tuple(known for known in self._by_kind.get(kind, ()) if known is not listener)

        return off

    def heard(self, event: type[Event]) -> bool:
        """Return whether anybody listens to a kind of event; where many are made, they are worth asking about first."""
        return bool(self._by_kind.get(event.kind) or self._by_kind.get("*"))

    def emit(self, event: Event) -> None:
        """Tell the listeners of this kind; what they raise is logged."""
        for listener in (*self._by_kind.get(event.kind, ()), *self._by_kind.get("*", ())):
            try:
                listener(event)
            except Exception:
                logger.exception("a listener for %r failed", event.kind)


@dataclass(slots=True)
class NameCounters:
    """What happened to the entries of one model or function; plain integers, written without a lock."""

    hits: Counter[str] = field(default_factory=Counter)
    misses: Counter[str] = field(default_factory=Counter)
    loads: int = 0
    load_errors: int = 0
    load_seconds: float = 0.0
    stale: int = 0
    joined: int = 0
    waited: int = 0
    audited: int = 0
    audited_stale: int = 0
    audited_age: float = 0.0
    overdue: int = 0
    queued: int = 0
    shadow_hits: Counter[str] = field(default_factory=Counter)
    shadow_misses: int = 0
    shadow_mismatches: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of counters; everything since the cache was created.

    Attributes:
        hits: answers from a tier, by tier name; `memory` is the first tier.
        misses: calls that no tier could answer, by reason (see `Miss`).
        loads: how often a loader ran to its end.
        load_errors: how often a loader raised.
        load_seconds: seconds spent in loaders, in all.
        stale: values served in their grace period because the loader failed.
        joined: calls that waited for another call's load of the same key.
        waited: calls that waited for another process's load of the same key; they count as a hit or a miss as well.
        audited: how often an audit read the source.
        audited_stale: stale values that audits have found.
        audited_age: the longest time, in seconds, that one of those was seen to be served.
        overdue: values served in their grace period because the loader took longer than its `soft_timeout`.
        queued: loads that waited for one of their function's slots (`max_concurrent_loads`).
        shadow_hits: calls in shadow mode that the cache would have answered, by tier.
        shadow_misses: calls in shadow mode that it would not have.
        shadow_mismatches: among `shadow_hits`, those whose value differed from the loader's, by verdict (see
            `ShadowMismatch`).
    """

    hits: dict[str, int]
    misses: dict[str, int]
    loads: int
    load_errors: int
    load_seconds: float
    stale: int
    joined: int
    waited: int = 0
    audited: int = 0
    audited_stale: int = 0
    audited_age: float = 0.0
    overdue: int = 0
    queued: int = 0
    shadow_hits: dict[str, int] = field(default_factory=dict)
    shadow_misses: int = 0
    shadow_mismatches: dict[str, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Calls in all: hits, misses and joined ones."""
        return sum(self.hits.values()) + sum(self.misses.values()) + self.joined

    @property
    def hit_rate(self) -> float:
        """Share of calls that a tier answered, from 0 to 1; 0.0 before the first call."""
        return sum(self.hits.values()) / self.calls if self.calls else 0.0

    @property
    def shadow_hit_rate(self) -> float:
        """Share of the calls in shadow mode that the cache would have answered, from 0 to 1; 0.0 before the first."""
        hits = sum(self.shadow_hits.values())
        return hits / (hits + self.shadow_misses) if hits else 0.0


def summarise(counters: list[NameCounters], memory_hits: int) -> Stats:
    """Return the sum of several counters, with hits of process memory that are counted elsewhere."""
    hits: Counter[str] = Counter()
    misses: Counter[str] = Counter()
    shadow_hits: Counter[str] = Counter()
    mismatches: Counter[str] = Counter()
    for one in counters:
        hits.update(dict(one.hits))
        misses.update(dict(one.misses))
        shadow_hits.update(dict(one.shadow_hits))
        mismatches.update(dict(one.shadow_mismatches))
    if memory_hits:
        hits["memory"] += memory_hits
    return Stats(
        hits=dict(hits),
        misses=dict(misses),
        loads=sum(one.loads for one in counters),
        load_errors=sum(one.load_errors for one in counters),
        load_seconds=sum(one.load_seconds for one in counters),
        stale=sum(one.stale for one in counters),
        joined=sum(one.joined for one in counters),
        waited=sum(one.waited for one in counters),
        audited=sum(one.audited for one in counters),
        audited_stale=sum(one.audited_stale for one in counters),
        audited_age=max((one.audited_age for one in counters), default=0.0),
        overdue=sum(one.overdue for one in counters),
        queued=sum(one.queued for one in counters),
        shadow_hits=dict(shadow_hits),
        shadow_misses=sum(one.shadow_misses for one in counters),
        shadow_mismatches=dict(mismatches),
    )
