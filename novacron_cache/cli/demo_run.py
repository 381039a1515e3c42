"""One run of the demo: who reads and writes, for how long, and what was seen.

Two processes of an application share a server and a directory. They are two `Cache` objects with nothing else in
common, which is all that tells a process from another here. `api` reads from three threads and many tasks; `scheduler`
reads from tasks and is started anew every now and then, with an empty first tier. Both change things while they read.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

from .. import Cache, CacheSettings, Stats
from .demo_world import (
    Application,
    GroundTruth,
    Host,
    HostProcesses,
    HostResources,
    NodeVMs,
    Timings,
    Value,
    VMManager,
    VMState,
)

API_THREADS: Final = 3
TASKS: Final = 24
THINKING: Final = {"thread": 0.004, "task": 0.03, "writer": 0.05, "second writer": 0.15}
"""Mean seconds between two operations."""

LIFE: Final = 1.6
"""Seconds that the scheduler runs between two starts."""

BATCH: Final = 20

_answered: ContextVar[str] = ContextVar("answered")

# Who answered a read: a tier, the call's own load, or the load of another call that it waited for.
MEMORY, LOADED, WAITED = "memory", "loaded", "waited"


class Run:
    """Everything that is counted in one run.

    Attributes:
        uncached: the times of the sources' own answers.
        cached: the times of reads, by (what, who answered).
        read: values that were read and compared.
        stale: those that were older than they may be.
        behind: those that the other process had already changed, within the bound.
        oldest: the longest of these delays, in seconds.
        invalidations: by kind of change.
        starts: how often the scheduler was started.
        stats: the counters of the caches that are closed.
    """

    def __init__(self, settings: CacheSettings, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.uncached = Timings()
        self.cached = Timings()
        self.read = self.stale = self.behind = 0
        self.oldest = 0.0
        self.invalidations: Counter[str] = Counter()
        self.starts = 0
        self.stats: list[dict[str, Stats]] = []
        self.seconds = 0.0
        self.resources: HostResources | None = None
        self.processes: HostProcesses | None = None
        self._truth = GroundTruth(settings.staleness_bound)
        self._manager = VMManager(seed, self.uncached)
        self._host = Host(self.uncached)
        self._popular = [1 / (place + 1) ** 0.8 for place in range(len(self._manager.vm_ids))]
        self._loading: set[tuple[str, str]] = set()
        self._counting = threading.Lock()
        self._stop = threading.Event()

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, seconds: float, watch: Callable[[Run, float], None]) -> None:
        """Run for some seconds, or until interrupted.

        Args:
            seconds: for how long.
            watch: called several times a second with this run and the seconds since its start.

        Raises:
            Exception: the first error of a reader or writer.
        """
        started = time.perf_counter()
        crew: list[Future[None]] = []
        try:
            with ThreadPoolExecutor(API_THREADS + 3, thread_name_prefix="demo") as pool:
                try:
                    crew.append(pool.submit(self._api, pool, crew))
                    crew.append(pool.submit(self._scheduler))
                    while (elapsed := time.perf_counter() - started) < seconds and not self._failed(crew):
                        watch(self, elapsed)
                        time.sleep(min(0.1, seconds - elapsed))
                except KeyboardInterrupt:
                    pass  # the end, only sooner
                finally:
                    self._stop.set()
        finally:
            self.seconds = time.perf_counter() - started
        for one in crew:
            one.result()

    @staticmethod
    def _failed(crew: Sequence[Future[None]]) -> bool:
        return any(one.done() and one.exception() is not None for one in crew)

    def _api(self, pool: ThreadPoolExecutor, crew: list[Future[None]]) -> None:
        with Cache(self.settings) as cache:
            app = self._open("api", cache)
            mine = [pool.submit(self._read_in_thread, app, number) for number in range(API_THREADS)]
            mine.append(pool.submit(self._write, app))
            crew += mine
            try:
                asyncio.run(self._tasks(app, "api tasks", TASKS, until=float("inf")))
            finally:
                self._stop.set()
                for one in mine:
                    one.exception()
            self.resources, self.processes = app.resources(self._host), app.processes(self._host)
            self.stats.append(cache.stats_by_name())

    def _scheduler(self) -> None:
        while not self._stop.is_set():
            asyncio.run(self._one_life())

    async def _one_life(self) -> None:
        async with Cache(self.settings) as cache:
            self.starts += 1
            app = self._open("scheduler", cache)
            until = time.perf_counter() + LIFE
            await asyncio.gather(
                self._tasks(app, f"scheduler {self.starts}", TASKS, until=until), self._write_too(app, until)
            )
            self.stats.append(cache.stats_by_name())

    def _open(self, name: str, cache: Cache) -> Application:
        """Return a process over a cache, and have the cache tell who answers each read."""
        loading = self._loading

        def hit(event: Any) -> None:
            _answered.set(event.tier)

        def miss(event: Any) -> None:
            _answered.set(LOADED)
            loading.add((name, event.key))

        def loaded(event: Any) -> None:
            loading.discard((name, event.key))

        # A hit in process memory is no event; a listener runs in the thread and context of the read it is about.
        cache.on("hit", hit)
        cache.on("miss", miss)
        cache.on("loaded", loaded)
        cache.on("load_failed", loaded)
        cache.on("invalidated", lambda event: self._count_invalidation(event.values))
        return Application(name, cache, self._manager, self._host, self._truth)

    # -- reading --------------------------------------------------------------------------------------------------

    def _read_in_thread(self, app: Application, number: int) -> None:
        rng = self._rng(f"thread {number}")
        while not self._stop.wait(rng.expovariate(1 / THINKING["thread"])):
            choice = rng.random()
            if choice < 0.88:
                vm_id = self._vm(rng)
                self._read(app, VMState, f"vm:{vm_id}", partial(app.state, vm_id))
            elif choice < 0.94:
                node_id = rng.choice(self._manager.nodes)
                self._read(app, NodeVMs, f"node:{node_id}:vms", partial(app.machines_of, node_id))
            elif choice < 0.96:
                self._read_batch(app, list({self._vm(rng) for _ in range(BATCH)}))
            elif choice < 0.98:
                self._read(app, HostResources, f"host:{self._host.name}:resources", partial(app.resources, self._host))
            else:
                self._read(app, HostProcesses, f"host:{self._host.name}:processes", partial(app.processes, self._host))

    def _read(self, app: Application, what: type, subject: str, call: Callable[[], Value]) -> None:
        waits = (app.name, subject) in self._loading
        _answered.set(MEMORY)
        began = time.perf_counter()
        value = call()
        self._note(what, waits, time.perf_counter() - began)
        self._judge(app, subject, value, began)

    def _read_batch(self, app: Application, vm_ids: list[str]) -> None:
        began = time.perf_counter()
        values = app.states(vm_ids)
        self.cached.add(("batch", "any"), time.perf_counter() - began)
        for vm_id, value in values.items():
            self._judge(app, f"vm:{vm_id}", value, began)

    async def _tasks(self, app: Application, name: str, count: int, until: float) -> None:
        rngs = [self._rng(f"{name} {number}") for number in range(count)]
        await asyncio.gather(*(self._read_in_task(app, rng, until) for rng in rngs))

    async def _read_in_task(self, app: Application, rng: random.Random, until: float) -> None:
        while not self._stop.is_set() and time.perf_counter() < until:
            await asyncio.sleep(rng.expovariate(1 / THINKING["task"]))
            what: type
            call: Awaitable[Value]
            if rng.random() < 0.9:
                vm_id = self._vm(rng)
                what, subject, call = VMState, f"vm:{vm_id}", app.astate(vm_id)
            else:
                node_id = rng.choice(self._manager.nodes)
                what, subject, call = NodeVMs, f"node:{node_id}:vms", app.amachines_of(node_id)
            waits = (app.name, subject) in self._loading
            _answered.set(MEMORY)
            began = time.perf_counter()
            value = await call
            self._note(what, waits, time.perf_counter() - began)
            self._judge(app, subject, value, began)

    def _note(self, what: type, waits: bool, seconds: float) -> None:
        who = _answered.get()
        self.cached.add((what, WAITED if waits and who == MEMORY else who), seconds)

    def _judge(self, app: Application, subject: str, value: Value, began: float) -> None:
        stale, behind = self._truth.judge(app.name, subject, value.version, began)
        with self._counting:
            self.read += 1
            if stale:
                self.stale += 1
            elif behind:
                self.behind += 1
                self.oldest = max(self.oldest, behind)

    def _vm(self, rng: random.Random) -> str:
        return rng.choices(self._manager.vm_ids, self._popular)[0]

    # -- writing --------------------------------------------------------------------------------------------------

    def _write(self, app: Application) -> None:
        rng = self._rng("writer")
        while not self._stop.wait(rng.expovariate(1 / THINKING["writer"])):
            app.change(rng)

    async def _write_too(self, app: Application, until: float) -> None:
        rng = self._rng(f"second writer {self.starts}")
        while not self._stop.is_set() and time.perf_counter() < until:
            await asyncio.sleep(rng.expovariate(1 / THINKING["second writer"]))
            app.change(rng)

    def _count_invalidation(self, tags: Sequence[str]) -> None:
        kind = "machine status" if len(tags) == 1 else "machine migration"
        with self._counting:
            self.invalidations["this host" if tags[0].startswith("host:") else kind] += 1

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")  # noqa: S311 - a workload, not secrets
