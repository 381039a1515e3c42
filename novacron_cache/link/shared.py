"""The link over a shared directory: the processes of one machine hear of each other through the disk tier's database.

Nothing is pushed here, so one thread looks: it reads what the log of changes has after the row that it read last. Such
a poll is one statement of a few microseconds, some fifty times a second, and it is the heartbeat as well, because a
writer adds to the log in the transaction that takes an id away: what a poll does not find had not been committed when
the poll began. A counter beside the database would be cheaper to look at, but a writer that is killed between its
commit and the counter would leave a change that nobody looks for.

A poll that fails proves nothing, and loses nothing either while the next one still finds the row that this one would
have gone on from. So a database that is locked for a moment costs the horizon a beat; only one that stays silent for
half the bound, or that has another log (trimmed too far, erased, replaced), loses the link.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from ..chance import chance
from ..errors import TierError
from .machine import LinkState
from .tracking import Subscriber
from .waiters import Waiters

__all__ = ["ChangeLog", "DiskLink"]

PACE: Final = 0.02
"""Seconds between two polls, at most; a bound shorter than six of them shortens it."""

SHORTEST: Final = 0.05
LONGEST: Final = 1.0
"""Seconds to wait before the first and before any later attempt to come up again; each takes half of it at least."""


class ChangeLog(Protocol):
    """What a tier that keeps a log of changes offers; both methods raise `TierError` when it cannot be read."""

    def newest_change(self) -> tuple[int, bytes]:
        """Return the place from which on `changes` tells what happens."""
        ...

    def changes(self, since: tuple[int, bytes]) -> tuple[tuple[int, bytes], list[tuple[str, bytes]]] | None:
        """Return the place to go on from, and (dependency, new id) of each change; None where `since` is gone."""
        ...


_links: weakref.WeakSet[DiskLink] = weakref.WeakSet()


class DiskLink:
    """Reads a log of changes again and again and tells its subscriber what is new.

    Args:
        log: the log.
        subscriber: told what happens; held weakly.
        bound: the staleness bound, seconds.
        pace: seconds between two polls; None derives it from the bound.
        monotonic: the clock of the hits.
    """

    def __init__(
        self,
        log: ChangeLog,
        *,
        subscriber: Subscriber,
        bound: float,
        pace: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._subscriber = weakref.ref(subscriber)
        self._bound = bound
        self._pace = min(PACE, bound / 6) if pace is None else pace
        self._monotonic = monotonic
        self._stopping = threading.Event()
        self._reset()
        _links.add(self)

    def _reset(self) -> None:
        self.state = LinkState.CONNECTING
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiters = Waiters(self._listening, self._wake.set)
        self._thread: threading.Thread | None = None
        self._reason = ""
        self._failures = 0

    def _listening(self) -> bool:
        coming = self.state is LinkState.CONNECTING and self._thread is not None and not self._failures
        return (coming or self.state is LinkState.UP) and not self._stopping.is_set()

    def ensure(self) -> None:
        """Start the thread unless it runs; where no thread is to be had, there is no link this time."""
        if self._thread is not None or self._stopping.is_set():
            return
        with self._lock:
            if self._thread is not None or self._stopping.is_set():
                return
            thread = threading.Thread(target=self._run, name="novacron_cache link", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                self._thread = None

    def stop(self) -> None:
        """End the thread and fail whoever waits for a barrier."""
        self._stopping.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        self.state = LinkState.STOPPED
        self._waiters.release(False)

    def drop(self, reason: str) -> None:
        """Do nothing: a directory is never another one behind its readers' backs."""

    def barrier(self, patience: float) -> bool:
        """Wait until every change committed before this call has been obeyed; False when the link cannot say so."""
        return self._waiters.wait(patience)

    async def abarrier(self, patience: float) -> bool:
        """Do what `barrier` does without blocking the running loop."""
        return await self._waiters.await_(patience)

    def after_fork(self) -> None:
        """Start afresh in a forked child: the thread stayed in the parent."""
        stopped = self._stopping.is_set()
        self._stopping = threading.Event()
        self._reset()
        if stopped:
            self._stopping.set()
            self.state = LinkState.STOPPED

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set() and self._subscriber() is not None:
                try:
                    reason = self._session()
                except Exception as error:
                    reason = type(error).__name__ if not isinstance(error, TierError) else str(error)
                self._stopping.wait(self._lost(reason))
        finally:
            # Whatever ended the thread, a later call may start another.
            self.state = LinkState.LOST
            self._waiters.release(False)
            self._thread = None

    def _session(self) -> str:
        """Find the end of the log and follow it until that is not possible any more; return why."""
        self.state = LinkState.CONNECTING
        asked = self._monotonic()
        place = self._log.newest_change()
        self._tell([], asked, first=True)
        while True:
            self._wake.wait(self._pace)
            self._wake.clear()
            if self._stopping.is_set():
                return "stopped"
            waiting = self._waiters.take()
            good = False
            try:
                began = self._monotonic()
                try:
                    found = self._log.changes(place)
                except TierError as error:
                    if began - asked > self._bound / 2:
                        return str(error)
                    continue
                if found is None:
                    return "the log of changes is another one, or was not read for too long"
                asked, (place, signals) = began, found
                if not self._tell(signals, asked):
                    return "nobody listens"
                good = True
            finally:
                self._waiters.release(good, waiting)

    def _tell(self, signals: list[tuple[str, bytes]], asked: float, *, first: bool = False) -> bool:
        """Pass on what a poll has found that began at `asked`; return whether anyone listens."""
        subscriber = self._subscriber()
        if subscriber is None:
            return False
        if first:
            subscriber.link_up(asked + self._bound)
            self.state, self._failures = LinkState.UP, 0
            return True
        # Obeyed before the beat vouches for anything.
        if signals:
            subscriber.signalled(signals)
        subscriber.link_beat(asked + self._bound)
        return True

    def _lost(self, reason: str) -> float:
        """Say that the link is lost; return the seconds to wait before the next attempt."""
        news = self.state is LinkState.UP or reason != self._reason
        self.state, self._reason = LinkState.LOST, reason
        subscriber = self._subscriber()
        if news and subscriber is not None and not self._stopping.is_set():
            # Also when it has never been up: what keeps it from coming up should not stay a secret.
            subscriber.link_lost(reason)
        self._waiters.release(False)
        pause: float = min(LONGEST, SHORTEST * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return pause * chance.uniform(0.5, 1.0)


def _after_fork() -> None:
    for link in list(_links):
        link.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
