"""Loading what no tier has: one flight per key, ids before the load, storing far to near.

Theory. The ids that a loaded value will carry are read, and missing ones created, *before* its load begins. Whatever is
invalidated after that moment gets another id, so a slow loader can only store something that no longer matches. Process
memory has the same rule with the history number of this process as the id. Tags that only the result names are guessed
to be those of the last known value, and captured with the rest. Where the guess fails they have no id from before the
load, and the value stays in process memory, within the staleness bound. That bound counts from before the load: an
invalidation elsewhere may have come right after its beginning. So a caller that joined a flight later than that looks
at the ids once more when it lands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from enum import Enum
from typing import Any

from ..effects import Aside, Barrier, Ending, Join, Load, LoadEach
from ..engine import Engine
from ..entry import FOREVER, MISSING, Entry
from ..events import Loaded, Miss, NotStored
from ..guards import Flight, Leading, Outcome
from ..leases import Lease
from ..markers import dependencies
from ..requests import Request
from . import leasing, patience
from .capturing import capture, capture_late
from .nearby import is_near, nearby
from .reading import Found, consult, outage, unanswered
from .storing import admit, in_grace, new_entry, store

BatchLoad = Callable[[Sequence[Request]], Load]
"""Makes the one loader call for several misses; its result maps a request's `subject` to a value."""


