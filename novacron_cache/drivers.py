"""The two ways of waiting: one blocks the thread, the other awaits. Neither decides anything.

A driver sends each answer back into the flow and throws every exception, cancellation included, so that a flow's own
`except` and `finally` always run. A tier's failure is not an exception here: the flow is sent `DOWN`, and the tier's
breaker and the listeners are told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any, Final, TypeVar

from .effects import (
    DOWN,
    Aside,
    AwaitLease,
    Barrier,
    Begun,
    Capture,
    Fetch,
    Hold,
    Join,
    KeepLeases,
    Load,
    LoadEach,
    Operation,
    ReadClock,
    ReadRules,
    Release,
    ReturnLease,
    TakeLease,
    Together,
)
from .engine import Engine
from .errors import CacheError, TierError
from .events import TierDown, TierFailed, TierUp, logger
from .guards import Outcome
from .leases import Woken
from .markers import NAMESPACE
from .running import attempt_here, attempt_in_task, load_here, load_in_task
from .tiers import Tier

T = TypeVar("T")

PATIENCE = 0.25
"""Seconds to wait for the link's barrier; a value that could have been shared is then kept in process memory alone."""

_OF_A_HOLDER = frozenset({TakeLease, ReturnLease, Hold, Release, Together})
"""What is asked for a holder, whose questions must arrive in their order."""


def drive(engine: Engine, flow: Generator[Any, Any, T]) -> T:
    """Carry a flow out in this thread and return its result."""
    if engine.traced is not None:
        flow = engine.traced(flow)
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
    """Carry a flow out in this task and return its result.

    Raises:
        CacheError: no loop of asyncio runs this.
    """
    if engine.traced is not None:
        flow = engine.traced(flow)
    answer: Any = None
    error: BaseException | None = None
    try:
        running_loop()
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


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        CacheError: it is not one of asyncio, or there is none.
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        raise CacheError(
            "asynchronous calls of the cache need a running asyncio event loop, and there is none; under trio, call a "
            "blocking function or method in a thread: `await trio.to_thread.run_sync(...)`"
        )
    return loop


def _perform(engine: Engine, effect: Any) -> Any:
    kind = type(effect)
    if kind is tuple:
        tier, operation = effect
        return ask(engine, tier, operation)
    if kind is Load:
        return load_here(engine, effect)
    if kind is LoadEach:
        return [attempt_here(engine, load) for load in effect.loads]
    if kind is Join:
        flight = effect.flight
        if not engine.flights.may_wait(flight, blocking=True):
            return Outcome.SOLO
        try:
            return flight.wait(effect.seconds)
        finally:
            engine.flights.waited(flight)
    if kind is Aside:
        return _aside(engine, effect)
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
        if type(operation) in _OF_A_HOLDER:
            return await _in_order(engine, tier, operation)
        return await aask(engine, tier, operation)
    if kind is Load:
        return await load_in_task(engine, effect)
    if kind is LoadEach:
        gate = asyncio.Semaphore(effect.limit)
        return await asyncio.gather(*(attempt_in_task(engine, load, gate) for load in effect.loads))
    if kind is Join:
        flight = effect.flight
        if not engine.flights.may_wait(flight, blocking=False):
            return Outcome.SOLO
        try:
            return await flight.await_(effect.seconds)
        finally:
            engine.flights.waited(flight)
    if kind is Aside:
        if effect.stoppable:
            return None
        engine.background.spawn(adrive(engine, effect.flow))
        return Begun(_too_late, bounded=True)
    if kind is Barrier:
        return engine.link is not None and await engine.link.abarrier(PATIENCE)
    if kind is AwaitLease:
        return await effect.waiting.await_(effect.holder, effect.seconds)
    raise AssertionError(f"a flow yielded {effect!r}")


def _too_late() -> bool:
    """Say that what has begun cannot be withdrawn."""
    return False


def _aside(engine: Engine, effect: Aside) -> Begun | None:
    # One of these threads that waited for another could wait for ever.
    if engine.background.here:
        return None

    def run() -> None:
        try:
            drive(engine, effect.flow)
        except BaseException:
            logger.exception("a load in the background was interrupted")

    job = engine.background.submit(run, effect.dropped)
    if job is None:
        return None
    for flight in effect.flights:
        flight.loop = None
    return Begun(job.withdraw, bounded=False)


