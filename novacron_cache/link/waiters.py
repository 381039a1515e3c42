"""Those who wait behind a link's barrier: threads and tasks that want to know that every signal so far was obeyed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable

__all__ = ["Waiters"]

Finish = Callable[[bool], None]


class Waiters:
    """Who waits for the answer to the link's next question.

    Args:
        listening: whether the link is up, or coming up; where it is not, nobody waits.
        nudge: makes the link ask soon.
    """

    def __init__(self, listening: Callable[[], bool], nudge: Callable[[], None]) -> None:
        self._listening = listening
        self._nudge = nudge
        self._lock = threading.Lock()
        self._waiting: list[Finish] = []

    def take(self) -> list[Finish]:
        """Return those who wait now, whom the answer to a question asked from here on serves."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        return waiting

    def release(self, good: bool, waiting: Iterable[Finish] | None = None) -> None:
        """Tell those who wait, or those that were taken, whether the answer has come."""
        for finish in self.take() if waiting is None else waiting:
            finish(good)

    def wait(self, patience: float) -> bool:
        """Block until the link has answered; False when it cannot, or does not within `patience` seconds."""
        done = threading.Event()
        result = [False]

        def finish(good: bool) -> None:
            result[0] = good
            done.set()

        if not self._enlist(finish):
            return False
        done.wait(patience)
        return result[0]

    async def await_(self, patience: float) -> bool:
        """Do what `wait` does without blocking the running loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()

        def settle(good: bool) -> None:
            """Wake whoever waits, in his loop."""
            if not future.done():
                future.set_result(good)

        def finish(good: bool) -> None:
            """Have him woken, from any thread."""
            try:
                loop.call_soon_threadsafe(settle, good)
            except RuntimeError:
                return  # that loop is closed, and its waiter with it

        if not self._enlist(finish):
            return False
        try:
            async with asyncio.timeout(patience):
                return await future
        except TimeoutError:
            return False

    def _enlist(self, finish: Finish) -> bool:
        with self._lock:
            if not self._listening():
                return False
            self._waiting.append(finish)
        self._nudge()
        return True
