"""What keeps concurrent calls honest: flights, the history of invalidations, breakers, pending invalidations.

Everything here is pure bookkeeping with an injected clock. Nothing waits, except where a driver asks a flight for
the primitive of its own calling mode.

**Flights.** A flight is one load in progress for one stored key; whoever wants the same key meanwhile joins it,
thread or task alike. It lands with an outcome. When the leader is cancelled, the outcome says "hand over": every
waiter comes back and boards again, and the first becomes the leader. A flight that began before an invalidation of
what it loads must not serve a call that began after it, so boarding compares its token with the history. Waiting in
a circle (a loader that needs its own key, or two loaders that need each other's) is found before it begins: such a
call loads by itself. A batch that finds its values without loading leads a *convoy*: that nobody else wants any of its
keys meanwhile is the rule, so a key's flight is made when somebody does.

**History.** Each process numbers its invalidations. A load notes the number before it begins and, when it stores,
looks at those that came after: if one of them names a dependency of the value, the value is not kept. The ring is
bounded; a load older than the ring is treated as hit.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import ContextVar
from enum import Enum
from itertools import islice
from types import TracebackType
from typing import Any

Matcher = Callable[[str, Sequence[str]], bool]


class History:
    """The latest invalidations of this process, numbered. The caller holds the memory tier's lock when it appends.

    Args:
        limit: how many are kept.
        names: how many dependencies they may have together, but for those of the latest.
    """

    def __init__(self, limit: int = 4096, names: int = 65_536) -> None:
        self.seq = 0
        self._most = names
        self._names = 0
        self._lock = threading.Lock()
        self._ring: deque[tuple[frozenset[str], tuple[Matcher, ...]]] = deque(maxlen=limit)

    def append(self, deps: Iterable[str], matchers: tuple[Matcher, ...] = ()) -> int:
        """Record an invalidation and return its number."""
        named = frozenset(deps)
        ring = self._ring
        with self._lock:
            if len(ring) == ring.maxlen:
                self._names -= len(ring[0][0])
            ring.append((named, matchers))
            self._names += len(named)
            while self._names > self._most and len(ring) > 1:
                self._names -= len(ring.popleft()[0])
            self.seq += 1
            return self.seq

    def hits(
        self, token: int, deps: Collection[str], logical: str, tags: Sequence[str], *, until: int | None = None
    ) -> bool:
        """Return whether an invalidation after number `token` reaches a value with these dependencies.

        Args:
            token: the number after which to look.
            deps: the value's dependencies.
            logical: its logical key.
            tags: its tags.
            until: the last number to look at; None is the latest.
        """
        if token >= (self.seq if until is None else until):
            return False
        with self._lock:
            # The number and the ring are read together: an append between the two would shift what is looked at.
            first = self.seq - len(self._ring)
            if token < first:
                return True
            newer = list(islice(self._ring, token - first, None if until is None else until - first))
        return any(
            not named.isdisjoint(deps) or any(matches(logical, tags) for matches in matchers)
            for named, matchers in newer
        )

    def names_since(self, token: int) -> frozenset[str] | None:
        """Return every dependency that was invalidated after a number; None where more was, or it is not known."""
        if token >= self.seq:
            return frozenset()
        with self._lock:
            first = self.seq - len(self._ring)
            if token < first:
                return None
            newer = list(islice(self._ring, token - first, None))
        if any(matchers for _, matchers in newer):
            return None
        return frozenset().union(*(named for named, _ in newer))

    def reset(self) -> None:
        """Make the lock anew in a forked child."""
        self._lock = threading.Lock()


class Outcome(Enum):
    """How a flight ended, for those who waited."""

    LANDED = "landed"
    FAILED = "failed"
    HANDED_OVER = "handed over"
    SOLO = "solo"
    """Not waited for: waiting would block the very loop that has to land it, or close a circle."""
    LATE = "late"
    """Not waited for any longer; it is still under way."""


class Flight:
    """One load in progress.

    Attributes:
        key: the stored key.
        token: the history number at which its leader's request began.
        began: monotonic seconds at which it did.
        loop: the event loop that runs in its leader's thread, or None.
        outcome: how it ended; None while it has not.
        awaits: the flights that calls of its leader wait for.
    """

    __slots__ = (
        "_event", "_futures", "_lock", "_traceback", "awaits", "began", "error", "key", "loop", "outcome", "result",
        "token",
    )  # fmt: skip

    def __init__(self, key: str, token: int, loop: asyncio.AbstractEventLoop | None, began: float = 0.0) -> None:
        self.key = key
        self.token = token
        self.began = began
        self.loop = loop
        self.outcome: Outcome | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self.awaits: set[Flight] = set()
        self._lock = threading.Lock()
        self._event: threading.Event | None = None
        self._futures: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def end(self, outcome: Outcome, result: Any = None, error: BaseException | None = None) -> None:
        """Wake everybody who waits; only the first call counts."""
        with self._lock:
            if self.outcome is not None:
                return
            self.result, self.error, self.outcome = result, error, outcome
            self._traceback = None if error is None else error.__traceback__
            event, futures, self._futures = self._event, self._futures, []
        if event is not None:
            event.set()
        for loop, future in futures:
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:
                continue  # that loop is closed, and its waiter with it

    def failure(self) -> BaseException | None:
        """Return the error as it landed; else a thousand waiters would each be raised the frames of all before them."""
        return None if self.error is None else self.error.with_traceback(self._traceback)

    def wait(self, seconds: float | None = None) -> Outcome:
        """Wait in this thread until the flight ends, for so many seconds at most."""
        with self._lock:
            if self.outcome is not None:
                return self.outcome
            event = self._event = self._event or threading.Event()
        event.wait(seconds)
        return self.outcome or Outcome.LATE

    async def await_(self, seconds: float | None = None) -> Outcome:
        """Wait in this task until the flight ends, for so many seconds at most; its cancellation is its own."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self.outcome is not None:
                return self.outcome
            future = loop.create_future()
            self._futures.append((loop, future))
        try:
            if seconds is None:
                await future
            else:
                # Not `wait_for`, which starts a task, and not `timeout`, whose cancellation a caller's own could meet.
                await asyncio.wait((future,), timeout=seconds)
        finally:
            if not future.done() or future.cancelled():
                with self._lock:
                    self._futures = [known for known in self._futures if known[1] is not future]
        return self.outcome or Outcome.LATE


