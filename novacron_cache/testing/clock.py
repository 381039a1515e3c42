"""A clock that tests move by hand, so that no test sleeps to see something expire."""

from __future__ import annotations

import threading


class ManualClock:
    """Both readings of time, standing still until `advance` is called.

    Args:
        monotonic: the first reading of `monotonic()`, seconds.
        time: the first reading of `time()`, seconds since the epoch.
    """

    def __init__(self, monotonic: float = 1000.0, time: float = 1_800_000_000.0) -> None:
        self._start = (monotonic, time)
        self._passed = 0.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the start and the seconds passed since."""
        return self._start[0] + self._passed

    def time(self) -> float:
        """Return the start and the seconds passed since, as seconds since the epoch."""
        return self._start[1] + self._passed

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: how much; not negative, for a monotonic clock never goes back.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back ({seconds} s)")
        with self._lock:
            self._passed += seconds
