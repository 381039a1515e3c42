"""One process that uses a cache for a long time, new keys and tags all the while; its argument are the options.

What it keeps must depend on its bounds alone, not on how much has passed through it. Its memory is measured as it goes,
and at the end everything that hangs on the cache is gone through for containers that have grown beyond all bounds: also
those that nobody has thought of.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import gc
import json
import os
import random
import statistics
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from novacron_cache import Cache, CacheModel, CacheSettings, PatternLogFull, cached, cached_many
from novacron_cache.guards import Pending
from novacron_cache.markers import MAX_RULES
from novacron_cache.tiers.entries import MAX_FRONTS

ITEMS = 2_000
BYTES = 4 * 2**20
DISK_BYTES = 8 * 2**20
LARGEST = 20_000
"""How many elements any container may have: more than the largest bound, which is that of `Pending`."""
BATCH = 100
EVERY = 0.25
"""Seconds between two looks at the memory."""


class Thing(CacheModel, key="thing:<n>", ttl="10m", tags=["thing:<n>", "lot:<lot>"]):
    n: int
    lot: int
    text: str


@dataclass
class Findings:
    """What was found in the end.

    Attributes:
        keys: how many different keys there were.
        invalidations: how many were made.
        wrong: values of another key.
        errors: what calls raised.
        start_mb: memory after the first part of the time, which warms everything up.
        end_mb: memory in the last part.
        slope_mb: what it grew by in an hour, by the straight line that fits best.
        sizes: how much there was of everything that has a bound, and the bound.
        large: containers beyond all bounds, by the way that leads to them.
    """

    keys: int = 0
    invalidations: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)
    start_mb: float = 0.0
    end_mb: float = 0.0
    slope_mb: float = 0.0
    sizes: dict[str, tuple[float, float]] = field(default_factory=dict)
    large: dict[str, int] = field(default_factory=dict)


def make(n: int) -> Thing:
    return Thing(n=n, lot=n // 7, text=f"{n} " * (n % 40))


class Soak:
    """The traffic: blocking calls, batches, tasks of loops that come and go, functions and caches that do so too."""

    def __init__(self, settings: dict[str, Any], keys: int) -> None:
        # What else this process has is not the cache's.
        self._threads, self._files = threading.active_count(), open_files()
        self.settings = CacheSettings(**settings)
        self.cache = Cache(self.settings)
        self.keys, self.found = keys, Findings()
        self.done = threading.Event()
        self._next = 0
        self._lock = threading.Lock()
        self.one = cached(Thing, cache=self.cache)(make)
        self.late = cached(Thing, key="late:<n>", name="late", tags=["lot:<lot>"], cache=self.cache)(make)

        @cached_many(Thing, key="many:<n>", each="ns", name="many", cache=self.cache)
        def many(ns: list[int]) -> dict[int, Thing]:
            return {n: make(n) for n in ns}

        @cached(Thing, key="task:<n>", name="task", refresh_ahead=0.5, grace="1m", cache=self.cache)
        async def task(n: int) -> Thing:
            await asyncio.sleep(0.001)
            return make(n)

        self.many, self.task = many, task
        self.works: list[Callable[[], None]] = [self.single, self.batch, self.loop, self.passing]

    def take(self, count: int) -> list[int]:
        """Return numbers that were not used lately."""
        with self._lock:
            first, self._next = self._next, self._next + count
        self.found.keys = max(self.found.keys, min(self.keys, self._next))
        return [number % self.keys for number in range(first, first + count)]

    def check(self, n: int, thing: Any) -> None:
        self.found.wrong += thing != make(n)

    def single(self) -> None:
        """Read, store and invalidate single keys."""
        chance = random.Random(1)  # noqa: S311 - traffic is no secret
        for n in self.take(BATCH):
            self.check(n, self.one(n))
            self.check(n, self.late(n) if n % 3 else self.one(n))
            self.cache.set(f"plain:{n}", n, tags=[f"plain:{n}", "all"])
            self.check(max(0, n - 50), self.one(max(0, n - 50)))
            if (what := chance.randrange(20)) == 0:
                self.cache.invalidate(f"thing:{n}")
            elif what == 1:
                self.cache.invalidate_tags(f"thing:{n}", f"lot:{n // 7}")
            elif what == 2 and n % 10 == 0:
                self.pattern(n)
            self.found.invalidations += what < 2

    def pattern(self, n: int) -> None:
        try:
            self.cache.invalidate_pattern(f"thing:{n}*")
        except PatternLogFull:
            self.cache.clear()

    def batch(self) -> None:
        """Read many keys at once, and invalidate as many."""
        ns = self.take(5 * BATCH)
        for n, thing in self.many(ns).items():
            self.check(n, thing)
        self.cache.set_many({f"plain:{n}": n for n in ns}, tags=[f"lot:{ns[0] // 7}"])
        self.cache.invalidate_tags(*(f"lot:{n // 7}" for n in ns[::7]))
        self.cache.invalidate(*(f"plain:{n}" for n in ns[::2]))
        self.found.invalidations += len(ns[::7]) + len(ns[::2])

    def loop(self) -> None:
        """Use an event loop of its own, some of whose tasks are cancelled."""

        async def use() -> None:
            tasks = {n: asyncio.create_task(self.task(n)) for n in self.take(BATCH)}
            await asyncio.sleep(0.02)
            for n, task in tasks.items():
                if n % 9 == 0:
                    task.cancel()
            for n, found in zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True):
                if isinstance(found, Exception):
                    raise found
                if not isinstance(found, BaseException):
                    self.check(n, found)

        asyncio.run(use())

    def passing(self) -> None:
        """Use functions, listeners, threads and caches that go again."""

        @cached(int, key="passing:<n>", name="passing", cache=self.cache)
        def passing(n: int) -> int:
            return n

        for n in self.take(10):
            self.found.wrong += passing(n) != n
        off = self.cache.on("loaded", lambda _: None)
        thread = threading.Thread(target=self.one, args=(self.take(1)[0],))
        thread.start()
        thread.join()
        off()
        with Cache(self.settings) as other:
            other.get_or_load("passing", lambda: 1)
        self.done.wait(0.2)

    def work(self, one: Callable[[], None]) -> None:
        while not self.done.is_set():
            try:
                one()
            except Exception as error:
                self.found.errors.append(f"{one.__name__}: {type(error).__name__}: {error}"[:300])
                if len(self.found.errors) > 20:
                    return

    def run(self, seconds: float) -> Findings:
        """Let it run for a time and return what was found."""
        threads = [threading.Thread(target=self.work, args=(one,)) for one in self.works]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        samples: list[tuple[float, float]] = []
        while (now := time.monotonic() - began) < seconds:
            samples.append((now, resident_mb()))
            time.sleep(min(EVERY, seconds / 100))
        self.done.set()
        for thread in threads:
            thread.join(60)
        del thread, threads
        self.judge(samples, seconds)
        return self.found

    def judge(self, samples: list[tuple[float, float]], seconds: float) -> None:
        """Compare the memory of the middle with that of the end, and everything that is kept with its bound."""
        found = self.found
        found.start_mb = statistics.median(mb for _, mb in samples[4 * len(samples) // 10 : len(samples) // 2 + 1])
        found.end_mb = statistics.median(mb for _, mb in samples[9 * len(samples) // 10 :])
        later = [one for one in samples if one[0] >= 0.4 * seconds]
        found.slope_mb = 3600 * statistics.linear_regression(*zip(*later, strict=True)).slope
        end = time.monotonic() + 10
        while (self.cache.engine.pending or len(self.cache.engine.leases._ours)) and time.monotonic() < end:
            time.sleep(0.05)
        gc.collect()
        found.sizes = self.sizes()
        found.large = {way: size for way, size in containers(self).items() if size > LARGEST}
        self.cache.close()

    def sizes(self) -> dict[str, tuple[float, float]]:
        """Return everything that has a bound, with the bound."""
        engine, cache = self.cache.engine, self.cache
        memory = engine.memory
        assert memory is not None
        redis, disk = engine.shared
        known: Any = {"redis": redis, "disk": disk}
        names = len(engine.all_counters())
        fronts = sum(len(front) for front in memory._fronts.values())
        tags = 3
        return {
            "entries": (len(memory), ITEMS),
            "bytes of entries": (memory.bytes, BYTES),
            "names in the index of keys": (len(memory._by_logical), ITEMS),
            "names in the index of tags": (len(memory._by_tag), tags * ITEMS),
            "entries in fronts": (fronts, MAX_FRONTS * ITEMS),
            "fronts": (len(memory._fronts), 8),
            "invalidations in the history": (len(engine.history._ring), engine.history._ring.maxlen or 0),
            "dependencies in the history": (sum(len(named) for named, _ in engine.history._ring), engine.history._most),
            "invalidations pending": (len(engine.pending), 0),
            "invalidations that may have to be sent again": (len(engine.pending._arrived), _limit(engine.pending)),
            "own signals that are awaited": (len(engine._sent), 4096),
            "patterns": (0 if engine.rules is None else len(engine.rules._matchers), MAX_RULES),
            "flights": (len(engine.flights), 0),
            "leases": (len(engine.leases._ours), 0),
            "calls that wait for leases": (len(engine.leases._waiting), 0),
            "questions of holders": (len(engine.asking), 0),
            "names with counters": (names, 8),
            "breakers": (len(engine.breakers), 2),
            "event loops with connections": (len(known["redis"]._aclients.clients()), 1),
            "blocking connections in use": (redis.pool_use().in_use, 0),
            "threads": (threading.active_count() - self._threads, 8),
            "connections to the disk's database": (len(known["disk"]._database._links), 8),
            "bytes of the disk tier": (disk.volume(), 1.5 * DISK_BYTES),
            "tasks in the background": (len(cache._tasks) + len(cache._invalidations), 0),
            "open files": (open_files() - self._files, 80),
            "ids that the link watches": (len(engine.known), engine.most_known),
        }


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only how many


def _limit(pending: Pending) -> int:
    return pending._limit


def resident_mb() -> float:
    """Return the memory that this process takes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