class Convoy:
    """Many keys that one call reads together; none has a flight of its own until somebody else wants it.

    Attributes:
        token: as for each flight.
        began: as for each flight.
        loop: as for each flight.
        keys: the stored keys.
        wanted: the flights of those keys that others want, by key.
    """

    __slots__ = ("began", "keys", "loop", "token", "wanted")

    def __init__(self, token: int, loop: asyncio.AbstractEventLoop | None, began: float) -> None:
        self.token = token
        self.loop = loop
        self.began = began
        self.keys: list[str] = []
        self.wanted: dict[str, Flight] = {}

    def flight(self, key: str) -> Flight:
        """Return the flight of a key that somebody else wants."""
        flight = self.wanted[key] = Flight(key, self.token, self.loop, self.began)
        return flight


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_led: ContextVar[tuple[Flight, ...]] = ContextVar("novacron_cache_led", default=())
"""The flights that the present call, or a call around it, leads; child tasks inherit it."""


def leading() -> bool:
    """Return whether the present call is made by a loader."""
    return bool(_led.get())


class Flights:
    """All loads in progress of one cache."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, Any] = {}  # to a `Flight` or a `Convoy`

    def board(self, key: str, token: int, still_good: Callable[[int], bool], now: float = 0.0) -> tuple[Flight, bool]:
        """Return the flight for a key and whether the caller leads it.

        Args:
            key: the stored key.
            token: the history number at which the caller's request began.
            still_good: given the token of the flight under way, whether no invalidation came between.
            now: monotonic seconds at which the caller's request began.
        """
        loop = asyncio._get_running_loop()
        with self._lock:
            flight = self._by_key.get(key)
            if isinstance(flight, Convoy):
                flight = self._by_key[key] = flight.flight(key)
            if flight is not None and flight.outcome is None and still_good(flight.token):
                return flight, False
            flight = self._by_key[key] = Flight(key, token, loop, now)
        return flight, True

    def board_all(self, keys: list[str], token: int, now: float = 0.0) -> Convoy:
        """Return a convoy that the caller leads, for those of these keys that nobody is after.

        Args:
            keys: distinct stored keys.
            token: as for `board`.
            now: as for `board`.
        """
        convoy = Convoy(token, asyncio._get_running_loop(), now)
        with self._lock:
            under_way = self._by_key
            if not under_way.keys().isdisjoint(keys):
                keys = [key for key in keys if key not in under_way]
            convoy.keys = keys
            under_way.update(dict.fromkeys(keys, convoy))
        return convoy

    def disband(self, convoy: Convoy) -> list[Flight]:
        """End a convoy, and return the flights of those keys that others want by now: the caller has to land them."""
        with self._lock:
            under_way = self._by_key
            for key in convoy.keys:
                if under_way.get(key) is convoy:
                    del under_way[key]
            return list(convoy.wanted.values())

    def land(self, flight: Flight, outcome: Outcome, result: Any = None, error: BaseException | None = None) -> None:
        """End a flight that the caller leads."""
        with self._lock:
            if self._by_key.get(flight.key) is flight:
                del self._by_key[flight.key]
        flight.end(outcome, result, error)

    def may_wait(self, flight: Flight, *, blocking: bool) -> bool:
        """Return whether waiting for a flight can end, and if so note that the caller's own flights wait for it."""
        if blocking and flight.loop is not None and flight.loop is asyncio._get_running_loop():
            return False
        mine = _led.get()
        if not mine:
            return True
        with self._lock:
            seen: set[Flight] = set()
            todo = [flight]
            while todo:
                one = todo.pop()
                if one in mine:
                    return False
                if one not in seen and one.outcome is None:
                    seen.add(one)
                    todo.extend(one.awaits)
            for own in mine:
                own.awaits.add(flight)
        return True

    def waited(self, flight: Flight) -> None:
        """Forget that the caller's flights wait for this one."""
        mine = _led.get()
        # While it flies, another task of the same leader may still wait for it.
        if mine and flight.outcome is not None:
            with self._lock:
                for own in mine:
                    own.awaits.discard(flight)

    def reset(self) -> None:
        """Start afresh in a forked child: the leaders stayed in the parent."""
        self._lock = threading.Lock()
        self._by_key = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key


