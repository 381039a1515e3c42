"""How long a call waits for a load, and what it answers when that is over.

Theory. A load with time-outs goes on beside the calls that want it: in a task, or in a thread where the cache has any.
It is the whole load, from the lease to the storing and the landing of its flights, so whatever it brings home late is
kept under the ids it captured before it began, or not at all when one of them has been invalidated since. Whoever wants
the value waits for the flight. After the soft time-out a value in its grace answers instead, once its ids were found to
be current: by the leader's own look before the load, by a look of its own for a call that joined. After the hard one
the call ends. An asynchronous loader is cancelled then and lands its flight with the error; a thread cannot be stopped,
so its flight stays where others find it, and they do not begin another load beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..effects import Begun, Join
from ..engine import Engine
from ..entry import FOREVER, Entry
from ..errors import LoaderTimeout
from ..guards import Flight, Outcome
from ..requests import Plan, Request
from .reading import Found, consult
from .storing import in_grace, overdue, prolong

Misses = Sequence[tuple[Request, Found]]


class Limits(NamedTuple):
    """The time-outs of one load.

    Attributes:
        began: monotonic seconds at which the waiting began.
        soft: seconds after which values in their grace answer; None where one of them has none.
        hard: seconds that the load may take; None sets no bound.
    """

    began: float
    soft: float | None
    hard: float | None

    @property
    def until(self) -> float:
        """Monotonic seconds until which the load may take."""
        return FOREVER if self.hard is None else self.began + self.hard


def unlimited(plan: Plan) -> bool:
    """Return whether calls wait for as long as a load takes."""
    return plan.soft_timeout is None and plan.hard_timeout is None


def of(misses: Misses, now: float) -> Limits | None:
    """Return the limits of a load of several keys; None where it has none."""
    hard = min((r.plan.hard_timeout for r, _ in misses if r.plan.hard_timeout is not None), default=None)
    softs = [r.plan.soft_timeout for r, one in misses if r.plan.soft_timeout is not None and one.stale is not None]
    soft = max(softs) if len(softs) == len(misses) else None
    if soft is not None and hard is not None and soft >= hard:
        soft = None  # an override of the one may have overtaken the other
    if soft is None and hard is None:
        return None
    return Limits(now, soft, hard)


def background_load(
    engine: Engine, flow: Generator[Any, Any, Any], flights: Iterable[Flight]
) -> Generator[Any, Any, None]:
    """Carry a load out, and land its flights whatever becomes of it."""
    try:
        yield from flow
    except Exception as error:  # whoever waits for the flights is told
        for flight in flights:
            engine.flights.land(flight, Outcome.FAILED, error=error)
    except BaseException as error:
        for flight in flights:
            engine.flights.land(flight, Outcome.HANDED_OVER, error=error)
        raise


def drop(engine: Engine, misses: Misses, flights: Mapping[str, Flight], limits: Limits) -> None:
    """Land the flights of a load that will never begin, because no thread was free in time."""
    for request, _ in misses:
        flight = flights[request.key]
        if limits.hard is None:
            engine.flights.land(flight, Outcome.HANDED_OVER)
        else:
            error = _timed_out(request, limits.hard, waiting=True)
            engine.flights.land(flight, Outcome.FAILED, error=error)


def await_own(
    engine: Engine,
    misses: Misses,
    flights: Mapping[str, Flight],
    begun: Begun,
    token: int,
    limits: Limits,
    again: Callable[[Request], Generator[Any, Any, list[Entry | None]]],
) -> Generator[Any, Any, dict[str, Entry | None]]:
    """Wait for the load that this call has begun.

    Args:
        engine: the cache's state.
        misses: what it loads.
        flights: its flights, by key.
        begun: the load.
        token: the history number before the tiers were asked.
        limits: its time-outs.
        again: loads one key after all; for a load that was given up.
    """
    results: dict[str, Entry | None] = {}
    first_error: BaseException | None = None
    for request, one in misses:
        flight = flights[request.key]
        result: Entry | BaseException | None
        outcome = Outcome.LATE
        if limits.soft is not None:
            outcome = yield Join(flight, _left(engine, limits.began + limits.soft))
            if outcome is Outcome.LATE and (entry := overdue(engine, request, one, token, limits.soft)) is not None:
                results[request.key] = entry
                continue
        if outcome is Outcome.LATE:
            if limits.hard is None:
                begun.withdraw()  # with nothing to answer instead, better in this thread than waiting for another one
            outcome = yield Join(flight, None if begun.bounded else _left(engine, limits.until))
        if outcome is Outcome.LATE:
            error = _timed_out(request, limits.hard or 0.0, waiting=begun.withdraw())
            engine.counters(request.plan.name).load_errors += 1
            result = in_grace(engine, request, one, error, token)
        elif outcome is Outcome.LANDED:
            result = flight.result
        elif outcome is Outcome.FAILED:
            result = flight.failure()
        elif flight.error is not None and not begun.bounded:
            result = flight.failure()  # what interrupted it in its thread would interrupt it again, without end
        else:
            (result,) = yield from again(request)
        if isinstance(result, BaseException):
            first_error = first_error or result
        else:
            results[request.key] = result
    if first_error is not None:
        raise first_error
    return results


def join(
    engine: Engine, request: Request, flight: Flight, boarded: float
) -> Generator[Any, Any, Outcome | Entry | LoaderTimeout]:
    """Wait for a load that another call has begun; return how it ended, or what answers instead of it.

    The soft time-out counts from the beginning of the load, so that calls which come after it need not wait again.
    """
    plan = request.plan
    hard = None if plan.hard_timeout is None else boarded + plan.hard_timeout
    soft = None if plan.soft_timeout is None else flight.began + plan.soft_timeout
    if hard is not None and (soft is None or soft > hard):
        soft = hard
    outcome: Outcome = yield Join(flight, _left(engine, soft))
    if outcome is not Outcome.LATE:
        return outcome
    token = engine.history.seq
    (one,) = yield from consult(engine, [request], token)
    if one.entry is not None:
        return one.entry
    if plan.soft_timeout is not None and (entry := overdue(engine, request, one, token, plan.soft_timeout)) is not None:
        engine.counters(plan.name).joined += 1
        return entry
    outcome = yield Join(flight, _left(engine, hard))
    if outcome is not Outcome.LATE:
        return outcome
    if one.stale is not None and prolong(engine, request, one.stale, token, one.asked):
        engine.counters(plan.name).joined += 1
        engine.counters(plan.name).stale += 1
        return one.stale
    return _timed_out(request, plan.hard_timeout or 0.0)


def _left(engine: Engine, until: float | None) -> float | None:
    if until is None or until == FOREVER:
        return None
    return max(0.0, until - engine.clock.monotonic())


def _timed_out(request: Request, seconds: float, *, waiting: bool = False) -> LoaderTimeout:
    what = "no background thread was free for the loader" if waiting else "the loader did not return"
    return LoaderTimeout(
        f"{request.plan.label} for key {request.logical!r}: {what} within its hard_timeout of {seconds:g} s",
        key=request.logical,
        seconds=seconds,
        waiting=waiting,
    )
