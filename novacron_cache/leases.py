"""What a process knows of leases: those it has, and those it waits for.

A lease lets one process of the fleet load a key while the others wait. It is kept in the shared tier, it runs out
unless its holder keeps it, and its end is signalled as invalidations are. It saves loads and guarantees nothing: which
value may be served is decided by ids alone, so a lease that is lost, doubled or never found costs a load.

Everything here is bookkeeping with an injected clock. Nothing waits, except where a driver asks a `Waiting` to, in its
own calling mode. Whoever may have to wait says so *before* asking for the lease, so that an end which is signalled
before the answer has been read is not missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from enum import Enum
from typing import Final

from .markers import new_id

__all__ = ["ENDED", "IN_VAIN", "LIFE", "Lease", "Leases", "Waiting", "Woken"]

LIFE: Final = 1.0
"""Seconds that a lease lasts unless it is kept: for so long a holder that died keeps the others waiting."""

ENDED: Final = "l:"
IN_VAIN: Final = "x:"
"""How the signals of ended leases begin, where those of invalidations name a dependency."""

_LINGER: Final = 8
"""How many times in a row nothing has to be kept before that is looked for no longer."""


class Woken(Enum):
    """Why somebody who waited for the end of a lease waits no longer."""

    ENDED = "ended"
    IN_VAIN = "in vain"
    """It ended, and waiting for another one is no use."""
    RAN_OUT = "ran out"
    """Nothing was heard of it: the time is over, or ends cannot be heard of any more."""
    REFUSED = "refused"
    """Not waited for: it would have blocked a running event loop."""


class Lease:
    """One attempt to get a lease, and what came of it.

    Attributes:
        key: the stored key.
        holder: the id of this attempt.
        until: monotonic seconds until which it is ours for certain; 0 before it is.
        lost: whether it became somebody else's, or nobody's, meanwhile.
        open: whether the shared tier may think that it is ours.
    """

    __slots__ = ("holder", "key", "lost", "open", "until")

    def __init__(self, key: str) -> None:
        self.key = key
        self.holder = new_id()
        self.until = 0.0
        self.lost = False
        self.open = False


class Waiting:
    """One call that may have to wait for the ends of leases of one key."""

    __slots__ = ("_ends", "_for", "_lock", "_roused", "_wake", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self._lock = threading.Lock()
        self._ends: dict[bytes, Woken] = {}
        self._roused = False
        self._for = b""
        self._wake: Callable[[], None] | None = None

    def tell(self, holder: bytes, how: Woken) -> None:
        """Note the end of a holder's lease, and wake whoever waits for it."""
        with self._lock:
            self._ends[holder] = how
            wake = self._wake if holder == self._for else None
        if wake is not None:
            wake()

    def rouse(self) -> None:
        """Wake whoever waits: what it waits for may never be told."""
        with self._lock:
            self._roused = True
            wake = self._wake
        if wake is not None:
            wake()

    def wait(self, holder: bytes, seconds: float) -> Woken:
        """Block until a holder's lease ends, for `seconds` at most."""
        event = threading.Event()
        if self._arm(holder, event.set):
            event.wait(seconds)
        return self._woken(holder)

    async def await_(self, holder: bytes, seconds: float) -> Woken:
        """Do what `wait` does without blocking the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            """Wake whoever waits, in his loop."""
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            """Have him woken, from any thread."""
            with contextlib.suppress(RuntimeError):  # that loop is closed, and its waiter with it
                loop.call_soon_threadsafe(settle)

        try:
            if self._arm(holder, wake):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await future
        finally:
            woken = self._woken(holder)
        return woken

    def _arm(self, holder: bytes, wake: Callable[[], None]) -> bool:
        with self._lock:
            if self._roused or holder in self._ends:
                return False
            self._for, self._wake = holder, wake
            return True

    def _woken(self, holder: bytes) -> Woken:
        with self._lock:
            self._wake, self._roused = None, False
            return self._ends.get(holder, Woken.RAN_OUT)


class Leases:
    """The leases of one process.

    Args:
        monotonic: the clock.

    Attributes:
        on_held: called when one is held and nobody keeps leases yet.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.on_held: Callable[[], None] = _nobody
        self._monotonic = monotonic
        self.reset()

    def reset(self) -> None:
        """Start afresh in a forked child: the leases stayed in the parent, and so did those who wait."""
        self._lock = threading.Lock()
        self._ours: dict[bytes, Lease] = {}
        self._waiting: dict[str, list[Waiting]] = {}
        self._kept = False
        self._idle = 0

    # -- having -------------------------------------------------------------------------------------------------

    def begin(self, key: str) -> Lease:
        """Return a new attempt, which counts as this process's from now on."""
        lease = Lease(key)
        with self._lock:
            self._ours[lease.holder] = lease
        return lease

    def hold(self, lease: Lease, until: float) -> None:
        """Note that an attempt succeeded, and have the lease kept."""
        with self._lock:
            lease.until = until
            kept, self._kept, self._idle = self._kept, True, 0
        if not kept:
            self.on_held()

    def end(self, lease: Lease) -> None:
        """Forget an attempt or a lease."""
        with self._lock:
            self._ours.pop(lease.holder, None)

    def ours(self, holder: bytes) -> bool:
        """Return whether a call of this process holds, or asks, under this id."""
        return holder in self._ours

    def due(self) -> list[Lease]:
        """Return the leases that have to be kept now; one that has just been taken is not among them."""
        soon = self._monotonic() + 0.8 * LIFE
        with self._lock:
            return [lease for lease in self._ours.values() if not lease.lost and 0.0 < lease.until < soon]

    def rest(self) -> bool:
        """Return whether nothing was held for a while; the next one that is calls `on_held` again."""
        with self._lock:
            self._idle = 0 if self._ours else self._idle + 1
            if self._idle > _LINGER:
                self._kept = False
            return not self._kept

    # -- waiting ------------------------------------------------------------------------------------------------

    def expect(self, key: str) -> Waiting:
        """Return what is told of the ends of a key's leases from now on."""
        waiting = Waiting(key)
        with self._lock:
            self._waiting.setdefault(key, []).append(waiting)
        return waiting

    def forget(self, waiting: Waiting) -> None:
        """Tell it nothing any more."""
        with self._lock:
            there = self._waiting.get(waiting.key, [])
            if waiting in there:
                there.remove(waiting)
            if not there:
                self._waiting.pop(waiting.key, None)

    def signalled(self, signal: str, holder: bytes) -> bool:
        """Obey a signal, and return whether it is one about leases."""
        how = _HOW.get(signal[:2])
        if how is None:
            return False
        if self._waiting:
            with self._lock:
                told = list(self._waiting.get(signal[2:], ()))
            for waiting in told:
                waiting.tell(holder, how)
        return True

    def rouse(self) -> None:
        """Wake everybody: signals may have been missed."""
        with self._lock:
            everybody = [waiting for there in self._waiting.values() for waiting in there]
        for waiting in everybody:
            waiting.rouse()


_HOW: Final = {ENDED: Woken.ENDED, IN_VAIN: Woken.IN_VAIN}


def _nobody() -> None:
    """Stand in until there is somebody to call."""
