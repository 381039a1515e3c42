"""A cold key that many callers of one process want at once: how often it is loaded, and how long the last one waits.

The loader takes a fixed time, which is the least that anybody can wait. The callers are threads or tasks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from measuring import OURS, Area, Case, Effort, Figure, Row

from novacron_cache import Cache, CacheModel

CALLERS = 64
LOADING = 0.05
"""Seconds a load takes."""


class VMState(CacheModel, key="vm:<vm_id>", ttl="1h"):
    vm_id: str
    status: str


class Loader:
    """Takes its time, and notes how often it ran."""

    def __init__(self) -> None:
        self.count = 0

    def load(self, vm_id: str) -> VMState:
        self.count += 1
        time.sleep(LOADING)
        return VMState(vm_id=vm_id, status="running")

    async def aload(self, vm_id: str) -> VMState:
        self.count += 1
        await asyncio.sleep(LOADING)
        return VMState(vm_id=vm_id, status="running")


def _threads(call: Callable[[str], Any], key: str) -> float:
    """Return the seconds until the last of the threads has its value."""
    gate = threading.Barrier(CALLERS)
    started: list[float] = []
    ended: list[float] = []
    errors: list[BaseException] = []

    def work() -> None:
        gate.wait()
        started.append(time.perf_counter())
        try:
            call(key)
        except BaseException as error:
            errors.append(error)
        ended.append(time.perf_counter())

    crew = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    if errors:
        raise errors[0]
    return max(ended) - min(started)


async def _tasks(call: Callable[[str], Any], key: str) -> float:
    """Return the seconds until the last of the tasks has its value."""
    start = time.perf_counter()
    await asyncio.gather(*(call(key) for _ in range(CALLERS)))
    return time.perf_counter() - start


def _ours(loader: Loader) -> Callable[[str], Any]:
    @Cache().cached(VMState, key="vm:<vm_id>")
    def get(vm_id: str) -> VMState:
        return loader.load(vm_id)

    return get


def _ours_async(loader: Loader) -> Callable[[str], Any]:
    @Cache().cached(VMState, key="vm:<vm_id>")
    async def get(vm_id: str) -> VMState:
        return await loader.aload(vm_id)

    return get


def _cachebox(loader: Loader) -> Callable[[str], Any]:
    import cachebox

    return cachebox.cached(cachebox.TTLCache(1_000, 3600), postprocess=None)(lambda vm_id: loader.load(vm_id))


def _cachetools(loader: Loader) -> Callable[[str], Any]:
    import cachetools

    return cachetools.cached(cachetools.TTLCache(1_000, 3600), condition=threading.Condition())(
        lambda vm_id: loader.load(vm_id)
    )


def _async_lru(loader: Loader) -> Callable[[str], Any]:
    from async_lru import alru_cache

    @alru_cache(maxsize=1_000, ttl=3600)
    async def get(vm_id: str) -> Any:
        return await loader.aload(vm_id)

    return get


def _cashews(loader: Loader) -> Callable[[str], Any]:
    import cashews

    cache = cashews.Cache()
    cache.setup("mem://", check_repr=False)

    @cache(ttl=3600, key="vm:{vm_id}", lock=True)
    async def get(vm_id: str) -> Any:
        return await loader.aload(vm_id)

    return get


def _measure(name: str, make: Callable[[Loader], Any], turns: int, *, tasks: bool) -> tuple[Row, float | None]:
    """Return a row, whose ratio is the slowest waiter to the loader's time, and the loads of one key."""
    row = Row(name)
    waited: list[float] = []
    loader = Loader()

    async def on_a_loop() -> None:
        call = make(loader)
        for turn in range(turns):
            waited.append(await _tasks(call, f"vm-{turn}"))

    try:
        if tasks:
            asyncio.run(on_a_loop())
        else:
            call = make(loader)
            waited += [_threads(call, f"vm-{turn}") for turn in range(turns)]
    except Exception as error:
        row.failed = f"{type(error).__name__}: {error}"
        return row, None
    loads = loader.count / turns
    row.value = median(waited) * 1e9
    row.ratio = median(waited) / LOADING
    row.note = f"{loads:g} {'load' if loads == 1 else 'loads'} of one key"
    return row, loads


def run(effort: Effort) -> Area:
    """Measure stampedes within a process."""
    turns = effort.of(25, 5, 2)
    area = Area("stampede")
    for kind, tasks, bound, contenders in (
        ("threads", False, 1.35, {OURS: _ours, "cachebox.cached": _cachebox, "cachetools.cached": _cachetools}),
        ("tasks", True, 1.2, {OURS: _ours_async, "async_lru": _async_lru, "cashews, lock": _cashews}),
    ):
        case = Case(f"{CALLERS} {kind}, one cold key, {LOADING * 1e3:g} ms loader")
        for name, make in contenders.items():
            row, loads = _measure(name, make, turns, tasks=tasks)
            case.rows.append(row)
            if name == OURS:
                area.figures += [
                    Figure(f"loads of a cold key, {CALLERS} {kind}", loads, 1, 1, unit=""),
                    Figure(f"slowest of {CALLERS} {kind} / loader", row.ratio, bound, bound),
                ]
            elif row.value is not None:
                row.ours = row.value / (case.row(OURS).value or row.value)
        area.cases.append(case)
    return area
