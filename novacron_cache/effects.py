"""What a flow may ask for.

A flow is a generator that decides; it never waits. It yields either a pair `(tier, operation)`, where the operation is
one of the classes below, or `Load`, `LoadEach`, `Aside`, `Join`, `Barrier` or `AwaitLease`. The two drivers carry the
request out, waiting each in its own way, and send the result back. A tier that fails does not raise into a flow: the
driver sends `DOWN`.

Operations name values by *stored key* and dependencies by *dependency name* (see `markers`); a tier adds its own
namespace prefix. Payloads and ids are opaque bytes to a tier. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from .limits import Limits

INFINITE: Final = float("inf")


class _Down(Enum):
    DOWN = "DOWN"

    def __bool__(self) -> bool:
        return False


DOWN: Final = _Down.DOWN
"""The result of an operation whose tier failed, hung or is held open by its breaker."""


@dataclass(slots=True)
class Fetch:
    """Read payloads and dependency ids in one trip. Result: `Fetched`."""

    keys: Sequence[str]
    deps: Sequence[str] = ()


@dataclass(slots=True)
class Fetched:
    """The answer to `Fetch`: each list is parallel to what was asked, with None where there is nothing.

    Attributes:
        payloads: the stored bytes of each key.
        ids: the current id of each dependency; None means that the marker is missing, and missing never matches.
        whole: whether every server answered; what one that did not keeps counts as missing.
    """

    payloads: list[bytes | None]
    ids: list[bytes | None]
    whole: bool = True


@dataclass(slots=True)
class Capture:
    """Read the ids of dependencies, giving each missing one a fresh id in the same step. Result: `list[bytes | None]`.

    A dependency that is held (see `Hold`) has no id and gets none: its place in the result is None.

    Attributes:
        deps: the dependencies to read.
        life: seconds a marker must live, at least; never shortens a marker's life.
        renew: (dependency, new id) pairs that are set beforehand, as `Renew` does.
    """

    deps: Sequence[str]
    life: float
    renew: Sequence[tuple[str, bytes]] = ()


@dataclass(slots=True)
class Item:
    """One payload to store, with the seconds it may stay at most (greater than zero)."""

    key: str
    payload: bytes
    ttl: float


@dataclass(slots=True)
class Store:
    """Write payloads. Result: True.

    Every id that a payload carries must be known to have been current before this is sent: a command may be carried out
    long after it was given up, when its id would bring back what has been invalidated since.

    Attributes:
        extend: dependencies whose markers must live for `life` seconds more, at least.
        new_only: leave alone what is there already; asked only of tiers that say `has_leases`.
    """

    items: Sequence[Item]
    extend: Sequence[str] = ()
    life: float = 0.0
    new_only: bool = False


@dataclass(slots=True)
class Renew:
    """Give dependencies new ids: whatever was stored under the old ones is invalid from then on.

    Result: True; where replicas were asked for, whether so many of them have it.

    A dependency that is held stays held: it has no id, and gets a fresh one when the last hold ends.

    Attributes:
        markers: (dependency, new id) pairs.
        rules: (id, rule) pairs appended to the rule log, whose head (the dependency `markers.RULES`) moves to the
            last of these ids in the same step.
        replicas: how many replicas should have it before the answer comes; a tier without replicas says True.
        obeyed: whether this process has obeyed it, so that its own link need not hear of it.
    """

    markers: Sequence[tuple[str, bytes]]
    life: float
    rules: Sequence[tuple[bytes, bytes]] = ()
    replicas: int = 0
    obeyed: bool = False


@dataclass(slots=True)
class Hold:
    """Take the ids of dependencies away for a while: nothing can be served or stored under them meanwhile.

    For a write that may die halfway: whoever began it holds what it will invalidate, and goes on holding it by
    repeating this. Should it die, the hold runs out and the markers are missing, which matches nothing.
    Result: `list[bool]`, for each dependency whether this holder had held it without a gap.

    Attributes:
        deps: the dependencies.
        holder: an id of its own; several holders may hold one dependency.
        seconds: how long the hold lasts unless it is repeated.
    """

    deps: Sequence[str]
    holder: bytes
    seconds: float


@dataclass(slots=True)
class Release:
    """End the holds of one holder and invalidate. Result: True.

    A dependency that nobody else holds gets its new id; one that is still held by others gets it when they are done.
    Right also when the hold has run out meanwhile.

    Attributes:
        markers: (dependency, new id) pairs.
        holder: the id of the holder.
        life: as for `Renew`.
    """

    markers: Sequence[tuple[str, bytes]]
    holder: bytes
    life: float


@dataclass(slots=True)
class ReadRules:
    """Read the rule log, newest first. Result: `list[tuple[bytes, bytes]]` of (id, rule)."""


@dataclass(slots=True)
class Delete:
    """Remove payloads to reclaim their space (never needed for correctness). Result: True."""

    keys: Sequence[str]


@dataclass(slots=True)
class Purge:
    """Remove every payload of the namespace, but no marker. Result: True."""


@dataclass(slots=True)
class ReadClock:
    """Read the tier's own clock; asked only of tiers that say `has_clock`. Result: epoch seconds."""


class Ending(Enum):
    """How the time of a lease came to its end, for those who waited."""

    STORED = "stored"
    """A value was offered to the tier: who waited should look for it."""
    IN_VAIN = "in vain"
    """There is none, and waiting for the next one is no use: the loader raised, or nobody may keep what it gave."""
    GIVEN_UP = "given up"
    """The load was not tried to its end: somebody else should."""


