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
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..effects import DOWN, Ending, Item, Join, Load, LoadEach, Store
from ..engine import Engine
from ..entry import MISSING, Entry
from ..events import Loaded, LoadFailed, Miss, NotStored, Stored
from ..guards import Flight, Leading, Outcome
from ..leases import Lease
from ..markers import dependencies
from ..requests import Request
from . import leasing
from .capturing import capture, capture_late
from .reading import Found, consult

BatchLoad = Callable[[Sequence[Request]], Load]
"""Makes the one loader call for several misses; its result maps a request's `subject` to a value."""

STALE_RETRY = 1.0
"""Seconds for which a value in grace answers before its failing loader is tried again."""


def get_or_load(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    """Return the entry of one key, from the nearest tier that may serve it, else from its loader."""
    started = time.perf_counter()
    entry = None if request.strong else engine.fresh(request.key)
    if entry is not None:
        engine.counters(request.plan.name).hits["memory"] += 1
        engine.answered(entry, started)
        return entry
    (entry,) = yield from get_many(engine, [request])
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


def refresh(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    """Load a key whatever the tiers have, and store the result."""
    token = engine.history.seq
    found = Found(reason="bypassed")
    if (old := engine.old(request.key)) is not None:
        found.expected = old.tags
    if engine.authority is not None and not engine.pending.blocks(request.deps, request.logical, request.tags):
        found.shared = True
    return (yield from _refresh(engine, request, found, token, None))


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
    (entry,) = yield from _load(engine, [(request, found)], token, flights, None, lease)
    if isinstance(entry, BaseException):
        raise entry
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


def get_many(
    engine: Engine, requests: Sequence[Request], batch: BatchLoad | None = None
) -> Generator[Any, Any, list[Entry | None]]:
    """Return the entries of several distinct keys, loading the misses only.

    Args:
        engine: the cache's state.
        requests: distinct keys; without `batch`, each has its own loader.
        batch: one loader call for all misses. A key that it leaves out gives None here, unless the plan keeps negative
            results.
    """
    results: dict[str, Entry | None] = {}
    absent = []
    for request in requests:
        entry = None if request.strong else engine.fresh(request.key)
        if entry is None:
            absent.append(request)
        else:
            engine.counters(request.plan.name).hits["memory"] += 1
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
            entries = yield from _lead(engine, led, flights, token, batch)
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
    outcome = yield Join(flight)
    result: Entry | None
    if outcome is Outcome.LANDED and _may_share(engine, request, flight, batch, token, boarded):
        engine.counters(request.plan.name).joined += 1
        result = flight.result
        return result
    if outcome is Outcome.FAILED and flight.error is not None:
        engine.counters(request.plan.name).joined += 1
        raise flight.error
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
    engine: Engine, requests: Sequence[Request], flights: Sequence[Flight], token: int, batch: BatchLoad | None
) -> Generator[Any, Any, list[Entry | None]]:
    """Answer keys whose flights this call leads, and land each flight."""
    found = yield from consult(engine, requests, token)
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
    lease: Lease | None = None
    if len(misses) == 1 and batch is None:
        ((request, one),) = misses
        if request.key in by_key and leasing.is_due(engine, request, one, token):
            one, token, lease = yield from leasing.obtain(engine, request, one, token)
            misses = [(request, one)]
            if one.entry is not None:
                entries[request.key], misses = one.entry, []
                engine.flights.land(by_key[request.key], Outcome.LANDED, one.entry)
    for request, one in misses:
        engine.counters(request.plan.name).misses[one.reason] += 1
        engine.listeners.emit(Miss(request.plan.name, request.logical, one.reason))
    if misses:
        loading = [by_key[request.key] for request, _ in misses if request.key in by_key]
        try:
            loaded = yield from _load(engine, misses, token, loading, batch, lease)
        except BaseException as error:
            yield from leasing.give_up(engine, lease, error)
            raise
        first_error: BaseException | None = None
        for (request, _), result in zip(misses, loaded, strict=True):
            flight = by_key.get(request.key)
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
    return [entries[request.key] for request in requests]


def _load(
    engine: Engine,
    misses: Sequence[tuple[Request, Found]],
    token: int,
    flights: Sequence[Flight],
    batch: BatchLoad | None,
    lease: Lease | None = None,
) -> Generator[Any, Any, list[Entry | BaseException | None]]:
    """Load and store, and return the lease; each result is an entry, an error, or None where a batch left it out."""
    began = engine.clock.monotonic()
    for _, one in misses:
        one.asked = min(one.asked, began)
    yield from capture(engine, misses)
    # From here on the ids are fixed; so is the number of this process, which must not be younger than they are.
    with Leading(flights):
        values = yield from _run(engine, misses, batch)
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
            results.append(_in_grace(engine, request, one, value.error, token))
        elif value is MISSING and (request.plan.negative_ttl is None or not request.plan.none_allowed):
            results.append(None)
        else:
            try:
                entry, body, shared = _new_entry(engine, request, one, None if value is MISSING else value)
            except Exception as error:
                results.append(error)
                continue
            results.append(entry)
            if one.held:
                engine.listeners.emit(NotStored(request.plan.name, request.logical, "held"))
            elif shared:
                kept.append((request, entry, body))
            else:
                # Without ids nobody knows whether a writer holds what the value depends on: the link does not vouch.
                _admit(engine, request, entry, token, (), bounded=not entry.ids)
    if kept:
        yield from store(engine, kept, token, lease=lease)
    else:
        yield from leasing.give_back(engine, lease, Ending.IN_VAIN)
    return results


class _Failed:
    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _run(
    engine: Engine, misses: Sequence[tuple[Request, Found]], batch: BatchLoad | None
) -> Generator[Any, Any, list[Any]]:
    """Run the loader or loaders; an ordinary error becomes a `_Failed` in its place."""
    started = time.perf_counter()
    values: list[Any]
    if batch is None and len(misses) > 1:
        outcomes = yield LoadEach([_loader(request) for request, _ in misses])
        values = [value if error is None else _Failed(error) for value, error in outcomes]
    else:
        try:
            if batch is not None:
                mapping = yield batch([request for request, _ in misses])
                values = [mapping.get(request.subject, MISSING) for request, _ in misses]
            else:
                values = [(yield _loader(misses[0][0]))]
        except Exception as error:
            values = [_Failed(error)] * len(misses)
    seconds = time.perf_counter() - started
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


def _loader(request: Request) -> Load:
    if request.load is None:
        raise AssertionError(f"the request for {request.logical!r} has no loader")
    return request.load


def _in_grace(engine: Engine, request: Request, one: Found, error: BaseException, token: int) -> Entry | BaseException:
    """Return the value that may stand in for a failing loader, else the error."""
    stale = one.stale
    if stale is not None and not _prolong(engine, request, stale, token, one.asked):
        stale = None
    engine.listeners.emit(LoadFailed(request.plan.name, request.logical, error, stale is not None))
    if stale is None:
        return error
    engine.counters(request.plan.name).stale += 1
    return stale


def _prolong(engine: Engine, request: Request, stale: Entry, token: int, asked: float) -> bool:
    """Let a value in grace answer for a moment longer; return whether it may."""
    memory = engine.memory
    if memory is None:
        deps = dependencies(request.logical, request.plan.name, stale.tags)
        return engine.in_grace(stale) and not engine.history.hits(token, deps, stale.logical, stale.tags)
    with memory.lock:
        deps = dependencies(request.logical, request.plan.name, stale.tags)
        if not engine.in_grace(stale) or engine.history.hits(token, deps, stale.logical, stale.tags):
            return False
        retry = engine.clock.monotonic() + STALE_RETRY
        stale.epoch = 0
        stale.deadline = min(stale.stale_until, retry, asked + engine.bound)
        # One that came from a shared tier is kept here, so that the calls of the next moment find it.
        engine.admit(stale, request, token, deps, bounded=True)
        return True


def _new_entry(engine: Engine, request: Request, one: Found, value: Any) -> tuple[Entry, bytes | None, bool]:
    """Return the entry of a loaded value, its serialised form, and whether shared tiers may hold it."""
    tags = request.all_tags(value)
    deps = dependencies(request.logical, request.plan.name, tags)
    known = one.shared and all(dep in one.ids for dep in deps)
    ids = tuple((dep, one.ids[dep]) for dep in deps) if known else ()
    shared = known and any(tier.name in request.plan.tiers for tier in engine.shared)
    ttl = request.plan.life(value, request.ttl)
    entry, body = engine.make_entry(request, value, ttl=ttl, tags=tags, ids=ids, shared=shared, asked=one.asked)
    return entry, body, shared


def _admit(
    engine: Engine, request: Request, entry: Entry, token: int, tiers: tuple[str, ...], *, bounded: bool = False
) -> None:
    deps = dependencies(request.logical, request.plan.name, entry.tags)
    admitted = engine.admit(entry, request, token, deps, bounded=bounded)
    if not admitted and engine.history.hits(token, deps, entry.logical, entry.tags):
        engine.listeners.emit(NotStored(request.plan.name, request.logical, "invalidated"))
        return
    if admitted and engine.memory is not None and "memory" in request.plan.tiers:
        tiers = (*tiers, "memory")
    if tiers:
        engine.listeners.emit(Stored(request.plan.name, request.logical, tiers))


def store(
    engine: Engine,
    kept: Sequence[tuple[Request, Entry, bytes | None]],
    token: int,
    *,
    bounded: bool = False,
    lease: Lease | None = None,
) -> Generator[Any, Any, bool]:
    """Write entries far to near, and return the lease; return whether the authority took them.

    A nearer tier never has what a farther one was not offered, and process memory comes last: when it answers, the
    others have had their chance.
    """
    sealed = [(request, entry, engine.seal(request, entry, body)) for request, entry, body in kept]
    done: list[str] = []
    accepted = False
    for tier in reversed(engine.shared):
        items = [
            Item(request.key, payload, ttl)
            for request, entry, payload in sealed
            if tier.name in request.plan.tiers
            and (ttl := min(engine.caps[tier.name], entry.stale_until - engine.clock.monotonic())) > 0
        ]
        if tier is engine.authority:
            deps = list(dict.fromkeys(dep for _, entry, _ in sealed for dep, _ in entry.ids))
            reply = yield from leasing.store(engine, Store(items, extend=deps, life=engine.marker_life()), lease)
            accepted = reply is not DOWN
        elif items:
            reply = yield tier, Store(items)
        else:
            continue
        if reply is not DOWN and items:
            done.append(tier.name)
    for request, entry, _ in sealed:
        _admit(engine, request, entry, token, tuple(done), bounded=bounded)
    return accepted
