"""The shortest way to a value that the authority keeps and this process need not ask about: one key, one trip.

Theory. Under the link, an id that was read is as good as an entry in process memory: either is given up when its
dependency is signalled, and both when the link is lost. So a payload whose ids are all known here needs nobody's word
but its own. What is known can only say yes: where a payload has another id, or one that is not known, or where there is
none, the call goes the long way and asks for the present ones, for what is remembered here may have been lost there.

`reading` does the same for several keys, and everything else.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..codecs import IDS_BEFORE, TEXT_AT, read_ids, read_tags, read_times
from ..effects import DOWN, Fetch
from ..engine import Engine
from ..entry import Entry
from ..errors import DecodeError
from ..events import Hit
from ..markers import ID_BYTES, tag_dep
from ..requests import Request
from ..tiers import Tier

Near = Generator[Any, Any, dict[str, Entry] | None]


def is_near(engine: Engine, request: Request) -> bool:
    """Return whether it is worth asking for a payload alone: this process has met the key, and the link is up."""
    tier = engine.authority
    return (
        tier is not None
        and all(map(engine.known.__contains__, request.deps))
        and not request.strong
        and tier.name in request.plan.tiers
        and engine.old(request.key) is None
        and engine.knows()
    )


def nearby(engine: Engine, requests: Sequence[Request], token: int) -> Near:
    """Return the entries, by stored key, of those requests whose payloads are there and known to be valid.

    Args:
        engine: the cache's state.
        requests: what `is_near` is true of, distinct keys.
        token: the history number at which the call began.

    Returns:
        The entries, already in process memory and counted as hits; None where the authority does not answer.
    """
    tier = engine.authority
    if tier is None:
        raise AssertionError("nothing is near without an authority")
    encounters = engine.encounters()
    started = engine.clock.monotonic()
    reply = yield tier, Fetch([request.key for request in requests])
    if reply is DOWN:
        return None
    entries: dict[str, Entry] = {}
    until = engine.horizon.valid_until
    if not engine.knows() or engine.encounters() != encounters:
        return entries
    seconds = engine.clock.monotonic() - started
    # What was known was true when the link last had word of it; who the master is, when that was last confirmed.
    asked = min(started, tier.confirmed_at(), until - engine.bound)
    for request, payload in zip(requests, reply.payloads, strict=True):
        if payload is not None and (entry := _accept(engine, tier, request, payload, token, asked)) is not None:
            entries[request.key] = entry
            if request.plan.shadow is None:
                engine.responded(tier.name, seconds, 1)
                if engine.listeners.heard(Hit):
                    engine.listeners.emit(Hit(request.plan.name, request.logical, tier.name, seconds))
    return entries


def _accept(engine: Engine, tier: Tier, request: Request, payload: bytes, token: int, asked: float) -> Entry | None:
    entry = _recognised(engine, request, payload, asked)
    if entry is None or engine.clock.monotonic() >= entry.expires:
        return None
    deps = [dep for dep, _ in entry.ids]
    if not engine.admit(entry, request.plan, token, deps) and engine.history.hits(
        token, deps, entry.logical, entry.tags
    ):
        return None
    engine.count_hit(request, tier.name)
    return entry


def _recognised(engine: Engine, request: Request, payload: bytes, asked: float) -> Entry | None:
    """Return the entry of a payload whose ids are all known to be the current ones."""
    schema = request.plan.schema
    skimmed = engine.pipeline.skim(schema.fingerprint)(request.key, payload)
    if skimmed is None:
        return None  # asked for once more on the long way, and reported there
    _, at, end, body = skimmed
    first = at - IDS_BEFORE * ID_BYTES
    tags, deps = request.tags, request.deps
    if first != TEXT_AT or tags:
        found = read_tags(payload[TEXT_AT:first])
        if found is None or not set(tags).issubset(found):
            return None
        if found != tags:
            tags, deps = found, (*deps[: IDS_BEFORE + 1], *map(tag_dep, found))
    ids = tuple(zip(deps, read_ids(payload, first, end), strict=True))
    # Looked up now: what has been signalled since the call began is not known any more.
    if not engine.watched(ids):
        return None
    try:
        value = None if body is None else schema.decode(body)
    except DecodeError:
        return None
    times = read_times(payload)
    return engine.values.revived(request.plan, request.key, request.logical, value, body, times, tags, ids, asked)
