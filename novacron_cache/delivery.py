"""Delivers invalidations that did not reach the shared tier, from a thread that lives only while there are any."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from .chance import chance


class Delivery:
    """Retries until nothing is pending.

    Args:
        attempt: sends what is pending and returns whether nothing is left; it does not raise.
        pending: says whether anything is pending; it does no I/O.
        shortest: seconds before the first retry.
        longest: seconds between retries at most.
    """

    def __init__(
        self, attempt: Callable[[], bool], pending: Callable[[], bool], *, shortest: float = 0.1, longest: float = 2.0
    ) -> None:
        self._attempt = attempt
        self._pending = pending
        self._shortest = shortest
        self._longest = longest
        self.reset()

    def reset(self) -> None:
        """Start afresh; in a forked child the parent's thread is gone."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether a thread is retrying."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def ensure(self) -> None:
        """Make sure that a thread is retrying."""
        with self._lock:
            if self._stopped.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            thread = threading.Thread(target=self._run, name="novacron_cache delivery", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads to be had; the next one who asks tries again
                thread.start()
                self._thread = thread

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        pause = self._shortest
        # Jitter keeps a fleet that lost its server together from coming back together.
        while not self._stopped.wait(pause * chance.uniform(0.5, 1.0)):
            if self._attempt():
                # No I/O under the lock: whoever invalidates meanwhile waits for it.
                with self._lock:
                    if not self._pending():
                        self._thread = None
                        return
            pause = min(self._longest, pause * 2)