class Leading:
    """Marks, for the time of a loader's run, which flights the present context leads."""

    __slots__ = ("_before", "_flights")

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._flights = tuple(flights)

    def __enter__(self) -> None:
        self._before = _led.get()
        _led.set(self._before + self._flights)

    def __exit__(self, *exc: object) -> None:
        _led.set(self._before)


def _nobody_tries() -> bool:
    """Stand in where only callers find out whether a tier answers again."""
    return False


class Breaker:
    """Stops asking a tier that fails, and lets one call through after a pause.

    Closed: everything passes. After `threshold` failures in a row it opens for `pause` seconds; then one caller may
    try. Its success closes the breaker, its failure opens it again for twice as long, up to `longest`. Calls that were
    under way when it opened may still fail; that is no news and lengthens nothing.
    """

    def __init__(
        self, monotonic: Callable[[], float], *, threshold: int = 2, pause: float = 0.5, longest: float = 5.0
    ) -> None:
        self._monotonic = monotonic
        self._threshold = threshold
        self._first_pause = pause
        self._longest = longest
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = pause
        self._retry_at = 0.0
        self._open = False
        self._trying = False
        self._invited = False
        self.elsewhere: Callable[[], bool] = _nobody_tries
        """Returns whether somebody tries who is no caller; then callers need not."""

    @property
    def is_open(self) -> bool:
        """Whether calls are being refused, or one is trying whether to close again."""
        return self._open

    def allows(self) -> bool:
        """Return whether a call may go ahead; while open, one call in each pause may."""
        if not self._open:
            return True
        if self.elsewhere() and not self._invited:
            return False
        with self._lock:
            now = self._monotonic()
            if now < self._retry_at:
                return False
            self._invited = False
            self._retry_at = now + self._pause
            self._trying = True
            return True

    def retry_now(self) -> None:
        """Let the next call try: there is reason to think that it will succeed."""
        if self._open:
            with self._lock:
                self._retry_at = min(self._retry_at, self._monotonic())
                self._invited = True

    def succeeded(self) -> bool:
        """Note a success; return whether it closed the breaker."""
        if not self._open and not self._failures:
            return False
        with self._lock:
            was_open, self._open = self._open, False
            self._trying = self._invited = False
            self._failures = 0
            self._pause = self._first_pause
            return was_open

    def failed(self, *, at_once: bool = False) -> bool:
        """Note a failure; return whether it opened the breaker.

        Args:
            at_once: whether one such failure is enough, because each costs its caller a time-out.
        """
        with self._lock:
            self._failures += 1
            if self._open:
                if not self._trying:
                    return False
                self._trying = False
                self._pause = min(self._longest, self._pause * 2)
                self._retry_at = self._monotonic() + self._pause
                return False
            if self._failures < self._threshold and not at_once:
                return False
            self._open = True
            self._retry_at = self._monotonic() + self._pause
            return True

    def reset(self) -> None:
        """Make the lock anew in a forked child."""
        self._lock = threading.Lock()


class PendingView:
    """What was pending at one moment.

    A read takes its view before it asks for ids: an invalidation that is delivered while the read is under way may have
    come after the ids it got.
    """

    __slots__ = ("_deps", "_matchers")

    def __init__(self, deps: frozenset[str], matchers: tuple[Matcher, ...]) -> None:
        self._deps = deps
        self._matchers = matchers

    def blocks(self, deps: Iterable[str], logical: str, tags: Sequence[str]) -> bool:
        """Return whether a value with these dependencies must not be read from a shared tier."""
        return not self._deps.isdisjoint(deps) or any(matches(logical, tags) for matches in self._matchers)


