"""What keeps loaders from harming whoever they ask, and their callers from waiting for them without end.

**Slots** bound how many loads of one function run at once in a process, whatever mix of threads and tasks wants them:
what would be the thousandth question to a database waits in this process instead of in that one. Who waits is served in
the order of coming, for a bounded time. A loader that calls its own function again needs no second slot, for it would
wait for itself.

**Limits** is what one load is bounded by; the drivers see to it, each in its own way of waiting.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["LONGEST_WAIT", "Limits", "Slots"]

LONGEST_WAIT: Final = 30.0
"""Seconds that a load waits for a slot at most, where no `hard_timeout` says less."""


class _Waiter:
    __slots__ = ("given", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.given = False
        self.wake = wake


_inside: ContextVar[tuple[Slots, ...]] = ContextVar("novacron_cache_slots", default=())
"""The slots that the loaders around the present call have."""


class Slots:
    """A bounded number of places, for threads and tasks alike.

    Args:
        limit: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        """Start afresh, in a forked child too: who held or wanted a slot stayed in the parent."""
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting: deque[_Waiter] = deque()
        self._loops: Counter[asyncio.AbstractEventLoop] = Counter()

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many loads wait for one now."""
        return len(self._waiting)

    def take(self) -> bool:
        """Take a slot if that needs no waiting; return whether it was to be had."""
        with self._lock:
            if self._taken < self.limit and not self._waiting:
                self._taken += 1
                return True
            return False

    def wait(self, seconds: float) -> bool:
        """Block until a slot is given to this call; False after `seconds`."""
        event = threading.Event()
        waiter = _Waiter(event.set)
        if self._enlist(waiter):
            event.wait(seconds)
        return self._settle(waiter)

    async def await_(self) -> None:
        """Wait until a slot is given to this call, without blocking the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            """Wake whoever waits, in his loop."""
            if not future.done():
                future.set_result(None)

        def wake() -> None:
            """Have him woken, from any thread."""
            loop.call_soon_threadsafe(settle)

        waiter = _Waiter(wake)
        try:
            if self._enlist(waiter):
                await future
        except BaseException:
            if self._settle(waiter):
                self.leave()
            raise

    def leave(self) -> None:
        """Give a slot to who has waited longest, or back."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._taken -= 1
                    return
                waiter = self._waiting.popleft()
                waiter.given = True
            try:
                waiter.wake()
            except RuntimeError:  # its loop is closed, and whoever waited there is gone
                continue
            return

    @property
    def had(self) -> bool:
        """Whether a loader around the present call has one."""
        return self in _inside.get()

    @property
    def here(self) -> bool:
        """Whether a load of the loop that runs in this thread has one: blocking this thread would block that load."""
        loop = asyncio._get_running_loop()
        return loop is not None and self._loops[loop] > 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have a slot that was taken for the length of a load, and leave it."""
        before, loop = _inside.get(), asyncio._get_running_loop()
        _inside.set((*before, self))
        if loop is not None:
            with self._lock:
                self._loops[loop] += 1
        try:
            yield
        finally:
            _inside.set(before)
            if loop is not None:
                with self._lock:
                    self._loops[loop] -= 1
                    if not self._loops[loop]:
                        del self._loops[loop]
            self.leave()

    def _enlist(self, waiter: _Waiter) -> bool:
        """Have a waiter wait; False where it needs not."""
        with self._lock:
            if self._taken < self.limit and not self._waiting:
                self._taken += 1
                waiter.given = True
                return False
            self._waiting.append(waiter)
            return True

    def _settle(self, waiter: _Waiter) -> bool:
        """Have a waiter wait no longer; return whether it was given a slot."""
        with self._lock:
            if not waiter.given:
                self._waiting.remove(waiter)
            return waiter.given


_all: weakref.WeakSet[Slots] = weakref.WeakSet()


def _after_fork() -> None:
    for slots in tuple(_all):
        slots._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Limits:
    """What bounds one load.

    Attributes:
        name: the name of the model or function.
        key: the logical key.
        label: the function or model as messages call it.
        slots: what it needs one of, or None.
        seconds: how long it may still take, waiting for a slot included; None sets no bound.
        whole: how long it might in all.
    """

    __slots__ = ("key", "label", "name", "seconds", "slots", "whole")

    def __init__(
        self, name: str, key: str, label: str, slots: Slots | None, seconds: float | None, whole: float | None = None
    ) -> None:
        self.name = name
        self.key = key
        self.label = label
        self.slots = slots
        self.seconds = seconds
        self.whole = seconds if whole is None else whole
