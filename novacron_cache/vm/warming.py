"""`Warmer`: has VMs in the cache before somebody asks for them.

A round begins with the critical VMs, in the order of the settings, as fast as `warmup_concurrency` loads at once allow.
With `warmup_all` the other VMs follow, one after the other at equal distances until the interval is over, so that a
hypervisor of thousands of VMs is asked now and then rather than all at once. Warming is reading: what a tier already
has is not loaded, and callers that ask meanwhile join the same load. The first round begins at once; later ones are
shifted by a random part of the interval, so that processes that were started together do not go on together.

There is one schedule and two that follow it: a thread, and a task of asyncio. Both end with the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from novacron_cache import CacheClosedError

if TYPE_CHECKING:
    from .managed import CachedVMManager

logger = logging.getLogger("novacron_cache.vm")

KINDS = ("vm_config", "vm_state", "vm_resources")
"""What is loaded of each VM. Metrics and migrations are old before anybody would come for them."""

_WATCH = 0.5  # seconds between looks at whether the cache was closed
_SHIFT = 0.1  # the share of the interval by which rounds are shifted


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """What a warmer has done: of the current round, or of the last one between rounds; and in all.

    Attributes:
        running: whether a round is under way.
        total: how many VMs the round has to see to; `done` is how many it has.
        rounds: rounds completed.
        loaded: values that were loaded, in all rounds.
        cached: values that some tier had already.
        failed: loads that raised; each is logged.
        seconds: how long the last completed round took.
    """

    running: bool = False
    total: int = 0
    done: int = 0
    rounds: int = 0
    loaded: int = 0
    cached: int = 0
    failed: int = 0
    seconds: float = 0.0


def schedule(critical: Sequence[str], others: Iterable[str], interval: float) -> Iterator[tuple[float, str]]:
    """Yield each VM once, with the seconds after the beginning of the round at which its turn comes.

    Args:
        critical: come at once.
        others: come at equal distances within the interval.
        interval: seconds.
    """
    first = dict.fromkeys(critical)
    rest = [vm_id for vm_id in dict.fromkeys(others) if vm_id not in first]
    for vm_id in first:
        yield 0.0, vm_id
    for number, vm_id in enumerate(rest, 1):
        yield interval * number / (len(rest) + 1), vm_id


class Warmer:
    """Keeps the VMs of a `CachedVMManager` warm, as its settings say.

    Args:
        vms: what to read through.
        on_progress: called with a `WarmProgress` after each VM and at the end of each round, in the thread that did it.
    """

    def __init__(self, vms: CachedVMManager, *, on_progress: Callable[[WarmProgress], None] | None = None) -> None:
        self._vms = vms
        self._settings = vms.entries.settings
        self.on_progress = on_progress
        self._progress = WarmProgress()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def progress(self) -> WarmProgress:
        """What was done so far."""
        return self._progress

    @property
    def running(self) -> bool:
        """Whether a thread or task is at work."""
        return (self._thread is not None and self._thread.is_alive()) or (
            self._task is not None and not self._task.done()
        )

    def _count(self, **more: int) -> None:
        with self._lock:
            now = self._progress
            self._progress = now = replace(now, **{name: getattr(now, name) + by for name, by in more.items()})
        self._tell(now)

    def _record(self, started: float, kind: str, *, success: bool) -> None:
        """Have a load of the warmer's show among the metrics of the cache."""
        self._vms.entries.cache.record_operation("vm_warm", time.perf_counter() - started, success, f"{kind}:")

    def _tell(self, progress: WarmProgress) -> None:
        if self.on_progress is not None:
            try:
                self.on_progress(progress)
            except Exception:
                logger.exception("a listener for the progress of warming failed")

    def _begin(self, total: int) -> None:
        with self._lock:
            self._progress = replace(self._progress, running=True, total=total, done=0)

    def _end(self, started: float, *, complete: bool) -> None:
        with self._lock:
            now = replace(self._progress, running=False)
            if complete:
                now = replace(now, rounds=now.rounds + 1, seconds=time.monotonic() - started)
            self._progress = now
        self._tell(now)

    def _ended(self) -> bool:
        return self._stop.is_set() or self._vms.entries.cache.closed

    def _failed(self, what: str, error: Exception) -> None:
        if isinstance(error, CacheClosedError):
            return
        # Neither the id nor what the manager said of it: both may name somebody.
        logger.warning("warming %s failed: %s", what, type(error).__name__)
        self._count(failed=1)

    def _shifted(self) -> float:
        """Return the seconds from the start of one round to the next."""
        return self._settings.warmup_interval * (1 - _SHIFT * SystemRandom().random())

    # -- blocking ---------------------------------------------------------------------------------------------------

    def run_once(self) -> WarmProgress:
        """Carry out one round in this thread, and return what was done."""
        self._round(self._settings.warmup_interval)
        return self._progress

    def start(self) -> None:
        """Go on with rounds in a thread; one that is at work already goes on."""
        if self.running:
            return
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="novacron_cache warmer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; wait for the loads that it has under way."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._ended():
            started, interval = time.monotonic(), self._shifted()
            self._round(interval)
            self._sleep_until(started + interval)

    def _sleep_until(self, moment: float) -> bool:
        """Wait; return whether to go on."""
        while not self._ended():
            left = moment - time.monotonic()
            if left <= 0:
                return True
            self._stop.wait(min(left, _WATCH))
        return False

    def _round(self, interval: float) -> None:
        started = time.monotonic()
        turns = list(schedule(self._settings.critical_vms, self._others(), interval))
        self._begin(len(turns))
        limit = self._settings.warmup_concurrency
        under_way: set[Future[None]] = set()
        with ThreadPoolExecutor(limit, thread_name_prefix="novacron_cache warmer") as pool:
            for offset, vm_id in turns:
                # A slow hypervisor delays later turns; it never has more than `limit` of them at once.
                if len(under_way) >= limit:
                    under_way = wait(under_way, return_when="FIRST_COMPLETED").not_done
                if not self._sleep_until(started + offset):
                    break
                try:
                    under_way.add(pool.submit(self._warm, vm_id))
                except RuntimeError:  # nobody has stopped this, and the interpreter is ending
                    break
        self._end(started, complete=self._progress.done == len(turns))

    def _others(self) -> tuple[str, ...]:
        if not self._settings.warmup_all:
            return ()
        try:
            return self._vms.list_vms()
        except Exception as error:
            self._failed("the list of VMs", error)
            return ()

    def _warm(self, vm_id: str) -> None:
        for kind in KINDS:
            if self._ended():
                return
            started = time.perf_counter()
            try:
                if getattr(self._vms.entries, f"get_{kind}")(vm_id) is not None:
                    self._count(cached=1)
                else:
                    getattr(self._vms, f"get_{kind}")(vm_id)
                    self._count(loaded=1)
                    self._record(started, kind, success=True)
            except Exception as error:
                self._record(started, kind, success=False)
                self._failed(f"{kind} of a VM", error)
        self._count(done=1)

    # -- asynchronous -----------------------------------------------------------------------------------------------

    async def arun_once(self) -> WarmProgress:
        """Do what `run_once` does, asynchronously."""
        await self._around(self._settings.warmup_interval)
        return self._progress

    async def astart(self) -> None:
        """Go on with rounds in a task of the running loop."""
        if self.running:
            return
        self._stop.clear()
        self._task = asyncio.get_running_loop().create_task(self._arun(), name="novacron_cache warmer")

    async def astop(self) -> None:
        """End the task, cancelling what it has under way; end a thread too."""
        self._stop.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._thread is not None:
            await asyncio.to_thread(self.stop)

    async def _arun(self) -> None:
        while not self._ended():
            started, interval = time.monotonic(), self._shifted()
            await self._around(interval)
            await self._asleep_until(started + interval)

    async def _asleep_until(self, moment: float) -> bool:
        while not self._ended():
            left = moment - time.monotonic()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, _WATCH))
        return False

    async def _around(self, interval: float) -> None:
        started = time.monotonic()
        turns = list(schedule(self._settings.critical_vms, await self._aothers(), interval))
        self._begin(len(turns))
        free = asyncio.Semaphore(self._settings.warmup_concurrency)
        async with asyncio.TaskGroup() as under_way:
            for offset, vm_id in turns:
                await free.acquire()
                if not await self._asleep_until(started + offset):
                    break
                task = under_way.create_task(self._awarm(vm_id))
                task.add_done_callback(lambda _: free.release())
        self._end(started, complete=self._progress.done == len(turns))

    async def _aothers(self) -> tuple[str, ...]:
        if not self._settings.warmup_all:
            return ()
        try:
            return await self._vms.alist_vms()
        except Exception as error:
            self._failed("the list of VMs", error)
            return ()

    async def _awarm(self, vm_id: str) -> None:
        for kind in KINDS:
            if self._ended():
                return
            started = time.perf_counter()
            try:
                known: Callable[[str], Awaitable[Any]] = getattr(self._vms.entries, f"aget_{kind}")
                if await known(vm_id) is not None:
                    self._count(cached=1)
                else:
                    await getattr(self._vms, f"aget_{kind}")(vm_id)
                    self._count(loaded=1)
                    self._record(started, kind, success=True)
            except Exception as error:
                self._record(started, kind, success=False)
                self._failed(f"{kind} of a VM", error)
        self._count(done=1)
