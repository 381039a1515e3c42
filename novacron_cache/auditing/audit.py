"""`Audit`: rounds carried out on request or in the background, in a thread or in a task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from ..drivers import adrive, drive
from ..durations import Duration, seconds
from ..errors import CacheError, DeclarationError
from ..events import StaleFound, logger
from .report import AuditReport, Tally
from .rounds import Limiter, Round, Rules
from .sampling import HitSampler, Sample, Sampler
from .sources import Reading, Sources

if TYPE_CHECKING:
    from ..cache import Cache

SETTLE = 0.05
"""Seconds for which a difference is taken for a change in flight, unless the audit says otherwise."""

BEYOND_BOUND = 1.0
"""Seconds for which a stale value is watched after the staleness bound."""

LEAVE = 5.0
"""Seconds to wait, at the end of a context, for a source that is being read; one that hangs is left to itself."""


class Audit:
    """Compares a share of the served values with their source; made by `cache.audit()`.

    Use it as a context, where it runs in the background: with `with` in a thread of its own, which can call synchronous
    functions; with `async with` in a task, which calls coroutine functions on the running loop and synchronous ones in
    threads. Or call `run_once` (`arun_once`) when a round is wanted.

    Example:
        >>> from novacron_cache import Cache
        >>> prices = {"tea": 3}
        >>> cache = Cache()
        >>> @cache.cached(int, key="price:<item>")
        ... def price(item: str) -> int:
        ...     return prices[item]
        >>> price("tea"), price("tea")
        (3, 3)
        >>> report = cache.audit(sample=1.0).run_once()
        >>> report.checked, report.stale
        (1, 0)
        >>> cache.close()
    """

    def __init__(
        self,
        cache: Cache,
        *,
        sample: float = 0.01,
        interval: Duration = 1.0,
        settle: Duration | None = None,
        on_stale: Callable[[StaleFound], None] | None = None,
        max_per_second: float = 10.0,
        show_keys: bool = False,
        sampler: Sampler | None = None,
    ) -> None:
        cache.check_open()
        if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 < sample <= 1:
            raise DeclarationError(f"sample={sample!r}: expected a share of the hits above 0 and up to 1, such as 0.01")
        if isinstance(max_per_second, bool) or not isinstance(max_per_second, int | float) or max_per_second <= 0:
            raise DeclarationError(f"max_per_second={max_per_second!r}: expected a number above 0, such as 10")
        self._cache = cache
        self._interval = seconds(interval, what="interval")
        self._rules = Rules(
            SETTLE if settle is None else seconds(settle, what="settle"),
            cache.settings.staleness_bound + BEYOND_BOUND,
            show_keys,
            os.urandom(16),
            on_stale,
        )
        self._limiter = Limiter(max_per_second, time.monotonic)
        # What cannot be read before the next look is not chosen, or rounds would lag behind what they sample.
        self._budget = max(1, int(max_per_second * max(1.0, self._interval)))
        if sampler is None:
            if cache.engine.memory is None:
                raise DeclarationError(
                    "the hits to sample are those of process memory, which memory.enabled=False switches off; "
                    "`novacron-cache audit` samples what the server keeps"
                )
            sampler = HitSampler(cache.engine.memory, sample)
        self._sampler = sampler
        self._total = Tally()
        self._thread: tuple[threading.Thread, threading.Event] | None = None
        self._task: tuple[asyncio.Task[None], asyncio.Event] | None = None

    @property
    def report(self) -> AuditReport:
        """What all rounds have found so far."""
        return self._total.report()

    def run_once(self) -> AuditReport:
        """Audit a sample of the hits since the last round, and return what this round found.

        It returns when every difference is settled or its watch is given up: after the staleness bound and a second.
        Coroutine functions are skipped.

        Raises:
            CacheClosedError: the cache is closed.
            TierError: the sample is taken from a server that does not answer.
        """
        return self._run(threading.Event())

    async def arun_once(self) -> AuditReport:
        """Do what `run_once` does in the running loop; coroutine functions are called there, others in threads."""
        return await self._arun(asyncio.Event())

    def _run(self, ended: threading.Event) -> AuditReport:
        tally, flow = self._begin(self._sampler.pick(self._budget), asynchronous=False)
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration:
                return tally.report()
            answer, error = None, None
            try:
                if isinstance(step, Reading):
                    answer = _read(step)
                elif isinstance(step, float):
                    answer = ended.wait(step)
                else:
                    answer = drive(self._cache.engine, step)
            except Exception as raised:
                error = raised

    async def _arun(self, ended: asyncio.Event) -> AuditReport:
        samples = await asyncio.to_thread(self._sampler.pick, self._budget)
        tally, flow = self._begin(samples, asynchronous=True)
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration:
                return tally.report()
            answer, error = None, None
            try:
                if isinstance(step, Reading):
                    answer = await _aread(step)
                elif isinstance(step, float):
                    answer = await _pause(ended, step)
                else:
                    answer = await adrive(self._cache.engine, step)
            except Exception as raised:
                error = raised

    def _begin(self, samples: list[Sample], *, asynchronous: bool) -> tuple[Tally, Generator[Any, Any, None]]:
        self._cache.check_open()
        tally = Tally()
        one = Round(
            self._cache.engine, Sources(self._cache), self._rules, self._limiter, (tally, self._total),
            monotonic=time.monotonic, asynchronous=asynchronous,
        )  # fmt: skip
        return tally, one.run(samples)

    # -- in the background ------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Tell the log; an audit is never a reason for anything else to fail."""
        if not self._cache.closed:
            logger.warning("a round of the audit failed: %s: %s", type(error).__name__, error)

    def _work(self, ended: threading.Event) -> None:
        while not ended.is_set() and not self._cache.closed:
            try:
                self._run(ended)
            except Exception as error:
                self._fail(error)
            ended.wait(self._interval)

    async def _awork(self, ended: asyncio.Event) -> None:
        while not ended.is_set() and not self._cache.closed:
            try:
                await self._arun(ended)
            except Exception as error:
                self._fail(error)
            await _pause(ended, self._interval)

    def _check_idle(self) -> None:
        if self._thread is not None or self._task is not None:
            raise CacheError("the audit is running already; make another one with cache.audit()")

    def __enter__(self) -> Audit:
        self._check_idle()
        ended = threading.Event()
        thread = threading.Thread(target=self._work, args=(ended,), name="novacron_cache audit", daemon=True)
        thread.start()
        self._thread = thread, ended
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread is not None:
            thread, ended = self._thread
            self._thread = None
            ended.set()
            thread.join(LEAVE)

    async def __aenter__(self) -> Audit:
        self._check_idle()
        ended = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._awork(ended)), ended
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            task, ended = self._task
            self._task = None
            ended.set()
            await asyncio.wait({task}, timeout=LEAVE)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _pause(ended: asyncio.Event, wait: float) -> bool:
    """Wait; return whether to end now."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), wait)
    return ended.is_set()


def _read(reading: Reading) -> tuple[Any, BaseException | None]:
    load = reading.load
    try:
        return load.call(*load.args, **load.kwargs), None
    except Exception as error:
        return None, error


async def _aread(reading: Reading) -> tuple[Any, BaseException | None]:
    if not reading.asynchronous:
        return await asyncio.to_thread(_read, reading)
    load = reading.load
    try:
        return await load.call(*load.args, **load.kwargs), None
    except Exception as error:
        return None, error
