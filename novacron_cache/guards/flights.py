"""One load for all who want the same key at the same time, threads and tasks alike.

A flight is one load in progress for one stored key; whoever wants the same key meanwhile joins it. It lands with an
outcome. When the leader is cancelled, the outcome says "hand over": every waiter comes back and boards again, and the
first becomes the leader. A flight that began before an invalidation of what it loads must not serve a call that began
after it, so boarding compares its token with the history. Waiting in a circle (a loader that needs its own key, or two
loaders that need each other's) is found before it begins: such a call loads by itself. A batch that finds its values
without loading leads a *convoy*: that nobody else wants any of its keys meanwhile is the rule, so a key's flight is
made when somebody does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from enum import Enum
from types import TracebackType
from typing import Any


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

    def claim(self, key: str, token: int, now: float) -> Convoy | None:
        """Return a convoy of one key that the caller leads; None where somebody is after it already.

        Args:
            key: the stored key.
            token: as for `board`.
            now: as for `board`.
        """
        convoy = Convoy(token, asyncio._get_running_loop(), now)
        convoy.keys.append(key)
        with self._lock:
            return convoy if self._by_key.setdefault(key, convoy) is convoy else None

    def take_over(self, convoy: Convoy) -> Flight:
        """Return the flight of the only key of a convoy that goes on as one."""
        (key,) = convoy.keys
        with self._lock:
            if self._by_key.get(key) is convoy:
                self._by_key[key] = convoy.flight(key)
            return convoy.wanted.get(key) or convoy.flight(key)

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
