"""Whether a tier that failed is worth asking: what hangs or refuses costs one call its time, and then nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable


def _nobody_tries() -> bool:
    """Stand in where only callers find out whether a tier answers again."""
    return False


class Breaker:
    """Stops asking a tier that fails, and lets one call through after a pause.

    Closed: everything passes. After `threshold` failures in a row it opens for `pause` seconds; then one caller may
    try. Its success closes the breaker, its failure opens it again for twice as long, up to `longest`. Calls that were
    under way when it opened may still fail; that is no news and lengthens nothing.
    """

    def __init__(
        self, monotonic: Callable[[], float], *, threshold: int = 2, pause: float = 0.5, longest: float = 5.0
    ) -> None:
        self._monotonic = monotonic
        self._threshold = threshold
        self._first_pause = pause
        self._longest = longest
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = pause
        self._retry_at = 0.0
        self._open = False
        self._trying = False
        self._invited = False
        self.is_calm = True
        """Whether it is closed and has counted no failure: nothing has to be asked of it then, and no success told."""
        self.elsewhere: Callable[[], bool] = _nobody_tries
        """Returns whether somebody tries who is no caller; then callers need not."""

    @property
    def is_open(self) -> bool:
        """Whether calls are being refused, or one is trying whether to close again."""
        return self._open

    def allows(self) -> bool:
        """Return whether a call may go ahead; while open, one call in each pause may."""
        if not self._open:
            return True
        if self.elsewhere() and not self._invited:
            return False
        with self._lock:
            now = self._monotonic()
            if now < self._retry_at:
                return False
            self._invited = False
            self._retry_at = now + self._pause
            self._trying = True
            return True

    def retry_now(self) -> None:
        """Let the next call try: there is reason to think that it will succeed."""
        if self._open:
            with self._lock:
                self._retry_at = min(self._retry_at, self._monotonic())
                self._invited = True

    def succeeded(self) -> bool:
        """Note a success; return whether it closed the breaker."""
        if not self._open and not self._failures:
            return False
        with self._lock:
            was_open, self._open = self._open, False
            self._trying = self._invited = False
            self._failures = 0
            self.is_calm = True
            self._pause = self._first_pause
            return was_open

    def failed(self, *, at_once: bool = False) -> bool:
        """Note a failure; return whether it opened the breaker.

        Args:
            at_once: whether one such failure is enough, because each costs its caller a time-out.
        """
        with self._lock:
            self._failures += 1
            self.is_calm = False
            if self._open:
                if not self._trying:
                    return False
                self._trying = False
                self._pause = min(self._longest, self._pause * 2)
                self._retry_at = self._monotonic() + self._pause
                return False
            if self._failures < self._threshold and not at_once:
                return False
            self._open = True
            self._retry_at = self._monotonic() + self._pause
            return True

    def reset(self) -> None:
        """Make the lock anew in a forked child."""
        self._lock = threading.Lock()
