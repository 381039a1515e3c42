"""Storing a given value: a new key id and the value in one step, so that a loader still running cannot overwrite it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..effects import DOWN, Capture
from ..engine import Engine
from ..entry import Entry
from ..events import InvalidationDelayed
from ..markers import dependencies, key_dep, new_id
from ..requests import Request
from .invalidating import Invalidation, forget_locally
from .loading import _admit, store
from .reading import Ids, peek_many, read_clock


def set_many(engine: Engine, items: Sequence[tuple[Request, Any]]) -> Generator[Any, Any, bool]:
    """Store given values; return whether the shared tier took them (True where there is none).

    Everything cached before under the same logical keys is invalid from now on, and so is whatever loaders that are
    still running bring home for them.

    Raises:
        CachedValueError: a value is not of the declared type or cannot be serialised; then nothing is stored.
    """
    prepared = [(request, value, request.all_tags(value)) for request, value in items]
    shared = engine.authority is not None
    for request, value, tags in prepared:
        # Every value is checked before the first one is stored.
        engine.make_entry(request, value, ttl=1.0, tags=tags, ids=(), shared=shared)
    renewed = {key_dep(request.logical): new_id() for request, _, _ in prepared}
    if shared:
        engine.pending.add(renewed.items())
    forget_locally(engine, Invalidation.keys(dict.fromkeys(request.logical for request, _, _ in prepared)))
    token = engine.history.seq
    ids: Ids | None = None
    if shared:
        yield from read_clock(engine)
        deps = {dep for r, _, tags in prepared for dep in dependencies(r.logical, r.plan.name, tags)}
        others = sorted(deps - renewed.keys())
        reply = yield engine.authority, Capture(others, engine.marker_life())
        if reply is not DOWN:
            ids = dict(zip(others, reply, strict=True)) | renewed
    kept: list[tuple[Request, Entry, bytes | None]] = []
    for request, value, tags in prepared:
        ttl = request.plan.life(value, request.ttl)
        deps_of = dependencies(request.logical, request.plan.name, tags)
        pairs = tuple((dep, ids[dep]) for dep in deps_of) if ids is not None else ()
        entry, body = engine.make_entry(request, value, ttl=ttl, tags=tags, ids=pairs, shared=ids is not None)
        kept.append((request, entry, body))
    if ids is not None and (yield from store(engine, kept, token, list(renewed.items()))):
        engine.pending.delivered(renewed.items())
        return True
    if shared:
        # The new values may be served here, within the bound; whatever the shared tiers hold is read around until the
        # new key ids have arrived there.
        for _, entry, _ in kept:
            entry.ids = ()
        engine.listeners.emit(InvalidationDelayed(tuple(renewed)))
    if ids is None:
        for request, entry, _ in kept:
            _admit(engine, request, entry, token, ())
    return not shared


def touch(engine: Engine, requests: Sequence[Request], ttl: float) -> Generator[Any, Any, list[bool]]:
    """Give cached values a new ttl, counted from now; return for each whether there was one."""
    token = engine.history.seq
    entries = yield from peek_many(engine, requests)
    kept: list[tuple[Request, Entry, bytes | None]] = []
    for request, entry in zip(requests, entries, strict=True):
        if entry is None:
            continue
        value = engine.hand_out(entry, request.plan)
        shared = bool(entry.ids) and engine.authority is not None
        renewed, body = engine.make_entry(request, value, ttl=ttl, tags=entry.tags, ids=entry.ids, shared=shared)
        renewed.created = entry.created
        if engine.authority is not None:
            # Nobody was asked whether the value is still valid, so the staleness bound goes on counting.
            renewed.deadline = min(renewed.deadline, entry.deadline)
        if shared:
            kept.append((request, renewed, body))
        else:
            _admit(engine, request, renewed, token, (), bounded=True)
    if kept:
        yield from store(engine, kept, token, bounded=True)
    return [entry is not None for entry in entries]
