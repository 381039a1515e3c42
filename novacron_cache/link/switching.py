"""How soon a link's thread gets the interpreter when another thread computes all the time.

Theory. A thread that wants the interpreter asks for it once it has waited for the switch interval, 5 ms unless somebody
has changed it, and the one that computes lets go at its next opportunity. So what a link hears is obeyed after that
interval at the earliest. It is a property of the process, and belongs to the application; a link shortens it only where
it was told to, for as long as its thread runs.

With several links the shortest counts. What the interval was comes back with the end of the last of them. A value that
somebody else has set meanwhile is left alone, and is what comes back where a link begins after that. A forked child has
no link yet: there the interval is what it was, until a link begins.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["SWITCHING", "Switching"]


class Switching:
    """Keeps the interpreter's switch interval as short as the links that run ask for; one for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[object, int] = {}
        # What it was, and what it was made; in microseconds, as the interpreter keeps it.
        self._before: int | None = None
        self._made = 0

    @contextmanager
    def at_most(self, seconds: float | None) -> Iterator[None]:
        """Have the interval be no longer than this while the block runs; None leaves it alone.

        Args:
            seconds: the interval, of which whole microseconds count.
        """
        if seconds is None:
            yield
            return
        who = object()
        self._begin(who, round(seconds * 1e6))
        try:
            yield
        finally:
            self._end(who)

    def _begin(self, who: object, wanted: int) -> None:
        with self._lock:
            now = _interval()
            if self._before is None or now != self._made:
                self._before = now
            self._asked[who] = wanted
            self._make(min(self._before, *self._asked.values()))

    def _end(self, who: object) -> None:
        with self._lock:
            # In a forked child nobody knows of the one that began in its parent.
            if self._asked.pop(who, None) is not None:
                self._settle()

    def _settle(self) -> None:
        before = self._before
        if before is not None and _interval() == self._made:
            self._make(min(before, *self._asked.values()) if self._asked else before)
        if not self._asked:
            self._before = None

    def _make(self, microseconds: int) -> None:
        if microseconds != _interval():
            # The interpreter cuts off what is less than a microsecond, and a float may be a little less.
            sys.setswitchinterval((microseconds + 0.5) / 1e6)
        self._made = microseconds

    def before_fork(self) -> None:
        """Wait until no thread is changing anything, lest a child begins with half of it."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Put the interval back: the threads of the links stayed in the parent."""
        self._asked.clear()
        self._settle()
        self._lock = threading.Lock()


def _interval() -> int:
    return round(sys.getswitchinterval() * 1e6)


SWITCHING: Final = Switching()
"""The one of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=SWITCHING.before_fork,
        after_in_parent=SWITCHING.after_fork_in_parent,
        after_in_child=SWITCHING.after_fork_in_child,
    )
