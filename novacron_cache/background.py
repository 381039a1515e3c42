"""What goes on behind a call: threads for blocking callers, where they were allowed, and tasks for the others.

The threads are daemons, and few: a loader that never returns must keep neither the interpreter nor `close()` from
ending. What waits for a thread can be withdrawn until it has one. A job runs in a copy of the context of the call that
began it, as a task does.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["Background", "Job"]

PATIENCE: Final = 5.0
"""Seconds for which closing waits for the jobs that have begun."""


class Job:
    """Something to be done in a thread.

    Args:
        run: what is to be done; it raises nothing.
        dropped: called instead when it will never be done.
    """

    __slots__ = ("_begun", "_context", "_dropped", "_lock", "_run", "done")

    def __init__(self, run: Callable[[], None], dropped: Callable[[], None]) -> None:
        self._context = contextvars.copy_context()
        self._run = run
        self._dropped = dropped
        self._lock = threading.Lock()
        self._begun = False
        self.done = threading.Event()

    def run(self) -> None:
        """Do it, unless it was withdrawn."""
        if self._take():
            try:
                self._context.run(self._run)
            finally:
                self.done.set()

    def withdraw(self) -> bool:
        """Have it never done; return False where it has begun."""
        if not self._take():
            return False
        self._dropped()
        self.done.set()
        return True

    def _take(self) -> bool:
        with self._lock:
            begun, self._begun = self._begun, True
            return not begun


class Background:
    """The threads and tasks behind the calls of one cache.

    Args:
        threads: how many threads there may be; none leaves blocking callers without a background.

    Attributes:
        tasks: the tasks under way; each is held here, for a loop holds its tasks weakly.
    """

    def __init__(self, threads: int = 0) -> None:
        self.limit = threads
        self.reset()

    def reset(self) -> None:
        """Start afresh, in a forked child too: the threads and the tasks are the parent's."""
        self.tasks: set[asyncio.Task[Any]] = set()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._stopped = False
        self._local = threading.local()

    @property
    def here(self) -> bool:
        """Whether the present thread is one of these, so that waiting for another one could last for ever."""
        return getattr(self._local, "here", False)

    def submit(self, run: Callable[[], None], dropped: Callable[[], None]) -> Job | None:
        """Have something done in a thread, in a copy of the present context.

        Args:
            run: what is to be done; it raises nothing.
            dropped: called instead when it will never be done.

        Returns:
            The job; None where there are no threads, or no more.
        """
        with self._lock:
            if self._stopped or not self.limit:
                return None
            if self._idle <= 0 and len(self._threads) < self.limit:
                thread = threading.Thread(
                    target=self._work, name=f"novacron_cache refresh {len(self._threads) + 1}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # no more threads to be had
                    if not self._threads:
                        return None
                else:
                    self._threads.append(thread)
                    self._idle += 1
            job = Job(run, dropped)
            self._idle -= 1  # below zero: so many jobs wait for a thread
            self._jobs.put(job)
            return job

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Have something done in a task of the running loop."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def stop(self) -> None:
        """Withdraw what has not begun, and wait a while for what has."""
        with self._lock:
            self._stopped = True
            threads = list(self._threads)
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.withdraw()
        for _ in threads:
            self._jobs.put(None)
        until = time.monotonic() + PATIENCE
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        self._local.here = True
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # what it holds is not to be kept until the next one comes
            with self._lock:
                self._idle += 1
