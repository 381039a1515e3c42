"""A cache that a test has for itself, and what the test can say about it.

What is counted is what the cache itself counts, so an assertion about hits holds for fronts, flights and batches alike.
Whether a value is stale is found out as audits do it: the function that loads it is called again, past the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ..auditing.looking import form_of, look, same
from ..auditing.sources import Reading, Sources
from ..cache import Cache
from ..declaring import name_of
from ..default import substituted
from ..drivers import adrive, drive
from ..durations import Duration, seconds
from ..entry import DEAD
from ..errors import DeclarationError
from ..events import Stats
from ..settings import CacheSettings
from .chaos import ChaosTier, disturbed
from .clock import ManualClock
from .recording import Events

__all__ = ["IsolatedCache", "isolated"]

_NO_LOOP = "needs an event loop"


class IsolatedCache:
    """A cache with a clock of its own, its events, and assertions about it.

    Attributes:
        cache: the cache; while it lasts it is the default one, so functions that name no cache use it.
        clock: the clock, which stands still until it is advanced; None where time passes by itself.
        events: what has happened since the beginning.
    """

    def __init__(self, cache: Cache, clock: ManualClock | None) -> None:
        self.cache = cache
        self.clock = clock
        self.events = Events(cache.on)
        self._resources = ExitStack()

    def advance(self, duration: Duration) -> None:
        """Let time pass, for lifetimes, grace, early refreshes and the staleness bound.

        Args:
            duration: how much; `"30s"`, or seconds.

        Raises:
            DeclarationError: the duration is malformed, or time passes by itself, because a server keeps it.
        """
        if self.clock is None:
            raise DeclarationError(
                "a server, and other processes, keep real time; test what takes time in one process without a server"
            )
        self.clock.advance(seconds(duration, what="advance"))

    def stats(self, of: Any = None) -> Stats:
        """Return the counters, of all names or of one: a cached function, a cache model, or a name."""
        return self.cache.stats(None if of is None else name_of(of))

    # -- assertions -------------------------------------------------------------------------------------------------

    def assert_hits(self, count: int, of: Any = None, *, tier: str | None = None) -> AbstractContextManager[None]:
        """Return a block that must have exactly so many hits.

        Args:
            count: how many.
            of: a cached function, a cache model or a name; None counts all.
            tier: only those of this tier, such as `"memory"` or `"disk"`.

        Raises:
            AssertionError: at the end of the block, where there were more or fewer.
        """
        return self._counting(
            f"{count} hits{f' of {tier}' if tier else ''}",
            count,
            of,
            lambda stats: stats.hits.get(tier, 0) if tier else sum(stats.hits.values()),
        )

    def assert_misses(self, count: int, of: Any = None, *, reason: str | None = None) -> AbstractContextManager[None]:
        """Return a block that must have exactly so many misses.

        Args:
            count: how many.
            of: as for `assert_hits`.
            reason: only those for this reason (see `events.Miss`).
        """
        return self._counting(
            f"{count} misses{f' for being {reason!r}' if reason else ''}",
            count,
            of,
            lambda stats: stats.misses.get(reason, 0) if reason else sum(stats.misses.values()),
        )

    def assert_loads(self, count: int, of: Any = None) -> AbstractContextManager[None]:
        """Return a block in which loaders must have run to their end exactly so many times.

        Args:
            count: how many.
            of: as for `assert_hits`.
        """
        return self._counting(f"{count} loads", count, of, lambda stats: stats.loads)

    @contextmanager
    def _counting(self, what: str, count: int, of: Any, number: Callable[[Stats], int]) -> Iterator[None]:
        before = self.stats(of)
        yield
        after = self.stats(of)
        found = number(after) - number(before)
        if found != count:
            whose = "" if of is None else f" of {name_of(of)}"
            raise AssertionError(f"expected {what}{whose}, there were {found}; {_told(before, after)}")

    def assert_no_stale(self) -> int:
        """Check that what process memory would serve is what the functions that load it return now.

        Each is called once for each value that is there, past the cache. Values without such a function, such as those
        of `cache.set`, are passed over.

        Returns:
            How many values were compared; 0 where nothing is cached any more.

        Raises:
            AssertionError: a value differs: something changed it without invalidating it.
            DeclarationError: the loader of a value is asynchronous; await `aassert_no_stale`.
        """
        readings = self._readings(asynchronous=False)
        stale: list[str] = []
        for reading in readings:
            now = reading.pick(reading.load.call(*reading.load.args, **reading.load.kwargs))
            stale += drive(self.cache.engine, self._compared(reading, now))
        return _without(stale, len(readings))

    async def aassert_no_stale(self) -> int:
        """Do what `assert_no_stale` does, asynchronously; loaders may be asynchronous or not."""
        readings = self._readings(asynchronous=True)
        stale: list[str] = []
        for reading in readings:
            answer = reading.load.call(*reading.load.args, **reading.load.kwargs)
            now = reading.pick(await answer if reading.asynchronous else answer)
            stale += await adrive(self.cache.engine, self._compared(reading, now))
        return _without(stale, len(readings))

    def _readings(self, *, asynchronous: bool) -> list[Reading]:
        memory = self.cache.engine.memory
        if memory is None:
            raise DeclarationError("there is no process memory to look at: memory.enabled is off")
        sources = Sources(self.cache)
        found = [sources.find(entry.key, asynchronous=asynchronous) for entry in memory.entries() if _served(entry)]
        if _NO_LOOP in found:
            raise DeclarationError("a value has an asynchronous loader; await aassert_no_stale() instead")
        return [reading for reading in found if isinstance(reading, Reading)]

    def _compared(self, reading: Reading, now: Any) -> Generator[Any, Any, list[str]]:
        request = reading.request
        served = yield from look(self.cache.engine, request)
        if isinstance(served, str) or same(request.plan, served.form, form_of(request.plan, now, request.logical)):
            return []
        was = None if served.form is None else request.plan.schema.decode(served.form)
        return [f"  {request.logical!r} ({request.plan.name}): serves {was!r}, its loader now returns {now!r}"]

    # -- faults -----------------------------------------------------------------------------------------------------

    def disturb(self, tier: str | None = None, **chaos: Any) -> ChaosTier:
        """Have a shared tier misbehave from now on; `calm()` of what is returned ends it, and so does the test.

        Args:
            tier: its name; None takes the nearest shared one.
            chaos: the rates of faults, `seed`, `delay` and `patience`: see `ChaosTier`.

        Raises:
            DeclarationError: the cache has no such tier, or there is no such fault.
        """
        return self._resources.enter_context(disturbed(self.cache.engine, tier, **chaos))

    def close(self) -> None:
        """End the faults, forget what a server was given, and close the cache."""
        self._resources.close()
        if not self.cache.closed:
            if self.cache.settings.redis_on:
                self.cache.clear(purge=True)
            self.cache.close()
        self.events.stop()


def _nobody() -> None:
    """Stand in for who would look after a tier that failed."""


def _served(entry: Any) -> bool:
    return bool(entry.deadline != DEAD)


def _told(before: Stats, after: Stats) -> str:
    def more(now: Mapping[str, int], then: Mapping[str, int]) -> str:
        counts = {name: number - then.get(name, 0) for name, number in now.items()}
        return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"

    hits, misses = more(after.hits, before.hits), more(after.misses, before.misses)
    return f"hits: {hits}; misses: {misses}; loads: {after.loads - before.loads}"


def _without(stale: Iterable[str], compared: int) -> int:
    lines = list(stale)
    if lines:
        raise AssertionError(
            f"{len(lines)} of {compared} cached values are stale: their sources changed, and nothing invalidated them\n"
            + "\n".join(lines)
        )
    return compared


@contextmanager
def isolated(
    settings: CacheSettings | None = None, *, real_time: bool = False, **options: Any
) -> Iterator[IsolatedCache]:
    """Give a block a cache of its own, which is the default one meanwhile; the one before comes back as it was.

    The pytest fixture `novacron` is this; it can be used in any other test framework. With process memory and a disk
    the clock stands still until it is advanced; with a server, which keeps its own time, it does not.

    Args:
        settings: the cache's settings; None makes them of the options.
        real_time: whether time passes by itself anyway, as it has to where several processes share a disk.
        options: what `CacheSettings` takes.

    Raises:
        SettingsError: an option is wrong.

    Example:
        >>> from novacron_cache import cached
        >>> @cached(key="square:<n>", ttl="1m")
        ... def square(n: int) -> int:
        ...     return n * n
        >>> with isolated() as here:
        ...     with here.assert_loads(1), here.assert_hits(2):
        ...         _ = square(3), square(3), square(3)
        ...     here.advance("61s")
        ...     with here.assert_loads(1):
        ...         _ = square(3)
    """
    if settings is None:
        settings = CacheSettings(**options)
    elif options:
        raise DeclarationError("isolated() takes settings or options, not both")
    clock = None if real_time or settings.redis_on else ManualClock()
    cache = Cache(settings, clock=clock)
    if clock is not None:
        # A tier that failed is tried again when this clock says so, and by callers, not by a thread in real time.
        cache.engine.on_down = _nobody
    here = IsolatedCache(cache, clock)
    with substituted(cache):
        try:
            yield here
        finally:
            here.close()
