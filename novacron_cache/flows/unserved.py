"""Calls that the cache does not answer: those that go past it, and those that only try it.

A call goes past the cache inside `bypassed()`, and where its function's `condition` says so: its loader runs, within
the function's limits, and nothing is read or stored. The value is checked and handed out as one that was stored.

In shadow mode the cache is used as always but for one thing: the caller gets what the loader gave. What the cache has
is compared with that. Values that differ say how well the cache would have done, so nothing repairs them: one that is
out of date stays until its invalidation or the end of its ttl, as it would have.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from typing import Any

from ..chance import chance
from ..codecs.sameness import difference
from ..engine import Engine
from ..entry import Entry
from ..events import Miss, ShadowMismatch
from ..requests import Request
from .loading import BatchLoad, load
from .reading import Found, consult

MAX_DIFFERING = 1024
"""How many values that differ are remembered, to say for how long they have."""


def around(
    engine: Engine, requests: Sequence[Request], batch: BatchLoad | None, reason: str, *, refresh: bool = False
) -> Generator[Any, Any, list[Entry | None]]:
    """Load keys without asking any tier.

    Args:
        engine: the cache's state.
        requests: distinct keys.
        batch: as for `get_many`.
        reason: why, as a miss's reason.
        refresh: whether the values are stored.
    """
    token = engine.history.seq
    misses = [(request, _unasked(engine, request, refresh=refresh)) for request in requests]
    for request in requests:
        _missed(engine, request, reason)
    loaded = yield from load(engine, misses, token, [], batch, keep=None if refresh else frozenset[str]())
    return _good(loaded)


def _unasked(engine: Engine, request: Request, *, refresh: bool) -> Found:
    found = Found()
    if refresh and (old := engine.old(request.key)) is not None:
        found.expected = old.tags
    if refresh and engine.authority is not None:
        found.shared = not engine.pending.blocks(request.deps, request.logical, request.tags)
    return found


def shadow(
    engine: Engine, requests: Sequence[Request], batch: BatchLoad | None
) -> Generator[Any, Any, list[Entry | None]]:
    """Load keys, and compare what the tiers have with what the loader gives; what they lack is stored."""
    share = requests[0].plan.shadow or 0.0
    if share < 1.0 and chance.random() >= share:
        return (yield from around(engine, requests, batch, "shadow"))
    token = engine.history.seq
    served, misses = yield from _tried(engine, requests, token)
    for request in requests:
        _missed(engine, request, "shadow")
    loaded = yield from load(engine, misses, token, [], batch, keep=_absent(requests, served))
    for request, result in zip(requests, loaded, strict=True):
        if request.key in served and isinstance(result, Entry):
            yield from _compare(engine, request, *served[request.key], result)
    return _good(loaded)


def _tried(
    engine: Engine, requests: Sequence[Request], token: int
) -> Generator[Any, Any, tuple[dict[str, tuple[Entry, str]], list[tuple[Request, Found]]]]:
    """Return what would be served, with the tier it is in, and what is known about the others."""
    served: dict[str, tuple[Entry, str]] = {}
    rest = []
    for request in requests:
        entry = None if request.strong else engine.fresh(request.key)
        if entry is None:
            rest.append(request)
        else:
            served[request.key] = entry, "memory"
    found: dict[str, Found] = {}
    if rest:
        found = {r.key: one for r, one in zip(rest, (yield from consult(engine, rest, token)), strict=True)}
    for request in rest:
        one = found[request.key]
        if one.entry is not None and request.plan.suits(one.entry):
            served[request.key] = one.entry, one.tier
        else:
            engine.counters(request.plan.name).shadow_misses += 1
            one.stale = None  # not even in the place of an error
    for request in requests:
        if request.key in served:
            engine.counters(request.plan.name).shadow_hits[served[request.key][1]] += 1
    misses = [(r, Found() if r.key in served else found[r.key]) for r in requests]
    return served, misses


def _absent(requests: Sequence[Request], served: Collection[str]) -> frozenset[str]:
    return frozenset(request.key for request in requests if request.key not in served)


def _compare(engine: Engine, request: Request, entry: Entry, tier: str, fresh: Entry) -> Generator[Any, Any, None]:
    """Hold what would have been served against what was loaded, and say so when they differ."""
    if _same(engine.hand_out(entry, request.plan), engine.hand_out(fresh, request.plan)):
        engine.differing.pop(request.key, None)
        return
    (again,) = yield from consult(engine, [request], engine.history.seq)
    still = again.entry is not None and again.entry.created == entry.created
    now = engine.clock.monotonic()
    created, since = engine.differing.get(request.key, (0.0, now))
    since = since if created == entry.created else now
    if still:
        engine.differing[request.key] = entry.created, since
        while len(engine.differing) > MAX_DIFFERING:
            engine.differing.popitem(last=False)
    else:
        engine.differing.pop(request.key, None)
    verdict = "stale" if still else "in_flight"
    engine.counters(request.plan.name).shadow_mismatches[verdict] += 1
    age = max(0.0, engine.wall() - entry.created)
    engine.listeners.emit(ShadowMismatch(request.plan.name, request.logical, tier, verdict, age, max(0.0, now - since)))


def _same(one: Any, two: Any) -> bool:
    try:
        return difference(one, two) is None or bool(one == two)
    except Exception:  # an equality of the user's own may raise anything
        return False


def _missed(engine: Engine, request: Request, reason: str) -> None:
    engine.counters(request.plan.name).misses[reason] += 1
    engine.listeners.emit(Miss(request.plan.name, request.logical, reason))


def _good(loaded: Sequence[Entry | BaseException | None]) -> list[Entry | None]:
    """Return the entries, or raise the first error."""
    for result in loaded:
        if isinstance(result, BaseException):
            raise result
    return [result for result in loaded if not isinstance(result, BaseException)]
