"""One thread of a cache that prolongs what would run out: holds of `invalidating()`, and leases while their loads run.

What another process may take over once its owner is dead has to be renewed while the owner lives, however busy its own
threads and event loops are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Final, Protocol

from . import flows
from .drivers import drive
from .engine import Engine
from .leases import LIFE

__all__ = ["Keeper", "Kept", "LeaseKeeping"]

_TURNS: Final = 3
"""How often something is prolonged in the time that it lasts."""


class Kept(Protocol):
    """Something that is prolonged until it is removed, or over."""

    @property
    def seconds(self) -> float:
        """How long it lasts without being prolonged."""
        ...

    @property
    def idle(self) -> threading.Event:
        """Clear while it is being prolonged."""
        ...

    def over(self) -> bool:
        """Return whether it need not be prolonged any longer; asked under the keeper's lock."""
        ...

    def prolong(self) -> None:
        """Have it last for another while."""


class Keeper:
    """Prolongs what a cache has, in a thread that lives only while there is anything."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start afresh; in a forked child the parent's thread is gone, and what it prolongs is the parent's."""
        self._lock = threading.Lock()
        self._due: dict[Kept, float] = {}
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, one: Kept) -> None:
        """Prolong something from now on."""
        with self._lock:
            self._due[one] = time.monotonic() + one.seconds / _TURNS
            self._changed.set()
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="novacron_cache keeper", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads to be had: it lasts as long as it lasts
                    thread.start()
                    self._thread = thread

    def remove(self, one: Kept) -> None:
        """Prolong it no longer."""
        with self._lock:
            self._due.pop(one, None)
            if not self._due:
                self._changed.set()

    def hurry(self) -> None:
        """Prolong everything at once: whatever keeps it may have lost it."""
        with self._lock:
            now = time.monotonic()
            self._due = dict.fromkeys(self._due, now)
            self._changed.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        with self._lock:
            self._due.clear()
            self._changed.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._due = {one: at for one, at in self._due.items() if not one.over()}
                if not self._due:
                    self._thread = None
                    return
                pause = min(self._due.values()) - time.monotonic()
                self._changed.clear()
            if pause > 0:
                self._changed.wait(pause)
            now = time.monotonic()
            with self._lock:
                due = [one for one, at in self._due.items() if at <= now]
            for one in due:
                self._prolong(one)

    def _prolong(self, one: Kept) -> None:
        with self._lock:
            if one not in self._due:
                return
            self._due[one] = time.monotonic() + one.seconds / _TURNS
            one.idle.clear()
        try:
            one.prolong()
        finally:
            one.idle.set()


class LeaseKeeping:
    """The leases of an engine, for its cache's keeper."""

    seconds = LIFE

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.idle = threading.Event()

    def over(self) -> bool:
        """Return whether there have been no leases for a while; loads that end soon come and go without the thread."""
        return self._engine.leases.rest()

    def prolong(self) -> None:
        """Keep those that need it."""
        drive(self._engine, flows.keep_leases(self._engine))
