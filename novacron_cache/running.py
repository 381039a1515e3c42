"""Running loaders, within what bounds them: a slot of their function, and the time they may take.

An asynchronous loader that takes too long is cancelled. A synchronous one cannot be stopped: where the cache has
background threads it runs in one of those and is left there, else nothing bounds it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

from .effects import Load
from .engine import Engine
from .errors import CacheError, LoaderTimeout
from .events import LoadQueued, logger
from .limits import LONGEST_WAIT, Limits, Slots

__all__ = ["attempt_here", "attempt_in_task", "load_here", "load_in_task"]

HELD_UP = 0.1
"""Seconds for which a synchronous loader may hold up an event loop before somebody is told."""

MAX_TOLD = 1000
"""How many loaders are told of."""

_told: set[str] = set()


def load_here(engine: Engine, load: Load) -> Any:
    """Run a loader in this thread, or in one where it can be left behind; return its value."""
    limits = load.limits
    if limits is None:
        return _called(load)
    if limits.seconds is not None and not engine.background.here:
        return _bounded(engine, load, limits)
    return _in_slot(engine, load, limits, _patience(limits))


def _bounded(engine: Engine, load: Load, limits: Limits) -> Any:
    """Run a loader in a thread, so that it can be left there; without threads nothing can be bounded."""
    outcome: list[tuple[Any, BaseException | None]] = []
    seconds = _patience(limits)

    def run() -> None:
        try:
            outcome.append((_in_slot(engine, load, limits, seconds), None))
        except BaseException as error:
            outcome.append((None, error))

    job = engine.background.submit(run, lambda: None)
    if job is None:
        return _in_slot(engine, load, limits, seconds)
    if not job.done.wait(seconds) or not outcome:
        job.withdraw()
        raise _late(limits)
    ((value, error),) = outcome
    if error is not None:
        raise error
    return value


def _in_slot(engine: Engine, load: Load, limits: Limits, seconds: float) -> Any:
    slots = limits.slots
    if slots is None or slots.had:
        return _called(load)
    if not slots.take():
        if slots.here:
            # Whoever has one runs on this thread's loop, and cannot end while this call waits.
            return _called(load)
        started = time.perf_counter()
        got = slots.wait(seconds)
        load.waited = time.perf_counter() - started
        _queued(engine, limits, load.waited, got)
        if not got:
            raise _crowded(limits, slots, seconds)
    with slots.held():
        return _called(load)


async def load_in_task(engine: Engine, load: Load) -> Any:
    """Run a loader in this task, and return its value."""
    limits = load.limits
    if limits is None:
        return await _acalled(load)
    if limits.seconds is None:
        return await _ain_slot(engine, load, limits)
    seconds = max(0.0, limits.seconds)
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await _ain_slot(engine, load, limits)
    except TimeoutError as error:
        if scope.expired() and not isinstance(error, CacheError):
            raise _late(limits) from None
        raise


async def _ain_slot(engine: Engine, load: Load, limits: Limits) -> Any:
    slots = limits.slots
    if slots is None or slots.had:
        return await _acalled(load)
    if not slots.take():
        await _asecure(engine, load, limits, slots)
    with slots.held():
        return await _acalled(load)


async def _asecure(engine: Engine, load: Load, limits: Limits, slots: Slots) -> None:
    """Wait for a slot, for as long as the load may."""
    started, got, seconds = time.perf_counter(), False, _patience(limits)
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            await slots.await_()
        got = True
    except TimeoutError:
        raise _crowded(limits, slots, seconds) from None
    finally:
        load.waited = time.perf_counter() - started
        _queued(engine, limits, load.waited, got)


def _patience(limits: Limits) -> float:
    return LONGEST_WAIT if limits.seconds is None else max(0.0, limits.seconds)


def _queued(engine: Engine, limits: Limits, seconds: float, got: bool) -> None:
    engine.counters(limits.name).queued += 1
    engine.listeners.emit(LoadQueued(limits.name, limits.key, seconds, got))


def _late(limits: Limits) -> LoaderTimeout:
    seconds = limits.whole or 0.0
    return LoaderTimeout(
        f"{limits.label} for key {limits.key!r}: the loader did not return within its hard_timeout of {seconds:g} s",
        key=limits.key,
        seconds=seconds,
    )


def _crowded(limits: Limits, slots: Slots, seconds: float) -> LoaderTimeout:
    """Return the error for a load that got no slot."""
    return LoaderTimeout(
        f"{limits.label} for key {limits.key!r}: waited {seconds:g} s in vain for one of the {slots.limit} loads that "
        f"max_concurrent_loads allows at once",
        key=limits.key,
        seconds=seconds,
        waiting=True,
    )


def _called(load: Load) -> Any:
    loop, started = asyncio._get_running_loop(), time.perf_counter()
    value = load.call(*load.args, **load.kwargs)
    if loop is not None and (held := time.perf_counter() - started) > HELD_UP:
        _tell_of_blocking(load, held)
    if inspect.iscoroutine(value):
        value.close()
        name = getattr(load.call, "__qualname__", repr(load.call))
        raise CacheError(
            f"the loader `{name}` returned a coroutine: declare a decorated function with `async def`, "
            f"or use the a-prefixed method of the cache, and await it"
        )
    return value


async def _acalled(load: Load) -> Any:
    value = load.call(*load.args, **load.kwargs)
    return await value if inspect.isawaitable(value) else value


def _tell_of_blocking(load: Load, seconds: float) -> None:
    """Warn, once for each loader, that nothing else on an event loop could run while it did."""
    name = getattr(load.call, "__qualname__", repr(load.call))
    if name in _told or len(_told) == MAX_TOLD:
        return
    _told.add(name)
    logger.warning(
        "`%s` is synchronous and was called on an event loop, which it held up for %.0f ms while it loaded: declare it "
        "with `async def`, or call it through `asyncio.to_thread`",
        name,
        seconds * 1000,
    )


def attempt_here(engine: Engine, load: Load) -> tuple[Any, Exception | None]:
    """Do what `load_here` does, and return an ordinary error beside the value."""
    try:
        return load_here(engine, load), None
    except Exception as error:
        return None, error


async def attempt_in_task(engine: Engine, load: Load, gate: asyncio.Semaphore) -> tuple[Any, Exception | None]:
    """Do what `load_in_task` does behind a gate, and return an ordinary error beside the value."""
    async with gate:
        try:
            return await load_in_task(engine, load), None
        except Exception as error:
            return None, error
