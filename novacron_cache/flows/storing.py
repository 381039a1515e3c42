"""Keeping what was loaded: new entries, those whose grace answers for a while, and storing far to near."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..effects import DOWN, Item, Store
from ..engine import Engine
from ..entry import Entry
from ..events import LoadFailed, LoadOverdue, NotStored, Stored
from ..leases import Lease
from ..markers import dependencies
from ..requests import Request
from . import leasing
from .dictionaries import take_newest
from .reading import Found

STALE_RETRY = 1.0
"""Seconds for which a value in grace answers before its failing loader is tried again."""


def in_grace(engine: Engine, request: Request, one: Found, error: BaseException, token: int) -> Entry | BaseException:
    """Return the value that may stand in for a failing loader, else the error."""
    stale = one.stale
    if stale is not None and not prolong(engine, request, stale, token, one.asked):
        stale = None
    engine.listeners.emit(LoadFailed(request.plan.name, request.logical, error, stale is not None))
    if stale is None:
        return error
    engine.counters(request.plan.name).stale += 1
    return stale


def overdue(engine: Engine, request: Request, one: Found, token: int, seconds: float) -> Entry | None:
    """Return the value that may answer for a load that takes long, or None."""
    if one.stale is None or not prolong(engine, request, one.stale, token, one.asked):
        return None
    engine.counters(request.plan.name).overdue += 1
    engine.listeners.emit(LoadOverdue(request.plan.name, request.logical, seconds))
    return one.stale


def prolong(engine: Engine, request: Request, stale: Entry, token: int, asked: float) -> bool:
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
        engine.admit(stale, request.plan, token, deps, bounded=True)
        return True


def new_entry(engine: Engine, request: Request, one: Found, value: Any) -> tuple[Entry, bytes | None, bool]:
    """Return the entry of a loaded value, its serialised form, and whether shared tiers may hold it."""
    tags = request.all_tags(value)
    deps = dependencies(request.logical, request.plan.name, tags)
    known = one.shared and all(dep in one.ids for dep in deps)
    ids = tuple((dep, one.ids[dep]) for dep in deps) if known else ()
    shared = known and any(tier.name in request.plan.tiers for tier in engine.shared)
    ttl = request.plan.life(value, request.ttl)
    entry, body = engine.values.make_entry(request, value, ttl=ttl, tags=tags, ids=ids, shared=shared, asked=one.asked)
    return entry, body, shared


def admit(
    engine: Engine, request: Request, entry: Entry, token: int, tiers: tuple[str, ...], *, bounded: bool = False
) -> None:
    """Put a value that was loaded or given into process memory, and say where it is kept; `tiers` have it already."""
    deps = dependencies(request.logical, request.plan.name, entry.tags)
    admitted = engine.admit(entry, request.plan, token, deps, bounded=bounded)
    if not admitted and engine.history.hits(token, deps, entry.logical, entry.tags):
        engine.listeners.emit(NotStored(request.plan.name, request.logical, "invalidated"))
        return
    if admitted and engine.keeps(request.plan):
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
    if engine.pipeline.dictionaries.writes:
        yield from take_newest(engine, [request.plan for request, _, _ in kept])
    sealed = [(request, entry, engine.values.seal(request, entry, body)) for request, entry, body in kept]
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
            short = engine.lives.short(dep for _, entry, _ in sealed for dep, _ in entry.ids)
            reply = yield from leasing.store(engine, Store(items, extend=short, life=engine.marker_life()), lease)
            accepted = reply is not DOWN
            if accepted:
                engine.lives.prolonged(short)
        elif items:
            reply = yield tier, Store(items)
        else:
            continue
        if reply is not DOWN and items:
            done.append(tier.name)
    for request, entry, _ in sealed:
        admit(engine, request, entry, token, tuple(done), bounded=bounded)
    return accepted