REPEAT_WITHIN: Final = 0.05
"""Seconds within which a connection has to have failed for a question to be asked once more, over another one."""

_REPEATED = frozenset({Fetch, ReadClock, ReadRules, KeepLeases, Capture})
"""What may be asked twice. `Renew` may not: in between, values may have been stored under its ids and invalidated."""


def _is_worth_repeating(operation: Operation, error: TierError, started: float) -> bool:
    """Return whether to ask once more: what may be asked twice, when a connection broke that was perhaps only old."""
    kind = type(operation)
    return (
        getattr(error, "cause", "") == "lost"
        and not error.partial
        and time.perf_counter() - started < REPEAT_WITHIN
        and (kind in _REPEATED and not (isinstance(operation, Capture) and operation.renew))
    )


def ask(engine: Engine, tier: Tier, operation: Operation) -> Any:
    """Have a tier carry out one operation; a failure, or an open breaker, gives `DOWN`."""
    breaker = engine.breakers[tier.name]
    if not breaker.is_calm and not breaker.allows():
        return DOWN
    started = time.perf_counter()
    try:
        try:
            answer = tier.perform(operation)
        except TierError as error:
            if not _is_worth_repeating(operation, error, started):
                raise
            answer = tier.perform(operation)
    except TierError as error:
        return _failed(engine, tier, error)
    finally:
        engine.timed(tier.name, operation, time.perf_counter() - started)
    return answer if breaker.is_calm else _succeeded(engine, tier, answer)


async def aask(engine: Engine, tier: Tier, operation: Operation) -> Any:
    """Do what `ask` does, awaiting the tier."""
    if not engine.breakers[tier.name].allows():
        return DOWN
    started = time.perf_counter()
    try:
        try:
            answer = await tier.aperform(operation)
        except TierError as error:
            if not _is_worth_repeating(operation, error, started):
                raise
            answer = await tier.aperform(operation)
    except TierError as error:
        return _failed(engine, tier, error)
    finally:
        engine.timed(tier.name, operation, time.perf_counter() - started)
    return _succeeded(engine, tier, answer)


async def _in_order(engine: Engine, tier: Tier, operation: Any) -> Any:
    """Do what `aask` does, after what the same holder asked before, and to the end whatever becomes of the caller.

    A question whose caller is cancelled may be on its way. Were the lease given back over another connection, it could
    be taken after that, by nobody, and everybody would wait until it runs out.
    """
    holder = operation.then.holder if type(operation) is Together else operation.holder
    loop, asking = asyncio.get_running_loop(), engine.asking
    before = asking.get(holder)

    async def asked() -> Any:
        if before is not None and before.get_loop() is loop:
            await asyncio.wait([before])
        return await aask(engine, tier, operation)

    def done(task: asyncio.Task[Any]) -> None:
        if asking.get(holder) is task:
            del asking[holder]

    task = asking[holder] = loop.create_task(asked())
    task.add_done_callback(done)
    return await asyncio.shield(task)


def _failed(engine: Engine, tier: Tier, error: TierError) -> Any:
    if error.partial:
        _succeeded(engine, tier, None)  # other parts of it answer
        engine.listeners.emit(TierFailed(tier.name, error))
        return DOWN
    # A second question would cost another time-out; whatever fails at once costs nothing to try again.
    opened = engine.breakers[tier.name].failed(at_once=getattr(error, "cause", "") == "timeout")
    engine.listeners.emit(TierFailed(tier.name, error))
    if opened:
        logger.warning(
            "the %s tier does not answer and is left alone for a while: %s; calls go on without it, and"
            " `novacron-cache doctor` says what is wrong",
            tier.name, error,
        )  # fmt: skip
        engine.listeners.emit(TierDown(tier.name))
        engine.on_down()
    return DOWN


def _succeeded(engine: Engine, tier: Tier, answer: Any) -> Any:
    if engine.breakers[tier.name].succeeded():
        logger.info("the %s tier answers again", tier.name)
        engine.listeners.emit(TierUp(tier.name))
    return answer


def probe(engine: Engine, tier: Tier) -> None:
    """Ask a tier whose breaker is open for one marker, whoever else may, and close the breaker when it answers."""
    try:
        tier.perform(Fetch([], [NAMESPACE]))
    except TierError as error:
        _failed(engine, tier, error)
    else:
        _succeeded(engine, tier, None)
