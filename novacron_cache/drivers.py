"""The two ways of waiting: one blocks the thread, the other awaits. Neither decides anything.

A driver sends each answer back into the flow and throws every exception, cancellation included, so that a flow's own
`except` and `finally` always run. A tier's failure is not an exception here: the flow is sent `DOWN`, and the tier's
breaker and the listeners are told.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Generator
from typing import Any, TypeVar

from .effects import DOWN, AwaitLease, Barrier, Join, Load, LoadEach, Operation
from .engine import Engine
from .errors import CacheError, TierError
from .events import TierDown, TierFailed, TierUp, logger
from .guards import Outcome
from .leases import Woken
from .tiers import Tier

T = TypeVar("T")

PATIENCE = 0.25
"""Seconds to wait for the link's barrier; a value that could have been shared is then kept in process memory alone."""


def drive(engine: Engine, flow: Generator[Any, Any, T]) -> T:
    """Carry a flow out in this thread and return its result."""
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer, error = None, None
            try:
                answer = _perform(engine, effect)
            except BaseException as raised:
                error = raised
    finally:
        flow.close()


async def adrive(engine: Engine, flow: Generator[Any, Any, T]) -> T:
    """Carry a flow out in this task and return its result."""
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            answer, error = None, None
            try:
                answer = await _aperform(engine, effect)
            except BaseException as raised:
                error = raised
    finally:
        flow.close()


def _perform(engine: Engine, effect: Any) -> Any:
    kind = type(effect)
    if kind is tuple:
        tier, operation = effect
        return ask(engine, tier, operation)
    if kind is Load:
        return _load(effect)
    if kind is LoadEach:
        return [_attempt(load) for load in effect.loads]
    if kind is Join:
        flight = effect.flight
        if not engine.flights.may_wait(flight, blocking=True):
            return Outcome.SOLO
        try:
            return flight.wait()
        finally:
            engine.flights.waited(flight)
    if kind is Barrier:
        return engine.link is not None and engine.link.barrier(PATIENCE)
    if kind is AwaitLease:
        # A loop that waits could not even cancel what others on it do under leases of their own.
        if asyncio._get_running_loop() is not None:
            return Woken.REFUSED
        return effect.waiting.wait(effect.holder, effect.seconds)
    raise AssertionError(f"a flow yielded {effect!r}")


async def _aperform(engine: Engine, effect: Any) -> Any:
    kind = type(effect)
    if kind is tuple:
        tier, operation = effect
        return await aask(engine, tier, operation)
    if kind is Load:
        return await _aload(effect)
    if kind is LoadEach:
        gate = asyncio.Semaphore(effect.limit)
        return await asyncio.gather(*(_aattempt(load, gate) for load in effect.loads))
    if kind is Join:
        flight = effect.flight
        if not engine.flights.may_wait(flight, blocking=False):
            return Outcome.SOLO
        try:
            return await flight.await_()
        finally:
            engine.flights.waited(flight)
    if kind is Barrier:
        return engine.link is not None and await engine.link.abarrier(PATIENCE)
    if kind is AwaitLease:
        return await effect.waiting.await_(effect.holder, effect.seconds)
    raise AssertionError(f"a flow yielded {effect!r}")


def _load(load: Load) -> Any:
    value = load.call(*load.args, **load.kwargs)
    if inspect.iscoroutine(value):
        value.close()
        name = getattr(load.call, "__qualname__", repr(load.call))
        raise CacheError(
            f"the loader `{name}` returned a coroutine: declare a decorated function with `async def`, "
            f"or use the a-prefixed method of the cache, and await it"
        )
    return value


async def _aload(load: Load) -> Any:
    value = load.call(*load.args, **load.kwargs)
    return await value if inspect.isawaitable(value) else value


def _attempt(load: Load) -> tuple[Any, Exception | None]:
    try:
        return _load(load), None
    except Exception as error:
        return None, error


async def _aattempt(load: Load, gate: asyncio.Semaphore) -> tuple[Any, Exception | None]:
    async with gate:
        try:
            return await _aload(load), None
        except Exception as error:
            return None, error


def ask(engine: Engine, tier: Tier, operation: Operation) -> Any:
    """Have a tier carry out one operation; a failure, or an open breaker, gives `DOWN`."""
    if not engine.breakers[tier.name].allows():
        return DOWN
    started = time.perf_counter()
    try:
        answer = tier.perform(operation)
    except TierError as error:
        return _failed(engine, tier, error)
    finally:
        engine.timed(tier.name, operation, time.perf_counter() - started)
    return _succeeded(engine, tier, answer)


async def aask(engine: Engine, tier: Tier, operation: Operation) -> Any:
    """Do what `ask` does, awaiting the tier."""
    if not engine.breakers[tier.name].allows():
        return DOWN
    started = time.perf_counter()
    try:
        answer = await tier.aperform(operation)
    except TierError as error:
        return _failed(engine, tier, error)
    finally:
        engine.timed(tier.name, operation, time.perf_counter() - started)
    return _succeeded(engine, tier, answer)


def _failed(engine: Engine, tier: Tier, error: TierError) -> Any:
    if error.partial:
        _succeeded(engine, tier, None)  # other parts of it answer
        engine.listeners.emit(TierFailed(tier.name, error))
        return DOWN
    opened = engine.breakers[tier.name].failed()
    engine.listeners.emit(TierFailed(tier.name, error))
    if opened:
        logger.warning("the %s tier does not answer and is left alone for a while: %s", tier.name, error)
        engine.listeners.emit(TierDown(tier.name))
    return DOWN


def _succeeded(engine: Engine, tier: Tier, answer: Any) -> Any:
    if engine.breakers[tier.name].succeeded():
        logger.info("the %s tier answers again", tier.name)
        engine.listeners.emit(TierUp(tier.name))
    return answer