def get_or_load(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    """Return the entry of one key, from the nearest tier that may serve it, else from its loader."""
    started = time.perf_counter()
    entry = None if request.strong else engine.fresh(request.key)
    if entry is not None:
        engine.count_hit(request, "memory")
        engine.answered(entry, started)
        return entry
    if is_near(engine, request):
        entry = yield from _from_nearby(engine, request)
    if entry is None:
        (entry,) = yield from get_many(engine, [request])
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


def get_unfound(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    """Do what `get_or_load` does for a key whose payload was just asked for by itself, in vain."""
    (entry,) = yield from get_many(engine, [request], after=After.NEARBY)
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


def _from_nearby(engine: Engine, request: Request) -> Generator[Any, Any, Entry | None]:
    """Return the entry that the authority has, if that is known to be valid; others who want the key wait for it."""
    token = engine.history.seq
    flight, leads = engine.flights.board(request.key, token, _still_good(engine, request), engine.clock.monotonic())
    if not leads:
        return None
    try:
        entries = yield from nearby(engine, [request], token)
    except BaseException as error:
        failed = isinstance(error, Exception)
        engine.flights.land(flight, Outcome.FAILED if failed else Outcome.HANDED_OVER, error=error)
        raise
    if entries is None:
        return (yield from get_unanswered(engine, request, flight, token))
    entry = entries.get(request.key)
    engine.flights.land(flight, Outcome.HANDED_OVER if entry is None else Outcome.LANDED, entry)
    return entry


def get_unanswered(engine: Engine, request: Request, flight: Flight, token: int) -> Generator[Any, Any, Entry]:
    """Do what `get_or_load` does for a key that the authority was just asked for and did not answer.

    Args:
        engine: the cache's state.
        request: what is wanted.
        flight: that of the key, which this call leads; it is landed.
        token: the history number at which the call began.
    """
    flights = [flight]
    found = Found()
    try:
        # It does not answer, so it is not asked once more.
        yield from outage(engine, [(request, found)])
        (entry,) = yield from _lead(engine, [request], flights, token, None, [found])
    except BaseException as error:
        failed = isinstance(error, Exception)
        for one in flights:
            engine.flights.land(one, Outcome.FAILED if failed else Outcome.HANDED_OVER, error=error)
        raise
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


def refresh(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    """Load a key whatever the tiers have, and store the result."""
    token = engine.history.seq
    if engine.link is not None:
        engine.link.ensure()
    return (yield from _refresh(engine, request, _unread(engine, request), token, None))


def _unread(engine: Engine, request: Request) -> Found:
    """Return what is known of a key that no tier is asked about."""
    found = Found()
    if (old := engine.old(request.key)) is not None:
        found.expected = old.tags
    if engine.authority is not None and not engine.pending.blocks(request.deps, request.logical, request.tags):
        found.shared = True
    return found


def refresh_batch(engine: Engine, requests: Sequence[Request], batch: BatchLoad) -> Generator[Any, Any, None]:
    """Load several keys by one call of their loader before their time, and store what it returns.

    Like any batch, it asks for no leases. What fails, or is left out, goes on until its ttl.
    """
    token = engine.history.seq
    yield from load(engine, [(request, _unread(engine, request)) for request in requests], token, [], batch)


def refresh_ahead(engine: Engine, request: Request) -> Generator[Any, Any, None]:
    """Load a key before its time unless another process does, or just has: then take over what that stored.

    Nothing waits here: where another process has the lease, the value that is there goes on until its ttl.
    """
    if not leasing.has_leases(engine, request):
        yield from refresh(engine, request)
        return
    token = engine.history.seq
    found, lease = yield from leasing.try_to_refresh(engine, request, token)
    if found is None:
        return
    try:
        yield from _refresh(engine, request, found, token, lease)
    except BaseException as error:
        yield from leasing.give_up(engine, lease, error)
        raise


def _refresh(
    engine: Engine, request: Request, found: Found, token: int, lease: Lease | None
) -> Generator[Any, Any, Entry]:
    # Nobody joins this flight; it says that what the loader calls must wait for no lease.
    flights = [] if lease is None else [Flight(request.key, token, None)]
    (entry,) = yield from load(engine, [(request, found)], token, flights, None, lease=lease)
    if isinstance(entry, BaseException):
        raise entry
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


class After(Enum):
    """What a call did before it went the long way."""

    NOTHING = "nothing"
    NEARBY = "nearby"
    """It asked for the payloads alone: that is not done again."""
    DOWN = "down"
    """It asked the authority in vain: that is not done again."""


def get_many(
    engine: Engine,
    requests: Sequence[Request],
    batch: BatchLoad | None = None,
    *,
    after: After = After.NOTHING,
) -> Generator[Any, Any, list[Entry | None]]:
    """Return the entries of several distinct keys, loading the misses only.

    Args:
        engine: the cache's state.
        requests: distinct keys; without `batch`, each has its own loader.
        batch: one loader call for all misses. A key that it leaves out gives None here, unless the plan keeps negative
            results.
        after: what was asked before.
    """
    results: dict[str, Entry | None] = {}
    absent = []
    for request in requests:
        entry = None if request.strong else engine.fresh(request.key)
        if entry is None:
            absent.append(request)
        else:
            engine.count_hit(request, "memory")
            results[request.key] = entry
    token = engine.history.seq
    now = engine.clock.monotonic()
    led: list[Request] = []
    flights: list[Flight] = []
    joined: list[tuple[Request, Flight]] = []
    try:
        for request in absent:
            flight, leads = engine.flights.board(request.key, token, _still_good(engine, request), now)
            if leads:
                flights.append(flight)
                led.append(request)
            else:
                joined.append((request, flight))
        if led:
            found = None if after is After.NOTHING else (yield from _found(engine, led, token, after))
            entries = yield from _lead(engine, led, flights, token, batch, found)
            results.update(zip((request.key for request in led), entries, strict=True))
    except BaseException as error:
        # A loader's error is everybody's; a cancelled or interrupted leader only gives up its lead.
        failed = isinstance(error, Exception)
        for flight in flights:
            engine.flights.land(flight, Outcome.FAILED if failed else Outcome.HANDED_OVER, error=error)
        raise
    for request, flight in joined:
        results[request.key] = yield from _join(engine, request, flight, batch, token, now)
    return [results[request.key] for request in requests]


def _found(engine: Engine, requests: Sequence[Request], token: int, after: After) -> Generator[Any, Any, list[Found]]:
    """Return what the tiers have, having asked one of them already."""
    if after is After.DOWN:
        return (yield from unanswered(engine, requests))
    return (yield from consult(engine, requests, token, near=False))


def _still_good(engine: Engine, request: Request) -> Callable[[int], bool]:
    # A strong read takes nothing from a flight that began before it.
    return lambda token: (
        not request.strong and not engine.history.hits(token, request.deps, request.logical, request.tags)
    )


def _join(
    engine: Engine, request: Request, flight: Flight, batch: BatchLoad | None, token: int, boarded: float
) -> Generator[Any, Any, Entry | None]:
    """Wait for another call's load.

    Args:
        engine: the cache's state.
        request: what is wanted.
        flight: the load.
        batch: as for `get_many`.
        token: the history number at which this call began.
        boarded: monotonic seconds at which it did.
    """
    result: Entry | None
    if patience.unlimited(request.plan):
        outcome = yield Join(flight)
    else:
        outcome = yield from patience.join(engine, request, flight, boarded)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, Entry):
            return outcome
    if outcome is Outcome.LANDED and _may_share(engine, request, flight, batch, token, boarded):
        engine.counters(request.plan.name).joined += 1
        result = flight.result
        return result
    if outcome is Outcome.FAILED and (error := flight.failure()) is not None:
        engine.counters(request.plan.name).joined += 1
        raise error
    if outcome is Outcome.SOLO:
        # Waiting could not end: load alone, beside the flight.
        (result,) = yield from _lead(engine, [request], [], engine.history.seq, batch)
    else:
        (result,) = yield from get_many(engine, [request], batch)
    return result


def _may_share(
    engine: Engine, request: Request, flight: Flight, batch: BatchLoad | None, token: int, boarded: float
) -> bool:
    """Return whether what a flight brought home may answer a call that joined it under way."""
    entry: Entry | None = flight.result
    if entry is None:
        # A batch loader left the key out; that says nothing to a call with a loader of its own.
        return batch is not None
    if boarded - flight.began > engine.bound:
        return False
    # Boarding compared the dependencies known before the load; tags of the result are known only now.
    deps = dependencies(request.logical, request.plan.name, entry.tags)
    return not engine.history.hits(flight.token, deps, entry.logical, entry.tags, until=token)


def _lead(
    engine: Engine,
    requests: Sequence[Request],
    flights: list[Flight],
    token: int,
    batch: BatchLoad | None,
    found: list[Found] | None = None,
) -> Generator[Any, Any, list[Entry | None]]:
    """Answer keys whose flights this call leads, and land each flight; what lands elsewhere is taken off the list.

    Args:
        engine: the cache's state.
        requests: what is wanted.
        flights: those that this call leads.
        token: the history number at which the call began.
        batch: as for `get_many`.
        found: what the tiers have, where they were asked already.
    """
    if found is None:
        found = yield from consult(engine, requests, token)
        token = yield from _linked(engine, requests, found, token)
    entries: dict[str, Entry | None] = {}
    by_key = {flight.key: flight for flight in flights}
    misses: list[tuple[Request, Found]] = []
    for request, one in zip(requests, found, strict=True):
        if one.entry is not None:
            entries[request.key] = one.entry
            if request.key in by_key:
                engine.flights.land(by_key[request.key], Outcome.LANDED, one.entry)
        else:
            misses.append((request, one))
    if misses:
        entries.update((yield from _within_limits(engine, misses, flights, token, batch)))
    return [entries[request.key] for request in requests]


def _linked(engine: Engine, requests: Sequence[Request], found: list[Found], token: int) -> Generator[Any, Any, int]:
    """Wait for a link that is coming up where values about to be loaded can only be shared under it; look once more.

    The first calls of a process are ahead of its link by milliseconds. Tags that only their results name would keep
    these values out of the shared tiers.

    Returns:
        The history number before the last look.
    """
    if engine.link is None or engine.memory is None or engine.watches(token):
        return token
    misses = [place for place, one in enumerate(found) if one.entry is None]
    late = any(
        found[place].shared
        and requests[place].late_tags is not None
        and set(found[place].expected).issubset(requests[place].tags)  # no earlier value says what they may be
        for place in misses
    )
    if not late or not (yield Barrier()):
        return token
    token = engine.history.seq
    # All of them: what was found out about a miss is as old as the number that it goes with.
    again = yield from consult(engine, [requests[place] for place in misses], token)
    for place, one in zip(misses, again, strict=True):
        found[place] = one
    return token


def _within_limits(
    engine: Engine,
    misses: Sequence[tuple[Request, Found]],
    flights: list[Flight],
    token: int,
    batch: BatchLoad | None,
) -> Generator[Any, Any, dict[str, Entry | None]]:
    """Load misses, beside this call where their time-outs may have it end before the load does."""
    by_key = {flight.key: flight for flight in flights}
    limits = patience.of(misses, engine.clock.monotonic())
    if limits is None or (len(misses) > 1 and batch is None):
        return (yield from _bring(engine, misses, by_key, token, batch, FOREVER if limits is None else limits.until))
    own = {
        request.key: by_key.get(request.key) or Flight(request.key, token, None, limits.began) for request, _ in misses
    }
    aside = patience.background_load(
        engine, _bring(engine, misses, own, token, batch, limits.until, led=by_key.keys()), own.values()
    )

    def dropped() -> None:
        patience.drop(engine, misses, own, limits)

    begun = yield Aside(aside, tuple(own.values()), dropped, stoppable=limits.soft is None)
    if begun is None:
        return (yield from _bring(engine, misses, own, token, batch, limits.until, led=by_key.keys()))
    # They are landed by the load, however this call ends.
    flights[:] = [flight for flight in flights if flight.key not in own]
    return (
        yield from patience.await_own(
            engine, misses, own, begun, token, limits, lambda request: get_many(engine, [request], batch)
        )
    )


def _bring(
    engine: Engine,
    misses: Sequence[tuple[Request, Found]],
    flights: Mapping[str, Flight],
    token: int,
    batch: BatchLoad | None,
    until: float,
    led: Collection[str] | None = None,
) -> Generator[Any, Any, dict[str, Entry | None]]:
    """Get values that no tier has: from another process, or from the loader; and land the flights.

    Args:
        engine: the cache's state.
        misses: what is wanted, and what the tiers know about it.
        flights: those to land, by key.
        token: the history number before that look.
        batch: as for `get_many`.
        until: monotonic seconds until which the loader may take.
        led: the keys whose flights others may have joined; None is those of all flights.
    """
    entries: dict[str, Entry | None] = {}
    lease: Lease | None = None
    if len(misses) == 1 and batch is None:
        ((request, one),) = misses
        if request.key in (flights if led is None else led) and leasing.is_due(engine, request, one, token):
            one, token, lease = yield from leasing.obtain(engine, request, one, token, until)
            misses = [(request, one)]
            if one.entry is not None:
                engine.flights.land(flights[request.key], Outcome.LANDED, one.entry)
                return {request.key: one.entry}
    for request, one in misses:
        engine.counters(request.plan.name).misses[one.reason] += 1
        engine.listeners.emit(Miss(request.plan.name, request.logical, one.reason))
    loading = [flights[request.key] for request, _ in misses if request.key in flights]
    try:
        loaded = yield from load(engine, misses, token, loading, batch, lease=lease, until=until)
    except BaseException as error:
        yield from leasing.give_up(engine, lease, error)
        raise
    first_error: BaseException | None = None
    for (request, _), result in zip(misses, loaded, strict=True):
        flight = flights.get(request.key)
        if isinstance(result, BaseException):
            first_error = first_error or result
            if flight is not None:
                engine.flights.land(flight, Outcome.FAILED, error=result)
            continue
        entries[request.key] = result
        if flight is not None:
            engine.flights.land(flight, Outcome.LANDED, result)
    if first_error is not None:
        raise first_error
    return entries


def load(
    engine: Engine,
    misses: Sequence[tuple[Request, Found]],
    token: int,
    flights: Sequence[Flight],
    batch: BatchLoad | None,
    *,
    lease: Lease | None = None,
    until: float = FOREVER,
    keep: Collection[str] | None = None,
) -> Generator[Any, Any, list[Entry | BaseException | None]]:
    """Load and store, and return the lease; each result is an entry, an error, or None where a batch left it out.

    Args:
        engine: the cache's state.
        misses: what is wanted, and what the tiers know about it.
        token: the history number before that look.
        flights: those that this load will land.
        batch: as for `get_many`.
        lease: the lease of the only key, if it was to be had.
        until: monotonic seconds until which the loader may take; `hard_timeout` counts from now where this is infinite.
        keep: the stored keys that may be kept; None is all of them.
    """
    began = engine.clock.monotonic()
    for _, one in misses:
        one.asked = min(one.asked, began)
    yield from capture(engine, misses)
    # From here on the ids are fixed; so is the number of this process, which must not be younger than they are.
    with Leading(flights):
        values = yield from _run(engine, misses, batch, until)
    loaded = [
        (request, one, value)
        for (request, one), value in zip(misses, values, strict=True)
        if not isinstance(value, _Failed) and value is not MISSING
    ]
    yield from capture_late(engine, loaded, token)
    results: list[Entry | BaseException | None] = []
    kept: list[tuple[Request, Entry, bytes | None]] = []
    for (request, one), value in zip(misses, values, strict=True):
        if isinstance(value, _Failed):
            results.append(in_grace(engine, request, one, value.error, token))
        elif value is MISSING and (request.plan.negative_ttl is None or not request.plan.none_allowed):
            results.append(None)
        else:
            try:
                entry, body, shared = new_entry(engine, request, one, None if value is MISSING else value)
                skipped = _is_skipped(request, value)
            except Exception as error:
                results.append(error)
                continue
            results.append(entry)
            if keep is not None and request.key not in keep:
                entry.kill()
            elif skipped:
                entry.kill()
                engine.listeners.emit(NotStored(request.plan.name, request.logical, "skipped"))
            elif one.held:
                engine.listeners.emit(NotStored(request.plan.name, request.logical, "held"))
            elif shared:
                kept.append((request, entry, body))
            else:
                # Without ids nobody knows whether a writer holds what the value depends on: the link does not vouch.
                admit(engine, request, entry, token, (), bounded=not entry.ids)
    if kept:
        yield from store(engine, kept, token, lease=lease)
    else:
        yield from leasing.give_back(engine, lease, Ending.IN_VAIN)
    return results


def _is_skipped(request: Request, value: Any) -> bool:
    """Return whether the function says that a loaded value is not to be stored."""
    skip_if = request.plan.skip_if
    return skip_if is not None and value is not MISSING and bool(skip_if(value))


class _Failed:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _run(
    engine: Engine, misses: Sequence[tuple[Request, Found]], batch: BatchLoad | None, until: float
) -> Generator[Any, Any, list[Any]]:
    """Run the loader or loaders; an ordinary error becomes a `_Failed` in its place."""
    started = time.perf_counter()
    left = until - engine.clock.monotonic()
    waited = 0.0
    values: list[Any]
    if batch is None and len(misses) > 1:
        outcomes = yield LoadEach([_limited(request, request.load) for request, _ in misses])
        values = [value if error is None else _Failed(error) for value, error in outcomes]
    else:
        try:
            given = misses[0][0].load if batch is None else batch([request for request, _ in misses])
            one = _limited(misses[0][0], given, left)
            try:
                value = yield one
            finally:
                waited = one.waited
            values = [value] if batch is None else [value.get(request.subject, MISSING) for request, _ in misses]
        except Exception as error:
            values = [_Failed(error)] * len(misses)
    seconds = time.perf_counter() - started - waited
    for (request, _), value in zip(misses, values, strict=True):
        counters = engine.counters(request.plan.name)
        if isinstance(value, _Failed):
            counters.load_errors += 1
        else:
            counters.loads += 1
            engine.listeners.emit(Loaded(request.plan.name, request.logical, seconds))
    if misses:
        engine.counters(misses[0][0].plan.name).load_seconds += seconds
    return values


def _limited(request: Request, given: Load | None, left: float = FOREVER) -> Load:
    """Return a load with the limits of its plan; it may take `left` seconds where something has said so before."""
    if given is None:
        raise AssertionError(f"the request for {request.logical!r} has no loader")
    limits = request.plan.limits(request.logical, request.plan.hard_timeout if left == FOREVER else left)
    return given if limits is None else given.within(limits)