NOTHING_PENDING = PendingView(frozenset(), ())


class Pending:
    """Invalidations that have not reached the shared tier; this process never reads around them.

    What has arrived is remembered for a while: should the server that took it turn out to have been replaced before,
    everything is pending once more.

    Args:
        monotonic: the clock.
        everything: the dependency that stands for all others, where there are too many to be kept one by one.
        new_id: draws ids.
        memory: seconds for which what has arrived is remembered.
        limit: how many dependencies are remembered one by one.
        most: how many may be pending one by one.

    Attributes:
        generation: goes up whenever the server turned out to be another one than before.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        everything: str,
        new_id: Callable[[], bytes],
        *,
        memory: float = 60.0,
        limit: int = 16_384,
        most: int = 262_144,
    ) -> None:
        self.generation = 0
        self._monotonic = monotonic
        self._everything = everything
        self._new_id = new_id
        self._view: PendingView | None = None
        self._memory = memory
        self._limit = limit
        self._most = most
        self._lock = threading.Lock()
        self._markers: dict[str, bytes] = {}
        self._rules: dict[bytes, tuple[bytes, Matcher]] = {}
        self._arrived: deque[tuple[float, str, tuple[bytes, Matcher] | None]] = deque()
        self._forgotten = -math.inf

    def __bool__(self) -> bool:
        return bool(self._markers or self._rules)

    def __len__(self) -> int:
        return len(self._markers) + len(self._rules)

    def add(self, markers: Iterable[tuple[str, bytes]], rules: Iterable[tuple[bytes, bytes, Matcher]] = ()) -> None:
        """Note invalidations before they are sent."""
        with self._lock:
            self._view = None
            self._markers.update(markers)
            for rule_id, data, matcher in rules:
                self._rules[rule_id] = (data, matcher)
            if len(self._markers) + len(self._rules) > self._most:
                # In a long outage, rather than grow without end, and be searched by every read.
                self._markers, self._rules = {self._everything: self._new_id()}, {}

    def delivered(
        self, markers: Iterable[tuple[str, bytes]], rules: Iterable[bytes] = (), *, generation: int | None = None
    ) -> bool:
        """Take off what has arrived; a later invalidation of the same dependency stays pending.

        Args:
            markers: (dependency, id) pairs.
            rules: ids of rules.
            generation: the generation before they were sent. Where there is another one by now, whoever took them may
                not be the one that counts, and everything stays pending.

        Returns:
            Whether it counts as delivered.
        """
        with self._lock:
            if generation is not None and generation != self.generation:
                return False
            self._view = None
            now = self._monotonic()
            for dep, marker_id in markers:
                if self._markers.get(dep) == marker_id:
                    del self._markers[dep]
                    self._arrived.append((now, dep, None))
            for rule_id in rules:
                rule = self._rules.pop(rule_id, None)
                if rule is not None:
                    self._arrived.append((now, "", rule))
            arrived = self._arrived
            while arrived and (now - arrived[0][0] > self._memory or len(arrived) > self._limit):
                self._forgotten = arrived.popleft()[0]
            return True

    def replay(self, known_for: float) -> int:
        """Begin another generation: what arrived lately is pending again; return how much that is.

        Args:
            known_for: seconds for which the fleet has known the server that counts now. What was acknowledged before
                that concerns values that are invalid by now.
        """
        with self._lock:
            self.generation += 1
            self._view = None
            again = {dep: self._new_id() for _, dep, rule in self._arrived if rule is None}
            # The server counts whole seconds.
            if self._forgotten > self._monotonic() - known_for - 2.0:
                again[self._everything] = self._new_id()
            rules = {self._new_id(): rule for _, _, rule in self._arrived if rule is not None}
            self._arrived.clear()
            self._markers = again | self._markers
            self._rules = rules | self._rules
            return len(again) + len(rules)

    def snapshot(self) -> tuple[list[tuple[str, bytes]], list[tuple[bytes, bytes]]]:
        """Return the pending markers and the (id, rule) pairs, oldest first."""
        with self._lock:
            return list(self._markers.items()), [(rule_id, data) for rule_id, (data, _) in self._rules.items()]

    def view(self) -> PendingView:
        """Return what is pending now; it does not change when something is delivered."""
        if not self:
            return NOTHING_PENDING
        with self._lock:
            if self._view is None:
                self._view = PendingView(
                    frozenset(self._markers), tuple(matches for _, matches in self._rules.values())
                )
            return self._view

    def blocks(self, deps: Iterable[str], logical: str, tags: Sequence[str]) -> bool:
        """Return what the view of this moment says."""
        return self.view().blocks(deps, logical, tags)

    def reset(self) -> None:
        """Make the lock anew in a forked child; what is pending stays pending there too."""
        self._lock = threading.Lock()
