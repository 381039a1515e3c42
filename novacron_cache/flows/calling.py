"""Where a call turns before it asks the tiers: most go on to them, some past them, some only try them.

Which way is decided when the flow is made, in the context of the call; a call that goes on pays for a look at three
attributes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..engine import Engine
from ..entry import MISSING, Entry
from ..events import Miss
from ..requests import Request
from . import loading, reading, together
from .loading import BatchLoad
from .unserved import around, shadow


def way(engine: Engine, request: Request) -> str | None:
    """Return why the cache does not answer a call; None where it does.

    It is `bypassed`, `refresh` (the same, and the value is stored), `condition` or `shadow`.
    """
    if engine.bypass.active and (found := engine.bypass.way()) is not None:
        return found
    if request.excluded:
        return "condition"
    return None if request.plan.shadow is None else "shadow"


def _go_on(engine: Engine, requests: Sequence[Request]) -> bool:
    """Return whether the cache answers all of these calls."""
    if engine.bypass.active and engine.bypass.way() is not None:
        return False
    return not any(request.excluded or request.plan.shadow is not None for request in requests)


def get_or_load(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    """Return the entry of one key, from the nearest tier that may serve it, else from its loader."""
    if request.excluded or request.plan.shadow is not None or engine.bypass.active:
        return loading.get_or_load(engine, request) if _go_on(engine, (request,)) else _get_past(engine, request)
    return loading.get_or_load(engine, request)


def _get_past(engine: Engine, request: Request) -> Generator[Any, Any, Entry]:
    (entry,) = yield from _get_each(engine, [request], None)
    if entry is None:
        raise AssertionError("a single load always gives an entry")
    return entry


def get_many(
    engine: Engine, requests: Sequence[Request], batch: BatchLoad | None = None
) -> Generator[Any, Any, list[Entry | None]]:
    """Do what `loading.get_many` does, for those requests that the cache may answer; load the others."""
    past = not _go_on(engine, requests)
    return _get_each(engine, requests, batch) if past else loading.get_many(engine, requests, batch)


def _get_each(
    engine: Engine, requests: Sequence[Request], batch: BatchLoad | None
) -> Generator[Any, Any, list[Entry | None]]:
    ways: dict[str | None, list[int]] = {}
    for place, request in enumerate(requests):
        ways.setdefault(way(engine, request), []).append(place)
    results: list[Entry | None] = [None] * len(requests)
    for why, places in ways.items():
        some = [requests[place] for place in places]
        if why is None:
            entries = yield from loading.get_many(engine, some, batch)
        elif why == "shadow":
            entries = yield from shadow(engine, some, batch)
        elif why == "refresh":
            entries = yield from around(engine, some, batch, "bypassed", refresh=True)
        else:
            entries = yield from around(engine, some, batch, why)
        for place, entry in zip(places, entries, strict=True):
            results[place] = entry
    return results


def peek_many(
    engine: Engine, requests: Sequence[Request], *, counted: bool = False
) -> Generator[Any, Any, list[Entry | None]]:
    """Do what `reading.peek_many` does; what the cache does not answer is not there."""
    past = not _go_on(engine, requests)
    return _peek_each(engine, requests, counted) if past else reading.peek_many(engine, requests, counted=counted)


def _peek_each(engine: Engine, requests: Sequence[Request], counted: bool) -> Generator[Any, Any, list[Entry | None]]:
    ways = [way(engine, request) for request in requests]
    asked = [request for request, why in zip(requests, ways, strict=True) if why is None]
    entries = iter((yield from reading.peek_many(engine, asked, counted=counted)))
    results: list[Entry | None] = []
    for request, why in zip(requests, ways, strict=True):
        if why is not None and counted:
            reason = "bypassed" if why == "refresh" else why
            engine.counters(request.plan.name).misses[reason] += 1
            engine.listeners.emit(Miss(request.plan.name, request.logical, reason))
        results.append(next(entries) if why is None else None)
    return results


def look(engine: Engine, requests: Sequence[Request]) -> Generator[Any, Any, list[Any]]:
    """Do what `together.look` does; what the cache does not answer is not there."""
    return together.look(engine, requests) if _go_on(engine, requests) else _look_each(engine, requests)


def _look_each(engine: Engine, requests: Sequence[Request]) -> Generator[Any, Any, list[Any]]:
    entries = yield from _peek_each(engine, requests, counted=True)
    return [
        MISSING if entry is None else engine.hand_out(entry, request.plan)
        for request, entry in zip(requests, entries, strict=True)
    ]
