"""Storing a given value: a new key id first, then the value, so that a loader still running cannot overwrite it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..effects import DOWN, Capture
from ..engine import Engine
from ..entry import Entry
from ..events import InvalidationDelayed, NotStored
from ..markers import dependencies, key_dep, new_id
from ..requests import Request
from .invalidating import Invalidation, forget_locally
from .reading import Ids, peek_many, read_clock
from .storing import admit, store


def set_many(engine: Engine, items: Sequence[tuple[Request, Any]]) -> Generator[Any, Any, bool]:
    """Store given values; return whether the shared tier took them (True where there is none).

    Everything cached before under the same logical keys is invalid from now on, and so is whatever loaders that are
    still running bring home for them.

    Raises:
        CachedValueError: a value is not of the declared type or cannot be serialised; then nothing is stored.
    """
    prepared = [(request, value, request.all_tags(value)) for request, value in items]
    shared = engine.authority is not None
    # Every value is checked before the first one is stored, and is stored as it is now.
    forms = [engine.values.form(request, value, shared=shared) for request, value in items]
    keys = dict.fromkeys(request.logical for request, _, _ in prepared)
    renewed = {key_dep(key): new_id() for key in keys}
    if shared:
        engine.pending.add(renewed.items())
    forget_locally(engine, Invalidation.keys(keys))
    token = engine.history.seq
    ids = (yield from _renew(engine, prepared, renewed)) if shared else None
    kept: list[tuple[Request, Entry, bytes | None]] = []
    for (request, value, tags), form in zip(prepared, forms, strict=True):
        ttl = request.plan.life(value, request.ttl)
        deps = dependencies(request.logical, request.plan.name, tags)
        if ids is not None and any(dep not in ids for dep in deps):
            engine.listeners.emit(NotStored(request.plan.name, request.logical, "held"))
            continue
        pairs = tuple((dep, ids[dep]) for dep in deps) if ids is not None else ()
        entry, body = engine.values.make_entry(
            request, value, ttl=ttl, tags=tags, ids=pairs, shared=ids is not None, form=form
        )  # fmt: skip
        kept.append((request, entry, body))
    if ids is not None:
        return not kept or (yield from store(engine, kept, token))
    for request, entry, _ in kept:
        # The new values may be served here; whatever the shared tiers hold is read around until the new ids are there.
        admit(engine, request, entry, token, ())
    return not shared


def _renew(
    engine: Engine, prepared: Sequence[tuple[Request, Any, tuple[str, ...]]], renewed: dict[str, bytes]
) -> Generator[Any, Any, Ids | None]:
    """Give the keys their new ids and read those of the other dependencies; None when the authority cannot be asked.

    What is held has no id: a writer is about to change it, so the value may be out of date before it is stored.
    The payloads follow only when it has answered: sent together with their ids, they could arrive long after they were
    given up, and bring back a value that has been invalidated since.
    """
    if engine.link is not None:
        # What is set is served from process memory, perhaps long before anything else is read from the server.
        engine.link.ensure()
    yield from read_clock(engine)
    deps = {dep for r, _, tags in prepared for dep in dependencies(r.logical, r.plan.name, tags)}
    others = sorted(deps - renewed.keys())
    engine.sending(renewed.values())
    generation = engine.generation
    reply = yield engine.authority, Capture([*others, *renewed], engine.marker_life(), list(renewed.items()))
    if reply is DOWN or not engine.pending.delivered(renewed.items(), generation=generation):
        engine.listeners.emit(InvalidationDelayed(tuple(renewed)))
        return None
    ids = {dep: marker_id for dep, marker_id in zip((*others, *renewed), reply, strict=True) if marker_id is not None}
    engine.lives.prolonged(ids)
    # A key that somebody else has renewed in between keeps the id drawn here, which matches no longer.
    return ids | {dep: marker_id for dep, marker_id in renewed.items() if dep in ids}


def touch(engine: Engine, requests: Sequence[Request], ttl: float) -> Generator[Any, Any, list[bool]]:
    """Give cached values a new ttl, counted from now; return for each whether there was one.

    Zero stores nothing: ending a value's life is an invalidation.
    """
    token = engine.history.seq
    entries = yield from peek_many(engine, requests)
    kept: list[tuple[Request, Entry, bytes | None]] = []
    for request, entry in zip(requests, entries, strict=True):
        if entry is None or ttl == 0:
            continue
        value = engine.hand_out(entry, request.plan)
        shared = bool(entry.ids) and engine.authority is not None
        renewed, body = engine.values.make_entry(request, value, ttl=ttl, tags=entry.tags, ids=entry.ids, shared=shared)
        renewed.created = entry.created
        if engine.authority is not None:
            # Nobody was asked whether the value is still valid, so the staleness bound goes on counting.
            vouched_until = entry.deadline if not entry.epoch else engine.horizon.valid_until
            renewed.deadline = min(renewed.deadline, entry.deadline, vouched_until)
        if shared:
            kept.append((request, renewed, body))
        else:
            admit(engine, request, renewed, token, (), bounded=True)
    if kept:
        yield from store(engine, kept, token, bounded=True)
    return [entry is not None for entry in entries]