@dataclass(slots=True)
class TakeLease:
    """Ask for the lease of a key, so that one process of the fleet loads it; for tiers that say `has_leases`.

    Result: None when the asker has it now, else `Taken`; who is told so is signalled when the lease ends. `DOWN` where
    the tier as a whole answers, but not about leases.

    Attributes:
        key: the stored key.
        holder: a new id of the asker.
        seconds: how long it lasts unless it is kept with `KeepLeases`.
        seen: the holder after whose `Ending.STORED` the asker has looked for a value.
        looked: seconds since it began to look; what was stored longer ago than that it has seen, too.
    """

    key: str
    holder: bytes
    seconds: float
    seen: bytes = b""
    looked: float = INFINITE


@dataclass(slots=True)
class Taken:
    """Why a lease cannot be had.

    Attributes:
        holder: the id of who has it.
        left: seconds until it runs out, should its holder not keep it.
        done: whether that holder has just stored a value, perhaps after the asker looked for one.
    """

    holder: bytes
    left: float
    done: bool = False


@dataclass(slots=True)
class KeepLeases:
    """Have leases last for another while. Result: `list[bool]`, whether each is still its holder's.

    Attributes:
        leases: (stored key, holder) pairs.
        seconds: how long they last from now.
    """

    leases: Sequence[tuple[str, bytes]]
    seconds: float


@dataclass(slots=True)
class ReturnLease:
    """End a lease, unless it is somebody else's by now, and tell those who wait. Result: True."""

    key: str
    holder: bytes
    ending: Ending


@dataclass(slots=True)
class Together:
    """Two operations in one trip, where there is a way; for tiers that say `has_leases`.

    Result: both results, as a tuple. A failure of `first` is one of the whole; one of `then` alone is a `DOWN` in its
    place, and nothing is lost by it.

    Attributes:
        first: what matters.
        then: what concerns a lease. A `ReturnLease` is carried out after `first`.
    """

    first: Capture | Fetch | Store
    then: TakeLease | ReturnLease


Operation: TypeAlias = (
    Fetch
    | Capture
    | Store
    | Renew
    | Hold
    | Release
    | ReadRules
    | Delete
    | Purge
    | ReadClock
    | TakeLease
    | KeepLeases
    | ReturnLease
    | Together
)


class Load:
    """Run the caller's loader. Result: its value; its exception is thrown into the flow.

    Attributes:
        limits: what bounds it (see `limits`); None where nothing does. What takes longer is a `LoaderTimeout`.
        waited: seconds that it waited for a slot, once it has run.
    """

    __slots__ = ("args", "call", "kwargs", "limits", "waited")

    def __init__(
        self,
        call: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.call = call
        self.args = args
        self.kwargs = kwargs or {}
        self.limits = limits
        self.waited = 0.0

    def within(self, limits: Limits) -> Load:
        """Return the same load with limits."""
        return Load(self.call, self.args, self.kwargs, limits)


class LoadEach:
    """Run several loaders; in a loop up to `limit` of them at once. Result: a list of `(value, error)` pairs."""

    __slots__ = ("limit", "loads")

    def __init__(self, loads: Sequence[Load], limit: int = 16) -> None:
        self.loads = loads
        self.limit = limit


class Barrier:
    """Wait until every signal sent so far has been obeyed; first, where the link is coming up, until it is up.

    Result: whether the link can say so.
    """

    __slots__ = ()


@dataclass(slots=True)
class Begun:
    """The answer to `Aside`.

    Attributes:
        withdraw: has the other flow never begin; returns whether that was still possible.
        bounded: whether the time that its loader may take ends it.
    """

    withdraw: Callable[[], bool]
    bounded: bool


class Aside:
    """Begin to carry out another flow beside this one: in a task, or in a thread where there are any.

    Result: a `Begun`; None where it has to be carried out as a part of this flow.

    Attributes:
        flow: the other flow; it raises nothing but what ends a task.
        flights: those that it lands; carried out in a thread, no loop has to run for that.
        dropped: called when it will never be carried out.
        stoppable: whether whoever cancels the caller means this flow too, so that a task need not be begun: the driver
            that has tasks can also bound a load in its own.
    """

    __slots__ = ("dropped", "flights", "flow", "stoppable")

    def __init__(
        self, flow: Generator[Any, Any, Any], flights: Sequence[Any], dropped: Callable[[], None], *, stoppable: bool
    ) -> None:
        self.flow = flow
        self.flights = flights
        self.dropped = dropped
        self.stoppable = stoppable


class Join:
    """Wait until a flight lands. Result: its `Outcome`; `LATE` when it has not after so many seconds."""

    __slots__ = ("flight", "seconds")

    def __init__(self, flight: Any, seconds: float | None = None) -> None:
        self.flight = flight
        self.seconds = seconds


class AwaitLease:
    """Wait until a lease that somebody else has comes to its end. Result: a `leases.Woken`.

    Attributes:
        waiting: where its end is told; a `leases.Waiting`.
        holder: who has it.
        seconds: how long to wait at most.
    """

    __slots__ = ("holder", "seconds", "waiting")

    def __init__(self, waiting: Any, holder: bytes, seconds: float) -> None:
        self.waiting = waiting
        self.holder = holder
        self.seconds = seconds