_PASSED = (type, types.ModuleType, types.BuiltinFunctionType, types.FrameType, threading.Thread)


def containers(root: Any) -> dict[str, int]:
    """Return the size of every container that hangs on an object, by the way that leads to it."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    todo = collections.deque([(type(root).__name__, root)])  # the shortest ways first
    while todo:
        way, one = todo.popleft()
        if id(one) in seen or isinstance(one, _PASSED):
            continue
        seen.add(id(one))
        if isinstance(one, types.FunctionType):
            # Not its globals, which are the module's.
            todo += [(f"{way}()", cell) for cell in one.__closure__ or ()]
            continue
        if isinstance(one, dict | list | set | frozenset | collections.deque | tuple):
            found[way] = max(found.get(way, 0), len(one))
        inside = getattr(one, "__dict__", None)
        named = list(inside.items()) if isinstance(inside, dict) else []
        known = {id(inside), *(id(inner) for _, inner in named)}
        todo += [(f"{way}.{name}", inner) for name, inner in named]
        todo += [
            (f"{way}[]" if way[-2:] != "[]" else way, inner)
            for inner in gc.get_referents(one)
            if id(inner) not in known
        ]
    return found


def one_heap() -> None:
    """Have all threads allocate from one heap, where the C library lets one say so.

    By default glibc gives each of them a heap of its own, up to eight for each processor. What a thread has freed stays
    in its heap, more and more of it for hours, though less and less is in use: what is measured would be that.
    """
    m_arena_max = -8
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(m_arena_max, 1)


def main() -> None:
    one_heap()
    options = json.loads(sys.argv[1])
    soak = Soak(options["settings"], options["keys"])
    print(json.dumps(asdict(soak.run(options["seconds"]))))  # noqa: T201 - the answer to whoever started it
