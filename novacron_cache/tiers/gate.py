"""Many may be inside at once, or one holds the gate and nobody is: how connections are closed under nobody's feet."""

from __future__ import annotations

import threading

__all__ = ["Gate"]


class Gate:
    """A lock that is shared by whoever enters and exclusive to whoever holds it; holding comes first."""

    __slots__ = ("_changed", "_held", "_inside", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._held = False

    def enter(self, patience: float) -> None:
        """Enter.

        Raises:
            TimeoutError: the gate is held for longer than `patience` seconds.
        """
        with self._lock:
            if self._held and not self._changed.wait_for(lambda: not self._held, patience):
                raise TimeoutError("the tier is being closed or copied")
            self._inside += 1

    def leave(self) -> None:
        """Leave after having entered."""
        with self._lock:
            self._inside -= 1
            if self._held and not self._inside:
                self._changed.notify_all()

    def hold(self, patience: float) -> bool:
        """Keep everyone out, once those inside have left; return False when that took more than `patience` seconds."""
        with self._lock:
            if not self._changed.wait_for(lambda: not self._held, patience):
                return False
            self._held = True
            if not self._changed.wait_for(lambda: not self._inside, patience):
                self._held = False
                self._changed.notify_all()
                return False
            return True

    def free(self) -> None:
        """Let everyone in again after `hold` has returned True."""
        with self._lock:
            self._held = False
            self._changed.notify_all()
