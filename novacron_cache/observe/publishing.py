"""Publishing: this process's figures, where whoever watches the fleet finds them.

Nobody pays for a monitor that does not run. One that does says so every few seconds, with a signal that reaches each
process over its link; a process publishes for as long as it hears that, from a thread that lives no longer. Workers
that share a directory (`monitor.directory`) keep their snapshots there all the time, for any of them may be asked next.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

from ..events import logger

WATCH: Final = 20.0
"""Seconds for which an announcement counts."""

ANNOUNCE: Final = 5.0
"""Seconds between two announcements of a monitor."""


class Publisher:
    """Publishes again and again, from a thread that lives while somebody wants it.

    Args:
        publish: publishes once; what it raises is logged.
        interval: seconds between two times; 0 never publishes.
        always: whether it goes on when nobody watches.
    """

    def __init__(self, publish: Callable[[bool], None], interval: float, *, always: bool = False) -> None:
        self._publish = publish
        self._interval = interval
        self._always = always
        self._watched_until = 0.0
        self.reset()

    def reset(self) -> None:
        """Start afresh; in a forked child the parent's thread is gone."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def watched(self) -> None:
        """Publish for a while: somebody watches."""
        if self._interval:
            self._watched_until = time.monotonic() + WATCH
            self.ensure()

    @property
    def is_watched(self) -> bool:
        """Whether somebody watches."""
        return time.monotonic() < self._watched_until

    def ensure(self) -> None:
        """Make sure that the thread runs while it is wanted."""
        with self._lock:
            if self._stopped.is_set() or self._thread is not None or not self._wanted():
                return
            thread = threading.Thread(target=self._run, name="novacron_cache figures", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads to be had; the next announcement tries again
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        """End the thread and wait for it."""
        with self._lock:
            self._stopped.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def _wanted(self) -> bool:
        return bool(self._interval) and (self._always or self.is_watched)

    def _run(self) -> None:
        while True:
            try:
                self._publish(self.is_watched)
            except Exception as error:
                logger.debug("the figures of this process could not be published: %s", error)
            if self._stopped.wait(self._interval):
                return
            with self._lock:
                if not self._wanted():
                    self._thread = None
                    return
